//! The rules that were known last, kept for the proxy that is started next: should the API server be away then, services go on (fail static).
//!
//! They are kept in memory: a machine that starts anew has no pods that could ask, before the API server says which.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::kubernetes::client::{Object, ObjectMap};
use crate::model::json;
use crate::orchestrator::private_file::write_private;

/// Rules are written this long after they changed: in an update they change many times a second.
const WRITTEN_AFTER: Duration = Duration::from_secs(1);

/// What the rules are made of.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Kept {
    pub(super) services: Vec<Arc<Service>>,
    pub(super) endpoints: Vec<Arc<Endpoints>>,
}

impl Kept {
    pub(super) fn new(services: &ObjectMap<Service>, endpoints: &ObjectMap<Endpoints>) -> Self {
        Self {
            services: services.values().cloned().collect(),
            endpoints: endpoints.values().cloned().collect(),
        }
    }
}

/// Writes them behind, and reads them back.
pub(super) struct Keeper {
    path: PathBuf,
    /// What is to be written, and when.
    waiting: Option<(Instant, Kept)>,
}

impl Keeper {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            waiting: None,
        }
    }

    /// These are the rules now.
    pub(super) fn changed(&mut self, kept: Kept) {
        let due = self
            .waiting
            .as_ref()
            .map_or_else(|| Instant::now() + WRITTEN_AFTER, |(due, _)| *due);
        self.waiting = Some((due, kept));
    }

    /// Waits until something is to be written; for ever, if nothing is. Cancel-safe.
    pub(super) async fn due(&self) {
        match &self.waiting {
            Some((due, _)) => tokio::time::sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }

    /// Writes what waits.
    pub(super) fn write(&mut self) {
        let Some((_, kept)) = self.waiting.take() else {
            return;
        };
        let written = encode(&kept)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_private(&self.path, &bytes));
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "the rules cannot be kept for a start without API server");
        }
    }

    /// What the proxy before this one kept, if there is anything.
    pub(super) fn read(&self) -> Option<Kept> {
        decode(&std::fs::read(&self.path).ok()?)
    }
}

fn encode(kept: &Kept) -> serde_json::Result<Vec<u8>> {
    fn all<K: Object>(objects: &[Arc<K>]) -> serde_json::Result<Vec<Value>> {
        objects
            .iter()
            .map(|object| json::to_value(&**object))
            .collect()
    }
    json::to_vec(&json!({"services": all(&kept.services)?, "endpoints": all(&kept.endpoints)?}))
}

fn decode(text: &[u8]) -> Option<Kept> {
    fn all<K: Object>(objects: &Value) -> Option<Vec<Arc<K>>> {
        objects
            .as_array()?
            .iter()
            .map(|object| json::from_value(object).ok().map(Arc::new))
            .collect()
    }
    let value: Value = json::from_slice(text).ok()?;
    Some(Kept {
        services: all(&value["services"])?,
        endpoints: all(&value["endpoints"])?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn kept(address: &str) -> Kept {
        let service = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": {"clusterIP": "10.79.0.20"}});
        let subset = json!({"addresses": [{"ip": address}], "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]});
        let endpoints =
            json!({"metadata": {"namespace": "default", "name": "web"}, "subsets": [subset]});
        let read = "these are objects";
        Kept {
            services: vec![Arc::new(json::from_value(&service).expect(read))],
            endpoints: vec![Arc::new(json::from_value(&endpoints).expect(read))],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_rules_are_written_behind_and_read_back() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut keeper = Keeper::new(directory.path().join("proxy/rules.json"));
        assert_eq!(keeper.read(), None);
        let begun = Instant::now();
        for last in 1..10 {
            keeper.changed(kept(&format!("10.78.1.{last}")));
            tokio::time::advance(Duration::from_millis(50)).await;
        }
        keeper.due().await;
        assert_eq!(
            begun.elapsed(),
            WRITTEN_AFTER,
            "a change does not put off the writing of the one before"
        );
        keeper.write();
        let next = Keeper::new(keeper.path.clone());
        assert_eq!(next.read(), Some(kept("10.78.1.9")));
        let mode = std::fs::metadata(&keeper.path)
            .expect("it was written")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&keeper.path, b"{\"services\": [").expect("it is ours");
        assert_eq!(next.read(), None, "what is no rule is none");
    }
}

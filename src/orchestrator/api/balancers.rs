//! The balancers' streams: reports come in, orders go out; and the task that tells the [`Barrier`] what the store says.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::barrier::Barrier;
use super::kinds;
use super::registry::Registry;
use crate::balancer::report::{Orders, Report};
use crate::orchestrator::store::Revision;
use tokio::time::Instant;

/// A stream that has been silent for so long is closed; the balancer dials again.
const SILENCE: Duration = Duration::from_secs(10);
/// Orders that cannot be written for so long: the stream is stuck.
const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// Changes taken from the store at once.
const EVENTS_AT_ONCE: usize = 256;

/// Serves a balancer's stream until it closes or falls silent. `name` is the user of its certificate.
pub(super) async fn serve(
    barrier: &Barrier,
    name: &str,
    mut socket: WebSocket,
    cancel: CancellationToken,
) {
    tracing::info!(name, "a balancer reports");
    let mut changes = barrier.subscribe();
    let mut said: Option<Orders> = None;
    loop {
        changes.borrow_and_update();
        let orders = barrier.look(super::barrier::State::orders);
        if said.as_ref() != Some(&orders) {
            let text =
                serde_json::to_string(&orders).expect("orders of names and addresses are JSON");
            let sent =
                tokio::time::timeout(WRITE_LIMIT, socket.send(Message::Text(text.into()))).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
            said = Some(orders);
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            message = tokio::time::timeout(SILENCE, socket.recv()) => match message {
                Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str::<Report>(&text) {
                    Ok(report) => barrier.heard(name, report, Instant::now()),
                    Err(error) => {
                        tracing::warn!(name, %error, "a balancer's report cannot be read");
                        break;
                    }
                },
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => break,
                Ok(Some(Ok(_))) => {}
            },
        }
    }
    tracing::info!(name, "a balancer's stream closed");
}

/// Tells the barrier which nodes there are, and when a draining pod has left all Endpoints. Never returns.
pub(super) async fn follow(registry: Arc<Registry>, barrier: Arc<Barrier>) {
    let mut revisions = registry.subscribe();
    let mut drains = barrier.subscribe();
    let mut newest = NewestEndpoints {
        position: registry.revision(),
        revision: registry.revision().0,
    };
    loop {
        revisions.borrow_and_update();
        drains.borrow_and_update();
        let (nodes, _) = registry.list(&kinds::NODE, None);
        let nodes: BTreeSet<String> = nodes
            .iter()
            .filter_map(|node| node.pointer("/metadata/name")?.as_str())
            .map(str::to_owned)
            .collect();
        if barrier.look(|state| state.nodes() != &nodes) {
            barrier.change(|state| state.set_nodes(nodes));
        }
        let unsettled = barrier.look(super::barrier::State::unsettled);
        let settled = barrier.look(super::barrier::State::settled);
        if !unsettled.is_empty() || !settled.is_empty() {
            // The objects first: the newest revision is then at least theirs.
            let (endpoints, _) = registry.list(&kinds::ENDPOINTS, None);
            let revision = newest.read(&registry);
            for (uid, address) in unsettled {
                if !endpoints.iter().any(|object| lists(object, &uid, address)) {
                    barrier.change(|state| state.left(&uid, revision));
                }
            }
            for (uid, address) in settled {
                if endpoints
                    .iter()
                    .any(|object| lists(object, &uid, Some(address)))
                {
                    barrier.change(|state| state.returned(&uid));
                }
            }
        }
        tokio::select! {
            changed = revisions.changed() => if changed.is_err() { return },
            changed = drains.changed() => if changed.is_err() { return },
        }
    }
}

/// The revision of the last change of any Endpoints object, deletions included: the last that their watchers see.
struct NewestEndpoints {
    position: Revision,
    revision: u64,
}

impl NewestEndpoints {
    fn read(&mut self, registry: &Registry) -> u64 {
        loop {
            match registry.events(&kinds::ENDPOINTS, None, self.position, EVENTS_AT_ONCE) {
                Ok((events, upto)) => {
                    if let Some(last) = events.last() {
                        self.revision = last.revision.0;
                    }
                    self.position = upto;
                    if events.len() < EVENTS_AT_ONCE {
                        return self.revision;
                    }
                }
                Err(_) => {
                    // Not looked at for longer than the ring reaches back: what is there now is the newest, unless it was a deletion.
                    // Then watchers were cut off too, and list again at a later revision.
                    let (objects, position) = registry.list(&kinds::ENDPOINTS, None);
                    let revision = |object: &Arc<Value>| {
                        object
                            .pointer("/metadata/resourceVersion")?
                            .as_str()?
                            .parse()
                            .ok()
                    };
                    self.revision = objects
                        .iter()
                        .filter_map(revision)
                        .max()
                        .unwrap_or(0)
                        .max(self.revision);
                    self.position = position;
                }
            }
        }
    }
}

/// Whether an Endpoints object sends connections to the pod, or to its address.
pub(in crate::orchestrator) fn lists(
    endpoints: &Value,
    pod_uid: &str,
    address: Option<Ipv4Addr>,
) -> bool {
    let address = address.map(|address| address.to_string());
    let subsets = endpoints
        .pointer("/subsets")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    subsets
        .filter_map(|subset| subset.get("addresses")?.as_array())
        .flatten()
        .any(|entry| {
            let uid = entry.pointer("/targetRef/uid").and_then(Value::as_str);
            uid == Some(pod_uid)
                || (address.is_some() && entry["ip"].as_str() == address.as_deref())
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::barrier::{LOAD_BALANCER, Standing};
    use crate::orchestrator::api::patch::Patch;
    use crate::orchestrator::api::registry::DeleteOptions;
    use crate::orchestrator::api::registry::tests::registry;

    fn endpoints(name: &str, uids: &[&str]) -> Value {
        let addresses: Vec<_> =
            uids.iter().map(|uid| json!({"ip": if *uid == "p" { "10.78.1.2" } else { "10.78.1.3" }, "targetRef": {"kind": "Pod", "uid": uid}})).collect();
        json!({"metadata": {"name": name}, "subsets": [{"addresses": addresses, "ports": [{"port": 80}]}]})
    }

    async fn standing(barrier: &Barrier, settled: bool) -> Standing {
        let mut changes = barrier.subscribe();
        while settled && !barrier.look(|state| state.unsettled().is_empty()) {
            changes.changed().await.expect("the barrier is there");
        }
        barrier.look(|state| state.standing("p", Instant::now()))
    }

    #[tokio::test]
    async fn what_is_required_is_the_change_by_which_the_pod_left() {
        let registry = registry().await;
        let barrier = Arc::new(Barrier::default());
        let following = tokio::spawn(follow(registry.clone(), barrier.clone()));
        // It has begun: what is required of balancers counts from its own start at least.
        tokio::task::yield_now().await;
        registry
            .create(
                &kinds::ENDPOINTS,
                Some("default"),
                endpoints("web", &["p", "q"]),
            )
            .await
            .expect("created");
        registry
            .create(
                &kinds::ENDPOINTS,
                Some("default"),
                endpoints("other", &["p"]),
            )
            .await
            .expect("created");
        barrier.change(|state| {
            state.heard(
                LOAD_BALANCER,
                Report {
                    applied: registry.revision().0,
                    ..Report::default()
                },
                Instant::now(),
            );
            state.begin("p", Some(Ipv4Addr::new(10, 78, 1, 2)), 1);
        });
        assert!(matches!(
            standing(&barrier, false).await,
            Standing::Waiting { .. }
        ));
        let gone = Patch::Merge(json!({"subsets": endpoints("web", &["q"])["subsets"]}));
        registry
            .patch(&kinds::ENDPOINTS, Some("default"), "web", None, gone)
            .await
            .expect("patched");
        registry
            .delete(
                &kinds::ENDPOINTS,
                Some("default"),
                "other",
                DeleteOptions::now(),
            )
            .await
            .expect("deleted");
        let required = registry.revision().0;
        // Later changes of other kinds are none of a balancer's business.
        registry
            .create(
                &kinds::CONFIG_MAP,
                Some("default"),
                json!({"metadata": {"name": "m"}}),
            )
            .await
            .expect("created");
        assert!(
            matches!(standing(&barrier, true).await, Standing::Waiting { .. }),
            "the host has not seen it"
        );
        let report = Report {
            applied: required,
            ..Report::default()
        };
        barrier.heard(LOAD_BALANCER, report, Instant::now());
        assert_eq!(
            standing(&barrier, true).await,
            Standing::Drained { excluded: vec![] }
        );
        // Another pod has the address now.
        let mut changes = barrier.subscribe();
        registry
            .create(
                &kinds::ENDPOINTS,
                Some("default"),
                endpoints("third", &["p"]),
            )
            .await
            .expect("created");
        while !barrier.look(|state| state.orders().draining.is_empty()) {
            changes.changed().await.expect("the barrier is there");
        }
        following.abort();
    }
}

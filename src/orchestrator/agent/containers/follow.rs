//! Sends a container's log to whoever asks, and goes on while it grows.

use std::time::Duration;

use tokio::sync::mpsc;

use super::super::runtime::{LogQuery, RuntimeError};
use super::records::{self, StateRecord};
use super::{RealRuntime, doing, failed, log};

/// How often a followed log is looked at.
const FOLLOW_PERIOD: Duration = Duration::from_millis(200);

impl RealRuntime {
    pub(super) fn read_log(
        &self,
        pod_uid: &str,
        container: &str,
        query: &LogQuery,
    ) -> Result<mpsc::Receiver<Vec<u8>>, RuntimeError> {
        let mut instances = self.instances(pod_uid);
        instances.retain(|instance| instance.run.name == container);
        let wanted = if query.previous {
            instances.len().checked_sub(2)
        } else {
            instances.len().checked_sub(1)
        };
        let Some(instance) = wanted.map(|at| instances.swap_remove(at)) else {
            let which = if query.previous {
                "previous instance of container"
            } else {
                "container"
            };
            return Err(failed(format!(
                "{which} `{container}` of pod {pod_uid} was not found"
            )));
        };
        let path = instance.run.log.clone();
        let mut reader = log::Reader::open(&path, query)
            .map_err(doing(format!("read log `{}`", path.display())))?;
        let state_file = instance.directory.join("state.json");
        let (sender, receiver) = mpsc::channel(4);
        let follow = query.follow;
        let mut bytes_left = query.limit_bytes;
        tokio::spawn(async move {
            loop {
                // Looked at before reading: what is written before the end is read after it.
                let runs =
                    records::read(&state_file).is_some_and(|state: StateRecord| state.is_running());
                while let Ok(Some(mut bytes)) = reader.next() {
                    if let Some(left) = &mut bytes_left {
                        bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                        *left -= bytes.len() as u64;
                    }
                    if sender.send(bytes).await.is_err() {
                        return;
                    }
                    if bytes_left == Some(0) {
                        return;
                    }
                }
                if !follow || !runs {
                    return;
                }
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(FOLLOW_PERIOD) => {}
                }
            }
        });
        Ok(receiver)
    }
}

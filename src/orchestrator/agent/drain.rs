//! The agent's side of the drain barrier: which pods drain, and what the server says of them. The tunnel carries it; when that
//! breaks, every drain is asked for again on the next one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::orchestrator::tunnel::FromNode;

/// How a pod's drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Drained {
    /// No balancer uses the pod any more, except for those that are silent.
    Complete {
        /// The silent ones.
        excluded: Vec<String>,
    },
    /// Its time was over first.
    TimedOut {
        /// What was still waited for.
        waiting: String,
    },
}

#[derive(Debug)]
struct Drain {
    address: Option<Ipv4Addr>,
    state: watch::Sender<(String, Option<Vec<String>>)>,
}

/// The drains of this node. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Drains(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    drains: Mutex<BTreeMap<String, Drain>>,
    changes: watch::Sender<u64>,
}

/// A pod that drains, until this is dropped: from then on nobody waits for its connections.
#[derive(Debug)]
pub(crate) struct Draining {
    drains: Drains,
    pod_uid: String,
    state: watch::Receiver<(String, Option<Vec<String>>)>,
}

impl Drains {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            drains: Mutex::default(),
            changes: watch::Sender::new(0),
        }))
    }

    /// Asks that a pod be drained. `address` is `None` when it is the node's own.
    pub(crate) fn begin(&self, pod_uid: &str, address: Option<Ipv4Addr>) -> Draining {
        let (state, receiver) =
            watch::channel(("the control plane has not been heard of".to_owned(), None));
        self.drains()
            .insert(pod_uid.to_owned(), Drain { address, state });
        self.0.changes.send_modify(|count| *count += 1);
        Draining {
            drains: self.clone(),
            pod_uid: pod_uid.to_owned(),
            state: receiver,
        }
    }

    /// The server says what a drain waits for.
    pub(crate) fn waits(&self, pod_uid: &str, reason: String) {
        if let Some(drain) = self.drains().get(pod_uid) {
            drain.state.send_modify(|(known, _)| *known = reason);
        }
    }

    /// The server says that a pod is drained.
    pub(crate) fn drained(&self, pod_uid: &str, excluded: Vec<String>) {
        if let Some(drain) = self.drains().get(pod_uid) {
            drain.state.send_modify(|(_, done)| *done = Some(excluded));
        }
    }

    /// Tells of every drain that begins or ends.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// What has to be said to a server that was told `said`, which is brought up to date.
    pub(crate) fn news(&self, said: &mut BTreeMap<String, Option<Ipv4Addr>>) -> Vec<FromNode> {
        let now: BTreeMap<_, _> = self
            .drains()
            .iter()
            .map(|(uid, drain)| (uid.clone(), drain.address))
            .collect();
        let over = said
            .keys()
            .filter(|uid| !now.contains_key(*uid))
            .map(|uid| FromNode::DrainOver {
                pod_uid: uid.clone(),
            });
        let begun = now
            .iter()
            .filter(|(uid, address)| said.get(*uid) != Some(*address));
        let begun = begun.map(|(uid, address)| FromNode::Drain {
            pod_uid: uid.clone(),
            address: *address,
        });
        let news = over.chain(begun).collect();
        *said = now;
        news
    }

    fn drains(&self) -> MutexGuard<'_, BTreeMap<String, Drain>> {
        self.0.drains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Draining {
    /// Waits until the pod is drained, but not longer than `limit`.
    pub(crate) async fn wait(&mut self, limit: Duration) -> Drained {
        // The sender is in the map for as long as `self` lives.
        drop(timeout(limit, self.state.wait_for(|(_, done)| done.is_some())).await);
        let (waiting, done) = self.state.borrow().clone();
        match done {
            Some(excluded) => Drained::Complete { excluded },
            None => Drained::TimedOut { waiting },
        }
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.drains.drains().remove(&self.pod_uid);
        self.drains.0.changes.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_tunnel_is_told_what_drains_and_what_does_not_any_more() {
        let drains = Drains::new();
        let address = Some(Ipv4Addr::LOCALHOST);
        let mut first = drains.begin("p", address);
        let mut second = drains.begin("q", None);
        let (mut said, mut later) = (BTreeMap::new(), BTreeMap::new());
        let drain = |uid: &str, address| FromNode::Drain {
            pod_uid: uid.to_owned(),
            address,
        };
        assert_eq!(
            drains.news(&mut said),
            [drain("p", address), drain("q", None)]
        );
        assert!(drains.news(&mut said).is_empty());
        assert_eq!(
            drains.news(&mut later).len(),
            2,
            "another tunnel is told anew"
        );
        drains.drained("p", vec!["w2".to_owned()]);
        drains.drained("unknown", vec![]);
        assert_eq!(
            first.wait(Duration::from_secs(1)).await,
            Drained::Complete {
                excluded: vec!["w2".to_owned()]
            }
        );
        drains.waits("q", "w1 is connected".to_owned());
        assert_eq!(
            second.wait(Duration::ZERO).await,
            Drained::TimedOut {
                waiting: "w1 is connected".to_owned()
            }
        );
        drop(first);
        assert_eq!(
            drains.news(&mut said),
            [FromNode::DrainOver {
                pod_uid: "p".to_owned()
            }]
        );
    }
}

//! Who beats: in memory only, several times a second per node.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

/// What is known of one node's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// When it last beat, or opened its tunnel.
    pub last: Instant,
    /// Whether its tunnel is open.
    pub connected: bool,
}

/// The beats of all nodes since the server started.
#[derive(Debug)]
pub struct Heartbeats {
    beats: Mutex<BTreeMap<String, Beat>>,
    changes: watch::Sender<u64>,
}

impl Default for Heartbeats {
    fn default() -> Self {
        Self { beats: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Heartbeats {
    /// The node lives; its tunnel is open.
    pub fn beat(&self, node: &str) {
        self.set(node, true);
    }

    /// The node's tunnel was closed. The time of the last beat stays.
    pub fn disconnected(&self, node: &str) {
        if let Some(beat) = self.beats.lock().unwrap_or_else(PoisonError::into_inner).get_mut(node) {
            beat.connected = false;
        }
        self.changes.send_modify(|count| *count += 1);
    }

    fn set(&self, node: &str, connected: bool) {
        let beat = Beat { last: Instant::now(), connected };
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), beat);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Every node that ever beat.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, Beat> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of every beat and every closed tunnel; the number only grows.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_tunnel_keeps_the_time_of_the_last_beat() {
        let heartbeats = Heartbeats::default();
        let mut changes = heartbeats.subscribe();
        heartbeats.beat("w1");
        let at = heartbeats.snapshot()["w1"].last;
        heartbeats.disconnected("w1");
        assert_eq!(heartbeats.snapshot()["w1"], Beat { last: at, connected: false });
        assert!(changes.has_changed().expect("open"));
        assert_eq!(*changes.borrow_and_update(), 2);
    }
}

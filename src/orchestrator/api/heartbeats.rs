//! Who beats, and what nodes say of each other: in memory only, several times a second per node.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::orchestrator::tunnel::PeerAnswer;

/// What is known of one node's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// When it last beat, or opened its tunnel.
    pub last: Instant,
    /// By how much that beat was late by the node's own clock.
    pub late: Duration,
    /// How long before that beat the server had answered it, as far as the node knew; [`Duration::MAX`]: never.
    pub contact: Duration,
    /// Whether its tunnel is open.
    pub connected: bool,
}

/// What one node found of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// When it was asked to look.
    pub asked: Instant,
    /// What it found.
    pub answer: PeerAnswer,
}

/// The last statement of every observer, by suspect and observer.
pub type Statements = BTreeMap<String, BTreeMap<String, Statement>>;

/// The beats of all nodes since the server started, and the last statement of each about each.
#[derive(Debug)]
pub struct Heartbeats {
    beats: Mutex<BTreeMap<String, Beat>>,
    statements: Mutex<Statements>,
    changes: watch::Sender<u64>,
}

impl Default for Heartbeats {
    fn default() -> Self {
        Self {
            beats: Mutex::default(),
            statements: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Heartbeats {
    /// The node lives; its tunnel is open. `late` is by how much the beat was late by the node's own clock, `contact` how long before it the
    /// server had answered the node.
    pub fn beat(&self, node: &str, late: Duration, contact: Duration) {
        let beat = Beat {
            last: Instant::now(),
            late,
            contact,
            connected: true,
        };
        self.beats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node.to_owned(), beat);
        self.changes.send_modify(|count| *count += 1);
    }

    /// The node's tunnel was closed. The time of the last beat stays.
    pub fn disconnected(&self, node: &str) {
        if let Some(beat) = self
            .beats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(node)
        {
            beat.connected = false;
        }
        self.changes.send_modify(|count| *count += 1);
    }

    /// `observer` has looked for `suspect`.
    pub fn testify(&self, suspect: &str, observer: &str, statement: Statement) {
        testify(
            &mut self
                .statements
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            suspect,
            observer,
            statement,
        );
    }

    /// Every node that ever beat.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, Beat> {
        self.beats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What nodes last said of each other.
    #[must_use]
    pub fn statements(&self) -> Statements {
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Forgets what was said of nodes that do not exist any more.
    pub fn forget_all_but(&self, known: impl Fn(&str) -> bool) {
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|node, _| known(node));
    }

    /// Tells of every beat and every closed tunnel; the number only grows.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// The newest question counts: silence is answered later than life, so that of an older one may come after it.
pub(crate) fn testify(
    statements: &mut Statements,
    suspect: &str,
    observer: &str,
    statement: Statement,
) {
    let known = statements
        .entry(suspect.to_owned())
        .or_default()
        .entry(observer.to_owned())
        .or_insert(statement);
    if known.asked <= statement.asked {
        *known = statement;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_tunnel_keeps_the_time_of_the_last_beat() {
        let heartbeats = Heartbeats::default();
        let mut changes = heartbeats.subscribe();
        heartbeats.beat("w1", Duration::ZERO, Duration::ZERO);
        let at = heartbeats.snapshot()["w1"].last;
        heartbeats.disconnected("w1");
        assert_eq!(
            heartbeats.snapshot()["w1"],
            Beat {
                last: at,
                late: Duration::ZERO,
                contact: Duration::ZERO,
                connected: false
            }
        );
        assert!(changes.has_changed().expect("open"));
        assert_eq!(*changes.borrow_and_update(), 2);
    }

    #[test]
    fn the_answer_to_the_newest_question_counts() {
        let (mut statements, start) = (Statements::new(), Instant::now());
        for (asked_ms, answer) in [(250, PeerAnswer::Serving), (0, PeerAnswer::Silent)] {
            let asked = start + Duration::from_millis(asked_ms);
            testify(&mut statements, "w1", "w2", Statement { asked, answer });
        }
        assert_eq!(statements["w1"]["w2"].answer, PeerAnswer::Serving);
    }
}

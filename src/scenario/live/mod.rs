//! What a run shows while it goes on.
//!
//! ```text
//! run · steps · view · load ─► LiveSender ─► (bounded, never waits) ─► LiveReceiver ─► LiveRun ─► terminal, live page
//! ```
//! Invariants: whoever looks costs the run nothing: a message that finds the queue full is dropped and counted, and without a
//! looker none is made. What is shown decides nothing: the judge reads `requests.csv.gz` and the report alone.

pub mod cells;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::load::Record;
use super::report::{EventReport, FaultReport, TargetFacts};

pub use state::LiveRun;

/// Messages that may wait for the looker; more are dropped.
const QUEUE: usize = 8192;

/// What happened in a run.
#[derive(Debug, Clone)]
pub enum Seen {
    /// The run begins.
    Begun(Box<Begun>),
    /// A load's counted span begins here, in milliseconds since the start of the run.
    Counted {
        /// The load.
        load: String,
        /// Where.
        from_ms: u64,
    },
    /// A step begins.
    StepBegan {
        /// Its id.
        id: String,
        /// When, in milliseconds since the start of the run.
        at_ms: u64,
    },
    /// A step ended.
    StepEnded {
        /// Its id.
        id: String,
        /// When, in milliseconds since the start of the run.
        at_ms: u64,
        /// Why it failed, if it did.
        failed: Option<String>,
    },
    /// A fault was asked for, acts, or was healed: what is known of it so far, and for how long it is to act.
    Fault(Box<FaultReport>, Duration),
    /// Nodes and workloads as the API shows them now.
    Facts(Box<Facts>),
    /// One more line of the timeline.
    Event(EventReport),
    /// A request is over.
    Request(Arc<str>, Box<Record>),
}

/// What is known of a run before it begins.
#[derive(Debug, Clone)]
pub struct Begun {
    /// Its start: what all times count from.
    pub epoch: Instant,
    /// The scenario's name.
    pub scenario: String,
    /// The cell of its matrix.
    pub cell: Option<String>,
    /// What decides ties.
    pub seed: u64,
    /// What it runs on.
    pub target: TargetFacts,
    /// The scenario as it is run.
    pub text: String,
    /// The streams of the loads, with the load's deadline.
    pub streams: Vec<(String, &'static str, Duration)>,
    /// The steps in their order.
    pub steps: Vec<PlannedStep>,
}

/// A step as it is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// Its id.
    pub id: String,
    /// What it does or waits for.
    pub words: String,
    /// The longest that it may take, if it says so.
    pub within: Option<Duration>,
}

/// Nodes and workloads as the API shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Nodes, and whether each is Ready.
    pub nodes: BTreeMap<String, bool>,
    /// Workloads by name, with ready and wanted pods.
    pub workloads: BTreeMap<String, (u32, u32)>,
}

/// Tells whoever looks. Cloning is cheap; the default tells nobody.
#[derive(Debug, Clone, Default)]
pub struct LiveSender(Option<Arc<Tap>>);

#[derive(Debug)]
struct Tap {
    sender: mpsc::Sender<Seen>,
    dropped: AtomicU64,
}

/// What was told.
#[derive(Debug)]
pub struct LiveReceiver {
    receiver: mpsc::Receiver<Seen>,
    tap: std::sync::Weak<Tap>,
    dropped: u64,
}

/// A run's voice, and the ear of whoever looks.
#[must_use]
pub fn channel() -> (LiveSender, LiveReceiver) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let tap = Arc::new(Tap {
        sender,
        dropped: AtomicU64::new(0),
    });
    let ear = LiveReceiver {
        receiver,
        tap: Arc::downgrade(&tap),
        dropped: 0,
    };
    (LiveSender(Some(tap)), ear)
}

impl LiveSender {
    /// Tells what `make` makes, if somebody looks. Never waits.
    pub fn tell(&self, make: impl FnOnce() -> Seen) {
        let Some(tap) = &self.0 else {
            return;
        };
        match tap.sender.try_reserve() {
            Ok(place) => place.send(make()),
            Err(_) => drop(tap.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

impl LiveReceiver {
    /// The next that was told; none when the run is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Seen> {
        self.receiver.recv().await
    }

    /// How much was dropped so far, since nobody took it in time.
    pub fn dropped(&mut self) -> u64 {
        if let Some(tap) = self.tap.upgrade() {
            self.dropped = tap.dropped.load(Ordering::Relaxed);
        }
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: u64) -> Seen {
        Seen::Event(EventReport {
            at_ms,
            kind: "node.ready".to_owned(),
            object: "w1".to_owned(),
        })
    }

    #[tokio::test]
    async fn a_looker_that_sleeps_costs_messages_and_no_time() {
        let (sender, mut ear) = channel();
        for at_ms in 0..QUEUE as u64 + 5 {
            sender.tell(|| event(at_ms));
        }
        assert_eq!(ear.dropped(), 5);
        assert!(matches!(ear.next().await, Some(Seen::Event(event)) if event.at_ms == 0));
        sender.tell(|| event(9));
        assert_eq!(ear.dropped(), 5, "there is room again");
        drop(sender);
        assert_eq!(ear.dropped(), 5, "the count outlives the run");
        LiveSender::default().tell(|| unreachable!("nobody looks"));
    }
}

//! Whether the machines had the processors that they wanted while a scenario ran.
//!
//! A machine that shares its processor with somebody else's build, or with another machine's boot, answers late, misses its beats and
//! boots slowly, and nothing inside it shows why. The host shows it: how long each machine ran, and how long it waited for its turn.
//!
//! ```text
//! /proc ──► sample ──► decide (pure) ──► spans: which machine, when, by whom
//! ```

mod decide;
pub(super) mod sample;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::report::{HostReport, StarvedBy, StarvedReport, rounded};
pub(super) use decide::{By, Starved};
use decide::{Slice, Spans};
use sample::Sample;

/// The host is looked at so often.
const EVERY: Duration = Duration::from_millis(500);

/// What follows when something failed while a machine had no processor left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SlowHost {
    /// Nothing: the run is INCONCLUSIVE.
    #[default]
    Inconclusive,
    /// It counts as on any other host.
    Fail,
}

/// What was seen of the host.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Seen {
    /// How long it was watched.
    pub(super) watched: Duration,
    /// Who had no processor left, and when, in the order in which it began.
    pub(super) starved: Vec<Starved>,
}

impl Seen {
    /// As the report holds it.
    pub(super) fn report(&self, slow: SlowHost) -> HostReport {
        let starved = self.starved.iter().map(|span| StarvedReport {
            from_ms: rounded(span.from_ms),
            to_ms: rounded(span.to_ms),
            by: match span.by {
                By::Others => StarvedBy::Others,
                By::Cage => StarvedBy::Cage,
            },
            machine: span.machine.clone(),
            share: Some((span.share * 1000.0).round() / 1000.0),
        });
        HostReport {
            watched_ms: u64::try_from(self.watched.as_millis()).unwrap_or(u64::MAX),
            starved: starved.collect(),
            slow_fails: slow == SlowHost::Fail,
        }
    }
}

/// Watches until it is dropped.
pub(super) struct Watch {
    seen: Arc<Mutex<(Duration, Spans)>>,
    task: AbortHandle,
}

impl Watch {
    /// `daemon` is the process whose children the machines are; without one nothing is known, and nothing is said. Times are
    /// relative to `epoch`, the start of the run.
    pub(super) fn start(daemon: Option<u32>, epoch: Instant) -> Self {
        let seen = Arc::default();
        let task = tokio::spawn(watch(
            daemon.and_then(|pid| i32::try_from(pid).ok()),
            epoch,
            Arc::clone(&seen),
        ))
        .abort_handle();
        Self { seen, task }
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut starved = seen.1.0.clone();
        starved.sort_by(|a, b| a.from_ms.total_cmp(&b.from_ms));
        Seen {
            watched: seen.0,
            starved,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(daemon: Option<i32>, epoch: Instant, seen: Arc<Mutex<(Duration, Spans)>>) {
    let Some(daemon) = daemon else { return };
    let mut before: Option<(f64, Sample)> = None;
    let mut rounds = interval(EVERY);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        // Where the daemon is gone there is nothing to be starved.
        let now = Sample::read(daemon)
            .ok()
            .map(|sample| (epoch.elapsed().as_secs_f64() * 1000.0, sample));
        if let (Some((from, old)), Some((to, new))) = (&before, &now)
            && let Some(slice) = Slice::between((*from, old), (*to, new))
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.0 += Duration::from_secs_f64((to - from) / 1000.0);
            seen.1.add(&slice);
        }
        before = now;
    }
}

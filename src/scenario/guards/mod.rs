//! `never` and `always` of `[expect]`: what must hold for objects of the API from the baseline on, at every moment.
//!
//! ```text
//! [expect] ─► read ─► Guard ─┬─► follow (list, watch, resume) ─► track (pure) ─► report.json: violations, gaps
//!                            └─► judge ◄──────────────────────────────────────────────┘
//! ```
//! Invariants: nothing is sampled, every event of the watch is looked at; a watch that had to begin anew leaves a gap, unless the
//! objects themselves show that nothing happened in it; what a gap may have hidden is undecided, never met. Values of Secrets are
//! not told.

mod follow;
mod path;
mod read;
mod report;
mod selector;
#[cfg(test)]
mod tests;
mod track;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::expectations::{Expectation, Judged, Unit};
use super::judge::case::{Case, millis};
use super::judge::watched::Span;
use super::report::State;
use super::spec::Scenario;
use super::steps::Wanted;
use crate::kubernetes::client::{Client, ListParams, ResourceKind};
use follow::Follower;
pub(in crate::scenario) use read::{KEYS, read};
pub use report::{GapReport, GuardReport, ViolationReport};
use track::Tracker;

/// How long the first list may take.
const LISTED_WITHIN: Duration = Duration::from_secs(10);

/// What is said of the objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// None is ever so.
    Never,
    /// Each is so all the time.
    Always,
}

impl Rule {
    /// Its key in `[expect]`.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Always => "always",
        }
    }
}

/// Which objects of a kind are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meant {
    All,
    Name(String),
    Selector(String),
}

/// One entry of `never` or `always`.
#[derive(Debug, Clone, PartialEq)]
pub struct Guard {
    rule: Rule,
    kind: ResourceKind,
    meant: Meant,
    wanted: Wanted,
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.rule.key(), self.place())?;
        match &self.wanted {
            Wanted::Exists(true) => f.write_str(" there"),
            Wanted::Exists(false) => f.write_str(" gone"),
            Wanted::Condition(_) | Wanted::Fields(_) => write!(f, " with {}", self.wanted),
        }
    }
}

impl Guard {
    /// The objects in words.
    fn place(&self) -> String {
        let kind = self.kind.kind;
        match &self.meant {
            Meant::All => format!("any {kind}"),
            Meant::Name(name) => format!("{kind} `{name}`"),
            Meant::Selector(selector) => format!("{kind} of {selector}"),
        }
    }

    fn params(&self) -> ListParams {
        match &self.meant {
            Meant::All => ListParams::all(),
            Meant::Name(name) => ListParams::fields(format!("metadata.name={name}")),
            Meant::Selector(selector) => ListParams::labels(selector),
        }
    }

    /// Whether the object has to be there, or has to be away; `None` if only those that are there count.
    fn presence(&self) -> Option<bool> {
        match (&self.wanted, self.rule, &self.meant) {
            (Wanted::Exists(exists), Rule::Always, _) => Some(*exists),
            (Wanted::Exists(exists), Rule::Never, _) => Some(!exists),
            // One that is not there is not as it should always be.
            (_, Rule::Always, Meant::Name(_)) => Some(true),
            _ => None,
        }
    }

    fn is_about_secrets(&self) -> bool {
        self.kind.kind == "Secret"
    }
}

impl Expectation for Guard {
    fn judge(&self, case: &Case<'_>) -> Judged {
        let words = self.to_string();
        let mut reports = case.evidence.guards.iter();
        let Some(found) = reports.find(|report| report.guard == words) else {
            let why = "it was not watched in this run";
            return Judged::nothing(State::Undecided, why.to_owned());
        };
        let (state, measured, note) = self.found(found);
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 violations")]
        let least = found.violated as f64;
        let most = if found.gaps.is_empty() {
            least
        } else {
            f64::INFINITY
        };
        let violation = found.violations.first();
        Judged {
            measured,
            error: if found.gaps.is_empty() {
                "±0".to_owned()
            } else {
                "more where it was not watched".to_owned()
            },
            interval: Some((least, most)),
            state,
            note,
            decider: None,
            span: violation.map(|first| Span {
                from_ms: millis(first.at_ms),
                to_ms: millis(first.until_ms.unwrap_or(found.to_ms)),
            }),
            unit: Some(Unit::Count),
        }
    }

    fn guard(&self) -> Option<&Guard> {
        Some(self)
    }
}

impl Guard {
    /// State, figure in words, and why it is open.
    fn found(&self, found: &GuardReport) -> (State, String, Option<String>) {
        if let Some(first) = found.violations.first() {
            let times = if found.violated == 1 {
                "once".to_owned()
            } else {
                format!("{} times", found.violated)
            };
            let measured = format!(
                "violated {times}, first at {} ms by {}: {}",
                first.at_ms, first.object, first.seen
            );
            return (State::NotMet, measured, None);
        }
        let measured = format!(
            "no violation of {} objects in {} ms",
            found.seen,
            found.to_ms.saturating_sub(found.from_ms)
        );
        if let Some(gap) = found.gaps.first() {
            let more = match found.gaps.len() {
                1 => String::new(),
                several => format!(", and {} times more", several - 1),
            };
            let note = format!(
                "what happened from {} to {} ms is not known ({}){more}",
                gap.from_ms, gap.to_ms, gap.why
            );
            return (State::Undecided, measured, Some(note));
        }
        if found.seen == 0 && self.presence().is_none() {
            let note = format!("there was no {}", self.place());
            return (State::Vacuous, measured, Some(note));
        }
        (State::Met, measured, None)
    }
}

/// All entries of a scenario, being watched.
pub(super) struct Guards {
    client: Client,
    epoch: Instant,
    begun: bool,
    watched: Vec<Watching>,
}

struct Watching {
    guard: Guard,
    tracker: Arc<Mutex<Tracker>>,
    listed: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Watching {
    fn track<T>(&self, look: impl FnOnce(&mut Tracker) -> T) -> T {
        look(&mut self.tracker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Guards {
    /// Begins to watch, and returns when everything has been listed once, or the API is silent: then there is a gap.
    pub(super) async fn start(client: &Client, scenario: &Scenario, epoch: Instant) -> Self {
        let mut guards = Self::spawn(client, scenario, epoch);
        let watched = guards.watched.iter_mut();
        let listed = watched.map(|watching| async move {
            // The sender lives as long as the task.
            drop(watching.listed.wait_for(|listed| *listed).await);
        });
        drop(timeout(LISTED_WITHIN, join_all(listed)).await);
        guards
    }

    fn spawn(client: &Client, scenario: &Scenario, epoch: Instant) -> Self {
        let guards = scenario.expectations.iter();
        let watching = |guard: &Guard| {
            let (listed_out, listed) = watch::channel(false);
            let tracker = Arc::new(Mutex::new(Tracker::new(guard.clone())));
            let follower = Follower {
                client: client.clone(),
                guard: guard.clone(),
                tracker: Arc::clone(&tracker),
                epoch,
                listed: listed_out,
            };
            Watching {
                guard: guard.clone(),
                tracker,
                listed,
                _task: AbortOnDropHandle::new(tokio::spawn(follower.run())),
            }
        };
        let watched = guards.filter_map(|row| row.check.guard()).map(watching);
        Self {
            client: client.clone(),
            epoch,
            begun: false,
            watched: watched.collect(),
        }
    }

    /// The baseline is reached: what is so from its beginning on counts.
    pub(super) fn begin(&mut self, from_ms: u64) {
        self.begun = true;
        for watching in &self.watched {
            watching.track(|tracker| tracker.begin(from_ms));
        }
    }

    /// Ends the watch when it is up to date, or says that it is not. Nothing if there was no baseline.
    pub(super) async fn finish(self, cancel: &CancellationToken) -> Vec<GuardReport> {
        if !self.begun {
            return Vec::new();
        }
        let caught_up = self
            .watched
            .iter()
            .map(|watching| follow::caught_up(&self.client, &watching.guard, &watching.tracker));
        tokio::select! {
            _ = join_all(caught_up) => {}
            () = cancel.cancelled() => {}
        }
        let to_ms = follow::millis_since(self.epoch);
        let reports = self.watched.iter();
        reports
            .map(|watching| watching.track(|tracker| tracker.finish(to_ms)))
            .collect()
    }
}

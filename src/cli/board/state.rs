//! What is shown of a command that runs scenarios: bringing a cluster up, then a run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::scenario::live::{LiveRun, Seen};

/// What a machine does that has not been powered on.
pub(in crate::cli) const NOT_BEGUN: &str = "not begun";
/// Notes that are kept.
const NOTES_MAX: usize = 12;

/// When it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct Now {
    /// Since the command began.
    pub(in crate::cli) command: Duration,
    /// Since the run began, in milliseconds.
    pub(in crate::cli) run_ms: u64,
}

/// Everything that is shown.
#[derive(Debug)]
pub(in crate::cli) struct State {
    begun: Instant,
    /// The scenario that is run, or comes next.
    pub(in crate::cli) title: String,
    /// What the command does.
    pub(in crate::cli) step: String,
    /// A part of it.
    pub(in crate::cli) detail: String,
    /// What each machine does while the cluster comes up.
    pub(in crate::cli) machines: BTreeMap<String, String>,
    /// What was noted beside: trouble in machines.
    pub(in crate::cli) notes: VecDeque<String>,
    /// The run that goes on.
    pub(in crate::cli) run: Option<LiveRun>,
    /// Whether a page shows it, which wants every request.
    pub(in crate::cli) has_page: bool,
    /// The report of the scenario that ended last, as a page.
    pub(in crate::cli) report: Option<Arc<str>>,
    /// The command ends: no other page follows.
    pub(in crate::cli) over: bool,
    /// Counts what changed.
    pub(in crate::cli) changes: u64,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    pub(in crate::cli) fn new() -> Self {
        Self {
            begun: Instant::now(),
            title: String::new(),
            step: String::new(),
            detail: String::new(),
            machines: BTreeMap::new(),
            notes: VecDeque::new(),
            run: None,
            has_page: false,
            report: None,
            over: false,
            changes: 0,
        }
    }

    /// A scenario begins.
    pub(in crate::cli) fn scenario(&mut self, title: &str) {
        self.changes += 1;
        title.clone_into(&mut self.title);
    }

    /// The machines of the cluster that comes up.
    pub(in crate::cli) fn machines<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        self.changes += 1;
        self.machines = names
            .map(|name| (name.to_owned(), NOT_BEGUN.to_owned()))
            .collect();
    }

    /// A machine began its next step.
    pub(in crate::cli) fn machine(&mut self, name: &str, does: &str) {
        self.changes += 1;
        self.machines.insert(name.to_owned(), does.to_owned());
    }

    /// The run tells a line.
    pub(in crate::cli) fn told(&mut self, at: Duration, text: &str) {
        self.changes += 1;
        if let Some(run) = &mut self.run {
            run.tell(at, text);
        }
    }

    pub(in crate::cli) fn now(&self) -> Now {
        Now {
            command: self.begun.elapsed(),
            run_ms: self.run.as_ref().map_or(0, LiveRun::now_ms),
        }
    }

    /// A new step of the whole.
    pub(in crate::cli) fn step(&mut self, what: &str) {
        self.changes += 1;
        what.trim().clone_into(&mut self.step);
        self.detail.clear();
    }

    pub(in crate::cli) fn note(&mut self, what: &str) {
        self.changes += 1;
        self.notes.push_back(what.trim().to_owned());
        while self.notes.len() > NOTES_MAX {
            self.notes.pop_front();
        }
    }

    /// Takes what a run tells.
    pub(in crate::cli) fn take(&mut self, seen: Seen, dropped: u64) {
        self.changes += 1;
        match (&mut self.run, seen) {
            (run, Seen::Begun(mut begun)) => {
                let cell = self.title.strip_prefix(&format!("{}/", begun.scenario));
                begun.cell = cell.map(str::to_owned);
                *run = Some(LiveRun::new(*begun, self.has_page));
                self.report = None;
            }
            (Some(run), seen) => {
                run.take(seen);
                run.dropped = dropped;
            }
            (None, _) => {}
        }
    }

    /// The scenario is over: of its run nothing more is shown.
    pub(in crate::cli) fn end_run(&mut self) {
        self.changes += 1;
        self.run = None;
        self.notes.clear();
        self.step.clear();
        self.detail.clear();
    }
}

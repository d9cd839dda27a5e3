//! What may be printed, and where: results on standard output, everything else on standard error. Animation only on a terminal.
#![expect(clippy::print_stderr, reason = "the one place that prints")]

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cluster::life::{Progress, Reporter};
use crate::model::names::NodeName;

/// Prints a line of a command's result. A reader that went away (`| head`) is not an error.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes bytes of a command's result as they are.
pub(super) fn write(bytes: &[u8]) {
    let mut out = std::io::stdout();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

/// Writes bytes of a command's standard error as they are.
pub(super) fn write_error(bytes: &[u8]) {
    let _ = std::io::stderr().write_all(bytes);
}

/// Prints a line that is not a result: an error, a hint, a note.
pub(super) fn complain(line: &str) {
    eprintln!("{line}");
}

/// Whether somebody can answer a question.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks a yes-or-no question; no without a terminal.
pub(super) fn confirm(question: &str) -> bool {
    if !is_interactive() {
        return false;
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Live progress: spinners on a terminal, one line a step otherwise.
pub(super) struct Live {
    bars: Option<MultiProgress>,
    state: Mutex<Bars>,
}

#[derive(Default)]
struct Bars {
    step: Option<ProgressBar>,
    nodes: BTreeMap<NodeName, ProgressBar>,
}

impl Live {
    pub(super) fn new() -> Arc<Self> {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Arc::new(Self {
            bars,
            state: Mutex::new(Bars::default()),
        })
    }

    /// What `cluster::life::up` reports to.
    pub(super) fn reporter(self: &Arc<Self>) -> Reporter {
        let live = self.clone();
        Arc::new(move |progress| live.show(progress))
    }

    fn show(&self, progress: Progress) {
        match progress {
            Progress::Step(what) => self.step(&what),
            Progress::Detail(what) => self.detail(&what),
            Progress::Node(node, what) => self.node(&node, &what, false),
            Progress::NodeReady(node) => self.node(&node, "Ready", true),
        }
    }

    /// A new step of the whole.
    pub(super) fn step(&self, what: &str) {
        let mut state = self
            .state
            .lock()
            .expect("nobody panics while holding the lock");
        let Some(bars) = &self.bars else {
            complain(what);
            return;
        };
        if let Some(bar) = state.step.take() {
            let done = bar.message();
            bar.finish_and_clear();
            let _ = bars.println(format!("  {done}"));
        }
        state.step = Some(spinner(bars, what));
    }

    /// A detail of the running step: shown only where it can be overwritten.
    pub(super) fn detail(&self, what: &str) {
        let state = self
            .state
            .lock()
            .expect("nobody panics while holding the lock");
        if let Some(bar) = &state.step {
            bar.set_prefix(what.chars().take(100).collect::<String>());
        }
    }

    fn node(&self, node: &NodeName, what: &str, done: bool) {
        let mut state = self
            .state
            .lock()
            .expect("nobody panics while holding the lock");
        let Some(bars) = &self.bars else {
            complain(&format!("  {node}: {what}"));
            return;
        };
        let bar = state
            .nodes
            .entry(node.clone())
            .or_insert_with(|| spinner(bars, ""));
        bar.set_message(format!("{node}: {what}"));
        if done {
            bar.finish();
        }
    }

    /// Ends the animation; what was shown last stays.
    pub(super) fn finish(&self) {
        let mut state = self
            .state
            .lock()
            .expect("nobody panics while holding the lock");
        let state = std::mem::take(&mut *state);
        for bar in state.step.into_iter().chain(state.nodes.into_values()) {
            bar.finish();
        }
    }
}

fn spinner(bars: &MultiProgress, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg} {prefix:.dim}")
        .expect("the template is constant");
    let bar = bars.add(
        ProgressBar::new_spinner()
            .with_style(style)
            .with_message(what.to_owned()),
    );
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

//! What may be printed, and where: results on standard output, everything else on standard error. Animation only on a terminal.
#![expect(clippy::print_stderr, reason = "the one place that prints")]

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::board::{self, Board, lock};
use crate::cluster::life::{Progress, Reporter};
use crate::model::names::NodeName;
use crate::scenario::live::{self, LiveRun, LiveSender};

/// The longest that a run that is over is listened to: what it said last is heard at once, unless somebody keeps its voice.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

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

/// Whether standard error may be drawn on: it is a terminal that can, and nobody asked for plain lines.
fn is_drawn_on() -> bool {
    std::io::stderr().is_terminal() && may_draw(|name| std::env::var(name).ok())
}

/// `NO_COLOR`, `CI` and `TERM=dumb` ask for one line an event.
fn may_draw(variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
    let term = variable("TERM").unwrap_or_default();
    !is_set("NO_COLOR") && !is_set("CI") && !term.is_empty() && term != "dumb"
}

/// Live progress: spinners or a board on a terminal, one line an event otherwise.
pub(super) struct Live {
    shown: Shown,
    /// What a board and a page show.
    state: board::Shared,
    /// The ear of the run that goes on.
    ear: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// How progress is shown.
enum Shown {
    /// A line an event.
    Lines,
    /// A line a step, the last of which turns.
    Spinners(MultiProgress, Mutex<Bars>),
    /// A few lines that are drawn anew.
    Board(Board),
}

#[derive(Default)]
struct Bars {
    step: Option<ProgressBar>,
    nodes: BTreeMap<NodeName, ProgressBar>,
}

impl Live {
    pub(super) fn new() -> Arc<Self> {
        let spinners = || Shown::Spinners(MultiProgress::new(), Mutex::default());
        let shown = if is_drawn_on() {
            spinners()
        } else {
            Shown::Lines
        };
        Self::shown(shown, board::Shared::default())
    }

    /// Spinners on a terminal; elsewhere nothing, for commands that say all that matters when they are over.
    pub(super) fn on_terminal() -> Option<Arc<Self>> {
        is_drawn_on().then(Self::new)
    }

    /// Of a command that runs scenarios.
    pub(super) fn of_runs() -> Arc<Self> {
        let state = board::Shared::default();
        let terminal = is_drawn_on().then(|| rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), 0));
        let shown = match terminal {
            Some(Ok(terminal)) => Shown::Board(Board::new(terminal, Arc::clone(&state))),
            _ => Shown::Lines,
        };
        Self::shown(shown, state)
    }

    fn shown(shown: Shown, state: board::Shared) -> Arc<Self> {
        Arc::new(Self {
            shown,
            state,
            ear: Mutex::default(),
        })
    }

    /// What is shown of it; a page makes it keep every request.
    pub(super) fn state_for_page(&self) -> board::Shared {
        lock(&self.state).has_page = true;
        Arc::clone(&self.state)
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

    /// Machines that are to boot.
    pub(super) fn machines<'a>(&self, names: impl Iterator<Item = &'a str>) {
        lock(&self.state).machines(names);
    }

    /// Waits until all is heard that a run has said; it is over, and its voice with it.
    pub(super) async fn heard(&self) {
        let ear = lock(&self.ear).take();
        if let Some(ear) = ear {
            drop(timeout(HEARD_WITHIN, ear).await);
        }
    }

    /// The run that is over, if a page shows it.
    pub(super) fn run_for_page(&self) -> Option<LiveRun> {
        let mut state = lock(&self.state);
        let run = state.run.take();
        run.filter(|_| state.has_page)
    }

    /// A scenario's report for the page that shows it.
    pub(super) fn report(&self, page: Option<String>) {
        let mut state = lock(&self.state);
        state.changes += 1;
        state.report = page.map(Arc::from);
    }

    /// A scenario begins. Returns the voice of its run.
    pub(super) fn scenario(&self, title: &str) -> LiveSender {
        let watched = {
            let mut state = lock(&self.state);
            state.scenario(title);
            state.has_page || matches!(self.shown, Shown::Board(_))
        };
        self.step(&format!("scenario {title}"));
        if !watched {
            return LiveSender::default();
        }
        let (voice, mut heard) = live::channel();
        let state = Arc::clone(&self.state);
        let ear = tokio::spawn(async move {
            while let Some(seen) = heard.next().await {
                let dropped = heard.dropped();
                lock(&state).take(seen, dropped);
            }
        });
        *lock(&self.ear) = Some(AbortOnDropHandle::new(ear));
        voice
    }

    /// What a run tells, with the time since its start.
    pub(super) fn told(&self, at: Duration, text: &str) {
        lock(&self.state).told(at, text);
        if !matches!(self.shown, Shown::Board(_)) {
            self.step(&format!(
                "  {:>7} {text}",
                format!("{:.1} s", at.as_secs_f64())
            ));
        }
    }

    /// Something beside what is done: trouble in a machine.
    pub(super) fn note(&self, what: &str) {
        lock(&self.state).note(what);
        if !matches!(self.shown, Shown::Board(_)) {
            self.step(what);
        }
    }

    /// A new step of the whole.
    pub(super) fn step(&self, what: &str) {
        lock(&self.state).step(what);
        match &self.shown {
            Shown::Lines => complain(what),
            Shown::Board(board) => board.show(),
            Shown::Spinners(bars, state) => {
                let mut state = lock(state);
                if let Some(bar) = state.step.take() {
                    let done = bar.message();
                    bar.finish_and_clear();
                    let _ = bars.println(format!("  {done}"));
                }
                state.step = Some(spinner(bars, what));
            }
        }
    }

    /// A detail of the running step: shown only where it can be overwritten.
    pub(super) fn detail(&self, what: &str) {
        let what: String = what.chars().take(100).collect();
        if let Shown::Spinners(_, state) = &self.shown
            && let Some(bar) = &lock(state).step
        {
            bar.set_prefix(what.clone());
        }
        lock(&self.state).detail = what;
    }

    fn node(&self, node: &NodeName, what: &str, done: bool) {
        lock(&self.state).machine(node.as_str(), what);
        match &self.shown {
            Shown::Lines => complain(&format!("  {node}: {what}")),
            Shown::Board(board) => board.show(),
            Shown::Spinners(bars, state) => {
                let mut state = lock(state);
                let bar = state
                    .nodes
                    .entry(node.clone())
                    .or_insert_with(|| spinner(bars, ""));
                bar.set_message(format!("{node}: {what}"));
                if done {
                    bar.finish();
                }
            }
        }
    }

    /// Ends the animation. What spinners showed last stays, a board goes.
    pub(super) fn finish(&self) {
        drop(lock(&self.ear).take());
        match &self.shown {
            Shown::Lines => {}
            Shown::Board(board) => board.clear(),
            Shown::Spinners(_, state) => {
                let state = std::mem::take(&mut *lock(state));
                for bar in state.step.into_iter().chain(state.nodes.into_values()) {
                    bar.finish();
                }
            }
        }
        lock(&self.state).end_run();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_are_asked_for_by_the_usual_variables() {
        let with = |set: &[(&str, &str)]| {
            let set = set.to_vec();
            may_draw(move |name| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert!(with(&[("TERM", "xterm")]));
        assert!(with(&[("TERM", "xterm"), ("NO_COLOR", ""), ("CI", "")]));
        assert!(!with(&[("TERM", "xterm"), ("NO_COLOR", "1")]));
        assert!(!with(&[("TERM", "xterm"), ("CI", "true")]));
        assert!(!with(&[("TERM", "dumb")]));
        assert!(!with(&[]));
    }
}

//! What a run shows on a terminal: at most twelve lines, drawn anew in their place four times a second.
//!
//! ```text
//! run's tasks ─► State (behind a lock that is never held while anything is written) ◄── lines(state, now, size)
//!                                                                                          ▲ a thread of indicatif's
//!                                                                                          └─► Screen ─► terminal
//! ```
//! Invariants: whoever tells something never waits for the terminal; every name is made inert before it is written; a board that ends
//! leaves nothing behind.

pub(super) mod lines;
mod screen;
pub(super) mod state;
mod text;

use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use screen::Screen;
use state::State;

/// How often it is drawn.
const FRAME: Duration = Duration::from_millis(250);
/// The most frames a second, however often somebody asks.
const FRAMES_MAX: u8 = 20;

/// State that several look at.
pub(super) type Shared = Arc<Mutex<State>>;

/// What is behind a lock, whatever became of who held it before: nothing is half done when it is let go.
pub(super) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A board on a terminal. Nothing is drawn before [`Board::show`].
pub(super) struct Board {
    screen: Screen,
    state: Shared,
    bar: Mutex<Option<ProgressBar>>,
}

impl Board {
    pub(super) fn new(terminal: OwnedFd, state: Shared) -> Self {
        Self {
            screen: Screen::new(terminal),
            state,
            bar: Mutex::new(None),
        }
    }

    /// Begins to draw, if nobody did.
    pub(super) fn show(&self) {
        let mut bar = lock(&self.bar);
        if bar.is_some() {
            return;
        }
        let (state, screen) = (Arc::clone(&self.state), self.screen.clone());
        let board = move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let state = lock(&state);
            let lines = lines::lines(&state, state.now(), screen.size());
            // Writing to memory does not fail.
            let _ = out.write_str(&lines.join("\n"));
        };
        let style = ProgressStyle::with_template("{board}")
            .expect("the template is constant")
            .with_key("board", board);
        let target =
            ProgressDrawTarget::term_like_with_hz(Box::new(self.screen.clone()), FRAMES_MAX);
        let drawn = ProgressBar::with_draw_target(None, target).with_style(style);
        drawn.enable_steady_tick(FRAME);
        *bar = Some(drawn);
    }

    /// Ends the drawing, and leaves no line of it.
    pub(super) fn clear(&self) {
        let drawn = lock(&self.bar).take();
        if let Some(drawn) = drawn {
            drawn.finish_and_clear();
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A time for reading: `1:05`, `1:02:03`.
pub(super) fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut told = String::new();
    let _ = if hours > 0 {
        write!(told, "{hours}:{minutes:02}:{seconds:02}")
    } else {
        write!(told, "{minutes}:{seconds:02}")
    };
    told
}

#[cfg(test)]
mod tests;

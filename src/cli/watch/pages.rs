//! The pages of a run that goes on: drawn when somebody asks, at most once a second, and the more seldom the longer drawing takes.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::cards;
use crate::cli::board::lines::doing;
use crate::cli::board::{Shared, lock};
use crate::scenario::page::StoredRun;
use crate::scenario::page::live::live_html;
use crate::scenario::page::stored::Stored;
use crate::scenario::report::TargetFacts;
use crate::scenario::{Report, Verdict};

/// The shortest time between two drawings.
const PAUSE: Duration = Duration::from_secs(1);
/// Drawing takes at most this part of the time: one in so many.
const SHARE: u32 = 20;

/// The pages.
pub(super) struct Pages {
    state: Shared,
    drawn: Arc<Mutex<Option<Drawn>>>,
}

struct Drawn {
    number: u64,
    html: Arc<str>,
    /// Nothing newer is drawn before.
    until: Instant,
}

impl Pages {
    pub(super) fn new(state: Shared) -> Self {
        Self {
            state,
            drawn: Arc::default(),
        }
    }

    /// The page that a browser begins with: it holds nothing yet, and fetches the newest; at the end it is the report.
    pub(super) fn start(&self) -> Arc<str> {
        let (title, report) = {
            let state = lock(&self.state);
            let report = state.report.clone().filter(|_| state.over);
            (state.title.clone(), report)
        };
        report.unwrap_or_else(|| live_html(&nothing(&title), "RUNNING", "").into())
    }

    /// The newest page, and its number.
    pub(super) async fn newest(&self) -> (u64, Arc<str>) {
        let mut drawn = Arc::clone(&self.drawn).lock_owned().await;
        {
            let state = lock(&self.state);
            if let (None, Some(report)) = (&state.run, &state.report) {
                return (state.changes, Arc::clone(report));
            }
            if let Some(drawn) = &*drawn
                && (drawn.number == state.changes || !state.over && Instant::now() < drawn.until)
            {
                return (drawn.number, Arc::clone(&drawn.html));
            }
        }
        let state = Arc::clone(&self.state);
        // It goes on though who has asked is gone: drawings do not pile up.
        let drawing = tokio::spawn(async move {
            let begun = Instant::now();
            let done = tokio::task::spawn_blocking(move || draw(&state)).await;
            let (number, html) = done.unwrap_or_default();
            let html: Arc<str> = html.into();
            let now = Instant::now();
            *drawn = Some(Drawn {
                number,
                html: Arc::clone(&html),
                until: now + PAUSE.max((now - begun) * SHARE),
            });
            (number, html)
        });
        drawing.await.unwrap_or_default()
    }

    /// What happens now as JSON, with its number, unless it was told already.
    pub(super) fn news(&self, told: Option<u64>) -> Option<(u64, String)> {
        let state = lock(&self.state);
        if told == Some(state.changes) {
            return None;
        }
        Some((state.changes, cards::json(&state, state.now())))
    }
}

/// Draws the run by now.
fn draw(state: &Shared) -> (u64, String) {
    let (number, run, title, word, sentence) = {
        let state = lock(state);
        let sentence = state
            .run
            .as_ref()
            .map_or_else(|| state.step.clone(), |run| doing(run, run.now_ms()));
        let word = if state.over { "OVER" } else { "RUNNING" };
        let run = state.run.clone();
        (state.changes, run, state.title.clone(), word, sentence)
    };
    let so_far = run.and_then(|run| {
        let now_ms = run.now_ms();
        run.so_far(now_ms)
    });
    let run = so_far.unwrap_or_else(|| nothing(&title));
    (number, live_html(&run, word, &sentence))
}

/// A run of which nothing is known yet.
fn nothing(title: &str) -> StoredRun {
    let target = TargetFacts {
        provider: "-".to_owned(),
        accel: "-".to_owned(),
        nodes: 0,
    };
    let reasons = vec!["nothing is known yet".to_owned()];
    let report = Report::without_run(title, 0, target, Verdict::Inconclusive, reasons);
    StoredRun::new(report, Stored::default(), None)
}

//! The pages of a run that goes on: drawn when somebody asks, at most once a second, and the more seldom the longer drawing takes.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::cards;
use crate::cli::board::Shared;
use crate::cli::board::lines::doing;
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
    drawn: Mutex<Option<Drawn>>,
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
            drawn: Mutex::const_new(None),
        }
    }

    /// The page that a browser begins with: it holds nothing yet, and fetches the newest; at the end it is the report.
    pub(super) fn start(&self) -> Arc<str> {
        let (title, report) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let report = state.report.clone().filter(|_| state.over);
            (state.title.clone(), report)
        };
        report.unwrap_or_else(|| live_html(&nothing(&title), "").into())
    }

    /// The newest page, and its number.
    pub(super) async fn newest(&self) -> (u64, Arc<str>) {
        let mut drawn = self.drawn.lock().await;
        let (number, run, title, sentence) = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let number = state.changes;
            if let (None, Some(report)) = (&state.run, &state.report) {
                return (number, Arc::clone(report));
            }
            if let Some(drawn) = &*drawn
                && (drawn.number == number || Instant::now() < drawn.until)
            {
                return (drawn.number, Arc::clone(&drawn.html));
            }
            let sentence = state
                .run
                .as_ref()
                .map_or_else(|| state.step.clone(), |run| doing(run, run.now_ms()));
            (number, state.run.clone(), state.title.clone(), sentence)
        };
        let begun = Instant::now();
        let draw = move || {
            let so_far = run.and_then(|run| {
                let now_ms = run.now_ms();
                run.so_far(now_ms)
            });
            live_html(&so_far.unwrap_or_else(|| nothing(&title)), &sentence)
        };
        let html = tokio::task::spawn_blocking(draw).await.unwrap_or_default();
        let html: Arc<str> = html.into();
        let now = Instant::now();
        *drawn = Some(Drawn {
            number,
            html: Arc::clone(&html),
            until: now + PAUSE.max((now - begun) * SHARE),
        });
        (number, html)
    }

    /// What happens now as JSON, with its number, unless it was told already.
    pub(super) fn news(&self, told: Option<u64>) -> Option<(u64, String)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if told == Some(state.changes) {
            return None;
        }
        Some((state.changes, cards::json(&state, state.now())))
    }
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

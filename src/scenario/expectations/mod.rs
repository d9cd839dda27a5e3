//! What a scenario may expect: one file each, and one list.
//!
//! A new figure of a load is a file with a [`LoadFigure`] and a line in [`FIGURES`]; another expectation is a file with an
//! [`Expectation`] and a line where it is read. Nothing else in the tree knows their names: parser, suggestions, figure, interval
//! and text come from here.
//!
//! Invariants: an expectation is a pure function of a [`Case`], the evidence of one run; nothing is improved by one more bad
//! request but the number of outages, since two may become one.

mod bound;
mod counts;
mod degraded;
mod failed;
mod final_version;
mod latency;
mod load_figure;
mod outages;
mod read;
mod recovery;
mod worst;

use std::fmt;
use std::time::Duration;

pub use bound::{Bound, Comparison};
pub(in crate::scenario) use latency::{latency_of, latency_us};
pub use load_figure::{Estimate, LoadFigure, Unit};
pub(in crate::scenario) use read::{COUNTS, GUARDS, Known, STREAMS, read};
pub(in crate::scenario) use recovery::recovery_of;

use super::guards::Guard;
use super::judge::case::Case;
use super::judge::watched::{Span, Watched};
use super::report::State;
use crate::model::reader::Value;

/// Something that must hold.
pub trait Expectation: fmt::Debug + Send + Sync {
    /// Judges it.
    fn judge(&self, case: &Case<'_>) -> Judged;
    /// How long the load must go on after the last step and the last heal for it to be decided.
    fn needs_tail(&self) -> Duration {
        Duration::ZERO
    }
    /// Load and fault step whose recovery it is about, and for how long that must hold.
    fn recovery(&self) -> Option<(&str, &str, Duration)> {
        None
    }
    /// What has to be watched for it while the run goes on.
    fn guard(&self) -> Option<&Guard> {
        None
    }
}

/// What was found of an expectation.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The figure in words.
    pub measured: String,
    /// Its error in words.
    pub error: String,
    /// The interval in which the truth lies; `None` where nothing is known.
    pub interval: Option<(f64, f64)>,
    /// What can be said.
    pub state: State,
    /// Why that cannot be decided, or could not have failed.
    pub note: Option<String>,
    /// The first request that decided it.
    pub decider: Option<Decider>,
    /// The span it was measured in; the whole run if it does not say.
    pub span: Option<Span>,
    /// What the interval is counted in.
    pub unit: Option<Unit>,
}

impl Judged {
    /// Nothing could be measured.
    #[must_use]
    pub fn nothing(state: State, note: String) -> Self {
        Self {
            measured: "nothing".to_owned(),
            error: "unknown".to_owned(),
            interval: None,
            state,
            note: Some(note),
            decider: None,
            span: None,
            unit: None,
        }
    }
}

/// A request that decided a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decider {
    /// Its load.
    pub load: String,
    /// Its stream.
    pub stream: String,
    /// Its index among the counted requests of the stream.
    pub index: usize,
}

/// A figure of a load as files name it.
pub struct FigureKind {
    /// Its key.
    pub key: &'static str,
    /// What a value looks like.
    pub example: &'static str,
    /// Reads its value: the figure and its bound.
    pub read: fn(&Value<'_, '_>, &FigureKind) -> Option<(Box<dyn LoadFigure>, Bound)>,
}

/// All figures of a load, each of which may stand below a stream and below `during.STEP`.
pub const FIGURES: &[FigureKind] = &[
    failed::FAILED,
    worst::WORST,
    outages::OUTAGES,
    outages::LONGEST_OUTAGE,
    outages::DOWNTIME,
    degraded::DEGRADED,
    latency::P50,
    latency::P90,
    latency::P99,
    latency::P999,
    latency::MAX,
];

/// What single events of a stream say, with the error of each: key, unit, estimate.
pub(in crate::scenario) fn event_figures(
    stream: &Watched<'_>,
) -> Vec<(&'static str, Unit, Estimate)> {
    let mut figures = Vec::from(outages::of_stream(stream));
    let degraded = degraded::of_stream(stream, f64::INFINITY);
    figures.push((degraded::DEGRADED.key, Unit::Millis, degraded));
    let longest = latency::max_of(stream);
    figures.extend(longest.map(|max| (latency::MAX.key, Unit::Millis, max)));
    figures
}

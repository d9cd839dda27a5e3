//! A figure of a load with a bound: `web.failed`, `web.new.during.kill.p99`, …

use std::fmt;
use std::time::Duration;

use super::super::judge::case::{AFTER_STEP_MS, Case, Nothing};
use super::super::judge::watched::Watched;
use super::super::report::State;
use super::{Bound, Decider, Expectation, Judged};
use crate::model::reader::Value;
use crate::model::units::parse_duration;

/// A figure of the requests of a load.
pub trait LoadFigure: fmt::Debug + Send + Sync {
    /// What it is counted in.
    fn unit(&self) -> Unit;
    /// Measures it on these streams in their span, all of which have requests; `limit` is the bound's. `None` if nothing was there to
    /// be measured.
    fn measure(&self, streams: &[Watched<'_>], limit: f64) -> Option<Estimate>;
    /// The shortest span that says something.
    fn shortest(&self) -> Duration {
        Duration::ZERO
    }
    /// Whether its error is the time between two requests.
    fn sampled(&self) -> bool {
        false
    }
}

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A share from 0 to 1.
    Share,
    /// Milliseconds.
    Millis,
    /// Whole things.
    Count,
}

impl Unit {
    /// A limit as it is written.
    pub(super) fn parse(self, text: &str) -> Option<f64> {
        match self {
            Self::Share => {
                let percent = text.strip_suffix('%')?.trim().parse::<f64>().ok()?;
                Some(percent / 100.0)
            }
            Self::Millis => Some(parse_duration(text).ok()?.as_secs_f64() * 1000.0),
            Self::Count => text.parse::<u32>().ok().map(f64::from),
        }
    }

    /// A value in words.
    #[must_use]
    pub fn words(self, value: f64) -> String {
        match self {
            _ if value.is_infinite() => "no end".to_owned(),
            Self::Share => format!("{:.3} %", value * 100.0),
            Self::Millis => format!("{value:.0} ms"),
            Self::Count => format!("{value:.0}"),
        }
    }
}

/// A figure with its error.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// As measured.
    pub value: f64,
    /// The least it can be,
    pub low: f64,
    /// and the most.
    pub high: f64,
    /// What stands behind it, for instance `90 of 500`.
    pub detail: String,
    /// Stream and index of the first request that decided it.
    pub decider: Option<(String, usize)>,
}

/// The worst stream's figure: larger is worse.
pub(super) fn worst_of(
    streams: &[Watched<'_>],
    measure: impl Fn(&Watched<'_>) -> Option<Estimate>,
) -> Option<Estimate> {
    let estimates: Option<Vec<Estimate>> = streams.iter().map(measure).collect();
    let estimates = estimates?;
    let (low, high) = estimates
        .iter()
        .fold((0.0_f64, 0.0_f64), |(low, high), one| {
            (low.max(one.low), high.max(one.high))
        });
    let worst = estimates.into_iter().reduce(|worst, one| {
        if (one.value, one.high) > (worst.value, worst.high) {
            one
        } else {
            worst
        }
    })?;
    Some(Estimate { low, high, ..worst })
}

/// Reads `"<= 3s"` in a figure's unit.
pub(super) fn read_bound(value: &Value<'_, '_>, unit: Unit, example: &str) -> Option<Bound> {
    let text = value.string()?;
    let bound = Bound::parse(text, |limit| unit.parse(limit));
    if bound.is_none() {
        value.problem(
            format!("`{text}` is not a bound"),
            Some(format!(
                "a comparison and a limit with its unit, such as {example}"
            )),
        );
    }
    bound
}

/// A figure of a load, of one of its streams, in the span of a step: what a row of `[expect]` says.
#[derive(Debug)]
pub(super) struct BoundedFigure {
    pub(super) load: String,
    pub(super) stream: Option<String>,
    pub(super) during: Option<String>,
    pub(super) figure: Box<dyn LoadFigure>,
    pub(super) bound: Bound,
}

impl BoundedFigure {
    fn measure(&self, case: &Case<'_>) -> Result<Judged, Nothing> {
        let during = self.during.as_deref();
        case.could_fail(&self.load, during)?;
        let counted = case.counted(&self.load);
        let wanted = match during {
            Some(step) => case.step_span(step)?,
            None => counted,
        };
        let span = wanted.within(counted);
        let wanted_to_ms = if wanted.to_ms.is_finite() {
            wanted.to_ms
        } else {
            span.to_ms
        };
        let streams = case.watch(&self.load, self.stream.as_deref(), span, wanted_to_ms);
        let empty = streams.iter().find(|stream| stream.samples.is_empty());
        if let Some(stream) = empty {
            return Err(Nothing::Vacuous(format!(
                "stream `{}` sent no request in this span",
                stream.stream
            )));
        }
        if streams.is_empty() {
            return Err(Nothing::Vacuous("there is no such stream".to_owned()));
        }
        let estimate = self.figure.measure(&streams, self.bound.limit);
        let estimate = estimate.ok_or_else(|| {
            Nothing::Vacuous(format!(
                "the span of {:.0} ms is too short for it",
                span.length_ms()
            ))
        })?;
        if self.figure.unit() == Unit::Share && self.bound.holds_always(1.0) {
            return Err(Nothing::Vacuous(
                "every share of failed requests keeps this bound".to_owned(),
            ));
        }
        let unit = self.figure.unit();
        let mut state = self.bound.decide(estimate.low, estimate.high);
        let shortest_ms = self.figure.shortest().as_secs_f64() * 1000.0;
        let note = too_few(&streams, shortest_ms);
        if note.is_some() && state == State::Met {
            state = State::Undecided;
        }
        let detail = if estimate.detail.is_empty() {
            String::new()
        } else {
            format!(" ({})", estimate.detail)
        };
        Ok(Judged {
            measured: format!("{}{detail}", unit.words(estimate.value)),
            error: error_words(&estimate, unit),
            interval: Some((estimate.low, estimate.high)),
            state,
            note,
            decider: estimate.decider.map(|(stream, index)| Decider {
                load: self.load.clone(),
                stream,
                index,
            }),
            span: Some(span),
            unit: Some(unit),
        })
    }
}

/// Requests that a window of a figure must hold.
pub(super) const WINDOW_REQUESTS_MIN: f64 = 20.0;

fn too_few(streams: &[Watched<'_>], window_ms: f64) -> Option<String> {
    let period_ms = streams.first()?.period_ms;
    let holds = window_ms / period_ms;
    // A thousandth of a request is the rate's rounding.
    (window_ms > 0.0 && period_ms > 0.0 && holds < WINDOW_REQUESTS_MIN - 1e-3).then(|| {
        format!("a window holds {holds:.0} requests, and fewer than {WINDOW_REQUESTS_MIN:.0} say nothing")
    })
}

/// `±80 ms`, or how far it reaches each way where that differs.
fn error_words(estimate: &Estimate, unit: Unit) -> String {
    let (less, more) = (
        (estimate.value - estimate.low).max(0.0),
        (estimate.high - estimate.value).max(0.0),
    );
    if less == 0.0 && more == 0.0 {
        "±0".to_owned()
    } else if (less - more).abs() < 1e-9 {
        format!("±{}", unit.words(more))
    } else {
        format!("-{} +{}", unit.words(less), unit.words(more))
    }
}

impl Expectation for BoundedFigure {
    fn judge(&self, case: &Case<'_>) -> Judged {
        match self.measure(case) {
            Ok(judged) => judged,
            Err(Nothing::Vacuous(why)) => Judged::nothing(State::Vacuous, why),
            Err(Nothing::Unknown(why)) => Judged::nothing(State::Undecided, why),
        }
    }

    fn needs_tail(&self) -> Duration {
        if self.during.is_some() {
            Duration::from_secs_f64(AFTER_STEP_MS / 1000.0)
        } else {
            Duration::ZERO
        }
    }
}

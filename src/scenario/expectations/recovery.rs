//! `recovery.STEP = { within, hold }`: from a fault's verified onset until all is well for good.

use std::time::Duration;

use super::super::judge::case::{Case, Nothing, millis};
use super::super::judge::watched::{Span, Watched, share};
use super::super::report::{FaultReport, State};
use super::load_figure::{Estimate, Unit, worst_of};
use super::{Bound, Comparison, Decider, Expectation, Judged};

/// A window is well from this share of good requests on,
const GOOD_MIN: f64 = 0.99;
/// or with at most this many bad ones.
const BAD_MAX: usize = 1;

/// One row.
#[derive(Debug)]
pub(super) struct Recovery {
    pub(super) load: String,
    pub(super) stream: Option<String>,
    pub(super) step: String,
    pub(super) within: Duration,
    pub(super) hold: Duration,
}

/// Where the windows begin that recovery looks at: from the onset until the heal and a window more, and before the next fault.
fn starts(case: &Case<'_>, fault: &FaultReport, onset_ms: f64, hold_ms: f64) -> Span {
    let healed_ms = fault.healed_ms.map_or(onset_ms, millis).max(onset_ms);
    let next_ms = case
        .evidence
        .faults
        .iter()
        .filter_map(|other| other.onset_ms.map(millis))
        .filter(|other| *other > onset_ms)
        .fold(f64::INFINITY, f64::min);
    Span {
        from_ms: onset_ms,
        to_ms: (healed_ms + hold_ms).min(next_ms),
    }
}

/// What was found of one stream.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    /// From the onset until it was well; `None` if it never was.
    recovered_ms: Option<f64>,
    /// Index of the first bad request of the last bad window.
    last_bad: Option<usize>,
    /// Whether every window was watched to its end.
    complete: bool,
}

/// Windows begin at the onset and at every intended time after it.
fn find(stream: &Watched<'_>, starts: Span, hold_ms: f64) -> Found {
    let all = &stream.all.samples;
    let first = all.partition_point(|sample| sample.intended_ms() < starts.from_ms);
    let begins = |index: usize| -> Option<f64> {
        if index == 0 {
            return Some(starts.from_ms);
        }
        let at = all.get(first + index - 1)?.intended_ms();
        (at < starts.to_ms && at < stream.counted.to_ms).then_some(at)
    };
    let (mut start, mut end, mut bad) = (first, first, 0_usize);
    let mut last_bad: Option<(usize, usize)> = None;
    let mut index = 0;
    while let Some(from_ms) = begins(index) {
        while all
            .get(start)
            .is_some_and(|sample| sample.intended_ms() < from_ms)
        {
            bad -= usize::from(start < end && !all[start].good());
            start += 1;
            end = end.max(start);
        }
        while let Some(sample) = all
            .get(end)
            .filter(|sample| sample.intended_ms() < from_ms + hold_ms)
        {
            bad += usize::from(!sample.good());
            end += 1;
        }
        // What a window that the load did not see to its end still would have held may have been good.
        let cut_ms = (from_ms + hold_ms - stream.counted.to_ms).max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of requests"
        )]
        let unseen = stream.due_in(cut_ms) as usize;
        let sent = end - start + unseen;
        if bad > BAD_MAX && share(sent - bad, sent) < GOOD_MIN {
            last_bad = Some((index, start));
        }
        index += 1;
    }
    let recovered = match last_bad {
        None => Some(starts.from_ms),
        Some((index, _)) => begins(index + 1),
    };
    Found {
        recovered_ms: recovered.map(|at| at - starts.from_ms),
        last_bad: last_bad.and_then(|(_, start)| {
            let bad = all[start..].iter().position(|sample| !sample.good())?;
            Some(start + bad)
        }),
        complete: starts.to_ms + hold_ms <= stream.counted.to_ms + stream.period_ms,
    }
}

/// From the onset of a fault until a stream was well for good; `None` if it was not.
pub(in crate::scenario) fn recovery_of(
    case: &Case<'_>,
    stream: &Watched<'_>,
    fault: &FaultReport,
    hold: Duration,
) -> Option<f64> {
    let onset_ms = millis(fault.onset_ms?);
    let hold_ms = hold.as_secs_f64() * 1000.0;
    find(stream, starts(case, fault, onset_ms, hold_ms), hold_ms).recovered_ms
}

impl Recovery {
    fn measure(&self, case: &Case<'_>) -> Result<Judged, Nothing> {
        case.step_span(&self.step)?;
        case.could_fail(&self.load, Some(&self.step))?;
        let fault = case.fault(&self.step);
        let (Some(fault), Some(onset_ms)) = (fault, fault.and_then(|fault| fault.onset_ms)) else {
            return Err(Nothing::Vacuous(format!(
                "step `{}` is not a fault that acted",
                self.step
            )));
        };
        let hold_ms = self.hold.as_secs_f64() * 1000.0;
        let starts = starts(case, fault, millis(onset_ms), hold_ms);
        let counted = case.counted(&self.load);
        let span = Span {
            to_ms: starts.to_ms + hold_ms,
            ..starts
        }
        .within(counted);
        let streams = case.watch(&self.load, self.stream.as_deref(), span, span.to_ms);
        if let Some(stream) = streams.iter().find(|stream| stream.samples.is_empty()) {
            return Err(Nothing::Vacuous(format!(
                "stream `{}` sent no request after the onset",
                stream.stream
            )));
        }
        let complete = streams
            .iter()
            .all(|stream| find(stream, starts, hold_ms).complete);
        let estimate = worst_of(&streams, |stream| Some(estimate(stream, starts, hold_ms)));
        let estimate = estimate.ok_or_else(|| Nothing::Vacuous("there is no stream".to_owned()))?;
        let bound = Bound {
            comparison: Comparison::AtMost,
            limit: self.within.as_secs_f64() * 1000.0,
        };
        let never = estimate.value.is_infinite();
        let mut state = if never {
            State::NotMet
        } else {
            bound.decide(estimate.low, estimate.high)
        };
        let mut note = never.then(|| "not recovered".to_owned());
        if state == State::Met && !complete {
            state = State::Undecided;
            note = Some("the load ended before recovery could be seen to hold".to_owned());
        }
        Ok(Judged {
            measured: if never {
                format!(
                    "`{}` not well again for {:.0} ms and more",
                    estimate.detail, estimate.low
                )
            } else {
                Unit::Millis.words(estimate.value)
            },
            error: format!("±{:.0} ms", case.period_ms(&self.load)),
            interval: Some((estimate.low, estimate.high)),
            state,
            note,
            decider: estimate.decider.map(|(stream, index)| Decider {
                load: self.load.clone(),
                stream,
                index,
            }),
            span: Some(span),
            unit: Some(Unit::Millis),
        })
    }
}

fn estimate(stream: &Watched<'_>, starts: Span, hold_ms: f64) -> Estimate {
    let found = find(stream, starts, hold_ms);
    let value = found.recovered_ms.unwrap_or(f64::INFINITY);
    let least = found
        .recovered_ms
        .unwrap_or_else(|| starts.within(stream.counted).length_ms());
    Estimate {
        value,
        low: (least - stream.edge_ms).max(0.0),
        high: value + stream.edge_ms + stream.paused_ms(),
        detail: stream.stream.to_owned(),
        decider: found
            .last_bad
            .map(|index| (stream.stream.to_owned(), index)),
    }
}

impl Expectation for Recovery {
    fn judge(&self, case: &Case<'_>) -> Judged {
        match self.measure(case) {
            Ok(judged) => judged,
            Err(Nothing::Vacuous(why)) => Judged::nothing(State::Vacuous, why),
            Err(Nothing::Unknown(why)) => Judged::nothing(State::Undecided, why),
        }
    }

    /// The last window begins a window after the heal.
    fn needs_tail(&self) -> Duration {
        self.hold * 2
    }

    fn recovery(&self) -> Option<(&str, &str, Duration)> {
        Some((&self.load, &self.step, self.hold))
    }
}

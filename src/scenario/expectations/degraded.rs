//! `degraded`: the time covered by seconds in which more than 1 % failed: outages and brown-outs.

use super::super::judge::watched::{Span, Watched, share};
use super::load_figure::{Estimate, LoadFigure, Unit, read_bound, worst_of};
use super::{Bound, FigureKind};
use crate::model::reader::Value;

/// The windows' length.
const WINDOW_MS: f64 = 1000.0;
/// A window with a larger share of bad requests is degraded.
const BAD_MAX: f64 = 0.01;

pub(super) const DEGRADED: FigureKind = FigureKind {
    key: "degraded",
    example: "\"<= 5s\"",
    read,
};

fn read(value: &Value<'_, '_>, kind: &FigureKind) -> Option<(Box<dyn LoadFigure>, Bound)> {
    let bound = read_bound(value, Unit::Millis, kind.example)?;
    Some((Box::new(Degraded), bound))
}

#[derive(Debug)]
struct Degraded;

impl LoadFigure for Degraded {
    fn unit(&self) -> Unit {
        Unit::Millis
    }

    fn measure(&self, streams: &[Watched<'_>], limit: f64) -> Option<Estimate> {
        worst_of(streams, |stream| Some(of_stream(stream, limit)))
    }

    fn sampled(&self) -> bool {
        true
    }
}

pub(super) fn of_stream(stream: &Watched<'_>, limit: f64) -> Estimate {
    // Each stretch with the index of its first request.
    let mut stretches: Vec<(Span, usize)> = Vec::new();
    for window in stream.windows(WINDOW_MS) {
        if share(window.bad, window.sent) <= BAD_MAX {
            continue;
        }
        let to_ms = window.from_ms + WINDOW_MS;
        match stretches.last_mut() {
            Some((last, _)) if window.from_ms <= last.to_ms => last.to_ms = to_ms,
            _ => {
                let span = Span {
                    from_ms: window.from_ms,
                    to_ms,
                };
                stretches.push((span, window.first));
            }
        }
    }
    let lengths = stretches.iter().map(|(span, _)| span.length_ms());
    let value = lengths.fold(0.0, |sum, length| sum + length);
    let (least, most) = edges(&stretches, stream.edge_ms);
    let mut sum_ms = 0.0;
    let exceeding = stretches.iter().find(|(span, _)| {
        sum_ms += span.length_ms();
        sum_ms > limit
    });
    let from = exceeding.or_else(|| stretches.first());
    Estimate {
        value,
        low: least,
        high: most + stream.paused_ms(),
        detail: String::new(),
        decider: from.and_then(|(_, from)| {
            let bad = stream.all.samples[*from..]
                .iter()
                .position(|sample| !sample.good())?;
            Some((stream.stream.to_owned(), from + bad))
        }),
    }
}

/// What is covered if every edge of every stretch is off by a period, one way or the other; what then overlaps counts once.
fn edges(stretches: &[(Span, usize)], period_ms: f64) -> (f64, f64) {
    let (mut least, mut most, mut covered_ms) = (0.0, 0.0, f64::NEG_INFINITY);
    for (span, _) in stretches {
        least += (span.length_ms() - 2.0 * period_ms).max(0.0);
        let (from_ms, to_ms) = (span.from_ms - period_ms, span.to_ms + period_ms);
        most += to_ms - from_ms.max(covered_ms);
        covered_ms = to_ms;
    }
    (least, most)
}

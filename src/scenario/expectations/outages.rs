//! `outages`, `longest_outage`, `downtime`: from the first bad request to the next good one that begins a run of good ones.

use super::super::judge::watched::{Outage, Watched};
use super::load_figure::{Estimate, LoadFigure, Unit, read_bound, worst_of};
use super::{Bound, FigureKind};
use crate::model::reader::Value;

pub(super) const OUTAGES: FigureKind = FigureKind {
    key: "outages",
    example: "\"<= 2\"",
    read: |value, kind| read(value, kind, Figure::Number),
};
pub(super) const LONGEST_OUTAGE: FigureKind = FigureKind {
    key: "longest_outage",
    example: "\"<= 3s\"",
    read: |value, kind| read(value, kind, Figure::Longest),
};
pub(super) const DOWNTIME: FigureKind = FigureKind {
    key: "downtime",
    example: "\"<= 5s\"",
    read: |value, kind| read(value, kind, Figure::Sum),
};

fn read(
    value: &Value<'_, '_>,
    kind: &FigureKind,
    figure: Figure,
) -> Option<(Box<dyn LoadFigure>, Bound)> {
    let bound = read_bound(value, figure.unit(), kind.example)?;
    Some((Box::new(figure), bound))
}

/// What of the outages is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Number,
    Longest,
    Sum,
}

impl LoadFigure for Figure {
    fn unit(&self) -> Unit {
        match self {
            Self::Number => Unit::Count,
            Self::Longest | Self::Sum => Unit::Millis,
        }
    }

    fn measure(&self, streams: &[Watched<'_>], limit: f64) -> Option<Estimate> {
        worst_of(streams, |stream| Some(self.of_stream(stream, limit)))
    }

    fn sampled(&self) -> bool {
        *self != Self::Number
    }
}

/// Number and longest of a stream's outages, with their keys.
pub(super) fn of_stream(stream: &Watched<'_>) -> [(&'static str, Unit, Estimate); 2] {
    [
        (OUTAGES.key, Figure::Number),
        (LONGEST_OUTAGE.key, Figure::Longest),
    ]
    .map(|(key, figure)| (key, figure.unit(), figure.of_stream(stream, f64::INFINITY)))
}

impl Figure {
    fn of_stream(self, stream: &Watched<'_>, limit: f64) -> Estimate {
        let outages = stream.outages();
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 outages")]
        let (number, pauses) = (outages.len() as f64, stream.pauses.len() as f64);
        // Nothing is seen between two requests, at either edge of an outage.
        let edges_ms = 2.0 * stream.edge_ms;
        let longest_ms = outages
            .iter()
            .map(|outage| outage.span.length_ms())
            .fold(0.0, f64::max);
        let lengths = outages.iter().map(|outage| outage.span.length_ms());
        let sum_ms = lengths.fold(0.0, |sum, length| sum + length);
        let least = outages
            .iter()
            .map(|outage| (outage.span.length_ms() - edges_ms).max(0.0));
        let least_ms = least.fold(0.0, |sum, length| sum + length);
        let (value, low, high) = match self {
            // Each pause may hide one.
            Self::Number => (number, number, number + pauses),
            Self::Longest => {
                let error = if outages.is_empty() { 0.0 } else { edges_ms };
                let high = longest_ms + error + stream.longest_pause_ms();
                (longest_ms, (longest_ms - error).max(0.0), high)
            }
            Self::Sum => (
                sum_ms,
                least_ms,
                sum_ms + edges_ms * number + stream.paused_ms(),
            ),
        };
        Estimate {
            value,
            low,
            high,
            detail: match (self, outages.as_slice()) {
                (Self::Sum, [_, ..]) => format!("{number:.0} outages"),
                _ => String::new(),
            },
            decider: self
                .decider(&outages, limit)
                .map(|outage| (stream.stream.to_owned(), outage.first)),
        }
    }

    /// The outage with which the figure came to exceed the limit, or the first.
    fn decider(self, outages: &[Outage], limit: f64) -> Option<&Outage> {
        let mut sum_ms = 0.0;
        let mut number = 0.0;
        let exceeding = outages.iter().find(|outage| {
            sum_ms += outage.span.length_ms();
            number += 1.0;
            match self {
                Self::Number => number > limit,
                Self::Longest => outage.span.length_ms() > limit,
                Self::Sum => sum_ms > limit,
            }
        });
        exceeding.or_else(|| outages.first())
    }
}

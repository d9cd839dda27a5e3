//! `p50` … `max`: latency from the intended time, where a failed request took its whole deadline.

use hdrhistogram::Histogram;

use super::super::judge::watched::Watched;
use super::super::report::Latency;
use super::super::requests::Sample;
use super::load_figure::{Estimate, LoadFigure, Unit, read_bound, worst_of};
use super::{Bound, FigureKind};
use crate::model::reader::Value;

/// Latencies are at most this, an hour; longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

pub(super) const P50: FigureKind = kind("p50", |value, kind| read(value, kind, 0.5));
pub(super) const P90: FigureKind = kind("p90", |value, kind| read(value, kind, 0.9));
pub(super) const P99: FigureKind = kind("p99", |value, kind| read(value, kind, 0.99));
pub(super) const P999: FigureKind = kind("p999", |value, kind| read(value, kind, 0.999));
pub(super) const MAX: FigureKind = kind("max", |value, kind| read(value, kind, 1.0));

type Read = fn(&Value<'_, '_>, &FigureKind) -> Option<(Box<dyn LoadFigure>, Bound)>;

const fn kind(key: &'static str, read: Read) -> FigureKind {
    FigureKind {
        key,
        example: "\"<= 300ms\"",
        read,
    }
}

fn read(
    value: &Value<'_, '_>,
    kind: &FigureKind,
    quantile: f64,
) -> Option<(Box<dyn LoadFigure>, Bound)> {
    let bound = read_bound(value, Unit::Millis, kind.example)?;
    Some((Box::new(Percentile { quantile }), bound))
}

#[derive(Debug)]
struct Percentile {
    quantile: f64,
}

impl LoadFigure for Percentile {
    fn unit(&self) -> Unit {
        Unit::Millis
    }

    fn measure(&self, streams: &[Watched<'_>], limit: f64) -> Option<Estimate> {
        worst_of(streams, |stream| self.of_stream(stream, limit))
    }
}

impl Percentile {
    fn of_stream(&self, stream: &Watched<'_>, limit: f64) -> Option<Estimate> {
        let (mut least, mut measured, mut most) = (histogram(), histogram(), histogram());
        for sample in stream.samples {
            let latency = latency_us(sample, stream.deadline_us);
            measured.saturating_record(latency);
            // What the prober sent late may have been answered at once, or not at all.
            let (low, high) = if sample.late() {
                (0, latency.max(stream.deadline_us))
            } else {
                (latency, latency)
            };
            least.saturating_record(low);
            most.saturating_record(high);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of requests"
        )]
        least.saturating_record_n(0, stream.missing as u64);
        if measured.is_empty() {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "far less than 2^52 microseconds"
        )]
        let millis = |us: u64| us as f64 / 1000.0;
        let low = least.value_at_quantile(self.quantile);
        let high = most.value_at_quantile(self.quantile);
        let slow = stream
            .samples
            .iter()
            .position(|sample| millis(latency_us(sample, stream.deadline_us)) > limit);
        Some(Estimate {
            value: millis(measured.value_at_quantile(self.quantile)),
            low: millis(least.lowest_equivalent(low)),
            high: millis(most.highest_equivalent(high)),
            detail: String::new(),
            decider: slow.map(|index| (stream.stream.to_owned(), stream.first + index)),
        })
    }
}

/// The longest latency, with its error.
pub(in crate::scenario) fn max_of(stream: &Watched<'_>) -> Option<Estimate> {
    Percentile { quantile: 1.0 }.of_stream(stream, f64::INFINITY)
}

/// How long a request took: a failed one its whole deadline, or longer if it ended later. A quick refusal is no quick answer.
pub(in crate::scenario) fn latency_us(sample: &Sample, deadline_us: u64) -> u64 {
    if sample.good() {
        sample.latency_us()
    } else {
        sample.latency_us().max(deadline_us)
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .expect("three digits of these bounds are allowed")
}

/// All percentiles of a stream in its span, to three digits.
pub(in crate::scenario) fn latency_of(stream: &Watched<'_>) -> Latency {
    let mut histogram = histogram();
    for sample in stream.samples {
        histogram.saturating_record(latency_us(sample, stream.deadline_us));
    }
    if histogram.is_empty() {
        return Latency::default();
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "far less than 2^52 microseconds"
    )]
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    }
}

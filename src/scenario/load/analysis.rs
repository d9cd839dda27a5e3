//! Whether a load's baseline is reached: a pure function of its records.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::Record;
use crate::scenario::spec::{Baseline, StreamKind};

/// Latencies are at most this, an hour; longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// `part` of `whole`, 1 if there is nothing.
#[must_use]
pub fn share(part: usize, whole: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    if whole == 0 {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

/// Latency from the intended time.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// The latency of all these requests, failed ones too, to three digits.
#[must_use]
pub fn latency<'a>(records: impl IntoIterator<Item = &'a Record>) -> Latency {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of microseconds"
    )]
    let micros = |record: &Record| (record.latency_ms().max(0.0) * 1000.0) as u64;
    latency_of_us(records.into_iter().map(micros))
}

/// The same of latencies in microseconds.
#[must_use]
pub fn latency_of_us(latencies_us: impl IntoIterator<Item = u64>) -> Latency {
    let mut histogram: Histogram<u64> = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .expect("three digits of these bounds are allowed");
    for us in latencies_us {
        histogram.saturating_record(us);
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "far fewer than 2^52 microseconds"
    )]
    let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    if histogram.is_empty() {
        return Latency::default();
    }
    Latency {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
    }
}

/// Where a baseline was reached, or how the last window looked.
#[derive(Debug, Clone, PartialEq)]
pub enum BaselineState {
    /// The window that begins here is good.
    Reached {
        /// Its start.
        from_ms: f64,
    },
    /// Not yet, and why.
    NotYet(String),
}

/// Looks at the newest window of `baseline.window` that is complete: every request intended before `settled_ms` is over.
#[must_use]
pub fn baseline(
    records: &[Record],
    streams: &[StreamKind],
    baseline: &Baseline,
    begin_ms: f64,
    settled_ms: f64,
) -> BaselineState {
    let window_ms = baseline.window.as_secs_f64() * 1000.0;
    let from_ms = settled_ms - window_ms;
    if from_ms < begin_ms {
        return BaselineState::NotYet("the load has not run for long enough".to_owned());
    }
    for &stream in streams {
        let within: Vec<&Record> = records
            .iter()
            .filter(|r| r.stream == stream && (from_ms..settled_ms).contains(&r.intended_ms))
            .collect();
        let good = within.iter().filter(|record| record.good()).count();
        if within.is_empty() {
            return BaselineState::NotYet(format!("stream `{}` sent nothing", stream.name()));
        }
        if share(good, within.len()) < baseline.good {
            let classes = by_class(within.iter().copied());
            let bad: Vec<String> = classes
                .iter()
                .filter(|(class, _)| **class != "ok")
                .map(|(class, count)| format!("{class} {count}"))
                .collect();
            let (stream, sent) = (stream.name(), within.len());
            return BaselineState::NotYet(format!(
                "stream `{stream}`: {good} of {sent} good ({})",
                bad.join(", ")
            ));
        }
        let p99 = latency(within.iter().copied()).p99;
        if let Some(limit) = baseline.p99
            && p99 > limit.as_secs_f64() * 1000.0
        {
            return BaselineState::NotYet(format!(
                "stream `{}`: p99 {p99:.0} ms, not {} ms",
                stream.name(),
                limit.as_millis()
            ));
        }
    }
    BaselineState::Reached { from_ms }
}

/// How many requests ended in each class.
#[must_use]
pub fn by_class<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeMap<&'static str, u64> {
    let mut classes = BTreeMap::new();
    for record in records {
        *classes.entry(record.class.name()).or_default() += 1;
    }
    classes
}

#[cfg(test)]
mod tests;

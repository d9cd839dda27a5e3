//! What the records of a load say: outages, recovery, latency, versions. Pure functions of the records.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::Record;
use crate::scenario::spec::{Baseline, StreamKind};

/// Bad runs with fewer good requests than this between them are one outage.
pub const GOOD_RUN_MIN: usize = 3;
/// A window counts as recovered from this share of good requests on.
pub const RECOVERED_SHARE: f64 = 0.99;

/// Latencies are at most this, an hour; longer ones count as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// From the intended time of the first bad request to that of the next good one.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Outage {
    /// Its first bad request.
    pub from_ms: f64,
    /// The next good request; the end of the load if there was none.
    pub to_ms: f64,
}

impl Outage {
    /// How long it was.
    #[must_use]
    pub fn length_ms(&self) -> f64 {
        self.to_ms - self.from_ms
    }
}

/// The outages of one stream; `records` by intended time, `end_ms` when the next request would have been due.
#[must_use]
pub fn outages(records: &[&Record], end_ms: f64) -> Vec<Outage> {
    let mut outages: Vec<Outage> = Vec::new();
    let mut open: Option<f64> = None;
    let mut goods_since_last = usize::MAX;
    for record in records {
        if record.good() {
            if let Some(from_ms) = open.take() {
                outages.push(Outage {
                    from_ms,
                    to_ms: record.intended_ms,
                });
                goods_since_last = 0;
            }
            goods_since_last = goods_since_last.saturating_add(1);
        } else if open.is_none() {
            let merged = if goods_since_last < GOOD_RUN_MIN {
                outages.pop()
            } else {
                None
            };
            open = Some(merged.map_or(record.intended_ms, |outage| outage.from_ms));
        }
    }
    outages.extend(open.map(|from_ms| Outage {
        from_ms,
        to_ms: end_ms,
    }));
    outages
}

/// From `onset_ms` to the start of the first window of `hold_ms` with at least 99 % good requests, for one stream. `Err` holds the
/// lower bound when no window within the records was like that.
pub fn recovery_ms(
    records: &[&Record],
    onset_ms: f64,
    hold_ms: f64,
    end_ms: f64,
) -> Result<f64, f64> {
    let after: Vec<&&Record> = records
        .iter()
        .filter(|record| record.intended_ms >= onset_ms)
        .collect();
    let mut end = 0;
    let mut good = 0_usize;
    for (start, first) in after.iter().enumerate() {
        // The first window begins with the onset itself.
        let window_start = if start == 0 {
            onset_ms
        } else {
            first.intended_ms
        };
        let window_end = window_start + hold_ms;
        if window_end > end_ms {
            break;
        }
        while end < after.len() && after[end].intended_ms < window_end {
            good += usize::from(after[end].good());
            end += 1;
        }
        let count = end - start;
        if first.good() && count > 0 && share(good, count) >= RECOVERED_SHARE {
            return Ok(window_start - onset_ms);
        }
        good -= usize::from(first.good());
    }
    Err((end_ms - onset_ms).max(0.0))
}

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
    let mut histogram: Histogram<u64> = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
        .expect("three digits of these bounds are allowed");
    for record in records {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of microseconds"
        )]
        histogram.saturating_record((record.latency_ms().max(0.0) * 1000.0) as u64);
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

/// How many answers each version gave.
#[must_use]
pub fn versions<'a>(records: impl IntoIterator<Item = &'a Record>) -> BTreeMap<String, u64> {
    let mut versions = BTreeMap::new();
    for version in records
        .into_iter()
        .filter_map(|record| record.version.clone())
    {
        *versions.entry(version).or_default() += 1;
    }
    versions
}

/// When one version took over for good.
#[derive(Debug, Clone, PartialEq)]
pub struct Takeover {
    /// The version that answered last.
    pub version: String,
    /// When the last request was sent that another version answered.
    pub last_other_ms: Option<f64>,
    /// How many answers the version gave after that.
    pub answers_since: usize,
}

/// Which version answers at the end, in the order of the intended times; `None` if no answer carried one.
#[must_use]
pub fn takeover(records: &[Record]) -> Option<Takeover> {
    let answers: Vec<(&Record, &String)> = records
        .iter()
        .filter_map(|r| Some((r, r.version.as_ref()?)))
        .collect();
    let (_, version) = answers.last()?;
    let last_other = answers.iter().rposition(|(_, other)| other != version);
    Some(Takeover {
        version: (*version).clone(),
        last_other_ms: last_other.map(|at| answers[at].0.intended_ms),
        answers_since: answers.len() - last_other.map_or(0, |at| at + 1),
    })
}

#[cfg(test)]
mod tests;

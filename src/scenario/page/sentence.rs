//! The one sentence beside the verdict: what failed first, when, and how far from its bound; for a PASS the nearest bound.

use super::bound::{self, Unit};
use super::history::whole;
use super::run::StoredRun;
use super::svg::{duration, number};
use crate::scenario::report::{ExpectationReport, State, Verdict};

/// The sentence.
#[must_use]
pub fn of(run: &StoredRun) -> String {
    let report = &run.report;
    let reason = || report.reasons.first().cloned();
    match report.verdict {
        Verdict::Pass => nearest(run)
            .unwrap_or_else(|| format!("{} expectations held.", report.expectations.len())),
        Verdict::Fail => match report
            .expectations
            .iter()
            .find(|row| row.state == State::NotMet)
        {
            Some(row) => format!("{}{}.", measured(row), first_failure(run, row)),
            None => reason().unwrap_or_else(|| "a step failed".to_owned()),
        },
        _ => reason().unwrap_or_else(|| "no reason was given".to_owned()),
    }
}

/// `web.new.longest_outage` was 4.1 s ±83 ms, expected <= 3s.
fn measured(row: &ExpectationReport) -> String {
    format!(
        "{} was {} {}, expected {}",
        row.name, row.measured, row.error, row.expected
    )
}

/// When the first request failed, and how long after which fault.
fn first_failure(run: &StoredRun, row: &ExpectationReport) -> String {
    let subject = bound::subject(run, &row.name);
    let Some(load) = subject.load else {
        return String::new();
    };
    let streams = run.requests.streams.iter().filter(|((of, stream), _)| {
        of == load && subject.stream.is_none_or(|wanted| wanted == stream)
    });
    let first = streams
        .filter_map(|(_, stream)| stream.requests.iter().find(|request| !request.good()))
        .min_by_key(|request| request.intended_us);
    let Some(first) = first else {
        return String::new();
    };
    let at_ms = first.intended_ms();
    format!(
        "; the first request failed at {}{}",
        duration(at_ms),
        after_fault(run, at_ms)
    )
}

/// `, 1.1 s after kill took effect`.
#[must_use]
pub fn after_fault(run: &StoredRun, at_ms: f64) -> String {
    let onsets = run
        .report
        .faults
        .iter()
        .filter_map(|fault| Some((fault, whole(fault.onset_ms?))));
    let last = onsets
        .filter(|(_, onset_ms)| *onset_ms <= at_ms)
        .max_by(|a, b| a.1.total_cmp(&b.1));
    last.map_or_else(String::new, |(fault, onset_ms)| {
        format!(
            ", {} after `{}` took effect",
            duration(at_ms - onset_ms),
            fault.id
        )
    })
}

/// The expectation that came closest to its bound.
fn nearest(run: &StoredRun) -> Option<String> {
    let rows = run.report.expectations.iter();
    let (used, row) = rows
        .filter_map(|row| Some((bound::used(row)?, row)))
        .max_by(|a, b| a.0.total_cmp(&b.0))?;
    let bound = bound::parse(&row.expected)?;
    let high = row.high.or(row.low)?;
    let (value, limit) = match bound.unit {
        Unit::Share => (percent(high), percent(bound.limit)),
        Unit::Millis => (duration(high), duration(bound.limit)),
        Unit::Count => (number(high), number(bound.limit)),
    };
    Some(format!(
        "All {} expectations held; nearest bound: {} at most {value} of {limit} ({:.0} %).",
        run.report.expectations.len(),
        row.name,
        used * 100.0
    ))
}

/// A share in percent.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{} %", number((share * 1e5).round() / 1e3))
}

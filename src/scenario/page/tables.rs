//! What the page says in words: head, expectations, failed requests, streams, faults, steps, events.

use std::path::Path;

use serde::Serialize;
use tera::Context;

use super::bound::{self, Unit};
use super::history::whole;
use super::index::address;
use super::lanes;
use super::run::StoredRun;
use super::sentence::{self, percent};
use super::stored::{FAILURES_KEPT, Request, millis};
use super::svg::{duration, number, shape};
use crate::scenario::report::{ExpectationReport, State, Verdict};

/// So many failed requests stand in the page.
const FAILED_ROWS_MAX: usize = 2_000;
/// So many events stand in the page.
const EVENT_ROWS_MAX: usize = 2_000;

/// Fills in everything but the timeline and the requests.
pub fn fill(context: &mut Context, run: &StoredRun) {
    let report = &run.report;
    context.insert("title", &report.title());
    context.insert("verdict", report.verdict.word());
    context.insert("verdict_class", &report.verdict.word().to_lowercase());
    context.insert("verdict_mark", mark(report.verdict));
    context.insert("sentence", &sentence::of(run));
    context.insert("reasons", &report.reasons);
    context.insert("more_reasons", &more_reasons(run));
    context.insert("facts", &facts(run));
    context.insert(
        "replay",
        &format!("flightcage run scenario.toml --seed {}", report.seed),
    );
    context.insert("expectations", &expectations(run));
    context.insert("ticks", &ticks(run));
    context.insert("faults", &faults(run));
    context.insert("tints", &tints(run));
    context.insert("rules", &rules(run));
    context.insert("classes", &classes(run));
    let failed = failed(run);
    context.insert(
        "failed_all",
        &run.requests
            .streams
            .values()
            .map(super::stored::Stream::failures)
            .sum::<usize>(),
    );
    context.insert("failed_shown", &failed.len());
    context.insert(
        "has_status",
        &failed.iter().any(|row| !row.status.is_empty()),
    );
    context.insert(
        "has_endpoint",
        &failed.iter().any(|row| !row.endpoint.is_empty()),
    );
    context.insert(
        "has_version",
        &failed.iter().any(|row| !row.version.is_empty()),
    );
    context.insert("failed", &failed);
    context.insert("streams", &streams(run));
    context.insert("not_applied", &report.not_applied);
    context.insert("steps", &steps(run));
    context.insert("events", &events(run));
    context.insert("events_all", &report.events.len());
    context.insert("evidence", &evidence(run));
    context.insert("scenario", &run.scenario);
    context.insert("flightcage", env!("CARGO_PKG_VERSION"));
}

pub(super) fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "●",
        Verdict::Fail => "■",
        Verdict::Inconclusive => "◆",
        Verdict::Skipped => "▷",
        Verdict::Invalid => "✕",
    }
}

/// Reasons that the sentence does not say already.
fn more_reasons(run: &StoredRun) -> Vec<&String> {
    let skip = usize::from(!matches!(run.report.verdict, Verdict::Pass | Verdict::Fail));
    run.report.reasons.iter().skip(skip).collect()
}

fn facts(run: &StoredRun) -> Vec<(&'static str, String)> {
    let report = &run.report;
    let sent: u64 = run.streams().map(|(_, _, figures)| figures.sent).sum();
    let failed: u64 = run.streams().map(|(_, _, figures)| figures.failed).sum();
    vec![
        (
            "target",
            format!("{} · {}", report.target.provider, report.target.accel),
        ),
        ("nodes", report.target.nodes.to_string()),
        ("seed", report.seed.to_string()),
        ("length", duration(run.axis.to_ms)),
        ("requests", format!("{sent} counted, {failed} failed")),
        ("faults", report.faults.len().to_string()),
    ]
}

#[derive(Serialize)]
struct ExpectationRow<'a> {
    name: &'a str,
    expected: &'a str,
    measured: &'a str,
    error: &'a str,
    state: &'static str,
    class: &'static str,
    mark: &'static str,
    from: String,
    to: String,
    /// Widths of the bar in percent: what was measured, and the interval around it.
    bar: Option<Bar>,
}

#[derive(Serialize)]
struct Bar {
    low: String,
    width: String,
    told: String,
}

fn expectations(run: &StoredRun) -> Vec<ExpectationRow<'_>> {
    run.report
        .expectations
        .iter()
        .map(|row| expectation(run, row))
        .collect()
}

fn expectation<'a>(run: &StoredRun, row: &'a ExpectationReport) -> ExpectationRow<'a> {
    let (class, mark) = match row.state {
        State::Met => ("pass", "●"),
        State::NotMet => ("fail", "■"),
        State::Undecided => ("inconclusive", "◆"),
        State::Vacuous => ("vacuous", "○"),
    };
    let (from_ms, to_ms) = bound::decided(run, &row.name);
    ExpectationRow {
        name: &row.name,
        expected: &row.expected,
        measured: &row.measured,
        error: &row.error,
        state: row.state.words(),
        class,
        mark,
        from: number(from_ms),
        to: number(to_ms),
        bar: bar(row),
    }
}

/// The interval beside its bound, which stands at 80 % of the width; what is far beyond ends at the edge.
fn bar(row: &ExpectationReport) -> Option<Bar> {
    const BOUND_AT: f64 = 80.0;
    let bound = bound::parse(&row.expected)?;
    if bound.unit == Unit::Count || bound.limit <= 0.0 {
        return None;
    }
    let low = row.low.unwrap_or(0.0);
    let high = row.high.unwrap_or(f64::INFINITY);
    let place = |value: f64| (value / bound.limit * BOUND_AT).clamp(0.0, 100.0);
    let told = |value: f64| match bound.unit {
        Unit::Share => percent(value),
        _ if value.is_infinite() => "more".to_owned(),
        _ => duration(value),
    };
    Some(Bar {
        low: number(place(low)),
        width: number(place(high) - place(low)),
        told: format!(
            "between {} and {}, bound {}",
            told(low),
            told(high),
            told(bound.limit)
        ),
    })
}

fn ticks(run: &StoredRun) -> Vec<(String, String)> {
    let ticks = run.axis.ticks(12.0).into_iter();
    ticks
        .map(|ms| (run.axis.percent(ms), format!("{} s", number(ms / 1000.0))))
        .collect()
}

/// Links to what else was kept, with their words.
fn evidence(run: &StoredRun) -> Vec<(String, &str)> {
    let link = |file: &'_ String| address(Path::new(file));
    let words = |file: &'_ str| {
        file.split_once('/')
            .map_or(0, |(folder, _)| folder.len() + 1)
    };
    run.evidence
        .iter()
        .map(|file| (link(file), &file[words(file)..]))
        .collect()
}

#[derive(Serialize)]
struct FaultRow<'a> {
    id: &'a str,
    kind: &'a str,
    target: &'a str,
    requested: String,
    onset: String,
    healed: String,
    verified: &'static str,
    measured: &'a str,
    struck: String,
    from: String,
    to: String,
}

fn faults(run: &StoredRun) -> Vec<FaultRow<'_>> {
    run.report
        .faults
        .iter()
        .map(|fault| {
            let from_ms = whole(fault.onset_ms.unwrap_or(fault.requested_ms));
            let to_ms = fault.healed_ms.map_or(run.axis.to_ms, whole);
            let at = |ms: Option<u64>| ms.map_or_else(|| "—".to_owned(), |ms| duration(whole(ms)));
            FaultRow {
                id: &fault.id,
                kind: &fault.kind,
                target: &fault.target,
                requested: at(Some(fault.requested_ms)),
                onset: at(fault.onset_ms),
                healed: at(fault.healed_ms),
                verified: if fault.verified { "yes" } else { "no" },
                measured: fault.measured.as_deref().unwrap_or(""),
                struck: run
                    .report
                    .struck
                    .get(&fault.id)
                    .map(|pods| pods.join(", "))
                    .unwrap_or_default(),
                from: number(from_ms),
                to: number(to_ms),
            }
        })
        .collect()
}

/// Where faults acted, as left edge and width in percent.
pub(super) fn tints(run: &StoredRun) -> Vec<(String, String)> {
    let acted = run
        .report
        .faults
        .iter()
        .filter_map(|fault| Some((fault.onset_ms?, fault.healed_ms)));
    acted
        .map(|(onset, healed)| {
            let (from_ms, to_ms) = (whole(onset), healed.map_or(run.axis.to_ms, whole));
            (run.axis.percent(from_ms), run.axis.width(from_ms, to_ms))
        })
        .collect()
}

/// The figures at the left edge of each stream's plot, by the name of the stream.
fn rules(run: &StoredRun) -> std::collections::BTreeMap<String, Vec<(String, String)>> {
    let of = |(load, stream, _): (&str, &str, _)| {
        let rules = lanes::requests::rules(run, load).into_iter();
        let rules = rules.map(|(y, text)| (number(y), text)).collect();
        (format!("{load}.{stream}"), rules)
    };
    run.streams().map(of).collect()
}

fn classes(run: &StoredRun) -> Vec<(String, &'static str)> {
    let seen = lanes::requests::classes_seen(&run.requests).into_iter();
    seen.map(|class| (class.to_owned(), shape(class))).collect()
}

#[derive(Serialize)]
struct FailedRow {
    /// `web.new.731`: its number in its stream, from 1.
    anchor: String,
    class: String,
    shape: &'static str,
    stream: String,
    at: String,
    intended: String,
    sent: String,
    connected: String,
    first_byte: String,
    end: String,
    status: String,
    connection: String,
    endpoint: String,
    version: String,
}

fn failed(run: &StoredRun) -> Vec<FailedRow> {
    let stored = &run.requests;
    let mut rows: Vec<(u64, FailedRow)> = Vec::new();
    for ((load, name), stream) in &stored.streams {
        debug_assert!(stream.failed.len() <= FAILURES_KEPT, "no more are kept");
        for failed in &stream.failed {
            let request: &Request = &stream.requests[failed.index];
            let since = |us: Option<u64>| {
                us.map_or_else(
                    || "—".to_owned(),
                    |us| format!("+{}", duration(millis(us) - request.intended_ms())),
                )
            };
            let row = FailedRow {
                anchor: format!("{load}.{name}.{}", failed.index + 1),
                class: stored.class(request).to_owned(),
                shape: shape(stored.class(request)),
                stream: format!("{load}.{name}"),
                at: number(request.intended_ms()),
                intended: format!("{:.3}", request.intended_ms() / 1000.0),
                sent: format!("+{}", duration(request.delay_ms())),
                connected: since(failed.connected_us),
                first_byte: since(failed.first_byte_us),
                end: format!("+{}", duration(request.latency_ms())),
                status: failed
                    .status
                    .map(|status| status.to_string())
                    .unwrap_or_default(),
                connection: if request.connection == 0 {
                    "—".to_owned()
                } else {
                    request.connection.to_string()
                },
                endpoint: stored.endpoint(request).unwrap_or("").to_owned(),
                version: stored.version(request).unwrap_or("").to_owned(),
            };
            rows.push((request.intended_us, row));
        }
    }
    rows.sort_by_key(|(at, _)| *at);
    rows.into_iter()
        .take(FAILED_ROWS_MAX)
        .map(|(_, row)| row)
        .collect()
}

#[derive(Serialize)]
struct StreamRow {
    name: String,
    sent: u64,
    good: u64,
    failed: u64,
    share: String,
    classes: String,
    late: u64,
    outages: usize,
    longest: String,
    percentiles: Vec<String>,
    versions: String,
}

fn streams(run: &StoredRun) -> Vec<StreamRow> {
    let counts = |counts: &std::collections::BTreeMap<String, u64>| {
        let counts: Vec<String> = counts
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        counts.join(", ")
    };
    run.streams()
        .map(|(load, stream, figures)| {
            let latency = figures.latency_ms;
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
            let share = figures.failed as f64 / figures.sent.max(1) as f64;
            StreamRow {
                name: format!("{load}.{stream}"),
                sent: figures.sent,
                good: figures.good,
                failed: figures.failed,
                share: format!("{:.2} %", share * 100.0),
                classes: counts(&figures.by_class),
                late: figures.late,
                outages: figures.outages.len(),
                longest: if figures.outages.is_empty() {
                    "—".to_owned()
                } else {
                    duration(whole(figures.longest_outage_ms))
                },
                percentiles: [
                    latency.p50,
                    latency.p90,
                    latency.p99,
                    latency.p999,
                    latency.max,
                ]
                .map(duration)
                .to_vec(),
                versions: counts(&figures.versions),
            }
        })
        .collect()
}

#[derive(Serialize)]
struct StepRow<'a> {
    id: &'a str,
    from: String,
    to: String,
    begun: String,
    took: String,
    failed: &'a str,
}

fn steps(run: &StoredRun) -> Vec<StepRow<'_>> {
    run.report
        .steps
        .iter()
        .map(|step| StepRow {
            id: &step.id,
            from: number(whole(step.start_ms)),
            to: number(whole(step.end_ms)),
            begun: duration(whole(step.start_ms)),
            took: duration(whole(step.end_ms) - whole(step.start_ms)),
            failed: step.failed.as_deref().unwrap_or(""),
        })
        .collect()
}

#[derive(Serialize)]
struct EventRow<'a> {
    at: String,
    at_ms: u64,
    kind: &'a str,
    object: &'a str,
}

fn events(run: &StoredRun) -> Vec<EventRow<'_>> {
    let shown = run.report.events.iter().take(EVENT_ROWS_MAX);
    shown
        .map(|event| EventRow {
            at: format!("{:.2}", whole(event.at_ms) / 1000.0),
            at_ms: event.at_ms,
            kind: &event.kind,
            object: &event.object,
        })
        .collect()
}

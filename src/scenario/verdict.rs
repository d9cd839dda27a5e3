//! From what was measured to rows and a verdict: a pure function.

use std::collections::BTreeMap;
use std::time::Duration;

use super::host::Starvation;
use super::load::analysis::{
    RECOVERED_SHARE, by_class, latency, outages, recovery_ms, share, takeover, versions,
};
use super::load::{Pause, Record};
use super::report::{
    ExpectationReport, FAILURES_SHOWN, FailureReport, FaultReport, LoadReport, OutageReport,
    SpanReport, State, StreamReport, Verdict, rounded as millis,
};
use super::spec::{Check, Expectation, Load, Scenario, StreamKind};

/// More late requests, or more sleep of the prober, than this share make a run inconclusive.
const LATE_SHARE_MAX: f64 = 0.01;
/// Machines that were starved for more of the run than this may have failed for that alone.
const STARVED_SHARE_MAX: f64 = 0.05;
/// Fewer requests than this on a stream say nothing.
const SENT_MIN: usize = 50;
/// How long a stream must stay good for its recovery to be told when no expectation says.
const HOLD: Duration = Duration::from_secs(5);
/// The error of what is counted exactly.
const COUNTED: &str = "±0";

/// What a run measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// The loads' records from the start of their baseline.
    pub loads: BTreeMap<String, MeasuredLoad>,
    /// The faults.
    pub faults: Vec<FaultReport>,
    /// Ready replicas at the end, by ReplicationController; one that does not exist has none.
    pub replicas: BTreeMap<String, u32>,
    /// Faults that still act.
    pub faults_left: u32,
    /// Pods that were deleted during the run.
    pub pods_deleted: u32,
    /// When each rolling update ended.
    pub updates_ended_ms: Vec<f64>,
    /// Why a step failed.
    pub step_failures: Vec<String>,
    /// Why the run cannot be judged.
    pub doubts: Vec<String>,
    /// Whether the machines had the host's processors to themselves.
    pub starvation: Starvation,
}

/// What one load measured.
#[derive(Debug, Clone, Default)]
pub struct MeasuredLoad {
    /// All requests, by intended time.
    pub records: Vec<Record>,
    /// When its baseline began.
    pub from_ms: f64,
    /// When the schedules ended.
    pub end_ms: f64,
    /// How long the prober slept meanwhile.
    pub stalled: Duration,
}

impl MeasuredLoad {
    /// What of a load counts: what was intended from `from_ms`, the start of its baseline, to `end_ms`, the end of all schedules.
    #[must_use]
    pub fn between(from_ms: f64, end_ms: f64, mut records: Vec<Record>, pauses: &[Pause]) -> Self {
        records.retain(|record| (from_ms..end_ms).contains(&record.intended_ms));
        let inside =
            |pause: &Pause| (pause.to_ms.min(end_ms) - pause.from_ms.max(from_ms)).max(0.0);
        let stalled = Duration::from_secs_f64(pauses.iter().map(inside).sum::<f64>() / 1000.0);
        Self {
            records,
            from_ms,
            end_ms,
            stalled,
        }
    }
}

/// The judgement.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// How it ended.
    pub verdict: Verdict,
    /// Why it did not pass.
    pub reasons: Vec<String>,
    /// One row an expectation.
    pub rows: Vec<ExpectationReport>,
    /// The loads' figures.
    pub loads: BTreeMap<String, LoadReport>,
}

/// Judges a run.
#[must_use]
pub fn judge(scenario: &Scenario, measured: &Measured) -> Judgement {
    let loads = scenario
        .loads
        .iter()
        .filter_map(|(name, load)| {
            Some((
                name.clone(),
                load_report(
                    load,
                    measured.loads.get(name)?,
                    measured,
                    &holds(scenario, name),
                ),
            ))
        })
        .collect();
    let rows: Vec<ExpectationReport> = scenario
        .expectations
        .iter()
        .map(|expectation| row(scenario, expectation, measured))
        .collect();
    let mut doubts = measured.doubts.clone();
    doubts.extend(
        measured
            .faults
            .iter()
            .filter(|f| !f.verified)
            .map(|f| format!("fault `{}` was not seen to take effect", f.id)),
    );
    for (name, load) in &measured.loads {
        doubts.extend(load_doubts(name, &scenario.loads[name], load));
    }
    let mut failures = measured.step_failures.clone();
    failures.extend(rows.iter().filter(|row| !row.ok).map(|row| {
        format!(
            "{}: expected {}, measured {}",
            row.name, row.expected, row.measured
        )
    }));
    // What passes on a starved host passes all the more on another.
    if !failures.is_empty() {
        doubts.extend(starvation_doubt(&measured.starvation));
    }
    let (verdict, reasons) = if !doubts.is_empty() {
        doubts.extend(failures);
        (Verdict::Inconclusive, doubts)
    } else if failures.is_empty() {
        (Verdict::Pass, Vec::new())
    } else {
        (Verdict::Fail, failures)
    };
    Judgement {
        verdict,
        reasons,
        rows,
        loads,
    }
}

fn load_doubts(name: &str, spec: &Load, load: &MeasuredLoad) -> Vec<String> {
    let mut doubts = Vec::new();
    for &stream in &spec.streams {
        let records = of_stream(load, stream);
        let late = records.iter().filter(|record| record.late()).count();
        let prober = records
            .iter()
            .filter(|record| record.class == super::load::Class::Prober)
            .count();
        let stream = stream.name();
        if records.len() < SENT_MIN {
            doubts.push(format!(
                "{name}.{stream}: only {} requests were sent, fewer than {SENT_MIN}",
                records.len()
            ));
        } else if share(late, records.len()) > LATE_SHARE_MAX {
            doubts.push(format!(
                "{name}.{stream}: the prober sent {late} of {} requests more than 50 ms late",
                records.len()
            ));
        } else if share(prober, records.len()) > LATE_SHARE_MAX {
            doubts.push(format!(
                "{name}.{stream}: the prober itself could not ask {prober} times"
            ));
        }
    }
    let begin_ms = load
        .records
        .first()
        .map_or(load.end_ms, |record| record.intended_ms);
    let ran_ms = load.end_ms - begin_ms;
    let stalled_ms = load.stalled.as_secs_f64() * 1000.0;
    if ran_ms > 0.0 && stalled_ms / ran_ms > LATE_SHARE_MAX {
        doubts.push(format!(
            "{name}: the prober itself slept for {stalled_ms:.0} of {ran_ms:.0} ms"
        ));
    }
    doubts
}

fn starvation_doubt(starvation: &Starvation) -> Option<String> {
    let Starvation {
        watched,
        starved,
        others,
    } = starvation;
    (starved.as_secs_f64() > STARVED_SHARE_MAX * watched.as_secs_f64()).then(|| {
        let (percent, starved, watched) = (others * 100.0, starved.as_secs_f64(), watched.as_secs_f64());
        format!(
            "other programs took {percent:.0} % of this host's processors, and left none idle, for {starved:.0} of {watched:.0} s: \
             what failed may be theirs"
        )
    })
}

fn of_stream(load: &MeasuredLoad, stream: StreamKind) -> Vec<&Record> {
    load.records
        .iter()
        .filter(|record| record.stream == stream)
        .collect()
}

/// How long each fault's recovery must hold, as the expectations of a load say.
fn holds(scenario: &Scenario, load_name: &str) -> BTreeMap<String, Duration> {
    let hold = |expectation: &Expectation| match &expectation.check {
        Check::Recovery {
            load, step, hold, ..
        } if load == load_name => Some((step.clone(), *hold)),
        _ => None,
    };
    scenario.expectations.iter().filter_map(hold).collect()
}

fn failure(record: &Record) -> FailureReport {
    FailureReport {
        intended_ms: millis(record.intended_ms),
        connected_ms: record.connected_ms.map(millis),
        first_byte_ms: record.first_byte_ms.map(millis),
        end_ms: millis(record.end_ms),
        connection: record.connection,
        class: record.class.name().to_owned(),
    }
}

fn load_report(
    spec: &Load,
    load: &MeasuredLoad,
    measured: &Measured,
    holds: &BTreeMap<String, Duration>,
) -> LoadReport {
    let streams = spec.streams.iter().map(|&stream| {
        let records = of_stream(load, stream);
        let good = records.iter().filter(|record| record.good()).count() as u64;
        let sent = records.len() as u64;
        let mut classes = by_class(records.iter().copied());
        classes.remove("ok");
        let outages = outages(&records, load.end_ms);
        let recoveries = measured
            .faults
            .iter()
            .filter_map(|fault| Some((fault, fault.onset_ms?)))
            .map(|(fault, onset_ms)| {
                let hold_ms = holds.get(&fault.id).copied().unwrap_or(HOLD).as_secs_f64() * 1000.0;
                #[expect(clippy::cast_precision_loss, reason = "times of a run")]
                let recovery = recovery_ms(&records, onset_ms as f64, hold_ms, load.end_ms);
                (fault.id.clone(), recovery.ok().map(millis))
            });
        let report = StreamReport {
            sent,
            good,
            failed: sent - good,
            by_class: classes
                .into_iter()
                .map(|(class, count)| (class.to_owned(), count))
                .collect(),
            failures: records
                .iter()
                .filter(|record| !record.good())
                .take(FAILURES_SHOWN)
                .map(|record| failure(record))
                .collect(),
            late: records.iter().filter(|record| record.late()).count() as u64,
            longest_outage_ms: outages
                .iter()
                .map(|outage| millis(outage.length_ms()))
                .max()
                .unwrap_or(0),
            outages: outages
                .iter()
                .map(|o| OutageReport {
                    from_ms: millis(o.from_ms),
                    to_ms: millis(o.to_ms),
                })
                .collect(),
            recovery_ms: recoveries.collect(),
            latency_ms: latency(records.iter().copied()),
            versions: versions(records.iter().copied()),
        };
        (stream.name().to_owned(), report)
    });
    LoadReport {
        window: Some(SpanReport {
            from_ms: millis(load.from_ms),
            to_ms: millis(load.end_ms),
        }),
        rate: Some(spec.rate),
        streams: streams.collect(),
        ..LoadReport::default()
    }
}

fn row(scenario: &Scenario, expectation: &Expectation, measured: &Measured) -> ExpectationReport {
    let nothing = MeasuredLoad::default();
    let spec_and_load = |name: &String| {
        (
            &scenario.loads[name],
            measured.loads.get(name).unwrap_or(&nothing),
        )
    };
    let (value, error, ok) = match &expectation.check {
        Check::Failed {
            load,
            stream,
            bound,
        } => {
            let (spec, load) = spec_and_load(load);
            let records: Vec<&Record> = streams(spec, *stream)
                .iter()
                .flat_map(|stream| of_stream(load, *stream))
                .collect();
            let bad = records.iter().filter(|record| !record.good()).count();
            let failed = if records.is_empty() {
                0.0
            } else {
                share(bad, records.len())
            };
            let error = format!("±{:.3} %", 100.0 * share(1, records.len()));
            (
                format!("{:.3} % ({bad} of {})", failed * 100.0, records.len()),
                error,
                !records.is_empty() && bound.holds(failed),
            )
        }
        Check::LongestOutage {
            load,
            stream,
            bound,
        } => {
            let (spec, load) = spec_and_load(load);
            let longest = streams(spec, *stream)
                .iter()
                .flat_map(|stream| outages(&of_stream(load, *stream), load.end_ms))
                .map(|outage| outage.length_ms())
                .fold(0.0, f64::max);
            let ok = !load.records.is_empty() && bound.holds(longest);
            (format!("{longest:.0} ms"), period_error(spec), ok)
        }
        Check::Recovery {
            load,
            step,
            within,
            hold,
        } => {
            let (spec, load) = spec_and_load(load);
            let (value, ok) = recovery(spec, load, measured, step, *within, *hold);
            (value, period_error(spec), ok)
        }
        Check::FinalVersion { load, version } => {
            let (spec, load) = spec_and_load(load);
            let (value, ok) = final_version(spec, load, measured, version);
            (value, period_error(spec), ok)
        }
        Check::Replicas { rc, count } => {
            let ready = measured.replicas.get(rc).copied().unwrap_or(0);
            (format!("{ready}"), COUNTED.to_owned(), ready == *count)
        }
        Check::PodsDeleted { count } => (
            format!("{}", measured.pods_deleted),
            COUNTED.to_owned(),
            measured.pods_deleted == *count,
        ),
        Check::FaultsLeft { count } => (
            format!("{}", measured.faults_left),
            COUNTED.to_owned(),
            measured.faults_left == *count,
        ),
    };
    ExpectationReport {
        name: expectation.name.clone(),
        expected: expectation.expected.clone(),
        measured: value,
        error,
        ok,
        state: if ok { State::Met } else { State::NotMet },
        low: None,
        high: None,
    }
}

fn streams(spec: &Load, stream: Option<StreamKind>) -> Vec<StreamKind> {
    stream.map_or_else(|| spec.streams.clone(), |stream| vec![stream])
}

/// Nothing is seen between two requests of a stream.
fn period_error(spec: &Load) -> String {
    format!("±{:.0} ms", 1000.0 / spec.rate)
}

fn recovery(
    spec: &Load,
    load: &MeasuredLoad,
    measured: &Measured,
    step: &str,
    within: Duration,
    hold: Duration,
) -> (String, bool) {
    let Some(onset_ms) = measured
        .faults
        .iter()
        .find(|fault| fault.id == step)
        .and_then(|fault| fault.onset_ms)
    else {
        return ("the fault did not take effect".to_owned(), false);
    };
    #[expect(clippy::cast_precision_loss, reason = "times of a run")]
    let onset_ms = onset_ms as f64;
    let mut slowest = 0.0_f64;
    for &stream in &spec.streams {
        match recovery_ms(
            &of_stream(load, stream),
            onset_ms,
            hold.as_secs_f64() * 1000.0,
            load.end_ms,
        ) {
            Ok(ms) => slowest = slowest.max(ms),
            Err(at_least) => {
                let percent = RECOVERED_SHARE * 100.0;
                return (
                    format!(
                        "`{}` not {percent:.0} % good again for over {at_least:.0} ms",
                        stream.name()
                    ),
                    false,
                );
            }
        }
    }
    (
        format!("{slowest:.0} ms"),
        slowest <= within.as_secs_f64() * 1000.0,
    )
}

fn final_version(
    spec: &Load,
    load: &MeasuredLoad,
    measured: &Measured,
    wanted: &str,
) -> (String, bool) {
    let Some(takeover) = takeover(&load.records) else {
        return ("no answer carried a version".to_owned(), false);
    };
    let value = match takeover.last_other_ms {
        None => format!("{} only", takeover.version),
        Some(ms) => format!("{}, last other asked for at {ms:.0} ms", takeover.version),
    };
    // A second's worth of answers, so that a mixture whose last answer happens to be right does not count.
    let lasted = takeover.last_other_ms.is_none()
        || share(takeover.answers_since, 1) >= spec.rate * share(spec.streams.len(), 1);
    // What was asked before the update ended may be answered by the old version.
    let allowed_until = measured
        .updates_ended_ms
        .iter()
        .copied()
        .fold(
            f64::INFINITY,
            |a, b| if a.is_infinite() { b } else { a.max(b) },
        );
    let in_time = takeover.last_other_ms.is_none_or(|ms| ms <= allowed_until);
    let value = if in_time {
        value
    } else {
        format!("{value}, after the update had ended at {allowed_until:.0} ms")
    };
    (value, takeover.version == wanted && lasted && in_time)
}

#[cfg(test)]
mod tests;

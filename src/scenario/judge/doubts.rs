//! Why a run cannot be judged, whatever its rows say.

use super::super::report::{StarvedBy, StarvedReport, State};
use super::super::requests::samples::as_millis;
use super::JudgedRow;
use super::case::{Case, millis};
use super::watched::{Span, share, slice};

/// More late requests, or more sleep of the prober, than this share make a run inconclusive.
const LATE_SHARE_MAX: f64 = 0.01;
/// What has piled up while a machine was starved is worked off for so long.
const AFTERMATH_MS: f64 = 500.0;
/// Classes of requests that were answered, though not well.
const ANSWERED: [&str; 3] = ["status", "body", "tls"];
/// Fewer requests than this on a stream say nothing.
const SENT_MIN: usize = 50;

/// Doubts about the run as a whole.
pub(super) fn of_run(case: &Case<'_>) -> Vec<String> {
    let mut doubts = case.evidence.doubts.clone();
    for fault in &case.evidence.faults {
        if !fault.verified || fault.onset_ms.is_none() {
            doubts.push(format!("fault `{}` was not seen to take effect", fault.id));
        } else if fault.healed_ms.is_none() {
            doubts.push(format!("fault `{}` was not seen to be healed", fault.id));
        }
    }
    for load in case.scenario.loads.keys() {
        if case.evidence.load.contains_key(load) || case.requests.loads.contains_key(load) {
            doubts.extend(of_load(case, load));
        }
    }
    doubts
}

fn of_load(case: &Case<'_>, load: &str) -> Vec<String> {
    let mut doubts = Vec::new();
    let counted = case.counted(load);
    let streams = case.watch(load, None, counted, counted.to_ms);
    for stream in &streams {
        let sent = stream.samples.len();
        let late = stream.samples.iter().filter(|sample| sample.late()).count();
        let prober = stream
            .samples
            .iter()
            .filter(|sample| case.requests.class(sample) == "prober")
            .count();
        let name = stream.stream;
        if sent < SENT_MIN {
            doubts.push(format!(
                "{load}.{name}: only {sent} requests were sent, fewer than {SENT_MIN}"
            ));
        } else if share(late, sent) > LATE_SHARE_MAX {
            doubts.push(format!(
                "{load}.{name}: the prober sent {late} of {sent} requests late"
            ));
        } else if share(prober, sent) > LATE_SHARE_MAX {
            doubts.push(format!(
                "{load}.{name}: the prober itself could not ask {prober} times"
            ));
        }
    }
    let paused_ms: f64 = case
        .pauses(counted)
        .iter()
        .map(|pause| pause.length_ms())
        .sum();
    if counted.length_ms() > 0.0 && paused_ms / counted.length_ms() > LATE_SHARE_MAX {
        doubts.push(format!(
            "{load}: the prober itself slept for {paused_ms:.0} of {:.0} ms",
            counted.length_ms()
        ));
    }
    doubts
}

/// A machine of a load's path had no processor in a span in which something was not met: it may be for that alone.
pub(super) fn starvation(case: &Case<'_>, rows: &[JudgedRow<'_>]) -> Vec<String> {
    let mut doubts = Vec::new();
    if case.evidence.host.slow_fails {
        return doubts;
    }
    let not_met = rows.iter().filter(|row| row.judged.state == State::NotMet);
    let mut failed: Vec<(&str, Option<&str>, Span)> = not_met
        .map(|row| {
            let load = row.row.load.as_deref();
            let span = row.judged.span.unwrap_or_else(|| whole(case, load));
            (row.row.name.as_str(), load, span)
        })
        .collect();
    let steps = case
        .evidence
        .steps
        .iter()
        .filter(|step| step.failed.is_some());
    failed.extend(steps.map(|step| {
        let span = Span {
            from_ms: millis(step.start_ms),
            to_ms: millis(step.end_ms),
        };
        (step.id.as_str(), None, span)
    }));
    for (name, load, span) in failed {
        let mut told: Vec<(Option<&str>, StarvedBy, f64, f64)> = Vec::new();
        for starved in &case.evidence.host.starved {
            let starved_span = Span {
                from_ms: millis(starved.from_ms),
                to_ms: millis(starved.to_ms),
            };
            let machine = starved.machine.as_deref();
            if !starved_span.overlaps(span)
                || !on_path(case, load, machine)
                || !may_explain(case, load, span, starved)
            {
                continue;
            }
            let overlap_ms = starved_span.within(span).length_ms();
            let same = told
                .iter_mut()
                .find(|(known, by, ..)| *known == machine && *by == starved.by);
            match same {
                Some((.., lasted_ms)) => *lasted_ms += overlap_ms,
                None => told.push((machine, starved.by, starved_span.from_ms, overlap_ms)),
            }
        }
        let words: Vec<String> = told.into_iter().map(starved_words).collect();
        if !words.is_empty() {
            doubts.push(format!(
                "`{name}` was not met while {}: what failed may be for that alone",
                words.join(", and ")
            ));
        }
    }
    doubts
}

/// Whether something that failed within `span` failed while a machine had no processor, or just after. Where nothing did, a row is not
/// met for another reason, such as slow answers, and any moment of it may be the one.
///
/// An answer that was no good one, but came, was not late for want of a processor of the cage.
fn may_explain(case: &Case<'_>, load: Option<&str>, span: Span, starved: &StarvedReport) -> bool {
    let streams = load.and_then(|load| case.requests.loads.get(load));
    let (from_ms, to_ms) = (
        millis(starved.from_ms),
        millis(starved.to_ms) + AFTERMATH_MS,
    );
    let mut nothing_failed = true;
    for stream in streams.into_iter().flat_map(|streams| streams.values()) {
        for sample in slice(stream, span).1.iter().filter(|sample| !sample.good()) {
            nothing_failed = false;
            let answered = ANSWERED.contains(&case.requests.class(sample));
            if answered && starved.by == StarvedBy::Cage {
                continue;
            }
            let end_ms = sample.intended_ms() + as_millis(sample.latency_us());
            if sample.intended_ms() < to_ms && end_ms > from_ms {
                return true;
            }
        }
    }
    nothing_failed
}

fn starved_words((machine, by, from_ms, lasted_ms): (Option<&str>, StarvedBy, f64, f64)) -> String {
    let machine = machine.map_or_else(
        || "the machines".to_owned(),
        |machine| format!("machine `{machine}`"),
    );
    let by = match by {
        StarvedBy::Others => "other programs took them",
        StarvedBy::Cage => "the cage itself took them",
    };
    format!(
        "{machine} had no processors for {:.1} s, from {from_ms:.0} ms on, since {by}",
        lasted_ms / 1000.0
    )
}

/// Whether a machine is one of a load's path, or of any load's; one that is not named is.
fn on_path(case: &Case<'_>, load: Option<&str>, machine: Option<&str>) -> bool {
    let Some(machine) = machine else { return true };
    let of_load = |name: &String| load.is_none_or(|load| load == name);
    let loads = case.evidence.load.iter().filter(|(name, _)| of_load(name));
    let mut paths = loads.map(|(_, load)| &load.machines).peekable();
    paths.peek().is_none()
        || paths.any(|machines| machines.is_empty() || machines.iter().any(|m| m == machine))
}

/// The counted span of a load, or what covers those of all.
fn whole(case: &Case<'_>, load: Option<&str>) -> Span {
    if let Some(load) = load {
        return case.counted(load);
    }
    let spans = case.scenario.loads.keys().map(|load| case.counted(load));
    spans
        .reduce(|all, one| Span {
            from_ms: all.from_ms.min(one.from_ms),
            to_ms: all.to_ms.max(one.to_ms),
        })
        .unwrap_or(Span {
            from_ms: 0.0,
            to_ms: f64::INFINITY,
        })
}

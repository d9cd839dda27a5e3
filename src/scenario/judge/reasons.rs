//! Why a row is not met: row, bound, interval, the first request that decided it, and what its pod was doing.

use super::super::expectations::{Decider, Judged};
use super::JudgedRow;
use super::case::{Case, millis};

/// One line about a row that is not met, undecided or could not have failed.
pub(super) fn of_row(case: &Case<'_>, row: &JudgedRow<'_>) -> String {
    let JudgedRow { row, judged } = row;
    let mut words = format!(
        "{}: expected {}, measured {}",
        row.name, row.expected, judged.measured
    );
    if let Some(interval) = interval(judged) {
        words = format!("{words}, {interval}");
    }
    words = format!("{words}: {}", judged.state.words());
    if let Some(note) = &judged.note {
        words = format!("{words}, since {note}");
    }
    if let Some(decider) = &judged.decider {
        words = format!("{words}; {}", of_request(case, decider));
    }
    words
}

fn interval(judged: &Judged) -> Option<String> {
    let (low, high) = judged.interval?;
    let unit = judged.unit?;
    (low.to_bits() != high.to_bits())
        .then(|| format!("between {} and {}", unit.words(low), unit.words(high)))
}

fn of_request(case: &Case<'_>, decider: &Decider) -> String {
    let stream = case
        .requests
        .loads
        .get(&decider.load)
        .and_then(|streams| streams.get(&decider.stream));
    let Some((stream, sample)) =
        stream.and_then(|stream| Some((stream, stream.samples.get(decider.index)?)))
    else {
        return "its first request is not known".to_owned();
    };
    let at_ms = sample.intended_ms();
    let mut words = format!(
        "first decided by request {} of stream `{}` at {at_ms:.0} ms ({})",
        stream.number(decider.index),
        decider.stream,
        case.requests.class(sample)
    );
    if let Some(pod) = case.requests.endpoint(sample) {
        words = format!("{words}, answered by `{pod}`");
        let before = case.evidence.events.iter().rev().find(|event| {
            millis(event.at_ms) <= at_ms && event.object.split([' ', ':']).any(|word| word == pod)
        });
        if let Some(event) = before {
            words = format!("{words}, {} since {} ms", event.kind, event.at_ms);
        }
    }
    let acting = case.evidence.faults.iter().find(|fault| {
        fault.onset_ms.is_some_and(|onset| millis(onset) <= at_ms)
            && fault.healed_ms.is_none_or(|healed| at_ms <= millis(healed))
    });
    if let Some(fault) = acting {
        words = format!("{words}, while `{}` acted on `{}`", fault.id, fault.target);
        let struck = case.evidence.struck.get(&fault.id);
        if let Some(pods) = struck.filter(|pods| !pods.is_empty()) {
            words = format!("{words} ({})", pods.join(", "));
        }
    }
    words
}

//! `final_version`: this version answers at the end, and no other after it took over.

use std::time::Duration;

use super::super::judge::case::{Case, millis};
use super::super::report::State;
use super::{Decider, Expectation, Judged};

/// The load goes on for so long after the last step.
const TAIL: Duration = Duration::from_secs(3);

/// One row.
#[derive(Debug)]
pub(super) struct FinalVersion {
    pub(super) load: String,
    pub(super) version: String,
}

impl FinalVersion {
    fn measure(&self, case: &Case<'_>) -> Judged {
        let counted = case.counted(&self.load);
        let streams = case.watch(&self.load, None, counted, counted.to_ms);
        // Intended time, version, stream and index of every answer that carried one, in order.
        let mut last: Option<(u64, &str)> = None;
        for stream in &streams {
            let answers = stream.samples.iter().rev();
            let answer = answers
                .filter_map(|sample| Some((sample.intended_us(), case.requests.version(sample)?)))
                .next();
            last = last.max(answer);
        }
        let Some((_, version)) = last else {
            let why = "no answer carried a version".to_owned();
            return Judged::nothing(State::Undecided, why);
        };
        let mut last_other: Option<(u64, &str, usize)> = None;
        for stream in &streams {
            let other = stream.samples.iter().enumerate().rev().find(|(_, sample)| {
                case.requests
                    .version(sample)
                    .is_some_and(|other| other != version)
            });
            let other = other
                .map(|(index, sample)| (sample.intended_us(), stream.stream, stream.first + index));
            last_other = last_other.max(other);
        }
        let since = streams
            .iter()
            .flat_map(|stream| stream.samples)
            .filter(|sample| case.requests.version(sample) == Some(version))
            .filter(|sample| last_other.is_none_or(|(at, ..)| sample.intended_us() > at))
            .count();
        self.judged(case, version, last_other, since, streams.len())
    }

    fn judged(
        &self,
        case: &Case<'_>,
        version: &str,
        last_other: Option<(u64, &str, usize)>,
        since: usize,
        streams: usize,
    ) -> Judged {
        let last_other_ms = last_other.map(|(at, ..)| millis(at) / 1000.0);
        let mut measured = match last_other_ms {
            None => format!("{version} only"),
            Some(ms) => format!("{version}, last other asked for at {ms:.0} ms"),
        };
        let period_ms = case.period_ms(&self.load);
        // A second's worth of answers, so that a mixture whose last answer happens to be right does not count.
        let lasted = last_other.is_none()
            || millis(since as u64) * case.shortest_ms(&self.load)
                >= 1000.0 * millis(streams as u64);
        // What was asked before the update ended may be answered by the old version.
        let updated = case.evidence.steps.iter().filter(|step| step.updated);
        let allowed_until_ms = updated.map(|step| step.end_ms).max().map(millis);
        let in_time = match (last_other_ms, allowed_until_ms) {
            (Some(last), Some(until)) => last <= until,
            _ => true,
        };
        if let (false, Some(until)) = (in_time, allowed_until_ms) {
            measured = format!("{measured}, after the update had ended at {until:.0} ms");
        }
        let met = version == self.version && lasted && in_time;
        Judged {
            measured,
            error: format!("±{period_ms:.0} ms"),
            interval: None,
            state: if met { State::Met } else { State::NotMet },
            note: None,
            decider: last_other
                .filter(|_| !met)
                .map(|(_, stream, index)| Decider {
                    load: self.load.clone(),
                    stream: stream.to_owned(),
                    index,
                }),
            span: None,
            unit: None,
        }
    }
}

impl Expectation for FinalVersion {
    fn judge(&self, case: &Case<'_>) -> Judged {
        self.measure(case)
    }

    fn needs_tail(&self) -> Duration {
        TAIL
    }
}

//! What an expectation allows, beside what was measured; and when it was decided.

use super::history::whole;
use super::run::StoredRun;
use crate::model::units::parse_duration;
use crate::scenario::report::{ExpectationReport, StreamReport};

/// What a figure is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Shares, from 0 to 1.
    Share,
    /// Milliseconds.
    Millis,
    /// Things.
    Count,
}

/// A bound: `<= 3s`, `<= 5%`, `within 30000 ms, …`, `2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// Where it lies.
    pub limit: f64,
    /// In what.
    pub unit: Unit,
    /// Whether less than it is allowed.
    pub at_most: bool,
}

/// Reads a bound as reports write them; `None` for what is no number, such as a version.
#[must_use]
pub fn parse(expected: &str) -> Option<Bound> {
    let text = expected.trim();
    let (at_most, rest) = if let Some(rest) = text.strip_prefix("within") {
        (true, rest)
    } else {
        let sign: String = text.chars().take_while(|c| "<>=".contains(*c)).collect();
        let rest = text.strip_prefix(sign.as_str())?;
        (sign.starts_with('<'), rest)
    };
    let rest = rest.trim_start();
    let digits = rest
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(rest.len());
    let number: f64 = rest[..digits].parse().ok()?;
    let unit: String = rest[digits..]
        .trim_start()
        .chars()
        .take_while(|c| c.is_ascii_alphabetic() || *c == '%')
        .collect();
    let (limit, unit) = match unit.as_str() {
        "%" => (number / 100.0, Unit::Share),
        "" => (number, Unit::Count),
        unit => {
            let duration = parse_duration(&format!("{number}{unit}")).ok()?;
            (duration.as_secs_f64() * 1000.0, Unit::Millis)
        }
    };
    Some(Bound {
        limit,
        unit,
        at_most,
    })
}

/// How much of a bound was used up; more than 1 is beyond it. Only for what may be at most so much, and more than nothing.
#[must_use]
pub fn used(row: &ExpectationReport) -> Option<f64> {
    let bound = parse(&row.expected)?;
    let high = row.high.or(row.low)?;
    (bound.at_most && bound.limit > 0.0).then_some(high / bound.limit)
}

/// The parts of an expectation's name: `web.new.during.kill.failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subject<'a> {
    /// The load, if it is about one.
    pub load: Option<&'a str>,
    /// The stream, if it is about one.
    pub stream: Option<&'a str>,
    /// The step, if it is about one.
    pub step: Option<&'a str>,
    /// What is measured.
    pub figure: &'a str,
}

/// Takes an expectation's name apart.
#[must_use]
pub fn subject<'a>(run: &StoredRun, name: &'a str) -> Subject<'a> {
    let mut subject = Subject::default();
    let (first, mut rest) = name.split_once('.').unwrap_or((name, ""));
    let Some(load) = run.report.load.get(first) else {
        return Subject {
            figure: first,
            ..subject
        };
    };
    subject.load = Some(first);
    if let Some((stream, more)) = rest.split_once('.')
        && load.streams.contains_key(stream)
    {
        subject.stream = Some(stream);
        rest = more;
    }
    if let Some(more) = rest.strip_prefix("during.") {
        let (step, figure) = more.split_once('.').unwrap_or((more, ""));
        subject.step = Some(step);
        rest = figure;
    } else if let Some(step) = rest.strip_prefix("recovery.") {
        subject.step = Some(step);
        rest = "recovery";
    }
    subject.figure = rest;
    subject
}

/// The span of the run in which a row was decided: for a figure of a fault the time after its onset, for an outage that outage, for
/// failures the span that holds them.
#[must_use]
pub fn decided(run: &StoredRun, name: &str) -> (f64, f64) {
    let subject = subject(run, name);
    let Some(load) = subject.load else {
        return (run.axis.from_ms, run.axis.to_ms);
    };
    let streams: Vec<(&str, &StreamReport)> = run
        .streams()
        .filter(|(of, stream, _)| {
            *of == load && subject.stream.is_none_or(|wanted| wanted == *stream)
        })
        .map(|(_, stream, figures)| (stream, figures))
        .collect();
    let padded = |from_ms: f64, to_ms: f64| {
        let margin = ((to_ms - from_ms) * 0.25).max(500.0);
        (
            (from_ms - margin).max(run.axis.from_ms),
            (to_ms + margin).min(run.axis.to_ms),
        )
    };
    if let Some(step) = subject.step {
        if let Some(fault) = run.report.faults.iter().find(|fault| fault.id == step) {
            let onset_ms = whole(fault.onset_ms.unwrap_or(fault.requested_ms));
            let recovered = streams
                .iter()
                .filter_map(|(_, figures)| figures.recovery_ms.get(step).copied().flatten())
                .max();
            let end_ms = match (subject.figure, recovered) {
                ("recovery", Some(ms)) => onset_ms + whole(ms).max(1000.0),
                _ => fault.healed_ms.map_or(run.axis.to_ms, whole),
            };
            return padded(onset_ms, end_ms);
        }
        if let Some(step) = run.report.steps.iter().find(|one| one.id == step) {
            return padded(whole(step.start_ms), whole(step.end_ms));
        }
    }
    let outages = streams.iter().flat_map(|(_, figures)| &figures.outages);
    if matches!(subject.figure, "longest_outage" | "outages" | "downtime") {
        if let Some(longest) = outages.max_by_key(|outage| outage.to_ms - outage.from_ms) {
            return padded(whole(longest.from_ms), whole(longest.to_ms));
        }
        return run.window(load);
    }
    let bad = streams
        .iter()
        .filter_map(|(stream, _)| run.requests.stream(load, stream))
        .flat_map(|stream| stream.requests.iter().filter(|request| !request.good()))
        .map(super::stored::Request::intended_ms);
    let (first, last) = bad.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), ms| {
        (a.min(ms), b.max(ms))
    });
    if matches!(subject.figure, "failed" | "worst" | "degraded") && first <= last {
        padded(first, last)
    } else {
        run.window(load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_as_reports_write_them() {
        let bound = |text| parse(text).map(|bound| (bound.limit, bound.unit, bound.at_most));
        assert_eq!(bound("<= 3s"), Some((3000.0, Unit::Millis, true)));
        assert_eq!(bound("<= 0.5%"), Some((0.005, Unit::Share, true)));
        assert_eq!(
            bound("within 30000 ms, for 5000 ms"),
            Some((30_000.0, Unit::Millis, true))
        );
        assert_eq!(bound("<= 20% in 10s"), Some((0.2, Unit::Share, true)));
        assert_eq!(bound("2"), Some((2.0, Unit::Count, false)));
        assert_eq!(bound("v2"), None);
    }
}

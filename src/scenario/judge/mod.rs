//! From what a run left to figures, rows and a verdict: a pure function of the evidence, the requests and the scenario.
//!
//! ```text
//! report.json (evidence) ┐
//! requests.csv.gz        ├─► case ─► expectations ─► rows ┐
//! scenario.toml          ┘     └───► figures, doubts ─────┴─► verdict, reasons
//! ```
//! The run itself judges so, and so does `flightcage judge` a year later: on the same files both say the same.
//!
//! The order of the verdict: doubts about the run, INCONCLUSIVE; a failed step or a row that is not met, FAIL; a row that is
//! undecided or could not have failed, INCONCLUSIVE; else PASS.

pub mod again;
pub mod case;
mod doubts;
mod figures;
mod reasons;
pub mod watched;

use std::collections::BTreeMap;

use super::expectations::Judged;
use super::report::{ExpectationReport, LoadReport, Report, State, Verdict};
use super::requests::{Requests, Wanted};
use super::spec::{Row, Scenario};
use case::Case;

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

/// A row with what was found of it.
struct JudgedRow<'a> {
    row: &'a Row,
    judged: Judged,
}

/// What of each load's requests is read for judging.
#[must_use]
pub fn wanted(scenario: &Scenario, evidence: &Report, load: &str) -> Wanted {
    let window = case::window(evidence, load);
    let period_ms = case::rate(scenario, evidence, load).map_or(0.0, |rate| 1000.0 / rate);
    Wanted {
        from_ms: window.map_or(0.0, |window| window.from_ms),
        to_ms: window.map_or(f64::INFINITY, |window| window.to_ms),
        late_ms: period_ms.max(case::LATE_MS),
    }
}

/// Judges a run.
#[must_use]
pub fn judge(scenario: &Scenario, evidence: &Report, requests: &Requests) -> Judgement {
    let case = Case {
        scenario,
        evidence,
        requests,
    };
    let judged: Vec<JudgedRow<'_>> = scenario
        .expectations
        .iter()
        .map(|row| JudgedRow {
            row,
            judged: row.check.judge(&case),
        })
        .collect();
    let mut doubts = doubts::of_run(&case);
    doubts.extend(doubts::starvation(&case, &judged));
    let mut failures = evidence.failures.clone();
    failures.extend(evidence.steps.iter().filter_map(|step| {
        let why = step.failed.as_ref()?;
        Some(format!("step `{}`: {why}", step.id))
    }));
    let with = |states: &[State]| -> Vec<String> {
        judged
            .iter()
            .filter(|row| states.contains(&row.judged.state))
            .map(|row| reasons::of_row(&case, row))
            .collect()
    };
    failures.extend(with(&[State::NotMet]));
    // Where no load ran, rows about it have nothing to say beside why it did not.
    let open = if evidence.load.is_empty() && !(doubts.is_empty() && failures.is_empty()) {
        Vec::new()
    } else {
        with(&[State::Undecided, State::Vacuous])
    };
    let verdict = if !doubts.is_empty() {
        Verdict::Inconclusive
    } else if !failures.is_empty() {
        Verdict::Fail
    } else if !open.is_empty() {
        Verdict::Inconclusive
    } else {
        Verdict::Pass
    };
    Judgement {
        verdict,
        reasons: [doubts, failures, open].concat(),
        rows: judged.iter().map(report).collect(),
        loads: figures::loads(&case),
    }
}

fn report(row: &JudgedRow<'_>) -> ExpectationReport {
    let JudgedRow { row, judged } = row;
    let finite = |end: f64| end.is_finite().then(|| rounded(end));
    ExpectationReport {
        name: row.name.clone(),
        expected: row.expected.clone(),
        measured: judged.measured.clone(),
        error: judged.error.clone(),
        ok: judged.state == State::Met,
        state: judged.state,
        low: judged.interval.and_then(|(low, _)| finite(low)),
        high: judged.interval.and_then(|(_, high)| finite(high)),
        note: judged.note.clone(),
    }
}

/// To nine decimals: more of a number is noise of its computation.
fn rounded(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod shapes;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

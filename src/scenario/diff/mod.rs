//! Two stored runs compared: figures side by side, with the interval of each difference.
//!
//! ```text
//! DIR A ─► run ─► figures ┐
//!                         ├─► difference ± (bootstrap | errors) ─► worse? ─► text, Markdown, JSON
//! DIR B ─► run ─► figures ┘
//! ```
//! What many requests say (share of failed ones, downtime, percentiles) is compared by a block bootstrap over the kept requests;
//! what one event says (the longest outage, a recovery) has the interval of its own errors, and decides nothing: two runs of one
//! fault differ in it. B is worse beyond doubt when the interval of a bootstrapped figure lies above the tolerance, or when a row
//! that A met is not met by B.

mod bootstrap;
mod figures;
mod text;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::expectations::Unit;
use super::judge::again::{self, AgainError};
use super::judge::case::Case;
use super::report::{Report, State, Verdict};
use super::requests::{FILE_NAME, Requests, folder::SCENARIO_FILE};
use super::spec::Scenario;
pub use text::{conclusion, markdown, plain, table_rows};

/// How sure an interval of the bootstrap is.
pub const CONFIDENCE: f64 = 0.99;

/// What differs between two runs.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// Of this format.
    pub version: u32,
    /// The first run.
    pub a: Side,
    /// The second run.
    pub b: Side,
    /// How sure the intervals are that come from a bootstrap.
    pub confidence: f64,
    /// A difference within this share of A's figure does not count.
    pub tolerance: f64,
    /// The figures of the streams that both have.
    pub figures: Vec<Figure>,
    /// The expectations of both.
    pub expectations: Vec<Row>,
    /// Why B is worse beyond doubt; empty if it is not.
    pub worse: Vec<String>,
}

/// One of the runs.
#[derive(Debug, Clone, Serialize)]
pub struct Side {
    /// Its folder.
    pub folder: PathBuf,
    /// Its scenario.
    pub scenario: String,
    /// What left things to chance.
    pub seed: u64,
    /// How it ended.
    pub verdict: Verdict,
}

/// One figure of both runs; larger is worse.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// Its name, for instance `web.new.p99`.
    pub name: String,
    /// What it is counted in.
    pub unit: FigureUnit,
    /// In A; `null` if it was not reached, as a recovery.
    pub a: Option<f64>,
    /// In B.
    pub b: Option<f64>,
    /// B less A.
    pub difference: Option<f64>,
    /// The least that the difference can be,
    pub low: Option<f64>,
    /// and the most.
    pub high: Option<f64>,
    /// Where the interval comes from.
    pub by: By,
    /// What can be said.
    pub change: Change,
}

/// What a figure is counted in, as JSON names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FigureUnit {
    /// A share from 0 to 1.
    Share,
    /// Milliseconds.
    Ms,
    /// Whole things.
    Count,
}

impl From<Unit> for FigureUnit {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Share => Self::Share,
            Unit::Millis => Self::Ms,
            Unit::Count => Self::Count,
        }
    }
}

impl FigureUnit {
    fn words(self, value: f64) -> String {
        match self {
            Self::Share => Unit::Share.words(value),
            Self::Count => Unit::Count.words(value),
            Self::Ms if value.abs() < 100.0 => format!("{value:.1} ms"),
            Self::Ms => Unit::Millis.words(value),
        }
    }
}

/// Where the interval of a difference comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The kept requests, drawn again.
    Bootstrap,
    /// The errors of both figures.
    Errors,
}

/// What can be said of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// B's figure is larger beyond doubt, and by more than the tolerance.
    Worse,
    /// The same the other way round.
    Better,
    /// Neither.
    Undecided,
}

/// One expectation in both runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its key.
    pub name: String,
    /// Its bound in A; absent if A has no such row.
    pub expected_a: Option<String>,
    /// Its bound in B.
    pub expected_b: Option<String>,
    /// What A's run said of it.
    pub a: Option<State>,
    /// What B's run said of it.
    pub b: Option<State>,
}

/// A stored run with its requests.
struct StoredSide {
    folder: PathBuf,
    report: Report,
    /// With its requests; `None` for a run in which nothing was measured.
    measured: Option<(Scenario, Requests)>,
}

/// Compares the run in folder `b` with that in folder `a`.
///
/// # Errors
/// When one of them cannot be read.
#[expect(
    clippy::result_large_err,
    reason = "there is one a folder, and folders are few"
)]
pub fn compare(a: &Path, b: &Path, tolerance: f64) -> Result<Difference, AgainError> {
    let (a, b) = (read(a)?, read(b)?);
    let mut figures = Vec::new();
    if let (Some((scenario_a, requests_a)), Some((scenario_b, requests_b))) =
        (&a.measured, &b.measured)
    {
        let case_a = Case {
            scenario: scenario_a,
            evidence: &a.report,
            requests: requests_a,
        };
        let case_b = Case {
            scenario: scenario_b,
            evidence: &b.report,
            requests: requests_b,
        };
        figures = figures::compare(&case_a, &case_b, tolerance);
    }
    let expectations = rows(&a.report, &b.report);
    let mut worse: Vec<String> = figures
        .iter()
        .filter(|figure| figure.by == By::Bootstrap && figure.change == Change::Worse)
        .map(|figure| {
            let words =
                |value: Option<f64>| value.map_or_else(String::new, |v| figure.unit.words(v));
            format!(
                "{}: {} instead of {}",
                figure.name,
                words(figure.b),
                words(figure.a)
            )
        })
        .collect();
    let lost = expectations.iter().filter(|row| {
        row.a == Some(State::Met)
            && row.b == Some(State::NotMet)
            && row.expected_a == row.expected_b
    });
    worse.extend(lost.map(|row| format!("{}: met by A, not met by B", row.name)));
    Ok(Difference {
        version: 1,
        a: a.side(),
        b: b.side(),
        confidence: CONFIDENCE,
        tolerance,
        figures,
        expectations,
        worse,
    })
}

#[expect(
    clippy::result_large_err,
    reason = "there is one a folder, and folders are few"
)]
fn read(folder: &Path) -> Result<StoredSide, AgainError> {
    let report = again::read_report(folder)?;
    let file = folder.join(FILE_NAME);
    let measured = if file.is_file() {
        let scenario = again::read_scenario(&folder.join(SCENARIO_FILE))?;
        let requests = again::open_requests(folder, &scenario, &report)?;
        Some((scenario, requests))
    } else {
        None
    };
    Ok(StoredSide {
        folder: folder.to_owned(),
        report,
        measured,
    })
}

impl StoredSide {
    fn side(self) -> Side {
        Side {
            folder: self.folder,
            scenario: self.report.scenario,
            seed: self.report.seed,
            verdict: self.report.verdict,
        }
    }
}

/// A's rows in their order, then those that only B has.
fn rows(a: &Report, b: &Report) -> Vec<Row> {
    let mut rows: Vec<Row> = a
        .expectations
        .iter()
        .map(|row| Row {
            name: row.name.clone(),
            expected_a: Some(row.expected.clone()),
            expected_b: None,
            a: Some(row.state),
            b: None,
        })
        .collect();
    for row in &b.expectations {
        let known = rows
            .iter_mut()
            .find(|known| known.name == row.name && known.b.is_none());
        match known {
            Some(known) => {
                known.expected_b = Some(row.expected.clone());
                known.b = Some(row.state);
            }
            None => rows.push(Row {
                name: row.name.clone(),
                expected_a: None,
                expected_b: Some(row.expected.clone()),
                a: None,
                b: Some(row.state),
            }),
        }
    }
    rows
}

#[cfg(test)]
mod tests;

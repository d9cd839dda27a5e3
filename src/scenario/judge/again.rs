//! Judges a stored run again, from its folder alone.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::super::ScenarioFileError;
use super::super::file::{self, Against, Machines};
use super::super::report::{Report, Verdict};
use super::super::requests::folder::SCENARIO_FILE;
use super::super::requests::{FILE_NAME, Requests, RequestsError};
use super::super::spec::Scenario;
use super::{judge, wanted};

/// The report's file.
pub const REPORT_FILE: &str = "report.json";

/// Why a folder cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum AgainError {
    /// A file cannot be read.
    #[error("read `{}`", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// `report.json` is not a report.
    #[error("`{}` is not a report", file.display())]
    Report {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The requests are not readable.
    #[error("judge `{}`", file.display())]
    Requests {
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: RequestsError,
    },
    /// The scenario is wrong.
    #[error(transparent)]
    Scenario(#[from] ScenarioFileError),
    /// The scenario expects nothing.
    #[error("{0}")]
    CannotFail(String),
}

/// Reads the report of a run.
#[expect(
    clippy::result_large_err,
    reason = "there is one a folder, and folders are few"
)]
pub fn read_report(folder: &Path) -> Result<Report, AgainError> {
    let file = folder.join(REPORT_FILE);
    let text = std::fs::read(&file).map_err(|source| AgainError::Read {
        file: file.clone(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| AgainError::Report { file, source })
}

/// Reads a scenario of a run that is over: its manifests and machines need not be there.
#[expect(
    clippy::result_large_err,
    reason = "there is one a file, and files are few"
)]
pub fn read_scenario(path: &Path) -> Result<Scenario, ScenarioFileError> {
    let cluster_name = "flightcage".parse().expect("the default name is a name");
    let against = Against {
        cluster_name: &cluster_name,
        machines: Machines::Gone,
        manifests: |_, _| Vec::new(),
        set: &[],
    };
    file::read(path, &against)
}

/// Judges the run in `folder` again, by the expectations of `scenario` or by its own.
#[expect(
    clippy::result_large_err,
    reason = "there is one a folder, and folders are few"
)]
pub fn judge_again(folder: &Path, scenario: Option<&Path>) -> Result<Report, AgainError> {
    let stored = read_report(folder)?;
    // Nothing was measured that could be judged.
    if matches!(stored.verdict, Verdict::Skipped | Verdict::Invalid) {
        return Ok(stored);
    }
    let own = folder.join(SCENARIO_FILE);
    let scenario = read_scenario(scenario.unwrap_or(&own))?;
    if let Some(problem) = scenario.cannot_fail.first() {
        return Err(AgainError::CannotFail(problem.to_string()));
    }
    let requests = open_requests(folder, &scenario, &stored)?;
    Ok(judged(&scenario, stored, &requests))
}

/// Reads what counts of the requests in a run's folder; none need be there if no load ran.
#[expect(
    clippy::result_large_err,
    reason = "there is one a folder, and folders are few"
)]
pub fn open_requests(
    folder: &Path,
    scenario: &Scenario,
    evidence: &Report,
) -> Result<Requests, AgainError> {
    let file = folder.join(FILE_NAME);
    match File::open(&file) {
        Ok(opened) => read_requests(opened, scenario, evidence)
            .map_err(|source| AgainError::Requests { file, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && evidence.load.is_empty() => {
            Ok(Requests::default())
        }
        Err(source) => Err(AgainError::Read { file, source }),
    }
}

/// Reads what counts of a run's requests.
pub fn read_requests(
    file: File,
    scenario: &Scenario,
    evidence: &Report,
) -> Result<Requests, RequestsError> {
    Requests::read(file, &|load| wanted(scenario, evidence, load))
}

/// The report of a run with what the judge says of it.
#[must_use]
pub fn judged(scenario: &Scenario, evidence: Report, requests: &Requests) -> Report {
    let judgement = judge(scenario, &evidence, requests);
    Report {
        verdict: judgement.verdict,
        reasons: judgement.reasons,
        load: judgement.loads,
        expectations: judgement.rows,
        ..evidence
    }
}

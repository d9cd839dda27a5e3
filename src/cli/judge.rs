//! `judge`: a stored run judged again, from its files alone.

use std::process::ExitCode;

use clap::Args;

use super::File;
use super::failure::Failure;
use super::scenarios::refused;
use super::terminal::say;
use crate::scenario::{
    self, AgainError, Outcome, ScenarioFileError, exit_code, judge_again, summary,
};

/// Arguments of `judge`.
#[derive(Debug, Args)]
pub(super) struct Judge {
    /// Folder of the run: the one that holds its report.json.
    #[arg(value_name = "DIR")]
    folder: File,
    /// Judge by the expectations of this scenario instead of those it was run with.
    #[arg(short, long, value_name = "SCENARIO")]
    file: Option<File>,
    /// Print the new report.json.
    #[arg(long)]
    json: bool,
}

impl Judge {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let report = judge_again(&self.folder, self.file.as_deref()).map_err(failed)?;
        if self.json {
            say(&report.to_json());
        } else {
            say(summary::text(&report).trim_end());
        }
        Ok(ExitCode::from(exit_code(&[Outcome::Judged(
            report.verdict,
        )])))
    }
}

/// A stored run that cannot be judged is a wrong input.
pub(super) fn failed(error: AgainError) -> Failure {
    match error {
        AgainError::Scenario(ScenarioFileError::Refused(refusal)) => refused(&refusal),
        AgainError::Scenario(scenario::ScenarioFileError::Read { .. }) => Failure::from(error)
            .hint("a run keeps its scenario as scenario.toml; `-f` names another")
            .invalid(),
        AgainError::Read { .. } => Failure::from(error)
            .hint("name the folder that holds report.json and requests.csv.gz")
            .invalid(),
        AgainError::Report { .. } | AgainError::Requests { .. } | AgainError::CannotFail(_) => {
            Failure::from(error).invalid()
        }
    }
}

//! Reads scenario files: every problem of every file is told before anything is changed, and a file that was refused has its report.

use std::path::{Path, PathBuf};

use super::case::write_report;
use super::failure::{self, Failure};
use super::scenarios::refused;
use super::terminal::complain;
use crate::model::diagnostic::Diagnostic;
use crate::scenario::file::{Against, Machines};
use crate::scenario::report::TargetFacts;
use crate::scenario::spec::Scenario;
use crate::scenario::{self, Report, ScenarioFileError, Verdict};

/// A file that is no scenario. Its problems are printed already.
pub(super) struct Refused {
    file: PathBuf,
    problems: Vec<String>,
    failure: Failure,
}

#[expect(
    clippy::result_large_err,
    reason = "there is one a file, and files are few"
)]
pub(super) fn read(path: &Path, against: &Against<'_>) -> Result<Scenario, Refused> {
    scenario::file::read(path, against).map_err(|error| {
        let (problems, failure) = match error {
            ScenarioFileError::Refused(refusal) => (
                refusal.problems().iter().map(ToString::to_string).collect(),
                refused(&refusal),
            ),
            ScenarioFileError::Read { file, source } => {
                let problems = vec![format!("{file}: cannot be read: {source}")];
                (
                    problems,
                    Failure::from(ScenarioFileError::Read { file, source }).invalid(),
                )
            }
        };
        Refused {
            file: path.to_owned(),
            problems,
            failure,
        }
    })
}

/// Reads all files; those that were refused, if any was.
pub(super) fn read_all(
    files: &[PathBuf],
    against: &Against<'_>,
) -> Result<Vec<Scenario>, Vec<Refused>> {
    let (mut scenarios, mut refused) = (Vec::new(), Vec::new());
    for path in files {
        match read(path, against) {
            Ok(scenario) => scenarios.push(scenario),
            Err(one) => refused.push(one),
        }
    }
    if refused.is_empty() {
        Ok(scenarios)
    } else {
        Err(refused)
    }
}

/// Reads all files that are to be run: one of which nothing is expected is refused, and one for clusters that are not ours.
pub(super) fn read_all_to_run(
    files: &[PathBuf],
    against: &Against<'_>,
) -> Result<Vec<Scenario>, Vec<Refused>> {
    let scenarios = read_all(files, against)?;
    let ours = matches!(against.machines, Machines::OfFile | Machines::Of(_));
    let refused: Vec<Refused> = scenarios
        .iter()
        .filter_map(|scenario| {
            let foreign_only = scenario.foreign_only.iter().filter(|_| ours);
            not_to_run(scenario, scenario.cannot_fail.iter().chain(foreign_only))
        })
        .collect();
    if !refused.is_empty() {
        return Err(refused);
    }
    scenarios
        .iter()
        .for_each(|scenario| warn(&scenario.warnings));
    Ok(scenarios)
}

/// A scenario that is right as a file, and yet cannot be run.
fn not_to_run<'s>(
    scenario: &'s Scenario,
    problems: impl Iterator<Item = &'s Diagnostic>,
) -> Option<Refused> {
    let problems: Vec<&Diagnostic> = problems.collect();
    let first = *problems.first()?;
    for problem in &problems {
        tell("", problem);
    }
    let file = scenario.path.clone();
    Some(Refused {
        problems: problems.iter().map(ToString::to_string).collect(),
        failure: Failure::new(format!("{}: {}", file.display(), first.message)).invalid(),
        file,
    })
}

/// Prints what a file is not refused for.
pub(super) fn warn(warnings: &[Diagnostic]) {
    for warning in warnings {
        tell("warning: ", warning);
    }
}

fn tell(kind: &str, problem: &Diagnostic) {
    let Diagnostic {
        file,
        line,
        column,
        message,
        help,
        ..
    } = problem;
    complain(&format!("{file}:{line}:{column}: {kind}{message}"));
    if let Some(help) = help {
        complain(&format!("  hint: {help}"));
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        refused.failure
    }
}

/// One failure for all of them; the others are printed.
pub(super) fn as_one_failure(mut refused: Vec<Refused>) -> Failure {
    let last = refused.pop().expect("a list of refused files is not empty");
    for earlier in refused {
        failure::print(&earlier.failure);
    }
    last.failure
}

impl Refused {
    /// INVALID, with every problem as a reason. Nothing was run, so that nothing is known of the target.
    fn report(&self, seed: u64, target: TargetFacts) -> Report {
        let name = self.file.file_stem().unwrap_or_default().to_string_lossy();
        Report::without_run(&name, seed, target, Verdict::Invalid, self.problems.clone())
    }
}

/// Writes the reports of files that were refused. That one cannot be written is told: the files are wrong all the same.
pub(super) fn report_refused(refused: &[Refused], folder: &Path, seed: u64, target: &TargetFacts) {
    for one in refused {
        if let Err(failure) = write_report(&one.report(seed, target.clone()), folder) {
            failure::print(&failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::manifests;

    #[test]
    fn a_refused_file_has_a_report_of_all_its_problems() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let files = [
            file("good.toml", "flightcage = 1\n"),
            file("bad.toml", "flightcage = 2\nx = 1\n"),
            folder.path().join("no.toml"),
        ];
        let name = "test".parse().unwrap();
        let refused = read_all(&files, &Against::own_cluster(&name, manifests::check))
            .err()
            .unwrap();
        let target = TargetFacts {
            provider: "qemu".into(),
            accel: "none".into(),
            nodes: 0,
        };
        let reports: Vec<Report> = refused
            .iter()
            .map(|one| one.report(7, target.clone()))
            .collect();
        let told: Vec<(&str, Verdict, usize)> = reports
            .iter()
            .map(|report| {
                (
                    report.scenario.as_str(),
                    report.verdict,
                    report.reasons.len(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [("bad", Verdict::Invalid, 2), ("no", Verdict::Invalid, 1)]
        );
        assert!(as_one_failure(refused).is_invalid());
    }
}

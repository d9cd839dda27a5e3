//! `bench verdicts`: scenarios of which the right verdict is known, since a defect is planted in one and missing in its twin.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::File;
use super::agenda::Repeats;
use super::case::Case;
use super::cluster::open_home;
use super::demo::{SCENARIO_FILES, write_files};
use super::doctor;
use super::failure::Failure;
use super::manifests;
use super::report::index_after_runs;
use super::series::{Settings, run_on_own_clusters};
use super::snapshots::Automatic;
use super::terminal::{Live, complain, say};
use crate::model::names::ClusterName;
use crate::scenario::evidence::Keep;
use crate::scenario::file::Against;
use crate::scenario::matrix::Cell;
use crate::scenario::report::State;
use crate::scenario::requests::folder::SCENARIO_FILE;
use crate::scenario::spec::Scenario;
use crate::scenario::{self, Report, SlowHost, Verdict, judge_again, read_report};

macro_rules! planted {
    ($($file:literal),* $(,)?) => {
        &[$((concat!("planted/", $file), include_str!(concat!("../../scenarios/planted/", $file)))),*]
    };
}

/// The scenarios and what they deploy; the binary carries them.
const FILES: &[(&str, &str)] = planted![
    "planted.yml",
    "sound.yml",
    "answers-500.toml",
    "answers-500.yml",
    "answers-500-sound.toml",
    "answers-500-sound.yml",
    "brown-out.toml",
    "brown-out.yml",
    "brown-out-sound.toml",
    "one-node.toml",
    "one-node.yml",
    "one-node-sound.toml",
    "restart-storm.toml",
    "restart-storm.yml",
    "restart-storm-sound.toml",
    "slow-leak.toml",
    "slow-leak.yml",
    "slow-leak-sound.toml",
    "version-returns.toml",
    "version-returns-sound.toml",
];

/// Each defect, and the only row that may find it; `NAME-sound` is its twin.
const PAIRS: &[(&str, &str)] = &[
    ("answers-500", "web.degraded"),
    ("brown-out", "web.worst"),
    ("one-node", "web.downtime"),
    ("restart-storm", "restarts.flappy-silex-v1"),
    ("slow-leak", "web.p90"),
    ("version-returns", "web.final_version"),
];

/// Arguments of `bench verdicts`.
#[derive(Debug, Args)]
pub(super) struct Verdicts {
    /// How often each pair is run.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Only these pairs, such as `answers-500,one-node`.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(PAIRS.iter().map(|pair| pair.0)))]
    pairs: Vec<String>,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
    /// Keep every run's report below this directory.
    #[arg(long, value_name = "DIR")]
    report: Option<File>,
    #[command(flatten)]
    automatic: Automatic,
}

/// What a verdict is worth where the truth is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    Right,
    /// It says nothing: INCONCLUSIVE.
    Unhelpful,
    Wrong,
}

impl Worth {
    fn word(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Unhelpful => "unhelpful",
            Self::Wrong => "wrong",
        }
    }
}

/// A defect has to be found by its own row alone; without one, nothing may be found.
fn worth(defect: Option<&str>, verdict: Verdict, not_met: &[&str]) -> Worth {
    match (verdict, defect) {
        (Verdict::Inconclusive, _) => Worth::Unhelpful,
        (Verdict::Pass, None) => Worth::Right,
        (Verdict::Fail, Some(row)) if not_met == [row] => Worth::Right,
        _ => Worth::Wrong,
    }
}

fn not_met(report: &Report) -> Vec<&str> {
    let rows = report.expectations.iter();
    rows.filter(|row| row.state == State::NotMet)
        .map(|row| row.name.as_str())
        .collect()
}

/// The scenario without the line that expects `row`.
fn without(scenario: &str, row: &str) -> String {
    let kept = scenario
        .lines()
        .filter(|line| line.split('=').next().map(str::trim) != Some(row));
    kept.map(|line| format!("{line}\n")).collect()
}

/// The run of a defect judged without the row that finds it: the others must be content.
fn judged_without(folder: &Path, row: &str) -> Result<Verdict, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::new(format!("judge `{}` without `{row}`", folder.display())).because(error)
    };
    let text = std::fs::read_to_string(folder.join(SCENARIO_FILE)).map_err(unreadable)?;
    let scratch = tempfile::tempdir().map_err(unreadable)?;
    let file = scratch.path().join(SCENARIO_FILE);
    std::fs::write(&file, without(&text, row)).map_err(unreadable)?;
    Ok(judge_again(folder, Some(&file))?.verdict)
}

/// One run, as it is told.
struct Tried {
    name: String,
    verdict: Verdict,
    worth: Worth,
    why: String,
}

fn look(folder: &Path, name: String, defect: Option<&str>) -> Result<Tried, Failure> {
    let report = read_report(folder)?;
    let rows = not_met(&report);
    let mut tried = Tried {
        name,
        verdict: report.verdict,
        worth: worth(defect, report.verdict, &rows),
        why: report.reasons.join("; "),
    };
    if let (Worth::Right, Some(row)) = (tried.worth, defect) {
        let others = judged_without(folder, row)?;
        if others == Verdict::Fail {
            tried.worth = Worth::Wrong;
            tried.why = format!("without `{row}` it fails as well");
        }
    }
    Ok(tried)
}

impl Verdicts {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        doctor::require_able_host().await?;
        let home = open_home()?;
        let folder = home.cache().join("bench");
        let unwritable = |error: std::io::Error| {
            Failure::new(format!("write below `{}`", folder.display())).because(error)
        };
        for files in [SCENARIO_FILES, FILES] {
            write_files(&folder, files).map_err(unwritable)?;
        }
        let scratch = tempfile::tempdir_in(&folder).map_err(unwritable)?;
        let reports = self.report.as_deref().unwrap_or(scratch.path());
        let scenarios = self.scenarios(&folder, &name)?;
        let cases: Vec<Case<'_>> = (1..=self.repeat)
            .flat_map(|run| {
                scenarios.iter().map(move |(scenario, _)| Case {
                    scenario,
                    cell: Cell {
                        name: Some(format!("run-{run}")),
                        seed: u64::from(run),
                    },
                })
            })
            .collect();
        let live = Live::new();
        let settings = Settings {
            report: Some(reports),
            print: if self.json { complain } else { say },
            keep: false,
            cluster: None,
            snapshots: self.automatic.usage(),
            slow_host: SlowHost::default(),
            repeats: Repeats::default(),
            evidence: Keep::default(),
        };
        run_on_own_clusters(&home, &name, &cases, &settings, &live).await;
        live.finish();
        index_after_runs(self.report.as_deref());
        let mut tried = Vec::new();
        for (case, (_, defect)) in cases.iter().zip(scenarios.iter().cycle()) {
            let of = case.folder(reports);
            tried.push(look(&of, case.title(), *defect)?);
        }
        self.tell(&tried)
    }

    /// Each with the row that has to find its defect, if it has one.
    fn scenarios(
        &self,
        folder: &Path,
        name: &ClusterName,
    ) -> Result<Vec<(Scenario, Option<&'static str>)>, Failure> {
        let mut scenarios = Vec::new();
        for (pair, row) in PAIRS {
            if !self.pairs.is_empty() && !self.pairs.iter().any(|one| one == pair) {
                continue;
            }
            for (file, defect) in [
                (format!("planted/{pair}.toml"), Some(*row)),
                (format!("planted/{pair}-sound.toml"), None),
            ] {
                let against = Against::own_cluster(name, manifests::check);
                scenarios.push((scenario::file::read(&folder.join(file), &against)?, defect));
            }
        }
        Ok(scenarios)
    }

    /// A wrong verdict is a failure of ours, and exit code 3; one that says nothing is 4.
    fn tell(&self, tried: &[Tried]) -> Result<ExitCode, Failure> {
        let count = |worth| tried.iter().filter(|one| one.worth == worth).count();
        let (right, unhelpful, wrong) = (
            count(Worth::Right),
            count(Worth::Unhelpful),
            count(Worth::Wrong),
        );
        if self.json {
            let runs: Vec<_> = tried
                .iter()
                .map(|one| json!({"run": one.name, "verdict": one.verdict.word(), "worth": one.worth.word(), "why": one.why}))
                .collect();
            let document = json!({"version": 1, "bench": "verdicts", "right": right, "unhelpful": unhelpful, "wrong": wrong, "runs": runs});
            say(&serde_json::to_string_pretty(&document)?);
        } else {
            for one in tried {
                let why = if one.worth == Worth::Right {
                    ""
                } else {
                    one.why.as_str()
                };
                let line = format!(
                    "{:<10} {:<13} {:<30} {why}",
                    one.worth.word(),
                    one.verdict.word(),
                    one.name
                );
                say(line.trim_end());
            }
            say(&format!(
                "{} runs: {right} right, {unhelpful} unhelpful, {wrong} wrong",
                tried.len()
            ));
        }
        let code = match (wrong, unhelpful) {
            (0, 0) => 0,
            (0, _) => 4,
            _ => 3,
        };
        Ok(ExitCode::from(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_row_of_the_defect_may_find_it() {
        let defect = Some("web.worst");
        for (defect, verdict, rows, wanted) in [
            (defect, Verdict::Fail, &["web.worst"][..], Worth::Right),
            (
                defect,
                Verdict::Fail,
                &["web.worst", "web.failed"],
                Worth::Wrong,
            ),
            (defect, Verdict::Fail, &[], Worth::Wrong),
            (defect, Verdict::Pass, &[], Worth::Wrong),
            (
                defect,
                Verdict::Inconclusive,
                &["web.worst"],
                Worth::Unhelpful,
            ),
            (None, Verdict::Pass, &[], Worth::Right),
            (None, Verdict::Fail, &["web.worst"], Worth::Wrong),
        ] {
            assert_eq!(
                worth(defect, verdict, rows),
                wanted,
                "{defect:?} {verdict:?} {rows:?}"
            );
        }
    }

    #[test]
    fn every_pair_is_right_as_a_file_and_loses_one_row() {
        let folder = tempfile::tempdir().unwrap();
        for files in [SCENARIO_FILES, FILES] {
            write_files(folder.path(), files).unwrap();
        }
        let cluster: ClusterName = "test".parse().unwrap();
        for (pair, row) in PAIRS {
            for name in [(*pair).to_owned(), format!("{pair}-sound")] {
                let file = folder.path().join(format!("planted/{name}.toml"));
                let read = |file: &Path| {
                    scenario::file::read(file, &Against::own_cluster(&cluster, manifests::check))
                        .unwrap_or_else(|error| panic!("{name}: {error}"))
                };
                let rows = read(&file).expectations.len();
                let text = std::fs::read_to_string(&file).unwrap();
                let less = file.with_file_name("less.toml");
                std::fs::write(&less, without(&text, row)).unwrap();
                assert_eq!(read(&less).expectations.len(), rows - 1, "{name}");
            }
        }
    }
}

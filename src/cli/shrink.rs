//! `shrink`: finds the smallest set of a failing scenario's faults, and their shortest durations, that still fail.
//!
//! Candidates run one after another on one boot of the cluster, which is pristine before each. One counts as failing when it FAILs at
//! least once in its repeats: what fails now and then is what one wants to see smaller, too. INCONCLUSIVE is tried once more and never
//! counts. Whatever was the smallest so far is in the output file when the search is stopped.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::agenda::Repeats;
use super::case::{Case, told};
use super::cluster::open_home;
use super::failure::Failure;
use super::interruption::Interruption;
use super::report::index_after_runs;
use super::scenario_files::{as_one_failure, read_all_to_run};
use super::scenarios::refused;
use super::series::{Series, Settings};
use super::snapshots::Automatic;
use super::terminal::{Live, say};
use super::{File, doctor, manifests};
use crate::model::cluster::ProviderKind;
use crate::model::names::ClusterName;
use crate::scenario::evidence::Keep;
use crate::scenario::file::{Against, parse};
use crate::scenario::matrix::Cell;
use crate::scenario::shrink::edit::{with_drawn, with_only, words};
use crate::scenario::shrink::{Answer, FaultStep, Kept, NotShrinkable, Oracle, faults, shrink};
use crate::scenario::spec::Scenario;
use crate::scenario::{Outcome, SlowHost, Verdict};

/// The exit code of a scenario that does not fail.
const DOES_NOT_FAIL: u8 = 4;
/// How often a run is made that gave no answer.
const ATTEMPTS: u32 = 2;

/// Arguments of `shrink`.
#[derive(Debug, Args)]
pub(super) struct Shrink {
    /// Scenario file that fails.
    #[arg(value_name = "FILE")]
    file: File,
    /// Where the smallest is written [default: NAME-shrunk.toml beside FILE]
    #[arg(short, long, value_name = "FILE")]
    output: Option<File>,
    /// Overwrite that file if it exists.
    #[arg(long)]
    force: bool,
    /// Write the report of each run below this directory.
    #[arg(long, value_name = "DIR")]
    report: Option<File>,
    /// Run each candidate so often, or until it has failed once.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Decides what the scenario leaves to chance; one with a matrix is shrunk at its first seed that fails.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    automatic: Automatic,
}

impl Shrink {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let against = Against::own_cluster(&name, manifests::check);
        let read = read_all_to_run(std::slice::from_ref(&self.file), &against);
        let mut read = read.map_err(as_one_failure)?;
        let scenario = read.pop().expect("a file that was read is a scenario");
        let output = self.output();
        self.check_output(&output, &scenario, &against)?;
        let originals = originals(&scenario, self.seed, &against)?;
        let of_file = scenario.cluster.as_ref();
        if of_file.is_none_or(|spec| spec.provider == ProviderKind::Qemu) {
            doctor::require_able_host().await?;
        }
        let home = open_home()?;
        let live = Live::of_runs();
        let interruption = Interruption::watch();
        let settings = Settings {
            report: self.report.as_deref(),
            print: say_nothing,
            keep: false,
            cluster: None,
            snapshots: self.automatic.usage(),
            slow_host: SlowHost::Inconclusive,
            repeats: Repeats::default(),
            evidence: Keep::NotPassed,
        };
        let stop = interruption.token();
        let mut trials = Trials {
            series: Series::new(&home, &name, &settings, stop, &live),
            against,
            file: &self.file,
            output: &output,
            original: Original::default(),
            repeat: self.repeat,
            stop,
            live: &live,
            tried: 0,
            runs: 0,
            trouble: None,
        };
        let smallest = trials.search(originals).await;
        let Trials {
            series,
            tried,
            runs,
            trouble,
            original,
            ..
        } = trials;
        let ended = series.finish().await;
        live.finish();
        index_after_runs(self.report.as_deref());
        say(&format!("{tried} candidates were tried in {runs} runs"));
        let Some(smallest) = smallest else {
            if let Some(failure) = trouble {
                return Err(failure);
            }
            ended?;
            if stop.is_cancelled() {
                return Err(Failure::new("interrupted before the scenario had failed"));
            }
            let file = self.file.display();
            say(&format!("{file} does not fail: nothing is written"));
            return Ok(ExitCode::from(DOES_NOT_FAIL));
        };
        let (all, kept) = (original.all.len(), original.steps(&smallest));
        let told = in_words(&kept);
        let output = output.display();
        say(&format!(
            "{output}: {} of {all} faults still fail: {told}",
            kept.len()
        ));
        if let Some(failure) = trouble {
            return Err(failure.hint(format!(
                "{output} is the smallest that was found until then"
            )));
        }
        ended?;
        if stop.is_cancelled() {
            let hint = format!("{output} is the smallest that was found until then");
            return Err(Failure::new("interrupted").hint(hint));
        }
        Ok(ExitCode::SUCCESS)
    }

    fn output(&self) -> PathBuf {
        self.output.clone().unwrap_or_else(|| {
            let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
            self.file.with_file_name(format!("{stem}-shrunk.toml"))
        })
    }

    /// The scenario has to be right where it will be written: its manifests are relative to that.
    fn check_output(
        &self,
        output: &Path,
        scenario: &Scenario,
        against: &Against<'_>,
    ) -> Result<(), Failure> {
        if output.exists() && !self.force {
            let what = format!("`{}` exists", output.display());
            return Err(Failure::new(what)
                .hint("`--force` overwrites it; `-o FILE` writes another one")
                .invalid());
        }
        match parse(output, &scenario.text, against) {
            Ok(_) => Ok(()),
            Err(refusal) => Err(refused(&refusal).hint(
                "manifests are relative to a scenario's file: write it into the folder of FILE",
            )),
        }
    }
}

fn say_nothing(_: &str) {}

/// A scenario that may fail, with its faults drawn.
#[derive(Debug, Default)]
struct Original {
    text: String,
    all: Vec<FaultStep>,
    seed: u64,
}

impl Original {
    fn whole(&self) -> Vec<Kept> {
        let kept = |(fault, step): (usize, &FaultStep)| Kept {
            fault,
            lasts: step.lasts,
        };
        self.all.iter().enumerate().map(kept).collect()
    }

    fn steps(&self, candidate: &[Kept]) -> Vec<FaultStep> {
        let step = |kept: &Kept| FaultStep {
            id: self.all[kept.fault].id.clone(),
            lasts: kept.lasts,
        };
        candidate.iter().map(step).collect()
    }
}

/// One for each cell of the matrix.
fn originals(
    scenario: &Scenario,
    seed: u64,
    against: &Against<'_>,
) -> Result<Vec<Original>, Failure> {
    let cells = scenario.cells(seed).into_iter();
    cells
        .map(|cell| original(scenario, cell.seed, against))
        .collect()
}

fn original(scenario: &Scenario, seed: u64, against: &Against<'_>) -> Result<Original, Failure> {
    let path = scenario.path.display();
    let cannot = |error: NotShrinkable| {
        Failure::new(format!("shrink {path}"))
            .because(error)
            .invalid()
    };
    let text = with_drawn(&scenario.text, scenario, seed).map_err(cannot)?;
    let drawn = parse(&scenario.path, &text, against).map_err(|refusal| refused(&refusal))?;
    let all = faults(&drawn);
    if all.is_empty() {
        let what = format!("{path} has no fault that could be left out");
        return Err(Failure::new(what).invalid());
    }
    // What cannot be edited is told before anything is booted.
    with_only(&text, &all, &all).map_err(cannot)?;
    Ok(Original { text, all, seed })
}

fn in_words(faults: &[FaultStep]) -> String {
    if faults.is_empty() {
        return "no fault".to_owned();
    }
    let one = |fault: &FaultStep| match fault.lasts {
        lasts if lasts.is_zero() => format!("{} (once)", fault.id),
        lasts => format!("{} ({})", fault.id, words(lasts)),
    };
    faults.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The text with a note where it comes from; a schema's line stays the first.
fn noted(text: &str, note: &str) -> String {
    match text.split_once('\n') {
        Some((first, rest)) if first.starts_with("#:schema") => {
            format!("{first}\n# {note}\n{rest}")
        }
        _ => format!("# {note}\n{text}"),
    }
}

/// Runs candidates, and writes the smallest that failed.
struct Trials<'a> {
    series: Series<'a>,
    against: Against<'a>,
    file: &'a Path,
    output: &'a Path,
    original: Original,
    repeat: u32,
    stop: &'a CancellationToken,
    live: &'a Arc<Live>,
    tried: u32,
    runs: u32,
    /// Why nothing more can be tried.
    trouble: Option<Failure>,
}

/// What came of a candidate's runs.
enum Tried {
    /// It failed in this run.
    Failed(u32),
    /// It ended so, the last time.
    Held(Verdict),
    /// Somebody or something ended the search.
    Stopped,
}

impl Trials<'_> {
    /// Shrinks the first of these that fails; `None` if none was seen to.
    async fn search(&mut self, originals: Vec<Original>) -> Option<Vec<Kept>> {
        for original in originals {
            self.original = original;
            let whole = self.original.whole();
            match self.try_one(&whole).await {
                Answer::Fails => return Some(shrink(whole, self).await),
                Answer::Holds => {}
                Answer::Stopped => return None,
            }
        }
        None
    }

    /// The candidate as a scenario, or why it is none.
    fn scenario(&self, kept: &[FaultStep]) -> Result<Scenario, String> {
        let Original { text, all, .. } = &self.original;
        let text = with_only(text, all, kept).map_err(|error| error.to_string())?;
        let scenario =
            parse(self.file, &text, &self.against).map_err(|refusal| refusal.listing())?;
        match scenario.cannot_fail.first() {
            Some(problem) => Err(problem.message.clone()),
            None => Ok(scenario),
        }
    }

    async fn run_repeatedly(&mut self, scenario: &Scenario) -> Tried {
        let mut last = Verdict::Inconclusive;
        for number in 1..=self.repeat {
            match self.run_once(scenario, number).await {
                Some(Verdict::Fail) => return Tried::Failed(number),
                Some(verdict @ (Verdict::Skipped | Verdict::Invalid)) => {
                    return Tried::Held(verdict);
                }
                Some(verdict) => last = verdict,
                None => return Tried::Stopped,
            }
        }
        Tried::Held(last)
    }

    /// One run, made again if it gave no answer. `None`: nothing more is to be tried.
    async fn run_once(&mut self, scenario: &Scenario, number: u32) -> Option<Verdict> {
        let mut outcome = Outcome::Error;
        for attempt in 1..=ATTEMPTS {
            let again = if attempt == 1 { "" } else { "-again" };
            let name = format!("try-{}-run-{number}{again}", self.tried);
            let case = Case {
                scenario,
                cell: Cell {
                    name: Some(name),
                    seed: self.original.seed,
                },
            };
            self.runs += 1;
            let run = self.series.run(&case).await;
            outcome = run.unwrap_or_else(|failure| told(&failure, self.live));
            if self.stop.is_cancelled() {
                return None;
            }
            let unanswered = matches!(
                outcome,
                Outcome::Error | Outcome::Judged(Verdict::Inconclusive)
            );
            if !unanswered {
                break;
            }
        }
        match outcome {
            Outcome::Judged(verdict) => Some(verdict),
            Outcome::Error => {
                self.trouble = Some(Failure::new("a candidate could not be run"));
                None
            }
        }
    }

    /// Writes what failed, and nothing half.
    fn keep(&self, scenario: &Scenario, kept: &[FaultStep]) -> Result<(), Failure> {
        let note = format!(
            "Shrunk by `flightcage shrink` from {}: with `--seed {}` it fails by {}.",
            self.file.file_name().unwrap_or_default().display(),
            self.original.seed,
            in_words(kept)
        );
        let folder = match self.output.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        // As any file that is made: the mask takes off what it may not have.
        let all_may = Permissions::from_mode(0o666);
        let made = tempfile::Builder::new()
            .permissions(all_may)
            .tempfile_in(folder);
        let written = made.and_then(|mut file| {
            file.write_all(noted(&scenario.text, &note).as_bytes())?;
            file.persist(self.output).map_err(|error| error.error)
        });
        written.map(drop).map_err(|error| {
            Failure::new(format!("write `{}`", self.output.display())).because(error)
        })
    }
}

impl Oracle for Trials<'_> {
    async fn try_one(&mut self, candidate: &[Kept]) -> Answer {
        let kept = self.original.steps(candidate);
        self.tried += 1;
        let title = format!("try {}: {}", self.tried, in_words(&kept));
        let scenario = match self.scenario(&kept) {
            Ok(scenario) => scenario,
            Err(why) => {
                say(&format!("{title}: cannot be run: {why}"));
                return Answer::Holds;
            }
        };
        match self.run_repeatedly(&scenario).await {
            Tried::Failed(number) => {
                say(&format!("{title}: FAIL in run {number}"));
                match self.keep(&scenario, &kept) {
                    Ok(()) => Answer::Fails,
                    Err(failure) => {
                        self.trouble = Some(failure);
                        Answer::Stopped
                    }
                }
            }
            Tried::Held(verdict) => {
                say(&format!("{title}: {}", verdict.word()));
                Answer::Holds
            }
            Tried::Stopped => Answer::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_note_is_a_comment_and_a_schema_stays_first() {
        let noted_text = noted("flightcage = 1\n", "Shrunk.");
        assert_eq!(noted_text, "# Shrunk.\nflightcage = 1\n");
        let noted_text = noted("#:schema x.json\nflightcage = 1\n", "Shrunk.");
        assert_eq!(noted_text, "#:schema x.json\n# Shrunk.\nflightcage = 1\n");
    }

    #[test]
    fn candidates_are_told_by_their_steps() {
        let step = |id: &str, seconds| FaultStep {
            id: id.to_owned(),
            lasts: Duration::from_secs(seconds),
        };
        let original = Original {
            all: vec![step("kill", 40), step("cut", 0)],
            ..Original::default()
        };
        let whole = original.whole();
        let told = in_words(&original.steps(&whole));
        assert_eq!(told, "kill (40s), cut (once)");
        assert_eq!(in_words(&original.steps(&[])), "no fault");
    }

    #[test]
    fn every_cell_of_a_matrix_may_be_what_fails() {
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        let read = |text: &str| parse(Path::new("demo.toml"), text, &against).unwrap();
        let fault = "[[step]]\nid = \"kill\"\n\
                     fault = { kind = \"node.power_off\", target = { node = \"w1\" }, for = \"9s\" }\n";
        let with_matrix = read(&format!(
            "flightcage = 1\n[matrix]\nseed = [4, 7]\n{fault}[expect]\nfaults_left = 0\n"
        ));
        let originals_of = |scenario: &Scenario| originals(scenario, 1, &against);
        let seeds = originals_of(&with_matrix).unwrap();
        let seeds: Vec<u64> = seeds.iter().map(|original| original.seed).collect();
        assert_eq!(seeds, [4, 7]);
        let without = read("flightcage = 1\n[expect]\nfaults_left = 0\n");
        assert!(originals_of(&without).unwrap_err().is_invalid());
    }
}

//! Which run comes next: cases, their repeats, and what a retry may mend; no machine is touched here.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::case::Case;
use super::failure::{self, Failure};
use super::terminal::say;
use crate::scenario::matrix::Cell;
use crate::scenario::page::FILE_NAME;
use crate::scenario::repeats::{Rate, cell_name, worst};
use crate::scenario::{Outcome, Report, Verdict, read_report};

/// The folder of an attempt that was retried, below that of its scenario: `attempt-1`.
const ATTEMPT: &str = "attempt-";

/// How often cases are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeats {
    /// Each so often.
    pub(super) times: u32,
    /// One that is INCONCLUSIVE so often again; never one that failed.
    pub(super) retries: u32,
    /// No repeat begins that might end later than this after the first began.
    pub(super) budget: Option<Duration>,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            times: 1,
            retries: 0,
            budget: None,
        }
    }
}

/// A run that ended for good.
struct Done<'a> {
    case: Case<'a>,
    /// The case that it repeats.
    repeats: String,
    outcome: Outcome,
}

/// What is to be run, and what came of it.
pub(super) struct Agenda<'a> {
    repeats: Repeats,
    /// Round by round, so that a budget cuts all alike; each with the case that it repeats.
    cases: Vec<(Case<'a>, String)>,
    /// The first round, and what is tried again, is run whatever it takes.
    first_round: usize,
    next: usize,
    /// How often the next case was tried.
    attempts: u32,
    longest: Duration,
    done: Vec<Done<'a>>,
}

impl<'a> Agenda<'a> {
    pub(super) fn new(cases: &[Case<'a>], repeats: Repeats) -> Self {
        let repeat = |case: &Case<'a>, number: u32| {
            let title = case.title();
            if repeats.times == 1 {
                return (case.clone(), title);
            }
            let cell = Cell {
                name: Some(cell_name(case.cell.name.as_deref(), number)),
                seed: case.cell.seed,
            };
            let scenario = case.scenario;
            (Case { scenario, cell }, title)
        };
        Self {
            repeats,
            cases: (1..=repeats.times)
                .flat_map(|number| cases.iter().map(move |case| repeat(case, number)))
                .collect(),
            first_round: cases.len(),
            next: 0,
            attempts: 0,
            longest: Duration::ZERO,
            done: Vec::new(),
        }
    }

    /// The next case, `elapsed` after the first began; none when all is done or the budget is spent.
    pub(super) fn next(&self, elapsed: Duration) -> Option<Case<'a>> {
        let (case, _) = self.cases.get(self.next)?;
        let wanted = self.next < self.first_round || self.attempts > 0;
        let in_time = |budget: Duration| elapsed + self.longest <= budget;
        (wanted || self.repeats.budget.is_none_or(in_time)).then(|| case.clone())
    }

    /// The case of [`Self::next`] ended so, and took so long. Whether it is to be tried again.
    pub(super) fn ended(&mut self, outcome: Outcome, took: Duration, interrupted: bool) -> bool {
        self.longest = self.longest.max(took);
        let undecided = outcome == Outcome::Judged(Verdict::Inconclusive);
        if undecided && !interrupted && self.attempts < self.repeats.retries {
            self.attempts += 1;
            return true;
        }
        let (case, repeats) = self.cases[self.next].clone();
        self.done.push(Done {
            case,
            repeats,
            outcome,
        });
        self.next += 1;
        self.attempts = 0;
        false
    }

    /// Makes room for another attempt: what was kept of this one goes to a folder of its own.
    pub(super) fn set_aside(&self, case: &Case<'_>, reports: Option<&Path>) {
        let set_aside = |folder: &Path| move_into_attempt(folder, self.attempts);
        let folder = reports.map(|reports| case.folder(reports));
        if let Some(Err(error)) = folder.as_deref().map(set_aside) {
            let words = format!("set the report of `{}` aside", case.title());
            failure::print(&Failure::new(words).because(error));
        }
    }

    /// How the runs ended that count, in their order.
    pub(super) fn outcomes(&self) -> Vec<Outcome> {
        self.done.iter().map(|done| done.outcome).collect()
    }

    /// Prints how often each case failed, and where its worst run lies.
    pub(super) fn tell_rates(&self, reports: Option<&Path>) {
        if self.repeats.times == 1 {
            return;
        }
        let left = self.cases.len() - self.next;
        if left > 0 {
            say(&format!("{left} runs were left out"));
        }
        let mut groups: BTreeMap<&str, Vec<&Done<'_>>> = BTreeMap::new();
        for done in &self.done {
            groups.entry(&done.repeats).or_default().push(done);
        }
        for (title, runs) in groups {
            let rate = Rate::of(runs.iter().map(|done| done.outcome));
            say(&format!("{title}: {}", rate.words()));
            if let Some(page) = reports.and_then(|reports| worst_page(&runs, reports)) {
                say(&format!("  the worst: {}", page.display()));
            }
        }
    }
}

fn worst_page(runs: &[&Done<'_>], reports: &Path) -> Option<PathBuf> {
    let folders = runs.iter().map(|done| done.case.folder(reports));
    let read: Vec<(PathBuf, Report)> = folders
        .filter_map(|folder| Some((folder.clone(), read_report(&folder).ok()?)))
        .collect();
    let stored: Vec<&Report> = read.iter().map(|(_, report)| report).collect();
    Some(read[worst(&stored)?].0.join(FILE_NAME))
}

fn move_into_attempt(folder: &Path, number: u32) -> io::Result<()> {
    let entries: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    let attempt = folder.join(format!("{ATTEMPT}{number}"));
    std::fs::create_dir_all(&attempt)?;
    for entry in entries {
        let Some(name) = entry.file_name() else {
            continue;
        };
        if !name.to_string_lossy().starts_with(ATTEMPT) {
            std::fs::rename(&entry, attempt.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::case::cases;
    use crate::scenario::file::{Against, parse};
    use crate::scenario::spec::Scenario;

    const INCONCLUSIVE: Outcome = Outcome::Judged(Verdict::Inconclusive);
    const FAIL: Outcome = Outcome::Judged(Verdict::Fail);
    const PASS: Outcome = Outcome::Judged(Verdict::Pass);

    fn scenarios() -> Vec<Scenario> {
        let name = "test".parse().unwrap();
        let against = Against::own_cluster(&name, |_, _| Vec::new());
        let parsed = |file: &str, text: &str| parse(Path::new(file), text, &against).unwrap();
        vec![
            parsed("one.toml", "flightcage = 1\n"),
            parsed("two.toml", "flightcage = 1\n[matrix]\nseed = [4]\n"),
        ]
    }

    /// Runs an agenda whose runs take 10 s each and end as `ends` says; the titles in their order, and the outcomes.
    fn run(repeats: Repeats, ends: &[Outcome]) -> (Vec<String>, Vec<Outcome>) {
        let scenarios = scenarios();
        let mut agenda = Agenda::new(&cases(&scenarios, 1), repeats);
        let took = Duration::from_secs(10);
        let (mut titles, mut elapsed) = (Vec::new(), Duration::ZERO);
        let mut ends = ends.iter().copied().chain(std::iter::repeat(PASS));
        while let Some(case) = agenda.next(elapsed) {
            elapsed += took;
            titles.push(case.title());
            agenda.ended(ends.next().unwrap(), took, false);
        }
        (titles, agenda.outcomes())
    }

    #[test]
    fn repeats_go_round_by_round_until_the_budget_is_spent() {
        let (titles, outcomes) = run(Repeats::default(), &[]);
        assert_eq!(titles, ["one", "two/seed-4"]);
        assert_eq!(outcomes, [PASS, PASS]);
        let twice = Repeats {
            times: 2,
            ..Repeats::default()
        };
        let all = [
            "one/run-1",
            "two/seed-4-run-1",
            "one/run-2",
            "two/seed-4-run-2",
        ];
        assert_eq!(run(twice, &[]).0, all);
        let cut = |secs| Repeats {
            budget: Some(Duration::from_secs(secs)),
            ..twice
        };
        assert_eq!(run(cut(30), &[]).0, all[..3]);
        assert_eq!(run(cut(1), &[]).0, all[..2], "every case is run once");
    }

    #[test]
    fn only_an_inconclusive_run_is_tried_again() {
        let retry = Repeats {
            retries: 2,
            ..Repeats::default()
        };
        let (titles, outcomes) = run(retry, &[INCONCLUSIVE, FAIL, PASS]);
        assert_eq!(titles, ["one", "one", "two/seed-4"]);
        assert_eq!(outcomes, [FAIL, PASS]);
        let (titles, outcomes) = run(retry, &[INCONCLUSIVE, INCONCLUSIVE, INCONCLUSIVE]);
        assert_eq!(titles, ["one", "one", "one", "two/seed-4"]);
        assert_eq!(outcomes, [INCONCLUSIVE, PASS]);
        let scenarios = scenarios();
        let mut agenda = Agenda::new(&cases(&scenarios, 1), retry);
        assert!(
            !agenda.ended(INCONCLUSIVE, Duration::ZERO, true),
            "a signal is no doubt"
        );
    }

    #[test]
    fn an_attempt_that_is_retried_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        for number in [1, 2] {
            std::fs::write(folder.path().join("report.json"), number.to_string()).unwrap();
            move_into_attempt(folder.path(), number).unwrap();
        }
        for number in [1, 2] {
            let kept = folder.path().join(format!("attempt-{number}/report.json"));
            assert_eq!(std::fs::read_to_string(kept).unwrap(), number.to_string());
        }
        assert!(!folder.path().join("report.json").exists());
    }
}

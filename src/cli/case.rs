//! One run of one scenario: what is shown while it runs, and what is printed and written of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::failure::{self, Failure};
use super::journal::tell_troubles;
use super::terminal::{Live, complain};
use crate::scenario::live::LiveRun;
use crate::scenario::matrix::Cell;
use crate::scenario::page::StoredRun;
use crate::scenario::report::TargetFacts;
use crate::scenario::spec::Scenario;
use crate::scenario::{self, Environment, Outcome, Report, RunError, Update, Verdict};

/// Updates that may wait for the terminal; more are dropped, the run never waits.
pub(super) const UPDATES: usize = 64;

/// One run of one scenario.
#[derive(Clone)]
pub(super) struct Case<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) cell: Cell,
}

impl Case<'_> {
    /// Its folder below that of all reports.
    pub(super) fn folder(&self, reports: &Path) -> PathBuf {
        reports.join(self.title())
    }

    /// The scenario's name, and the cell's.
    pub(super) fn title(&self) -> String {
        self.cell.name.as_ref().map_or_else(
            || self.scenario.name.clone(),
            |cell| format!("{}/{cell}", self.scenario.name),
        )
    }
}

/// Every cell of every scenario; `seed` is for what a file leaves open.
pub(super) fn cases(scenarios: &[Scenario], seed: u64) -> Vec<Case<'_>> {
    let cells = |scenario| move |cell| Case { scenario, cell };
    scenarios
        .iter()
        .flat_map(|scenario| scenario.cells(seed).into_iter().map(cells(scenario)))
        .collect()
}

/// What is said of a scenario that a signal kept from beginning.
pub(super) fn interrupted_before(case: &Case<'_>, target: TargetFacts) -> Report {
    let Case { scenario, cell } = case;
    let reasons = vec!["interrupted".to_owned()];
    let report = Report::without_run(
        &scenario.name,
        cell.seed,
        target,
        Verdict::Inconclusive,
        reasons,
    );
    Report {
        cell: cell.name.clone(),
        ..report
    }
}

/// Runs one scenario while its updates are shown; cancelling heals what it broke.
pub(super) async fn judge(
    case: &Case<'_>,
    mut environment: Environment,
    mut updates: mpsc::Receiver<Update>,
    stop: &CancellationToken,
    live: &Arc<Live>,
) -> Result<Report, RunError> {
    let show = async {
        while let Some(Update { at, text }) = updates.recv().await {
            live.told(at, &text);
        }
        std::future::pending::<()>().await;
    };
    environment.live = live.scenario(&case.title());
    let target = Arc::clone(&environment.faults);
    let judged = tokio::select! {
        () = tell_troubles(target, live) => unreachable!("telling never ends by itself"),
        report = scenario::run(case.scenario, environment, stop.clone()) => {
            report.map(|report| Report { cell: case.cell.name.clone(), ..report })
        }
        () = show => unreachable!("showing never ends by itself"),
    };
    live.heard().await;
    judged
}

/// Prints and writes a report. That it could not be written is an error, unless the file was wrong, which weighs more.
pub(super) fn tell(
    judged: Result<Report, RunError>,
    folder: Option<&Path>,
    print: fn(&str),
    live: &Arc<Live>,
) -> Outcome {
    let shown = live.run_for_page();
    live.finish();
    let report = match judged {
        Ok(report) => report,
        Err(error) => return told(&Failure::from(error), live),
    };
    let written = folder.map_or(Ok(()), |folder| write_report(&report, folder));
    live.report(shown.map(|run| last_page(run, &report, folder)));
    print(&scenario::summary::text(&report));
    match written {
        Err(failure) if report.verdict != Verdict::Invalid => told(&failure, live),
        Err(failure) => {
            failure::print(&failure);
            Outcome::Judged(report.verdict)
        }
        Ok(()) => Outcome::Judged(report.verdict),
    }
}

/// The page of a run that was watched: as it was written, or, if it was not, of what the page had by then.
fn last_page(run: LiveRun, report: &Report, folder: Option<&Path>) -> String {
    let page = folder.map(|folder| folder.join(report.title()).join(scenario::page::FILE_NAME));
    let written = page.and_then(|page| std::fs::read_to_string(page).ok());
    written.unwrap_or_else(|| {
        let text = run.begun.text.clone();
        let requests = run.into_requests().unwrap_or_default();
        scenario::page::html(&StoredRun::new(report.clone(), requests, Some(text)))
    })
}

pub(super) fn write_report(report: &Report, folder: &Path) -> Result<(), Failure> {
    let written = report.write(folder).map_err(|error| {
        Failure::new(format!(
            "write the report of scenario `{}` below `{}`",
            report.title(),
            folder.display()
        ))
        .because(error)
    })?;
    let page = scenario::page::write(&written).map_err(Failure::from)?;
    complain(&format!("report: {}", page.display()));
    Ok(())
}

/// Prints what went wrong beside the verdicts.
pub(super) fn told(failure: &Failure, live: &Live) -> Outcome {
    live.finish();
    failure::print(failure);
    Outcome::Error
}

//! `index.html`: several runs on one page, and the cells of a matrix as a grid.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tera::{Context, Tera};

use super::{FILE_NAME, PageError, STYLE, StoredRun, sentence, svg, tables};
use crate::scenario::repeats::{Rate, repeated_cell, worst};
use crate::scenario::report::{Outcome, Report};

const INDEX_NAME: &str = "index.html";
const TEMPLATE: &str = include_str!("index.html");
/// Columns of the small picture of a run's failures.
const COLUMNS: usize = 100;

#[derive(Debug, Serialize)]
struct Row {
    title: String,
    scenario: String,
    cell: String,
    link: String,
    verdict: &'static str,
    class: String,
    mark: &'static str,
    sentence: String,
    failed: u64,
    length: String,
    spark: String,
}

/// How often a scenario failed that was run several times.
#[derive(Debug, Serialize)]
struct RateRow {
    title: String,
    words: String,
    /// The page of the worst run; empty if none failed.
    link: String,
    worst: String,
}

#[derive(Debug, Serialize)]
struct Matrix<'a> {
    name: &'a str,
    runs: Vec<&'a Row>,
}

/// Writes the index of the runs in these folders, which lie below `folder`, and returns its file.
///
/// # Errors
/// When a run cannot be read, or the index not be written.
///
/// # Panics
/// Never: the template is constant, and tests render it.
pub fn write_index(folder: &Path, runs: &[PathBuf]) -> Result<PathBuf, PageError> {
    let mut rows = Vec::new();
    let mut reports = Vec::new();
    for path in runs {
        let run = StoredRun::read(path)?;
        rows.push(row(folder, path, &run));
        reports.push(run.report);
    }
    let file = folder.join(INDEX_NAME);
    std::fs::write(&file, html(&rows, &rates(&rows, &reports))).map_err(|source| {
        PageError::Write {
            file: file.clone(),
            source,
        }
    })?;
    Ok(file)
}

/// One row a scenario, or cell of its matrix, that was run several times.
fn rates(rows: &[Row], reports: &[Report]) -> Vec<RateRow> {
    let mut groups: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (index, row) in rows.iter().enumerate() {
        if let Some(cell) = repeated_cell(&row.cell) {
            groups.entry((&row.scenario, cell)).or_default().push(index);
        }
    }
    let rate = |((scenario, cell), runs): ((&str, &str), Vec<usize>)| {
        let outcomes = runs
            .iter()
            .map(|run| Outcome::Judged(reports[*run].verdict));
        let stored: Vec<&Report> = runs.iter().map(|run| &reports[*run]).collect();
        let worst = worst(&stored).map(|place| &rows[runs[place]]);
        RateRow {
            title: if cell.is_empty() {
                scenario.to_owned()
            } else {
                format!("{scenario}/{cell}")
            },
            words: Rate::of(outcomes).words(),
            link: worst.map(|row| row.link.clone()).unwrap_or_default(),
            worst: worst.map(|row| row.cell.clone()).unwrap_or_default(),
        }
    };
    groups.into_iter().map(rate).collect()
}

fn html(rows: &[Row], rates: &[RateRow]) -> String {
    let mut matrices: Vec<Matrix<'_>> = Vec::new();
    for row in rows.iter().filter(|row| !row.cell.is_empty()) {
        match matrices
            .last_mut()
            .filter(|matrix| matrix.name == row.scenario)
        {
            Some(matrix) => matrix.runs.push(row),
            None => matrices.push(Matrix {
                name: &row.scenario,
                runs: vec![row],
            }),
        }
    }
    let mut context = Context::new();
    context.insert("summary", &summary(rows));
    context.insert("runs", rows);
    context.insert("rates", rates);
    context.insert("matrices", &matrices);
    context.insert("style", STYLE);
    context.insert("flightcage", env!("CARGO_PKG_VERSION"));
    let mut tera = Tera::default();
    tera.add_raw_template(INDEX_NAME, TEMPLATE)
        .expect("the template is constant");
    tera.render(INDEX_NAME, &context)
        .expect("the template is constant, and so is what it is given")
}

/// `7 runs: 5 PASS, 2 FAIL`.
fn summary(rows: &[Row]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for row in rows {
        match counts
            .iter_mut()
            .find(|(verdict, _)| *verdict == row.verdict)
        {
            Some((_, count)) => *count += 1,
            None => counts.push((row.verdict, 1)),
        }
    }
    let counts: Vec<String> = counts
        .iter()
        .map(|(verdict, count)| format!("{count} {verdict}"))
        .collect();
    let plural = if rows.len() == 1 { "" } else { "s" };
    format!("{} run{plural}: {}", rows.len(), counts.join(", "))
}

fn row(folder: &Path, path: &Path, run: &StoredRun) -> Row {
    let report = &run.report;
    let relative = path.strip_prefix(folder).unwrap_or(path).join(FILE_NAME);
    Row {
        title: report.title(),
        scenario: report.scenario.clone(),
        cell: report.cell.clone().unwrap_or_default(),
        link: address(&relative),
        verdict: report.verdict.word(),
        class: report.verdict.word().to_lowercase(),
        mark: tables::mark(report.verdict),
        sentence: sentence::of(run),
        failed: run.streams().map(|(_, _, figures)| figures.failed).sum(),
        length: svg::duration(run.axis.to_ms),
        spark: spark(run),
    }
}

/// A relative path as a link.
pub(super) fn address(path: &Path) -> String {
    let mut link = String::new();
    for byte in path.to_string_lossy().bytes() {
        if byte.is_ascii_alphanumeric() || b"-_./~".contains(&byte) {
            link.push(char::from(byte));
        } else {
            let _ = write!(link, "%{byte:02X}");
        }
    }
    link
}

/// Shares of failed requests along the run, as bars.
fn spark(run: &StoredRun) -> String {
    let mut columns = vec![(0_u32, 0_u32); COLUMNS];
    for request in run
        .requests
        .streams
        .values()
        .flat_map(|stream| &stream.requests)
    {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "100 columns"
        )]
        let column = (run.axis.share(request.intended_ms()) * COLUMNS as f64) as usize;
        let (bad, all) = &mut columns[column.min(COLUMNS - 1)];
        *bad += u32::from(!request.good());
        *all += 1;
    }
    let mut path = String::new();
    for (index, (bad, all)) in columns
        .into_iter()
        .enumerate()
        .filter(|(_, (bad, _))| *bad > 0)
    {
        let height = (f64::from(bad) / f64::from(all) * 18.0).max(1.5);
        let _ = write!(
            path,
            "M{} 19v-{}h2v{}z",
            index * 2,
            svg::number(height),
            svg::number(height)
        );
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::page::fixture::{Plan, write};

    #[test]
    fn runs_and_cells_are_linked() {
        let folder = tempfile::tempdir().unwrap();
        let runs: Vec<PathBuf> = ["failover", "failover/seed 2"]
            .iter()
            .map(|name| folder.path().join(name))
            .collect();
        for (run, verdict) in runs.iter().zip(["pass", "fail"]) {
            write(
                run,
                &Plan {
                    verdict,
                    ..Plan::default()
                },
            )
            .unwrap();
        }
        let file = write_index(folder.path(), &runs).unwrap();
        let page = std::fs::read_to_string(file).unwrap();
        assert!(page.contains("2 runs: 1 PASS, 1 FAIL"));
        assert!(
            page.contains("href=\"failover/report.html\"")
                && page.contains("href=\"failover/seed%202/report.html\"")
        );
        assert!(page.contains("1 cell<") && !page.contains("<script"));
    }

    #[test]
    fn repeats_have_their_rate_and_a_link_to_the_worst() {
        let folder = tempfile::tempdir().unwrap();
        let runs: Vec<PathBuf> = (1..=3)
            .map(|number| folder.path().join(format!("failover/run-{number}")))
            .collect();
        for (run, verdict) in runs.iter().zip(["pass", "fail", "pass"]) {
            let plan = Plan {
                verdict,
                ..Plan::default()
            };
            write(run, &plan).unwrap();
        }
        let page = std::fs::read_to_string(write_index(folder.path(), &runs).unwrap()).unwrap();
        assert!(
            page.contains("1 of 3 runs FAIL: 33.3 % (6.1 % to 79.2 %)"),
            "{page}"
        );
        assert!(page.contains("<a href=\"failover/run-2/report.html\">run-2</a>"));
    }
}

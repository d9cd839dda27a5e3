//! `report` and `explain`: what is made of a run that is over, from its files alone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::diff::Diff;
use super::failure::{self, Failure};
use super::terminal::say;
use crate::scenario::explain::explain;
use crate::scenario::page::{self, Shade};

/// Arguments of `report`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct ReportCommand {
    #[command(subcommand)]
    other: Option<Other>,
    /// Folders of runs, or folders that hold such folders, as `run --report` writes them.
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Print the timeline of one run as a picture (SVG) instead, on a light or a dark ground.
    #[arg(long, value_name = "light|dark", value_parser = shade)]
    picture: Option<Shade>,
}

/// What else is made of stored runs.
#[derive(Debug, Subcommand)]
enum Other {
    /// Compare two stored runs: figures side by side, and whether the second is worse.
    Diff(Diff),
}

fn shade(text: &str) -> Result<Shade, String> {
    match text {
        "light" => Ok(Shade::Light),
        "dark" => Ok(Shade::Dark),
        _ => Err("`light` or `dark`".to_owned()),
    }
}

impl ReportCommand {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if let Some(Other::Diff(diff)) = self.other {
            return diff.run();
        }
        if let Some(shade) = self.picture {
            let [folder] = self.folders.as_slice() else {
                return Err(Failure::new("`--picture` is of one run").invalid());
            };
            if !folder.join("report.json").is_file() {
                return Err(no_run(folder));
            }
            say(&page::picture(&page::StoredRun::read(folder)?, shade));
            return Ok(ExitCode::SUCCESS);
        }
        for folder in &self.folders {
            let runs = runs_below(folder);
            if runs.is_empty() {
                return Err(no_run(folder));
            }
            for run in runs {
                say(&page::write(&run)?.display().to_string());
            }
            if let Some(index) = write_index(folder)? {
                say(&index.display().to_string());
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the index of the runs below a folder, unless it is a run itself or holds none.
pub(super) fn write_index(folder: &Path) -> Result<Option<PathBuf>, Failure> {
    let runs = runs_below(folder);
    if runs.is_empty() || runs == [folder] {
        return Ok(None);
    }
    Ok(Some(page::write_index(folder, &runs)?))
}

/// The same after runs: that it cannot be written does not change how they ended.
pub(super) fn index_after_runs(folder: Option<&Path>) {
    if let Some(Err(failure)) = folder.map(write_index) {
        failure::print(&failure);
    }
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Folder of a run, or one that holds such folders.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runs = runs_below(&self.folder);
        if runs.is_empty() {
            return Err(no_run(&self.folder));
        }
        for (index, folder) in runs.iter().enumerate() {
            let run = page::StoredRun::read(folder)?;
            if index > 0 {
                say("");
            }
            say(&run.report.title());
            for sentence in explain(&run) {
                say(&format!("  {sentence}"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// There is no report in or below this folder.
pub(super) fn no_run(folder: &Path) -> Failure {
    Failure::new(format!(
        "there is no report.json in or below `{}`",
        folder.display()
    ))
    .hint("`flightcage run FILE --report DIR` writes one to DIR/<scenario name>")
    .invalid()
}

/// The folder itself if it holds a run, else those below it: scenarios, and cells of their matrices. In the order of their names.
pub(super) fn runs_below(folder: &Path) -> Vec<PathBuf> {
    /// A scenario's folder, and below it a cell's.
    const DEPTH: usize = 2;
    let mut runs = Vec::new();
    let mut level = vec![folder.to_owned()];
    for _ in 0..=DEPTH {
        let (found, rest): (Vec<PathBuf>, Vec<PathBuf>) = level
            .into_iter()
            .partition(|folder| folder.join("report.json").is_file());
        runs.extend(found);
        level = rest
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir())
            .collect();
    }
    runs.sort();
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_where_run_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let run = folder.path().join(path);
            std::fs::create_dir_all(&run).unwrap();
            std::fs::write(run.join("report.json"), "{}").unwrap();
        };
        make("failover");
        make("matrix/seed-2");
        make("matrix/seed-1");
        std::fs::create_dir_all(folder.path().join("empty")).unwrap();
        let found = |path: PathBuf| runs_below(&path).len();
        assert_eq!(found(folder.path().to_owned()), 3);
        assert_eq!(found(folder.path().join("failover")), 1);
        assert_eq!(found(folder.path().join("empty")), 0);
        assert!(no_run(folder.path()).is_invalid());
    }
}

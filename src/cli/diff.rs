//! `report diff`: two stored runs, or two folders of them, compared.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::judge::failed;
use super::report::{no_run, runs_below};
use super::terminal::{complain, say};
use crate::model::units::parse_share;
use crate::scenario::diff::{Difference, compare, markdown, plain};
use crate::scenario::page::{self, StoredRun};

/// B is worse beyond doubt: the code of FAIL.
const WORSE: u8 = 3;

/// Arguments of `report diff`.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// Folder of the first run, or one that holds such folders.
    #[arg(value_name = "A")]
    a: PathBuf,
    /// Folder of the second run; exit code 3 if it is worse beyond doubt, else 0.
    #[arg(value_name = "B")]
    b: PathBuf,
    /// A difference within this share of the first run's figure does not count.
    #[arg(long, value_name = "SHARE", default_value = "10%", value_parser = parse_share)]
    tolerance: f64,
    /// Print Markdown, for a pull request.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Also write a page that lays both runs over each other on one axis, from the first fault's onset or the load's start: one file
    /// without network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print JSON: one object, or an array of them for folders of several runs.
    #[arg(long)]
    json: bool,
}

/// Writes the page of the one pair there is.
fn write_page(
    file: &Path,
    pairs: &[(PathBuf, PathBuf)],
    differences: &[Difference],
) -> Result<(), Failure> {
    let ([(a, b)], [difference]) = (pairs, differences) else {
        return Err(
            Failure::new("`--html` is of two runs, and these folders hold more")
                .hint("name the folders of two runs")
                .invalid(),
        );
    };
    let html = page::overlay(StoredRun::read(a)?, StoredRun::read(b)?, difference);
    std::fs::write(file, html)
        .map_err(|error| Failure::new(format!("write `{}`", file.display())).because(error))?;
    complain(&format!("page: {}", file.display()));
    Ok(())
}

impl Diff {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let pairs = self.pairs()?;
        let mut differences = Vec::new();
        for (a, b) in &pairs {
            differences.push(compare(a, b, self.tolerance).map_err(failed)?);
        }
        self.tell(&differences)?;
        if let Some(file) = &self.html {
            write_page(file, &pairs, &differences)?;
        }
        let worse = differences.iter().any(|one| !one.worse.is_empty());
        Ok(if worse {
            ExitCode::from(WORSE)
        } else {
            ExitCode::SUCCESS
        })
    }

    fn tell(&self, differences: &[Difference]) -> Result<(), Failure> {
        if self.json {
            let json = match differences {
                [one] => serde_json::to_string_pretty(one),
                several => serde_json::to_string_pretty(several),
            };
            say(&json.map_err(Failure::from)?);
            return Ok(());
        }
        let words = if self.markdown { markdown } else { plain };
        for (index, difference) in differences.iter().enumerate() {
            if index > 0 {
                say("");
            }
            say(words(difference).trim_end());
        }
        Ok(())
    }

    /// The runs that are compared: by their places below the folders, or the only one with the only one.
    fn pairs(&self) -> Result<Vec<(PathBuf, PathBuf)>, Failure> {
        let (of_a, of_b) = (runs_below(&self.a), runs_below(&self.b));
        for (folder, runs) in [(&self.a, &of_a), (&self.b, &of_b)] {
            if runs.is_empty() {
                return Err(no_run(folder));
            }
        }
        if let ([a], [b]) = (of_a.as_slice(), of_b.as_slice()) {
            return Ok(vec![(a.clone(), b.clone())]);
        }
        let place = |run: &Path, folder: &Path| run.strip_prefix(folder).map(Path::to_owned).ok();
        let mut pairs = Vec::new();
        for a in &of_a {
            let name = place(a, &self.a);
            match of_b.iter().find(|b| place(b, &self.b) == name) {
                Some(b) => pairs.push((a.clone(), b.clone())),
                None => complain(&format!("`{}` is only in A", a.display())),
            }
        }
        for b in of_b
            .iter()
            .filter(|b| pairs.iter().all(|(_, known)| known != *b))
        {
            complain(&format!("`{}` is only in B", b.display()));
        }
        if pairs.is_empty() {
            return Err(Failure::new("the two folders have no run in common")
                .hint("runs are paired by their names: name two runs' own folders to compare those")
                .invalid());
        }
        Ok(pairs)
    }
}

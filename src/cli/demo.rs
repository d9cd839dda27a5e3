//! `demo`: the main job in one command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::agenda::Repeats;
use super::case::cases;
use super::cluster::open_home;
use super::doctor;
use super::failure::Failure;
use super::manifests;
use super::report::index_after_runs;
use super::series::{Settings, run_on_own_clusters, verdict_words};
use super::snapshots::Automatic;
use super::terminal::{Live, say};
use crate::cluster::home::private_directory;
use crate::model::names::ClusterName;
use crate::scenario::evidence::Keep;
use crate::scenario::file::Against;
use crate::scenario::{self, ScenarioFileError, SlowHost, exit_code};

/// The demonstration's files, which the binary carries: it works alone.
pub(super) const SCENARIO_FILES: &[(&str, &str)] = &[
    (
        "failover.toml",
        include_str!("../../scenarios/failover.toml"),
    ),
    (
        "rolling-update.toml",
        include_str!("../../scenarios/rolling-update.toml"),
    ),
    (
        "flappy/silex.yml",
        include_str!("../../scenarios/flappy/silex.yml"),
    ),
    (
        "flappy/silex-v2.yml",
        include_str!("../../scenarios/flappy/silex-v2.yml"),
    ),
    (
        "flappy/nginx.yml",
        include_str!("../../scenarios/flappy/nginx.yml"),
    ),
];
/// The scenarios among them, in order.
const SCENARIOS: &[&str] = &["failover.toml", "rolling-update.toml"];

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Install what this host lacks without asking.
    #[arg(long)]
    yes: bool,
    /// Write the reports below this directory.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    automatic: Automatic,
}

impl Demo {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        doctor::make_able_host(self.yes, &Live::new()).await?;
        let live = Live::of_runs();
        let home = open_home()?;
        let folder = home.cache().join("demo");
        let written = write_files(&folder, SCENARIO_FILES);
        written.map_err(|error| {
            Failure::new(format!("write the demonstration to `{}`", folder.display()))
                .because(error)
        })?;
        let read = |file: &&str| {
            scenario::file::read(
                &folder.join(file),
                &Against::own_cluster(&name, manifests::check),
            )
        };
        let scenarios = SCENARIOS
            .iter()
            .map(read)
            .collect::<Result<Vec<_>, ScenarioFileError>>()?;
        let snapshots = self.automatic.usage();
        let settings = Settings {
            report: self.report.as_deref(),
            print: say,
            keep: self.keep,
            cluster: None,
            snapshots,
            slow_host: SlowHost::default(),
            repeats: Repeats::default(),
            evidence: Keep::default(),
        };
        let outcomes =
            run_on_own_clusters(&home, &name, &cases(&scenarios, 1), &settings, &live).await;
        live.finish();
        index_after_runs(self.report.as_deref());
        for (scenario, word) in scenarios.iter().zip(verdict_words(&outcomes)) {
            say(&format!("{word}  {}", scenario.name));
        }
        Ok(ExitCode::from(exit_code(&outcomes)))
    }
}

pub(super) fn write_files(folder: &Path, files: &[(&str, &str)]) -> std::io::Result<()> {
    for (file, contents) in files {
        let path = folder.join(file);
        private_directory(path.parent().expect("a file is in a directory"))?;
        std::fs::write(path, contents)?;
    }
    Ok(())
}

//! `run`, `plan`, `lint`, `undo`: scenario files and their verdicts.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::agenda::{Agenda, Repeats};
use super::case::{Case, UPDATES, cases, interrupted_before, judge, tell};
use super::cluster::open_home;
use super::environment::{ForeignCluster, OwnCluster};
use super::failure::{self, Failure};
use super::interruption::Interruption;
use super::manifests;
use super::report::index_after_runs;
use super::scenario_files::{
    as_one_failure, read, read_all, read_all_to_run, report_refused, warn,
};
use super::series::{Settings, run_on_own_clusters};
use super::snapshots::Automatic;
use super::terminal::{Live, complain, say};
use super::watch::Watch;
use super::{File, doctor};
use crate::cluster::client::DaemonClientError;
use crate::cluster::daemon::{ClusterRecord, read_json};
use crate::cluster::file::{self, ClusterFileError};
use crate::cluster::home::ClusterPaths;
use crate::cluster::life::{Cluster, LifeError};
use crate::kubernetes::client::{Client, ListParams};
use crate::machines::{acceleration, provider::Acceleration};
use crate::model::cluster::{ClusterSpec, ProviderKind};
use crate::model::diagnostic::Refusal;
use crate::model::names::ClusterName;
use crate::model::units::parse_duration;
use crate::scenario::capacity::Capacity;
use crate::scenario::evidence::Keep;
use crate::scenario::fault::{DialService, Faults, Journal};
use crate::scenario::file::{Against, Machines};
use crate::scenario::injection::Injection;
use crate::scenario::live::LiveSender;
use crate::scenario::random::drawn;
use crate::scenario::report::TargetFacts;
use crate::scenario::spec::Scenario;
use crate::scenario::{self, Environment, Outcome, SlowHost, exit_code};

/// The provider of a target that is not ours, in reports.
const FOREIGN: &str = "kubeconfig";

/// Reads a cluster file; all its problems are printed.
pub(super) fn read_cluster_file(path: &Path, name: &ClusterName) -> Result<ClusterSpec, Failure> {
    file::read(path, name).map_err(|error| match error {
        ClusterFileError::Read { .. } => Failure::from(error).invalid(),
        ClusterFileError::Refused(refusal) => refused(&refusal),
    })
}

/// Prints every problem of a file as `file:line:column: what`, and its hint.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    for problem in refusal.problems() {
        complain(&problem.to_string());
        if let Some(help) = &problem.help {
            complain(&format!("  hint: {help}"));
        }
    }
    Failure::new(refusal.to_string()).invalid()
}

/// `--slow-host`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Slow {
    /// The run is INCONCLUSIVE.
    #[default]
    Inconclusive,
    /// It is a failure as on any other host.
    Fail,
}

impl From<Slow> for SlowHost {
    fn from(slow: Slow) -> Self {
        match slow {
            Slow::Inconclusive => Self::Inconclusive,
            Slow::Fail => Self::Fail,
        }
    }
}

/// `--evidence`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Evidence {
    /// Whenever a run did not pass.
    #[default]
    Auto,
    /// Of every run.
    Always,
    /// Never.
    Never,
}

impl From<Evidence> for Keep {
    fn from(evidence: Evidence) -> Self {
        match evidence {
            Evidence::Auto => Self::NotPassed,
            Evidence::Always => Self::Always,
            Evidence::Never => Self::Never,
        }
    }
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Scenario files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<File>,
    /// Write each scenario's report.html, report.json, junit.xml and requests below this directory.
    #[arg(long, value_name = "DIR")]
    report: Option<File>,
    /// Decides what a scenario leaves to chance, such as a tie between nodes, or which cells a sample of its matrix has.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run on the cluster of this file instead of the one that each scenario asks for.
    #[arg(long, value_name = "FILE", conflicts_with = "kubeconfig")]
    cluster: Option<File>,
    /// Run on this Kubernetes instead of a cluster of our own.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<File>,
    /// What follows when something failed while a machine had no processor left.
    #[arg(long, value_enum, default_value_t, value_name = "VERDICT")]
    slow_host: Slow,
    /// Another value of a variable of the scenarios; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// When objects, Events, logs, consoles and journals are kept beside the report.
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    evidence: Evidence,
    /// Run everything so often, and tell how often it fails.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeat: u32,
    /// Begin no repeat that might end later than this.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    budget: Option<Duration>,
    /// Run what is INCONCLUSIVE so often again; what failed, failed.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100))]
    retry_inconclusive: u32,
    /// Run only every N-th scenario, beginning with the M-th: parallel jobs share the files among them.
    #[arg(long, value_name = "M/N")]
    shard: Option<Shard>,
    /// Serve a page that shows the run while it goes on, and print its address: on this host only, and only to who has the address. It
    /// ends as the report, which open browsers have five seconds to fetch. Without a port: one that is always the scenario's, or the
    /// next that is free.
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    watch: Option<u16>,
    #[command(flatten)]
    automatic: Automatic,
}

impl Run {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let (cluster, scenarios) = self.read_files(&name)?;
        let cases = cases(&scenarios, self.seed);
        let cases = match self.shard {
            None => cases,
            Some(shard) => shard.of(cases),
        };
        if cases.is_empty() {
            say("no scenario is left for this shard");
            return Ok(ExitCode::SUCCESS);
        }
        let live = Live::of_runs();
        let watch = match self.watch {
            Some(port) => {
                let port = (port > 0).then_some(port);
                let first = cases[0].scenario.name.as_str();
                let watch = Watch::start(live.state_for_page(), port, first).await?;
                complain(&format!("watch: {}", watch.address()));
                Some(watch)
            }
            None => None,
        };
        let outcomes = match &self.kubeconfig {
            Some(kubeconfig) => self.on_foreign(&cases, kubeconfig, &live).await?,
            None => {
                if cluster
                    .as_ref()
                    .is_none_or(|spec| spec.provider == ProviderKind::Qemu)
                {
                    doctor::require_able_host().await?;
                }
                let snapshots = self.automatic.usage();
                let settings = Settings {
                    report: self.report.as_deref(),
                    print: say,
                    keep: self.keep,
                    cluster,
                    snapshots,
                    slow_host: self.slow_host.into(),
                    repeats: self.repeats(),
                    evidence: self.evidence.into(),
                };
                run_on_own_clusters(&open_home()?, &name, &cases, &settings, &live).await
            }
        };
        live.finish();
        index_after_runs(self.report.as_deref());
        if let Some(watch) = watch {
            watch.end().await;
        }
        Ok(ExitCode::from(exit_code(&outcomes)))
    }

    fn repeats(&self) -> Repeats {
        Repeats {
            times: self.repeat,
            retries: self.retry_inconclusive,
            budget: self.budget,
        }
    }

    /// The cluster file and the scenarios; the problems of all of them are printed.
    fn read_files(
        &self,
        name: &ClusterName,
    ) -> Result<(Option<ClusterSpec>, Vec<Scenario>), Failure> {
        let cluster = self
            .cluster
            .as_deref()
            .map(|file| read_cluster_file(file, name))
            .transpose();
        let machines = match &cluster {
            Ok(Some(spec)) => Machines::Of(spec),
            Ok(None) if self.kubeconfig.is_none() => Machines::OfFile,
            Ok(None) | Err(_) => Machines::Unknown,
        };
        let provider = match &cluster {
            Ok(Some(spec)) => spec.provider.to_string(),
            _ if self.kubeconfig.is_some() => FOREIGN.to_owned(),
            _ => ProviderKind::default().to_string(),
        };
        let read = read_all_to_run(
            &self.files,
            &Against {
                cluster_name: name,
                machines,
                manifests: if self.kubeconfig.is_some() {
                    manifests::check_foreign
                } else {
                    manifests::check
                },
                set: &self.set,
            },
        );
        let scenarios = read.map_err(|refused| {
            if let Some(folder) = &self.report {
                report_refused(
                    &refused,
                    folder,
                    self.seed,
                    &TargetFacts {
                        provider,
                        accel: "none".into(),
                        nodes: 0,
                    },
                );
            }
            as_one_failure(refused)
        });
        match (cluster, scenarios) {
            (Ok(cluster), Ok(scenarios)) => Ok((cluster, scenarios)),
            (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => Err(failure),
            (Err(first), Err(second)) => {
                failure::print(&first);
                Err(second)
            }
        }
    }

    async fn on_foreign(
        &self,
        cases: &[Case<'_>],
        kubeconfig: &Path,
        live: &Arc<Live>,
    ) -> Result<Vec<Outcome>, Failure> {
        let client =
            Client::from_kubeconfig(kubeconfig).map_err(|error| Failure::from(error).invalid())?;
        let nodes = client
            .list::<Node>("", &ListParams::all())
            .await
            .map_err(Failure::from)?
            .items
            .len();
        let interruption = Interruption::watch();
        let stop = interruption.token();
        let target = TargetFacts {
            provider: FOREIGN.into(),
            accel: "none".into(),
            nodes,
        };
        let reports = self.report.as_deref();
        let begun = Instant::now();
        let mut agenda = Agenda::new(cases, self.repeats());
        while let Some(case) = agenda.next(begun.elapsed()) {
            let started = Instant::now();
            if stop.is_cancelled() {
                let report = interrupted_before(&case, target.clone());
                let outcome = tell(Ok(report), reports, say, live);
                agenda.ended(outcome, started.elapsed(), true);
                continue;
            }
            let (progress, updates) = mpsc::channel(UPDATES);
            let foreign = Arc::new(ForeignCluster::new(client.clone()));
            let environment = Environment {
                client: client.clone(),
                faults: foreign.clone() as Arc<dyn Faults>,
                dial: foreign as Arc<dyn DialService>,
                seed: case.cell.seed,
                progress,
                live: LiveSender::default(),
                journal_dir: open_home()?.cache().join("foreign-journal"),
                trusted: None,
                target: target.clone(),
                nodes: Vec::new(),
                workers: Vec::new(),
                daemon: None,
                folder: reports.map(|folder| case.folder(folder)),
                slow_host: self.slow_host.into(),
                evidence: self.evidence.into(),
            };
            let judged = judge(&case, environment, updates, stop, live).await;
            let outcome = tell(judged, reports, say, live);
            if agenda.ended(outcome, started.elapsed(), stop.is_cancelled()) {
                live.step(&format!("{} is INCONCLUSIVE: once more", case.title()));
                agenda.set_aside(&case, reports);
            }
        }
        live.finish();
        agenda.tell_rates(reports);
        Ok(agenda.outcomes())
    }
}

/// A part of a list that several jobs share: the items M, M + N, M + 2N, …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shard {
    number: usize,
    count: usize,
}

impl Shard {
    fn of<T>(self, items: Vec<T>) -> Vec<T> {
        items
            .into_iter()
            .skip(self.number - 1)
            .step_by(self.count)
            .collect()
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text
            .split_once('/')
            .and_then(|(m, n)| Some((m.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            _ => Err("a shard is M/N with M from 1 to N, such as 2/4".into()),
        }
    }
}

/// `--set NAME=VALUE`.
fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("a variable and its value, such as `rate=9/s`")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// Scenario file.
    #[arg(value_name = "FILE")]
    file: File,
    /// Another value of a variable of the file; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Draws what the file leaves to chance, as that of `run` does.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Plan {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let against = Against {
            set: &self.set,
            ..Against::own_cluster(&name, manifests::check)
        };
        let scenario = read(&self.file, &against)?;
        warn(&scenario.warnings);
        let daemon = crate::cluster::client::DaemonClient::new(open_home()?.cluster(&name))?;
        let spec = scenario
            .cluster
            .clone()
            .unwrap_or_else(|| ClusterSpec::with_workers(name, 2));
        let scenario = drawn(&scenario, self.seed);
        let plan = scenario::plan(&scenario, &OwnCluster::new(daemon, &spec));
        say(&format!("scenario {}", plan.scenario));
        plan.lines.iter().for_each(|line| say(&format!("  {line}")));
        let automatic = scenario.loads.values().any(|load| load.automatic.is_some());
        if automatic && spec.provider == ProviderKind::Qemu {
            // Without a proof nothing is known, and a plan proves nothing.
            if let Some(known) = acceleration::remembered(&open_home()?.cache()).await
                && let Some(capacity) = Capacity::look(known == Acceleration::Tcg).await
            {
                say(&format!("  this host: {capacity}"));
            }
        }
        plan.missing
            .iter()
            .for_each(|missing| say(&format!("  SKIPPED: the target lacks `{missing}`")));
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `lint`.
#[derive(Debug, Args)]
pub(super) struct Lint {
    /// Scenario files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<File>,
    /// Another value of a variable of the files; may be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

impl Lint {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let name = "flightcage".parse().expect("the default name is a name");
        let against = Against {
            set: &self.set,
            ..Against::own_cluster(&name, manifests::check)
        };
        let scenarios = read_all(&self.files, &against).map_err(as_one_failure)?;
        for scenario in scenarios {
            warn(&scenario.warnings);
            warn(&scenario.cannot_fail);
            say(&format!("{}: right", scenario.path.display()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) async fn undo(name: ClusterName) -> Result<ExitCode, Failure> {
    let paths = open_home()?.cluster(&name);
    let cluster = match Cluster::connect(paths.clone()).await {
        Ok(cluster) => cluster,
        Err(LifeError::Daemon(DaemonClientError::NotUp { .. })) => {
            return undo_without_daemon(&paths);
        }
        Err(error) => return Err(error.into()),
    };
    let healed = heal_everything(&cluster).await?;
    if healed.is_empty() {
        say("nothing was left to heal");
    }
    for entry in healed {
        say(&format!("healed {entry} (step {})", entry.step));
    }
    Ok(ExitCode::SUCCESS)
}

/// Heals what the journal says may still act, and then whatever acts: links, disks, machines that are off or frozen. Returns what
/// stood in the journal.
pub(super) async fn heal_everything(cluster: &Cluster) -> Result<Vec<Injection>, Failure> {
    let own = OwnCluster::new(cluster.daemon.clone(), &cluster.daemon.status().await?.spec);
    let healed = scenario::undo(&cluster.paths.journal(), &own).await?;
    own.heal_all().await?;
    Ok(healed)
}

/// Machines of ours end with their daemon, and every fault in them with it. Those of others may still have one.
fn undo_without_daemon(paths: &ClusterPaths) -> Result<ExitCode, Failure> {
    let entries = Journal::new(&paths.journal()).entries();
    let entries =
        entries.map_err(|error| Failure::new("read the journal of faults").because(error))?;
    let recorded: Option<ClusterRecord> = read_json(&paths.spec()).ok();
    let name = paths.name();
    if entries.is_empty() {
        say(&format!(
            "nothing is left to heal: cluster `{name}` is not up"
        ));
    } else if recorded.is_some_and(|record| record.spec.provider != ProviderKind::Qemu) {
        return Err(Failure::new(format!(
            "cluster `{name}` is not up, and {} faults may still act",
            entries.len()
        ))
        .hint(format!(
            "`flightcage up --name {name}`, then `flightcage undo --name {name}`"
        )));
    }
    for (_, entry) in entries {
        say(&format!(
            "{entry} (step {}) ended with its machine; what it left on a disk is healed when a scenario runs",
            entry.step
        ));
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::home::Home;

    #[test]
    fn a_cluster_that_is_not_up_has_nothing_left_to_heal() {
        let home = tempfile::tempdir().unwrap();
        let paths = Home::at(home.path().to_owned())
            .unwrap()
            .cluster(&"test".parse().unwrap());
        assert!(undo_without_daemon(&paths).is_ok());
    }

    #[test]
    fn shards_share_everything_once() {
        let shard = |text: &str| text.parse::<Shard>();
        let mut all: Vec<u32> = ["1/3", "2/3", "3/3"]
            .iter()
            .flat_map(|text| shard(text).expect("it is one").of((0..8).collect()))
            .collect();
        all.sort_unstable();
        assert_eq!(all, (0..8).collect::<Vec<u32>>());
        assert_eq!(
            shard("4/4").expect("it is one").of(vec![1, 2]),
            Vec::<i32>::new()
        );
        for wrong in ["0/4", "5/4", "1/0", "1", "a/b", "1/2/3"] {
            assert!(shard(wrong).is_err(), "{wrong}");
        }
    }
}

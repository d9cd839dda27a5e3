//! `run`, `plan`, `lint`, `undo`: scenario files and their verdicts.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::cluster::{bring_up, open_home};
use super::environment::{ForeignCluster, OwnCluster};
use super::failure::{self, Failure};
use super::interruption::Interruption;
use super::journal::tell_troubles;
use super::manifests;
use super::snapshots::Automatic;
use super::terminal::{Live, complain, say};
use super::{File, doctor};
use crate::cluster::client::DaemonClientError;
use crate::cluster::daemon::{ClusterRecord, read_json};
use crate::cluster::file::{self, ClusterFileError};
use crate::cluster::home::{ClusterPaths, Home};
use crate::cluster::life::{self, Boot, Cluster, LifeError, Lifetime, SnapshotUse};
use crate::kubernetes::client::{Client, ListParams};
use crate::machines::provider::Acceleration;
use crate::model::cluster::{ClusterSpec, ProviderKind};
use crate::model::diagnostic::Refusal;
use crate::model::names::ClusterName;
use crate::scenario::fault::{DialService, Faults, Journal};
use crate::scenario::file::{Against, Machines};
use crate::scenario::report::TargetFacts;
use crate::scenario::spec::Scenario;
use crate::scenario::{self, Environment, Outcome, Report, RunError, ScenarioFileError, Update, Verdict, exit_code};

/// Updates that may wait for the terminal; more are dropped, the run never waits.
const UPDATES: usize = 64;

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

fn read(path: &Path, against: &Against<'_>) -> Result<Scenario, Failure> {
    scenario::file::read(path, against).map_err(|error| match error {
        ScenarioFileError::Read { .. } => Failure::from(error).invalid(),
        ScenarioFileError::Refused(refusal) => refused(&refusal),
    })
}

/// Reads all files, so that every problem of every file is printed, before anything is changed.
fn read_all(files: &[File], against: &Against<'_>) -> Result<Vec<Scenario>, Failure> {
    let mut scenarios = Vec::new();
    let mut failed = Vec::new();
    for path in files {
        match read(path, against) {
            Ok(scenario) => scenarios.push(scenario),
            Err(failure) => failed.push(failure),
        }
    }
    match failed.pop() {
        None => Ok(scenarios),
        Some(last) => {
            for failure in &failed {
                failure::print(failure);
            }
            Err(last)
        }
    }
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Scenario files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<File>,
    /// Write each scenario's report.json and junit.xml below this directory.
    #[arg(long, value_name = "DIR")]
    report: Option<File>,
    /// Decides what a scenario leaves to chance, such as a tie between nodes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run on the cluster of this file instead of the one that each scenario asks for.
    #[arg(long, value_name = "FILE", conflicts_with = "kubeconfig")]
    cluster: Option<File>,
    /// Run on this Kubernetes instead of a cluster of our own.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<File>,
    /// Leave the cluster up.
    #[arg(long)]
    keep: bool,
    /// Run only every N-th scenario, beginning with the M-th: parallel jobs share the files among them.
    #[arg(long, value_name = "M/N")]
    shard: Option<Shard>,
    #[command(flatten)]
    automatic: Automatic,
}

impl Run {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let (cluster, scenarios) = self.read_files(&name)?;
        let scenarios = match self.shard {
            None => scenarios,
            Some(shard) => shard.of(scenarios),
        };
        if scenarios.is_empty() {
            say("no scenario is left for this shard");
            return Ok(ExitCode::SUCCESS);
        }
        let live = Live::new();
        let outcomes = match &self.kubeconfig {
            Some(kubeconfig) => self.on_foreign(&scenarios, kubeconfig, &live).await?,
            None => {
                if cluster.as_ref().is_none_or(|spec| spec.provider == ProviderKind::Qemu) {
                    doctor::require_able_host().await?;
                }
                let snapshots = self.automatic.usage();
                let settings = Settings { seed: self.seed, report: self.report.as_deref(), keep: self.keep, cluster, snapshots };
                run_on_own_clusters(&open_home()?, &name, &scenarios, &settings, &live).await
            }
        };
        live.finish();
        Ok(ExitCode::from(exit_code(&outcomes)))
    }

    /// The cluster file and the scenarios; the problems of all of them are printed.
    fn read_files(&self, name: &ClusterName) -> Result<(Option<ClusterSpec>, Vec<Scenario>), Failure> {
        let cluster = self.cluster.as_deref().map(|file| read_cluster_file(file, name)).transpose();
        let machines = match &cluster {
            Ok(Some(spec)) => Machines::Of(spec),
            Ok(None) if self.kubeconfig.is_none() => Machines::OfFile,
            Ok(None) | Err(_) => Machines::Unknown,
        };
        let scenarios = read_all(&self.files, &Against { cluster_name: name, machines, manifests: manifests::check });
        match (cluster, scenarios) {
            (Ok(cluster), Ok(scenarios)) => Ok((cluster, scenarios)),
            (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => Err(failure),
            (Err(first), Err(second)) => {
                failure::print(&first);
                Err(second)
            }
        }
    }

    async fn on_foreign(&self, scenarios: &[Scenario], kubeconfig: &Path, live: &Arc<Live>) -> Result<Vec<Outcome>, Failure> {
        let client = Client::from_kubeconfig(kubeconfig).map_err(|error| Failure::from(error).invalid())?;
        let nodes = client.list::<Node>("", &ListParams::all()).await.map_err(Failure::from)?.items.len();
        let interruption = Interruption::watch();
        let stop = interruption.token();
        let target = TargetFacts { provider: "kubeconfig".into(), accel: "none".into(), nodes };
        let mut outcomes = Vec::new();
        for scenario in scenarios {
            if stop.is_cancelled() {
                let report = interrupted_before(scenario, self.seed, target.clone());
                outcomes.push(tell(Ok(report), self.report.as_deref(), live));
                continue;
            }
            let (progress, updates) = mpsc::channel(UPDATES);
            let foreign = Arc::new(ForeignCluster::new(client.clone()));
            let environment = Environment {
                client: client.clone(),
                faults: foreign.clone() as Arc<dyn Faults>,
                dial: foreign as Arc<dyn DialService>,
                seed: self.seed,
                progress,
                journal_dir: open_home()?.cache().join("foreign-journal"),
                trusted: None,
                target: target.clone(),
                nodes: Vec::new(),
            };
            let judged = judge(scenario, environment, updates, stop, live).await;
            outcomes.push(tell(judged, self.report.as_deref(), live));
        }
        Ok(outcomes)
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
        items.into_iter().skip(self.number - 1).step_by(self.count).collect()
    }
}

impl std::str::FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(m, n)| Some((m.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            _ => Err("a shard is M/N with M from 1 to N, such as 2/4".into()),
        }
    }
}

/// How scenarios are run.
pub(super) struct Settings<'a> {
    pub(super) seed: u64,
    pub(super) report: Option<&'a Path>,
    pub(super) keep: bool,
    /// In place of what the scenarios ask for.
    pub(super) cluster: Option<ClusterSpec>,
    pub(super) snapshots: SnapshotUse,
}

/// Runs scenarios one after another and returns how each ended; those that ask for the same cluster share one boot,
/// and each finds the cluster pristine: restored, or without snapshots emptied. A cluster made here goes down at the end,
/// whatever happens, unless it is to be kept. What fails for one scenario is told, and the next is tried; a signal ends the scenario
/// that runs and begins no other.
pub(super) async fn run_on_own_clusters(
    home: &Home,
    name: &ClusterName,
    scenarios: &[Scenario],
    settings: &Settings<'_>,
    live: &Arc<Live>,
) -> Vec<Outcome> {
    let interruption = Interruption::watch();
    let stop = interruption.token();
    let mut series = Series { home, name, settings, stop, live, current: None, failed: Vec::new() };
    let mut outcomes = Vec::new();
    for scenario in scenarios {
        outcomes.push(series.run(scenario).await.unwrap_or_else(|failure| told(&failure, live)));
    }
    // After the scenarios' own outcomes: callers pair those with their scenarios.
    if let Err(failure) = series.finish().await {
        outcomes.push(told(&failure, live));
    }
    outcomes
}

/// Prints what went wrong beside the verdicts.
fn told(failure: &Failure, live: &Live) -> Outcome {
    live.finish();
    failure::print(failure);
    Outcome::Error
}

/// Scenarios that run one after another, and the cluster that is up meanwhile.
struct Series<'a> {
    home: &'a Home,
    name: &'a ClusterName,
    settings: &'a Settings<'a>,
    stop: &'a CancellationToken,
    live: &'a Arc<Live>,
    current: Option<(ClusterSpec, Cluster)>,
    /// Clusters that did not come up: they are not tried again.
    failed: Vec<ClusterSpec>,
}

impl Series<'_> {
    async fn run(&mut self, scenario: &Scenario) -> Result<Outcome, Failure> {
        let spec = self.wanted(scenario);
        if self.stop.is_cancelled() {
            let report = interrupted_before(scenario, self.settings.seed, facts(&spec, None));
            return Ok(tell(Ok(report), self.settings.report, self.live));
        }
        let cluster = self.cluster(&spec).await?;
        let (cluster, outcome) = run_on(cluster, scenario, self.settings, self.stop, self.live).await;
        self.current = Some((spec, cluster));
        outcome
    }

    fn wanted(&self, scenario: &Scenario) -> ClusterSpec {
        let asked = self.settings.cluster.clone().or_else(|| scenario.cluster.clone());
        asked.unwrap_or_else(|| ClusterSpec::with_workers(self.name.clone(), 2))
    }

    /// The cluster of that specification, pristine.
    async fn cluster(&mut self, spec: &ClusterSpec) -> Result<Cluster, Failure> {
        let current = match self.current.take() {
            Some((up, cluster)) if up != *spec => {
                end(cluster, false).await?;
                None
            }
            current => current.map(|(_, cluster)| cluster),
        };
        let snapshots = self.settings.snapshots;
        match current {
            Some(cluster) if cluster.is_owned() && snapshots != SnapshotUse::Ignore => {
                reset(self.home, cluster, snapshots, self.stop, self.live).await
            }
            Some(cluster) => Ok(cluster),
            None if self.failed.contains(spec) => Err(Failure::new("not run: the cluster it asks for did not come up before")),
            None => {
                let boot = Boot { lifetime: Lifetime::Owned, snapshots };
                let brought = bring_up(self.home, spec.clone(), boot, self.live).await;
                if brought.is_err() {
                    self.failed.push(spec.clone());
                }
                brought
            }
        }
    }

    async fn finish(self) -> Result<(), Failure> {
        let Some((_, cluster)) = self.current else { return Ok(()) };
        self.live.step(if self.settings.keep { "keeping the cluster" } else { "taking the cluster down" });
        end(cluster, self.settings.keep).await
    }
}

/// Brings a cluster back to what it was when it was made; a signal takes it down.
async fn reset(
    home: &Home,
    cluster: Cluster,
    snapshots: SnapshotUse,
    stop: &CancellationToken,
    live: &Arc<Live>,
) -> Result<Cluster, Failure> {
    let paths = cluster.paths.clone();
    tokio::select! {
        reset = life::reset(home, cluster, snapshots, live.reporter()) => Ok(reset?),
        () = stop.cancelled() => {
            live.finish();
            life::down(&paths).await?;
            Err(Failure::new("interrupted; the cluster is taken down"))
        }
    }
}

/// Takes down a cluster that this command made; one that was up before stays.
pub(super) async fn end(cluster: Cluster, keep: bool) -> Result<(), Failure> {
    if !cluster.is_owned() {
        return Ok(());
    }
    if keep {
        return Ok(cluster.keep().await?);
    }
    Ok(life::down(&cluster.paths).await?)
}

/// Runs one scenario on a cluster that is up, after emptying it. When `stop` is cancelled, the scenario ends INCONCLUSIVE.
pub(super) async fn run_on(
    cluster: Cluster,
    scenario: &Scenario,
    settings: &Settings<'_>,
    stop: &CancellationToken,
    live: &Arc<Live>,
) -> (Cluster, Result<Outcome, Failure>) {
    let outcome = async {
        let status = cluster.daemon.status().await?;
        let target = facts(&status.spec, status.acceleration);
        tokio::select! {
            emptied = scenario::reset(&cluster.client) => emptied?,
            () = stop.cancelled() => {
                return Ok(tell(Ok(interrupted_before(scenario, settings.seed, target)), settings.report, live));
            }
        }
        let own = Arc::new(OwnCluster::new(cluster.daemon.clone(), &status.spec));
        let (progress, updates) = mpsc::channel(UPDATES);
        let environment = Environment {
            client: cluster.client.clone(),
            faults: own.clone() as Arc<dyn Faults>,
            dial: own as Arc<dyn DialService>,
            seed: settings.seed,
            progress,
            journal_dir: cluster.paths.journal(),
            trusted: None,
            target,
            nodes: status.spec.machines.iter().map(|machine| machine.name.clone()).collect(),
        };
        Ok(tell(judge(scenario, environment, updates, stop, live).await, settings.report, live))
    };
    let outcome = outcome.await;
    (cluster, outcome)
}

fn facts(spec: &ClusterSpec, acceleration: Option<Acceleration>) -> TargetFacts {
    TargetFacts { provider: spec.provider.to_string(), accel: accel_name(acceleration).into(), nodes: spec.machines.len() }
}

/// What is said of a scenario that a signal kept from beginning.
fn interrupted_before(scenario: &Scenario, seed: u64, target: TargetFacts) -> Report {
    Report::without_run(&scenario.name, seed, target, Verdict::Inconclusive, vec!["interrupted".to_owned()])
}

pub(super) fn accel_name(acceleration: Option<Acceleration>) -> &'static str {
    match acceleration {
        Some(Acceleration::Kvm) => "kvm",
        Some(Acceleration::Tcg) => "tcg",
        None => "none",
    }
}

/// Runs one scenario while its updates are shown; cancelling heals what it broke.
async fn judge(
    scenario: &Scenario,
    environment: Environment,
    mut updates: mpsc::Receiver<Update>,
    stop: &CancellationToken,
    live: &Arc<Live>,
) -> Result<Report, RunError> {
    live.step(&format!("scenario {}", scenario.name));
    let show = async {
        while let Some(Update { at, text }) = updates.recv().await {
            live.step(&format!("  {:>7} {text}", seconds(at)));
        }
        std::future::pending::<()>().await;
    };
    let target = Arc::clone(&environment.faults);
    tokio::select! {
        () = tell_troubles(target, live) => unreachable!("telling never ends by itself"),
        report = scenario::run(scenario, environment, stop.clone()) => report,
        () = show => unreachable!("showing never ends by itself"),
    }
}

fn seconds(at: Duration) -> String {
    format!("{:.1} s", at.as_secs_f64())
}

/// Prints and writes a report. That it could not be written is an error, unless the file was wrong, which weighs more.
fn tell(judged: Result<Report, RunError>, folder: Option<&Path>, live: &Arc<Live>) -> Outcome {
    live.finish();
    let report = match judged {
        Ok(report) => report,
        Err(error) => return told(&Failure::from(error), live),
    };
    let written = folder.map_or(Ok(()), |folder| write(&report, folder));
    say(&scenario::summary::text(&report));
    match written {
        Err(failure) if report.verdict != Verdict::Invalid => told(&failure, live),
        Err(failure) => {
            failure::print(&failure);
            Outcome::Judged(report.verdict)
        }
        Ok(()) => Outcome::Judged(report.verdict),
    }
}

fn write(report: &Report, folder: &Path) -> Result<(), Failure> {
    let written = report.write(folder).map_err(|error| {
        Failure::new(format!("write the report of scenario `{}` below `{}`", report.scenario, folder.display())).because(error)
    })?;
    complain(&format!("report: {}", written.display()));
    Ok(())
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(super) struct Plan {
    /// Scenario file.
    #[arg(value_name = "FILE")]
    file: File,
}

/// A cluster of ours as `plan` sees it: it can do everything and does nothing.
impl Plan {
    pub(super) fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let scenario = read(&self.file, &Against::own_cluster(&name, manifests::check))?;
        let daemon = crate::cluster::client::DaemonClient::new(open_home()?.cluster(&name))?;
        let spec = scenario.cluster.clone().unwrap_or_else(|| ClusterSpec::with_workers(name, 2));
        let plan = scenario::plan(&scenario, &OwnCluster::new(daemon, &spec));
        say(&format!("scenario {}", plan.scenario));
        plan.lines.iter().for_each(|line| say(&format!("  {line}")));
        plan.missing.iter().for_each(|missing| say(&format!("  SKIPPED: the target lacks `{missing}`")));
        Ok(ExitCode::SUCCESS)
    }
}

/// Arguments of `lint`.
#[derive(Debug, Args)]
pub(super) struct Lint {
    /// Scenario files.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<File>,
}

impl Lint {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let name = "flightcage".parse().expect("the default name is a name");
        let scenarios = read_all(&self.files, &Against::own_cluster(&name, manifests::check))?;
        for scenario in scenarios {
            say(&format!("{}: right", scenario.path.display()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) async fn undo(name: ClusterName) -> Result<ExitCode, Failure> {
    let paths = open_home()?.cluster(&name);
    let cluster = match Cluster::connect(paths.clone()).await {
        Ok(cluster) => cluster,
        Err(LifeError::Daemon(DaemonClientError::NotUp { .. })) => return undo_without_daemon(&paths),
        Err(error) => return Err(error.into()),
    };
    let own = OwnCluster::new(cluster.daemon.clone(), &cluster.daemon.status().await?.spec);
    let healed = scenario::undo(&paths.journal(), &own).await?;
    own.heal_all().await?;
    if healed.is_empty() {
        say("nothing was left to heal");
    }
    for entry in healed {
        say(&format!("healed {entry} (step {})", entry.step));
    }
    Ok(ExitCode::SUCCESS)
}

/// Machines of ours end with their daemon, and every fault in them with it. Those of others may still have one.
fn undo_without_daemon(paths: &ClusterPaths) -> Result<ExitCode, Failure> {
    let entries = Journal::new(&paths.journal()).entries();
    let entries = entries.map_err(|error| Failure::new("read the journal of faults").because(error))?;
    let recorded: Option<ClusterRecord> = read_json(&paths.spec()).ok();
    let name = paths.name();
    if entries.is_empty() {
        say(&format!("nothing is left to heal: cluster `{name}` is not up"));
    } else if recorded.is_some_and(|record| record.spec.provider != ProviderKind::Qemu) {
        return Err(Failure::new(format!("cluster `{name}` is not up, and {} faults may still act", entries.len()))
            .hint(format!("`flightcage up --name {name}`, then `flightcage undo --name {name}`")));
    }
    for (_, entry) in entries {
        say(&format!(
            "{entry} (step {}) ended with its machine; what it left on a disk is healed when a scenario runs",
            entry.step
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The verdicts of several scenarios in one line each.
pub(super) fn verdict_words(outcomes: &[Outcome]) -> Vec<&'static str> {
    outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Judged(verdict) => Verdict::word(*verdict),
            Outcome::Error => "ERROR",
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_is_not_up_has_nothing_left_to_heal() {
        let home = tempfile::tempdir().unwrap();
        let paths = Home::at(home.path().to_owned()).unwrap().cluster(&"test".parse().unwrap());
        assert!(undo_without_daemon(&paths).is_ok());
    }

    #[test]
    fn shards_share_everything_once() {
        let shard = |text: &str| text.parse::<Shard>();
        let mut all: Vec<u32> =
            ["1/3", "2/3", "3/3"].iter().flat_map(|text| shard(text).expect("it is one").of((0..8).collect())).collect();
        all.sort_unstable();
        assert_eq!(all, (0..8).collect::<Vec<u32>>());
        assert_eq!(shard("4/4").expect("it is one").of(vec![1, 2]), Vec::<i32>::new());
        for wrong in ["0/4", "5/4", "1/0", "1", "a/b", "1/2/3"] {
            assert!(shard(wrong).is_err(), "{wrong}");
        }
    }
}

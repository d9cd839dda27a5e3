//! Scenarios that run one after another on clusters of ours.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agenda::{Agenda, Repeats};
use super::case::{Case, UPDATES, interrupted_before, judge, tell, told};
use super::cluster::bring_up;
use super::environment::OwnCluster;
use super::failure::Failure;
use super::interruption::Interruption;
use super::terminal::Live;
use crate::cluster::home::Home;
use crate::cluster::inventory;
use crate::cluster::life::{self, Boot, Cluster, Lifetime, SnapshotUse};
use crate::machines::provider::Acceleration;
use crate::model::cluster::{ClusterSpec, ProviderKind, Role};
use crate::model::names::{ClusterName, NodeName};
use crate::scenario::evidence::Keep;
use crate::scenario::fault::{DialService, Faults};
use crate::scenario::live::LiveSender;
use crate::scenario::report::TargetFacts;
use crate::scenario::spec::Scenario;
use crate::scenario::{self, Environment, Outcome, SlowHost, Verdict};

/// How scenarios are run.
pub(super) struct Settings<'a> {
    pub(super) report: Option<&'a Path>,
    /// Prints a scenario's summary.
    pub(super) print: fn(&str),
    pub(super) keep: bool,
    /// In place of what the scenarios ask for.
    pub(super) cluster: Option<ClusterSpec>,
    pub(super) snapshots: SnapshotUse,
    pub(super) slow_host: SlowHost,
    pub(super) repeats: Repeats,
    pub(super) evidence: Keep,
}

/// Runs scenarios one after another and returns how each ended; those that ask for the same cluster share one boot,
/// and each finds the cluster pristine: restored, or without snapshots emptied. A cluster made here goes down at the end,
/// whatever happens, unless it is to be kept. What fails for one scenario is told, and the next is tried; a signal ends the scenario
/// that runs and begins no other.
pub(super) async fn run_on_own_clusters(
    home: &Home,
    name: &ClusterName,
    cases: &[Case<'_>],
    settings: &Settings<'_>,
    live: &Arc<Live>,
) -> Vec<Outcome> {
    let interruption = Interruption::watch();
    let stop = interruption.token();
    let mut series = Series::new(home, name, settings, stop, live);
    let begun = Instant::now();
    let mut agenda = Agenda::new(cases, settings.repeats);
    while let Some(case) = agenda.next(begun.elapsed()) {
        let started = Instant::now();
        let outcome = series.run(&case).await;
        let outcome = outcome.unwrap_or_else(|failure| told(&failure, live));
        if agenda.ended(outcome, started.elapsed(), stop.is_cancelled()) {
            live.step(&format!("{} is INCONCLUSIVE: once more", case.title()));
            agenda.set_aside(&case, settings.report);
        }
    }
    live.finish();
    agenda.tell_rates(settings.report);
    let mut outcomes = agenda.outcomes();
    // After the scenarios' own outcomes: callers pair those with their scenarios.
    if let Err(failure) = series.finish().await {
        outcomes.push(told(&failure, live));
    }
    outcomes
}

/// Scenarios that run one after another, and the cluster that is up meanwhile.
pub(super) struct Series<'a> {
    home: &'a Home,
    name: &'a ClusterName,
    settings: &'a Settings<'a>,
    stop: &'a CancellationToken,
    live: &'a Arc<Live>,
    current: Option<(ClusterSpec, Cluster)>,
    /// Clusters that did not come up: they are not tried again.
    failed: Vec<ClusterSpec>,
}

impl<'a> Series<'a> {
    /// No cluster is up yet.
    pub(super) fn new(
        home: &'a Home,
        name: &'a ClusterName,
        settings: &'a Settings<'a>,
        stop: &'a CancellationToken,
        live: &'a Arc<Live>,
    ) -> Self {
        Self {
            home,
            name,
            settings,
            stop,
            live,
            current: None,
            failed: Vec::new(),
        }
    }

    /// Runs a case on the cluster that it asks for, which is pristine then.
    pub(super) async fn run(&mut self, case: &Case<'_>) -> Result<Outcome, Failure> {
        let spec = self.wanted(case.scenario);
        if self.stop.is_cancelled() {
            return Ok(self.interrupted(case, &spec));
        }
        let cluster = match self.cluster(&spec).await {
            Err(failure) if self.stop.is_cancelled() => {
                told(&failure, self.live);
                return Ok(self.interrupted(case, &spec));
            }
            cluster => cluster?,
        };
        let (cluster, outcome) = run_on(cluster, case, self.settings, self.stop, self.live).await;
        self.current = Some((spec, cluster));
        outcome
    }

    fn interrupted(&self, case: &Case<'_>, spec: &ClusterSpec) -> Outcome {
        tell(
            Ok(interrupted_before(case, facts(spec, None))),
            self.settings.report,
            self.settings.print,
            self.live,
        )
    }

    fn wanted(&self, scenario: &Scenario) -> ClusterSpec {
        let asked = self
            .settings
            .cluster
            .clone()
            .or_else(|| scenario.cluster.clone());
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
            None if self.failed.contains(spec) => Err(Failure::new(
                "not run: the cluster it asks for did not come up before",
            )),
            None => {
                let boot = Boot {
                    lifetime: Lifetime::Owned,
                    snapshots,
                };
                self.live
                    .machines(spec.machines.iter().map(|machine| machine.name.as_str()));
                let brought = bring_up(self.home, spec.clone(), boot, self.live).await;
                if brought.is_err() {
                    self.failed.push(spec.clone());
                }
                brought
            }
        }
    }

    /// Takes down the cluster that is up, if it was made here.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        let Some((_, cluster)) = self.current else {
            return Ok(());
        };
        self.live.step(if self.settings.keep {
            "keeping the cluster"
        } else {
            "taking the cluster down"
        });
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
    case: &Case<'_>,
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
                return Ok(tell(Ok(interrupted_before(case, target)), settings.report, settings.print, live));
            }
        }
        let own = Arc::new(OwnCluster::new(cluster.daemon.clone(), &status.spec));
        let (progress, updates) = mpsc::channel(UPDATES);
        let environment = Environment {
            client: cluster.client.clone(),
            faults: own.clone() as Arc<dyn Faults>,
            dial: own as Arc<dyn DialService>,
            seed: case.cell.seed,
            progress,
            live: LiveSender::default(),
            journal_dir: cluster.paths.journal(),
            trusted: None,
            target,
            nodes: status
                .spec
                .machines
                .iter()
                .map(|machine| machine.name.clone())
                .collect(),
            workers: workers(&status.spec),
            daemon: inventory::daemon(&cluster.paths)
                .filter(|_| status.spec.provider == ProviderKind::Qemu),
            folder: settings.report.map(|folder| case.folder(folder)),
            slow_host: settings.slow_host,
            evidence: settings.evidence,
        };
        Ok(tell(
            judge(case, environment, updates, stop, live).await,
            settings.report,
            settings.print,
            live,
        ))
    };
    let outcome = outcome.await;
    (cluster, outcome)
}

fn workers(spec: &ClusterSpec) -> Vec<NodeName> {
    let machines = spec.machines.iter();
    machines
        .filter(|machine| machine.role == Role::Worker)
        .map(|machine| machine.name.clone())
        .collect()
}

fn facts(spec: &ClusterSpec, acceleration: Option<Acceleration>) -> TargetFacts {
    TargetFacts {
        provider: spec.provider.to_string(),
        accel: accel_name(acceleration).into(),
        nodes: spec.machines.len(),
    }
}

pub(super) fn accel_name(acceleration: Option<Acceleration>) -> &'static str {
    match acceleration {
        Some(Acceleration::Kvm) => "kvm",
        Some(Acceleration::Tcg) => "tcg",
        None => "none",
    }
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

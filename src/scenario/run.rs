//! Runs a scenario: deploy, load, baseline, steps, hold, judgement.
//!
//! ```text
//! undo what was left ─► capabilities? ─► deploy ─► ready ─► rates ─► load starts ─► baseline ─► steps ─► hold ─► load ends ─► judge
//!        SKIPPED ◄──────────┘     FAIL ◄───┘          └─► INCONCLUSIVE ◄──┘
//! ```
//! However it ends, every fault that began is healed before [`run`] returns; if `run` is dropped, the journal remembers them.

mod cordons;
mod via;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Seek as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::ReplicationController;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::deploy::{self, DeployError, Deployed, NAMESPACE};
use super::events::Restarts;
use super::events::View;
use super::evidence::{self, Sources};
use super::fault::{DialService, Faults, Journal, UndoError, undo};
use super::guards::Guards;
use super::hopeless::Hopes;
use super::host::{SlowHost, Watch};
use super::judge::again;
use super::live::{Begun, LiveSender, Seen};
use super::load::analysis::{BaselineState, baseline};
use super::load::{self, HttpRequest, Running, certificates_in, trust_only};
use super::path::LoadPath;
use super::plan::planned_step;
use super::random::drawn;
use super::report::{
    CountedReport, EventReport, LoadReport, NotAppliedReport, Report, SpanReport, TargetFacts,
    Verdict, rounded,
};
use super::requests::folder::{self, KeepError};
use super::requests::{RequestLog, Requests};
use super::spec::{Action, Capability, Scenario, Target};
use super::step::{PathsSeen, Steps};
use crate::kubernetes::client::{Client, ListParams};
use crate::machines::journal::Sighting;
use crate::model::link::Port;
use crate::model::names::NodeName;

/// How often the baseline is looked at.
const BASELINE_POLL: Duration = Duration::from_millis(250);
/// How long the API may take to answer at the end.
const ASKED_WITHIN: Duration = Duration::from_secs(10);
/// A change that was missed is seen after this.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a run needs from outside.
pub struct Environment {
    /// The cluster's API.
    pub client: Client,
    /// Breaks machines and links.
    pub faults: Arc<dyn Faults>,
    /// The prober's own path to Services.
    pub dial: Arc<dyn DialService>,
    /// Decides ties.
    pub seed: u64,
    /// Told what happens; messages are dropped when it is full.
    pub progress: mpsc::Sender<Update>,
    /// Told what a looker sees; messages are dropped when it is full.
    pub live: LiveSender,
    /// Where the faults of this cluster are journalled.
    pub journal_dir: PathBuf,
    /// PEM certificates that the prober trusts besides those the scenario deploys.
    pub trusted: Option<String>,
    /// What it runs on, for the report.
    pub target: TargetFacts,
    /// The cluster's nodes.
    pub nodes: Vec<NodeName>,
    /// Those of them that run pods, where that is known.
    pub workers: Vec<NodeName>,
    /// The process whose children the machines are, where they run on this host.
    pub daemon: Option<u32>,
    /// The folder in which the run is kept: its scenario, and every request while it goes on.
    pub folder: Option<PathBuf>,
    /// What follows when something failed while a machine had no processor left.
    pub slow_host: SlowHost,
    /// When what was there at the end is kept beside the report.
    pub evidence: evidence::Keep,
}

/// What a run tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Since the start of the run.
    pub at: Duration,
    /// What happens: a line of text.
    pub text: String,
}

/// Why a run gave no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// What an earlier run broke cannot be healed.
    #[error(transparent)]
    Undo(#[from] UndoError),
    /// The cluster could not be prepared.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// What is measured could not be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

/// Runs a scenario and judges it. On cancellation everything is healed and the verdict is INCONCLUSIVE.
pub async fn run(
    scenario: &Scenario,
    environment: Environment,
    cancel: CancellationToken,
) -> Result<Report, RunError> {
    let scenario = &drawn(scenario, environment.seed);
    undo(&environment.journal_dir, environment.faults.as_ref()).await?;
    folder::prepare(environment.folder.as_deref(), &scenario.text)?;
    let early = |verdict, reasons| {
        Ok(Report::without_run(
            &scenario.name,
            environment.seed,
            environment.target.clone(),
            verdict,
            reasons,
        ))
    };
    let missing = missing(scenario, &environment);
    if !missing.is_empty() {
        return early(Verdict::Skipped, missing);
    }
    let unknown = unknown_nodes(scenario, &environment.nodes);
    if !unknown.is_empty() {
        return early(Verdict::Invalid, unknown);
    }
    let misplaced = via::misplaced(scenario, &environment.nodes);
    if !misplaced.is_empty() {
        return early(Verdict::Invalid, misplaced);
    }
    let epoch = Instant::now();
    let run = Run {
        scenario,
        environment: &environment,
        epoch,
        cancel: &cancel,
    };
    environment.live.tell(|| run.begun());
    run.uncordon_earlier().await;
    run.tell("deploying");
    let deployed = tokio::select! {
        deployed = deploy::deploy_patiently(&environment.client, scenario) => deployed,
        () = cancel.cancelled() => return early(Verdict::Inconclusive, vec!["interrupted".to_owned()]),
    };
    match deployed {
        Ok(deployed) => run.go(deployed).await,
        Err(DeployError::Refused(reason)) => early(Verdict::Invalid, vec![reason]),
        Err(error) => Err(error.into()),
    }
}

/// Capabilities that the scenario needs and the target lacks, as reasons.
fn missing(scenario: &Scenario, environment: &Environment) -> Vec<String> {
    let has = environment.faults.capabilities();
    needed(scenario)
        .into_iter()
        .filter(|need| !has.contains(need))
        .map(|need| format!("the target lacks `{need}`"))
        .collect()
}

/// What a scenario needs: what it says, and what its faults use.
#[must_use]
pub fn needed(scenario: &Scenario) -> Vec<Capability> {
    let used = scenario.steps.iter().filter_map(|step| match &step.action {
        Action::Fault { fault, .. } => Some(fault.kind.needs),
        _ => None,
    });
    let needed: BTreeSet<Capability> = scenario.needs.iter().copied().chain(used).collect();
    let mut all = Capability::all();
    all.retain(|capability| needed.contains(capability));
    all
}

fn unknown_nodes(scenario: &Scenario, nodes: &[NodeName]) -> Vec<String> {
    let named = scenario.steps.iter().flat_map(|step| {
        let names: Vec<&NodeName> = match &step.action {
            Action::Fault {
                target: Target::Node(node),
                ..
            } => vec![node],
            Action::Fault {
                target: Target::Links(links),
                ..
            } => links
                .named()
                .filter_map(|port| match port {
                    Port::Host => None,
                    Port::Node(node) => Some(node),
                })
                .collect(),
            // Of a cluster that is not ours the machines are not known here.
            Action::Other(action) if !nodes.is_empty() => action.node().into_iter().collect(),
            _ => Vec::new(),
        };
        names.into_iter().map(|name| (&step.id, name))
    });
    let unknown = named.filter(|(_, node)| !nodes.contains(node));
    unknown
        .map(|(step, node)| format!("step `{step}`: there is no node `{node}` in this cluster"))
        .collect()
}

/// What all parts of a run look at.
pub(super) struct Run<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) environment: &'a Environment,
    pub(super) epoch: Instant,
    pub(super) cancel: &'a CancellationToken,
}

impl Run<'_> {
    pub(super) fn tell(&self, text: impl Into<String>) {
        // A slow reader must not slow the run.
        drop(self.environment.progress.try_send(Update {
            at: self.epoch.elapsed(),
            text: text.into(),
        }));
    }

    /// What is known of the run before it begins.
    fn begun(&self) -> Seen {
        let scenario = self.scenario;
        let streams = scenario.loads.iter().flat_map(|(name, load)| {
            let streams = load.streams.iter();
            streams.map(move |stream| (name.clone(), stream.name(), load.deadline))
        });
        Seen::Begun(Box::new(Begun {
            epoch: self.epoch,
            scenario: scenario.name.clone(),
            cell: None,
            seed: self.environment.seed,
            target: self.environment.target.clone(),
            text: scenario.text.clone(),
            streams: streams.collect(),
            steps: scenario.steps.iter().map(planned_step).collect(),
        }))
    }

    pub(super) fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn now_ms(&self) -> f64 {
        self.epoch.elapsed().as_secs_f64() * 1000.0
    }

    async fn go(&self, deployed: Deployed) -> Result<Report, RunError> {
        let elsewhere = self
            .scenario
            .loads
            .values()
            .map(|load| load.url.namespace.as_str())
            .collect();
        let view = View::start(
            &self.environment.client,
            (NAMESPACE, &elsewhere),
            self.epoch,
            self.environment.live.clone(),
        );
        let mut trusted = deployed.trusted.clone();
        trusted.extend(
            self.environment
                .trusted
                .iter()
                .flat_map(|pem| certificates_in(pem.as_bytes())),
        );
        let tls = trust_only(trusted);
        let request = |url: &super::spec::Url| HttpRequest {
            dial: via::dial(self.scenario, &self.environment.dial, url),
            url: url.clone(),
            tls: Arc::clone(&tls),
        };
        let mut evidence = Report::without_run(
            &self.scenario.name,
            self.environment.seed,
            self.environment.target.clone(),
            Verdict::Inconclusive,
            Vec::new(),
        );
        let not_applied = self.scenario.not_applied.iter();
        evidence.not_applied = not_applied.map(NotAppliedReport::from).collect();
        if let Some(failure) = self.wait_ready(&view, &deployed).await {
            if self.cancel.is_cancelled() {
                evidence.doubts.push("interrupted".to_owned());
            } else {
                evidence.failures.push(failure);
            }
            return self
                .end(evidence, Requests::default(), &view, &Restarts::new())
                .await;
        }
        self.tell("deployed");
        match self.with_rates(&request).await {
            Ok(scenario) => {
                let run = Run {
                    scenario: &scenario,
                    ..*self
                };
                let loaded = run.under_load(&view, &request, &mut evidence).await;
                let kept =
                    loaded.and_then(|(file, restarts)| Ok((run.read(file, &evidence)?, restarts)));
                match kept {
                    Ok((requests, restarts)) => run.end(evidence, requests, &view, &restarts).await,
                    Err(error) => {
                        run.uncordon_left().await;
                        Err(error.into())
                    }
                }
            }
            Err(doubt) => {
                evidence.doubts.push(doubt);
                self.end(evidence, Requests::default(), &view, &Restarts::new())
                    .await
            }
        }
    }

    /// Everything from the start of the loads to their end.
    async fn under_load(
        &self,
        view: &View,
        request: &(dyn Fn(&super::spec::Url) -> HttpRequest + Sync),
        evidence: &mut Report,
    ) -> Result<(File, Restarts), KeepError> {
        // What they watch is known before the load begins, whose first moment may be the baseline's.
        let mut guards = Guards::start(&self.environment.client, self.scenario, self.epoch).await;
        self.tell("the load starts");
        let log = self.log_requests()?;
        let watch = Watch::start(self.environment.daemon, self.epoch);
        let loads: BTreeMap<String, Running> = self
            .scenario
            .loads
            .iter()
            .map(|(name, spec)| {
                let sink = log.sink(name);
                let live = &self.environment.live;
                let running = load::start_kept(
                    spec,
                    request(&spec.url),
                    self.epoch,
                    &sink,
                    live,
                    self.environment.seed,
                );
                (name.clone(), running)
            })
            .collect();
        let begun_ms = self.now_ms();
        let mut from_ms = BTreeMap::new();
        for (name, running) in &loads {
            match self.wait_baseline(name, running, begun_ms).await {
                Ok(at) => drop(from_ms.insert(name.clone(), at)),
                Err(doubt) => {
                    evidence.doubts.push(doubt);
                    break;
                }
            }
        }
        let restarts = view.restarts();
        let paths = LoadPath::of(self.scenario);
        let mut on_path = PathsSeen::default();
        on_path.look(&paths, view);
        if evidence.doubts.is_empty() {
            let first_ms = from_ms.values().copied().fold(self.now_ms(), f64::min);
            guards.begin(rounded(first_ms));
            let steps = Steps::new(self, view, request, &paths);
            let outcome = steps.run_all().await;
            evidence.doubts.extend(outcome.doubts);
            evidence.steps = outcome.steps;
            evidence.faults = outcome.faults;
            evidence.struck = outcome.struck;
            on_path.join(outcome.on_path);
            self.hold().await;
            // Whatever is cut short, be it only the hold, has not shown what it should.
            if self.cancel.is_cancelled() && evidence.doubts.is_empty() {
                evidence.doubts.push("interrupted".to_owned());
            }
        }
        on_path.look(&paths, view);
        evidence.guards = guards.finish(self.cancel).await;
        let end_ms = self.now_ms();
        self.tell("the load ends");
        // All schedules end together: while one load waits for its last answers, none of the others sends on.
        loads.values().for_each(Running::stop);
        for (name, running) in loads {
            let from_ms = from_ms.get(&name).copied().unwrap_or(begun_ms);
            let shared = Arc::clone(&running.shared);
            drop(running.finish().await);
            let rate = self.scenario.loads[&name].rate;
            let (pods, machines) = on_path.of(&name);
            let report = LoadReport {
                window: Some(SpanReport {
                    from_ms: rounded(from_ms),
                    to_ms: rounded(end_ms),
                }),
                // As it is written: to three decimals.
                rate: Some((rate * 1000.0).round() / 1000.0),
                pods,
                machines,
                ..LoadReport::default()
            };
            evidence.load.insert(name, report);
            evidence
                .prober
                .pauses
                .extend(shared.pauses().iter().map(|pause| SpanReport {
                    from_ms: rounded(pause.from_ms.floor()),
                    to_ms: rounded(pause.to_ms.ceil()),
                }));
        }
        evidence.prober.pauses.sort_by_key(|pause| pause.from_ms);
        evidence.host = watch.seen().report(self.environment.slow_host);
        let file = log.finish().await.map_err(|source| self.not_kept(source))?;
        Ok((file, restarts))
    }

    /// Reads back every request.
    fn read(&self, mut file: File, evidence: &Report) -> Result<Requests, KeepError> {
        file.rewind().map_err(|source| self.not_kept(source))?;
        let read = again::read_requests(file, self.scenario, evidence);
        read.map_err(|error| self.not_kept(std::io::Error::other(error)))
    }

    /// Begins the file that holds every request.
    fn log_requests(&self) -> Result<RequestLog, KeepError> {
        let file = folder::create(self.environment.folder.as_deref())?;
        let streams = self.scenario.loads.iter().flat_map(|(name, load)| {
            let streams = load.streams.iter();
            streams.map(move |stream| (name.clone(), *stream))
        });
        RequestLog::start(file, streams.collect()).map_err(|source| self.not_kept(source))
    }

    fn not_kept(&self, source: std::io::Error) -> KeepError {
        let folder = self.environment.folder.clone();
        KeepError {
            folder: folder.unwrap_or_else(std::env::temp_dir),
            source,
        }
    }

    /// What is counted at the end, and the judgement.
    async fn end(
        &self,
        mut evidence: Report,
        requests: Requests,
        view: &View,
        restarts: &Restarts,
    ) -> Result<Report, RunError> {
        let client = &self.environment.client;
        let all = ListParams::all();
        let asked = client.list::<ReplicationController>(NAMESPACE, &all);
        if matches!(timeout(ASKED_WITHIN, asked).await, Ok(Ok(_))) {
            evidence.counted = Some(self.counted(view, restarts));
        } else if self.cancel.is_cancelled() {
            evidence.doubts.push("interrupted".to_owned());
        } else {
            let doubt = "the target's API could not be asked at the end";
            evidence.doubts.push(doubt.to_owned());
        }
        evidence.doubts.extend(self.uncordon_left().await);
        evidence.doubts.dedup();
        evidence.events = view.events();
        evidence.events.extend(self.troubles().await);
        evidence.events.sort_by_key(|event| event.at_ms);
        let report = again::judged(self.scenario, evidence, &requests);
        self.keep_evidence(report.verdict).await;
        Ok(report)
    }

    /// Keeps what is there at the end of a run that did not pass. Whoever interrupts a run does not want to wait for it.
    async fn keep_evidence(&self, verdict: Verdict) {
        let Environment {
            folder: Some(folder),
            evidence: keep,
            ..
        } = self.environment
        else {
            return;
        };
        if !keep.wants(verdict) || self.cancel.is_cancelled() {
            return;
        }
        self.tell("keeping evidence");
        let loads = self.scenario.loads.values();
        let mut namespaces: Vec<String> = loads.map(|load| load.url.namespace.clone()).collect();
        namespaces.push(NAMESPACE.to_owned());
        namespaces.sort();
        namespaces.dedup();
        // Of a cluster that is not ours only what the scenario is about.
        if !self.environment.nodes.is_empty() {
            namespaces.clear();
        }
        let sources = Sources {
            client: &self.environment.client,
            faults: &self.environment.faults,
            namespaces,
            begun: self.begun_at(),
        };
        for missing in evidence::keep(&sources, folder).await {
            self.tell(format!("evidence: not there: {missing}"));
        }
    }

    /// When the run began, by the host's clock.
    fn begun_at(&self) -> SystemTime {
        SystemTime::now() - self.epoch.elapsed()
    }

    fn counted(&self, view: &View, restarts: &Restarts) -> CountedReport {
        let left = Journal::new(&self.environment.journal_dir)
            .entries()
            .map_or(u32::MAX, |entries| {
                u32::try_from(entries.len()).unwrap_or(u32::MAX)
            });
        let events = view.events();
        let deleted = events.iter().filter(|event| event.kind == "pod.deleted");
        CountedReport {
            replicas: view.ready_by_workload(),
            restarts: view.restarts_since(restarts),
            pods_deleted: u32::try_from(deleted.count()).unwrap_or(u32::MAX),
            faults_left: left,
        }
    }

    /// What went wrong inside the machines meanwhile. The daemon tells by the host's clock when it saw it.
    async fn troubles(&self) -> Vec<EventReport> {
        let begun = self.begun_at();
        let begun_ms = begun.duration_since(UNIX_EPOCH).map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
        let seen = self.environment.faults.troubles(begun).await;
        let event = |sighting: Sighting| EventReport {
            at_ms: sighting.at_ms.saturating_sub(begun_ms),
            kind: format!("machine.{}", sighting.trouble),
            object: format!("{}: {}", sighting.node, sighting.line),
        };
        seen.into_iter().map(event).collect()
    }

    /// Waits until everything deployed is ready; else what is not.
    async fn wait_ready(&self, view: &View, deployed: &Deployed) -> Option<String> {
        let within = self.scenario.deploy.wait;
        let ready = async {
            view.wait_synced().await;
            let mut hopes = Hopes::default();
            let names = deployed.controllers.iter().map(|(name, _)| name.as_str());
            let names: Vec<&str> = names.collect();
            // A cluster of ours was empty before; in another's namespace may be pods that are none of the scenario's.
            let foreign = self.environment.nodes.is_empty();
            let of = foreign.then_some((NAMESPACE, names.as_slice()));
            while !self.unready(view, deployed).is_empty() {
                if let Some(lost) = hopes.look(Instant::now(), view.hopeless(of)) {
                    return Some(lost);
                }
                drop(timeout(LOOK_AGAIN, view.changed()).await);
            }
            None
        };
        tokio::select! {
            done = timeout(within, ready) => match done {
                Ok(None) => None,
                Ok(Some(lost)) => Some(format!(
                    "deploy: it cannot become ready: {}",
                    lost.words(&self.environment.client).await
                )),
                Err(_) => {
                    let mut unready = self.unready(view, deployed);
                    unready.extend(view.pods_waiting());
                    Some(format!("deploy: not ready within {} s: {}", within.as_secs(), unready.join("; ")))
                }
            },
            () = self.cancel.cancelled() => Some("interrupted".to_owned()),
        }
    }

    fn unready(&self, view: &View, deployed: &Deployed) -> Vec<String> {
        let controllers = deployed.controllers.iter().filter_map(|(name, wanted)| {
            let ready = view.replicas_ready(NAMESPACE, name);
            (ready < *wanted).then(|| format!("`{name}` has {ready} of {wanted} replicas ready"))
        });
        let services = self
            .scenario
            .loads
            .values()
            .filter(|load| !view.has_endpoint(&load.url.namespace, &load.url.host));
        controllers
            .chain(services.map(|load| format!("Service `{}` has no endpoint", load.url.host)))
            .collect()
    }

    /// Waits for a good window and returns its start; else why there was none.
    async fn wait_baseline(
        &self,
        name: &str,
        running: &Running,
        begun_ms: f64,
    ) -> Result<f64, String> {
        let spec = &self.scenario.loads[name];
        let until = Instant::now() + spec.baseline.within + spec.baseline.window;
        loop {
            // Every request intended before this is over.
            let settled_ms = self.now_ms()
                - spec.deadline.as_secs_f64() * 1000.0
                - BASELINE_POLL.as_secs_f64() * 1000.0;
            match baseline(
                &running.shared.records(),
                &spec.streams,
                &spec.baseline,
                begun_ms,
                settled_ms,
            ) {
                BaselineState::Reached { from_ms } => {
                    self.tell(format!("load `{name}`: baseline reached"));
                    self.environment.live.tell(|| Seen::Counted {
                        load: name.to_owned(),
                        from_ms: rounded(from_ms),
                    });
                    return Ok(from_ms);
                }
                BaselineState::NotYet(why) if Instant::now() >= until => {
                    return Err(format!(
                        "load `{name}`: baseline not reached, nothing was injected: {why}"
                    ));
                }
                BaselineState::NotYet(_) => {}
            }
            tokio::select! {
                () = sleep(BASELINE_POLL) => {}
                () = self.cancel.cancelled() => return Err("interrupted".to_owned()),
            }
        }
    }

    /// Lets the load run on for as long as the longest expectation must hold.
    async fn hold(&self) {
        let tails = self.scenario.expectations.iter();
        let tail = tails.map(|row| row.check.needs_tail()).max();
        tokio::select! {
            () = sleep(tail.unwrap_or_default() + BASELINE_POLL) => {}
            () = self.cancel.cancelled() => {}
        }
    }
}

//! Runs a scenario: deploy, load, baseline, steps, hold, judgement.
//!
//! ```text
//! undo what was left ─► capabilities? ─► deploy ─► ready ─► rates ─► load starts ─► baseline ─► steps ─► hold ─► load ends ─► judge
//!        SKIPPED ◄──────────┘     FAIL ◄───┘          └─► INCONCLUSIVE ◄──┘
//! ```
//! However it ends, every fault that began is healed before [`run`] returns; if `run` is dropped, the journal remembers them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::deploy::{self, DeployError, Deployed, NAMESPACE};
use super::events::View;
use super::fault::{DialService, Faults, Journal, UndoError, undo};
use super::host::{Starvation, Watch};
use super::load::analysis::{BaselineState, baseline};
use super::load::{self, HttpRequest, Running, certificates_in, trust_only};
use super::report::{EventReport, Report, StepReport, TargetFacts, Verdict};
use super::requests::RequestLog;
use super::requests::folder::{self, KeepError};
use super::spec::{Action, Capability, Check, Scenario, Target};
use super::step::Steps;
use super::verdict::{Measured, MeasuredLoad, judge};
use crate::kubernetes::client::Client;
use crate::machines::journal::Sighting;
use crate::model::link::Port;
use crate::model::names::NodeName;

/// How often the baseline is looked at.
const BASELINE_POLL: Duration = Duration::from_millis(250);
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
    let epoch = Instant::now();
    let run = Run {
        scenario,
        environment: &environment,
        epoch,
        cancel: &cancel,
    };
    run.tell("deploying");
    let deployed = tokio::select! {
        deployed = deploy::deploy(&environment.client, scenario) => deployed,
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
        Action::Fault { fault, .. } => Some(fault.kind.needs()),
        _ => None,
    });
    let mut needed: Vec<Capability> = scenario.needs.iter().copied().chain(used).collect();
    needed.sort();
    needed.dedup();
    needed
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
        let view = View::start(&self.environment.client, NAMESPACE, &elsewhere, self.epoch);
        let mut trusted = deployed.trusted.clone();
        trusted.extend(
            self.environment
                .trusted
                .iter()
                .flat_map(|pem| certificates_in(pem.as_bytes())),
        );
        let tls = trust_only(trusted);
        let request = |url: &super::spec::Url| HttpRequest {
            dial: Arc::clone(&self.environment.dial),
            url: url.clone(),
            tls: Arc::clone(&tls),
        };
        let mut measured = Measured::default();
        if let Some(failure) = self.wait_ready(&view, &deployed).await {
            self.note_failure(&mut measured, failure);
            return Ok(self.end(measured, Vec::new(), &view).await);
        }
        self.tell("deployed");
        match self.with_rates(&request).await {
            Ok(scenario) => {
                let run = Run {
                    scenario: &scenario,
                    ..*self
                };
                let steps = run.under_load(&view, &request, &mut measured).await?;
                Ok(run.end(measured, steps, &view).await)
            }
            Err(doubt) => {
                measured.doubts.push(doubt);
                Ok(self.end(measured, Vec::new(), &view).await)
            }
        }
    }

    /// Everything from the start of the loads to their end.
    async fn under_load(
        &self,
        view: &View,
        request: &(dyn Fn(&super::spec::Url) -> HttpRequest + Sync),
        measured: &mut Measured,
    ) -> Result<Vec<StepReport>, KeepError> {
        self.tell("the load starts");
        let log = self.log_requests()?;
        let watch = Watch::start(self.environment.daemon, self.epoch);
        let mut steps = Vec::new();
        let loads: BTreeMap<String, Running> = self
            .scenario
            .loads
            .iter()
            .map(|(name, spec)| {
                let sink = log.sink(name);
                let running = load::start_kept(spec, request(&spec.url), self.epoch, &sink);
                (name.clone(), running)
            })
            .collect();
        let begun_ms = self.now_ms();
        let mut from_ms = BTreeMap::new();
        for (name, running) in &loads {
            match self.wait_baseline(name, running, begun_ms).await {
                Ok(at) => drop(from_ms.insert(name.clone(), at)),
                Err(doubt) => {
                    measured.doubts.push(doubt);
                    break;
                }
            }
        }
        if measured.doubts.is_empty() {
            steps = self.run_steps(view, request, measured).await;
            self.hold().await;
            // Whatever is cut short, be it only the hold, has not shown what it should.
            if self.cancel.is_cancelled() && measured.doubts.is_empty() {
                measured.doubts.push("interrupted".to_owned());
            }
        }
        let end_ms = self.now_ms();
        self.tell("the load ends");
        // All schedules end together: while one load waits for its last answers, none of the others sends on.
        loads.values().for_each(Running::stop);
        for (name, running) in loads {
            let from_ms = from_ms.get(&name).copied().unwrap_or(begun_ms);
            let shared = Arc::clone(&running.shared);
            let records = running.finish().await;
            measured.loads.insert(
                name,
                MeasuredLoad::between(from_ms, end_ms, records, &shared.pauses()),
            );
        }
        log.finish().await.map_err(|source| self.not_kept(source))?;
        measured.starvation = Starvation::of(&watch.seen());
        Ok(steps)
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

    /// What is counted at the end, and the report.
    async fn end(&self, mut measured: Measured, steps: Vec<StepReport>, view: &View) -> Report {
        for expectation in &self.scenario.expectations {
            if let Check::Replicas { rc, .. } = &expectation.check {
                measured
                    .replicas
                    .insert(rc.clone(), view.replicas_ready(NAMESPACE, rc));
            }
        }
        let left = Journal::new(&self.environment.journal_dir)
            .entries()
            .map_or(u32::MAX, |entries| {
                u32::try_from(entries.len()).unwrap_or(u32::MAX)
            });
        measured.faults_left = left;
        let deleted = view
            .events()
            .iter()
            .filter(|event| event.kind == "pod.deleted")
            .count();
        measured.pods_deleted = u32::try_from(deleted).unwrap_or(u32::MAX);
        let mut report = self.report(&measured, steps, view);
        report.events.extend(self.troubles().await);
        report.events.sort_by_key(|event| event.at_ms);
        report
    }

    fn report(&self, measured: &Measured, steps: Vec<StepReport>, view: &View) -> Report {
        let judgement = judge(self.scenario, measured);
        Report {
            verdict: judgement.verdict,
            reasons: judgement.reasons,
            steps,
            faults: measured.faults.clone(),
            events: view.events(),
            load: judgement.loads,
            expectations: judgement.rows,
            ..Report::without_run(
                &self.scenario.name,
                self.environment.seed,
                self.environment.target.clone(),
                judgement.verdict,
                Vec::new(),
            )
        }
    }

    /// What went wrong inside the machines meanwhile. The daemon tells by the host's clock when it saw it.
    async fn troubles(&self) -> Vec<EventReport> {
        let begun = SystemTime::now() - self.epoch.elapsed();
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

    /// A failure while we are being cancelled says nothing about the stack.
    fn note_failure(&self, measured: &mut Measured, failure: String) {
        if self.cancel.is_cancelled() {
            measured.doubts.push("interrupted".to_owned());
        } else {
            measured.step_failures.push(failure);
        }
    }

    /// Waits until everything deployed is ready; else what is not.
    async fn wait_ready(&self, view: &View, deployed: &Deployed) -> Option<String> {
        let within = self.scenario.deploy.wait;
        let ready = async {
            view.wait_synced().await;
            while !self.unready(view, deployed).is_empty() {
                drop(timeout(LOOK_AGAIN, view.changed()).await);
            }
        };
        tokio::select! {
            done = timeout(within, ready) => done.err().map(|_| {
                let mut unready = self.unready(view, deployed);
                unready.extend(view.pods_waiting());
                format!("deploy: not ready within {} s: {}", within.as_secs(), unready.join("; "))
            }),
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

    async fn run_steps(
        &self,
        view: &View,
        request: &(dyn Fn(&super::spec::Url) -> HttpRequest + Sync),
        measured: &mut Measured,
    ) -> Vec<StepReport> {
        let steps = Steps::new(self, view, request);
        let outcome = steps.run_all().await;
        for failure in outcome.failures {
            self.note_failure(measured, failure);
        }
        measured.doubts.extend(outcome.doubts);
        measured.faults = outcome.faults;
        #[expect(clippy::cast_precision_loss, reason = "times of a run")]
        measured
            .updates_ended_ms
            .extend(outcome.updates_ended_ms.iter().map(|ms| *ms as f64));
        outcome.steps
    }

    /// Lets the load run on for as long as the longest expectation must hold.
    async fn hold(&self) {
        let holds = self
            .scenario
            .expectations
            .iter()
            .map(|expectation| match &expectation.check {
                Check::Recovery { hold, .. } => *hold,
                Check::FinalVersion { .. } => Duration::from_secs(3),
                _ => Duration::ZERO,
            });
        let hold = holds.max().unwrap_or_default();
        tokio::select! {
            () = sleep(hold + BASELINE_POLL) => {}
            () = self.cancel.cancelled() => {}
        }
    }
}

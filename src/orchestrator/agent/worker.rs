//! One pod's worker: owns everything that is known of the pod, asks [`decide`] what comes next, and has it done by its tasks.
//!
//! Invariants: a worker belongs to one UID; it alone starts and stops that pod's containers; it ends when the pod is gone from
//! node and API. Dropping it stops no container.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::ask::PodProber;
use super::decide::{Deletion, Effect, Kill, Observed, Progress, Pull, decide, grace};
use super::drain::{Drained, Draining};
use super::events::Severity;
use super::launch::pull_policy;
use super::objects::{self, Patched, PodApi};
use super::probe::{self, Kind, Report, Target};
use super::runtime::{ContainerState, ContainerStatus, Image, PullError, Runtime, SandboxStatus};
use super::status::{self, Moment};
use super::work::{self, Context, Failure, SetUp};

/// Secrets and ConfigMaps of a pod are read again this often, besides whenever one changes; as in the kubelet.
const REFRESH_INTERVAL: Duration = Duration::from_mins(1);
/// After a failed set-up, configuration, removal or API call.
const RETRY: Duration = Duration::from_secs(2);
/// Probe reports that wait, at most.
const REPORT_LIMIT: usize = 64;

/// What the owner of all workers says of a pod.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    /// As the API had it last.
    pub(crate) pod: Arc<Pod>,
    /// The API has it no longer.
    pub(crate) gone: bool,
}

enum Outcome {
    SetUp(Result<SetUp, Failure>),
    Pulled(String, Result<Image, PullError>, Duration),
    Started(String, Result<ContainerStatus, Failure>),
    Drained(Drained, Draining),
    Stopped(String, Option<ContainerStatus>),
    Removed(Result<(), String>),
    Deleted(Result<(), String>),
    Patched(Box<PodStatus>, Result<Patched, String>),
    Refreshed(Result<(), Failure>),
}

struct Probing {
    instance: u32,
    started: watch::Sender<bool>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

/// How far the API knows the status.
#[derive(Default)]
struct Published {
    in_flight: bool,
    /// What was written last, and the revision that this made.
    sent: Option<(PodStatus, u64)>,
    retry_at: Option<Instant>,
    gone: bool,
}

struct Worker<R, A> {
    context: Arc<Context<R, A>>,
    pod: Arc<Pod>,
    /// The newest revision of the pod that was seen, and its status there.
    there: (u64, PodStatus),
    status: PodStatus,
    observed: Observed,
    setup: Option<SetUp>,
    tasks: JoinSet<Outcome>,
    pulls: HashMap<String, AbortHandle>,
    probes: HashMap<String, Probing>,
    reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    published: Published,
    refresh_at: Option<Instant>,
    refreshing: bool,
    /// Told when a Secret or ConfigMap of the pod changes, while the handles live.
    objects_changed: (Arc<Notify>, Vec<AbortOnDropHandle<()>>),
    /// Held while connections to the pod may be open.
    draining: Option<Draining>,
}

/// Runs a pod until it is gone.
pub(crate) async fn run<R: Runtime, A: PodApi>(
    context: Arc<Context<R, A>>,
    mut input: watch::Receiver<Input>,
    mut sandbox: watch::Receiver<Option<SandboxStatus>>,
) {
    let first = input.borrow_and_update().clone();
    let adopted = sandbox.borrow_and_update().clone();
    let mut worker = Worker::new(context, first, adopted.as_ref());
    loop {
        let wake = worker.turn();
        if worker.observed.finished() {
            return;
        }
        tokio::select! {
            changed = input.changed() => {
                if changed.is_err() {
                    return;
                }
                let next = input.borrow_and_update().clone();
                worker.take_input(next);
            }
            Ok(()) = sandbox.changed() => {
                let next = sandbox.borrow_and_update().clone();
                worker.take_sandbox(next.as_ref());
            }
            Some(outcome) = worker.tasks.join_next(), if !worker.tasks.is_empty() => match outcome {
                Ok(outcome) => worker.take_outcome(outcome),
                // A pull that was called off.
                Err(error) if error.is_cancelled() => {}
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            Some(report) = worker.reports.1.recv() => worker.take_report(report),
            () = worker.objects_changed.0.notified() => worker.refresh_at = Some(Instant::now()),
            () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

impl<R: Runtime, A: PodApi> Worker<R, A> {
    fn new(context: Arc<Context<R, A>>, input: Input, adopted: Option<&SandboxStatus>) -> Self {
        let pod = input.pod.clone();
        let known = pod.status.clone().unwrap_or_default();
        let (secrets, config_maps) = objects::names(&pod);
        let refresh = !secrets.is_empty() || !config_maps.is_empty();
        let changed = Arc::new(Notify::new());
        let watches = context.api.watch_objects(&pod, &changed);
        let mut worker = Self {
            context,
            there: (revision(&pod), known.clone()),
            status: known,
            pod,
            observed: Observed::default(),
            setup: None,
            tasks: JoinSet::new(),
            pulls: HashMap::new(),
            probes: HashMap::new(),
            reports: mpsc::channel(REPORT_LIMIT),
            published: Published::default(),
            refresh_at: refresh.then(|| Instant::now() + REFRESH_INTERVAL),
            refreshing: false,
            objects_changed: (changed, watches),
            draining: None,
        };
        worker.adopt(adopted);
        worker.take_input(input);
        worker
    }

    /// Starts from what the runtime and the API know.
    fn adopt(&mut self, adopted: Option<&SandboxStatus>) {
        let now = Instant::now();
        self.observed.address = adopted.map(|sandbox| sandbox.address);
        let known = self.status.clone();
        let statuses = known.init_container_statuses.iter().flatten().chain(known.container_statuses.iter().flatten());
        for api in statuses {
            let view = self.observed.container(&api.name);
            if api.container_id.is_some() {
                // It ran once; should the runtime have lost it, counting goes on.
                view.first_instance = u32::try_from(api.restart_count).unwrap_or(0).saturating_add(1);
            }
        }
        for status in adopted.iter().flat_map(|sandbox| sandbox.containers.values()) {
            let Some(container) = self.find(&status.name) else { continue };
            let api = known.init_container_statuses.iter().chain(&known.container_statuses).flatten().find(|api| {
                api.name == status.name && api.container_id.as_deref() == Some(&format!("flightcage://{}", status.id))
            });
            let view = self.observed.container(&status.name);
            view.observe(status, now);
            view.started = container.startup_probe.is_none() || api.is_some_and(|api| api.started == Some(true));
            view.ready = probe::ready_at_once(&container) || api.is_some_and(|api| api.ready);
        }
    }

    fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    fn find(&self, name: &str) -> Option<Container> {
        let spec = self.spec()?;
        spec.init_containers.iter().flatten().chain(&spec.containers).find(|container| container.name == name).cloned()
    }

    /// Begins what is due; returns when to be asked again.
    fn turn(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut wake: Option<Instant> = None;
        let mut at = |when: Instant| wake = Some(wake.map_or(when, |wake| wake.min(when)));
        let spec = self.pod.spec.clone()?;
        for effect in decide(&spec, &self.observed, now) {
            if let Effect::Wake(when) = effect { at(when) } else { self.begin(effect) }
        }
        self.sync_probes();
        if let Some(when) = self.publish(now) {
            at(when);
        }
        let live = self.observed.deletion.is_none() && self.setup.is_some() && !self.refreshing;
        if let Some(when) = self.refresh_at.filter(|_| live) {
            if when <= now {
                self.refreshing = true;
                self.refresh_at = Some(now + REFRESH_INTERVAL);
                let (context, pod) = (self.context.clone(), self.pod.clone());
                self.tasks.spawn(async move { Outcome::Refreshed(work::make_volumes(&context, pod).await.map(drop)) });
            } else {
                at(when);
            }
        }
        wake
    }

    fn begin(&mut self, effect: Effect) {
        let (context, pod) = (self.context.clone(), self.pod.clone());
        match effect {
            Effect::SetUp => {
                self.observed.setup = Progress::InFlight;
                self.tasks.spawn(async move { Outcome::SetUp(work::set_up(&context, pod).await) });
            }
            Effect::Pull { container } => self.begin_pull(&container),
            Effect::Start { container, image, instance } => {
                let (Some(definition), Some(setup)) = (self.find(&container), self.setup.clone()) else { return };
                self.observed.container(&container).start = Progress::InFlight;
                self.tasks.spawn(async move {
                    let started = work::start(&context, &pod, &definition, image, instance, &setup).await;
                    Outcome::Started(container, started)
                });
            }
            Effect::Drain(by) => {
                self.observed.drain = Progress::InFlight;
                let own = self.spec().is_none_or(|spec| spec.host_network != Some(true));
                let mut draining = context.drains.begin(&work::uid(&pod), self.observed.address.filter(|_| own));
                self.tasks.spawn(async move {
                    let drained = draining.wait(by.saturating_duration_since(Instant::now())).await;
                    Outcome::Drained(drained, draining)
                });
            }
            Effect::Stop { container, deadline, message } => {
                let Some(definition) = self.find(&container) else { return };
                let view = self.observed.container(&container);
                view.stopping = true;
                view.kill = None;
                self.event(Some(&container), Severity::Normal, "Killing", message);
                let address = self.observed.address;
                self.tasks.spawn(async move {
                    let status = work::stop(&context, &pod, &definition, address, deadline).await;
                    Outcome::Stopped(container, status)
                });
            }
            Effect::Remove => {
                self.observed.removal = Progress::InFlight;
                self.tasks.spawn(async move { Outcome::Removed(work::remove(&context, &pod).await) });
            }
            Effect::Delete => {
                self.observed.farewell = Progress::InFlight;
                self.tasks.spawn(async move { Outcome::Deleted(context.api.delete(&pod).await) });
            }
            Effect::Wake(_) => {}
        }
    }

    fn begin_pull(&mut self, container: &str) {
        let Some(definition) = self.find(container) else { return };
        let policy = pull_policy(&definition);
        let image = definition.image.clone().unwrap_or_default();
        self.observed.container(container).pull = Pull::InFlight;
        self.event(Some(container), Severity::Normal, "Pulling", format!("Pulling image \"{image}\""));
        let (context, name) = (self.context.clone(), container.to_owned());
        let handle = self.tasks.spawn(async move {
            let begun = Instant::now();
            let pulled = context.runtime.pull(&image, policy).await;
            Outcome::Pulled(name, pulled, begun.elapsed())
        });
        self.pulls.insert(container.to_owned(), handle);
    }

    fn event(&self, container: Option<&str>, severity: Severity, reason: &'static str, message: String) {
        self.context.events.record(&self.pod, container, severity, reason, message);
    }

    fn take_input(&mut self, input: Input) {
        if revision(&input.pod) >= self.there.0 {
            self.there = (revision(&input.pod), input.pod.status.clone().unwrap_or_default());
            self.published.gone = false;
        }
        self.pod = input.pod;
        self.observed.gone = input.gone;
        let leaving = input.gone || self.pod.metadata.deletion_timestamp.is_some();
        if !leaving {
            return;
        }
        let Some(spec) = self.pod.spec.as_ref() else { return };
        let allowed = grace(self.pod.metadata.deletion_grace_period_seconds, spec);
        match &mut self.observed.deletion {
            // A second deletion may only shorten the first.
            Some(deletion) => deletion.grace = deletion.grace.min(allowed),
            None => self.observed.deletion = Some(Deletion { since: Instant::now(), grace: allowed }),
        }
        self.probes.clear();
        for (container, pull) in self.pulls.drain() {
            pull.abort();
            self.observed.container(&container).pull = Pull::Idle;
        }
    }

    fn take_sandbox(&mut self, sandbox: Option<&SandboxStatus>) {
        for status in sandbox.iter().flat_map(|sandbox| sandbox.containers.values()) {
            self.observe(status);
        }
    }

    fn observe(&mut self, status: &ContainerStatus) {
        let Some(definition) = self.find(&status.name) else { return };
        let leaving = self.observed.deletion.is_some();
        let view = self.observed.container(&status.name);
        let before = view.status.as_ref().map(|status| status.restart_count);
        let exited = view.observe(status, Instant::now());
        if view.status.as_ref().map(|status| status.restart_count) != before {
            view.started = definition.startup_probe.is_none();
            view.ready = probe::ready_at_once(&definition);
            view.answers = true;
            view.kill = None;
            view.pull = Pull::Idle;
            if before.is_some() {
                view.crash_backoff.next();
            }
        }
        let (code, delay) = (view.exit_code(), view.crash_backoff.delay());
        let Some(code) = code.filter(|_| exited && !leaving) else { return };
        tracing::info!(pod = %status.id, container = status.name, code, "the container exited");
        if matches!(status.state, ContainerState::Exited { oom_killed: true, .. }) {
            let resources = definition.resources.as_ref().and_then(|resources| resources.limits.as_ref());
            let limit = resources.and_then(|limits| limits.get("memory"));
            let limit = limit.map_or_else(String::new, |limit| format!(" of {}", limit.0));
            let message = format!("Container {} was killed for its memory limit{limit}", status.name);
            self.event(Some(&status.name), Severity::Warning, "OOMKilled", message);
        }
        let init = self
            .spec()
            .and_then(|spec| spec.init_containers.as_ref())
            .is_some_and(|all| all.iter().any(|one| one.name == status.name));
        let again = self.spec().is_some_and(|spec| super::decide::restarts(spec, &definition, init, code));
        if again && !delay.is_zero() {
            let metadata = &self.pod.metadata;
            let message = format!(
                "Back-off restarting failed container {} in pod {}_{}({})",
                status.name,
                metadata.name.as_deref().unwrap_or_default(),
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.uid.as_deref().unwrap_or_default()
            );
            self.event(Some(&status.name), Severity::Warning, "BackOff", message);
        }
    }

    fn take_outcome(&mut self, outcome: Outcome) {
        let now = Instant::now();
        let failed = |failure: &Failure, after: Duration| Progress::Failed {
            until: now + after,
            reason: failure.reason.to_owned(),
            message: failure.message.clone(),
        };
        let again = |message: String| Progress::Failed { until: now + RETRY, reason: String::new(), message };
        match outcome {
            Outcome::SetUp(Ok(setup)) => {
                self.observed.address = Some(setup.address);
                self.observed.setup = Progress::Done;
                self.setup = Some(setup);
            }
            Outcome::SetUp(Err(failure)) => {
                self.observed.setup = failed(&failure, RETRY);
                self.event(None, Severity::Warning, failure.reason, failure.message);
            }
            Outcome::Pulled(container, pulled, took) => self.take_pulled(&container, pulled, took),
            Outcome::Started(container, Ok(status)) => {
                self.observe(&status);
                let view = self.observed.container(&container);
                view.start = Progress::Idle;
                if view.ready {
                    self.context.runtime.settled(&work::uid(&self.pod));
                }
                self.event(Some(&container), Severity::Normal, "Created", format!("Created container: {container}"));
                self.event(Some(&container), Severity::Normal, "Started", format!("Started container {container}"));
                self.context.relist.notify_one();
            }
            Outcome::Started(container, Err(failure)) => {
                let view = self.observed.container(&container);
                let after = if failure.reason == "RunContainerError" { view.crash_backoff.next() } else { RETRY };
                view.start = failed(&failure, after);
                self.event(Some(&container), Severity::Warning, "Failed", format!("Error: {}", failure.message));
            }
            Outcome::Drained(drained, draining) => {
                self.observed.drain = Progress::Done;
                // What is still open ends at a quiet moment, until the containers have stopped.
                self.draining = Some(draining);
                self.tell_drained(drained);
            }
            Outcome::Stopped(container, status) => {
                let status = status.or_else(|| self.observed.container(&container).status.clone().map(lost));
                self.observed.container(&container).stopping = false;
                if let Some(status) = status {
                    self.observe(&status);
                }
                self.context.relist.notify_one();
            }
            Outcome::Removed(Ok(())) => self.observed.removal = Progress::Done,
            Outcome::Removed(Err(why)) => {
                tracing::warn!(pod = self.pod.metadata.uid, why, "the pod cannot be removed, trying again");
                self.observed.removal = again(why);
            }
            Outcome::Deleted(Ok(())) => self.observed.farewell = Progress::Done,
            Outcome::Deleted(Err(why)) => {
                tracing::debug!(pod = self.pod.metadata.uid, why, "the pod cannot be deleted from the API, trying again");
                self.observed.farewell = again(why);
            }
            Outcome::Patched(status, patched) => self.take_patched(*status, patched),
            Outcome::Refreshed(refreshed) => {
                self.refreshing = false;
                if let Err(failure) = refreshed {
                    tracing::warn!(pod = self.pod.metadata.uid, failure.message, "the pod's volumes cannot be refreshed");
                }
            }
        }
    }

    fn tell_drained(&self, drained: Drained) {
        match drained {
            Drained::Complete { excluded } if excluded.is_empty() => {
                tracing::info!(pod = self.pod.metadata.uid, "drained: no balancer uses the pod any more");
            }
            Drained::Complete { excluded } => {
                let message = format!("Drained without {}: silent, so not waited for", excluded.join(", "));
                self.event(None, Severity::Warning, "DrainIncomplete", message);
            }
            Drained::TimedOut { waiting } => {
                let message = format!("Stopping before the drain was over: {waiting}");
                self.event(None, Severity::Warning, "DrainTimedOut", message);
            }
        }
    }

    fn take_pulled(&mut self, container: &str, pulled: Result<Image, PullError>, took: Duration) {
        self.pulls.remove(container);
        let image = self.find(container).and_then(|container| container.image).unwrap_or_default();
        let now = Instant::now();
        let view = self.observed.container(container);
        match pulled {
            Ok(pulled) => {
                view.pull = Pull::Done(pulled);
                view.pull_backoff.reset();
                let message = format!("Successfully pulled image \"{image}\" in {} ms", took.as_millis());
                self.event(Some(container), Severity::Normal, "Pulled", message);
            }
            Err(error) => {
                let reason = match &error {
                    PullError::InvalidName(_) => "InvalidImageName",
                    PullError::NeverPull(_) => "ErrImageNeverPull",
                    PullError::NotFound(_) | PullError::Failed { .. } => "ErrImagePull",
                };
                let message = work::chain(&error);
                let until = now + view.pull_backoff.next();
                view.pull = Pull::Failed { at: now, until, reason: reason.to_owned(), message: message.clone() };
                self.event(Some(container), Severity::Warning, "Failed", format!("Failed to pull image \"{image}\": {message}"));
                self.event(Some(container), Severity::Warning, "Failed", format!("Error: {reason}"));
                self.event(Some(container), Severity::Normal, "BackOff", format!("Back-off pulling image \"{image}\""));
            }
        }
    }

    fn take_patched(&mut self, status: PodStatus, patched: Result<Patched, String>) {
        self.published.in_flight = false;
        match patched {
            Ok(Patched::Done(pod)) => {
                let revision = revision(&pod);
                self.published.sent = Some((status, revision));
                if revision >= self.there.0 {
                    self.there = (revision, pod.status.unwrap_or_default());
                }
            }
            Ok(Patched::Gone) => self.published.gone = true,
            Err(why) => {
                tracing::debug!(pod = self.pod.metadata.uid, why, "the status cannot be written, trying again");
                self.published.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn take_report(&mut self, report: Report) {
        let view = self.observed.container(&report.container);
        let current = view.running() && view.status.as_ref().is_some_and(|status| status.restart_count == report.instance);
        if !current || self.observed.deletion.is_some() {
            return;
        }
        let view = self.observed.container(&report.container);
        match (report.kind, report.verdict) {
            (Kind::Readiness, Some(ready)) => {
                view.ready = ready;
                if ready {
                    self.context.runtime.settled(&work::uid(&self.pod));
                }
            }
            (Kind::Startup, Some(true)) => {
                view.started = true;
                if let Some(probing) = self.probes.get(&report.container) {
                    probing.started.send_replace(true);
                }
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                let message = format!(
                    "Container {} failed {} probe, will be restarted",
                    report.container,
                    report.kind.title().to_lowercase()
                );
                view.kill = Some(Kill { message, grace: report.grace });
            }
            (Kind::Liveness, Some(true)) | (_, None) => {}
        }
        if report.kind == Kind::Liveness {
            // Its restart needs several failures in a row; traffic turns away at the first, and comes back at the first success.
            view.answers = report.failure.is_none();
        }
        if let Some(why) = report.failure {
            let message = format!("{} probe failed: {why}", report.kind.title());
            self.event(Some(&report.container), Severity::Warning, "Unhealthy", message);
        }
    }

    /// Probes exactly the instances that run.
    fn sync_probes(&mut self) {
        let Some(address) = self.observed.address.filter(|_| self.observed.deletion.is_none()) else { return };
        let running: HashMap<String, (u32, i64)> = self
            .observed
            .containers
            .iter()
            .filter_map(|(name, view)| match view.status.as_ref()? {
                ContainerStatus { restart_count, state: ContainerState::Running { started_at_ms }, .. } if !view.stopping => {
                    Some((name.clone(), (*restart_count, *started_at_ms)))
                }
                _ => None,
            })
            .collect();
        self.probes.retain(|name, probing| running.get(name).is_some_and(|(instance, _)| *instance == probing.instance));
        for (name, (instance, started_at_ms)) in running {
            if self.probes.contains_key(&name) {
                continue;
            }
            let Some(container) = self.find(&name) else { continue };
            let view = self.observed.container(&name);
            let target = Target { container: name.clone(), instance, address, age: age(started_at_ms), ready: view.ready };
            let (started, watching) = watch::channel(view.started);
            let already = view.started;
            let plans = probe::plans(&container).into_iter().filter(|plan| !(already && plan.kind == Kind::Startup));
            let mut tasks: Vec<_> = plans.map(|plan| self.probe(plan, target.clone(), watching.clone())).collect();
            if !target.ready {
                tasks.extend(self.wait_listening(&container, target));
            }
            self.probes.insert(name, Probing { instance, started, _tasks: tasks });
        }
    }

    /// Makes a container without a readiness probe ready as soon as it listens.
    fn wait_listening(&self, container: &Container, target: Target) -> Option<AbortOnDropHandle<()>> {
        let ports = probe::listening_ports(container);
        let gated = container.readiness_probe.is_none() && !ports.is_empty();
        let (runtime, reports) = (self.context.runtime.clone(), self.reports.0.clone());
        let prober = PodProber { runtime, pod_uid: work::uid(&self.pod) };
        gated.then(|| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                probe::wait_listening(&prober, &ports, target, reports).await;
            }))
        })
    }

    fn probe(&self, plan: probe::Plan, target: Target, started: watch::Receiver<bool>) -> AbortOnDropHandle<()> {
        let pod_uid = self.pod.metadata.uid.clone().unwrap_or_default();
        let prober = PodProber { runtime: self.context.runtime.clone(), pod_uid };
        let reports = self.reports.0.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            probe::watch_container(&prober, plan, target, started, reports).await;
        }))
    }

    /// Writes the status if the API has another; returns when to try again.
    fn publish(&mut self, now: Instant) -> Option<Instant> {
        let moment = Moment { now, wall: jiff::Timestamp::now(), host_address: self.context.host_address };
        let next = status::status(&self.pod, &self.observed, &self.status, &moment);
        self.status = next.clone();
        if self.published.in_flight || self.published.gone || self.observed.gone || self.observed.farewell != Progress::Idle {
            return None;
        }
        let outdated = match &self.published.sent {
            Some((sent, revision)) => *sent != next || (self.there.0 > *revision && !covers(&self.there.1, &next)),
            None => !covers(&self.there.1, &next),
        };
        if !outdated {
            return None;
        }
        if let Some(at) = self.published.retry_at.filter(|&at| at > now) {
            return Some(at);
        }
        self.published.retry_at = None;
        self.published.in_flight = true;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.tasks.spawn(async move {
            let patched = context.api.patch_status(&pod, &next).await;
            Outcome::Patched(Box::new(next), patched)
        });
        None
    }
}

/// Whether the API's status says what this agent would say.
fn covers(there: &PodStatus, ours: &PodStatus) -> bool {
    there.phase == ours.phase
        && there.pod_ip == ours.pod_ip
        && there.host_ip == ours.host_ip
        && there.container_statuses == ours.container_statuses
        && there.init_container_statuses == ours.init_container_statuses
        && ours.conditions.iter().flatten().all(|condition| there.conditions.iter().flatten().any(|known| known == condition))
}

/// A container that the runtime has lost has ended.
fn lost(mut status: ContainerStatus) -> ContainerStatus {
    if let ContainerState::Running { started_at_ms } = status.state {
        let finished_at_ms = jiff::Timestamp::now().as_millisecond();
        status.state = ContainerState::Exited { exit_code: 137, oom_killed: false, started_at_ms, finished_at_ms };
    }
    status
}

fn age(started_at_ms: i64) -> Duration {
    let age = jiff::Timestamp::now().as_millisecond().saturating_sub(started_at_ms);
    Duration::from_millis(u64::try_from(age).unwrap_or(0))
}

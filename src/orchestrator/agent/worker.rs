//! One pod's worker: owns everything that is known of the pod, asks [`decide`] what comes next, and has it done by its tasks.
//!
//! Invariants: a worker belongs to one UID; it alone starts and stops that pod's containers; it ends when the pod is gone from
//! node and API. Dropping it stops no container.

mod effect;
mod news;
mod outcome;
mod probing;
mod publishing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::outcome::Outcome;
use self::probing::Probing;
use self::publishing::Published;
use super::decide::{Effect, Observed, decide};
use super::drain::Draining;
use super::events::Severity;
use super::objects::{self, PodApi};
use super::probe::Report;
use super::runtime::{Runtime, SandboxStatus};
use super::tokens;
use super::work::{self, Context, SetUp};

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

impl<R: Runtime, A: PodApi> Worker<R, A> {
    fn new(context: Arc<Context<R, A>>, input: Input, adopted: Option<&SandboxStatus>) -> Self {
        let pod = input.pod.clone();
        let known = pod.status.clone().unwrap_or_default();
        let (secrets, config_maps) = objects::names(&pod);
        let refresh =
            !secrets.is_empty() || !config_maps.is_empty() || !tokens::wanted(&pod).is_empty();
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

    fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    fn find(&self, name: &str) -> Option<Container> {
        let spec = self.spec()?;
        spec.init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
            .find(|container| container.name == name)
            .cloned()
    }

    /// Begins what is due; returns when to be asked again.
    fn turn(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut wake: Option<Instant> = None;
        let mut at = |when: Instant| wake = Some(wake.map_or(when, |wake| wake.min(when)));
        let spec = self.pod.spec.clone()?;
        if let Some(left) = self.time_left(&spec) {
            if left.is_zero() {
                self.expire();
            } else {
                at(now + left);
            }
        }
        for effect in decide(&spec, &self.observed, now) {
            if let Effect::Wake(when) = effect {
                at(when)
            } else {
                self.begin(effect)
            }
        }
        self.sync_probes();
        for when in [self.publish(now), self.refresh(now)].into_iter().flatten() {
            at(when);
        }
        wake
    }

    /// How long the pod may still be active; nothing if it has no deadline, has ended, or is over it already.
    fn time_left(&self, spec: &PodSpec) -> Option<Duration> {
        let most = spec.active_deadline_seconds?;
        let has_ended = matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let is_over = self.status.reason.as_deref() == Some("DeadlineExceeded");
        if self.observed.expired || has_ended && !is_over {
            return None;
        }
        let most = Duration::from_secs(u64::try_from(most).unwrap_or(0));
        let begun = self.status.start_time.as_ref()?.0;
        let active = jiff::Timestamp::now().duration_since(begun);
        let active = Duration::try_from(active).unwrap_or_default();
        Some(most.saturating_sub(active))
    }

    fn expire(&mut self) {
        self.observed.expired = true;
        self.probes.clear();
        let message = "Pod was active on the node longer than the specified deadline".to_owned();
        self.event(None, Severity::Normal, "DeadlineExceeded", message);
    }

    /// Reads Secrets and ConfigMaps again when it is time; returns when that is.
    fn refresh(&mut self, now: Instant) -> Option<Instant> {
        let live = self.observed.deletion.is_none() && self.setup.is_some() && !self.refreshing;
        let due = self.refresh_at.filter(|_| live)?;
        if due > now {
            return Some(due);
        }
        self.refreshing = true;
        self.refresh_at = Some(now + REFRESH_INTERVAL);
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.tasks.spawn(async move {
            Outcome::Refreshed(work::make_volumes(&context, pod).await.map(drop))
        });
        None
    }

    fn event(
        &self,
        container: Option<&str>,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        self.context
            .events
            .record(&self.pod, container, severity, reason, message);
    }
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata
        .resource_version
        .as_deref()
        .and_then(|revision| revision.parse().ok())
        .unwrap_or(0)
}

//! What a pod needs next: a pure function of its manifest, of what is known of it, and of the time.
//!
//! ```text
//! set-up (volumes, sandbox) ─► init containers, one after another ─► containers, side by side
//!   each container:  pull ─► start ─► running ─► exited ─► (back-off) ─► pull …
//! deletion:  drain ─► preStop + stop ─► remove the sandbox ─► delete from the API
//! ```
//! [`decide`] is asked after every change and names what to begin; the worker marks it as in flight, does it, and writes the
//! outcome back into [`Observed`]. Whatever is in flight is never asked for twice. What runs needs neither set-up nor the API:
//! an adopted container is left alone.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use tokio::time::Instant;

use super::backoff::{Backoff, RESET_AFTER};
use super::runtime::{ContainerState, ContainerStatus, Image};

/// The part of the grace period that a drain may take; the rest is for preStop and the stop itself.
const DRAIN_SHARE: f64 = 2.0 / 3.0;
/// Kubernetes' default `terminationGracePeriodSeconds`.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// How far a thing is that is done once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Progress {
    /// To be done.
    #[default]
    Idle,
    /// Being done.
    InFlight,
    /// Failed; done again at `until`.
    Failed {
        /// When to try again.
        until: Instant,
        /// Kubernetes' reason, such as `CreateContainerConfigError`.
        reason: String,
        /// For people.
        message: String,
    },
    /// Done.
    Done,
}

/// How far an image is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Pull {
    /// To be asked for.
    #[default]
    Idle,
    /// On its way.
    InFlight,
    /// Could not be had; asked for again at `until`.
    Failed {
        /// When it failed.
        at: Instant,
        /// When to try again.
        until: Instant,
        /// Kubernetes' reason, such as `ErrImagePull`.
        reason: String,
        /// For people.
        message: String,
    },
    /// Here.
    Done(Image),
}

/// A container that is to be killed and started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    /// For the event.
    pub(crate) message: String,
    /// The probe's own grace, if it has one.
    pub(crate) grace: Option<Duration>,
}

/// What is known of one container.
#[derive(Debug, Clone)]
pub(crate) struct ContainerView {
    /// The newest instance.
    pub(crate) status: Option<ContainerStatus>,
    /// The instance before it.
    pub(crate) last: Option<ContainerStatus>,
    /// When the newest instance was seen to have exited.
    pub(crate) exited_at: Option<Instant>,
    /// Its image.
    pub(crate) pull: Pull,
    /// Back-off of failed pulls.
    pub(crate) pull_backoff: Backoff,
    /// The start of the next instance.
    pub(crate) start: Progress,
    /// Back-off of exits and failed starts.
    pub(crate) crash_backoff: Backoff,
    /// Whether a stop is in flight.
    pub(crate) stopping: bool,
    /// A probe asks for its death.
    pub(crate) kill: Option<Kill>,
    /// Whether its startup probe has succeeded, or it has none.
    pub(crate) started: bool,
    /// Whether its readiness probe has succeeded, or it has none.
    pub(crate) ready: bool,
    /// Whether its last liveness probe has succeeded, if it was probed.
    pub(crate) answers: bool,
    /// Restart count of the first instance that this agent starts.
    pub(crate) first_instance: u32,
    /// What the newest instances left to be told when they ended, by restart count.
    pub(crate) messages: BTreeMap<u32, String>,
}

impl Default for ContainerView {
    fn default() -> Self {
        Self {
            status: None,
            last: None,
            exited_at: None,
            pull: Pull::Idle,
            pull_backoff: Backoff::default(),
            start: Progress::Idle,
            crash_backoff: Backoff::default(),
            stopping: false,
            kill: None,
            started: false,
            ready: false,
            answers: true,
            first_instance: 0,
            messages: BTreeMap::new(),
        }
    }
}

impl ContainerView {
    /// Whether its process runs.
    pub(crate) fn running(&self) -> bool {
        matches!(
            self.status,
            Some(ContainerStatus {
                state: ContainerState::Running { .. },
                ..
            })
        )
    }

    /// Its exit code, if it has exited.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self.status {
            Some(ContainerStatus {
                state: ContainerState::Exited { exit_code, .. },
                ..
            }) => Some(exit_code),
            _ => None,
        }
    }

    /// Restart count of the instance to start next.
    pub(crate) fn next_instance(&self) -> u32 {
        self.status
            .as_ref()
            .map_or(self.first_instance, |status| status.restart_count + 1)
    }

    /// When an exited container may start again.
    pub(crate) fn restart_at(&self) -> Option<Instant> {
        self.exited_at.map(|at| at + self.crash_backoff.delay())
    }

    /// Takes in what the runtime says; older news is ignored. Returns whether the container is newly seen to have exited.
    pub(crate) fn observe(&mut self, status: &ContainerStatus, now: Instant) -> bool {
        let was_running = self.running();
        match &self.status {
            Some(known) if known.restart_count > status.restart_count => return false,
            Some(known)
                if known.restart_count == status.restart_count
                    && !exits(was_running, &status.state) =>
            {
                return false;
            }
            Some(known) if known.restart_count == status.restart_count => {}
            Some(_) => self.last = self.status.take(),
            None => {}
        }
        self.status = Some(status.clone());
        let ContainerState::Exited {
            started_at_ms,
            finished_at_ms,
            ..
        } = status.state
        else {
            self.exited_at = None;
            return false;
        };
        self.exited_at = Some(now);
        self.pull = Pull::Idle;
        self.start = Progress::Idle;
        self.kill = None;
        let ran = Duration::from_millis(
            u64::try_from(finished_at_ms.saturating_sub(started_at_ms)).unwrap_or(0),
        );
        if ran >= RESET_AFTER {
            self.crash_backoff.reset();
        }
        true
    }
}

fn exits(was_running: bool, next: &ContainerState) -> bool {
    was_running && matches!(next, ContainerState::Exited { .. })
}

/// A pod that is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deletion {
    /// When the agent learned of it.
    pub(crate) since: Instant,
    /// From then to the kill.
    pub(crate) grace: Duration,
}

impl Deletion {
    /// When containers are told to stop, drained or not.
    pub(crate) fn drained_by(&self) -> Instant {
        self.since + self.grace.mul_f64(DRAIN_SHARE)
    }

    /// When they are killed.
    pub(crate) fn deadline(&self) -> Instant {
        self.since + self.grace
    }
}

/// What is known of a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observed {
    /// Address of its sandbox.
    pub(crate) address: Option<Ipv4Addr>,
    /// Volumes and sandbox.
    pub(crate) setup: Progress,
    /// Containers by name, init containers among them.
    pub(crate) containers: BTreeMap<String, ContainerView>,
    /// Set once the pod is to go.
    pub(crate) deletion: Option<Deletion>,
    /// That no balancer uses the pod any more.
    pub(crate) drain: Progress,
    /// It has been active for longer than it may: nothing of it runs again.
    pub(crate) expired: bool,
    /// The API has it no longer.
    pub(crate) gone: bool,
    /// Removal of the sandbox and volumes.
    pub(crate) removal: Progress,
    /// Deletion from the API.
    pub(crate) farewell: Progress,
}

impl Observed {
    /// A container's view; one that nothing is known of is as new.
    pub(crate) fn container(&mut self, name: &str) -> &mut ContainerView {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// Whether nothing is left to do, ever.
    pub(crate) fn finished(&self) -> bool {
        self.deletion.is_some()
            && self.removal == Progress::Done
            && (self.gone || self.farewell == Progress::Done)
    }
}

/// What to begin now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Make the volumes and the sandbox.
    SetUp,
    /// Pull a container's image.
    Pull {
        /// Which container.
        container: String,
    },
    /// Start a container.
    Start {
        /// Which container.
        container: String,
        /// From this image.
        image: Image,
        /// Restart count of the new instance.
        instance: u32,
    },
    /// Wait until no balancer uses the pod, at most until then.
    Drain(Instant),
    /// Run the preStop hook and stop a container.
    Stop {
        /// Which container.
        container: String,
        /// When it is killed at the latest.
        deadline: Instant,
        /// For the event.
        message: String,
    },
    /// Remove the sandbox and the volumes.
    Remove,
    /// Delete the pod from the API.
    Delete,
    /// Ask again at this time.
    Wake(Instant),
}

/// Kubernetes takes any number of seconds; a clock does not.
const GRACE_MAX: Duration = Duration::from_hours(24 * 366);

/// The grace period of a pod that is to go: what the deletion says, else its own.
pub(crate) fn grace(deletion_seconds: Option<i64>, spec: &PodSpec) -> Duration {
    let seconds = deletion_seconds.or(spec.termination_grace_period_seconds);
    seconds.map_or(DEFAULT_GRACE, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(GRACE_MAX)
    })
}

/// Whether a container of this exit code is started again.
pub(crate) fn restarts(spec: &PodSpec, container: &Container, init: bool, exit_code: i32) -> bool {
    if init && is_sidecar(container) {
        return true;
    }
    match spec.restart_policy.as_deref() {
        Some("Never") => false,
        Some("OnFailure") => exit_code != 0,
        _ => !init || exit_code != 0,
    }
}

/// Whether an init container runs beside the others.
pub(crate) fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether all init containers are through.
pub(crate) fn initialized(spec: &PodSpec, observed: &Observed) -> bool {
    let view = |container: &Container| observed.containers.get(&container.name);
    // A pod one of whose containers has ever started was initialized then.
    spec.containers
        .iter()
        .any(|container| view(container).is_some_and(|view| view.status.is_some()))
        || spec
            .init_containers
            .iter()
            .flatten()
            .all(|container| view(container).is_some_and(|view| init_done(container, view)))
}

fn init_done(container: &Container, view: &ContainerView) -> bool {
    if is_sidecar(container) {
        view.running() && view.started
    } else {
        view.exit_code() == Some(0)
    }
}

/// What to begin now.
pub(crate) fn decide(spec: &PodSpec, observed: &Observed, now: Instant) -> Vec<Effect> {
    match &observed.deletion {
        Some(deletion) => decide_deletion(observed, deletion, now),
        None if observed.expired => decide_end(spec, observed, now),
        None => decide_life(spec, observed, now),
    }
}

/// A pod that is over its deadline: what runs is stopped, and nothing is started.
fn decide_end(spec: &PodSpec, observed: &Observed, now: Instant) -> Vec<Effect> {
    let running = observed.containers.iter();
    running
        .filter(|(_, view)| view.running() && !view.stopping)
        .map(|(name, _)| Effect::Stop {
            container: name.clone(),
            deadline: now + grace(None, spec),
            message: format!(
                "Stopping container {name}: the pod is over its activeDeadlineSeconds"
            ),
        })
        .collect()
}

fn decide_life(spec: &PodSpec, observed: &Observed, now: Instant) -> Vec<Effect> {
    let mut effects = Vec::new();
    attempt(&observed.setup, now, Effect::SetUp, &mut effects);
    let fresh = ContainerView::default();
    let view = |container: &Container| observed.containers.get(&container.name).unwrap_or(&fresh);
    let initialized = initialized(spec, observed);
    for container in spec.init_containers.iter().flatten() {
        if !initialized || is_sidecar(container) {
            step(
                spec,
                container,
                true,
                view(container),
                observed,
                now,
                &mut effects,
            );
        }
        if !initialized && !init_done(container, view(container)) {
            return effects;
        }
    }
    for container in &spec.containers {
        step(
            spec,
            container,
            false,
            view(container),
            observed,
            now,
            &mut effects,
        );
    }
    effects
}

fn attempt(progress: &Progress, now: Instant, effect: Effect, effects: &mut Vec<Effect>) {
    match progress {
        Progress::Idle => effects.push(effect),
        Progress::Failed { until, .. } if *until <= now => effects.push(effect),
        Progress::Failed { until, .. } => effects.push(Effect::Wake(*until)),
        Progress::InFlight | Progress::Done => {}
    }
}

fn step(
    spec: &PodSpec,
    container: &Container,
    init: bool,
    view: &ContainerView,
    observed: &Observed,
    now: Instant,
    effects: &mut Vec<Effect>,
) {
    if view.stopping {
        return;
    }
    let name = container.name.clone();
    if view.running() {
        if let Some(kill) = &view.kill {
            let deadline = now + kill.grace.unwrap_or_else(|| grace(None, spec));
            effects.push(Effect::Stop {
                container: name,
                deadline,
                message: kill.message.clone(),
            });
        }
        return;
    }
    if let Some(exit_code) = view.exit_code() {
        if !restarts(spec, container, init, exit_code) {
            return;
        }
        if let Some(at) = view.restart_at().filter(|&at| at > now) {
            effects.push(Effect::Wake(at));
            return;
        }
    }
    if observed.setup != Progress::Done {
        return;
    }
    match &view.pull {
        Pull::InFlight => {}
        Pull::Idle => effects.push(Effect::Pull { container: name }),
        Pull::Failed { until, .. } if *until <= now => {
            effects.push(Effect::Pull { container: name })
        }
        Pull::Failed { at, until, .. } => {
            // The reason shown changes from the error to the back-off in between.
            let shown = *at + super::status::ERROR_SHOWN;
            effects.push(Effect::Wake(if shown > now {
                shown.min(*until)
            } else {
                *until
            }));
        }
        Pull::Done(image) => {
            let start = Effect::Start {
                container: name,
                image: image.clone(),
                instance: view.next_instance(),
            };
            attempt(&view.start, now, start, effects);
        }
    }
}

fn decide_deletion(observed: &Observed, deletion: &Deletion, now: Instant) -> Vec<Effect> {
    let mut effects = Vec::new();
    let busy = observed
        .containers
        .values()
        .any(|view| view.stopping || view.start == Progress::InFlight);
    let running: Vec<_> = observed
        .containers
        .iter()
        .filter(|(_, view)| view.running() && !view.stopping)
        .collect();
    if !running.is_empty() {
        match observed.drain {
            Progress::Idle if now < deletion.drained_by() => {
                return vec![Effect::Drain(deletion.drained_by())];
            }
            // A second deletion may have shortened the time.
            Progress::InFlight if now < deletion.drained_by() => {
                return vec![Effect::Wake(deletion.drained_by())];
            }
            _ => {}
        }
        return running
            .into_iter()
            .map(|(name, _)| Effect::Stop {
                container: name.clone(),
                deadline: deletion.deadline(),
                message: format!("Stopping container {name}"),
            })
            .collect();
    }
    if busy || observed.setup == Progress::InFlight {
        return effects;
    }
    if observed.removal != Progress::Done {
        attempt(&observed.removal, now, Effect::Remove, &mut effects);
    } else if !observed.gone {
        attempt(&observed.farewell, now, Effect::Delete, &mut effects);
    }
    effects
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(value: serde_json::Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    fn image() -> Image {
        Image {
            digest: "sha256:0".into(),
            reference: "a:latest".into(),
        }
    }

    fn status(name: &str, restart_count: u32, exit: Option<(i32, i64)>) -> ContainerStatus {
        let state = match exit {
            None => ContainerState::Running { started_at_ms: 0 },
            Some((exit_code, ran_ms)) => ContainerState::Exited {
                exit_code,
                oom_killed: false,
                started_at_ms: 0,
                finished_at_ms: ran_ms,
            },
        };
        ContainerStatus {
            name: name.into(),
            id: format!("{name}-{restart_count}"),
            restart_count,
            image: image(),
            state,
        }
    }

    fn pull(name: &str) -> Effect {
        Effect::Pull {
            container: name.into(),
        }
    }

    fn start(name: &str, instance: u32) -> Effect {
        Effect::Start {
            container: name.into(),
            image: image(),
            instance,
        }
    }

    #[test]
    fn a_pod_over_its_deadline_is_stopped_and_starts_nothing() {
        let spec = spec(
            json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "a"}, {"name": "b"}]}),
        );
        let now = Instant::now();
        let mut observed = Observed {
            setup: Progress::Done,
            expired: true,
            ..Observed::default()
        };
        observed.container("a").status = Some(status("a", 0, None));
        observed.container("b").status = Some(status("b", 0, Some((1, 5))));
        let effects = decide(&spec, &observed, now);
        let deadline = now + Duration::from_secs(5);
        assert!(
            matches!(effects.as_slice(), [Effect::Stop { container, deadline: found, .. }] if container == "a" && *found == deadline),
            "{effects:?}"
        );
        observed.container("a").stopping = true;
        assert_eq!(decide(&spec, &observed, now), []);
        observed.expired = false;
        assert!(!decide(&spec, &observed, now).is_empty());
    }

    #[test]
    fn a_new_pod_goes_from_set_up_to_running() {
        let now = Instant::now();
        let spec =
            spec(json!({"containers":[{"name":"a"},{"name":"b"}],"initContainers":[{"name":"i"}]}));
        let mut observed = Observed::default();
        assert_eq!(decide(&spec, &observed, now), [Effect::SetUp]);
        observed.setup = Progress::InFlight;
        assert_eq!(decide(&spec, &observed, now), []);
        observed.setup = Progress::Done;
        assert_eq!(decide(&spec, &observed, now), [pull("i")]);
        observed.container("i").pull = Pull::Done(image());
        assert_eq!(decide(&spec, &observed, now), [start("i", 0)]);
        observed.container("i").observe(&status("i", 0, None), now);
        assert_eq!(decide(&spec, &observed, now), []);
        observed
            .container("i")
            .observe(&status("i", 0, Some((0, 1))), now);
        assert_eq!(decide(&spec, &observed, now), [pull("a"), pull("b")]);
        observed.container("a").pull = Pull::Failed {
            at: now,
            until: now + Duration::from_secs(10),
            reason: "x".into(),
            message: "y".into(),
        };
        observed.container("b").observe(&status("b", 0, None), now);
        assert_eq!(
            decide(&spec, &observed, now),
            [Effect::Wake(now + super::super::status::ERROR_SHOWN)]
        );
        assert_eq!(
            decide(&spec, &observed, now + Duration::from_secs(10)),
            [pull("a")]
        );
    }

    #[test]
    fn crashes_back_off() {
        let mut now = Instant::now();
        let spec = spec(json!({"containers":[{"name":"a"}]}));
        let mut observed = Observed {
            setup: Progress::Done,
            ..Observed::default()
        };
        let mut waits = Vec::new();
        for instance in 0..4 {
            observed
                .container("a")
                .observe(&status("a", instance, None), now);
            assert!(
                observed
                    .container("a")
                    .observe(&status("a", instance, Some((1, 5))), now)
            );
            let wait = observed.container("a").crash_backoff.delay();
            if !wait.is_zero() {
                assert_eq!(decide(&spec, &observed, now), [Effect::Wake(now + wait)]);
            }
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(decide(&spec, &observed, now), [pull("a")]);
            observed.container("a").pull = Pull::Done(image());
            assert_eq!(decide(&spec, &observed, now), [start("a", instance + 1)]);
            observed.container("a").crash_backoff.next();
        }
        assert_eq!(waits, [0, 10, 20, 40]);
        observed.container("a").observe(&status("a", 4, None), now);
        observed
            .container("a")
            .observe(&status("a", 4, Some((1, 600_000))), now);
        assert_eq!(decide(&spec, &observed, now), [pull("a")]);
    }

    #[test]
    fn restart_policies() {
        for (policy, exit_code, again) in [
            ("Always", 0, true),
            ("Always", 1, true),
            ("OnFailure", 0, false),
            ("OnFailure", 1, true),
            ("Never", 0, false),
            ("Never", 1, false),
        ] {
            let now = Instant::now();
            let spec = spec(json!({"restartPolicy":policy,"containers":[{"name":"a"}]}));
            let mut observed = Observed {
                setup: Progress::Done,
                ..Observed::default()
            };
            observed
                .container("a")
                .observe(&status("a", 0, Some((exit_code, 1))), now);
            assert_eq!(
                decide(&spec, &observed, now) == [pull("a")],
                again,
                "{policy} {exit_code}"
            );
        }
    }

    #[test]
    fn a_failed_probe_kills_once() {
        let now = Instant::now();
        let spec = spec(json!({"terminationGracePeriodSeconds":7,"containers":[{"name":"a"}]}));
        let mut observed = Observed {
            setup: Progress::Done,
            ..Observed::default()
        };
        observed.container("a").observe(&status("a", 0, None), now);
        observed.container("a").kill = Some(Kill {
            message: "m".into(),
            grace: None,
        });
        let stop = Effect::Stop {
            container: "a".into(),
            deadline: now + Duration::from_secs(7),
            message: "m".into(),
        };
        assert_eq!(decide(&spec, &observed, now), [stop]);
        observed.container("a").stopping = true;
        assert_eq!(decide(&spec, &observed, now), []);
    }

    #[test]
    fn deletion_drains_stops_removes_and_says_farewell() {
        let now = Instant::now();
        let spec = spec(json!({"containers":[{"name":"a"}]}));
        let deletion = Deletion {
            since: now,
            grace: Duration::from_secs(30),
        };
        let mut observed = Observed {
            setup: Progress::Done,
            deletion: Some(deletion),
            ..Observed::default()
        };
        observed.container("a").observe(&status("a", 0, None), now);
        let by = now + Duration::from_secs(20);
        assert_eq!(decide(&spec, &observed, now), [Effect::Drain(by)]);
        observed.drain = Progress::InFlight;
        assert_eq!(decide(&spec, &observed, now), [Effect::Wake(by)]);
        assert!(matches!(
            &decide(&spec, &observed, by)[..],
            [Effect::Stop { .. }]
        ));
        observed.drain = Progress::Done;
        let stops = decide(&spec, &observed, now);
        assert!(
            matches!(&stops[..], [Effect::Stop { deadline, .. }] if *deadline == now + Duration::from_secs(30))
        );
        observed.container("a").stopping = true;
        assert_eq!(decide(&spec, &observed, now), []);
        observed.container("a").stopping = false;
        observed
            .container("a")
            .observe(&status("a", 0, Some((143, 5))), now);
        assert_eq!(decide(&spec, &observed, now), [Effect::Remove]);
        observed.removal = Progress::Done;
        assert_eq!(decide(&spec, &observed, now), [Effect::Delete]);
        observed.gone = true;
        assert_eq!(decide(&spec, &observed, now), []);
        assert!(observed.finished());
        let forced = Deletion {
            since: now,
            grace: Duration::ZERO,
        };
        let mut observed = Observed {
            setup: Progress::Done,
            deletion: Some(forced),
            ..Observed::default()
        };
        observed.container("a").observe(&status("a", 0, None), now);
        assert!(
            matches!(&decide(&spec, &observed, now)[..], [Effect::Stop { .. }]),
            "there is no time to drain"
        );
    }

    #[test]
    fn old_news_changes_nothing() {
        let now = Instant::now();
        let mut view = ContainerView::default();
        view.observe(&status("a", 1, None), now);
        assert!(!view.observe(&status("a", 0, Some((1, 1))), now));
        assert!(view.running());
        assert!(view.observe(&status("a", 1, Some((1, 1))), now));
        assert!(!view.observe(&status("a", 1, None), now));
        assert_eq!(view.exit_code(), Some(1));
    }

    #[test]
    fn adopted_containers_need_no_set_up() {
        let now = Instant::now();
        let spec = spec(json!({"containers":[{"name":"a"},{"name":"b"}]}));
        let until = now + Duration::from_secs(5);
        let setup = Progress::Failed {
            until,
            reason: "FailedMount".into(),
            message: "no API".into(),
        };
        let mut observed = Observed {
            setup,
            ..Observed::default()
        };
        observed.container("a").observe(&status("a", 3, None), now);
        assert_eq!(decide(&spec, &observed, now), [Effect::Wake(until)]);
    }
}

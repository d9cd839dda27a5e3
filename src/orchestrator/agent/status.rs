//! A pod's status as the API shows it: a pure function of what is known of the pod.
//!
//! Source: `pkg/kubelet/kubelet_pods.go` (`getPhase`), `pkg/kubelet/status/generate.go`.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus as ApiContainerStatus, HostIP, Pod, PodCondition, PodIP,
    PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::time::Instant;

use super::decide::{ContainerView, Observed, Progress, Pull, initialized, is_sidecar, restarts};
use super::runtime::{ContainerState, ContainerStatus};
use crate::orchestrator::ANSWERS;

/// For so long after a failed pull its own reason is shown, then that of the back-off.
pub(crate) const ERROR_SHOWN: Duration = Duration::from_secs(3);
/// Conditions that this agent decides; all others are kept as they are.
const OWN_CONDITIONS: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    ANSWERS,
];

/// The moment for which a status is made.
#[derive(Debug, Clone)]
pub(crate) struct Moment {
    /// On the monotonic clock, for back-offs.
    pub(crate) now: Instant,
    /// On the wall clock, for the API.
    pub(crate) wall: jiff::Timestamp,
    /// The node's address.
    pub(crate) host_address: Ipv4Addr,
}

/// The status of a pod. `previous` is the last one this agent made, or the API's: transition times continue from it.
pub(crate) fn status(
    pod: &Pod,
    observed: &Observed,
    previous: &PodStatus,
    moment: &Moment,
) -> PodStatus {
    let fallback = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&fallback);
    let is_initialized = initialized(spec, observed);
    let container_status =
        |container: &Container, init: bool, known: Option<&Vec<ApiContainerStatus>>| {
            let known = known
                .into_iter()
                .flatten()
                .find(|known| known.name == container.name);
            one(
                pod,
                spec,
                container,
                init,
                observed,
                known,
                is_initialized,
                moment,
            )
        };
    let containers: Vec<_> = spec
        .containers
        .iter()
        .map(|container| container_status(container, false, previous.container_statuses.as_ref()))
        .collect();
    let init_containers: Vec<_> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| {
            container_status(container, true, previous.init_container_statuses.as_ref())
        })
        .collect();
    let phase = if observed.expired {
        "Failed"
    } else {
        phase(spec, &containers, &init_containers, is_initialized)
    };
    let address = observed
        .address
        .map(|address| address.to_string())
        .or_else(|| previous.pod_ip.clone());
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason: observed.expired.then(|| "DeadlineExceeded".to_owned()),
        message: observed
            .expired
            .then(|| "Pod was active on the node longer than the specified deadline".to_owned()),
        host_ip: Some(moment.host_address.to_string()),
        host_ips: Some(vec![HostIP {
            ip: moment.host_address.to_string(),
        }]),
        pod_ips: address.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: address,
        start_time: previous
            .start_time
            .clone()
            .or_else(|| Some(time(moment.wall))),
        qos_class: previous.qos_class.clone(),
        container_statuses: Some(containers),
        init_container_statuses: if init_containers.is_empty() {
            None
        } else {
            Some(init_containers)
        },
        ..PodStatus::default()
    };
    status.conditions = Some(conditions(
        pod,
        observed,
        previous,
        &status,
        is_initialized,
        moment,
    ));
    status
}

/// Which of the pod's readiness gates keep it from being ready, in the kubelet's words.
fn unmet_gates(pod: &Pod, conditions: &[PodCondition]) -> Option<(&'static str, String)> {
    let spec = pod.spec.as_ref()?;
    let unmet = |gate: &str| {
        let found = conditions.iter().find(|one| one.type_ == gate);
        match found.map(|one| one.status.as_str()) {
            Some("True") => None,
            Some(status) => Some(format!(
                "the status of pod readiness gate \"{gate}\" is not \"True\", but {status}"
            )),
            None => Some(format!(
                "corresponding condition of pod readiness gate \"{gate}\" does not exist."
            )),
        }
    };
    let gates = spec.readiness_gates.iter().flatten();
    let unmet: Vec<String> = gates
        .filter_map(|gate| unmet(&gate.condition_type))
        .collect();
    (!unmet.is_empty()).then(|| ("ReadinessGatesNotReady", unmet.join(", ")))
}

fn conditions(
    pod: &Pod,
    observed: &Observed,
    previous: &PodStatus,
    status: &PodStatus,
    is_initialized: bool,
    moment: &Moment,
) -> Vec<PodCondition> {
    let mut conditions: Vec<PodCondition> = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .filter(|condition| !OWN_CONDITIONS.contains(&condition.type_.as_str()))
        .cloned()
        .collect();
    let unready: Vec<&str> = status
        .container_statuses
        .iter()
        .flatten()
        .filter(|container| !container.ready)
        .map(|container| container.name.as_str())
        .collect();
    let finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let not_ready = if !is_initialized || !unready.is_empty() {
        match status.phase.as_deref() {
            Some("Succeeded") => Some(("PodCompleted", String::new())),
            Some("Failed") => Some(("PodFailed", String::new())),
            _ => Some((
                "ContainersNotReady",
                format!("containers with unready status: [{}]", unready.join(" ")),
            )),
        }
    } else {
        None
    };
    let gates = unmet_gates(pod, &conditions);
    let not_initialized = if is_initialized {
        None
    } else {
        Some((
            "ContainersNotInitialized",
            "init containers have not all succeeded".to_owned(),
        ))
    };
    let sandbox = observed.setup == Progress::Done || (observed.address.is_some() && !finished);
    let mut add = |kind: &str, bad: Option<(&str, String)>| {
        let value = if bad.is_none() { "True" } else { "False" };
        let known = previous
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind && condition.status == value);
        let (reason, message) = bad.map_or((None, None), |(reason, message)| {
            (
                Some(reason.to_owned()),
                Some(message).filter(|message| !message.is_empty()),
            )
        });
        conditions.push(PodCondition {
            type_: kind.to_owned(),
            status: value.to_owned(),
            reason,
            message,
            last_transition_time: known
                .and_then(|condition| condition.last_transition_time.clone())
                .or_else(|| Some(time(moment.wall))),
            ..PodCondition::default()
        });
    };
    add(
        "PodReadyToStartContainers",
        if sandbox {
            None
        } else {
            Some(("", String::new()))
        },
    );
    add("Initialized", not_initialized);
    add("ContainersReady", not_ready.clone());
    add("Ready", not_ready.or(gates));
    let probed = pod
        .spec
        .iter()
        .flat_map(|spec| &spec.containers)
        .filter(|container| container.liveness_probe.is_some());
    let probed: Vec<&str> = probed.map(|container| container.name.as_str()).collect();
    if !probed.is_empty() {
        let silent = |name: &&&str| {
            observed
                .containers
                .get(**name)
                .is_some_and(|view| !view.answers)
        };
        let silent: Vec<&str> = probed.iter().filter(silent).copied().collect();
        let message = || {
            format!(
                "containers that failed their last liveness probe: [{}]",
                silent.join(" ")
            )
        };
        add(
            ANSWERS,
            (!silent.is_empty()).then(|| ("LivenessProbeFailed", message())),
        );
    }
    for condition in &mut conditions {
        condition.reason = condition.reason.take().filter(|reason| !reason.is_empty());
    }
    conditions
}

/// Kubernetes' phase: see `getPhase`.
fn phase(
    spec: &PodSpec,
    containers: &[ApiContainerStatus],
    init: &[ApiContainerStatus],
    is_initialized: bool,
) -> &'static str {
    let init_failed = spec.restart_policy.as_deref() == Some("Never")
        && init.iter().any(|status| {
            status
                .state
                .as_ref()
                .and_then(|state| state.terminated.as_ref())
                .is_some_and(|ended| ended.exit_code != 0)
        });
    if init_failed {
        return "Failed";
    }
    if !is_initialized {
        return "Pending";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in containers {
        let state = status.state.clone().unwrap_or_default();
        let last = status
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        match (&state.running, &state.terminated, last) {
            (Some(_), _, _) => running += 1,
            (None, Some(ended), _) => {
                stopped += 1;
                succeeded += usize::from(ended.exit_code == 0);
            }
            (None, None, Some(_)) => stopped += 1,
            (None, None, None) => waiting += 1,
        }
    }
    if waiting > 0 {
        "Pending"
    } else if running > 0 {
        "Running"
    } else {
        match spec.restart_policy.as_deref() {
            Some("OnFailure" | "Never") if stopped == succeeded => "Succeeded",
            Some("Never") => "Failed",
            _ => "Running",
        }
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "a pure join of everything that is known of one container"
)]
fn one(
    pod: &Pod,
    spec: &PodSpec,
    container: &Container,
    init: bool,
    observed: &Observed,
    known: Option<&ApiContainerStatus>,
    is_initialized: bool,
    moment: &Moment,
) -> ApiContainerStatus {
    let fresh = ContainerView::default();
    let view = observed.containers.get(&container.name).unwrap_or(&fresh);
    let leaving = observed.deletion.is_some();
    let running = view.running();
    let started = running && view.started;
    let ready = if init && !is_sidecar(container) {
        view.exit_code() == Some(0)
    } else {
        started && view.ready
    };
    let again = view
        .exit_code()
        .is_none_or(|code| restarts(spec, container, init, code))
        && !leaving
        && !observed.expired;
    let waiting = if running || !again {
        None
    } else {
        waiting(pod, container, view, observed, moment)
    };
    let exited = view.status.as_ref().filter(|_| !running);
    let shown = |status: &ContainerStatus| {
        let mut state = api_state(status);
        if let Some(ended) = &mut state.terminated {
            ended.message = view.messages.get(&status.restart_count).cloned();
        }
        state
    };
    let (state, last) = match (&view.status, waiting) {
        (Some(status), None) => (shown(status), view.last.as_ref().map(shown)),
        (_, Some((reason, message))) => (waiting_state(&reason, message), exited.map(shown)),
        (None, None) => {
            let reason = if init
                || is_initialized && spec.init_containers.as_ref().is_none_or(Vec::is_empty)
            {
                "ContainerCreating"
            } else {
                "PodInitializing"
            };
            (waiting_state(reason, None), None)
        }
    };
    let newest = view.status.as_ref();
    ApiContainerStatus {
        name: container.name.clone(),
        image: newest.map_or_else(
            || container.image.clone().unwrap_or_default(),
            |status| status.image.reference.clone(),
        ),
        image_id: newest.map(image_id).unwrap_or_default(),
        container_id: newest.map(|status| format!("flightcage://{}", status.id)),
        restart_count: i32::try_from(
            newest.map_or(view.first_instance, |status| status.restart_count),
        )
        .unwrap_or(i32::MAX),
        ready,
        started: Some(started),
        state: Some(state),
        // Not known after a restart of the agent, but to the API.
        last_state: last
            .or_else(|| known.and_then(|known| known.last_state.clone()))
            .filter(|state| *state != ApiState::default()),
        ..ApiContainerStatus::default()
    }
}

/// Why a container that should run does not.
fn waiting(
    pod: &Pod,
    container: &Container,
    view: &ContainerView,
    observed: &Observed,
    moment: &Moment,
) -> Option<(String, Option<String>)> {
    if let Pull::Failed {
        at,
        reason,
        message,
        ..
    } = &view.pull
    {
        if moment.now < *at + ERROR_SHOWN || reason != "ErrImagePull" {
            return Some((reason.clone(), Some(message.clone())));
        }
        let image = container.image.as_deref().unwrap_or_default();
        return Some((
            "ImagePullBackOff".into(),
            Some(format!(
                "Back-off pulling image \"{image}\": {reason}: {message}"
            )),
        ));
    }
    if let Progress::Failed {
        reason, message, ..
    } = &view.start
    {
        return Some((reason.clone(), Some(message.clone())));
    }
    let delay = view.crash_backoff.delay();
    if view.exit_code().is_some()
        && !delay.is_zero()
        && view.restart_at().is_some_and(|at| at > moment.now)
    {
        let metadata = &pod.metadata;
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            human(delay),
            container.name,
            metadata.name.as_deref().unwrap_or_default(),
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.uid.as_deref().unwrap_or_default()
        );
        return Some(("CrashLoopBackOff".into(), Some(message)));
    }
    match &observed.setup {
        Progress::Failed { message, .. } if view.status.is_none() => {
            Some(("ContainerCreating".into(), Some(message.clone())))
        }
        _ => None,
    }
}

fn human(delay: Duration) -> String {
    let seconds = delay.as_secs();
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}

fn waiting_state(reason: &str, message: Option<String>) -> ApiState {
    ApiState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message,
        }),
        ..ApiState::default()
    }
}

fn api_state(status: &ContainerStatus) -> ApiState {
    match &status.state {
        ContainerState::Running { started_at_ms } => ApiState {
            running: Some(ContainerStateRunning {
                started_at: at(*started_at_ms),
            }),
            ..ApiState::default()
        },
        ContainerState::Exited {
            exit_code,
            oom_killed,
            started_at_ms,
            finished_at_ms,
        } => ApiState {
            terminated: Some(ContainerStateTerminated {
                exit_code: *exit_code,
                reason: Some(
                    if *oom_killed {
                        "OOMKilled"
                    } else if *exit_code == 0 {
                        "Completed"
                    } else {
                        "Error"
                    }
                    .to_owned(),
                ),
                started_at: at(*started_at_ms),
                finished_at: at(*finished_at_ms),
                container_id: Some(format!("flightcage://{}", status.id)),
                ..ContainerStateTerminated::default()
            }),
            ..ApiState::default()
        },
    }
}

/// `repository@sha256:…`.
fn image_id(status: &ContainerStatus) -> String {
    let reference = &status.image.reference;
    let name = reference.split('@').next().unwrap_or_default();
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    format!("{repository}@{}", status.image.digest)
}

fn at(milliseconds: i64) -> Option<Time> {
    jiff::Timestamp::from_millisecond(milliseconds)
        .ok()
        .map(time)
}

/// A time of the API, which has whole seconds.
pub(crate) fn time(timestamp: jiff::Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(timestamp.as_second()).unwrap_or(timestamp))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::decide::Deletion;
    use super::super::runtime::Image;
    use super::*;

    fn moment(now: Instant) -> Moment {
        Moment {
            now,
            wall: jiff::Timestamp::from_second(1000).unwrap(),
            host_address: Ipv4Addr::new(10, 77, 0, 12),
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata":{"name":"p","namespace":"n","uid":"u"},"spec":spec,
            "status":{"conditions":[{"type":"PodScheduled","status":"True"},{"type":"Ready","status":"False"}]}}))
        .unwrap()
    }

    fn instance(restart_count: u32, exit: Option<i32>) -> ContainerStatus {
        let state = match exit {
            None => ContainerState::Running {
                started_at_ms: 5000,
            },
            Some(exit_code) => ContainerState::Exited {
                exit_code,
                oom_killed: false,
                started_at_ms: 5000,
                finished_at_ms: 6000,
            },
        };
        let image = Image {
            digest: "sha256:ab".into(),
            reference: "quay.io/a/b:latest".into(),
        };
        ContainerStatus {
            name: "a".into(),
            id: format!("id{restart_count}"),
            restart_count,
            image,
            state,
        }
    }

    fn condition(status: &PodStatus, kind: &str) -> PodCondition {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
            .unwrap()
            .clone()
    }

    #[test]
    fn readiness_gates_are_conditions_that_others_set() {
        let now = Instant::now();
        let spec = json!({"containers":[{"name":"a","image":"b"}],
            "readinessGates":[{"conditionType":"example.org/a"},{"conditionType":"example.org/b"}]});
        let mut gated = pod(spec);
        let mut observed = Observed {
            setup: Progress::Done,
            address: Some(Ipv4Addr::new(10, 78, 1, 2)),
            ..Observed::default()
        };
        observed.container("a").observe(&instance(0, None), now);
        observed.container("a").started = true;
        observed.container("a").ready = true;
        let mut set = |kind: &str, value: &str| {
            let conditions = &mut gated.status.get_or_insert_default().conditions;
            conditions.get_or_insert_default().push(PodCondition {
                type_: kind.to_owned(),
                status: value.to_owned(),
                ..PodCondition::default()
            });
            let status = status(&gated, &observed, &PodStatus::default(), &moment(now));
            assert_eq!(condition(&status, "ContainersReady").status, "True");
            let ready = condition(&status, "Ready");
            (ready.status, ready.reason, ready.message)
        };
        let (ready, reason, message) = set("example.org/a", "False");
        assert_eq!(
            (ready.as_str(), reason.as_deref()),
            ("False", Some("ReadinessGatesNotReady"))
        );
        assert_eq!(
            message.as_deref(),
            Some(
                "the status of pod readiness gate \"example.org/a\" is not \"True\", but False, \
                 corresponding condition of pod readiness gate \"example.org/b\" does not exist."
            )
        );
        let mut gates = pod(
            json!({"containers":[{"name":"a","image":"b"}], "readinessGates":[{"conditionType":"example.org/a"}]}),
        );
        gates.status = serde_json::from_value(
            json!({"conditions":[{"type":"example.org/a","status":"True"}]}),
        )
        .unwrap();
        let open = status(&gates, &observed, &PodStatus::default(), &moment(now));
        assert_eq!(condition(&open, "Ready").status, "True");
    }

    #[test]
    fn running_and_ready() {
        let now = Instant::now();
        let pod = pod(json!({"containers":[{"name":"a","image":"b"}]}));
        let mut observed = Observed {
            setup: Progress::Done,
            address: Some(Ipv4Addr::new(10, 78, 1, 2)),
            ..Observed::default()
        };
        let before = status(&pod, &observed, &PodStatus::default(), &moment(now));
        assert_eq!(before.phase.as_deref(), Some("Pending"));
        assert_eq!(
            condition(&before, "Ready").message.as_deref(),
            Some("containers with unready status: [a]")
        );
        observed.container("a").observe(&instance(2, None), now);
        observed.container("a").started = true;
        observed.container("a").ready = true;
        let mut later = moment(now);
        later.wall = jiff::Timestamp::from_second(2000).unwrap();
        let after = status(&pod, &observed, &before, &later);
        assert_eq!(after.phase.as_deref(), Some("Running"));
        assert_eq!(after.pod_ip.as_deref(), Some("10.78.1.2"));
        let container = &after.container_statuses.as_ref().unwrap()[0];
        assert_eq!(container.image_id, "quay.io/a/b@sha256:ab");
        assert_eq!(
            (container.restart_count, container.ready, container.started),
            (2, true, Some(true))
        );
        assert_eq!(
            condition(&after, "Ready").last_transition_time,
            Some(time(later.wall))
        );
        assert_eq!(
            condition(&after, "Initialized").last_transition_time,
            Some(time(moment(now).wall))
        );
        assert_eq!(condition(&after, "PodScheduled").status, "True");
    }

    #[test]
    fn waiting_reasons() {
        let now = Instant::now();
        let pod = pod(json!({"containers":[{"name":"a","image":"nope"}]}));
        let mut observed = Observed {
            setup: Progress::Done,
            ..Observed::default()
        };
        let until = now + Duration::from_secs(10);
        observed.container("a").pull = Pull::Failed {
            at: now,
            until,
            reason: "ErrImagePull".into(),
            message: "why".into(),
        };
        let reason = |observed: &Observed, now: Instant| {
            let status = status(&pod, observed, &PodStatus::default(), &moment(now));
            let container = status.container_statuses.unwrap().remove(0);
            let waiting = container.state.unwrap().waiting.unwrap();
            (
                waiting.reason.unwrap(),
                waiting.message.unwrap(),
                container.last_state.is_some(),
                status.phase.unwrap(),
            )
        };
        assert_eq!(
            reason(&observed, now),
            ("ErrImagePull".into(), "why".into(), false, "Pending".into())
        );
        let (kind, message, ..) = reason(&observed, now + ERROR_SHOWN);
        assert_eq!(kind, "ImagePullBackOff");
        assert!(
            message.contains("\"nope\"") && message.contains("why"),
            "{message}"
        );

        let mut observed = Observed {
            setup: Progress::Done,
            ..Observed::default()
        };
        observed.container("a").observe(&instance(0, Some(1)), now);
        observed.container("a").crash_backoff.next();
        let (kind, message, last, phase) = reason(&observed, now);
        assert_eq!(
            (kind.as_str(), last, phase.as_str()),
            ("CrashLoopBackOff", true, "Running")
        );
        assert_eq!(
            message,
            "back-off 10s restarting failed container=a pod=p_n(u)"
        );
    }

    #[test]
    fn final_phases() {
        let now = Instant::now();
        for (policy, exit, phase) in [
            ("Never", 0, "Succeeded"),
            ("Never", 3, "Failed"),
            ("OnFailure", 0, "Succeeded"),
            ("OnFailure", 1, "Running"),
            ("Always", 0, "Running"),
        ] {
            let pod = pod(json!({"restartPolicy":policy,"containers":[{"name":"a"}]}));
            let mut observed = Observed {
                setup: Progress::Done,
                ..Observed::default()
            };
            observed
                .container("a")
                .observe(&instance(0, Some(exit)), now);
            let got = status(&pod, &observed, &PodStatus::default(), &moment(now));
            assert_eq!(got.phase.as_deref(), Some(phase), "{policy} {exit}");
        }
        let pod = pod(json!({"containers":[{"name":"a"}]}));
        let deletion = Some(Deletion {
            since: now,
            grace: Duration::from_secs(30),
        });
        let mut observed = Observed {
            setup: Progress::Done,
            deletion,
            ..Observed::default()
        };
        observed
            .container("a")
            .observe(&instance(0, Some(143)), now);
        let got = status(&pod, &observed, &PodStatus::default(), &moment(now));
        let container = &got.container_statuses.unwrap()[0];
        assert_eq!(
            container
                .state
                .as_ref()
                .unwrap()
                .terminated
                .as_ref()
                .unwrap()
                .exit_code,
            143
        );
        assert!(!container.ready);
    }
}

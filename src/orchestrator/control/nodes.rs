//! Node lifecycle: what a node's silence means.
//!
//! ```text
//!  Alive ───► Ready is the agent's own
//!  Suspect ─► balancers (by their streams) and the scheduler avoid it; nothing is written     (undone by the next beat)
//!  Silent ──► Ready=Unknown; its addresses are not ready                                      (undone by the next beat)
//!  Lost ────► taint unreachable:NoExecute; its controlled pods are removed at once, by UID
//! ```
//! What is silent and what is lost is [`detector`](super::detector)'s to say. The agent that returns removes every pod whose UID is no
//! longer in the API. The zone brake ([`Brake`]) stops evictions when too many workers are silent at once: then it is rather the server
//! that is cut off, or the host that stands still.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use serde_json::{Value, json};

use super::scheduler::tolerates;
use super::world::{
    Action, Decision, Liveness, Target, World, controller_of, event, is_active, node_of,
};

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const COMPONENT: &str = "node-controller";
/// Why Ready is unknown; only what we made unknown is restored by us.
const SILENT: &str = "NodeStatusUnknown";
/// Ends in the agent's last own status, which is restored when it beats again.
const SILENT_MESSAGE: &str = "The agent stopped beating; it last said Ready=";
/// Labels of nodes that are no workers.
pub(super) const CONTROL_PLANE_LABELS: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/controller",
];

/// When evictions stop: when more than `percent` of all workers are silent. One of several workers may always be replaced.
///
/// The default, 50, is what keeps replicas single when the network parts: the larger part of the workers is never replaced, and serves on
/// when it has lost the server (`agent::lease`), the smaller one fences itself. Kubernetes (`ComputeZoneState` of
/// `pkg/controller/nodelifecycle`, 55 % and never less than three nodes) would replace two of three. Set by `eviction_brake_percent` in the
/// cluster file; above 50 both sides of a partition may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brake {
    /// So many per cent of the workers.
    pub percent: u8,
}

impl Brake {
    pub(super) fn holds(self, silent: usize, workers: usize) -> bool {
        silent == workers || silent > 1 && silent * 100 > workers * usize::from(self.percent)
    }
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            percent: crate::orchestrator::config::eviction_brake_percent(),
        }
    }
}

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    let braked = is_braked(world);
    for node in world.nodes.values() {
        let target = Target::of("Node", &node.metadata);
        let liveness = world.liveness_of(&target.name);
        condition(world, node, &target, liveness, &mut decision);
        let tainted = taints(node).iter().any(is_unreachable);
        match liveness {
            Liveness::Alive if tainted => taint(world, node, &target, false, &mut decision),
            Liveness::Lost if !braked => {
                if !tainted {
                    taint(world, node, &target, true, &mut decision);
                }
                evict(world, &target, &mut decision);
            }
            _ => {}
        }
        if liveness == Liveness::Alive {
            obey_taints(world, node, &target, &mut decision);
        }
    }
    decision
}

/// Pods leave a living node whose `NoExecute` taints they do not tolerate, or no longer. As everywhere in Kubernetes the time counts from
/// `timeAdded`, which is set here when the one who tainted the node did not.
fn obey_taints(world: &World, node: &Node, target: &Target, decision: &mut Decision) {
    let harsh: Vec<&Taint> = taints(node)
        .iter()
        .filter(|taint| taint.effect == "NoExecute" && !is_unreachable(taint))
        .collect();
    if harsh.is_empty() {
        return;
    }
    if harsh.iter().any(|taint| taint.time_added.is_none()) {
        let now = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let dated = taints(node).iter().map(|taint| {
            let mut value = json!(taint);
            if taint.effect == "NoExecute" && taint.time_added.is_none() {
                value["timeAdded"] = json!(now);
            }
            value
        });
        let patch = json!({"spec": {"taints": dated.collect::<Vec<_>>()}});
        decision.actions.push(Action::Patch {
            target: target.clone(),
            status: false,
            patch,
        });
        return;
    }
    let here = |pod: &&Pod| node_of(pod) == Some(target.name.as_str()) && is_active(pod);
    for pod in world.pods.values().map(|pod| &**pod).filter(here) {
        match harsh.iter().filter_map(|taint| leaves_at(pod, taint)).min() {
            Some(at) if at <= world.now => {
                let target = Target::of("Pod", &pod.metadata);
                let message = format!("Pod {} does not tolerate a taint of its node", target.name);
                decision.actions.push(event(
                    world.now,
                    &target,
                    COMPONENT,
                    "TaintManagerEviction",
                    &message,
                ));
                decision.actions.push(Action::Delete {
                    target,
                    force: false,
                });
            }
            Some(at) => decision.recheck_at(at),
            None => {}
        }
    }
}

/// When a pod has to leave on account of a taint; `None`: never.
fn leaves_at(pod: &Pod, taint: &Taint) -> Option<Timestamp> {
    let added = taint
        .time_added
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let matching: Vec<_> = tolerations
        .iter()
        .filter(|toleration| tolerates(toleration, taint))
        .collect();
    if matching.is_empty() {
        return Some(added);
    }
    // The shortest limit counts; a toleration without one limits nothing.
    let least = matching
        .iter()
        .filter_map(|toleration| toleration.toleration_seconds)
        .min()?;
    added
        .checked_add(SignedDuration::from_secs(least.max(0)))
        .ok()
}

/// Too many workers are silent.
fn is_braked(world: &World) -> bool {
    let is_worker = |node: &&Node| {
        let labels = node.metadata.labels.as_ref();
        !CONTROL_PLANE_LABELS
            .iter()
            .any(|label| labels.is_some_and(|labels| labels.contains_key(*label)))
            && !taints(node).iter().any(|taint| {
                taint.effect == "NoSchedule" && taint.key.starts_with("node-role.kubernetes.io/")
            })
    };
    let workers: Vec<&Node> = world
        .nodes
        .values()
        .map(|node| &**node)
        .filter(is_worker)
        .collect();
    let silent = |node: &&&Node| {
        world.liveness_of(node.metadata.name.as_deref().unwrap_or_default()) != Liveness::Alive
    };
    world
        .brake
        .holds(workers.iter().filter(silent).count(), workers.len())
}

fn condition(
    world: &World,
    node: &Node,
    target: &Target,
    liveness: Liveness,
    decision: &mut Decision,
) {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready: Option<&NodeCondition> = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    // A node whose agent has never said anything is not ready anyway.
    let Some(ready) = ready else { return };
    let ours = ready.status == "Unknown" && ready.reason.as_deref() == Some(SILENT);
    let (status, reason, message, told) = match liveness {
        Liveness::Alive if ours => {
            let before = ready
                .message
                .as_deref()
                .and_then(|message| message.strip_prefix(SILENT_MESSAGE));
            if before != Some("True") {
                // It was not ready before; the agent says when it is.
                return;
            }
            (
                "True",
                "KubeletReady",
                "The agent beats again".to_owned(),
                "NodeReady",
            )
        }
        Liveness::Silent | Liveness::Lost if ready.status != "Unknown" => (
            "Unknown",
            SILENT,
            format!("{SILENT_MESSAGE}{}", ready.status),
            "NodeNotReady",
        ),
        _ => return,
    };
    let now = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
    let patch = json!({"status": {"conditions": [condition]}});
    decision.actions.push(Action::Patch {
        target: target.clone(),
        status: true,
        patch,
    });
    let text = format!("Node {} status is now: {told}", target.name);
    decision
        .actions
        .push(event(world.now, target, COMPONENT, told, &text));
}

fn taint(world: &World, node: &Node, target: &Target, set: bool, decision: &mut Decision) {
    let mut wanted: Vec<Value> = taints(node)
        .iter()
        .filter(|taint| !is_unreachable(taint))
        .map(|taint| json!(taint))
        .collect();
    if set {
        let now = world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        wanted.push(json!({"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": now}));
    }
    let patch = json!({"spec": {"taints": wanted}});
    decision.actions.push(Action::Patch {
        target: target.clone(),
        status: false,
        patch,
    });
}

fn evict(world: &World, node: &Target, decision: &mut Decision) {
    let here = |pod: &&Pod| {
        node_of(pod) == Some(node.name.as_str()) && controller_of(&pod.metadata).is_some()
    };
    for pod in world
        .pods
        .values()
        .map(|pod| &**pod)
        .filter(here)
        .filter(|pod| !stays(pod))
    {
        let target = Target::of("Pod", &pod.metadata);
        let message = format!(
            "Node {} is unreachable: pod {} is replaced",
            node.name, target.name
        );
        decision.actions.push(event(
            world.now,
            &target,
            COMPONENT,
            "TaintManagerEviction",
            &message,
        ));
        decision.actions.push(Action::Delete {
            target,
            force: true,
        });
    }
}

/// A pod that tolerates the taint without a limit stays; Kubernetes' default limit of 300 s is what this is faster than.
fn stays(pod: &Pod) -> bool {
    let taint = Taint {
        key: UNREACHABLE.to_owned(),
        effect: "NoExecute".to_owned(),
        ..Taint::default()
    };
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    tolerations
        .iter()
        .any(|toleration| toleration.toleration_seconds.is_none() && tolerates(toleration, &taint))
}

pub(super) fn taints(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

fn is_unreachable(taint: &Taint) -> bool {
    taint.key == UNREACHABLE && taint.effect == "NoExecute"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brake() {
        let brake = Brake::default();
        for (silent, workers, held) in [
            (1, 1, true),
            (1, 2, false),
            (2, 2, true),
            (1, 3, false),
            (2, 3, true),
            (2, 4, false),
            (3, 5, true),
            (50, 100, false),
        ] {
            assert_eq!(brake.holds(silent, workers), held, "{silent} of {workers}");
        }
        assert!(Brake { percent: 20 }.holds(3, 10) && !Brake { percent: 100 }.holds(9, 10));
    }
}

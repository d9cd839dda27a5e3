//! The scheduler: which node an unbound pod gets.
//!
//! A node fits if it is ready and beats, matches the node selector and required affinity, its taints are tolerated, the pods on it and in
//! its domain have nothing against the pod, nor the pod against them, and requests, host ports and the pod itself fit.
//!
//! Of those the one with the highest score is taken. As in Kubernetes, each wish is brought to 0 to 100 over the nodes that fit, and weighs:
//! taints to be avoided (`PreferNoSchedule`) 3, preferred affinity to nodes 2 and to pods 2, wished spreading 2, other pods of the same
//! controller 2 (replicas are physically separate even when nobody asks for it), how much is requested 1.

mod affinity;

pub(super) use affinity::node_matches;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use serde_json::json;

use super::quantity::thousandths;
use super::world::{
    Action, Decision, Liveness, Target, World, controller_of, event, is_finished, node_of,
};

/// Pods that a node takes if it does not say, as the kubelet's default.
const PODS_MAX: i128 = 110;
/// Who tolerates this taint is scheduled to cordoned nodes too, as daemons are.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// What a node has and what is taken of it.
struct Room<'a> {
    node: &'a Node,
    name: String,
    /// CPU, memory, pods, in thousandths.
    allocatable: [i128; 3],
    requested: [i128; 3],
    by_controller: BTreeMap<String, usize>,
    host_ports: Vec<(i32, String)>,
    /// The pods that are bound to it.
    pods: Vec<&'a Pod>,
}

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    let mut unbound: Vec<&Pod> = world
        .pods
        .values()
        .map(|pod| &**pod)
        .filter(|pod| {
            node_of(pod).is_none() && pod.metadata.deletion_timestamp.is_none() && !is_finished(pod)
        })
        .collect();
    if unbound.is_empty() {
        return decision;
    }
    unbound.sort_by_key(|pod| {
        (
            pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            pod.metadata.name.clone(),
        )
    });
    let mut rooms = rooms(world);
    for pod in unbound {
        let target = Target::of("Pod", &pod.metadata);
        let mut refusals: BTreeMap<String, usize> = BTreeMap::new();
        let mut fitting = Vec::new();
        for (index, room) in rooms.iter().enumerate() {
            match refusal(world, &rooms, room, pod) {
                Some(reason) => *refusals.entry(reason).or_default() += 1,
                None => fitting.push(index),
            }
        }
        if let Some(index) = best(world, &rooms, &fitting, pod) {
            rooms[index].take(pod);
            let node = rooms[index].name.clone();
            let message = format!(
                "Successfully assigned {}/{} to {node}",
                target.namespace, target.name
            );
            decision.actions.push(Action::Bind {
                target: target.clone(),
                node,
            });
            decision.actions.push(event(
                world.now,
                &target,
                "default-scheduler",
                "Scheduled",
                &message,
            ));
        } else {
            unschedulable(world, pod, &target, &refusals, rooms.len(), &mut decision);
        }
    }
    decision
}

fn unschedulable(
    world: &World,
    pod: &Pod,
    target: &Target,
    refusals: &BTreeMap<String, usize>,
    nodes: usize,
    decision: &mut Decision,
) {
    let reasons: Vec<String> = refusals
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let message = if nodes == 0 {
        "no nodes available to schedule pods".to_owned()
    } else {
        format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
    };
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let told = conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.message.as_deref() == Some(&message)
    });
    if told {
        return;
    }
    let condition = json!({
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": message,
        "lastTransitionTime": world.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    let patch = json!({"status": {"conditions": [condition]}});
    decision.actions.push(Action::Patch {
        target: target.clone(),
        status: true,
        patch,
    });
    decision.actions.push(event(
        world.now,
        target,
        "default-scheduler",
        "FailedScheduling",
        &message,
    ));
}

fn rooms(world: &World) -> Vec<Room<'_>> {
    let mut rooms: Vec<Room<'_>> = world
        .nodes
        .values()
        .map(|node| {
            let status = node.status.as_ref();
            let of = |resource: &str| {
                let quantities = status
                    .and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
                quantities
                    .and_then(|quantities| quantities.get(resource))
                    .and_then(thousandths)
            };
            Room {
                node,
                name: node.metadata.name.clone().unwrap_or_default(),
                allocatable: [
                    of("cpu").unwrap_or(0),
                    of("memory").unwrap_or(0),
                    of("pods").unwrap_or(PODS_MAX * 1000),
                ],
                requested: [0; 3],
                by_controller: BTreeMap::new(),
                host_ports: Vec::new(),
                pods: Vec::new(),
            }
        })
        .collect();
    for pod in world.pods.values().filter(|pod| !is_finished(pod)) {
        if let Some(room) =
            node_of(pod).and_then(|node| rooms.iter_mut().find(|room| room.name == node))
        {
            room.take(pod);
        }
    }
    rooms
}

impl<'a> Room<'a> {
    fn take(&mut self, pod: &'a Pod) {
        for (sum, more) in self.requested.iter_mut().zip(requests(pod)) {
            *sum += more;
        }
        // A pod on its way out makes room for its successor elsewhere and should not push it away.
        if let Some(owner) =
            controller_of(&pod.metadata).filter(|_| pod.metadata.deletion_timestamp.is_none())
        {
            *self.by_controller.entry(owner.uid.clone()).or_default() += 1;
        }
        self.host_ports.extend(host_ports(pod));
        self.pods.push(pod);
    }
}

/// What is wished for, of one node; more is worse. Weights as in the module's head.
const WEIGHTS: [i64; 5] = [3, 2, 2, 2, 2];

fn costs(world: &World, rooms: &[Room<'_>], room: &Room<'_>, pod: &Pod) -> [i64; 5] {
    let spec = pod.spec.as_ref();
    let tolerations = spec
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    let taints = room
        .node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let avoided = taints.iter().filter(|taint| {
        taint.effect == "PreferNoSchedule"
            && !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
    });
    let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    [
        count(avoided.count()),
        -spec.map_or(0, |spec| affinity::node_preference(spec, room.node)),
        -affinity::pod_preference(world, rooms, room, pod),
        affinity::spread_excess(rooms, room, pod),
        controller_of(&pod.metadata).map_or(0, |owner| {
            count(room.by_controller.get(&owner.uid).copied().unwrap_or(0))
        }),
    ]
}

/// The best of the nodes that fit; the first of equals.
fn best(world: &World, rooms: &[Room<'_>], fitting: &[usize], pod: &Pod) -> Option<usize> {
    let costs: Vec<[i64; 5]> = fitting
        .iter()
        .map(|&index| costs(world, rooms, &rooms[index], pod))
        .collect();
    let score = |number: usize| {
        let wishes: i64 = (0..WEIGHTS.len())
            .map(|wish| {
                let all = costs.iter().map(|costs| costs[wish]);
                let (least, most) = (all.clone().min().unwrap_or(0), all.max().unwrap_or(0));
                if least == most {
                    0
                } else {
                    WEIGHTS[wish] * (most - costs[number][wish]) * 100 / (most - least)
                }
            })
            .sum();
        let room = &rooms[fitting[number]];
        let requests = requests(pod);
        let free = |index: usize| {
            let after = room.requested[index] + requests[index];
            100 - i64::try_from(after * 100 / room.allocatable[index].max(1))
                .unwrap_or(100)
                .min(100)
        };
        // Then the fewest pods, then the first name.
        (
            wishes + free(0).min(free(1)),
            std::cmp::Reverse((room.requested[2], number)),
        )
    };
    (0..fitting.len())
        .max_by_key(|&number| score(number))
        .map(|number| fitting[number])
}

/// Why the node does not take the pod, in the scheduler's own words.
fn refusal(world: &World, rooms: &[Room<'_>], room: &Room<'_>, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let node_spec = room.node.spec.as_ref();
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let unschedulable = Taint {
        key: UNSCHEDULABLE.to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    if node_spec.and_then(|spec| spec.unschedulable) == Some(true)
        && !tolerations
            .iter()
            .any(|toleration| tolerates(toleration, &unschedulable))
    {
        return Some("node(s) were unschedulable".to_owned());
    }
    if !is_ready(room.node) || world.liveness_of(&room.name) != Liveness::Alive {
        return Some("node(s) were not ready".to_owned());
    }
    let taints = node_spec
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    let repelling = |taint: &&Taint| {
        matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
            && !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
    };
    if let Some(taint) = taints.iter().find(repelling) {
        let value = taint.value.as_deref().unwrap_or_default();
        return Some(format!(
            "node(s) had untolerated taint {{{}: {value}}}",
            taint.key
        ));
    }
    if !affinity::node_matches(spec, room.node) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    if let Some(reason) = affinity::pods_refuse(world, rooms, room, pod)
        .or_else(|| affinity::spread_refuses(rooms, room, pod))
    {
        return Some(reason.to_owned());
    }
    let wanted = host_ports(pod);
    if wanted.iter().any(|port| room.host_ports.contains(port)) {
        return Some("node(s) didn't have free ports for the requested pod ports".to_owned());
    }
    let names = ["Insufficient cpu", "Insufficient memory", "Too many pods"];
    let requests = requests(pod);
    (0..3)
        .find(|&index| {
            requests[index] > 0 && room.requested[index] + requests[index] > room.allocatable[index]
        })
        .map(|index| names[index].to_owned())
}

pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration
        .effect
        .as_deref()
        .filter(|effect| !effect.is_empty());
    let key = toleration.key.as_deref().filter(|key| !key.is_empty());
    let exists = toleration.operator.as_deref() == Some("Exists");
    effect.is_none_or(|effect| effect == taint.effect)
        && key.map_or(exists, |key| key == taint.key)
        && (exists
            || toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default())
}

/// CPU, memory and one pod: the containers' sum, or the largest init container if that is more.
fn requests(pod: &Pod) -> [i128; 3] {
    let spec = pod.spec.as_ref();
    let of = |container: &k8s_openapi::api::core::v1::Container, resource: &str| {
        let resources = container.resources.as_ref();
        let request = resources
            .and_then(|resources| resources.requests.as_ref())
            .and_then(|map| map.get(resource));
        let limit = resources
            .and_then(|resources| resources.limits.as_ref())
            .and_then(|map| map.get(resource));
        request.or(limit).and_then(thousandths).unwrap_or(0)
    };
    let need = |resource: &str| {
        let sum: i128 = spec
            .into_iter()
            .flat_map(|spec| &spec.containers)
            .map(|container| of(container, resource))
            .sum();
        let init = spec
            .into_iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        sum.max(
            init.map(|container| of(container, resource))
                .max()
                .unwrap_or(0),
        )
    };
    [need("cpu"), need("memory"), 1000]
}

fn host_ports(pod: &Pod) -> Vec<(i32, String)> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number != 0)?;
            Some((
                number,
                port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            ))
        })
        .collect()
}

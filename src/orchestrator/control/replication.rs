//! ReplicationControllers: so many active pods, no more.
//!
//! As Kubernetes' `pkg/controller/replicaset/replica_set.go`: pods are owned by UID; matching orphans are adopted, pods that match
//! no longer are released; only active pods count; what goes first is ordered as in `controller_utils.go`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use serde_json::{Value, json};

use super::world::{
    Action, Decision, Liveness, Target, World, controller_of, event, is_active, node_of, phase,
    ready_since, selects,
};

/// So many pods at most are created or deleted at a time for one controller (Kubernetes' `BurstReplicas`).
const BURST: usize = 500;
/// The annotation by which a user orders deletion.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    let mut adopted = BTreeSet::new();
    for controller in world.replication_controllers.values() {
        if controller.metadata.deletion_timestamp.is_none() {
            one(world, controller, &mut adopted, &mut decision);
        }
    }
    decision
}

fn one<'a>(
    world: &'a World,
    controller: &ReplicationController,
    adopted: &mut BTreeSet<&'a str>,
    decision: &mut Decision,
) {
    let Some(spec) = &controller.spec else { return };
    let target = Target::of("ReplicationController", &controller.metadata);
    let template_labels = spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref())
        .and_then(|meta| meta.labels.clone());
    let selector = spec
        .selector
        .clone()
        .or(template_labels)
        .unwrap_or_default();
    let mut owned: Vec<&Pod> = Vec::new();
    let inside = world
        .pods
        .range((target.namespace.clone(), String::new())..)
        .take_while(|(key, _)| key.0 == target.namespace);
    for (_, pod) in inside {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let matches = selects(&selector, &pod.metadata);
        match controller_of(&pod.metadata) {
            Some(owner) if owner.uid == target.uid && matches => owned.push(pod),
            Some(owner) if owner.uid == target.uid && pod.metadata.deletion_timestamp.is_none() => {
                decision
                    .actions
                    .push(owner_patch(pod, &without_owner(pod, &target.uid)));
            }
            None if matches && is_active(pod) && adopted.insert(uid) => {
                decision
                    .actions
                    .push(owner_patch(pod, &with_owner(pod, &target)));
                owned.push(pod);
            }
            _ => {}
        }
    }
    let active: Vec<&Pod> = owned.into_iter().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        for _ in 0..(wanted - active.len()).min(BURST) {
            decision.actions.push(create(controller, &target));
        }
    }
    for pod in first_to_go(world, &active)
        .into_iter()
        .take(active.len().saturating_sub(wanted).min(BURST))
    {
        let pod = Target::of("Pod", &pod.metadata);
        let message = format!("Deleted pod: {}", pod.name);
        decision.actions.push(event(
            world.now,
            &target,
            "replication-controller",
            "SuccessfulDelete",
            &message,
        ));
        decision.actions.push(Action::Delete {
            target: pod,
            force: false,
        });
    }
    status(world, controller, &target, &active, decision);
}

fn status(
    world: &World,
    controller: &ReplicationController,
    target: &Target,
    active: &[&Pod],
    decision: &mut Decision,
) {
    let Some(spec) = &controller.spec else { return };
    let min_ready = SignedDuration::from_secs(i64::from(spec.min_ready_seconds.unwrap_or(0)));
    let empty = BTreeMap::new();
    let template_labels = spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref())
        .and_then(|meta| meta.labels.as_ref())
        .unwrap_or(&empty);
    let mut counts = [0_i32; 4];
    for pod in active {
        counts[0] += 1;
        let labels = pod.metadata.labels.as_ref().unwrap_or(&empty);
        counts[1] += i32::from(
            template_labels
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value)),
        );
        let Some(since) = ready_since(pod).filter(|_| !on_silent_node(world, pod)) else {
            continue;
        };
        counts[2] += 1;
        let available = since.checked_add(min_ready).unwrap_or(Timestamp::MAX);
        if available <= world.now || min_ready.is_zero() {
            counts[3] += 1;
        } else {
            decision.recheck_at(available);
        }
    }
    let now = controller.status.clone().unwrap_or_default();
    let known = [
        now.replicas,
        now.fully_labeled_replicas.unwrap_or(0),
        now.ready_replicas.unwrap_or(0),
        now.available_replicas.unwrap_or(0),
    ];
    if known != counts || now.observed_generation != controller.metadata.generation {
        let patch = json!({"status": {
            "replicas": counts[0],
            "fullyLabeledReplicas": counts[1],
            "readyReplicas": counts[2],
            "availableReplicas": counts[3],
            "observedGeneration": controller.metadata.generation,
        }});
        decision.actions.push(Action::Patch {
            target: target.clone(),
            status: true,
            patch,
        });
    }
}

fn on_silent_node(world: &World, pod: &Pod) -> bool {
    node_of(pod).is_some_and(|node| world.liveness_of(node) >= Liveness::Silent)
}

/// The pods in the order in which they are deleted.
fn first_to_go<'a>(world: &World, pods: &[&'a Pod]) -> Vec<&'a Pod> {
    let mut by_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods {
        *by_node.entry(node_of(pod).unwrap_or_default()).or_default() += 1;
    }
    let mut ordered = pods.to_vec();
    ordered.sort_by_key(|pod| {
        let node = node_of(pod);
        let ready = ready_since(pod).filter(|_| !on_silent_node(world, pod));
        let phase = match phase(pod) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_ref());
        let restarts = statuses
            .into_iter()
            .flatten()
            .map(|status| status.restart_count)
            .max()
            .unwrap_or(0);
        let cost: i32 = pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(DELETION_COST))
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (
            (node.is_some(), phase, ready.is_some(), cost),
            Reverse(by_node.get(node.unwrap_or_default()).copied().unwrap_or(0)),
            (Reverse(ready), Reverse(restarts), Reverse(created)),
            pod.metadata.name.clone(),
        )
    });
    ordered
}

fn create(controller: &ReplicationController, target: &Target) -> Action {
    let template = controller
        .spec
        .as_ref()
        .and_then(|spec| spec.template.clone())
        .unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-", target.name),
            "namespace": target.namespace,
            "labels": metadata.labels.unwrap_or_default(),
            "annotations": metadata.annotations.unwrap_or_default(),
            "finalizers": metadata.finalizers.unwrap_or_default(),
            "ownerReferences": [owner_reference(target)],
        },
        "spec": template.spec,
    });
    Action::Create {
        kind: "Pod",
        namespace: target.namespace.clone(),
        object,
    }
}

fn owner_reference(target: &Target) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ReplicationController",
        "name": target.name,
        "uid": target.uid,
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

fn owner_patch(pod: &Pod, owners: &[Value]) -> Action {
    let target = Target::of("Pod", &pod.metadata);
    Action::Patch {
        target,
        status: false,
        patch: json!({"metadata": {"ownerReferences": owners}}),
    }
}

fn with_owner(pod: &Pod, target: &Target) -> Vec<Value> {
    let mut owners: Vec<Value> = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .map(|owner| json!(owner))
        .collect();
    owners.push(owner_reference(target));
    owners
}

fn without_owner(pod: &Pod, uid: &str) -> Vec<Value> {
    pod.metadata
        .owner_references
        .iter()
        .flatten()
        .filter(|owner| owner.uid != uid)
        .map(|owner| json!(owner))
        .collect()
}

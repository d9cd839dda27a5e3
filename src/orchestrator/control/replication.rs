//! ReplicationControllers and ReplicaSets: so many active pods, no more.
//!
//! As Kubernetes' `pkg/controller/replicaset/replica_set.go`, which serves both kinds too: only active pods count; what goes first
//! is ordered as in `controller_utils.go`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::json;

use super::workload::{claim, create_pod, is_available, pod_of, reachable_since};
use super::world::{
    Action, Decision, Target, World, event, is_active, label_selector_selects, node_of, phase,
    selects,
};

/// So many pods at most are created or deleted at a time for one controller (Kubernetes' `BurstReplicas`).
const BURST: usize = 500;
/// The annotation by which a user orders deletion.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What the two kinds have in common.
struct Replicas<'a> {
    target: Target,
    /// Who tells of it in events.
    component: &'static str,
    metadata: &'a ObjectMeta,
    selector: Selector<'a>,
    template: Option<&'a PodTemplateSpec>,
    wanted: i32,
    min_ready_seconds: i32,
    /// Replicas, fully labelled, ready and available ones as its status has them.
    counted: [i32; 4],
    observed_generation: Option<i64>,
}

/// Which pods are meant.
enum Selector<'a> {
    Equality(BTreeMap<String, String>),
    Labels(&'a LabelSelector),
}

impl Selector<'_> {
    fn selects(&self, metadata: &ObjectMeta) -> bool {
        match self {
            Self::Equality(labels) => selects(labels, metadata),
            Self::Labels(selector) => label_selector_selects(selector, metadata),
        }
    }
}

impl<'a> Replicas<'a> {
    fn of_controller(controller: &'a ReplicationController) -> Option<Self> {
        let spec = controller.spec.as_ref()?;
        let template_labels = || {
            let metadata = spec.template.as_ref()?.metadata.as_ref()?;
            metadata.labels.clone()
        };
        let status = controller.status.clone().unwrap_or_default();
        Some(Self {
            target: Target::of("ReplicationController", &controller.metadata),
            component: "replication-controller",
            metadata: &controller.metadata,
            selector: Selector::Equality(
                spec.selector
                    .clone()
                    .or_else(template_labels)
                    .unwrap_or_default(),
            ),
            template: spec.template.as_ref(),
            wanted: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            counted: [
                status.replicas,
                status.fully_labeled_replicas.unwrap_or(0),
                status.ready_replicas.unwrap_or(0),
                status.available_replicas.unwrap_or(0),
            ],
            observed_generation: status.observed_generation,
        })
    }

    fn of_set(set: &'a ReplicaSet) -> Self {
        let spec = &set.spec;
        let status = set.status.clone().unwrap_or_default();
        Self {
            target: Target::of("ReplicaSet", &set.metadata),
            component: "replicaset-controller",
            metadata: &set.metadata,
            selector: Selector::Labels(&spec.selector),
            template: spec.template.as_ref(),
            wanted: spec.replicas.unwrap_or(1),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            counted: [
                status.replicas,
                status.fully_labeled_replicas.unwrap_or(0),
                status.ready_replicas.unwrap_or(0),
                status.available_replicas.unwrap_or(0),
            ],
            observed_generation: status.observed_generation,
        }
    }
}

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    let mut adopted = BTreeSet::new();
    let controllers = world
        .replication_controllers
        .values()
        .filter_map(|controller| Replicas::of_controller(controller));
    let sets = world.replica_sets.values().map(|set| Replicas::of_set(set));
    for replicas in controllers.chain(sets) {
        if replicas.metadata.deletion_timestamp.is_none() {
            reconcile_one(world, &replicas, &mut adopted, &mut decision);
        }
    }
    decision
}

fn reconcile_one<'a>(
    world: &'a World,
    replicas: &Replicas<'_>,
    adopted: &mut BTreeSet<&'a str>,
    decision: &mut Decision,
) {
    let target = &replicas.target;
    let selects = |metadata: &ObjectMeta| replicas.selector.selects(metadata);
    let owned = claim(world, target, selects, adopted, decision);
    let active: Vec<&Pod> = owned.into_iter().filter(|pod| is_active(pod)).collect();
    let wanted = usize::try_from(replicas.wanted).unwrap_or(0);
    if active.len() < wanted {
        for _ in 0..(wanted - active.len()).min(BURST) {
            let pod = pod_of(target, replicas.template);
            decision.actions.push(create_pod(target, pod));
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
            target,
            replicas.component,
            "SuccessfulDelete",
            &message,
        ));
        decision.actions.push(Action::Delete {
            target: pod,
            force: false,
        });
    }
    status(world, replicas, &active, decision);
}

fn status(world: &World, replicas: &Replicas<'_>, active: &[&Pod], decision: &mut Decision) {
    let empty = BTreeMap::new();
    let template_labels = replicas
        .template
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
        counts[2] += i32::from(reachable_since(world, pod).is_some());
        let available = is_available(world, pod, replicas.min_ready_seconds, decision);
        counts[3] += i32::from(available);
    }
    let generation = replicas.metadata.generation;
    if replicas.counted != counts || replicas.observed_generation != generation {
        let patch = json!({"status": {
            "replicas": counts[0],
            "fullyLabeledReplicas": counts[1],
            "readyReplicas": counts[2],
            "availableReplicas": counts[3],
            "observedGeneration": generation,
        }});
        decision.actions.push(Action::Patch {
            target: replicas.target.clone(),
            status: true,
            patch,
        });
    }
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
        let ready = reachable_since(world, pod);
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

//! Deployments: a ReplicaSet for each template, and replicas that move from the old ones to the new one.
//!
//! As Kubernetes' `pkg/controller/deployment` (`sync.go`, `rolling.go`, `recreate.go`, `progress.go`): ReplicaSets are owned by UID
//! and told apart by the hash of their template; the newest template's set grows within `maxSurge`, the others shrink within
//! `maxUnavailable`; a set that a rollback makes the newest again gets a new revision.
//!
//! Invariant: at no snapshot may the sizes that are asked for add up to more than `replicas + maxSurge`, nor may so much be taken
//! away that fewer than `replicas - maxUnavailable` available pods are left. A set's availability is never taken for more than the
//! size that has been asked for, so that what is to go already does not count.

mod plan;
mod rollout;
mod status;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use self::plan::{Change, Plan};
use super::world::{
    Action, Decision, Target, World, controller_of, event, label_selector_selects, within,
};

/// The label that tells the pods of one template from those of another.
const HASH_LABEL: &str = "pod-template-hash";
/// Which template it is, counted.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions under which a set was the newest before.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The Deployment's size when the set was given its own.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// That size and the surge that was allowed.
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
/// What `kubectl apply` remembers; it belongs to the Deployment alone.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    for deployment in world.deployments.values() {
        if deployment.metadata.deletion_timestamp.is_none() {
            reconcile_one(world, deployment, &deployment.spec, &mut decision);
        }
    }
    decision
}

/// A Deployment with its ReplicaSets.
struct Rollout<'a> {
    target: Target,
    deployment: &'a Deployment,
    spec: &'a DeploymentSpec,
    /// The set of the current template, if there is one.
    new: Option<&'a ReplicaSet>,
    /// All others, oldest first.
    old: Vec<&'a ReplicaSet>,
    wanted: i32,
    surge: i32,
    unavailable: i32,
}

fn reconcile_one(
    world: &World,
    deployment: &Deployment,
    spec: &DeploymentSpec,
    decision: &mut Decision,
) {
    let target = Target::of("Deployment", &deployment.metadata);
    let sets = owned(world, spec, &target, decision);
    let rollout = Rollout::of(target, deployment, spec, sets);
    let mut plan = Plan::default();
    let paused = spec.paused == Some(true);
    let scaling = rollout.is_scaled();
    if paused || scaling {
        rollout.scale(&mut plan);
    }
    if !paused {
        rollout.name_new_set(world, &mut plan, decision);
        if !scaling {
            rollout.roll(world, &mut plan);
        }
    }
    rollout.forget(decision);
    for (set, change) in plan.changes() {
        tell(world, &rollout.target, set, change, decision);
        decision.actions.extend(change.action(set));
    }
    rollout.status(world, decision);
}

/// The Deployment's own sets; those that match and nobody has are adopted.
fn owned<'a>(
    world: &'a World,
    spec: &DeploymentSpec,
    target: &Target,
    decision: &mut Decision,
) -> Vec<&'a ReplicaSet> {
    let mut sets = Vec::new();
    for set in within(&world.replica_sets, &target.namespace) {
        match controller_of(&set.metadata) {
            Some(owner) if owner.uid == target.uid => sets.push(set),
            None if set.metadata.deletion_timestamp.is_none()
                && label_selector_selects(&spec.selector, &set.metadata) =>
            {
                let mut owners: Vec<_> = set
                    .metadata
                    .owner_references
                    .iter()
                    .flatten()
                    .map(|owner| json!(owner))
                    .collect();
                owners.push(target.owner_reference());
                decision.actions.push(Action::Patch {
                    target: Target::of("ReplicaSet", &set.metadata),
                    status: false,
                    patch: json!({"metadata": {"ownerReferences": owners}}),
                });
            }
            _ => {}
        }
    }
    sets.retain(|set| set.metadata.deletion_timestamp.is_none());
    sets.sort_by_key(|set| {
        (
            set.metadata.creation_timestamp.as_ref().map(|time| time.0),
            set.metadata.name.clone(),
        )
    });
    sets
}

impl<'a> Rollout<'a> {
    fn of(
        target: Target,
        deployment: &'a Deployment,
        spec: &'a DeploymentSpec,
        sets: Vec<&'a ReplicaSet>,
    ) -> Self {
        let new = sets
            .iter()
            .copied()
            .find(|set| template_of(set).is_some_and(|held| same_template(held, &spec.template)));
        let uid = new.map(|set| &set.metadata.uid);
        let wanted = spec.replicas.unwrap_or(1);
        let (surge, unavailable) = rollout::limits(spec, wanted);
        Self {
            target,
            deployment,
            spec,
            new,
            old: sets
                .into_iter()
                .filter(|set| Some(&set.metadata.uid) != uid)
                .collect(),
            wanted,
            surge,
            unavailable,
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> {
        self.old.iter().copied().chain(self.new)
    }

    /// Deletes sets without replicas, oldest revision first, beyond the history that is kept.
    fn forget(&self, decision: &mut Decision) {
        let kept = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let mut empty: Vec<&ReplicaSet> = self
            .old
            .iter()
            .copied()
            .filter(|set| size(set) == 0 && status_replicas(set) == 0 && is_observed(set))
            .collect();
        empty.sort_by_key(|set| revision(&set.metadata));
        let excess = empty.len().saturating_sub(kept);
        for set in empty.into_iter().take(excess) {
            decision.actions.push(Action::Delete {
                target: Target::of("ReplicaSet", &set.metadata),
                force: false,
            });
        }
    }
}

fn tell(
    world: &World,
    target: &Target,
    set: &ReplicaSet,
    change: &Change,
    decision: &mut Decision,
) {
    let (now, Some(then)) = (size(set), change.replicas) else {
        return;
    };
    let way = match then.cmp(&now) {
        std::cmp::Ordering::Greater => "up",
        std::cmp::Ordering::Less => "down",
        std::cmp::Ordering::Equal => return,
    };
    let name = set.metadata.name.as_deref().unwrap_or_default();
    decision.actions.push(event(
        world.now,
        target,
        "deployment-controller",
        "ScalingReplicaSet",
        &format!("Scaled {way} replica set {name} from {now} to {then}"),
    ));
}

fn template_of(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.template.as_ref()
}

/// Whether two templates are the same but for the label that tells them apart.
fn same_template(one: &PodTemplateSpec, other: &PodTemplateSpec) -> bool {
    let plain = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let metadata = template.metadata.get_or_insert_default();
        metadata.creation_timestamp = None;
        if let Some(labels) = &mut metadata.labels {
            labels.remove(HASH_LABEL);
        }
        for map in [&mut metadata.labels, &mut metadata.annotations] {
            if map.as_ref().is_some_and(|map| map.is_empty()) {
                *map = None;
            }
        }
        template
    };
    plain(one) == plain(other)
}

/// The size that a set was given.
fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// A set's available pods, of those that it is to keep.
fn available(set: &ReplicaSet) -> i32 {
    let available = set
        .status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0);
    available.min(size(set))
}

fn status_replicas(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn is_observed(set: &ReplicaSet) -> bool {
    let observed = set
        .status
        .as_ref()
        .and_then(|status| status.observed_generation);
    observed >= set.metadata.generation
}

fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(name))
        .map(String::as_str)
}

fn revision(metadata: &ObjectMeta) -> i64 {
    annotation(metadata, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

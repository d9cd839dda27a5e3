//! The new set, and how replicas move to it.

use k8s_openapi::api::apps::v1::{DeploymentSpec, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use super::plan::Plan;
use super::{
    DESIRED, HASH_LABEL, LAST_APPLIED, MAXIMUM, REVISION, REVISION_HISTORY, Rollout, annotation,
    available, revision, size,
};
use crate::orchestrator::control::workload::{Rounding, hash, resolve};
use crate::orchestrator::control::world::{
    Action, Decision, World, controller_of, event, is_finished,
};

/// How many more pods than asked for, and how many fewer available ones, an update may make.
pub(super) fn limits(spec: &DeploymentSpec, wanted: i32) -> (i32, i32) {
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return (0, wanted);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref());
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let surge = resolve(surge.unwrap_or(&quarter), wanted, Rounding::Up);
    let unavailable = resolve(unavailable.unwrap_or(&quarter), wanted, Rounding::Down).min(wanted);
    // Otherwise nothing could ever move.
    if surge == 0 && unavailable == 0 {
        (0, 1)
    } else {
        (surge, unavailable)
    }
}

impl<'a> Rollout<'a> {
    fn is_recreate(&self) -> bool {
        let strategy = self.spec.strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
    }

    /// Creates the set of the current template, or gives the one that is there the newest revision.
    pub(super) fn name_new_set(&self, world: &World, plan: &mut Plan<'a>, decision: &mut Decision) {
        let newest = self
            .old
            .iter()
            .map(|set| revision(&set.metadata))
            .max()
            .unwrap_or(0);
        let Some(set) = self.new else {
            return self.create(world, newest + 1, decision);
        };
        let mut number = revision(&set.metadata);
        if number <= newest {
            let before = annotation(&set.metadata, REVISION).map(str::to_owned);
            let history = annotation(&set.metadata, REVISION_HISTORY).map(str::to_owned);
            let history: Vec<String> = history.into_iter().chain(before).collect();
            number = newest + 1;
            let change = plan.of(set);
            change.annotations.insert(REVISION, number.to_string());
            if !history.is_empty() {
                change
                    .annotations
                    .insert(REVISION_HISTORY, history.join(","));
            }
        }
        let change = plan.of(set);
        change.min_ready_seconds = Some(self.spec.min_ready_seconds.unwrap_or(0));
        for (name, value) in self.deployment.metadata.annotations.iter().flatten() {
            if ![REVISION, REVISION_HISTORY, DESIRED, MAXIMUM, LAST_APPLIED]
                .contains(&name.as_str())
            {
                change.copied.insert(name.clone(), Some(value.clone()));
            }
        }
        if annotation(&self.deployment.metadata, REVISION) != Some(&number.to_string()) {
            decision.actions.push(Action::Patch {
                target: self.target.clone(),
                status: false,
                patch: json!({"metadata": {"annotations": {REVISION: number.to_string()}}}),
            });
        }
    }

    fn create(&self, world: &World, number: i64, decision: &mut Decision) {
        // Recreate: not before the last old pod is gone.
        let replicas = if self.is_recreate() {
            if self.old.iter().any(|set| size(set) > 0) || self.old_pods_run(world) {
                return;
            }
            self.wanted
        } else {
            let room = self.wanted + self.surge - self.old.iter().map(|set| size(set)).sum::<i32>();
            self.wanted.min(room).max(0)
        };
        let status = self.deployment.status.as_ref();
        let collisions = status
            .and_then(|status| status.collision_count)
            .unwrap_or(0);
        let hash = hash(&self.spec.template, collisions);
        let name = format!("{}-{hash}", self.target.name);
        let key = (self.target.namespace.clone(), name.clone());
        if world.replica_sets.contains_key(&key) {
            decision.actions.push(Action::Patch {
                target: self.target.clone(),
                status: true,
                patch: json!({"status": {"collisionCount": collisions + 1}}),
            });
            return;
        }
        let mut template = json!(self.spec.template);
        template["metadata"]["labels"][HASH_LABEL] = json!(hash);
        let mut selector = json!(self.spec.selector);
        selector["matchLabels"][HASH_LABEL] = json!(hash);
        let mut annotations = json!({REVISION: number.to_string()});
        for (name, value) in self.deployment.metadata.annotations.iter().flatten() {
            if ![REVISION, LAST_APPLIED].contains(&name.as_str()) {
                annotations[name] = json!(value);
            }
        }
        annotations[DESIRED] = json!(self.wanted.to_string());
        annotations[MAXIMUM] = json!((self.wanted + self.surge).to_string());
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": self.target.namespace,
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [self.target.owner_reference()],
            },
            "spec": {
                "replicas": replicas,
                "minReadySeconds": self.spec.min_ready_seconds.unwrap_or(0),
                "selector": selector,
                "template": template,
            },
        });
        let message = format!("Scaled up replica set {name} from 0 to {replicas}");
        decision.actions.push(event(
            world.now,
            &self.target,
            "deployment-controller",
            "ScalingReplicaSet",
            &message,
        ));
        decision.actions.push(Action::Create {
            kind: "ReplicaSet",
            namespace: self.target.namespace.clone(),
            object,
        });
    }

    /// Whether pods of older templates run, those on their way out included.
    fn old_pods_run(&self, world: &World) -> bool {
        world.pods.values().any(|pod| {
            let owner = controller_of(&pod.metadata);
            !is_finished(pod)
                && owner.is_some_and(|owner| {
                    self.old
                        .iter()
                        .any(|set| set.metadata.uid.as_ref() == Some(&owner.uid))
                })
        })
    }

    /// One step of the update.
    pub(super) fn roll(&self, world: &World, plan: &mut Plan<'a>) {
        if let Some(new) = self.new {
            self.mark(new, plan);
        }
        if self.is_recreate() {
            for set in &self.old {
                plan.of(set).replicas = Some(0);
            }
            let busy = self.old.iter().any(|set| size(set) > 0) || self.old_pods_run(world);
            if let (false, Some(new)) = (busy, self.new) {
                plan.of(new).replicas = Some(self.wanted);
            }
            return;
        }
        let Some(new) = self.new else { return };
        let total: i32 = self.all().map(size).sum();
        let grown = match size(new).cmp(&self.wanted) {
            std::cmp::Ordering::Greater => self.wanted,
            std::cmp::Ordering::Equal => self.wanted,
            std::cmp::Ordering::Less => {
                let room = (self.wanted + self.surge - total).max(0);
                size(new) + room.min(self.wanted - size(new))
            }
        };
        if grown != size(new) {
            // What has been asked for is seen in the next snapshot before anything is taken away.
            plan.of(new).replicas = Some(grown);
            return;
        }
        self.shrink(new, total, plan);
    }

    /// Takes pods of the old sets away: first those that are not available, then as many others as may be missing.
    fn shrink(&self, new: &'a ReplicaSet, total: i32, plan: &mut Plan<'a>) {
        let least = self.wanted - self.unavailable;
        let mut unhealthy = total - least - (size(new) - available(new));
        for set in &self.old {
            let gone = (size(set) - available(set)).min(unhealthy).max(0);
            if gone > 0 {
                plan.of(set).replicas = Some(size(set) - gone);
                unhealthy -= gone;
            }
        }
        let kept = |plan: &Plan<'_>, set: &ReplicaSet| available(set).min(plan.size(set));
        let there: i32 = available(new) + self.old.iter().map(|set| kept(plan, set)).sum::<i32>();
        let mut spare = there - least;
        for set in &self.old {
            let size = plan.size(set);
            let gone = size.min(spare).max(0);
            if gone > 0 {
                plan.of(set).replicas = Some(size - gone);
                spare -= gone;
            }
        }
    }

    /// Notes the size that the Deployment had.
    fn mark(&self, set: &'a ReplicaSet, plan: &mut Plan<'a>) {
        let change = plan.of(set);
        change.annotations.insert(DESIRED, self.wanted.to_string());
        change
            .annotations
            .insert(MAXIMUM, (self.wanted + self.surge).to_string());
    }

    /// Whether the Deployment's size has changed since its sets were given theirs.
    pub(super) fn is_scaled(&self) -> bool {
        self.all().filter(|set| size(set) > 0).any(|set| {
            annotation(&set.metadata, DESIRED)
                .is_some_and(|desired| desired != self.wanted.to_string())
        })
    }

    /// Brings a new size to the sets, in proportion to what they have.
    pub(super) fn scale(&self, plan: &mut Plan<'a>) {
        let mut active: Vec<&'a ReplicaSet> = self.all().filter(|set| size(set) > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.or(self.old.last().copied()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(only) = only {
            plan.of(only).replicas = Some(self.wanted);
            return self.mark(only, plan);
        }
        let allowed = if self.wanted > 0 {
            self.wanted + self.surge
        } else {
            0
        };
        let total: i32 = active.iter().map(|set| size(set)).sum();
        let mut left = allowed - total;
        // The largest first, the newest of equals; what rounding leaves goes to the first.
        active.reverse();
        active.sort_by_key(|set| std::cmp::Reverse(size(set)));
        for set in &active {
            let before = annotation(&set.metadata, MAXIMUM)
                .and_then(|text| text.parse().ok())
                .filter(|before| *before > 0)
                .unwrap_or(total)
                .max(1);
            let share = i64::from(size(set)) * i64::from(allowed) * 2 + i64::from(before);
            let share = i32::try_from(share / (2 * i64::from(before))).unwrap_or(i32::MAX);
            let part = share - size(set);
            let part = if left >= 0 {
                part.clamp(0, left)
            } else {
                part.clamp(left, 0)
            };
            left -= part;
            plan.of(set).replicas = Some(size(set) + part);
        }
        if let Some(first) = active.first() {
            let size = plan.size(first);
            plan.of(first).replicas = Some((size + left).max(0));
        }
        for set in active {
            self.mark(set, plan);
        }
    }
}

//! Garbage: dependents without owners, pods without nodes, namespaces on their way out.
//!
//! Owners are told apart by UID. Everything is decided on one snapshot of all kinds, so that a newborn child is never taken for an
//! orphan; the orphan finalizer goes only when a snapshot shows that no dependent is left.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use super::world::{Action, Decision, Target, World, is_finished, node_of};
use crate::orchestrator::api::custom::CLEANUP;

/// A pod whose node does not exist waits so long for it to be registered (Kubernetes' quarantine).
const NODE_QUARANTINE: SignedDuration = SignedDuration::from_secs(40);
/// So many finished pods are kept, as `--terminated-pod-gc-threshold` would.
const FINISHED_PODS_MAX: usize = 100;
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";
const DEFINITION: &str = "CustomResourceDefinition";

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    owners(world, &mut decision);
    pods(world, &mut decision);
    namespaces(world, &mut decision);
    definitions(world, &mut decision);
    decision
}

fn owners(world: &World, decision: &mut Decision) {
    let mut alive: BTreeSet<&str> = BTreeSet::new();
    let mut dependents: BTreeMap<&str, Vec<(&'static str, &ObjectMeta)>> = BTreeMap::new();
    for (kind, metadata) in world.all_metadata() {
        alive.extend(metadata.uid.as_deref());
        for owner in metadata.owner_references.iter().flatten() {
            dependents
                .entry(&owner.uid)
                .or_default()
                .push((kind, metadata));
        }
    }
    let none = Vec::new();
    let mut doomed: BTreeSet<&str> = BTreeSet::new();
    for (kind, metadata) in world.all_metadata() {
        let children = dependents
            .get(metadata.uid.as_deref().unwrap_or_default())
            .unwrap_or(&none);
        let has = |finalizer: &str| {
            metadata
                .finalizers
                .iter()
                .flatten()
                .any(|found| found == finalizer)
        };
        if metadata.deletion_timestamp.is_some() && has(ORPHAN) {
            for (child_kind, child) in children {
                decision.actions.push(owner_patch(
                    child_kind,
                    child,
                    metadata.uid.as_deref().unwrap_or_default(),
                ));
            }
            if children.is_empty() {
                decision
                    .actions
                    .push(without_finalizer(kind, metadata, ORPHAN));
            }
        } else if metadata.deletion_timestamp.is_some() && has(FOREGROUND) {
            for (child_kind, child) in children
                .iter()
                .filter(|(_, child)| child.deletion_timestamp.is_none())
            {
                if doomed.insert(child.uid.as_deref().unwrap_or_default()) {
                    decision.actions.push(Action::Delete {
                        target: Target::of(child_kind, child),
                        force: false,
                    });
                }
            }
            if children.is_empty() {
                decision
                    .actions
                    .push(without_finalizer(kind, metadata, FOREGROUND));
            }
        }
        let mut owners = metadata.owner_references.iter().flatten().peekable();
        let abandoned =
            owners.peek().is_some() && owners.all(|owner| !alive.contains(owner.uid.as_str()));
        if abandoned
            && metadata.deletion_timestamp.is_none()
            && doomed.insert(metadata.uid.as_deref().unwrap_or_default())
        {
            decision.actions.push(Action::Delete {
                target: Target::of(kind, metadata),
                force: false,
            });
        }
    }
}

fn pods(world: &World, decision: &mut Decision) {
    let mut finished = Vec::new();
    for pod in world.pods.values() {
        let target = Target::of("Pod", &pod.metadata);
        let Some(node) = node_of(pod) else {
            if pod.metadata.deletion_timestamp.is_some() {
                decision.actions.push(Action::Delete {
                    target,
                    force: true,
                });
            }
            continue;
        };
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        if !world.nodes.contains_key(&(String::new(), node.to_owned())) {
            let until = created
                .and_then(|created| created.checked_add(NODE_QUARANTINE).ok())
                .unwrap_or(world.now);
            if until <= world.now {
                decision.actions.push(Action::Delete {
                    target,
                    force: true,
                });
            } else {
                decision.recheck_at(until);
            }
        } else if is_finished(pod) && pod.metadata.deletion_timestamp.is_none() {
            finished.push((created, target));
        }
    }
    finished.sort_by_key(|(created, target)| (*created, target.name.clone()));
    let excess = finished.len().saturating_sub(FINISHED_PODS_MAX);
    for (_, target) in finished.into_iter().take(excess) {
        decision.actions.push(Action::Delete {
            target,
            force: true,
        });
    }
}

fn namespaces(world: &World, decision: &mut Decision) {
    for namespace in world
        .namespaces
        .values()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_some())
    {
        let target = Target::of("Namespace", &namespace.metadata);
        let mut empty = true;
        for (kind, metadata) in world.all_metadata() {
            if metadata.namespace.as_deref() != Some(target.name.as_str()) {
                continue;
            }
            empty = false;
            if metadata.deletion_timestamp.is_none() {
                decision.actions.push(Action::Delete {
                    target: Target::of(kind, metadata),
                    force: false,
                });
            }
        }
        if empty {
            decision.actions.push(Action::FinalizeNamespace(target));
        }
    }
}

/// The objects of a definition that is to go, then the definition. They are known by its name.
fn definitions(world: &World, decision: &mut Decision) {
    for (kind, definition) in &world.others {
        let mut finalizers = definition.finalizers.iter().flatten();
        let waits = finalizers.any(|one| one == CLEANUP);
        if *kind != DEFINITION || definition.deletion_timestamp.is_none() || !waits {
            continue;
        }
        let name = definition.name.as_deref().unwrap_or_default();
        let mut empty = true;
        for (kind, object) in world.others.iter().filter(|(kind, _)| *kind == name) {
            empty = false;
            if object.deletion_timestamp.is_none() {
                decision.actions.push(Action::Delete {
                    target: Target::of(kind, object),
                    force: false,
                });
            }
        }
        if empty {
            decision
                .actions
                .push(without_finalizer(kind, definition, CLEANUP));
        }
    }
}

fn owner_patch(kind: &'static str, metadata: &ObjectMeta, owner: &str) -> Action {
    let owners: Vec<Value> = metadata
        .owner_references
        .iter()
        .flatten()
        .filter(|found| found.uid != owner)
        .map(|found| json!(found))
        .collect();
    let patch = json!({"metadata": {"ownerReferences": owners}});
    Action::Patch {
        target: Target::of(kind, metadata),
        status: false,
        patch,
    }
}

fn without_finalizer(kind: &'static str, metadata: &ObjectMeta, finalizer: &str) -> Action {
    let left: Vec<&String> = metadata
        .finalizers
        .iter()
        .flatten()
        .filter(|found| *found != finalizer)
        .collect();
    let patch = json!({"metadata": {"finalizers": left}});
    Action::Patch {
        target: Target::of(kind, metadata),
        status: false,
        patch,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn metadata(value: Value) -> Arc<ObjectMeta> {
        Arc::new(serde_json::from_value(value).expect("metadata"))
    }

    #[test]
    fn a_definition_goes_after_its_objects() {
        let crd = metadata(
            json!({"name": "lamps.example.org", "uid": "d", "resourceVersion": "2",
            "deletionTimestamp": "2026-11-30T00:00:00Z", "finalizers": ["a/b", CLEANUP]}),
        );
        let lamp = metadata(json!({"name": "a", "namespace": "default", "uid": "l"}));
        let mut world = World {
            others: vec![
                (DEFINITION, crd.clone()),
                ("lamps.example.org", lamp.clone()),
            ],
            ..World::default()
        };
        let deleted = Action::Delete {
            target: Target::of("lamps.example.org", &lamp),
            force: false,
        };
        assert_eq!(reconcile(&world).actions, [deleted]);
        world.others.pop();
        let released = Action::Patch {
            target: Target::of(DEFINITION, &crd),
            status: false,
            patch: json!({"metadata": {"finalizers": ["a/b"]}}),
        };
        assert_eq!(reconcile(&world).actions, [released]);
    }

    #[test]
    fn custom_objects_go_with_their_owner() {
        let orphan = metadata(
            json!({"name": "a", "namespace": "default", "uid": "l", "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "none"}]}),
        );
        let world = World {
            others: vec![("lamps.example.org", orphan.clone())],
            ..World::default()
        };
        let deleted = Action::Delete {
            target: Target::of("lamps.example.org", &orphan),
            force: false,
        };
        assert_eq!(reconcile(&world).actions, [deleted]);
    }
}

//! ControllerRevisions: the templates that a StatefulSet or a DaemonSet has had, by which clients undo a rollout, and a
//! StatefulSet can make a pod of the template before.
//!
//! As Kubernetes' `pkg/controller/history/controller_history.go`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Value, json};

use super::workload::hash;
use super::world::{Action, Decision, Target, World, controller_of, within};
use crate::model::json;

/// The label of a pod that says of which template it is.
pub(super) const HASH_LABEL: &str = "controller-revision-hash";
/// Other hashes are tried so often if a name is taken by another template.
const COLLISIONS_MAX: i32 = 16;

/// Whose templates, and what is known of them.
pub(super) struct Owner<'a> {
    pub(super) target: &'a Target,
    pub(super) template: &'a PodTemplateSpec,
    /// Labels of its revisions.
    pub(super) labels: Option<&'a BTreeMap<String, String>>,
    /// So many old ones are kept.
    pub(super) limit: i32,
    /// Hashes or names of revisions that pods are of: they are kept.
    pub(super) in_use: BTreeSet<&'a str>,
}

/// The revisions of an owner.
pub(super) struct History<'a> {
    /// The name of the present template's.
    pub(super) update: String,
    known: Vec<&'a ControllerRevision>,
}

impl History<'_> {
    /// The hash of the present template.
    pub(super) fn update_hash(&self, owner: &Target) -> String {
        hash_of(&self.update, &owner.name).to_owned()
    }

    /// The template of this revision.
    pub(super) fn template(&self, name: &str) -> Option<PodTemplateSpec> {
        let revision = self
            .known
            .iter()
            .find(|revision| revision.metadata.name.as_deref() == Some(name))?;
        let mut template = revision.data.0.pointer("/spec/template")?.clone();
        template.as_object_mut()?.shift_remove("$patch");
        json::from_value(&template).ok()
    }
}

fn hash_of<'a>(revision: &'a str, owner: &str) -> &'a str {
    revision
        .strip_prefix(owner)
        .and_then(|rest| rest.strip_prefix('-'))
        .unwrap_or(revision)
}

fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

/// Finds or makes the revision of the present template, and forgets old ones that are not in use.
pub(super) fn sync<'a>(
    world: &'a World,
    owner: &Owner<'_>,
    decision: &mut Decision,
) -> History<'a> {
    let target = owner.target;
    let mut known: Vec<&ControllerRevision> =
        within(&world.controller_revisions, &target.namespace)
            .filter(|revision| {
                controller_of(&revision.metadata).is_some_and(|above| above.uid == target.uid)
            })
            .collect();
    known.sort_by_key(|revision| revision.revision);
    let newest = known.last().and_then(|last| last.revision).unwrap_or(0);
    let wanted = data(owner.template);
    let found = known.iter().rfind(|revision| revision.data.0 == wanted);
    let update = match found {
        Some(revision) => {
            // What a rollback brings back is the newest again.
            if revision.revision != Some(newest) {
                decision.actions.push(Action::Patch {
                    target: Target::of("ControllerRevision", &revision.metadata),
                    status: false,
                    patch: json!({"revision": newest + 1}),
                });
            }
            revision.metadata.name.clone().unwrap_or_default()
        }
        None => create(world, owner, wanted, newest + 1, decision),
    };
    forget(owner, &known, &update, decision);
    History { update, known }
}

fn create(
    world: &World,
    owner: &Owner<'_>,
    data: Value,
    number: i64,
    decision: &mut Decision,
) -> String {
    let target = owner.target;
    let name = (0..COLLISIONS_MAX)
        .map(|collisions| format!("{}-{}", target.name, hash(owner.template, collisions)))
        .find(|name| {
            let key = (target.namespace.clone(), name.clone());
            !world.controller_revisions.contains_key(&key)
        })
        .unwrap_or_else(|| target.name.clone());
    let mut labels = json!(owner.labels.cloned().unwrap_or_default());
    labels[HASH_LABEL] = json!(hash_of(&name, &target.name));
    decision.actions.push(Action::Create {
        kind: "ControllerRevision",
        namespace: target.namespace.clone(),
        object: json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": name,
                "namespace": target.namespace,
                "labels": labels,
                "ownerReferences": [target.owner_reference()],
            },
            "data": data,
            "revision": number,
        }),
    });
    name
}

fn forget(owner: &Owner<'_>, known: &[&ControllerRevision], update: &str, decision: &mut Decision) {
    let old: Vec<&&ControllerRevision> = known
        .iter()
        .filter(|revision| {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            let hash = hash_of(name, &owner.target.name);
            name != update && !owner.in_use.contains(name) && !owner.in_use.contains(hash)
        })
        .collect();
    let kept = usize::try_from(owner.limit).unwrap_or(0);
    for revision in old.iter().take(old.len().saturating_sub(kept)) {
        decision.actions.push(Action::Delete {
            target: Target::of("ControllerRevision", &revision.metadata),
            force: false,
        });
    }
}

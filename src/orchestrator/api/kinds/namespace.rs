//! v1 Namespace.

use k8s_openapi::api::core::v1::Namespace;
use serde_json::json;

use super::parts::causes::no_rules;
use super::parts::cells::{AGE, NAME, column, text};
use super::parts::decode::through;
use super::parts::fields::{Object, set};
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<Namespace>,
    default: defaults,
    name: names::label,
    validate: no_rules,
    columns: &[
        NAME,
        column("Status", |namespace| {
            json!(text(namespace, "/status/phase"))
        }),
        AGE,
    ],
    selectable_fields: &["status.phase"],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DELETION,
    allocate: None,
    warnings: no_warnings,
};

/// A namespace stays until `spec.finalizers` is empty, which the controllers see to when nothing is left in it.
const DELETION: DeletionRule = DeletionRule {
    held: |namespace| {
        namespace
            .pointer("/spec/finalizers")
            .and_then(|finalizers| finalizers.as_array())
            .is_some_and(|finalizers| !finalizers.is_empty())
    },
    begin: |namespace| {
        namespace.insert("status".to_owned(), json!({"phase": "Terminating"}));
    },
    protected: &["default", "kube-system", "kube-node-lease"],
    ..DeletionRule::AT_ONCE
};

fn defaults(map: &mut Object) {
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    let name = metadata.get("name").cloned().unwrap_or_default();
    if let Some(metadata) = metadata.as_object_mut() {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        set(labels.as_object_mut(), "kubernetes.io/metadata.name", name);
    }
    let terminating = map
        .get("metadata")
        .and_then(|metadata| metadata.get("deletionTimestamp"))
        .is_some();
    if !terminating {
        // Clients send an empty spec as readily as none; without a finalizer its contents would outlive it.
        let spec = map.entry("spec").or_insert_with(|| json!({}));
        let held = spec.get("finalizers").and_then(|value| value.as_array());
        if held.is_none_or(Vec::is_empty)
            && let Some(spec) = spec.as_object_mut()
        {
            spec.insert("finalizers".to_owned(), json!(["kubernetes"]));
        }
        set(Some(map), "status", json!({"phase": "Active"}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_contents_are_waited_for_however_little_its_maker_said() {
        for made in [
            json!({"metadata": {"name": "a"}}),
            json!({"metadata": {"name": "a"}, "spec": {}}),
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": []}}),
        ] {
            let mut map = made.as_object().cloned().unwrap_or_default();
            defaults(&mut map);
            assert_eq!(map["spec"]["finalizers"], json!(["kubernetes"]), "{made}");
            assert!((DELETION.held)(&map.into()), "{made}");
        }
        let mut empty = json!({"metadata": {"name": "a", "deletionTimestamp": "2026-11-30T00:00:00Z"}, "spec": {}});
        defaults(empty.as_object_mut().unwrap());
        assert!(!(DELETION.held)(&empty), "one that goes is let go");
    }
}

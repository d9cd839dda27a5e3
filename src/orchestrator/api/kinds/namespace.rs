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
        set(Some(map), "spec", json!({"finalizers": ["kubernetes"]}));
        set(Some(map), "status", json!({"phase": "Active"}));
    }
}

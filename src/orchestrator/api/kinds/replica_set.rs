//! apps/v1 ReplicaSet.

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, containers, number, or_none, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::no_warnings;
use super::parts::{names, pod_defaults, selector, template};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status, Subresource::Scale],
    decode: through::<ReplicaSet>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &["status.replicas"],
    selector: selector::labels,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", |set| {
        json!(number(set, "/spec/replicas").to_string())
    }),
    column("Current", |set| {
        json!(number(set, "/status/replicas").to_string())
    }),
    column("Ready", |set| {
        json!(number(set, "/status/readyReplicas").to_string())
    }),
    AGE,
    wide("Containers", |set| json!(containers(set, "name"))),
    wide("Images", |set| json!(containers(set, "image"))),
    wide("Selector", |set| json!(or_none(&selector::labels(set)))),
];

fn defaults(object: &mut Object) {
    if let Some(spec) = child(object, "spec") {
        set(Some(spec), "replicas", json!(1));
        pod_defaults::template(spec);
    }
    set(Some(object), "status", json!({"replicas": 0}));
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    template::replicas(spec, found);
    template::validate_with_label_selector(spec, old, found);
}

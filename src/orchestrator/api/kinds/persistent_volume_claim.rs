//! v1 PersistentVolumeClaim: kept as it is; no volume is ever bound to it.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, text, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::not_enforced;
use super::parts::{names, quantities, selector, volumes};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<PersistentVolumeClaim>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", |claim| json!(text(claim, "/status/phase"))),
    column("Volume", |claim| json!(text(claim, "/spec/volumeName"))),
    column("Capacity", |claim| {
        json!(text(claim, "/status/capacity/storage"))
    }),
    column("Access Modes", |claim| {
        json!(volumes::access_modes(claim.pointer("/status/accessModes")))
    }),
    column("StorageClass", |claim| {
        json!(text(claim, "/spec/storageClassName"))
    }),
    column("VolumeAttributesClass", |claim| {
        json!(match text(claim, "/spec/volumeAttributesClassName") {
            "" => "<unset>",
            class => class,
        })
    }),
    AGE,
    wide("VolumeMode", |claim| json!(text(claim, "/spec/volumeMode"))),
];

fn defaults(object: &mut Object) {
    set(child(object, "spec"), "volumeMode", json!("Filesystem"));
    set(Some(object), "status", json!({"phase": "Pending"}));
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    volumes::modes(spec, found);
    match spec.pointer("/resources/requests/storage") {
        Some(amount) => {
            quantities::quantity(amount, "spec.resources.requests[storage]", found);
        }
        None => found.required("spec.resources[storage]", ""),
    }
    let fixed = |spec: &Value| {
        let mut spec = spec.clone();
        if let Some(map) = spec.as_object_mut() {
            map.shift_remove("resources");
            map.shift_remove("volumeAttributesClassName");
        }
        spec
    };
    if let Some(before) = old.and_then(|old| old.get("spec"))
        && fixed(before) != fixed(spec)
    {
        found.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced(
        "PersistentVolumeClaim",
        "it stays Pending, since no volume is provisioned",
    )
}

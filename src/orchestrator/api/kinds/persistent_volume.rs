//! v1 PersistentVolume: kept as it is; no claim is ever bound to it.

use k8s_openapi::api::core::v1::PersistentVolume;
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
    decode: through::<PersistentVolume>,
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
    column("Capacity", |volume| {
        json!(text(volume, "/spec/capacity/storage"))
    }),
    column("Access Modes", |volume| {
        json!(volumes::access_modes(volume.pointer("/spec/accessModes")))
    }),
    column("Reclaim Policy", |volume| {
        json!(text(volume, "/spec/persistentVolumeReclaimPolicy"))
    }),
    column("Status", |volume| json!(text(volume, "/status/phase"))),
    column("Claim", |volume| {
        let of = |field: &str| text(volume, &format!("/spec/claimRef/{field}"));
        json!(match of("name") {
            "" => String::new(),
            name => format!("{}/{name}", of("namespace")),
        })
    }),
    column("StorageClass", |volume| {
        json!(text(volume, "/spec/storageClassName"))
    }),
    column("VolumeAttributesClass", |volume| {
        json!(match text(volume, "/spec/volumeAttributesClassName") {
            "" => "<unset>",
            class => class,
        })
    }),
    column("Reason", |volume| json!(text(volume, "/status/reason"))),
    AGE,
    wide("VolumeMode", |volume| {
        json!(text(volume, "/spec/volumeMode"))
    }),
];

fn defaults(object: &mut Object) {
    if let Some(spec) = child(object, "spec") {
        set(Some(spec), "persistentVolumeReclaimPolicy", json!("Retain"));
        set(Some(spec), "volumeMode", json!("Filesystem"));
    }
    set(Some(object), "status", json!({"phase": "Available"}));
}

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    volumes::modes(spec, found);
    match spec.pointer("/capacity/storage") {
        Some(amount) => quantities::quantity(amount, "spec.capacity[storage]", found),
        None => found.required("spec.capacity", ""),
    }
    found.one_of(
        "spec.persistentVolumeReclaimPolicy",
        spec.get("persistentVolumeReclaimPolicy"),
        &["Delete", "Recycle", "Retain"],
    );
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced("PersistentVolume", "no claim is bound to it")
}

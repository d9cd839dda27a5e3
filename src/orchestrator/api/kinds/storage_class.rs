//! storage.k8s.io/v1 StorageClass: kept as it is.

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, column, text};
use super::parts::decode::through;
use super::parts::fields::{Object, set};
use super::parts::warnings::not_enforced;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<StorageClass>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings,
};

/// By this annotation a class is the default one.
const DEFAULT_CLASS: &str = "/metadata/annotations/storageclass.kubernetes.io~1is-default-class";

const COLUMNS: &[Column] = &[
    column("Name", |class| {
        let name = text(class, "/metadata/name");
        json!(if text(class, DEFAULT_CLASS) == "true" {
            format!("{name} (default)")
        } else {
            name.to_owned()
        })
    }),
    column("Provisioner", |class| json!(text(class, "/provisioner"))),
    column("ReclaimPolicy", |class| {
        json!(text(class, "/reclaimPolicy"))
    }),
    column("VolumeBindingMode", |class| {
        json!(text(class, "/volumeBindingMode"))
    }),
    column("AllowVolumeExpansion", |class| {
        json!((class["allowVolumeExpansion"] == true).to_string())
    }),
    AGE,
];

fn defaults(object: &mut Object) {
    set(Some(object), "reclaimPolicy", json!("Delete"));
    set(Some(object), "volumeBindingMode", json!("Immediate"));
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    if text(object, "/provisioner").is_empty() {
        found.required("provisioner", "");
    }
    found.one_of(
        "reclaimPolicy",
        object.get("reclaimPolicy"),
        &["Delete", "Retain"],
    );
    found.one_of(
        "volumeBindingMode",
        object.get("volumeBindingMode"),
        &["Immediate", "WaitForFirstConsumer"],
    );
    if let Some(old) = old {
        for field in [
            "parameters",
            "provisioner",
            "reclaimPolicy",
            "volumeBindingMode",
        ] {
            if old.get(field) != object.get(field) {
                found.forbidden(field, "updates to this field are forbidden.");
            }
        }
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced("StorageClass", "no volume is provisioned")
}

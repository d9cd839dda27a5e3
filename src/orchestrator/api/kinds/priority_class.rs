//! scheduling.k8s.io/v1 PriorityClass: kept as it is.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, number, text};
use super::parts::decode::through;
use super::parts::fields::{Object, set};
use super::parts::warnings::not_enforced;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<PriorityClass>,
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

/// Users' own classes may not be more important than this (`HighestUserDefinablePriority`).
const HIGHEST: i64 = 1_000_000_000;

const COLUMNS: &[Column] = &[
    NAME,
    column("Value", |class| json!(number(class, "/value").to_string())),
    column("Global-Default", |class| {
        json!((class["globalDefault"] == true).to_string())
    }),
    AGE,
    column("PreemptionPolicy", |class| {
        json!(text(class, "/preemptionPolicy"))
    }),
];

fn defaults(object: &mut Object) {
    set(
        Some(object),
        "preemptionPolicy",
        json!("PreemptLowerPriority"),
    );
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let name = text(object, "/metadata/name");
    if name.starts_with("system-") {
        found.forbidden(
            "metadata.name",
            "priority class names with 'system-' prefix are reserved for system use only",
        );
    }
    if number(object, "/value") > HIGHEST {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        found.forbidden("value", &why);
    }
    found.one_of(
        "preemptionPolicy",
        object.get("preemptionPolicy"),
        &["Never", "PreemptLowerPriority"],
    );
    if let Some(old) = old {
        for field in ["value", "preemptionPolicy"] {
            if old.get(field) != object.get(field) {
                found.forbidden(field, "may not be changed in an update.");
            }
        }
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced(
        "PriorityClass",
        "pods are scheduled in the order of their creation, and none is preempted",
    )
}

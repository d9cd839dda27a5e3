//! v1 LimitRange: kept as it is.

use k8s_openapi::api::core::v1::LimitRange;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{Column, NAME, column, list, text};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::not_enforced;
use super::parts::{names, quantities, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<LimitRange>,
    default: no_defaults,
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

const COLUMNS: &[Column] = &[
    NAME,
    column("Created At", |range| {
        json!(text(range, "/metadata/creationTimestamp"))
    }),
];

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    for (number, limit) in list(object, "/spec/limits").iter().enumerate() {
        let path = format!("spec.limits[{number}]");
        if text(limit, "/type").is_empty() {
            found.required(format!("{path}.type"), "");
        }
        for field in [
            "min",
            "max",
            "default",
            "defaultRequest",
            "maxLimitRequestRatio",
        ] {
            let amounts = limit.get(field).and_then(Value::as_object);
            for (name, amount) in amounts.into_iter().flatten() {
                quantities::quantity(amount, &format!("{path}.{field}[{name}]"), found);
            }
        }
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced(
        "LimitRange",
        "pods get no defaults from it, and none is refused",
    )
}

//! v1 ResourceQuota: kept as it is, with what is used of it unknown.

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::not_enforced;
use super::parts::{names, quantities, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<ResourceQuota>,
    default: no_defaults,
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
    column("Request", |quota| json!(amounts(quota, false))),
    column("Limit", |quota| json!(amounts(quota, true))),
    AGE,
];

/// `cpu: 1/2` of everything that is limited: limits, or all else.
fn amounts(quota: &Value, limits: bool) -> String {
    let hard = quota
        .pointer("/status/hard")
        .or(quota.pointer("/spec/hard"));
    let amounts: Vec<String> = hard
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = quota["status"]["used"][name].as_str().unwrap_or("0");
            format!("{name}: {used}/{}", hard.as_str().unwrap_or_default())
        })
        .collect();
    amounts.join(", ")
}

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    let hard = object.pointer("/spec/hard").and_then(Value::as_object);
    for (name, amount) in hard.into_iter().flatten() {
        quantities::quantity(amount, &format!("spec.hard[{name}]"), found);
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced("ResourceQuota", "nothing is refused on account of it")
}

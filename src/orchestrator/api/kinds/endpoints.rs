//! v1 Endpoints.

use k8s_openapi::api::core::v1::Endpoints;
use serde_json::{Value, json};

use super::parts::causes::no_rules;
use super::parts::cells::{AGE, NAME, column, list, number, or_none, text};
use super::parts::decode::through;
use super::parts::fields::{Object, children, set};
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<Endpoints>,
    default: defaults,
    name: names::subdomain,
    validate: no_rules,
    columns: &[NAME, column("Endpoints", endpoints), AGE],
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

fn defaults(object: &mut Object) {
    for subset in children(object, "subsets") {
        for port in children(subset, "ports") {
            set(Some(port), "protocol", json!("TCP"));
        }
    }
}

fn endpoints(object: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        for port in list(subset, "/ports") {
            for address in list(subset, "/addresses") {
                all.push(format!(
                    "{}:{}",
                    text(address, "/ip"),
                    number(port, "/port")
                ));
            }
        }
    }
    let more = all.len().saturating_sub(3);
    all.truncate(3);
    let shown = all.join(",");
    if more > 0 {
        json!(format!("{shown} + {more} more..."))
    } else {
        json!(or_none(&shown))
    }
}

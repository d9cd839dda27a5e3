//! discovery.k8s.io/v1 EndpointSlice.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use super::parts::causes::no_rules;
use super::parts::cells::{AGE, NAME, column, list, number, or_none, text};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<EndpointSlice>,
    default: no_defaults,
    name: names::subdomain,
    validate: no_rules,
    columns: &[
        NAME,
        column("AddressType", |slice| json!(text(slice, "/addressType"))),
        column("Ports", ports),
        column("Endpoints", endpoints),
        AGE,
    ],
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

fn ports(slice: &Value) -> Value {
    let ports: Vec<String> = list(slice, "/ports")
        .iter()
        .map(|port| number(port, "/port").to_string())
        .collect();
    json!(if ports.is_empty() {
        "<unset>".to_owned()
    } else {
        ports.join(",")
    })
}

fn endpoints(slice: &Value) -> Value {
    let mut all: Vec<&str> = list(slice, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .collect();
    let more = all.len().saturating_sub(3);
    all.truncate(3);
    let shown = all.join(",");
    if more > 0 {
        json!(format!("{shown} + {more} more..."))
    } else if shown.is_empty() {
        json!("<unset>")
    } else {
        json!(or_none(&shown))
    }
}

//! apiextensions.k8s.io/v1 CustomResourceDefinition: a kind that is served by what it says (`custom`).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{Column, NAME, column, text};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::api::custom;
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<CustomResourceDefinition>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule {
        begin: terminate,
        ..DeletionRule::AT_ONCE
    },
    allocate: Some(custom::names::accept),
    warnings: custom::not_enforced,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Created At", |crd| {
        json!(text(crd, "/metadata/creationTimestamp"))
    }),
];

fn defaults(object: &mut Object) {
    let Some(spec) = child(object, "spec") else {
        return;
    };
    if let Some(names) = child(spec, "names") {
        let kind = names.get("kind").and_then(Value::as_str);
        let kind = kind.unwrap_or_default().to_owned();
        if !kind.is_empty() {
            set(Some(names), "singular", json!(kind.to_lowercase()));
            set(Some(names), "listKind", json!(format!("{kind}List")));
        }
    }
    set(Some(spec), "conversion", json!({"strategy": "None"}));
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    custom::check(object, old, found);
}

/// Its objects go first: the garbage collector lets go of it when none is left.
fn terminate(object: &mut Object) {
    let mut whole = Value::Object(std::mem::take(object));
    let message = "CustomResource deletion is in progress";
    custom::names::set_condition(
        &mut whole,
        "Terminating",
        true,
        "InstanceDeletionInProgress",
        message,
    );
    if let Value::Object(map) = whole {
        *object = map;
    }
}

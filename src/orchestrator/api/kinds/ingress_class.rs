//! networking.k8s.io/v1 IngressClass: kept as it is, for a controller that the user deploys.

use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, text};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::not_enforced;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<IngressClass>,
    default: no_defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Controller", |class| json!(text(class, "/spec/controller"))),
    column("Parameters", |class| json!(parameters(class))),
    AGE,
];

fn parameters(class: &Value) -> String {
    let of = |field: &str| text(class, &format!("/spec/parameters/{field}"));
    let (kind, name) = (of("kind"), of("name"));
    match of("apiGroup") {
        _ if name.is_empty() => "<none>".to_owned(),
        "" => format!("{kind}/{name}"),
        group => format!("{kind}.{group}/{name}"),
    }
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let controller = text(object, "/spec/controller");
    if !controller.contains('/') {
        let value = json!(controller);
        found.invalid(
            "spec.controller",
            &value,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
    }
    if old.is_some_and(|old| text(old, "/spec/controller") != controller) {
        found.invalid("spec.controller", &json!(controller), "field is immutable");
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced(
        "IngressClass",
        "nothing serves its Ingresses unless an ingress controller is deployed",
    )
}

//! networking.k8s.io/v1 NetworkPolicy: kept as it is.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, list, or_none};
use super::parts::decode::through;
use super::parts::fields::{Object, child, children, set};
use super::parts::warnings::not_enforced;
use super::parts::{label_selector, names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: through::<NetworkPolicy>,
    default: defaults,
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
    column("Pod-Selector", |policy| {
        json!(or_none(&selector::written_labels(
            policy.pointer("/spec/podSelector")
        )))
    }),
    AGE,
];

/// Without types, `Egress` is meant only if there are rules for it.
fn defaults(object: &mut Object) {
    let Some(spec) = child(object, "spec") else {
        return;
    };
    let egress = spec.get("egress").is_some_and(|rules| !rules.is_null());
    let types = if egress {
        json!(["Ingress", "Egress"])
    } else {
        json!(["Ingress"])
    };
    set(Some(spec), "policyTypes", types);
    for direction in ["ingress", "egress"] {
        for rule in children(spec, direction) {
            for port in children(rule, "ports") {
                set(Some(port), "protocol", json!("TCP"));
            }
        }
    }
}

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    let null = Value::Null;
    let spec = object.get("spec").unwrap_or(&null);
    label_selector::validate(
        spec.get("podSelector").unwrap_or(&null),
        "spec.podSelector",
        found,
    );
    for (number, kind) in list(spec, "/policyTypes").iter().enumerate() {
        let path = format!("spec.policyTypes[{number}]");
        found.one_of(path, Some(kind), &["Egress", "Ingress"]);
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (number, rule) in list(spec, &format!("/{direction}")).iter().enumerate() {
            let path = format!("spec.{direction}[{number}]");
            rule_is_right(rule, peers, &path, found);
        }
    }
}

fn rule_is_right(rule: &Value, peers: &str, path: &str, found: &mut Causes) {
    for (number, port) in list(rule, "/ports").iter().enumerate() {
        found.one_of(
            format!("{path}.ports[{number}].protocol"),
            port.get("protocol"),
            &["SCTP", "TCP", "UDP"],
        );
    }
    for (number, peer) in list(rule, &format!("/{peers}")).iter().enumerate() {
        let path = format!("{path}.{peers}[{number}]");
        let given = |field: &str| peer.get(field).is_some_and(|value| !value.is_null());
        let selectors = ["podSelector", "namespaceSelector"];
        if given("ipBlock") && selectors.into_iter().any(given) {
            found.forbidden(
                path.as_str(),
                "may not specify both ipBlock and another peer",
            );
        } else if !given("ipBlock") && !selectors.into_iter().any(given) {
            found.required(path.as_str(), "must specify a peer");
        }
        for field in selectors.into_iter().filter(|field| given(field)) {
            label_selector::validate(&peer[field], &format!("{path}.{field}"), found);
        }
    }
}

fn warnings(_: &Value) -> Vec<String> {
    not_enforced("NetworkPolicy", "no traffic is filtered by it")
}

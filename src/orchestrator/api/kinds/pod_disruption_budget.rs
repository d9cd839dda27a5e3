//! policy/v1 PodDisruptionBudget.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, number};
use super::parts::decode::through;
use super::parts::fields::{Object, set};
use super::parts::warnings::no_warnings;
use super::parts::{label_selector, names, numbers, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<PodDisruptionBudget>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[],
    selector: selector::labels,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Min Available", |budget| {
        bound(budget, "/spec/minAvailable")
    }),
    column("Max Unavailable", |budget| {
        bound(budget, "/spec/maxUnavailable")
    }),
    column("Allowed Disruptions", |budget| {
        json!(number(budget, "/status/disruptionsAllowed").to_string())
    }),
    AGE,
];

fn bound(budget: &Value, pointer: &str) -> Value {
    match budget.pointer(pointer) {
        None | Some(Value::Null) => json!("N/A"),
        Some(Value::String(text)) => json!(text),
        Some(other) => json!(other.to_string()),
    }
}

/// What the controller has not counted yet allows nothing.
fn defaults(object: &mut Object) {
    let nothing = json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    set(Some(object), "status", nothing);
}

/// k8s.io/kubernetes/pkg/apis/policy/validation.
fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec").filter(|spec| spec.is_object()) else {
        return;
    };
    let given = |field: &str| spec.get(field).filter(|value| !value.is_null());
    if given("minAvailable").is_some() && given("maxUnavailable").is_some() {
        found.invalid(
            "spec",
            spec,
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if let Some(value) = given(field) {
            numbers::count_or_percent(value, &format!("spec.{field}"), found);
        }
    }
    if let Some(policy) = given("unhealthyPodEvictionPolicy") {
        found.one_of(
            "spec.unhealthyPodEvictionPolicy",
            Some(policy),
            &["AlwaysAllow", "IfHealthyBudget"],
        );
    }
    if let Some(selector) = given("selector") {
        label_selector::validate(selector, "spec.selector", found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(spec: &Value) -> Vec<String> {
        let mut found = Causes::default();
        validate(&json!({"spec": spec}), None, &mut found);
        found.0.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn bounds_are_checked() {
        let table = [
            (json!({"minAvailable": 1}), vec![]),
            (json!({"maxUnavailable": "50%", "selector": {}}), vec![]),
            (
                json!({"minAvailable": 1, "maxUnavailable": 1}),
                vec!["spec"],
            ),
            (json!({"minAvailable": -1}), vec!["spec.minAvailable"]),
            (
                json!({"maxUnavailable": "120%"}),
                vec!["spec.maxUnavailable"],
            ),
            (
                json!({"maxUnavailable": "few"}),
                vec!["spec.maxUnavailable"],
            ),
            (
                json!({"unhealthyPodEvictionPolicy": "Never"}),
                vec!["spec.unhealthyPodEvictionPolicy"],
            ),
            (
                json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}),
                vec!["spec.selector.matchExpressions[0].operator"],
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(fields(&spec), expected, "{spec}");
        }
    }

    #[test]
    fn its_row() {
        let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 2}, "status": {"disruptionsAllowed": 1}});
        let cells: Vec<Value> = COLUMNS[1..4]
            .iter()
            .map(|column| (column.cell)(&budget))
            .collect();
        assert_eq!(cells, [json!("2"), json!("N/A"), json!("1")]);
    }
}

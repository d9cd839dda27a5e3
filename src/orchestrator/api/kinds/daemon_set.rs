//! apps/v1 DaemonSet.

use k8s_openapi::api::apps::v1::DaemonSet;
use serde_json::{Map, Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, containers, number, or_none, text, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::{names, numbers, pod_defaults, selector, template};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<DaemonSet>,
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
    warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", |set| {
        json!(number(set, "/status/desiredNumberScheduled").to_string())
    }),
    column("Current", |set| {
        json!(number(set, "/status/currentNumberScheduled").to_string())
    }),
    column("Ready", |set| {
        json!(number(set, "/status/numberReady").to_string())
    }),
    column("Up-to-date", |set| {
        json!(number(set, "/status/updatedNumberScheduled").to_string())
    }),
    column("Available", |set| {
        json!(number(set, "/status/numberAvailable").to_string())
    }),
    column("Node Selector", |set| json!(or_none(&node_selector(set)))),
    AGE,
    wide("Containers", |set| json!(containers(set, "name"))),
    wide("Images", |set| json!(containers(set, "image"))),
    wide("Selector", |set| json!(or_none(&selector::labels(set)))),
];

fn node_selector(set: &Value) -> String {
    let labels = set.pointer("/spec/template/spec/nodeSelector");
    let labels = labels.and_then(Value::as_object);
    let pairs: Vec<String> = labels
        .into_iter()
        .flat_map(Map::iter)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.join(",")
}

/// k8s.io/kubernetes/pkg/apis/apps/v1/defaults.go.
fn defaults(object: &mut Object) {
    let Some(spec) = child(object, "spec") else {
        return;
    };
    set(Some(spec), "revisionHistoryLimit", json!(10));
    set(Some(spec), "updateStrategy", json!({}));
    if let Some(strategy) = child(spec, "updateStrategy") {
        set(Some(strategy), "type", json!("RollingUpdate"));
        if strategy["type"] == "RollingUpdate" {
            set(Some(strategy), "rollingUpdate", json!({}));
            set(child(strategy, "rollingUpdate"), "maxUnavailable", json!(1));
            set(child(strategy, "rollingUpdate"), "maxSurge", json!(0));
        }
    }
    pod_defaults::template(spec);
    let status = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
    set(Some(object), "status", status);
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    numbers::not_negative(spec, "spec", &["minReadySeconds"], found);
    template::validate_with_label_selector(spec, old, found);
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    found.one_of(
        "spec.updateStrategy.type",
        strategy.get("type"),
        &["OnDelete", "RollingUpdate"],
    );
    if text(strategy, "/type") == "RollingUpdate" {
        rolling_update(strategy.get("rollingUpdate").unwrap_or(&Value::Null), found);
    }
}

fn rolling_update(rolling: &Value, found: &mut Causes) {
    let path = "spec.updateStrategy.rollingUpdate";
    for field in ["maxUnavailable", "maxSurge"] {
        if let Some(value) = rolling.get(field).filter(|value| !value.is_null()) {
            numbers::count_or_percent(value, &format!("{path}.{field}"), found);
        }
    }
    match (
        is_zero(rolling, "maxUnavailable"),
        is_zero(rolling, "maxSurge"),
    ) {
        (true, true) => found.required(
            format!("{path}.maxUnavailable"),
            "cannot be 0 when maxSurge is 0",
        ),
        (false, false) => found.invalid(
            format!("{path}.maxSurge"),
            &rolling["maxSurge"],
            "may not be set when maxUnavailable is non-zero",
        ),
        _ => {}
    }
}

fn is_zero(rolling: &Value, field: &str) -> bool {
    let value = rolling.get(field).unwrap_or(&Value::Null);
    value.is_null() || *value == json!(0) || *value == json!("0%")
}

fn warnings(set: &Value) -> Vec<String> {
    let rolling = set.pointer("/spec/updateStrategy/rollingUpdate");
    if rolling.is_some_and(|rolling| !is_zero(rolling, "maxSurge")) {
        return vec!["spec.updateStrategy.rollingUpdate.maxSurge is not honoured by Flightcage: one pod at a time is replaced".to_owned()];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_checked() {
        for (strategy, expected) in [
            (json!({}), vec![]),
            (json!({"type": "OnDelete"}), vec![]),
            (json!({"rollingUpdate": {"maxUnavailable": "50%"}}), vec![]),
            (
                json!({"rollingUpdate": {"maxUnavailable": 0}}),
                vec!["spec.updateStrategy.rollingUpdate.maxUnavailable"],
            ),
            (
                json!({"rollingUpdate": {"maxSurge": 1}}),
                vec!["spec.updateStrategy.rollingUpdate.maxSurge"],
            ),
            (
                json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
                vec![],
            ),
        ] {
            let mut object = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": strategy,
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
            defaults(object.as_object_mut().expect("an object"));
            let mut found = Causes::default();
            validate(&object, None, &mut found);
            let fields: Vec<String> = found.0.into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, expected, "{strategy}");
            let surge = strategy.pointer("/rollingUpdate/maxSurge").is_some();
            assert_eq!(warnings(&object).len(), usize::from(surge), "{strategy}");
        }
    }
}

//! apps/v1 Deployment.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, containers, number, or_none, text, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::no_warnings;
use super::parts::{names, pod_defaults, selector, template};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status, Subresource::Scale],
    decode: through::<Deployment>,
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
    column("Ready", |deployment| {
        let ready = number(deployment, "/status/readyReplicas");
        json!(format!("{ready}/{}", number(deployment, "/spec/replicas")))
    }),
    column("Up-to-date", |deployment| {
        json!(number(deployment, "/status/updatedReplicas").to_string())
    }),
    column("Available", |deployment| {
        json!(number(deployment, "/status/availableReplicas").to_string())
    }),
    AGE,
    wide("Containers", |deployment| {
        json!(containers(deployment, "name"))
    }),
    wide("Images", |deployment| {
        json!(containers(deployment, "image"))
    }),
    wide("Selector", |deployment| {
        json!(or_none(&selector::labels(deployment)))
    }),
];

/// k8s.io/kubernetes/pkg/apis/apps/v1/defaults.go.
fn defaults(object: &mut Object) {
    let Some(spec) = child(object, "spec") else {
        return;
    };
    set(Some(spec), "replicas", json!(1));
    set(Some(spec), "revisionHistoryLimit", json!(10));
    set(Some(spec), "progressDeadlineSeconds", json!(600));
    set(Some(spec), "strategy", json!({}));
    if let Some(strategy) = child(spec, "strategy") {
        set(Some(strategy), "type", json!("RollingUpdate"));
        if strategy["type"] == "RollingUpdate" {
            set(Some(strategy), "rollingUpdate", json!({}));
            let rolling = child(strategy, "rollingUpdate");
            if let Some(rolling) = rolling {
                set(Some(rolling), "maxUnavailable", json!("25%"));
                set(Some(rolling), "maxSurge", json!("25%"));
            }
        }
    }
    pod_defaults::template(spec);
    set(Some(object), "status", json!({}));
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    template::replicas(spec, found);
    template::validate_with_label_selector(spec, old, found);
    let strategy = spec.get("strategy").unwrap_or(&Value::Null);
    found.one_of(
        "spec.strategy.type",
        strategy.get("type"),
        &["Recreate", "RollingUpdate"],
    );
    let rolling = strategy.get("rollingUpdate").filter(|one| one.is_object());
    match (text(strategy, "/type"), rolling) {
        ("Recreate", Some(_)) => found.forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        ("RollingUpdate", Some(rolling)) => rolling_update(rolling, found),
        _ => {}
    }
    let deadline = number(spec, "/progressDeadlineSeconds");
    if deadline <= number(spec, "/minReadySeconds") {
        found.invalid(
            "spec.progressDeadlineSeconds",
            &json!(deadline),
            "must be greater than minReadySeconds",
        );
    }
}

fn rolling_update(rolling: &Value, found: &mut Causes) {
    for field in ["maxUnavailable", "maxSurge"] {
        let value = rolling.get(field).unwrap_or(&Value::Null);
        let right = match value {
            Value::Number(number) => number.as_i64().is_some_and(|number| number >= 0),
            Value::String(text) => text
                .strip_suffix('%')
                .is_some_and(|percent| percent.parse::<u32>().is_ok()),
            _ => false,
        };
        if !right {
            found.invalid(
                format!("spec.strategy.rollingUpdate.{field}"),
                value,
                "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', or '93%'), or a whole number of at least 0",
            );
        }
    }
    let zero = |field: &str| {
        rolling
            .get(field)
            .is_some_and(|value| *value == json!(0) || *value == json!("0%"))
    };
    if zero("maxUnavailable") && zero("maxSurge") {
        found.invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            &rolling["maxUnavailable"],
            "may not be 0 when `maxSurge` is 0",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(mut object: Value, old: Option<&Value>) -> Vec<String> {
        defaults(object.as_object_mut().expect("an object"));
        let mut found = Causes::default();
        validate(&object, old, &mut found);
        found.0.into_iter().map(|cause| cause.field).collect()
    }

    fn deployment(strategy: &Value) -> Value {
        json!({"metadata": {"name": "d"}, "spec": {"strategy": strategy, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
    }

    #[test]
    fn what_is_left_out_is_filled_in_as_kubernetes_does() {
        let mut object = deployment(&json!({}));
        defaults(object.as_object_mut().expect("an object"));
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(object["spec"]["replicas"], json!(1));
        assert_eq!(object["spec"]["revisionHistoryLimit"], json!(10));
        assert_eq!(object["spec"]["progressDeadlineSeconds"], json!(600));
    }

    #[test]
    fn strategies_and_selectors_are_checked() {
        let table = [
            (json!({"type": "Recreate"}), vec![]),
            (
                json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
                vec!["spec.strategy.rollingUpdate"],
            ),
            (
                json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}}),
                vec!["spec.strategy.rollingUpdate.maxUnavailable"],
            ),
            (
                json!({"rollingUpdate": {"maxSurge": "some"}}),
                vec!["spec.strategy.rollingUpdate.maxSurge"],
            ),
            (json!({"type": "Sudden"}), vec!["spec.strategy.type"]),
        ];
        for (strategy, expected) in table {
            assert_eq!(fields(deployment(&strategy), None), expected, "{strategy}");
        }
        let mut other = deployment(&json!({}));
        other["spec"]["selector"]["matchLabels"] = json!({"a": "c"});
        let old = deployment(&json!({}));
        assert_eq!(
            fields(other, Some(&old)),
            ["spec.selector", "spec.template.metadata.labels"]
        );
    }
}

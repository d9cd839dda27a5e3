//! What workloads share: a number of replicas, a selector, and a template of pods.

use serde_json::{Map, Value};

use super::causes::Causes;
use super::names::labels;
use super::pod_spec;

/// `spec.replicas`.
pub(in crate::orchestrator::api) fn replicas(spec: &Value, found: &mut Causes) {
    for field in ["replicas", "minReadySeconds"] {
        if let Some(number) = spec
            .get(field)
            .filter(|number| number.as_i64().is_none_or(|count| count < 0))
        {
            found.invalid(
                format!("spec.{field}"),
                number,
                "must be greater than or equal to 0",
            );
        }
    }
}

/// `spec.template`, whose labels the selector must match.
pub(in crate::orchestrator::api) fn validate(
    spec: &Value,
    selects: impl Fn(&Value) -> bool,
    found: &mut Causes,
) {
    let Some(template) = spec.get("template").filter(|template| template.is_object()) else {
        return found.required("spec.template", "");
    };
    let meta = template.get("metadata").unwrap_or(&Value::Null);
    labels(meta, "labels", "spec.template.metadata.labels", found);
    let shown = meta
        .get("labels")
        .cloned()
        .unwrap_or_else(|| Value::Object(Map::new()));
    if !selects(&shown) {
        found.invalid(
            "spec.template.metadata.labels",
            &shown,
            "`selector` does not match template `labels`",
        );
    }
    let Some(inner) = template.get("spec").filter(|inner| inner.is_object()) else {
        return found.required("spec.template.spec", "");
    };
    pod_spec::pod_spec(inner, "spec.template.spec", found);
    if let Some(policy) = inner
        .get("restartPolicy")
        .filter(|policy| **policy != "Always")
    {
        found.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
}

/// A LabelSelector in `spec.selector`, which must be there and never changes, and the template that it must match.
pub(in crate::orchestrator::api) fn validate_with_label_selector(
    spec: &Value,
    old: Option<&Value>,
    found: &mut Causes,
) {
    let null = Value::Null;
    let selector = spec.get("selector").unwrap_or(&null);
    let expressions = || {
        selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    if !selector.is_object() {
        found.required("spec.selector", "");
    } else if labels.is_none_or(Map::is_empty) && expressions().next().is_none() {
        found.invalid(
            "spec.selector",
            selector,
            "empty selector is invalid for deployment",
        );
    }
    for (number, wanted) in expressions().enumerate() {
        found.one_of(
            format!("spec.selector.matchExpressions[{number}].operator"),
            wanted.get("operator"),
            &["In", "NotIn", "Exists", "DoesNotExist"],
        );
    }
    if let Some(before) = old.and_then(|old| old.pointer("/spec/selector"))
        && before != selector
    {
        found.invalid("spec.selector", selector, "field is immutable");
    }
    let matches = |found: &Value| {
        labels
            .into_iter()
            .flatten()
            .all(|(key, value)| found.get(key) == Some(value))
            && expressions().all(|wanted| meets(wanted, found))
    };
    validate(spec, matches, found);
}

/// Whether labels meet one expression of a selector.
fn meets(wanted: &Value, labels: &Value) -> bool {
    let value = wanted["key"].as_str().and_then(|key| labels.get(key));
    let named = || {
        wanted["values"]
            .as_array()
            .is_some_and(|values| value.is_some_and(|value| values.contains(value)))
    };
    match wanted["operator"].as_str().unwrap_or_default() {
        "In" => named(),
        "NotIn" => !named(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        // Named as wrong already.
        _ => true,
    }
}

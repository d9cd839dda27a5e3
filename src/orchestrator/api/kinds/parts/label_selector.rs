//! A LabelSelector (k8s.io/apimachinery/pkg/apis/meta/v1/validation).

use serde_json::{Map, Value};

use super::causes::Causes;
use super::names::labels;

/// Whether it selects by nothing at all.
pub(in crate::orchestrator::api) fn is_empty(selector: &Value) -> bool {
    let none = |field: &str| match selector.get(field) {
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        _ => true,
    };
    none("matchLabels") && none("matchExpressions")
}

/// What is wrong with it.
pub(in crate::orchestrator::api) fn validate(selector: &Value, path: &str, found: &mut Causes) {
    labels(
        selector,
        "matchLabels",
        &format!("{path}.matchLabels"),
        found,
    );
    for (number, wanted) in expressions(selector).enumerate() {
        let path = format!("{path}.matchExpressions[{number}]");
        found.one_of(
            format!("{path}.operator"),
            wanted.get("operator"),
            &["In", "NotIn", "Exists", "DoesNotExist"],
        );
        let values = wanted["values"].as_array().map_or(0, Vec::len);
        match wanted["operator"].as_str().unwrap_or_default() {
            "In" | "NotIn" if values == 0 => found.required(
                format!("{path}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "Exists" | "DoesNotExist" if values > 0 => found.forbidden(
                format!("{path}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ),
            _ => {}
        }
    }
}

/// Whether labels meet all of it.
pub(in crate::orchestrator::api) fn selects(selector: &Value, labels: &Value) -> bool {
    selector
        .get("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::iter)
        .all(|(key, value)| labels.get(key) == Some(value))
        && expressions(selector).all(|wanted| meets(wanted, labels))
}

fn expressions(selector: &Value) -> impl Iterator<Item = &Value> {
    selector
        .get("matchExpressions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// Whether labels meet one expression.
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

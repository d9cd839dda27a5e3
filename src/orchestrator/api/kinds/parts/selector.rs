//! An object's own selector, as a request would write it.

use serde_json::Value;

/// The object selects nothing.
pub(in crate::orchestrator::api) fn none(_: &Value) -> String {
    String::new()
}

/// `spec.selector` maps labels to values.
pub(in crate::orchestrator::api) fn equality(object: &Value) -> String {
    written(object.pointer("/spec/selector")).join(",")
}

/// `spec.selector` is a LabelSelector.
pub(in crate::orchestrator::api) fn labels(object: &Value) -> String {
    written_labels(object.pointer("/spec/selector"))
}

/// A LabelSelector.
pub(in crate::orchestrator::api) fn written_labels(selector: Option<&Value>) -> String {
    let part = |field: &str| selector.and_then(|selector| selector.get(field));
    let mut parts = written(part("matchLabels"));
    let expressions = part("matchExpressions").and_then(Value::as_array);
    for wanted in expressions.into_iter().flatten() {
        let key = wanted["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = wanted["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        parts.push(match wanted["operator"].as_str().unwrap_or_default() {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            operator => format!("{key} {} ({})", operator.to_lowercase(), values.join(",")),
        });
    }
    parts.join(",")
}

/// Every pair of a map of labels.
fn written(labels: Option<&Value>) -> Vec<String> {
    labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_written_as_a_request_would() {
        let object = json!({"spec": {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"}]}}});
        assert_eq!(labels(&object), "a=b,c notin (d,e),!f");
    }
}

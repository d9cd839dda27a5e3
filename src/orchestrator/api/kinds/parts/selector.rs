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

/// Every pair of a map of labels.
pub(super) fn written(labels: Option<&Value>) -> Vec<String> {
    labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect()
}

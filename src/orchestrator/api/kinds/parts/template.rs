//! What workloads share: a number of replicas, a selector, and a template of pods.

use serde_json::{Map, Value};

use super::causes::Causes;
use super::names::labels;
use super::{label_selector, numbers, pod_spec};

/// `spec.replicas`.
pub(in crate::orchestrator::api) fn replicas(spec: &Value, found: &mut Causes) {
    numbers::not_negative(spec, "spec", &["replicas", "minReadySeconds"], found);
}

/// `spec.template`, whose labels the selector must match, and whose pods are always started again.
pub(in crate::orchestrator::api) fn validate(
    spec: &Value,
    selects: impl Fn(&Value) -> bool,
    found: &mut Causes,
) {
    validate_with_policies(spec, selects, &["Always"], found);
}

/// As [`validate`], with other restart policies.
pub(in crate::orchestrator::api) fn validate_with_policies(
    spec: &Value,
    selects: impl Fn(&Value) -> bool,
    policies: &[&str],
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
        .filter(|policy| !policies.iter().any(|known| *known == **policy))
    {
        found.unsupported("spec.template.spec.restartPolicy", policy, policies);
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
    if !selector.is_object() {
        found.required("spec.selector", "");
    } else if label_selector::is_empty(selector) {
        found.invalid(
            "spec.selector",
            selector,
            "empty selector is invalid for deployment",
        );
    }
    label_selector::validate(selector, "spec.selector", found);
    if let Some(before) = old.and_then(|old| old.pointer("/spec/selector"))
        && before != selector
    {
        found.invalid("spec.selector", selector, "field is immutable");
    }
    let matches = |labels: &Value| label_selector::selects(selector, labels);
    validate(spec, matches, found);
}

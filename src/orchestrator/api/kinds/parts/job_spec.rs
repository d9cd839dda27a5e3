//! A Job's spec, by itself and in a CronJob (k8s.io/kubernetes/pkg/apis/batch/validation).

use serde_json::Value;

use super::causes::Causes;
use super::{label_selector, numbers, pod_spec, template};

/// How the pods of Jobs are started again: at some time they end.
const RESTART_POLICIES: &[&str] = &["OnFailure", "Never"];
/// What would be taken for something else if it were left out.
const NOT_SUPPORTED: [&str; 6] = [
    "podFailurePolicy",
    "successPolicy",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
    "managedBy",
    "scheduling",
];

/// Everything but its template.
pub(in crate::orchestrator::api) fn validate(spec: &Value, path: &str, found: &mut Causes) {
    let fields = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ];
    numbers::not_negative(spec, path, &fields, found);
    let given = |field: &str| spec.get(field).filter(|value| !value.is_null());
    if let Some(mode) = given("completionMode") {
        found.one_of(
            format!("{path}.completionMode"),
            Some(mode),
            &["Indexed", "NonIndexed"],
        );
        if mode == "Indexed" && given("completions").is_none() {
            found.required(
                format!("{path}.completions"),
                "when completion mode is Indexed",
            );
        }
    }
    if let Some(policy) = given("podReplacementPolicy") {
        found.one_of(
            format!("{path}.podReplacementPolicy"),
            Some(policy),
            &["Failed", "TerminatingOrFailed"],
        );
    }
    for field in NOT_SUPPORTED
        .into_iter()
        .filter(|field| given(field).is_some())
    {
        found.forbidden(format!("{path}.{field}"), "is not supported by Flightcage");
    }
}

/// Its template, which its selector must match.
pub(in crate::orchestrator::api) fn template(spec: &Value, found: &mut Causes) {
    let null = Value::Null;
    let selector = spec.get("selector").unwrap_or(&null);
    if selector.is_object() {
        label_selector::validate(selector, "spec.selector", found);
    } else {
        found.required("spec.selector", "");
    }
    let selects = |labels: &Value| label_selector::selects(selector, labels);
    template::validate_with_policies(spec, selects, RESTART_POLICIES, found);
}

/// The pods of a template of Jobs.
pub(in crate::orchestrator::api) fn pods(spec: &Value, path: &str, found: &mut Causes) {
    let path = format!("{path}.template.spec");
    let Some(pod) = spec.pointer("/template/spec").filter(|pod| pod.is_object()) else {
        return found.required(path, "");
    };
    pod_spec::pod_spec(pod, &path, found);
    if let Some(policy) = pod
        .get("restartPolicy")
        .filter(|policy| !RESTART_POLICIES.iter().any(|known| *known == **policy))
    {
        found.unsupported(format!("{path}.restartPolicy"), policy, RESTART_POLICIES);
    }
}

//! Validation of a pod's spec (k8s.io/kubernetes/pkg/apis/core/validation), in pods and in templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::causes::Causes;
use super::container::container;
use super::names::{list, name_of};

pub(in crate::orchestrator::api) fn pod_spec(spec: &Value, path: &str, found: &mut Causes) {
    found.one_of(
        format!("{path}.restartPolicy"),
        spec.get("restartPolicy"),
        &["Always", "OnFailure", "Never"],
    );
    found.one_of(
        format!("{path}.dnsPolicy"),
        spec.get("dnsPolicy"),
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
    );
    let grace = spec.get("terminationGracePeriodSeconds");
    if let Some(grace) = grace.filter(|grace| grace.as_i64().is_none_or(|seconds| seconds < 0)) {
        found.invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            grace,
            "must be greater than or equal to 0",
        );
    }
    let mut volumes = BTreeSet::new();
    for (number, volume) in list(spec, "volumes") {
        name_of(
            volume,
            &format!("{path}.volumes[{number}].name"),
            &mut volumes,
            found,
        );
    }
    if list(spec, "containers").next().is_none() {
        found.required(format!("{path}.containers"), "");
    }
    let mut names = BTreeSet::new();
    for field in ["initContainers", "containers"] {
        for (number, one) in list(spec, field) {
            let path = format!("{path}.{field}[{number}]");
            name_of(one, &format!("{path}.name"), &mut names, found);
            container(one, &path, &volumes, found);
        }
    }
}

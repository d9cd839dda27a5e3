//! Kubernetes' validation (k8s.io/kubernetes/pkg/apis/core/validation), for the kinds served here: every wrong field at once.

use serde_json::Value;

use super::kinds::parts::causes::{Causes, Quoting};
use super::kinds::parts::names::{is_qualified_name, labels, text};
use super::kinds::{self, Cause, Kind};
use super::limits::ANNOTATIONS_BYTES;

/// What is wrong with `object`, which has its defaults; `old` is what it replaces.
#[must_use]
pub fn check(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut found = Causes::default();
    if kind.is(&kinds::SECRET) {
        found.1 = Quoting::Redacted;
    }
    metadata(kind, object, &mut found);
    match kind.definition() {
        Some(definition) => definition.validate(object, old, &mut found),
        None => (kind.strategy.validate)(object, old, &mut found),
    }
    found.0
}

fn metadata(kind: &Kind, object: &Value, found: &mut Causes) {
    let name = text(object, "/metadata/name");
    if name.is_empty() {
        found.required("metadata.name", "name or generateName is required");
    } else if let Some(problem) = (kind.strategy.name)(name) {
        found.invalid("metadata.name", &Value::from(name), problem);
    }
    let meta = object.get("metadata").unwrap_or(&Value::Null);
    labels(meta, "labels", "metadata.labels", found);
    let mut annotations = 0;
    for (key, value) in meta
        .get("annotations")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        annotations += key.len() + value.as_str().map_or(0, str::len);
        if !is_qualified_name(&key.to_lowercase()) {
            found.invalid(
                "metadata.annotations",
                &Value::from(key.as_str()),
                "name part must consist of alphanumeric characters, '-', '_' or '.'",
            );
        }
    }
    if annotations > ANNOTATIONS_BYTES {
        found.too_long("metadata.annotations", ANNOTATIONS_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::{defaults, kinds};

    fn fields(kind: &Kind, mut object: Value) -> Vec<String> {
        defaults::apply(kind, &mut object);
        check(kind, &object, None)
            .into_iter()
            .map(|cause| cause.field)
            .collect()
    }

    #[test]
    fn a_right_pod_passes_and_a_wrong_one_has_every_cause() {
        let right = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}}}]}});
        assert_eq!(fields(&kinds::POD, right), Vec::<String>::new());
        let wrong = json!({"metadata": {"name": "P_"}, "spec": {"restartPolicy": "Maybe", "containers": [
            {"name": "c", "ports": [{"containerPort": 0, "name": "toolongportname1"}], "env": [{"name": "1A"}],
             "livenessProbe": {"httpGet": {"port": 80}, "exec": {"command": ["x"]}}, "resources": {"limits": {"cpu": "lots"}}},
            {"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}});
        let expected = [
            "metadata.name",
            "spec.restartPolicy",
            "spec.containers[0].image",
            "spec.containers[0].ports[0].containerPort",
            "spec.containers[0].ports[0].name",
            "spec.containers[0].env[0].name",
            "spec.containers[0].resources.limits[cpu]",
            "spec.containers[0].resources.requests[cpu]",
            "spec.containers[0].livenessProbe.httpGet",
            "spec.containers[1].name",
            "spec.containers[1].volumeMounts[0].name",
        ];
        assert_eq!(fields(&kinds::POD, wrong), expected);
    }

    #[test]
    fn annotations_are_bounded_all_together_and_messages_in_what_they_repeat() {
        let with = |value: String| {
            let annotations = json!({"a/b": value, "c": "x".repeat(100)});
            fields(
                &kinds::CONFIG_MAP,
                json!({"metadata": {"name": "m", "annotations": annotations}}),
            )
        };
        assert_eq!(with("é".repeat(131_020)), Vec::<String>::new());
        assert_eq!(with("é".repeat(131_021)), ["metadata.annotations"]);
        let long = json!({"metadata": {"name": "é".repeat(100_000), "labels": {"é".repeat(100_000): "é".repeat(100_000)}}});
        for cause in check(&kinds::CONFIG_MAP, &long, None) {
            assert!(cause.message.chars().count() < 1024, "{}", cause.field);
        }
    }

    #[test]
    fn a_selector_must_match_its_template() {
        let rc = json!({"metadata": {"name": "r"}, "spec": {"selector": {"a": "b"}, "template": {"metadata": {"labels": {"a": "c"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        assert_eq!(
            fields(&kinds::REPLICATION_CONTROLLER, rc),
            [
                "spec.template.metadata.labels",
                "spec.template.spec.restartPolicy"
            ]
        );
    }

    #[test]
    fn services_and_secrets() {
        let service = json!({"metadata": {"name": "1s"}, "spec": {"ports": [{"port": 80}, {"port": 80, "name": "a"}, {"port": 70000, "name": "a"}]}});
        let expected = [
            "metadata.name",
            "spec.ports[0].name",
            "spec.ports[1]",
            "spec.ports[2].port",
            "spec.ports[2].targetPort",
            "spec.ports[2].name",
        ];
        assert_eq!(fields(&kinds::SERVICE, service), expected);
        let secret = json!({"metadata": {"name": "s"}, "data": {"purplebooth-co-uk.crt": "dg==", "b/d": "dg==", "c": "geheim!"}});
        let causes = check(&kinds::SECRET, &secret, None);
        assert_eq!(
            causes
                .iter()
                .map(|cause| cause.field.as_str())
                .collect::<Vec<_>>(),
            ["data[b/d]", "data[c]"]
        );
        assert!(causes.iter().all(|cause| !cause.message.contains("geheim")));
    }

    #[test]
    fn a_pods_spec_is_frozen_but_for_its_images() {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
        defaults::apply(&kinds::POD, &mut pod);
        let mut next = pod.clone();
        next["spec"]["containers"][0]["image"] = json!("i:2");
        assert!(check(&kinds::POD, &next, Some(&pod)).is_empty());
        next["spec"]["nodeName"] = json!("w1");
        assert_eq!(check(&kinds::POD, &next, Some(&pod)).len(), 1);
    }
}

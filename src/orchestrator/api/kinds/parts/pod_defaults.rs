//! Kubernetes' defaults of a pod's spec (k8s.io/kubernetes/pkg/apis/core/v1/defaults.go).

use serde_json::{Value, json};

use super::fields::{Object, child, children, set};

pub(in crate::orchestrator::api) fn pod_spec(spec: &mut Object) {
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
        ("enableServiceLinks", json!(true)),
    ] {
        set(Some(spec), field, value);
    }
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        set(Some(spec), "serviceAccount", account);
    }
    for field in ["initContainers", "containers"] {
        children(spec, field).for_each(container);
    }
    for volume in children(spec, "volumes") {
        for field in ["secret", "configMap", "projected", "downwardAPI"] {
            set(child(volume, field), "defaultMode", json!(0o644));
        }
        if volume.len() <= 1 {
            set(Some(volume), "emptyDir", json!({}));
        }
        set(child(volume, "hostPath"), "type", json!(""));
    }
}

fn container(container: &mut Object) {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let policy = if pulls_always(image) {
        "Always"
    } else {
        "IfNotPresent"
    };
    for (field, value) in [
        ("resources", json!({})),
        ("terminationMessagePath", json!("/dev/termination-log")),
        ("terminationMessagePolicy", json!("File")),
        ("imagePullPolicy", json!(policy)),
    ] {
        set(Some(container), field, value);
    }
    for port in children(container, "ports") {
        set(Some(port), "protocol", json!("TCP"));
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = child(container, field) {
            probe(found);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(handler) = child(lifecycle, field) {
                http_get(handler);
            }
        }
    }
    for variable in children(container, "env") {
        if let Some(source) = child(variable, "valueFrom") {
            set(child(source, "fieldRef"), "apiVersion", json!("v1"));
        }
    }
    if let Some(resources) = child(container, "resources")
        && let Some(Value::Object(limits)) = resources.get("limits").cloned()
    {
        set(Some(resources), "requests", json!({}));
        for (name, quantity) in limits {
            set(child(resources, "requests"), &name, quantity);
        }
    }
}

/// Whether the tag is `latest` or missing. A digest is fixed.
fn pulls_always(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe(probe: &mut Object) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        if probe.get(field).and_then(Value::as_i64) == Some(0) {
            probe.shift_remove(field);
        }
        set(Some(probe), field, json!(value));
    }
    http_get(probe);
    set(child(probe, "grpc"), "service", json!(""));
}

fn http_get(handler: &mut Object) {
    set(child(handler, "httpGet"), "path", json!("/"));
    set(child(handler, "httpGet"), "scheme", json!("HTTP"));
}

/// The defaults of a pod template in `spec.template`.
pub(in crate::orchestrator::api) fn template(spec: &mut Object) {
    if let Some(template) = child(spec, "template") {
        let metadata = template.entry("metadata").or_insert_with(|| json!({}));
        set(metadata.as_object_mut(), "creationTimestamp", Value::Null);
        if let Some(inner) = child(template, "spec") {
            pod_spec(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, always) in [
            ("a", true),
            ("a:latest", true),
            ("a:v1", false),
            ("h:5000/a", true),
            ("h:5000/a:v1", false),
            ("a@sha256:0", false),
        ] {
            assert_eq!(pulls_always(image), always, "{image}");
        }
    }
}

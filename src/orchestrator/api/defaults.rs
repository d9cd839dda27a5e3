//! Kubernetes' defaults (k8s.io/kubernetes/pkg/apis/core/v1/defaults.go), on the objects as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Map, Value, json};

use super::kinds::{self, Kind};
use crate::model::json;
use crate::orchestrator::quality::Quality;

type Object = Map<String, Value>;

/// Fills in what the client left out. Idempotent.
pub fn apply(kind: &Kind, object: &mut Value) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    if kind.is(&kinds::POD) {
        if let Some(spec) = child(map, "spec") {
            pod_spec(spec);
        }
        let class = map
            .get("spec")
            .and_then(|spec| json::from_value::<PodSpec>(spec).ok())
            .map(|spec| Quality::of(&spec));
        let status = map.entry("status").or_insert_with(|| json!({}));
        set(status.as_object_mut(), "phase", json!("Pending"));
        if let Some(class) = class {
            set(status.as_object_mut(), "qosClass", json!(class.as_str()));
        }
    } else if kind.is(&kinds::REPLICATION_CONTROLLER) {
        replication_controller(map);
    } else if kind.is(&kinds::SERVICE) {
        service(map);
    } else if kind.is(&kinds::SECRET) {
        secret(map);
    } else if kind.is(&kinds::NAMESPACE) {
        namespace(map);
    } else if kind.is(&kinds::ENDPOINTS) {
        for subset in children(map, "subsets") {
            for port in children(subset, "ports") {
                set(Some(port), "protocol", json!("TCP"));
            }
        }
    }
}

fn child<'a>(map: &'a mut Object, field: &str) -> Option<&'a mut Object> {
    map.get_mut(field)?.as_object_mut()
}

fn children<'a>(map: &'a mut Object, field: &str) -> impl Iterator<Item = &'a mut Object> {
    map.get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Sets a field that is absent or null.
fn set(map: Option<&mut Object>, field: &str, value: Value) {
    if let Some(map) = map
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.to_owned(), value);
    }
}

fn pod_spec(spec: &mut Object) {
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

fn replication_controller(map: &mut Object) {
    let Some(spec) = child(map, "spec") else {
        return;
    };
    set(Some(spec), "replicas", json!(1));
    let labels = spec
        .get("template")
        .and_then(|template| template.pointer("/metadata/labels"))
        .cloned();
    if let Some(template) = child(spec, "template") {
        let metadata = template.entry("metadata").or_insert_with(|| json!({}));
        set(metadata.as_object_mut(), "creationTimestamp", Value::Null);
        if let Some(inner) = child(template, "spec") {
            pod_spec(inner);
        }
    }
    if let Some(labels) =
        labels.filter(|labels| labels.as_object().is_some_and(|labels| !labels.is_empty()))
    {
        if spec
            .get("selector")
            .and_then(Value::as_object)
            .is_none_or(Map::is_empty)
        {
            spec.insert("selector".to_owned(), labels.clone());
        }
        let metadata = map.entry("metadata").or_insert_with(|| json!({}));
        if metadata
            .get("labels")
            .and_then(Value::as_object)
            .is_none_or(Map::is_empty)
            && let Some(metadata) = metadata.as_object_mut()
        {
            metadata.insert("labels".to_owned(), labels);
        }
    }
    set(Some(map), "status", json!({"replicas": 0}));
}

fn service(map: &mut Object) {
    let Some(spec) = child(map, "spec") else {
        return;
    };
    set(Some(spec), "type", json!("ClusterIP"));
    set(Some(spec), "sessionAffinity", json!("None"));
    let kind = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    for port in children(spec, "ports") {
        set(Some(port), "protocol", json!("TCP"));
        let number = port.get("port").cloned().unwrap_or_default();
        if port
            .get("targetPort")
            .is_none_or(|target| target.is_null() || *target == json!(0) || *target == json!(""))
        {
            port.insert("targetPort".to_owned(), number);
        }
    }
    if kind != "ExternalName" {
        set(Some(spec), "internalTrafficPolicy", json!("Cluster"));
        set(Some(spec), "ipFamilies", json!(["IPv4"]));
        set(Some(spec), "ipFamilyPolicy", json!("SingleStack"));
    }
    if kind == "NodePort" || kind == "LoadBalancer" {
        set(Some(spec), "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(Some(spec), "allocateLoadBalancerNodePorts", json!(true));
    }
    set(Some(map), "status", json!({"loadBalancer": {}}));
}

fn secret(map: &mut Object) {
    set(Some(map), "type", json!("Opaque"));
    for value in child(map, "data")
        .into_iter()
        .flat_map(|data| data.values_mut())
    {
        // Go's decoder passes over line breaks, and Kubernetes stores what it encoded again (encoding/base64, Encoding.Decode).
        if let Some(text) = value.as_str().filter(|text| text.contains(['\r', '\n'])) {
            *value = json!(text.replace(['\r', '\n'], ""));
        }
    }
    let Some(Value::Object(plain)) = map.shift_remove("stringData") else {
        return;
    };
    let data = map.entry("data").or_insert_with(|| json!({}));
    if !data.is_object() {
        *data = json!({});
    }
    for (key, value) in plain {
        let text = value.as_str().unwrap_or_default();
        data[key] = json!(STANDARD.encode(text));
    }
}

fn namespace(map: &mut Object) {
    let metadata = map.entry("metadata").or_insert_with(|| json!({}));
    let name = metadata.get("name").cloned().unwrap_or_default();
    if let Some(metadata) = metadata.as_object_mut() {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        set(labels.as_object_mut(), "kubernetes.io/metadata.name", name);
    }
    let terminating = map
        .get("metadata")
        .and_then(|metadata| metadata.get("deletionTimestamp"))
        .is_some();
    if !terminating {
        set(Some(map), "spec", json!({"finalizers": ["kubernetes"]}));
        set(Some(map), "status", json!({"phase": "Active"}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slides_replication_controller() {
        let mut rc = json!({"metadata": {"name": "r"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "quay.io/purplebooth/flappy-endpoint", "ports": [{"containerPort": 80}],
             "livenessProbe": {"httpGet": {"port": 80}, "initialDelaySeconds": 15}}],
            "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}}});
        apply(&kinds::REPLICATION_CONTROLLER, &mut rc);
        assert_eq!(rc["spec"]["replicas"], json!(1));
        assert_eq!(rc["spec"]["selector"], json!({"a": "b"}));
        assert_eq!(rc["metadata"]["labels"], json!({"a": "b"}));
        let spec = &rc["spec"]["template"]["spec"];
        assert_eq!(spec["restartPolicy"], json!("Always"));
        assert_eq!(spec["volumes"][0]["secret"]["defaultMode"], json!(420));
        let container = &spec["containers"][0];
        assert_eq!(container["imagePullPolicy"], json!("Always"));
        assert_eq!(container["ports"][0]["protocol"], json!("TCP"));
        let expected = json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "initialDelaySeconds": 15,
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3});
        assert_eq!(container["livenessProbe"], expected);
        let once = rc.clone();
        apply(&kinds::REPLICATION_CONTROLLER, &mut rc);
        assert_eq!(rc, once);
    }

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

    #[test]
    fn services_and_secrets() {
        let mut service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
        apply(&kinds::SERVICE, &mut service);
        assert_eq!(
            service["spec"]["ports"][0],
            json!({"port": 80, "protocol": "TCP", "targetPort": 80})
        );
        assert_eq!(service["spec"]["type"], json!("ClusterIP"));
        let mut secret = json!({"metadata": {"name": "s"}, "stringData": {"k": "v"}});
        apply(&kinds::SECRET, &mut secret);
        assert_eq!(
            secret,
            json!({"metadata": {"name": "s"}, "type": "Opaque", "data": {"k": "dg=="}})
        );
        let mut folded = json!({"metadata": {"name": "s"}, "data": {"k": "dg\r\n==\n", "l": "d g==", "m": null}});
        apply(&kinds::SECRET, &mut folded);
        assert_eq!(
            folded["data"],
            json!({"k": "dg==", "l": "d g==", "m": null})
        );
    }
}

//! v1 ReplicationController.

use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Map, Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, containers, number, or_none, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::names::{self, labels};
use super::parts::{pod_defaults, pod_spec, selector};
use super::{DeletionRule, Generation, Propagation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status, Subresource::Scale],
    decode: through::<ReplicationController>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &["status.replicas"],
    selector: selector::equality,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule {
        propagation: Propagation::Orphan,
        ..DeletionRule::AT_ONCE
    },
    allocate: None,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Desired", |rc| {
        json!(number(rc, "/spec/replicas").to_string())
    }),
    column("Current", |rc| {
        json!(number(rc, "/status/replicas").to_string())
    }),
    column("Ready", |rc| {
        json!(number(rc, "/status/readyReplicas").to_string())
    }),
    AGE,
    wide("Containers", |rc| json!(containers(rc, "name"))),
    wide("Images", |rc| json!(containers(rc, "image"))),
    wide("Selector", |rc| json!(or_none(&selector::equality(rc)))),
];

fn defaults(map: &mut Object) {
    let Some(spec) = child(map, "spec") else {
        return;
    };
    set(Some(spec), "replicas", json!(1));
    let labels = spec
        .get("template")
        .and_then(|template| template.pointer("/metadata/labels"))
        .cloned();
    pod_defaults::template(spec);
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

fn validate(object: &Value, _: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    if let Some(replicas) = spec
        .get("replicas")
        .filter(|replicas| replicas.as_i64().is_none_or(|count| count < 0))
    {
        found.invalid(
            "spec.replicas",
            replicas,
            "must be greater than or equal to 0",
        );
    }
    let selector = spec
        .get("selector")
        .and_then(Value::as_object)
        .filter(|selector| !selector.is_empty());
    if selector.is_none() {
        found.required("spec.selector", "");
    }
    let Some(template) = spec.get("template").filter(|template| template.is_object()) else {
        return found.required("spec.template", "");
    };
    let meta = template.get("metadata").unwrap_or(&Value::Null);
    labels(meta, "labels", "spec.template.metadata.labels", found);
    if let Some(selector) = selector {
        let matches = selector.iter().all(|(key, value)| {
            meta.pointer("/labels").and_then(|labels| labels.get(key)) == Some(value)
        });
        if !matches {
            let shown = meta
                .get("labels")
                .cloned()
                .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
            found.invalid(
                "spec.template.metadata.labels",
                &shown,
                "`selector` does not match template `labels`",
            );
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slides_replication_controller() {
        let mut rc = json!({"metadata": {"name": "r"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
            {"name": "c", "image": "quay.io/purplebooth/flappy-endpoint", "ports": [{"containerPort": 80}],
             "livenessProbe": {"httpGet": {"port": 80}, "initialDelaySeconds": 15}}],
            "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}}});
        defaults(rc.as_object_mut().expect("an object"));
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
        defaults(rc.as_object_mut().expect("an object"));
        assert_eq!(rc, once);
    }
}

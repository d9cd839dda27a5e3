//! v1 ReplicationController.

use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Map, Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, containers, number, or_none, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::no_warnings;
use super::parts::{names, pod_defaults, selector, template};
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
    warnings: no_warnings,
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
    template::replicas(spec, found);
    let selector = spec
        .get("selector")
        .and_then(Value::as_object)
        .filter(|selector| !selector.is_empty());
    if selector.is_none() {
        found.required("spec.selector", "");
    }
    let matches = |labels: &Value| {
        selector.is_none_or(|selector| {
            selector
                .iter()
                .all(|(key, value)| labels.get(key) == Some(value))
        })
    };
    template::validate(spec, matches, found);
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

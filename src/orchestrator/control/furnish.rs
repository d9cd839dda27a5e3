//! What every namespace has: the ServiceAccount `default`, and the cluster's certificate authority in the ConfigMap
//! `kube-root-ca.crt`.
//!
//! As Kubernetes' `pkg/controller/serviceaccount/serviceaccounts_controller.go` and `certificates/rootcacertpublisher`.

use serde_json::{Value, json};

use super::world::{Action, Decision, World};

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    let alive = world
        .namespaces
        .values()
        .filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    for namespace in alive {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        let mut missing = |kind: &'static str, object: Value| {
            let called = object["metadata"]["name"].as_str().unwrap_or_default();
            if !world.has(kind, name, called) {
                decision.actions.push(Action::Create {
                    kind,
                    namespace: name.to_owned(),
                    object,
                });
            }
        };
        missing("ServiceAccount", json!({"metadata": {"name": "default"}}));
        if !world.root_ca.is_empty() {
            let metadata = json!({
                "name": "kube-root-ca.crt",
                "annotations": {"kubernetes.io/description": "The certificate authority of the API server."},
            });
            let data = json!({"ca.crt": &*world.root_ca});
            missing("ConfigMap", json!({"metadata": metadata, "data": data}));
        }
    }
    decision
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_that_stays_is_furnished_once() {
        let namespace = |name: &str, leaving: bool| {
            let mut value = json!({"metadata": {"name": name}});
            if leaving {
                value["metadata"]["deletionTimestamp"] = json!("2026-11-30T00:00:00Z");
            }
            let typed = serde_json::from_value(value).expect("a namespace");
            ((String::new(), name.to_owned()), std::sync::Arc::new(typed))
        };
        let mut world = World {
            namespaces: [namespace("a", false), namespace("b", true)].into(),
            root_ca: "PEM".into(),
            ..World::default()
        };
        let made = reconcile(&world).actions;
        let names: Vec<_> = made
            .iter()
            .map(|action| match action {
                Action::Create {
                    namespace, object, ..
                } => format!("{namespace}/{}", object["metadata"]["name"]),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["a/\"default\"", "a/\"kube-root-ca.crt\""]);
        for (kind, name) in [
            ("ServiceAccount", "default"),
            ("ConfigMap", "kube-root-ca.crt"),
        ] {
            let metadata = json!({"name": name, "namespace": "a"});
            let metadata = serde_json::from_value(metadata).expect("metadata");
            world.others.push((kind, std::sync::Arc::new(metadata)));
        }
        assert_eq!(reconcile(&world), Decision::default());
    }
}

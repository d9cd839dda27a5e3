//! A cluster in memory: what the registry and the agents do with the controllers' actions.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::orchestrator::api::kinds;
use crate::orchestrator::control::reconcile;
use crate::orchestrator::control::world::{
    Action, Decision, Key, Liveness, World, controller_of, is_active, node_of, phase, seen_whole,
};

/// Rounds after which the controllers must have come to rest.
pub(super) const ROUNDS_MAX: usize = 60;

pub(super) struct Cluster {
    pub(super) world: World,
    pub(super) next: u64,
    pub(super) events: Vec<String>,
    /// Nodes whose agents do not run.
    pub(super) off: Vec<String>,
}

pub(super) fn typed<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).expect("a test's object is right"))
}

macro_rules! stored {
    ($($field:ident: $type:ty = $kind:ident;)*) => {
        fn insert(world: &mut World, kind: &str, key: Key, object: Value) {
            $(if kind == kinds::$kind.kind {
                world.$field.insert(key, typed::<$type>(object));
                return;
            })*
            remove(world, kind, &key);
            let kind = kinds::named(kind).expect("a kind that is served").kind;
            world.others.push((kind, typed::<ObjectMeta>(object["metadata"].clone())));
        }

        /// The object; of a kind that controllers do not read whole, its metadata.
        fn value(world: &World, kind: &str, key: &Key) -> Option<Value> {
            $(if kind == kinds::$kind.kind {
                return world.$field.get(key).map(|object| json!(&**object));
            })*
            let found = world.others.iter().find(|(known, metadata)| *known == kind && is_at(metadata, key))?;
            Some(json!({"metadata": &*found.1}))
        }

        fn remove(world: &mut World, kind: &str, key: &Key) {
            $(if kind == kinds::$kind.kind {
                world.$field.remove(key);
                return;
            })*
            world.others.retain(|(known, metadata)| *known != kind || !is_at(metadata, key));
        }
    };
}
seen_whole!(stored);

/// Whether a finalizer holds the object.
fn is_held(object: &Value) -> bool {
    let finalizers = object["metadata"]["finalizers"].as_array();
    finalizers.is_some_and(|finalizers| !finalizers.is_empty())
}

fn is_at(metadata: &ObjectMeta, key: &Key) -> bool {
    metadata.namespace.as_deref().unwrap_or_default() == key.0
        && metadata.name.as_deref() == Some(key.1.as_str())
}

pub(super) fn start() -> Timestamp {
    "2026-11-23T00:00:00Z".parse().expect("an hour")
}

impl Cluster {
    pub(super) fn new(workers: usize) -> Self {
        let world = World {
            now: start(),
            ..World::default()
        };
        let mut cluster = Self {
            world,
            next: 0,
            events: Vec::new(),
            off: Vec::new(),
        };
        let taint =
            json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
        cluster.node("c1", json!({"taints": taint}));
        for number in 1..=workers {
            cluster.node(&format!("w{number}"), json!({}));
        }
        cluster
    }

    pub(super) fn node(&mut self, name: &str, spec: Value) {
        let status = json!({
            "allocatable": {"cpu": "1", "memory": "400Mi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
        });
        self.put(
            "Node",
            "",
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": spec, "status": status}),
        );
    }

    pub(super) fn rc(&mut self, name: &str, replicas: i32, version: &str) {
        let labels = json!({"app": "web", "version": version});
        let container =
            json!({"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
        let object = json!({"metadata": {"name": name, "generation": 1}, "spec": {"replicas": replicas, "selector": labels, "template": template}});
        self.put("ReplicationController", "default", object);
    }

    /// A Deployment of an image; a second call updates it.
    pub(super) fn deployment(&mut self, replicas: i32, image: &str, strategy: &Value) {
        let labels = json!({"app": "web"});
        let container = json!({"name": "c", "image": image, "ports": [{"name": "http", "containerPort": 8080}]});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
        let key: Key = ("default".to_owned(), "web".to_owned());
        let mut object = self
            .value("Deployment", &key)
            .unwrap_or_else(|| json!({"metadata": {"name": "web", "generation": 0}}));
        let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
        object["metadata"]["generation"] = json!(generation + 1);
        object["spec"] = json!({"replicas": replicas, "selector": {"matchLabels": labels}, "template": template, "strategy": strategy});
        self.put("Deployment", "default", object);
    }

    pub(super) fn service(&mut self) {
        let object = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        }});
        self.put("Service", "default", object);
    }

    /// Creates an object, or replaces it and keeps its UID.
    pub(super) fn put(&mut self, kind: &str, namespace: &str, mut object: Value) {
        self.next += 1;
        let metadata = &mut object["metadata"];
        if let (Value::Null, Some(prefix)) = (&metadata["name"], metadata["generateName"].as_str())
        {
            metadata["name"] = json!(format!("{prefix}{:05}", self.next));
        }
        if !namespace.is_empty() {
            metadata["namespace"] = json!(namespace);
        }
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{}", self.next));
            metadata["creationTimestamp"] = json!(self.world.now.to_string());
        }
        metadata["resourceVersion"] = json!(self.next.to_string());
        let key: Key = (
            namespace.to_owned(),
            metadata["name"].as_str().expect("a name").to_owned(),
        );
        if kind == "Event" {
            let reason = object["reason"].as_str().unwrap_or_default();
            self.events.push(reason.to_owned());
        } else {
            insert(&mut self.world, kind, key, object);
        }
    }

    pub(super) fn value(&self, kind: &str, key: &Key) -> Option<Value> {
        value(&self.world, kind, key)
    }

    pub(super) fn remove(&mut self, kind: &str, key: &Key) {
        remove(&mut self.world, kind, key);
    }

    pub(super) fn apply(&mut self, action: Action) {
        match action {
            Action::Create {
                kind,
                namespace,
                object,
            } => self.put(kind, &namespace, object),
            Action::Replace { target, object } => {
                let key = (target.namespace.clone(), target.name.clone());
                let now = self
                    .value(target.kind, &key)
                    .expect("controllers replace what exists");
                assert_eq!(
                    now["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"],
                    "{target:?}"
                );
                self.put(target.kind, &target.namespace, object);
            }
            Action::Patch {
                target,
                status,
                patch,
            } => {
                let key = (target.namespace.clone(), target.name.clone());
                let Some(mut object) = self.value(target.kind, &key) else {
                    return;
                };
                if !status
                    && object["metadata"]["resourceVersion"] != json!(target.resource_version)
                {
                    return;
                }
                merge(&mut object, &patch);
                let waiting = !object["metadata"]["deletionTimestamp"].is_null();
                let held = object["metadata"]["finalizers"]
                    .as_array()
                    .is_some_and(|list| !list.is_empty());
                if patch["metadata"]["finalizers"].is_array() && waiting && !held {
                    self.remove(target.kind, &key);
                } else {
                    self.put(target.kind, &target.namespace, object);
                }
            }
            Action::Delete { target, force } => self.delete(
                target.kind,
                &(target.namespace, target.name),
                &target.uid,
                force,
            ),
            Action::FinalizeNamespace(target) => {
                self.remove("Namespace", &(String::new(), target.name))
            }
            Action::Bind { target, node } => {
                let key = (target.namespace.clone(), target.name.clone());
                let Some(mut pod) = self.value("Pod", &key) else {
                    return;
                };
                assert!(pod["spec"]["nodeName"].is_null(), "bound twice: {target:?}");
                pod["spec"]["nodeName"] = json!(node);
                self.put("Pod", &target.namespace, pod);
            }
        }
    }

    pub(super) fn delete(&mut self, kind: &str, key: &Key, uid: &str, force: bool) {
        let Some(mut object) = self
            .value(kind, key)
            .filter(|object| object["metadata"]["uid"] == uid)
        else {
            return;
        };
        let graceful = kind == "Pod" && !force && !object["spec"]["nodeName"].is_null();
        let held = !graceful && is_held(&object);
        if graceful || held {
            object["metadata"]["deletionTimestamp"] = json!(self.world.now.to_string());
            object["metadata"]["deletionGracePeriodSeconds"] = json!(if held { 0 } else { 30 });
            self.put(kind, &key.0, object);
        } else {
            self.remove(kind, key);
        }
    }

    /// One round of the controllers. Returns whether they had anything to do.
    pub(super) fn round(&mut self) -> bool {
        let before = self.world.clone();
        let decision = reconcile(&before);
        let busy = !decision.actions.is_empty();
        for action in decision.actions {
            self.apply(action);
        }
        self.check(&before);
        busy
    }

    /// What must hold after every round.
    pub(super) fn check(&self, before: &World) {
        for controller in self.world.replication_controllers.values() {
            let uid = controller.metadata.uid.as_deref().unwrap_or_default();
            let owned = |world: &World| {
                let mine = |pod: &&Arc<Pod>| {
                    controller_of(&pod.metadata).is_some_and(|owner| owner.uid == uid)
                        && is_active(pod)
                };
                world.pods.values().filter(mine).count()
            };
            let replicas = usize::try_from(
                controller
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.replicas)
                    .unwrap_or(1),
            )
            .unwrap_or(0);
            let (was, is) = (owned(before), owned(&self.world));
            assert!(
                is <= replicas.max(was) + adoptable(before),
                "over-created: {is} of {replicas}, {was} before"
            );
        }
        for pod in self.world.pods.values() {
            let owners = pod
                .metadata
                .owner_references
                .iter()
                .flatten()
                .filter(|owner| owner.controller == Some(true))
                .count();
            assert!(owners <= 1, "two owners: {:?}", pod.metadata.name);
        }
    }

    /// What agents do: start bound pods, finish terminating ones, drop those the API does not know. Nodes that are off do nothing.
    pub(super) fn agents(&mut self) {
        let pods: Vec<(Key, Arc<Pod>)> = self
            .world
            .pods
            .iter()
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        for (key, pod) in pods {
            let Some(node) = node_of(&pod).filter(|node| !self.off.iter().any(|off| off == node))
            else {
                continue;
            };
            if pod.metadata.deletion_timestamp.is_some() {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                if pod.metadata.deletion_grace_period_seconds != Some(0) || !is_held(&json!(&*pod))
                {
                    self.delete("Pod", &key, &uid, true);
                }
            } else if phase(&pod) == "Pending" {
                let number = self.next % 250 + 1;
                let mut value = json!(&*pod);
                value["status"] = json!({"phase": "Running", "podIP": format!("10.78.{}.{number}", &node[1..]),
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": self.world.now.to_string()}]});
                self.put("Pod", &key.0, value);
            }
        }
    }

    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let pods = self.world.pods.clone();
            let busy = self.round();
            self.agents();
            if !busy && pods == self.world.pods {
                return;
            }
        }
        panic!(
            "the controllers do not come to rest: {:?}",
            reconcile(&self.world).actions.first()
        );
    }

    pub(super) fn silence(&mut self, node: &str, liveness: Liveness) {
        self.world.liveness.insert(node.to_owned(), liveness);
        self.off.retain(|off| off != node);
        if liveness != Liveness::Alive {
            self.off.push(node.to_owned());
        }
    }

    pub(super) fn owned_by(&self, name: &str) -> Vec<&Pod> {
        let mine = |pod: &&Pod| {
            controller_of(&pod.metadata).is_some_and(|owner| owner.name == name) && is_active(pod)
        };
        self.world
            .pods
            .values()
            .map(|pod| &**pod)
            .filter(mine)
            .collect()
    }

    pub(super) fn ready_addresses(&self) -> usize {
        let slices = self
            .world
            .slices
            .values()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        let ready = slices
            .filter(|endpoint| {
                endpoint
                    .conditions
                    .as_ref()
                    .and_then(|conditions| conditions.ready)
                    == Some(true)
            })
            .count();
        let subsets = self
            .world
            .endpoints
            .values()
            .flat_map(|endpoints| endpoints.subsets.iter().flatten());
        assert_eq!(
            ready,
            subsets
                .map(|subset| subset.addresses.iter().flatten().count())
                .sum::<usize>(),
            "both APIs agree"
        );
        ready
    }

    pub(super) fn edit<K>(&mut self, kind: &str, object: &K, change: impl FnOnce(&mut Value))
    where
        K: Serialize + Metadata<Ty = ObjectMeta>,
    {
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        let mut value = json!(object);
        change(&mut value);
        self.put(kind, &namespace, value);
    }
}

pub(super) fn adoptable(world: &World) -> usize {
    world
        .pods
        .values()
        .filter(|pod| controller_of(&pod.metadata).is_none() && is_active(pod))
        .count()
}

/// Merge patch, with conditions merged by type.
pub(super) fn merge(object: &mut Value, patch: &Value) {
    let (Value::Object(object), Value::Object(patch)) = (&mut *object, patch) else {
        *object = patch.clone();
        return;
    };
    for (key, value) in patch {
        match (key.as_str(), value) {
            ("conditions", Value::Array(more)) => {
                let list = object.entry("conditions").or_insert_with(|| json!([]));
                let list = list.as_array_mut().expect("a list");
                for condition in more {
                    list.retain(|present| present["type"] != condition["type"]);
                    list.push(condition.clone());
                }
            }
            (_, Value::Null) => drop(object.shift_remove(key)),
            _ => merge(object.entry(key.clone()).or_insert(Value::Null), value),
        }
    }
}

pub(super) fn kinds_of(decision: &Decision) -> Vec<String> {
    decision
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Create { kind: "Event", .. } => None,
            Action::Create { kind, .. } => Some(format!("create {kind}")),
            Action::Patch { target, .. } => Some(format!("patch {}", target.name)),
            Action::Replace { target, .. } => Some(format!("replace {}", target.name)),
            Action::Delete { target, force } => Some(format!(
                "delete {}{}",
                target.name,
                if *force { " now" } else { "" }
            )),
            Action::FinalizeNamespace(target) => Some(format!("finalize {}", target.name)),
            Action::Bind { target, node } => Some(format!("bind {} to {node}", target.name)),
        })
        .collect()
}

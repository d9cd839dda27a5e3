//! The controllers against a cluster in memory: tables for each, and random faults.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Node, Pod, ReplicationController, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::world::{Action, Decision, Key, Liveness, Objects, World, controller_of, is_active, node_of, phase, ready_since};
use super::{endpoints, garbage, nodes, reconcile, replication, scheduler};

/// Rounds after which the controllers must have come to rest.
const ROUNDS_MAX: usize = 60;

struct Cluster {
    world: World,
    next: u64,
    events: Vec<String>,
    /// Nodes whose agents do not run.
    off: Vec<String>,
}

fn typed<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).expect("a test's object is right"))
}

fn start() -> Timestamp {
    "2026-11-23T00:00:00Z".parse().expect("an hour")
}

impl Cluster {
    fn new(workers: usize) -> Self {
        let world = World { now: start(), ..World::default() };
        let mut cluster = Self { world, next: 0, events: Vec::new(), off: Vec::new() };
        let taint = json!([{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]);
        cluster.node("c1", json!({"taints": taint}));
        for number in 1..=workers {
            cluster.node(&format!("w{number}"), json!({}));
        }
        cluster
    }

    fn node(&mut self, name: &str, spec: Value) {
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

    fn rc(&mut self, name: &str, replicas: i32, version: &str) {
        let labels = json!({"app": "web", "version": version});
        let container = json!({"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]});
        let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [container]}});
        let object = json!({"metadata": {"name": name, "generation": 1}, "spec": {"replicas": replicas, "selector": labels, "template": template}});
        self.put("ReplicationController", "default", object);
    }

    fn service(&mut self) {
        let object = json!({"metadata": {"name": "web"}, "spec": {
            "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        }});
        self.put("Service", "default", object);
    }

    /// Creates an object, or replaces it and keeps its UID.
    fn put(&mut self, kind: &str, namespace: &str, mut object: Value) {
        self.next += 1;
        let metadata = &mut object["metadata"];
        if let (Value::Null, Some(prefix)) = (&metadata["name"], metadata["generateName"].as_str()) {
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
        let key: Key = (namespace.to_owned(), metadata["name"].as_str().expect("a name").to_owned());
        let world = &mut self.world;
        match kind {
            "Node" => drop(world.nodes.insert(key, typed::<Node>(object))),
            "Pod" => drop(world.pods.insert(key, typed::<Pod>(object))),
            "ReplicationController" => drop(world.replication_controllers.insert(key, typed::<ReplicationController>(object))),
            "Service" => drop(world.services.insert(key, typed::<Service>(object))),
            "Endpoints" => drop(world.endpoints.insert(key, typed::<Endpoints>(object))),
            "EndpointSlice" => drop(world.slices.insert(key, typed::<EndpointSlice>(object))),
            "Namespace" => drop(world.namespaces.insert(key, typed::<Namespace>(object))),
            "Event" => self.events.push(object["reason"].as_str().unwrap_or_default().to_owned()),
            other => panic!("{other} is not simulated"),
        }
    }

    fn value(&self, kind: &str, key: &Key) -> Option<Value> {
        fn of<K: Serialize>(objects: &Objects<K>, key: &Key) -> Option<Value> {
            objects.get(key).map(|object| json!(&**object))
        }
        let world = &self.world;
        match kind {
            "Node" => of(&world.nodes, key),
            "Pod" => of(&world.pods, key),
            "ReplicationController" => of(&world.replication_controllers, key),
            "Service" => of(&world.services, key),
            "Endpoints" => of(&world.endpoints, key),
            "EndpointSlice" => of(&world.slices, key),
            "Namespace" => of(&world.namespaces, key),
            other => panic!("{other} is not simulated"),
        }
    }

    fn remove(&mut self, kind: &str, key: &Key) {
        let world = &mut self.world;
        match kind {
            "Node" => drop(world.nodes.remove(key)),
            "Pod" => drop(world.pods.remove(key)),
            "ReplicationController" => drop(world.replication_controllers.remove(key)),
            "Service" => drop(world.services.remove(key)),
            "Endpoints" => drop(world.endpoints.remove(key)),
            "EndpointSlice" => drop(world.slices.remove(key)),
            "Namespace" => drop(world.namespaces.remove(key)),
            other => panic!("{other} is not simulated"),
        }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Create { kind, namespace, object } => self.put(kind, &namespace, object),
            Action::Replace { target, object } => {
                let key = (target.namespace.clone(), target.name.clone());
                let now = self.value(target.kind, &key).expect("controllers replace what exists");
                assert_eq!(now["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"], "{target:?}");
                self.put(target.kind, &target.namespace, object);
            }
            Action::Patch { target, status, patch } => {
                let key = (target.namespace.clone(), target.name.clone());
                let Some(mut object) = self.value(target.kind, &key) else { return };
                if !status && object["metadata"]["resourceVersion"] != json!(target.resource_version) {
                    return;
                }
                merge(&mut object, &patch);
                let waiting = !object["metadata"]["deletionTimestamp"].is_null();
                let held = object["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
                if patch["metadata"]["finalizers"].is_array() && waiting && !held {
                    self.remove(target.kind, &key);
                } else {
                    self.put(target.kind, &target.namespace, object);
                }
            }
            Action::Delete { target, force } => self.delete(target.kind, &(target.namespace, target.name), &target.uid, force),
            Action::FinalizeNamespace(target) => self.remove("Namespace", &(String::new(), target.name)),
            Action::Bind { target, node } => {
                let key = (target.namespace.clone(), target.name.clone());
                let Some(mut pod) = self.value("Pod", &key) else { return };
                assert!(pod["spec"]["nodeName"].is_null(), "bound twice: {target:?}");
                pod["spec"]["nodeName"] = json!(node);
                self.put("Pod", &target.namespace, pod);
            }
        }
    }

    fn delete(&mut self, kind: &str, key: &Key, uid: &str, force: bool) {
        let Some(mut object) = self.value(kind, key).filter(|object| object["metadata"]["uid"] == uid) else { return };
        let graceful = kind == "Pod" && !force && !object["spec"]["nodeName"].is_null();
        if graceful {
            object["metadata"]["deletionTimestamp"] = json!(self.world.now.to_string());
            self.put(kind, &key.0, object);
        } else {
            self.remove(kind, key);
        }
    }

    /// One round of the controllers. Returns whether they had anything to do.
    fn round(&mut self) -> bool {
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
    fn check(&self, before: &World) {
        for controller in self.world.replication_controllers.values() {
            let uid = controller.metadata.uid.as_deref().unwrap_or_default();
            let owned = |world: &World| {
                let mine = |pod: &&Arc<Pod>| controller_of(&pod.metadata).is_some_and(|owner| owner.uid == uid) && is_active(pod);
                world.pods.values().filter(mine).count()
            };
            let replicas = usize::try_from(controller.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)).unwrap_or(0);
            let (was, is) = (owned(before), owned(&self.world));
            assert!(is <= replicas.max(was) + adoptable(before), "over-created: {is} of {replicas}, {was} before");
        }
        for pod in self.world.pods.values() {
            let owners = pod.metadata.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true)).count();
            assert!(owners <= 1, "two owners: {:?}", pod.metadata.name);
        }
    }

    /// What agents do: start bound pods, finish terminating ones, drop those the API does not know. Nodes that are off do nothing.
    fn agents(&mut self) {
        let pods: Vec<(Key, Arc<Pod>)> = self.world.pods.iter().map(|(key, pod)| (key.clone(), pod.clone())).collect();
        for (key, pod) in pods {
            let Some(node) = node_of(&pod).filter(|node| !self.off.iter().any(|off| off == node)) else { continue };
            if pod.metadata.deletion_timestamp.is_some() {
                self.remove("Pod", &key);
            } else if phase(&pod) == "Pending" {
                let number = self.next % 250 + 1;
                let mut value = json!(&*pod);
                value["status"] = json!({"phase": "Running", "podIP": format!("10.78.{}.{number}", &node[1..]),
                    "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": self.world.now.to_string()}]});
                self.put("Pod", &key.0, value);
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let pods = self.world.pods.clone();
            let busy = self.round();
            self.agents();
            if !busy && pods == self.world.pods {
                return;
            }
        }
        panic!("the controllers do not come to rest: {:?}", reconcile(&self.world).actions.first());
    }

    fn silence(&mut self, node: &str, liveness: Liveness) {
        self.world.liveness.insert(node.to_owned(), liveness);
        self.off.retain(|off| off != node);
        if liveness != Liveness::Alive {
            self.off.push(node.to_owned());
        }
    }

    fn owned_by(&self, name: &str) -> Vec<&Pod> {
        let mine = |pod: &&Pod| controller_of(&pod.metadata).is_some_and(|owner| owner.name == name) && is_active(pod);
        self.world.pods.values().map(|pod| &**pod).filter(mine).collect()
    }

    fn ready_addresses(&self) -> usize {
        let slices = self.world.slices.values().flat_map(|slice| slice.endpoints.iter().flatten());
        let ready =
            slices.filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) == Some(true)).count();
        let subsets = self.world.endpoints.values().flat_map(|endpoints| endpoints.subsets.iter().flatten());
        assert_eq!(ready, subsets.map(|subset| subset.addresses.iter().flatten().count()).sum::<usize>(), "both APIs agree");
        ready
    }

    fn edit<K: Serialize>(&mut self, kind: &str, object: &K, change: impl FnOnce(&mut Value))
    where
        K: Metadata<Ty = ObjectMeta>,
    {
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        let mut value = json!(object);
        change(&mut value);
        self.put(kind, &namespace, value);
    }
}

fn adoptable(world: &World) -> usize {
    world.pods.values().filter(|pod| controller_of(&pod.metadata).is_none() && is_active(pod)).count()
}

/// Merge patch, with conditions merged by type.
fn merge(object: &mut Value, patch: &Value) {
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

fn kinds_of(decision: &Decision) -> Vec<String> {
    decision
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Create { kind: "Event", .. } => None,
            Action::Create { kind, .. } => Some(format!("create {kind}")),
            Action::Patch { target, .. } => Some(format!("patch {}", target.name)),
            Action::Replace { target, .. } => Some(format!("replace {}", target.name)),
            Action::Delete { target, force } => Some(format!("delete {}{}", target.name, if *force { " now" } else { "" })),
            Action::FinalizeNamespace(target) => Some(format!("finalize {}", target.name)),
            Action::Bind { target, node } => Some(format!("bind {} to {node}", target.name)),
        })
        .collect()
}

#[test]
fn replicas_are_created_spread_and_served() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 4, "v1");
    cluster.service();
    cluster.settle();
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in cluster.owned_by("web") {
        *nodes.entry(node_of(pod).expect("bound")).or_default() += 1;
    }
    assert_eq!(nodes, BTreeMap::from([("w1", 2), ("w2", 2)]), "the controller node is tainted, the workers share");
    assert_eq!(cluster.ready_addresses(), 4);
    let slice = cluster.world.slices.values().next().expect("a slice");
    assert_eq!(slice.ports.as_ref().expect("ports")[0].port, Some(8080), "target ports by name");
    let rc = cluster.world.replication_controllers.values().next().expect("the controller");
    let status = rc.status.clone().expect("a status");
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (4, Some(4), Some(4)));
    assert_eq!(status.observed_generation, Some(1));
}

#[test]
fn a_silent_node_is_avoided_then_replaced_then_taken_back() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 2, "v1");
    cluster.service();
    cluster.settle();
    cluster.silence("w1", Liveness::Suspect);
    cluster.settle();
    assert_eq!((cluster.ready_addresses(), cluster.owned_by("web").len()), (1, 2), "traffic avoids it, nothing is replaced");
    cluster.silence("w1", Liveness::Alive);
    cluster.settle();
    assert_eq!(cluster.ready_addresses(), 2, "undone at once");
    cluster.silence("w1", Liveness::Lost);
    cluster.settle();
    assert!(cluster.owned_by("web").iter().all(|pod| node_of(pod) == Some("w2")));
    assert_eq!((cluster.ready_addresses(), cluster.owned_by("web").len()), (2, 2));
    let node = |cluster: &Cluster| cluster.world.nodes[&(String::new(), "w1".to_owned())].clone();
    assert!(!scheduler::is_ready(&node(&cluster)));
    cluster.silence("w1", Liveness::Alive);
    cluster.settle();
    assert!(scheduler::is_ready(&node(&cluster)));
    assert_eq!(node(&cluster).spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default().len(), 0);
}

#[test]
fn the_zone_brake_holds_when_no_worker_beats() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 2, "v1");
    cluster.service();
    cluster.settle();
    let before: Vec<_> = cluster.world.pods.values().map(|pod| pod.metadata.uid.clone()).collect();
    cluster.silence("w1", Liveness::Lost);
    cluster.silence("w2", Liveness::Lost);
    cluster.settle();
    let after: Vec<_> = cluster.world.pods.values().map(|pod| pod.metadata.uid.clone()).collect();
    assert_eq!(before, after);
    assert_eq!(cluster.ready_addresses(), 2, "an address that may answer is better than none");
}

#[test]
fn what_goes_first_is_ordered_as_in_kubernetes() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 0, "v1");
    let owner = json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "uid-4", "controller": true}]);
    let ready =
        |at: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]});
    for (name, node, status) in [
        ("old-ready", json!("w1"), ready("2026-11-22T00:00:00Z")),
        ("new-ready", json!("w2"), ready("2026-11-22T01:00:00Z")),
        ("not-ready", json!("w2"), json!({"phase": "Running"})),
        ("pending", json!("w1"), json!({"phase": "Pending"})),
        ("unbound", Value::Null, json!({})),
    ] {
        let labels = json!({"app": "web", "version": "v1"});
        let metadata = json!({"name": name, "labels": labels, "ownerReferences": owner});
        cluster.put(
            "Pod",
            "default",
            json!({"metadata": metadata, "spec": {"containers": [], "nodeName": node}, "status": status}),
        );
    }
    let deleted: Vec<_> =
        kinds_of(&replication::reconcile(&cluster.world)).into_iter().filter(|what| what.starts_with("delete")).collect();
    // new-ready shares its node with not-ready, old-ready with pending: the younger goes first.
    assert_eq!(deleted, ["delete unbound", "delete pending", "delete not-ready", "delete new-ready", "delete old-ready"]);
}

#[test]
fn pods_are_adopted_and_released_by_labels() {
    let mut cluster = Cluster::new(1);
    cluster.rc("web", 1, "v1");
    let orphan = json!({"metadata": {"name": "orphan", "labels": {"app": "web", "version": "v1"}}, "spec": {"containers": []}});
    cluster.put("Pod", "default", orphan);
    cluster.settle();
    assert_eq!(cluster.owned_by("web").iter().map(|pod| pod.metadata.name.as_deref()).collect::<Vec<_>>(), [Some("orphan")]);
    let pod = cluster.world.pods.values().next().expect("the pod").clone();
    cluster.edit("Pod", &*pod, |value| value["metadata"]["labels"]["version"] = json!("debug"));
    cluster.settle();
    assert_eq!(cluster.world.pods.len(), 2, "released, and replaced");
    assert_eq!(cluster.owned_by("web").len(), 1);
    assert!(cluster.world.pods.values().any(|pod| controller_of(&pod.metadata).is_none()));
}

#[test]
fn a_pod_that_fits_nowhere_says_why_once() {
    let mut cluster = Cluster::new(1);
    let resources = json!({"requests": {"memory": "500Mi"}});
    cluster.put(
        "Pod",
        "default",
        json!({"metadata": {"name": "big"}, "spec": {"containers": [{"name": "c", "resources": resources}]}}),
    );
    cluster.settle();
    let pod = cluster.world.pods.values().next().expect("the pod");
    let condition = &pod.status.as_ref().expect("a status").conditions.as_ref().expect("conditions")[0];
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));
    assert_eq!(
        condition.message.as_deref(),
        Some(
            "0/2 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }."
        )
    );
    assert_eq!(cluster.events.iter().filter(|reason| *reason == "FailedScheduling").count(), 1);
}

#[test]
fn node_selectors_are_kept() {
    let mut cluster = Cluster::new(3);
    let spec = json!({"containers": [], "nodeSelector": {"kubernetes.io/hostname": "w3"}});
    cluster.put("Pod", "default", json!({"metadata": {"name": "picky"}, "spec": spec}));
    assert_eq!(kinds_of(&scheduler::reconcile(&cluster.world)), ["bind picky to w3"]);
}

#[test]
fn dependents_follow_their_owner_or_are_orphaned() {
    let mut cluster = Cluster::new(1);
    cluster.rc("web", 2, "v1");
    cluster.settle();
    let rc = cluster.world.replication_controllers.values().next().expect("the controller").clone();
    let key: Key = ("default".to_owned(), "web".to_owned());
    // Orphan.
    cluster.edit("ReplicationController", &*rc, |value| {
        value["metadata"]["deletionTimestamp"] = json!("2026-11-23T00:00:00Z");
        value["metadata"]["finalizers"] = json!(["orphan"]);
    });
    cluster.settle();
    assert!(!cluster.world.replication_controllers.contains_key(&key));
    assert_eq!(cluster.world.pods.len(), 2);
    // A namesake adopts them; deleted in the background, it takes them along.
    cluster.rc("web", 2, "v1");
    cluster.settle();
    assert_eq!((cluster.owned_by("web").len(), cluster.world.pods.len()), (2, 2));
    cluster.remove("ReplicationController", &key);
    cluster.settle();
    assert_eq!(cluster.world.pods.len(), 0);
}

#[test]
fn pods_of_a_node_that_never_came_are_collected_after_a_while() {
    let mut cluster = Cluster::new(1);
    cluster.put("Pod", "default", json!({"metadata": {"name": "lost"}, "spec": {"containers": [], "nodeName": "w9"}}));
    let decision = garbage::reconcile(&cluster.world);
    assert_eq!((kinds_of(&decision).len(), decision.recheck), (0, Some(start() + SignedDuration::from_secs(40))));
    cluster.world.now = start() + SignedDuration::from_secs(41);
    assert_eq!(kinds_of(&garbage::reconcile(&cluster.world)), ["delete lost now"]);
}

#[test]
fn a_namespace_goes_when_it_is_empty() {
    let mut cluster = Cluster::new(1);
    cluster.put("Namespace", "", json!({"metadata": {"name": "default", "deletionTimestamp": "2026-11-23T00:00:00Z"}}));
    cluster.put("Pod", "default", json!({"metadata": {"name": "p"}, "spec": {"containers": [], "nodeName": "w1"}}));
    cluster.service();
    assert_eq!(kinds_of(&garbage::reconcile(&cluster.world)), ["delete p", "delete web"]);
    cluster.settle();
    assert!(cluster.world.namespaces.is_empty() && cluster.world.pods.is_empty() && cluster.world.endpoints.is_empty());
}

#[test]
fn a_terminating_pod_leaves_endpoints_but_not_the_slice() {
    let mut cluster = Cluster::new(1);
    cluster.rc("web", 2, "v1");
    cluster.service();
    cluster.settle();
    let pod = cluster.world.pods.values().next().expect("a pod").clone();
    cluster.edit("Pod", &*pod, |value| value["metadata"]["deletionTimestamp"] = json!("2026-11-23T00:00:30Z"));
    let decision = endpoints::reconcile(&cluster.world);
    for action in decision.actions {
        cluster.apply(action);
    }
    assert_eq!(cluster.ready_addresses(), 1);
    let slices = cluster.world.slices.values().flat_map(|slice| slice.endpoints.clone().unwrap_or_default());
    let leaving: Vec<_> = slices.filter_map(|endpoint| endpoint.conditions).filter(|one| one.terminating == Some(true)).collect();
    assert_eq!((leaving.len(), leaving[0].ready, leaving[0].serving), (1, Some(false), Some(true)));
    assert_eq!(kinds_of(&endpoints::reconcile(&cluster.world)), Vec::<String>::new(), "idempotent");
    assert_eq!(kinds_of(&nodes::reconcile(&cluster.world)), Vec::<String>::new());
}

#[derive(Debug, Clone)]
enum Fault {
    Scale(bool, u8),
    DeletePod(usize, bool),
    Relabel(usize),
    Unready(usize),
    Silence(u8, Liveness),
    Agents,
    Round,
    Recreate,
}

fn fault() -> impl Strategy<Value = Fault> {
    let liveness = prop_oneof![Just(Liveness::Alive), Just(Liveness::Suspect), Just(Liveness::Lost)];
    prop_oneof![
        (any::<bool>(), 0..7_u8).prop_map(|(which, replicas)| Fault::Scale(which, replicas)),
        (any::<usize>(), any::<bool>()).prop_map(|(which, force)| Fault::DeletePod(which, force)),
        any::<usize>().prop_map(Fault::Relabel),
        any::<usize>().prop_map(Fault::Unready),
        (1..4_u8, liveness).prop_map(|(node, liveness)| Fault::Silence(node, liveness)),
        Just(Fault::Agents),
        Just(Fault::Round),
        Just(Fault::Round),
        Just(Fault::Recreate),
    ]
}

impl Cluster {
    fn pick(&self, which: usize) -> Option<Arc<Pod>> {
        let count = self.world.pods.len();
        if count == 0 { None } else { self.world.pods.values().nth(which % count).cloned() }
    }

    fn suffer(&mut self, fault: &Fault) {
        match fault {
            Fault::Scale(which, replicas) => {
                let key: Key = ("default".to_owned(), if *which { "web-v1" } else { "web-v2" }.to_owned());
                let rc = self.world.replication_controllers[&key].clone();
                self.edit("ReplicationController", &*rc, |value| {
                    value["spec"]["replicas"] = json!(replicas);
                    value["metadata"]["generation"] = json!(value["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
                });
            }
            Fault::DeletePod(which, force) => {
                if let Some(pod) = self.pick(*which) {
                    let key = ("default".to_owned(), pod.metadata.name.clone().unwrap_or_default());
                    self.delete("Pod", &key, pod.metadata.uid.as_deref().unwrap_or_default(), *force);
                }
            }
            Fault::Relabel(which) => {
                if let Some(pod) = self.pick(*which) {
                    self.edit("Pod", &*pod, |value| value["metadata"]["labels"]["version"] = json!("debug"));
                }
            }
            Fault::Unready(which) => {
                if let Some(pod) = self.pick(*which).filter(|pod| ready_since(pod).is_some()) {
                    self.edit("Pod", &*pod, |value| value["status"]["conditions"][0]["status"] = json!("False"));
                }
            }
            Fault::Silence(node, liveness) => self.silence(&format!("w{node}"), *liveness),
            Fault::Agents => self.agents(),
            Fault::Round => drop(self.round()),
            Fault::Recreate => {
                self.remove("ReplicationController", &("default".to_owned(), "web-v1".to_owned()));
                self.rc("web-v1", 2, "v1");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// After any faults the replicas come back, on nodes that beat, with one owner each; `check` holds after every round.
    #[test]
    fn replicas_converge_whatever_happens(faults in prop::collection::vec(fault(), 1..40)) {
        let mut cluster = Cluster::new(3);
        cluster.rc("web-v1", 2, "v1");
        cluster.rc("web-v2", 1, "v2");
        cluster.service();
        for fault in &faults {
            cluster.suffer(fault);
        }
        // In the end one worker stays lost and the others beat.
        cluster.silence("w1", Liveness::Lost);
        cluster.silence("w2", Liveness::Alive);
        cluster.silence("w3", Liveness::Alive);
        cluster.settle();
        for name in ["web-v1", "web-v2"] {
            let key: Key = ("default".to_owned(), name.to_owned());
            let rc = &cluster.world.replication_controllers[&key];
            let wanted = rc.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            let pods = cluster.owned_by(name);
            prop_assert_eq!(i32::try_from(pods.len()).expect("few"), wanted, "{}", name);
            prop_assert!(pods.iter().all(|pod| matches!(node_of(pod), Some("w2" | "w3"))));
            prop_assert_eq!(rc.status.as_ref().map(|status| status.replicas), Some(wanted));
        }
        cluster.ready_addresses();
        prop_assert!(reconcile(&cluster.world).actions.is_empty());
    }
}

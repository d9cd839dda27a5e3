//! One table or story a controller.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::cluster::{Cluster, kinds_of, start};
use crate::orchestrator::control::world::{Key, Liveness, controller_of, node_of};
use crate::orchestrator::control::{endpoints, garbage, nodes, replication, scheduler};

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
    assert_eq!(
        nodes,
        BTreeMap::from([("w1", 2), ("w2", 2)]),
        "the controller node is tainted, the workers share"
    );
    assert_eq!(cluster.ready_addresses(), 4);
    let slice = cluster.world.slices.values().next().expect("a slice");
    assert_eq!(
        slice.ports.as_ref().expect("ports")[0].port,
        Some(8080),
        "target ports by name"
    );
    let rc = cluster
        .world
        .replication_controllers
        .values()
        .next()
        .expect("the controller");
    let status = rc.status.clone().expect("a status");
    assert_eq!(
        (
            status.replicas,
            status.ready_replicas,
            status.available_replicas
        ),
        (4, Some(4), Some(4))
    );
    assert_eq!(status.observed_generation, Some(1));
}

/// Sizes of the ReplicaSets by the image of their template.
fn sizes(cluster: &Cluster) -> BTreeMap<String, i32> {
    let sets = cluster.world.replica_sets.values();
    sets.map(|set| {
        let template = json!(set.spec.template);
        let image = template["spec"]["containers"][0]["image"].as_str();
        (
            image.unwrap_or_default().to_owned(),
            set.spec.replicas.unwrap_or(1),
        )
    })
    .collect()
}

/// Lets the cluster come to rest, and checks the bounds of an update at every step.
fn roll(cluster: &mut Cluster, least: usize, most: usize) {
    for _ in 0..super::cluster::ROUNDS_MAX {
        let pods = cluster.world.pods.clone();
        let busy = cluster.round();
        assert!(
            cluster.ready_addresses() >= least,
            "too few are ready: {:?}",
            sizes(cluster)
        );
        let asked: i32 = sizes(cluster).values().sum();
        assert!(
            usize::try_from(asked).expect("a size") <= most,
            "too many are asked for: {:?}",
            sizes(cluster)
        );
        cluster.agents();
        if !busy && pods == cluster.world.pods {
            return;
        }
    }
    panic!("the update does not come to rest: {:?}", sizes(cluster));
}

#[test]
fn a_deployment_rolls_within_its_bounds_and_back() {
    let mut cluster = Cluster::new(2);
    let strategy =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    cluster.service();
    cluster.deployment(3, "v1", &strategy);
    roll(&mut cluster, 0, 3);
    assert_eq!(cluster.ready_addresses(), 3);
    cluster.deployment(3, "v2", &strategy);
    roll(&mut cluster, 3, 4);
    let expected =
        |one: i32, two: i32| BTreeMap::from([("v1".to_owned(), one), ("v2".to_owned(), two)]);
    assert_eq!(sizes(&cluster), expected(0, 3));
    cluster.deployment(3, "v1", &strategy);
    roll(&mut cluster, 3, 4);
    assert_eq!(sizes(&cluster), expected(3, 0));
    let deployment = cluster.world.deployments.values().next().expect("there");
    let status = deployment.status.clone().expect("a status");
    assert_eq!(
        (status.updated_replicas, status.available_replicas),
        (Some(3), Some(3))
    );
    assert_eq!(status.observed_generation, Some(3));
    let annotations = deployment.metadata.annotations.clone().expect("a revision");
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    let conditions = json!(status.conditions);
    let said = conditions
        .as_array()
        .expect("conditions")
        .iter()
        .find(|condition| condition["type"] == "Progressing");
    assert_eq!(
        said.expect("it progressed")["reason"],
        json!("NewReplicaSetAvailable")
    );
}

#[test]
fn a_deployment_is_scaled_and_recreated() {
    let mut cluster = Cluster::new(2);
    cluster.service();
    let strategy = json!({"type": "Recreate"});
    cluster.deployment(2, "v1", &strategy);
    roll(&mut cluster, 0, 2);
    cluster.deployment(4, "v1", &strategy);
    roll(&mut cluster, 2, 4);
    assert_eq!(sizes(&cluster), BTreeMap::from([("v1".to_owned(), 4)]));
    cluster.deployment(4, "v2", &strategy);
    roll(&mut cluster, 0, 4);
    assert_eq!(
        sizes(&cluster),
        BTreeMap::from([("v1".to_owned(), 0), ("v2".to_owned(), 4)])
    );
    assert_eq!(cluster.ready_addresses(), 4);
}

#[test]
fn a_silent_node_is_avoided_then_replaced_then_taken_back() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 2, "v1");
    cluster.service();
    cluster.settle();
    cluster.silence("w1", Liveness::Silent);
    cluster.settle();
    assert_eq!(
        (cluster.ready_addresses(), cluster.owned_by("web").len()),
        (1, 2),
        "traffic avoids it, nothing is replaced"
    );
    cluster.silence("w1", Liveness::Alive);
    cluster.settle();
    assert_eq!(cluster.ready_addresses(), 2, "undone at once");
    cluster.silence("w1", Liveness::Lost);
    cluster.settle();
    assert!(
        cluster
            .owned_by("web")
            .iter()
            .all(|pod| node_of(pod) == Some("w2"))
    );
    assert_eq!(
        (cluster.ready_addresses(), cluster.owned_by("web").len()),
        (2, 2)
    );
    let node = |cluster: &Cluster| cluster.world.nodes[&(String::new(), "w1".to_owned())].clone();
    assert!(!scheduler::is_ready(&node(&cluster)));
    cluster.silence("w1", Liveness::Alive);
    cluster.settle();
    assert!(scheduler::is_ready(&node(&cluster)));
    assert_eq!(
        node(&cluster)
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.clone())
            .unwrap_or_default()
            .len(),
        0
    );
}

#[test]
fn the_zone_brake_holds_when_no_worker_beats() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 2, "v1");
    cluster.service();
    cluster.settle();
    let before: Vec<_> = cluster
        .world
        .pods
        .values()
        .map(|pod| pod.metadata.uid.clone())
        .collect();
    cluster.silence("w1", Liveness::Lost);
    cluster.silence("w2", Liveness::Lost);
    cluster.settle();
    let after: Vec<_> = cluster
        .world
        .pods
        .values()
        .map(|pod| pod.metadata.uid.clone())
        .collect();
    assert_eq!(before, after);
    assert_eq!(
        cluster.ready_addresses(),
        2,
        "an address that may answer is better than none"
    );
}

#[test]
fn what_goes_first_is_ordered_as_in_kubernetes() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 0, "v1");
    let owner = json!([{"apiVersion": "v1", "kind": "ReplicationController", "name": "web", "uid": "uid-4", "controller": true}]);
    let ready = |at: &str| json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": at}]});
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
    let deleted: Vec<_> = kinds_of(&replication::reconcile(&cluster.world))
        .into_iter()
        .filter(|what| what.starts_with("delete"))
        .collect();
    // new-ready shares its node with not-ready, old-ready with pending: the younger goes first.
    assert_eq!(
        deleted,
        [
            "delete unbound",
            "delete pending",
            "delete not-ready",
            "delete new-ready",
            "delete old-ready"
        ]
    );
}

#[test]
fn pods_are_adopted_and_released_by_labels() {
    let mut cluster = Cluster::new(1);
    cluster.rc("web", 1, "v1");
    let orphan = json!({"metadata": {"name": "orphan", "labels": {"app": "web", "version": "v1"}}, "spec": {"containers": []}});
    cluster.put("Pod", "default", orphan);
    cluster.settle();
    assert_eq!(
        cluster
            .owned_by("web")
            .iter()
            .map(|pod| pod.metadata.name.as_deref())
            .collect::<Vec<_>>(),
        [Some("orphan")]
    );
    let pod = cluster.world.pods.values().next().expect("the pod").clone();
    cluster.edit("Pod", &*pod, |value| {
        value["metadata"]["labels"]["version"] = json!("debug")
    });
    cluster.settle();
    assert_eq!(cluster.world.pods.len(), 2, "released, and replaced");
    assert_eq!(cluster.owned_by("web").len(), 1);
    assert!(
        cluster
            .world
            .pods
            .values()
            .any(|pod| controller_of(&pod.metadata).is_none())
    );
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
    let condition = &pod
        .status
        .as_ref()
        .expect("a status")
        .conditions
        .as_ref()
        .expect("conditions")[0];
    assert_eq!(condition.reason.as_deref(), Some("Unschedulable"));
    assert_eq!(
        condition.message.as_deref(),
        Some(
            "0/2 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint {node-role.kubernetes.io/control-plane: }."
        )
    );
    assert_eq!(
        cluster
            .events
            .iter()
            .filter(|reason| *reason == "FailedScheduling")
            .count(),
        1
    );
}

#[test]
fn node_selectors_are_kept() {
    let mut cluster = Cluster::new(3);
    let spec = json!({"containers": [], "nodeSelector": {"kubernetes.io/hostname": "w3"}});
    cluster.put(
        "Pod",
        "default",
        json!({"metadata": {"name": "picky"}, "spec": spec}),
    );
    assert_eq!(
        kinds_of(&scheduler::reconcile(&cluster.world)),
        ["bind picky to w3"]
    );
}

#[test]
fn dependents_follow_their_owner_or_are_orphaned() {
    let mut cluster = Cluster::new(1);
    cluster.rc("web", 2, "v1");
    cluster.settle();
    let rc = cluster
        .world
        .replication_controllers
        .values()
        .next()
        .expect("the controller")
        .clone();
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
    assert_eq!(
        (cluster.owned_by("web").len(), cluster.world.pods.len()),
        (2, 2)
    );
    cluster.remove("ReplicationController", &key);
    cluster.settle();
    assert_eq!(cluster.world.pods.len(), 0);
}

#[test]
fn pods_of_a_node_that_never_came_are_collected_after_a_while() {
    let mut cluster = Cluster::new(1);
    cluster.put(
        "Pod",
        "default",
        json!({"metadata": {"name": "lost"}, "spec": {"containers": [], "nodeName": "w9"}}),
    );
    let decision = garbage::reconcile(&cluster.world);
    assert_eq!(
        (kinds_of(&decision).len(), decision.recheck),
        (0, Some(start() + SignedDuration::from_secs(40)))
    );
    cluster.world.now = start() + SignedDuration::from_secs(41);
    assert_eq!(
        kinds_of(&garbage::reconcile(&cluster.world)),
        ["delete lost now"]
    );
}

#[test]
fn a_namespace_goes_when_it_is_empty() {
    let mut cluster = Cluster::new(1);
    cluster.put(
        "Namespace",
        "",
        json!({"metadata": {"name": "default", "deletionTimestamp": "2026-11-23T00:00:00Z"}}),
    );
    cluster.put(
        "Pod",
        "default",
        json!({"metadata": {"name": "p"}, "spec": {"containers": [], "nodeName": "w1"}}),
    );
    cluster.service();
    assert_eq!(
        kinds_of(&garbage::reconcile(&cluster.world)),
        ["delete p", "delete web"]
    );
    cluster.settle();
    assert!(
        cluster.world.namespaces.is_empty()
            && cluster.world.pods.is_empty()
            && cluster.world.endpoints.is_empty()
    );
}

#[test]
fn a_terminating_pod_leaves_endpoints_but_not_the_slice() {
    let mut cluster = Cluster::new(1);
    cluster.rc("web", 2, "v1");
    cluster.service();
    cluster.settle();
    let pod = cluster.world.pods.values().next().expect("a pod").clone();
    cluster.edit("Pod", &*pod, |value| {
        value["metadata"]["deletionTimestamp"] = json!("2026-11-23T00:00:30Z")
    });
    let decision = endpoints::reconcile(&cluster.world);
    for action in decision.actions {
        cluster.apply(action);
    }
    assert_eq!(cluster.ready_addresses(), 1);
    let slices = cluster
        .world
        .slices
        .values()
        .flat_map(|slice| slice.endpoints.clone().unwrap_or_default());
    let leaving: Vec<_> = slices
        .filter_map(|endpoint| endpoint.conditions)
        .filter(|one| one.terminating == Some(true))
        .collect();
    assert_eq!(
        (leaving.len(), leaving[0].ready, leaving[0].serving),
        (1, Some(false), Some(true))
    );
    assert_eq!(
        kinds_of(&endpoints::reconcile(&cluster.world)),
        Vec::<String>::new(),
        "idempotent"
    );
    assert_eq!(
        kinds_of(&nodes::reconcile(&cluster.world)),
        Vec::<String>::new()
    );
}

//! Where pods go: tables of the scheduler.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::cluster::{Cluster, kinds_of};
use crate::orchestrator::control::world::{Key, node_of};
use crate::orchestrator::control::{nodes, scheduler};

/// c1 and three workers in two zones; w3 is alone in zone b and has a fast disk.
fn zones() -> Cluster {
    let mut cluster = Cluster::new(3);
    for (name, zone, disk) in [
        ("w1", "a", "slow"),
        ("w2", "a", "slow"),
        ("w3", "b", "fast"),
    ] {
        let node = cluster.world.nodes[&(String::new(), name.to_owned())].clone();
        cluster.edit("Node", &*node, |value| {
            value["metadata"]["labels"]["zone"] = json!(zone);
            value["metadata"]["labels"]["disk"] = json!(disk);
            value["metadata"]["labels"]["size"] = json!(name[1..]);
        });
    }
    cluster
}

fn pod(cluster: &mut Cluster, name: &str, labels: Value, mut spec: Value) {
    if spec["containers"].is_null() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    cluster.put(
        "Pod",
        "default",
        json!({"metadata": {"name": name, "labels": labels}, "spec": spec}),
    );
}

/// Where the pods went, by name; unplaced ones are at `-`.
fn places(cluster: &mut Cluster) -> BTreeMap<String, String> {
    cluster.settle();
    let place = |pod: &k8s_openapi::api::core::v1::Pod| {
        (
            pod.metadata.name.clone().unwrap_or_default(),
            node_of(pod).unwrap_or("-").to_owned(),
        )
    };
    cluster.world.pods.values().map(|pod| place(pod)).collect()
}

fn node_term(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

#[test]
fn required_node_affinity() {
    for (key, operator, values, wanted) in [
        ("disk", "In", &["fast", "huge"][..], "w3"),
        ("zone", "NotIn", &["a"], "w3"),
        ("size", "Gt", &["2"], "w3"),
        ("size", "Lt", &["2"], "w1"),
        ("nothing", "Exists", &[], "-"),
        ("disk", "In", &["huge"], "-"),
    ] {
        let mut cluster = zones();
        let required = json!({"nodeSelectorTerms": [node_term("nothing", "Exists", &[]), node_term(key, operator, values)]});
        let affinity =
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
        // The controller has no zone and would match NotIn: its taint keeps it out.
        pod(&mut cluster, "p", json!({}), json!({"affinity": affinity}));
        assert_eq!(
            places(&mut cluster)["p"],
            wanted,
            "{key} {operator} {values:?}"
        );
    }
    let mut cluster = zones();
    let fields = json!({"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["w2"]}]}]});
    pod(
        &mut cluster,
        "p",
        json!({}),
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": fields}}}),
    );
    assert_eq!(places(&mut cluster)["p"], "w2");
}

#[test]
fn preferred_node_affinity_and_taints_to_avoid() {
    let mut cluster = zones();
    let preferred = json!([{"weight": 50, "preference": node_term("disk", "In", &["fast"])}]);
    let affinity =
        json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
    pod(&mut cluster, "p", json!({}), json!({"affinity": affinity}));
    assert_eq!(places(&mut cluster)["p"], "w3");
    let mut cluster = zones();
    for name in ["w1", "w2"] {
        let node = cluster.world.nodes[&(String::new(), name.to_owned())].clone();
        cluster.edit("Node", &*node, |value| {
            value["spec"]["taints"] = json!([{"key": "old", "effect": "PreferNoSchedule"}])
        });
    }
    pod(&mut cluster, "p", json!({}), json!({}));
    pod(
        &mut cluster,
        "tolerant",
        json!({}),
        json!({"tolerations": [{"key": "old", "operator": "Exists"}]}),
    );
    let places = places(&mut cluster);
    assert_eq!(places["p"], "w3");
    assert_ne!(
        places["tolerant"], "w3",
        "to it all are alike, and w3 is fuller"
    );
}

#[test]
fn anti_affinity_separates_physically() {
    let mut cluster = zones();
    let term =
        |key: &str| json!([{"topologyKey": key, "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let apart = |key: &str| json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(key)}}});
    for name in ["a", "b", "c", "d"] {
        pod(
            &mut cluster,
            name,
            json!({"app": "web"}),
            apart("kubernetes.io/hostname"),
        );
    }
    let found = places(&mut cluster);
    let mut taken: Vec<&str> = found.values().map(String::as_str).collect();
    taken.sort_unstable();
    assert_eq!(
        taken,
        ["-", "w1", "w2", "w3"],
        "one a node, and the fourth waits"
    );
    let waiting = cluster
        .world
        .pods
        .values()
        .find(|pod| node_of(pod).is_none())
        .expect("one waits");
    let message = waiting
        .status
        .as_ref()
        .unwrap()
        .conditions
        .as_ref()
        .unwrap()[0]
        .message
        .clone()
        .unwrap();
    assert!(
        message.contains("3 node(s) didn't match pod anti-affinity rules"),
        "{message}"
    );
    // Another pod that those do not want near finds no place either: it holds both ways.
    pod(&mut cluster, "web-too", json!({"app": "web"}), json!({}));
    assert_eq!(places(&mut cluster)["web-too"], "-");
    // By zone there is room for two.
    let mut cluster = zones();
    for name in ["a", "b", "c"] {
        pod(&mut cluster, name, json!({"app": "web"}), apart("zone"));
    }
    let found = places(&mut cluster);
    assert_eq!(found.values().filter(|place| *place == "w3").count(), 1);
    assert_eq!(found.values().filter(|place| *place == "-").count(), 1);
}

#[test]
fn affinity_brings_together() {
    let mut cluster = zones();
    let term = json!([{"topologyKey": "zone", "labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]}}]);
    let together = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}});
    pod(
        &mut cluster,
        "cache",
        json!({"app": "cache"}),
        together.clone(),
    );
    assert_eq!(places(&mut cluster)["cache"], "-", "there is no web yet");
    pod(
        &mut cluster,
        "web",
        json!({"app": "web"}),
        json!({"nodeSelector": {"disk": "fast"}}),
    );
    assert_eq!(places(&mut cluster)["cache"], "w3");
    let mut cluster = zones();
    pod(&mut cluster, "web", json!({"app": "web"}), together);
    assert_ne!(
        places(&mut cluster)["web"],
        "-",
        "the first of its own group goes anywhere"
    );
    let mut cluster = zones();
    pod(
        &mut cluster,
        "web",
        json!({"app": "web"}),
        json!({"nodeSelector": {"disk": "fast"}}),
    );
    assert_eq!(places(&mut cluster)["web"], "w3");
    let wish = json!([{"weight": 10, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}}]);
    pod(
        &mut cluster,
        "near",
        json!({}),
        json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wish}}}),
    );
    pod(
        &mut cluster,
        "far",
        json!({}),
        json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": wish}}}),
    );
    let found = places(&mut cluster);
    assert_eq!(
        (found["near"].as_str(), found["far"] == "w3"),
        ("w3", false)
    );
}

#[test]
fn pods_spread_over_zones() {
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "web"}}}]})
    };
    for when in ["DoNotSchedule", "ScheduleAnyway"] {
        let mut cluster = zones();
        for name in ["a", "b", "c", "d"] {
            pod(&mut cluster, name, json!({"app": "web"}), spread(when));
        }
        let found = places(&mut cluster);
        assert_eq!(
            found.values().filter(|place| *place == "w3").count(),
            2,
            "{when}: two in each zone: {found:?}"
        );
    }
    let mut cluster = zones();
    let node = cluster.world.nodes[&(String::new(), "w3".to_owned())].clone();
    cluster.edit("Node", &*node, |value| {
        value["spec"]["unschedulable"] = json!(true)
    });
    for name in ["a", "b"] {
        pod(
            &mut cluster,
            name,
            json!({"app": "web"}),
            spread("DoNotSchedule"),
        );
    }
    let found = places(&mut cluster);
    assert_eq!(
        found.values().filter(|place| *place == "-").count(),
        1,
        "zone b counts though it takes none: {found:?}"
    );
}

#[test]
fn replicas_are_separate_even_when_one_node_is_preferred() {
    let mut cluster = zones();
    cluster.rc("web", 3, "v1");
    let rc = cluster
        .world
        .replication_controllers
        .values()
        .next()
        .expect("it")
        .clone();
    let preferred = json!([{"weight": 1, "preference": node_term("disk", "In", &["fast"])}]);
    cluster.edit("ReplicationController", &*rc, |value| {
        value["spec"]["template"]["spec"]["affinity"] =
            json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
    });
    let mut taken: Vec<String> = places(&mut cluster).into_values().collect();
    taken.sort();
    taken.dedup();
    assert_eq!(taken.len(), 3, "{taken:?}");
}

#[test]
fn requests_are_held_against_what_is_allocatable() {
    let mut cluster = Cluster::new(2);
    let big = |memory: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"memory": memory}}}]});
    for name in ["a", "b", "c"] {
        pod(&mut cluster, name, json!({}), big("300Mi"));
    }
    pod(&mut cluster, "small", json!({}), big("100Mi"));
    let found = places(&mut cluster);
    assert_eq!(found.values().filter(|place| *place == "-").count(), 1);
    assert_ne!(found["small"], "-");
}

#[test]
fn taints_drive_pods_out_when_their_time_is_up() {
    let mut cluster = Cluster::new(1);
    let tolerate = |seconds: Value| json!({"nodeName": "w1", "tolerations": [{"key": "x", "operator": "Exists", "tolerationSeconds": seconds}]});
    pod(
        &mut cluster,
        "intolerant",
        json!({}),
        json!({"nodeName": "w1"}),
    );
    pod(&mut cluster, "for-a-while", json!({}), tolerate(json!(30)));
    pod(&mut cluster, "for-ever", json!({}), tolerate(Value::Null));
    let node = cluster.world.nodes[&(String::new(), "w1".to_owned())].clone();
    cluster.edit("Node", &*node, |value| {
        value["spec"]["taints"] = json!([{"key": "x", "effect": "NoExecute"}])
    });
    assert_eq!(
        kinds_of(&nodes::reconcile(&cluster.world)),
        ["patch w1"],
        "the taint is dated first"
    );
    cluster.round();
    let decision = nodes::reconcile(&cluster.world);
    assert_eq!(kinds_of(&decision), ["delete intolerant"]);
    assert_eq!(
        decision.recheck,
        Some(cluster.world.now + SignedDuration::from_secs(30))
    );
    let leaving = |cluster: &Cluster, name: &str| {
        let key: Key = ("default".to_owned(), name.to_owned());
        cluster
            .world
            .pods
            .get(&key)
            .is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    };
    assert!(!leaving(&cluster, "for-a-while"));
    cluster.world.now += SignedDuration::from_secs(31);
    cluster.round();
    assert!(leaving(&cluster, "for-a-while") && !leaving(&cluster, "for-ever"));
    assert_eq!(
        kinds_of(&scheduler::reconcile(&cluster.world)),
        Vec::<String>::new()
    );
}

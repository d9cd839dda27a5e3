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

/// How many of these pods went nowhere, with a constraint over zones that has these settings besides.
fn unplaced(
    cluster: &mut Cluster,
    pods: &[(&str, Value)],
    settings: &Value,
    spec: &Value,
) -> usize {
    for (name, labels) in pods {
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "web"}}});
        for (key, value) in settings.as_object().into_iter().flatten() {
            constraint[key] = value.clone();
        }
        let mut spec = spec.clone();
        spec["topologySpreadConstraints"] = json!([constraint]);
        pod(cluster, name, labels.clone(), spec);
    }
    let found = places(cluster);
    found.values().filter(|place| *place == "-").count()
}

#[test]
fn which_nodes_and_pods_count_for_a_spreading() {
    let web = |name| (name, json!({"app": "web"}));
    let two = [web("a"), web("b")];
    let slow = json!({"nodeSelector": {"disk": "slow"}});
    for (settings, spec, wanted) in [
        (json!({}), &slow, 0),
        (json!({"nodeAffinityPolicy": "Ignore"}), &slow, 1),
        (json!({"nodeTaintsPolicy": "Ignore"}), &json!({}), 1),
        (json!({"nodeTaintsPolicy": "Honor"}), &json!({}), 0),
    ] {
        let mut cluster = zones();
        let node = cluster.world.nodes[&(String::new(), "w3".to_owned())].clone();
        cluster.edit("Node", &*node, |value| {
            value["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]);
        });
        let found = unplaced(&mut cluster, &two, &settings, spec);
        assert_eq!(found, wanted, "{settings} {spec}");
    }
    let three = [web("a"), web("b"), web("c")];
    for (least, wanted) in [(2, 0), (3, 1)] {
        let settings = json!({"minDomains": least});
        let found = unplaced(&mut zones(), &three, &settings, &json!({}));
        assert_eq!(found, wanted, "{settings}");
    }
    // Only zone a takes any more: four of one kind are too many there, of two versions they are not.
    let versions: Vec<(&str, Value)> = [("a", "1"), ("b", "1"), ("c", "2"), ("d", "2")]
        .map(|(name, version)| (name, json!({"app": "web", "version": version})))
        .into();
    for (settings, wanted) in [
        (json!({"maxSkew": 1}), 0),
        (json!({"maxSkew": 1, "matchLabelKeys": ["version"]}), 0),
    ] {
        let mut cluster = zones();
        assert_eq!(
            unplaced(&mut cluster, &versions, &settings, &json!({})),
            wanted
        );
        let by_version = |version: &str| {
            let pods = cluster.world.pods.values();
            let of = pods.filter(|pod| {
                pod.metadata
                    .labels
                    .as_ref()
                    .is_some_and(|all| all["version"] == version)
            });
            of.filter(|pod| node_of(pod) == Some("w3")).count()
        };
        if settings.get("matchLabelKeys").is_some() {
            assert_eq!(
                (by_version("1"), by_version("2")),
                (1, 1),
                "one of each version in each zone"
            );
        }
    }
}

#[test]
fn labels_of_the_pod_itself_choose_whom_it_stays_away_from() {
    let away = |key: &str, term: Value| {
        let mut term = term;
        term["topologyKey"] = json!(key);
        json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    };
    // Versions share nodes, pods of one version do not.
    let spec = away(
        "kubernetes.io/hostname",
        json!({"labelSelector": {"matchLabels": {"app": "web"}}, "matchLabelKeys": ["version", "nothing"]}),
    );
    let mut cluster = zones();
    for (name, version) in [("a", "1"), ("b", "1"), ("c", "1"), ("d", "1"), ("e", "2")] {
        let labels = json!({"app": "web", "version": version});
        pod(&mut cluster, name, labels, spec.clone());
    }
    let found = places(&mut cluster);
    assert_eq!(
        (found["d"].as_str(), found["e"].as_str() == "-"),
        ("-", false),
        "{found:?}"
    );

    // A zone belongs to one tenant.
    let spec = away(
        "zone",
        json!({"labelSelector": {"matchExpressions": [{"key": "tenant", "operator": "Exists"}]}, "mismatchLabelKeys": ["tenant"]}),
    );
    let mut cluster = zones();
    for (name, tenant) in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "z")] {
        pod(&mut cluster, name, json!({"tenant": tenant}), spec.clone());
    }
    let found = places(&mut cluster);
    let zone = |name: &str| if found[name] == "w3" { "b" } else { "a" };
    assert_ne!(zone("a"), zone("b"), "{found:?}");
    assert_eq!(
        (zone("a"), found["d"].as_str()),
        (zone("c"), "-"),
        "{found:?}"
    );
}

#[test]
fn namespaces_are_chosen_by_their_labels() {
    for (selector, wanted) in [
        (json!({"matchLabels": {"team": "a"}}), "w3"),
        (json!({"matchLabels": {"team": "b"}}), "-"),
        (json!({}), "w3"),
    ] {
        let mut cluster = zones();
        cluster.put(
            "Namespace",
            "",
            json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}),
        );
        let there = json!({"metadata": {"name": "there", "labels": {"app": "x"}}, "spec": {"nodeName": "w3", "containers": []}});
        cluster.put("Pod", "shop", there);
        let near = json!({"labelSelector": {"matchLabels": {"app": "x"}}, "namespaceSelector": selector, "topologyKey": "zone"});
        let spec = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}}});
        pod(&mut cluster, "p", json!({}), spec);
        assert_eq!(places(&mut cluster)["p"], wanted, "{selector}");
    }
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

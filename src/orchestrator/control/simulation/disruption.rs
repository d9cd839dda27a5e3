//! Disruption budgets as they are counted.

use serde_json::{Value, json};

use super::cluster::{Cluster, start};
use crate::orchestrator::control::world::{Key, Liveness};

fn budget(cluster: &mut Cluster, spec: &Value) {
    let mut spec = spec.clone();
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    let object = json!({"metadata": {"name": "web", "generation": 1}, "spec": spec});
    cluster.put("PodDisruptionBudget", "default", object);
}

/// Disruptions allowed, healthy, desired and expected pods, and why.
fn counted(cluster: &Cluster) -> (i64, i64, i64, i64, String) {
    let key: Key = ("default".to_owned(), "web".to_owned());
    let budget = cluster.value("PodDisruptionBudget", &key).expect("there");
    let count = |field: &str| budget["status"][field].as_i64().expect("counted");
    let reason = budget["status"]["conditions"][0]["reason"].as_str();
    (
        count("disruptionsAllowed"),
        count("currentHealthy"),
        count("desiredHealthy"),
        count("expectedPods"),
        reason.unwrap_or_default().to_owned(),
    )
}

#[test]
fn a_budget_counts_the_pods_of_every_controller() {
    let strategy = json!({"type": "Recreate"});
    let table = [
        (json!({"minAvailable": 2}), (1, 3, 2, 3, "SufficientPods")),
        (
            json!({"minAvailable": "50%"}),
            (1, 3, 2, 3, "SufficientPods"),
        ),
        (json!({"maxUnavailable": 1}), (1, 3, 2, 3, "SufficientPods")),
        (
            json!({"maxUnavailable": 0}),
            (0, 3, 3, 3, "InsufficientPods"),
        ),
        (
            json!({"maxUnavailable": "34%"}),
            (2, 3, 1, 3, "SufficientPods"),
        ),
    ];
    for (spec, expected) in table {
        let mut cluster = Cluster::new(2);
        cluster.deployment(3, "v1", &strategy);
        budget(&mut cluster, &spec);
        cluster.settle();
        let (a, b, c, d, reason) = expected;
        assert_eq!(counted(&cluster), (a, b, c, d, reason.to_owned()), "{spec}");
    }
}

#[test]
fn pods_that_cannot_be_reached_are_not_healthy() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 4, "v1");
    budget(&mut cluster, &json!({"minAvailable": 3}));
    cluster.settle();
    assert_eq!(counted(&cluster).0, 1);
    cluster.silence("w1", Liveness::Silent);
    cluster.settle();
    let (allowed, healthy, ..) = counted(&cluster);
    assert_eq!((allowed, healthy), (0, 2));
}

#[test]
fn what_is_being_evicted_is_spent_until_it_is_gone_or_late() {
    let mut cluster = Cluster::new(2);
    cluster.rc("web", 3, "v1");
    budget(&mut cluster, &json!({"minAvailable": 2}));
    cluster.settle();
    let pod = cluster.owned_by("web")[0].clone();
    let name = pod.metadata.name.clone().expect("a name");
    let key: Key = ("default".to_owned(), "web".to_owned());
    let mut object = cluster.value("PodDisruptionBudget", &key).expect("there");
    object["status"]["disruptionsAllowed"] = json!(0);
    object["status"]["disruptedPods"] = json!({name.as_str(): start().to_string()});
    cluster.put("PodDisruptionBudget", "default", object.clone());
    cluster.settle();
    let (allowed, healthy, ..) = counted(&cluster);
    assert_eq!((allowed, healthy), (0, 2), "it goes");
    let late = jiff::SignedDuration::from_secs(121);
    cluster.world.now = start().checked_add(late).expect("a time");
    cluster.settle();
    let (allowed, healthy, ..) = counted(&cluster);
    assert_eq!((allowed, healthy), (1, 3), "it has not gone");
    let object = cluster.value("PodDisruptionBudget", &key).expect("there");
    assert_eq!(object["status"]["disruptedPods"][&name], Value::Null);
}

#[test]
fn pods_of_a_kind_without_a_scale_allow_nothing() {
    let mut cluster = Cluster::new(1);
    let owner = json!([{"apiVersion": "batch/v1", "kind": "Bird", "name": "b", "uid": "uid-1", "controller": true}]);
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "web"}, "ownerReferences": owner}, "spec": {"containers": []}});
    cluster.put("Pod", "default", pod);
    budget(&mut cluster, &json!({"maxUnavailable": 1}));
    let decision = crate::orchestrator::control::disruption::reconcile(&cluster.world);
    for action in decision.actions {
        cluster.apply(action);
    }
    let (allowed, .., reason) = counted(&cluster);
    assert_eq!((allowed, reason.as_str()), (0, "SyncFailed"));
}

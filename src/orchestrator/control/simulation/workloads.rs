//! StatefulSets, DaemonSets, Jobs and CronJobs, each in a story.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::cluster::{Cluster, ROUNDS_MAX, start};
use crate::orchestrator::control::world::{Key, is_active, node_of, ready_since};

fn key(name: &str) -> Key {
    ("default".to_owned(), name.to_owned())
}

/// Creates the object, or replaces its spec.
fn apply(cluster: &mut Cluster, kind: &str, name: &str, spec: &Value) {
    let mut object = cluster
        .value(kind, &key(name))
        .unwrap_or_else(|| json!({"metadata": {"name": name, "generation": 0}}));
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    object["metadata"]["generation"] = json!(generation + 1);
    object["spec"] = spec.clone();
    cluster.put(kind, "default", object);
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

/// The images of the ready pods, by the pods' names.
fn ready(cluster: &Cluster) -> BTreeMap<String, String> {
    let pods = cluster.world.pods.values();
    pods.filter(|pod| ready_since(pod).is_some() && is_active(pod))
        .map(|pod| {
            let spec = pod.spec.as_ref().expect("a spec");
            let image = spec.containers[0].image.clone();
            (
                pod.metadata.name.clone().expect("a name"),
                image.unwrap_or_default(),
            )
        })
        .collect()
}

/// Lets the controllers come to rest, and looks after every round.
fn settle(cluster: &mut Cluster, mut look: impl FnMut(&Cluster)) {
    for _ in 0..ROUNDS_MAX {
        let pods = cluster.world.pods.clone();
        let busy = cluster.round();
        look(cluster);
        cluster.agents();
        if !busy && pods == cluster.world.pods {
            return;
        }
    }
    panic!("the controllers do not come to rest");
}

fn stateful_set(replicas: i32, image: &str, partition: i32) -> Value {
    json!({"replicas": replicas, "serviceName": "web", "selector": {"matchLabels": {"app": "web"}}, "template": template(image),
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}})
}

fn named(images: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = images.iter();
    pairs
        .map(|(name, image)| ((*name).to_owned(), (*image).to_owned()))
        .collect()
}

#[test]
fn a_stateful_set_starts_rolls_and_shrinks_in_order() {
    let mut cluster = Cluster::new(2);
    apply(
        &mut cluster,
        "StatefulSet",
        "web",
        &stateful_set(3, "v1", 0),
    );
    settle(&mut cluster, |cluster| {
        let there = cluster.world.pods.len();
        assert!(there <= ready(cluster).len() + 1, "one at a time");
    });
    let all = |image| named(&[("web-0", image), ("web-1", image), ("web-2", image)]);
    assert_eq!(ready(&cluster), all("v1"));
    apply(
        &mut cluster,
        "StatefulSet",
        "web",
        &stateful_set(3, "v2", 2),
    );
    settle(&mut cluster, |cluster| assert!(ready(cluster).len() >= 2));
    let partly = named(&[("web-0", "v1"), ("web-1", "v1"), ("web-2", "v2")]);
    assert_eq!(ready(&cluster), partly);
    // A pod below the partition is made anew of the template before.
    cluster.remove("Pod", &key("web-0"));
    settle(&mut cluster, |_| {});
    assert_eq!(ready(&cluster), partly);
    apply(
        &mut cluster,
        "StatefulSet",
        "web",
        &stateful_set(3, "v2", 0),
    );
    settle(&mut cluster, |cluster| assert!(ready(cluster).len() >= 2));
    assert_eq!(ready(&cluster), all("v2"));
    apply(
        &mut cluster,
        "StatefulSet",
        "web",
        &stateful_set(3, "v1", 0),
    );
    settle(&mut cluster, |_| {});
    assert_eq!(ready(&cluster), all("v1"));
    let revisions = cluster.world.controller_revisions.values();
    let mut numbers: Vec<_> = revisions.map(|revision| revision.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [Some(2), Some(3)], "the first is the newest again");
    apply(
        &mut cluster,
        "StatefulSet",
        "web",
        &stateful_set(1, "v1", 0),
    );
    settle(&mut cluster, |cluster| {
        let names: Vec<String> = ready(cluster).into_keys().collect();
        let expected = ["web-0", "web-1", "web-2"];
        assert_eq!(names, expected[..names.len()], "the last goes first");
    });
    assert_eq!(ready(&cluster), named(&[("web-0", "v1")]));
    let set = &cluster.world.stateful_sets[&key("web")];
    let status = set.status.clone().expect("a status");
    assert_eq!(
        (
            status.replicas,
            status.ready_replicas,
            status.updated_replicas
        ),
        (1, Some(1), Some(1))
    );
    assert_eq!(status.current_revision, status.update_revision);
    assert_eq!(status.observed_generation, set.metadata.generation);
}

#[test]
fn a_pod_of_a_stateful_set_has_its_name_and_its_claims() {
    let mut cluster = Cluster::new(1);
    let mut spec = stateful_set(1, "v1", 0);
    spec["volumeClaimTemplates"] =
        json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    apply(&mut cluster, "StatefulSet", "web", &spec);
    settle(&mut cluster, |_| {});
    let pod = cluster.value("Pod", &key("web-0")).expect("there");
    assert_eq!(pod["spec"]["hostname"], json!("web-0"));
    assert_eq!(pod["spec"]["subdomain"], json!("web"));
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["apps.kubernetes.io/pod-index"], json!("0"));
    assert_eq!(
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"],
        json!("data-web-0")
    );
    let claim = cluster.value("PersistentVolumeClaim", &key("data-web-0"));
    assert!(claim.is_some());
}

fn daemon_set(image: &str) -> Value {
    json!({"selector": {"matchLabels": {"app": "web"}}, "template": template(image), "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}})
}

fn places(cluster: &Cluster) -> Vec<&str> {
    let pods = cluster.world.pods.values();
    let mut places: Vec<&str> = pods
        .filter(|pod| is_active(pod))
        .filter_map(|pod| node_of(pod))
        .collect();
    places.sort_unstable();
    places
}

#[test]
fn a_daemon_set_has_one_pod_on_every_node_that_fits() {
    let mut cluster = Cluster::new(3);
    apply(&mut cluster, "DaemonSet", "web", &daemon_set("v1"));
    settle(&mut cluster, |_| {});
    assert_eq!(places(&cluster), ["w1", "w2", "w3"], "c1 is tainted");
    apply(&mut cluster, "DaemonSet", "web", &daemon_set("v2"));
    settle(&mut cluster, |cluster| assert!(ready(cluster).len() >= 2));
    let images: Vec<String> = ready(&cluster).into_values().collect();
    assert_eq!(images, ["v2", "v2", "v2"]);
    // A cordoned node gets one, too.
    cluster.node("w4", json!({"unschedulable": true}));
    settle(&mut cluster, |_| {});
    assert_eq!(places(&cluster), ["w1", "w2", "w3", "w4"]);
    let status = cluster.world.daemon_sets[&key("web")].status.clone();
    let status = status.expect("a status");
    assert_eq!(
        (status.desired_number_scheduled, status.number_ready),
        (4, 4)
    );
    assert_eq!(
        (status.updated_number_scheduled, status.number_unavailable),
        (Some(4), Some(0))
    );
    let mut everywhere = daemon_set("v2");
    everywhere["template"]["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    apply(&mut cluster, "DaemonSet", "web", &everywhere);
    settle(&mut cluster, |_| {});
    assert_eq!(places(&cluster), ["c1", "w1", "w2", "w3", "w4"]);
    let mut selected = everywhere.clone();
    selected["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "w2"});
    apply(&mut cluster, "DaemonSet", "web", &selected);
    settle(&mut cluster, |_| {});
    assert_eq!(places(&cluster), ["w2"]);
}

fn job(cluster: &mut Cluster, fields: &Value) {
    let mut spec = json!({"selector": {"matchLabels": {"job": "j"}}, "backoffLimit": 1,
        "template": {"metadata": {"labels": {"job": "j"}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    for (field, value) in fields.as_object().expect("fields") {
        spec[field] = value.clone();
    }
    apply(cluster, "Job", "j", &spec);
}

/// Ends a running pod.
fn end(cluster: &mut Cluster, phase: &str) {
    let mut pods = cluster.world.pods.values();
    let running = pods.find(|pod| is_active(pod) && ready_since(pod).is_some());
    let pod = running.expect("one runs").clone();
    cluster.edit("Pod", &*pod, |value| {
        value["status"] = json!({"phase": phase});
    });
    settle(cluster, |_| {});
}

fn active(cluster: &Cluster) -> usize {
    let pods = cluster.world.pods.values();
    pods.filter(|pod| is_active(pod)).count()
}

/// `SuccessCriteriaMet`, `Complete`, …: those that are true.
fn conditions(cluster: &Cluster) -> Vec<String> {
    let status = cluster.world.jobs[&key("j")].status.clone();
    let conditions = status.and_then(|status| status.conditions);
    let conditions = conditions.into_iter().flatten();
    conditions
        .filter(|condition| condition.status == "True")
        .map(|condition| condition.type_)
        .collect()
}

#[test]
fn a_job_ends_when_enough_pods_have_succeeded() {
    let mut cluster = Cluster::new(2);
    job(&mut cluster, &json!({"completions": 3, "parallelism": 2}));
    settle(&mut cluster, |_| {});
    assert_eq!(active(&cluster), 2);
    end(&mut cluster, "Succeeded");
    assert_eq!(active(&cluster), 2);
    end(&mut cluster, "Succeeded");
    assert_eq!(active(&cluster), 1, "no more than are left");
    // Pods that are counted may be deleted.
    let ended: Vec<Key> = cluster
        .world
        .pods
        .iter()
        .filter(|(_, pod)| !is_active(pod))
        .map(|(key, _)| key.clone())
        .collect();
    for key in ended {
        cluster.remove("Pod", &key);
    }
    assert!(conditions(&cluster).is_empty());
    end(&mut cluster, "Succeeded");
    assert_eq!(conditions(&cluster), ["SuccessCriteriaMet", "Complete"]);
    let status = cluster.world.jobs[&key("j")].status.clone();
    let status = status.expect("a status");
    assert_eq!((status.succeeded, status.active), (Some(3), None));
    assert!(status.start_time.is_some() && status.completion_time.is_some());
    let pods = cluster.world.pods.values();
    let mut held = pods.flat_map(|pod| pod.metadata.finalizers.iter().flatten());
    assert_eq!(held.next(), None, "all are counted");
}

#[test]
fn a_job_fails_when_too_many_pods_have_failed() {
    let mut cluster = Cluster::new(1);
    job(&mut cluster, &json!({"completions": 2, "parallelism": 2}));
    settle(&mut cluster, |_| {});
    end(&mut cluster, "Failed");
    assert_eq!(active(&cluster), 2, "it ended long ago, and is replaced");
    end(&mut cluster, "Failed");
    assert_eq!(active(&cluster), 0);
    assert_eq!(conditions(&cluster), ["FailureTarget", "Failed"]);
}

/// Numbers of the active pods.
fn numbers(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.world.pods.values().filter(|pod| is_active(pod));
    let mut numbers: Vec<String> = pods
        .filter_map(|pod| {
            pod.metadata
                .labels
                .as_ref()?
                .get("batch.kubernetes.io/job-completion-index")
                .cloned()
        })
        .collect();
    numbers.sort();
    numbers
}

#[test]
fn each_number_of_an_indexed_job_succeeds_once() {
    let mut cluster = Cluster::new(2);
    job(
        &mut cluster,
        &json!({"completions": 3, "parallelism": 2, "completionMode": "Indexed"}),
    );
    settle(&mut cluster, |_| {});
    assert_eq!(numbers(&cluster), ["0", "1"]);
    let status = |cluster: &Cluster| {
        cluster.world.jobs[&key("j")]
            .status
            .clone()
            .expect("a status")
    };
    end(&mut cluster, "Failed");
    assert_eq!(numbers(&cluster), ["0", "1"], "the number begins anew");
    assert_eq!(
        (status(&cluster).failed, status(&cluster).succeeded),
        (Some(1), Some(0))
    );
    end(&mut cluster, "Succeeded");
    assert_eq!(numbers(&cluster).len(), 2, "the next number begins");
    assert!(numbers(&cluster).contains(&"2".to_owned()));
    assert_eq!(status(&cluster).succeeded, Some(1));
    // What has succeeded stays so without its pod.
    let ended: Vec<Key> = cluster
        .world
        .pods
        .iter()
        .filter(|(_, pod)| !is_active(pod))
        .map(|(key, _)| key.clone())
        .collect();
    for key in ended {
        cluster.remove("Pod", &key);
    }
    end(&mut cluster, "Succeeded");
    end(&mut cluster, "Succeeded");
    assert_eq!(conditions(&cluster), ["SuccessCriteriaMet", "Complete"]);
    assert_eq!(status(&cluster).completed_indexes.as_deref(), Some("0-2"));
    assert_eq!((status(&cluster).succeeded, active(&cluster)), (Some(3), 0));
    let pods = cluster.world.pods.values();
    let mut held = pods.flat_map(|pod| pod.metadata.finalizers.iter().flatten());
    assert_eq!(held.next(), None, "all are counted");
}

#[test]
fn a_suspended_job_has_no_pods_and_a_deleted_one_leaves_none() {
    let mut cluster = Cluster::new(1);
    job(&mut cluster, &json!({"completions": 1, "parallelism": 1}));
    settle(&mut cluster, |_| {});
    let running = json!({"completions": 1, "parallelism": 1, "suspend": true});
    job(&mut cluster, &running);
    settle(&mut cluster, |_| {});
    assert_eq!(cluster.world.pods.len(), 0);
    assert_eq!(conditions(&cluster), ["Suspended"]);
    let failed = cluster.world.jobs[&key("j")].status.clone();
    assert_eq!(failed.expect("a status").failed, None);
    job(&mut cluster, &json!({"completions": 1, "parallelism": 1}));
    settle(&mut cluster, |_| {});
    assert_eq!((active(&cluster), conditions(&cluster).len()), (1, 0));
    cluster.remove("Job", &key("j"));
    settle(&mut cluster, |_| {});
    assert_eq!(cluster.world.pods.len(), 0, "no finalizer holds them");
}

fn jobs(cluster: &Cluster) -> Vec<String> {
    let jobs = cluster.world.jobs.keys();
    jobs.map(|(_, name)| name.clone()).collect()
}

/// A CronJob of every ten minutes, at a minute after the start.
fn at_minute(cluster: &mut Cluster, minute: i64) {
    let later = SignedDuration::from_secs(60 * minute);
    cluster.world.now = start().checked_add(later).expect("a time");
    settle(cluster, |_| {});
}

fn cron_job(cluster: &mut Cluster, policy: &str) {
    let job = json!({"spec": {"selector": {"matchLabels": {"job": "j"}}, "completions": 1,
        "template": {"metadata": {"labels": {"job": "j"}}, "spec": {"restartPolicy": "Never", "containers": []}}}});
    let spec = json!({"schedule": "*/10 * * * *", "concurrencyPolicy": policy, "jobTemplate": job, "successfulJobsHistoryLimit": 1});
    apply(cluster, "CronJob", "c", &spec);
}

/// The name of the Job that is for a minute after the start.
fn for_minute(minute: i64) -> String {
    format!("c-{}", start().as_second() / 60 + minute)
}

#[test]
fn a_cron_job_makes_a_job_at_its_times() {
    let mut cluster = Cluster::new(1);
    cron_job(&mut cluster, "Allow");
    at_minute(&mut cluster, 1);
    assert!(jobs(&cluster).is_empty());
    at_minute(&mut cluster, 10);
    assert_eq!(jobs(&cluster), [for_minute(10)]);
    at_minute(&mut cluster, 11);
    assert_eq!(jobs(&cluster).len(), 1, "once");
    // Of those that were missed, the last.
    at_minute(&mut cluster, 45);
    assert_eq!(jobs(&cluster), [for_minute(10), for_minute(40)]);
    let status = cluster.world.cron_jobs[&key("c")].status.clone();
    let status = status.expect("a status");
    assert_eq!(status.active.map_or(0, |active| active.len()), 2);
    let last = status.last_schedule_time.expect("a time").0;
    assert_eq!(last.duration_since(start()).as_mins(), 40);
}

#[test]
fn jobs_of_a_cron_job_run_beside_each_other_only_if_they_may() {
    for (policy, expected) in [
        ("Forbid", vec![for_minute(10)]),
        ("Replace", vec![for_minute(20)]),
    ] {
        let mut cluster = Cluster::new(1);
        cron_job(&mut cluster, policy);
        at_minute(&mut cluster, 10);
        at_minute(&mut cluster, 20);
        assert_eq!(jobs(&cluster), expected, "{policy}");
    }
}

#[test]
fn jobs_that_have_ended_are_kept_as_long_as_is_asked_for() {
    let mut cluster = Cluster::new(1);
    cron_job(&mut cluster, "Allow");
    for minute in [10, 20, 30] {
        at_minute(&mut cluster, minute);
        let name = for_minute(minute);
        let job = cluster.world.jobs[&key(&name)].clone();
        let at = cluster.world.now.to_string();
        cluster.edit("Job", &*job, |value| {
            value["status"] = json!({"startTime": at, "completionTime": at, "conditions": [{"type": "Complete", "status": "True"}]});
        });
        settle(&mut cluster, |_| {});
    }
    assert_eq!(jobs(&cluster), [for_minute(30)]);
    let status = cluster.world.cron_jobs[&key("c")].status.clone();
    assert!(status.expect("a status").last_successful_time.is_some());
}

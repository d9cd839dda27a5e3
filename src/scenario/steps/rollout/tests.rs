//! Rollouts: what is changed, what is gone back to, and when it is over.

use serde_json::{Value as Json, json};

use super::progress::{self, Progress};
use super::{history, images};
use crate::kubernetes::client::Patch;

fn deployment(status: &Json) -> Json {
    json!({ "metadata": { "generation": 3 }, "spec": { "replicas": 2 }, "status": status })
}

#[test]
fn a_deployment_is_done_when_its_new_replicas_alone_are_available() {
    let see = |status: Json| progress::of("Deployment", &deployment(&status), None);
    let waits = |why: &str| Progress::Waits(why.to_owned());
    assert_eq!(
        see(
            json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 })
        ),
        waits("its controller has not seen the change")
    );
    assert_eq!(
        see(json!({ "observedGeneration": 3, "replicas": 3, "updatedReplicas": 1 })),
        waits("1 of 2 replicas are new")
    );
    assert_eq!(
        see(json!({ "observedGeneration": 3, "replicas": 3, "updatedReplicas": 2 })),
        waits("1 old replicas are there")
    );
    assert_eq!(
        see(
            json!({ "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1 })
        ),
        waits("1 of 2 new replicas are available")
    );
    assert_eq!(
        see(
            json!({ "observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 })
        ),
        Progress::Done
    );
}

#[test]
fn what_an_earlier_rollout_exceeded_is_not_held_against_this_one() {
    let object = deployment(&json!({ "observedGeneration": 3, "conditions": [{
        "type": "Progressing", "reason": "ProgressDeadlineExceeded", "lastUpdateTime": "t1", "message": "no pods" }] }));
    let stale = progress::exceeded_at(&object);
    assert_eq!(stale.as_deref(), Some("t1"));
    assert_eq!(
        progress::of("Deployment", &object, None),
        Progress::Stuck("it exceeded its progress deadline: no pods".to_owned())
    );
    assert!(matches!(
        progress::of("Deployment", &object, stale.as_deref()),
        Progress::Waits(_)
    ));
    assert!(matches!(
        progress::of("Deployment", &object, Some("t0")),
        Progress::Stuck(_)
    ));
    assert_eq!(progress::exceeded_at(&deployment(&json!({}))), None);
}

#[test]
fn the_others_are_done_by_their_own_rules() {
    let daemon = |updated: u32, available: u32| {
        let status = json!({ "observedGeneration": 3, "desiredNumberScheduled": 3,
            "updatedNumberScheduled": updated, "numberAvailable": available });
        progress::of("DaemonSet", &deployment(&status), None)
    };
    assert!(matches!(daemon(2, 3), Progress::Waits(_)));
    assert!(matches!(daemon(3, 2), Progress::Waits(_)));
    assert_eq!(daemon(3, 3), Progress::Done);
    let stateful = |ready: u32, current: &str, partition: u32| {
        let mut object = deployment(&json!({ "observedGeneration": 3, "readyReplicas": ready,
            "updatedReplicas": 1, "currentRevision": current, "updateRevision": "b" }));
        object["spec"]["updateStrategy"] = json!({ "rollingUpdate": { "partition": partition } });
        progress::of("StatefulSet", &object, None)
    };
    assert!(matches!(stateful(1, "b", 0), Progress::Waits(_)));
    assert!(matches!(stateful(2, "a", 0), Progress::Waits(_)));
    assert_eq!(stateful(2, "b", 0), Progress::Done);
    assert_eq!(stateful(2, "a", 1), Progress::Done);
}

#[test]
fn what_would_not_roll_out_is_told_before_anything_changes() {
    let paused = json!({ "spec": { "paused": true } });
    assert!(progress::unable("Deployment", &paused).is_some());
    let by_hand = json!({ "spec": { "updateStrategy": { "type": "OnDelete" } } });
    assert!(progress::unable("DaemonSet", &by_hand).is_some());
    assert_eq!(progress::unable("DaemonSet", &json!({ "spec": {} })), None);
}

#[test]
fn images_change_where_their_containers_are() {
    let object = json!({ "spec": { "template": { "spec": {
        "containers": [{ "name": "web", "image": "web:1" }, { "name": "log", "image": "log:1" }],
        "initContainers": [{ "name": "init", "image": "init:1" }] } } } });
    let patch = |wanted: &[(&str, &str)]| {
        let wanted: Vec<(String, String)> = wanted
            .iter()
            .map(|(name, image)| ((*name).to_owned(), (*image).to_owned()))
            .collect();
        images::patch(&object, &wanted)
    };
    assert_eq!(
        patch(&[("web", "web:2"), ("init", "init:2")]),
        Ok(Patch::Strategic(json!({ "spec": { "template": { "spec": {
            "containers": [{ "name": "web", "image": "web:2" }],
            "initContainers": [{ "name": "init", "image": "init:2" }] } } } })))
    );
    assert_eq!(
        patch(&[("wbe", "web:2")]),
        Err("there is no container `wbe`, but `init`, `log`, `web`".to_owned())
    );
    assert!(patch(&[("web", "web:1")]).is_err(), "nothing would change");
}

#[test]
fn a_selector_is_written_as_lists_want_it() {
    let selector = json!({ "matchLabels": { "app": "web" }, "matchExpressions": [
        { "key": "tier", "operator": "In", "values": ["a", "b"] }, { "key": "old", "operator": "DoesNotExist" }] });
    assert_eq!(
        images::selector_text(&selector),
        "app=web,tier in (a,b),!old"
    );
}

#[test]
fn it_goes_back_to_the_template_before_this_one() {
    let object = json!({ "metadata": { "uid": "u" } });
    let owner = |uid: &str| json!([{ "uid": uid, "controller": true }]);
    let set = |uid: &str, revision: &str, image: &str| {
        json!({ "metadata": { "ownerReferences": owner(uid), "annotations": { "deployment.kubernetes.io/revision": revision } },
            "spec": { "template": { "metadata": { "labels": { "app": "web", "pod-template-hash": "x" } }, "spec": image } } })
    };
    let sets = [
        set("u", "10", "now"),
        set("u", "9", "before"),
        set("other", "11", "another's"),
        set("u", "2", "long ago"),
    ];
    assert_eq!(
        history::of_replica_sets(&object, &sets),
        Some(Patch::Json(
            json!([{ "op": "replace", "path": "/spec/template", "value": {
            "metadata": { "labels": { "app": "web" } }, "spec": "before" } }])
        ))
    );
    assert_eq!(history::of_replica_sets(&object, &sets[..1]), None);
    let revision = |number: u64, data: &str| json!({ "metadata": { "ownerReferences": owner("u") }, "revision": number, "data": data });
    let revisions = [
        revision(3, "now"),
        revision(1, "first"),
        revision(2, "before"),
    ];
    assert_eq!(
        history::of_revisions(&object, &revisions),
        Some(Patch::Strategic(json!("before")))
    );
}

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::kubernetes::client::resource_named;
use crate::kubernetes::manifest;

fn kind(name: &str) -> ResourceKind {
    resource_named(name).expect("it is served")
}

fn carried(of: &str, object: Value) -> Value {
    portable::portable(&kind(of), &object, Secrets::Included).expect("it is carried")
}

fn parse(text: &str) -> Vec<Manifest> {
    manifest::parse(Path::new("store.jsonl"), text, |_, _| Vec::new()).expect("it can be read")
}

fn lines(objects: &[Value]) -> String {
    objects.iter().map(|object| format!("{object}\n")).collect()
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.order
        .iter()
        .map(|index| plan.keys[*index].name.as_str())
        .collect()
}

fn told(problems: &[ManifestProblem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn what_one_cluster_says_of_an_object_is_not_carried() {
    let live = json!({
        "metadata": {
            "name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7", "generation": 3,
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{}], "labels": {"app": "web"},
            "annotations": {"deployment.kubernetes.io/revision": "4"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "old"}],
        },
        "spec": {"replicas": 2},
        "status": {"replicas": 2},
        "apiVersion": "apps/v1", "kind": "Deployment",
    });
    let written = carried("deploy", live);
    assert_eq!(
        written,
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "web", "namespace": "shop", "labels": {"app": "web"},
                "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "old"}],
            },
            "spec": {"replicas": 2},
        })
    );
    assert!(written.to_string().starts_with(r#"{"apiVersion":"#));
}

#[test]
fn what_a_server_chose_is_chosen_anew() {
    let service = |address: &str| {
        let spec = json!({"clusterIP": address, "clusterIPs": [address], "ports": [{"port": 80, "nodePort": 30080}]});
        carried("svc", json!({"metadata": {"name": "a"}, "spec": spec}))["spec"].clone()
    };
    assert_eq!(
        service("10.79.0.7"),
        json!({"ports": [{"port": 80, "nodePort": 30080}]})
    );
    assert_eq!(service("None")["clusterIP"], "None");
    let pod = json!({"metadata": {"name": "a"}, "spec": {"nodeName": "w1", "containers": []}});
    assert_eq!(carried("pod", pod)["spec"], json!({"containers": []}));
    let labels = json!({"batch.kubernetes.io/controller-uid": "u", "job-name": "a", "app": "x"});
    let job = |manual: bool| {
        carried(
            "job",
            json!({"metadata": {"name": "a"}, "spec": {
                "manualSelector": manual,
                "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}},
                "template": {"metadata": {"labels": labels}},
            }}),
        )
    };
    assert!(job(false)["spec"].get("selector").is_none());
    assert_eq!(
        job(false)["spec"]["template"]["metadata"]["labels"],
        json!({"app": "x"})
    );
    assert_eq!(job(true)["spec"]["template"]["metadata"]["labels"], labels);
}

#[test]
fn what_a_cluster_has_makes_or_has_done_is_left_out_and_counted() {
    let mut exported = Exported::default();
    let mut add = |of: &str, object: Value, secrets| exported.add(&kind(of), &object, secrets);
    let owned = |controller: bool| json!({"metadata": {"name": "a", "ownerReferences": [{"kind": "ReplicaSet", "name": "r", "controller": controller}]}});
    let (with, without) = (Secrets::Included, Secrets::LeftOut);
    add("ns", json!({"metadata": {"name": "default"}}), with);
    add(
        "svc",
        json!({"metadata": {"name": "kubernetes", "namespace": "default"}}),
        with,
    );
    add(
        "cm",
        json!({"metadata": {"name": "kube-root-ca.crt", "namespace": "shop"}}),
        with,
    );
    add(
        "sa",
        json!({"metadata": {"name": "default", "namespace": "shop"}}),
        with,
    );
    add("pod", owned(true), with);
    add(
        "pod",
        json!({"metadata": {"name": "a"}, "status": {"phase": "Succeeded"}}),
        with,
    );
    add(
        "job",
        json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}),
        with,
    );
    add(
        "cm",
        json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}),
        with,
    );
    add(
        "secret",
        json!({"metadata": {"name": "a"}, "data": {"password": "aHVudGVyMg=="}}),
        without,
    );
    assert_eq!((exported.objects, exported.text.as_str()), (0, ""));
    let left = [
        (Left::Own, 4),
        (Left::Controlled, 1),
        (Left::Finished, 2),
        (Left::Going, 1),
        (Left::Secret, 1),
    ];
    assert_eq!(exported.left, BTreeMap::from(left));

    let mut exported = Exported::default();
    let mut add = |of: &str, object: Value, secrets| exported.add(&kind(of), &object, secrets);
    add(
        "svc",
        json!({"metadata": {"name": "kubernetes", "namespace": "shop"}}),
        with,
    );
    add("cm", owned(false), with);
    add(
        "job",
        json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Failed", "status": "False"}]}}),
        with,
    );
    add(
        "secret",
        json!({"metadata": {"name": "a"}, "data": {"password": "aHVudGVyMg=="}}),
        with,
    );
    assert_eq!(exported.objects, 4);
    assert!(exported.text.contains("aHVudGVyMg=="));
    for of in ["no", "ep", "ev", "leases", "endpointslices"] {
        assert!(!portable::is_carried(&kind(of)), "{of}");
    }
}

#[test]
fn a_file_is_read_back_and_everything_comes_after_what_it_needs() {
    let mut exported = Exported::default();
    let owner = |of: &str, name: &str| json!([{"apiVersion": "v1", "kind": of, "name": name, "uid": "old"}]);
    for (of, object) in [
        (
            "pod",
            json!({"metadata": {"name": "pod", "namespace": "shop"}}),
        ),
        (
            "cm",
            json!({"metadata": {"name": "child", "namespace": "shop", "ownerReferences": owner("ConfigMap", "parent")}}),
        ),
        (
            "cm",
            json!({"metadata": {"name": "parent", "namespace": "shop", "ownerReferences": owner("Pod", "pod")}}),
        ),
        (
            "svc",
            json!({"metadata": {"name": "service", "namespace": "shop"}}),
        ),
        (
            "secret",
            json!({"metadata": {"name": "secret", "namespace": "shop"}, "data": {"text": "bGluZQo="}}),
        ),
        ("ns", json!({"metadata": {"name": "shop"}})),
    ] {
        exported.add(&kind(of), &object, Secrets::Included);
    }
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let file = directory.path().join("store.jsonl");
    std::fs::write(&file, &exported.text).expect("it is ours");
    let read = manifest::load(&[file]).expect("it can be read");
    assert_eq!(read.len(), exported.objects);
    let again: String = read.iter().map(|one| format!("{}\n", one.value)).collect();
    assert_eq!(again, exported.text);
    let plan = Plan::new(&read);
    assert_eq!(told(&plan.problems), Vec::<String>::new());
    assert_eq!(
        names(&plan),
        ["shop", "service", "secret", "pod", "parent", "child"]
    );
    assert!(plan.outside().is_empty(), "{:?}", plan.outside());

    // The owner's uid is the one that it has in the new cluster.
    let child = read
        .iter()
        .position(|one| one.name() == "child")
        .expect("it is there");
    let known = BTreeMap::from([(plan.owners[child][0].1.clone(), "new".to_owned())]);
    let created = with_owners(&read[child], &plan.owners[child], &known);
    assert_eq!(created["metadata"]["ownerReferences"][0]["uid"], "new");
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_line() {
    let owner =
        |name: &str| json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": "u"}]);
    let text = lines(&[
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "default"}}),
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "w1"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b", "ownerReferences": owner("c")}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "ownerReferences": owner("b")}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "d", "ownerReferences": [{"apiVersion": "x/v1", "kind": "X", "name": "x", "uid": "u"}]}}),
    ]);
    let manifests = parse(&text);
    let plan = Plan::new(&manifests);
    let said = told(&plan.problems);
    for (line, part) in [
        (2, "`default/a` is on line 1 already"),
        (3, "Node `w1` is the cluster's own doing"),
        (4, "own each other"),
        (5, "own each other"),
        (6, "of a kind that is not served"),
    ] {
        let at = format!("store.jsonl:{line}:");
        assert!(
            said.iter()
                .any(|one| one.starts_with(&at) && one.contains(part)),
            "{line} {part}: {said:?}"
        );
    }
    assert_eq!(said.len(), 5, "{said:?}");
}

#[test]
fn default_roles_are_a_clusters_own() {
    let role = |name: &str, labels: Value| {
        let object = json!({"metadata": {"name": name, "labels": labels}, "rules": []});
        portable::portable(&kind("clusterrole"), &object, Secrets::LeftOut).map(|_| ())
    };
    let default = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    assert_eq!(role("view", default), Err(Left::Own));
    assert_eq!(role("mine", json!({"a": "b"})), Ok(()));
}

#[test]
fn namespaces_and_owners_are_in_the_file_or_in_the_cluster() {
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "u"}]);
    let text = lines(&[
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "shop", "ownerReferences": owner}}),
    ]);
    let manifests = parse(&text);
    let plan = Plan::new(&manifests);
    let missing = told(&plan.missing(&manifests, &BTreeMap::new()));
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(
        missing[0].contains("there is no Namespace `shop`"),
        "{missing:?}"
    );
    assert!(
        missing[1].contains("ConfigMap `shop/owner` is neither here"),
        "{missing:?}"
    );
    let known = plan
        .outside()
        .into_iter()
        .map(|key| (key, "uid".to_owned()))
        .collect();
    assert_eq!(
        told(&plan.missing(&manifests, &known)),
        Vec::<String>::new()
    );
}

#[test]
fn errors_say_what_is_left() {
    assert!(taken_back(&[]).contains("is removed again"));
    assert!(taken_back(&["Pod `a`".to_owned()]).contains("could not be removed again: Pod `a`"));
}

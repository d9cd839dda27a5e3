use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::kubernetes::fields::types_of;
use crate::orchestrator::api::{defaults, kinds};

/// The kinds that are served and have a table of their own.
fn served() -> impl Iterator<Item = &'static Kind> {
    kinds::ALL
        .iter()
        .copied()
        .filter(|kind| KINDS.contains(&kind.kind) && BY_FIELD.contains_key(&(kind.kind, "spec")))
}

/// Every type that is reached through fields that are applied, with its fields.
fn reached() -> Vec<(&'static str, &'static [&'static str])> {
    let mut found: Vec<(&'static str, &'static [&'static str])> = Vec::new();
    for kind in served() {
        let types = types_of(&kind.api_version(), kind.kind);
        let mut left = vec![kind.kind];
        while let Some(name) = left.pop() {
            let Some(one) = types.iter().find(|one| one.name == name) else {
                continue;
            };
            if found.iter().any(|(known, _)| *known == name) {
                continue;
            }
            found.push((one.name, one.fields));
            let applied = |field| BY_FIELD.get(&(one.name, field)) == Some(&Applied);
            left.extend(
                one.holds
                    .iter()
                    .filter(|(field, _)| applied(field))
                    .map(|(_, name)| *name),
            );
        }
    }
    found
}

#[test]
fn every_field_is_in_the_table_and_nothing_else() {
    let reached = reached();
    let fields: BTreeSet<(&str, &str)> = reached
        .iter()
        .flat_map(|(name, fields)| fields.iter().map(move |field| (*name, *field)))
        .collect();
    let listed: BTreeSet<(&str, &str)> = BY_FIELD.keys().copied().collect();
    let missing: Vec<_> = fields.difference(&listed).collect();
    assert!(
        missing.is_empty(),
        "say in a table of this folder what becomes of these: {missing:?}"
    );
    let unknown: Vec<_> = listed.difference(&fields).collect();
    assert!(unknown.is_empty(), "there are no such fields: {unknown:?}");
    let twice = TABLES.iter().flat_map(|types| types.iter());
    let count: usize = twice
        .map(|table| table.applied.len() + table.others.len())
        .sum();
    assert_eq!(count, listed.len(), "a field is listed twice");
    assert!(fields.len() > 250, "{}", fields.len());
}

#[test]
fn workloads_are_in_the_table() {
    assert!(
        served().count() >= 9,
        "Pods, Services and the workloads have tables"
    );
    for kind in kinds::ALL {
        let types = types_of(&kind.api_version(), kind.kind);
        let makes_pods = types.iter().any(|one| one.name == "PodSpec");
        let is_looked_at = KINDS.contains(&kind.kind);
        assert!(
            is_looked_at || !(makes_pods || kind.kind == "Service"),
            "{}: KINDS has to name whatever makes pods",
            kind.kind
        );
    }
}

fn told(kind: &Kind, object: &Value) -> Vec<String> {
    look(kind, object).iter().map(NotApplied::warning).collect()
}

#[test]
fn what_is_set_without_effect_is_told_once_with_its_path() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {
        "hostPID": true, "priorityClassName": "high", "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {"name": "a", "image": "i", "tty": true, "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"}, {"containerPort": 54, "hostPort": 54, "protocol": "SCTP"}],
             "securityContext": {"seccompProfile": {"type": "Unconfined"}, "procMount": "Unmasked"}},
            {"name": "b", "image": "i", "tty": false},
        ],
        "volumes": [{"name": "n", "nfs": {"server": "s", "path": "/"}}, {"name": "e", "emptyDir": {"medium": "HugePages"}},
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}, {"name": "d", "emptyDir": {"sizeLimit": "1Mi"}}],
    }});
    assert_eq!(
        told(&kinds::POD, &pod),
        [
            "spec.hostPID: not applied here: the containers see their own processes only",
            "spec.priorityClassName: not applied here: pods have no priority, and none is removed for another",
            "spec.securityContext.seccompProfile.type: not applied here: no system call is filtered",
            "spec.containers[0].ports[2].hostPort: not applied here: nothing listens on the node's port: only TCP and UDP are carried; it keeps pods of the same port apart",
            "spec.containers[0].securityContext.procMount: not applied here: /proc is masked as by default",
            "spec.volumes[0].nfs: not applied here: there are no such volumes: the pod does not start",
            "spec.volumes[1].emptyDir.medium: not applied here: it is on the node's disk",
            "spec.volumes[3].emptyDir.sizeLimit: not applied here: on the node's disk it takes whatever there is",
        ]
    );
    let protects: Vec<String> = look(&kinds::POD, &pod)
        .into_iter()
        .filter(|one| one.protects)
        .map(|one| one.field)
        .collect();
    assert_eq!(
        protects,
        [
            "spec.securityContext.seccompProfile.type",
            "spec.containers[0].securityContext.procMount"
        ]
    );
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": {"hostUsers": false, "containers": []}}}});
    assert_eq!(
        told(&kinds::DEPLOYMENT, &deployment),
        ["spec.template.spec.hostUsers: not applied here: the containers' users are the node's"]
    );
}

#[test]
fn defaults_and_what_the_server_fills_in_are_no_news() {
    let mut pod = json!({"metadata": {"name": "p", "uid": "u", "managedFields": [{}]}, "status": {"phase": "Running"}, "spec": {
        "containers": [{"name": "a", "image": "i", "readinessProbe": {"httpGet": {"port": 80}}, "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
        "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "s"}}, {"name": "h", "hostPath": {"path": "/h"}}]}});
    let mut service = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let mut deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}}}});
    for (kind, object) in [
        (&kinds::POD, &mut pod),
        (&kinds::SERVICE, &mut service),
        (&kinds::DEPLOYMENT, &mut deployment),
    ] {
        defaults::apply(kind, object);
        assert_eq!(told(kind, object), [""; 0]);
    }
}

//! What of a cluster's objects goes into a file, and in which form.

use serde_json::{Map, Value, json};

use crate::kubernetes::client::ResourceKind;

/// Whether Secrets are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// With their values.
    Included,
    /// Not at all.
    LeftOut,
}

/// Why an object is not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Left {
    /// Every cluster has it.
    Own,
    /// A controller makes it of another object.
    Controlled,
    /// It has ended, and would run again.
    Finished,
    /// It is being deleted.
    Going,
    /// It is a Secret, and those were not asked for.
    Secret,
    /// It is of a kind that a CustomResourceDefinition defines.
    Custom,
}

/// What is said of an object by the server of one cluster.
const OF_ONE_CLUSTER: [&str; 9] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generateName",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Counts the ReplicaSets of one cluster.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// What every cluster has of itself: kind, namespace (any if empty), name.
const OWN: [(&str, &str, &str); 6] = [
    ("Namespace", "", "default"),
    ("Namespace", "", "kube-system"),
    ("Namespace", "", "kube-node-lease"),
    ("Service", "default", "kubernetes"),
    ("ServiceAccount", "", "default"),
    ("ConfigMap", "", "kube-root-ca.crt"),
];
/// The label and value of what a server makes of itself for RBAC.
const OWN_LABEL: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
/// By these a Job knows its pods; a server writes them from the Job's uid.
const JOB_LABELS: [&str; 4] = [
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
    "controller-uid",
    "job-name",
];

type Fields = Map<String, Value>;

/// What of a kind's fields was chosen by the server of one cluster, for objects that may be chosen anew elsewhere.
const CHOSEN: [(&str, fn(&mut Fields)); 5] = [
    ("Namespace", |object| drop_fields(object, &["spec"])),
    ("Service", without_addresses),
    ("Pod", |object| {
        if let Some(spec) = child(object, "spec") {
            drop_fields(spec, &["nodeName"]);
        }
    }),
    ("Job", without_selector),
    ("PersistentVolume", |object| {
        let claim = child(object, "spec").and_then(|spec| child(spec, "claimRef"));
        if let Some(claim) = claim {
            drop_fields(claim, &["uid", "resourceVersion"]);
        }
    }),
];

/// Whether objects of this kind are carried at all: the others are a cluster's own doing.
pub(super) fn is_carried(kind: &ResourceKind) -> bool {
    !kind.kept_by_cluster && kind.kind != "Node"
}

/// An object as it may be created in another cluster.
pub(super) fn portable(
    kind: &ResourceKind,
    object: &Value,
    secrets: Secrets,
) -> Result<Value, Left> {
    if let Some(left) = left_out(kind, object, secrets) {
        return Err(left);
    }
    let mut kept = Map::new();
    kept.insert("apiVersion".to_owned(), json!(kind.api_version()));
    kept.insert("kind".to_owned(), json!(kind.kind));
    for (field, value) in object.as_object().into_iter().flatten() {
        if !["apiVersion", "kind", "status"].contains(&field.as_str()) {
            kept.insert(field.clone(), value.clone());
        }
    }
    if let Some(metadata) = child(&mut kept, "metadata") {
        drop_fields(metadata, &OF_ONE_CLUSTER);
        if let Some(annotations) = child(metadata, "annotations") {
            drop_fields(annotations, &[REVISION]);
        }
        drop_empty(metadata, "annotations");
    }
    for (of, drop_chosen) in CHOSEN {
        if of == kind.kind {
            drop_chosen(&mut kept);
        }
    }
    Ok(Value::Object(kept))
}

fn left_out(kind: &ResourceKind, object: &Value, secrets: Secrets) -> Option<Left> {
    let metadata = &object["metadata"];
    let text = |field: &str| metadata[field].as_str().unwrap_or_default();
    let is_own = OWN.iter().any(|(of, namespace, name)| {
        *of == kind.kind
            && *name == text("name")
            && (namespace.is_empty() || *namespace == text("namespace"))
    });
    let is_own = is_own || metadata["labels"][OWN_LABEL.0] == OWN_LABEL.1;
    let mut owners = metadata["ownerReferences"].as_array().into_iter().flatten();
    let is_controlled = owners.any(|owner| owner["controller"] == json!(true));
    match () {
        () if is_own => Some(Left::Own),
        () if !metadata["deletionTimestamp"].is_null() => Some(Left::Going),
        () if is_controlled => Some(Left::Controlled),
        () if has_ended(kind, object) => Some(Left::Finished),
        () if kind.kind == "Secret" && secrets == Secrets::LeftOut => Some(Left::Secret),
        () => None,
    }
}

fn has_ended(kind: &ResourceKind, object: &Value) -> bool {
    let status = &object["status"];
    match kind.kind {
        "Pod" => matches!(status["phase"].as_str(), Some("Succeeded" | "Failed")),
        "Job" => {
            let mut conditions = status["conditions"].as_array().into_iter().flatten();
            conditions.any(|condition| {
                matches!(condition["type"].as_str(), Some("Complete" | "Failed"))
                    && condition["status"] == json!("True")
            })
        }
        _ => false,
    }
}

/// Its cluster addresses are of a cluster's range. That it has none is its user's wish.
fn without_addresses(service: &mut Fields) {
    if let Some(spec) = child(service, "spec")
        && spec.get("clusterIP") != Some(&json!("None"))
    {
        drop_fields(spec, &["clusterIP", "clusterIPs", "healthCheckNodePort"]);
    }
}

/// A server makes selector and labels of the Job's uid, unless the user has made them.
fn without_selector(job: &mut Fields) {
    let Some(spec) = child(job, "spec") else {
        return;
    };
    if spec.get("manualSelector") == Some(&json!(true)) {
        return;
    }
    drop_fields(spec, &["selector"]);
    let template = child(spec, "template").and_then(|template| child(template, "metadata"));
    without_job_labels(template);
    without_job_labels(child(job, "metadata"));
}

fn without_job_labels(metadata: Option<&mut Fields>) {
    let Some(metadata) = metadata else { return };
    if let Some(labels) = child(metadata, "labels") {
        drop_fields(labels, &JOB_LABELS);
    }
    drop_empty(metadata, "labels");
}

fn child<'a>(object: &'a mut Fields, field: &str) -> Option<&'a mut Fields> {
    object.get_mut(field)?.as_object_mut()
}

fn drop_fields(object: &mut Fields, fields: &[&str]) {
    for field in fields {
        object.shift_remove(*field);
    }
}

fn drop_empty(object: &mut Fields, field: &str) {
    if object
        .get(field)
        .and_then(Value::as_object)
        .is_some_and(Map::is_empty)
    {
        object.shift_remove(field);
    }
}

//! The template that a workload had before: of a Deployment by its ReplicaSets, of others by their ControllerRevisions, as
//! k8s.io/kubectl/pkg/polymorphichelpers/rollback.go finds it.

use serde_json::{Value as Json, json};

use super::ObjectPlace;
use crate::kubernetes::client::{Client, ListParams, Patch, resource_named};
use crate::scenario::deploy::NAMESPACE;

/// The annotation of a ReplicaSet that numbers it.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// The label by which a Deployment tells its ReplicaSets' pods apart.
const HASH: &str = "pod-template-hash";

/// The change that takes back the last rollout of a workload.
pub(super) async fn previous(
    client: &Client,
    place: &ObjectPlace,
    object: &Json,
) -> Result<Patch, String> {
    let of_deployment = place.kind.kind == "Deployment";
    let kind = if of_deployment {
        "ReplicaSet"
    } else {
        "ControllerRevision"
    };
    let failed = |why: String| format!("undo the last rollout of {place}: {why}");
    let kind = resource_named(kind).ok_or_else(|| failed(format!("{kind} is not known")))?;
    let listed = client
        .list_values(&kind, NAMESPACE, &ListParams::all())
        .await
        .map_err(|error| failed(error.to_string()))?;
    let change = if of_deployment {
        of_replica_sets(object, &listed.items)
    } else {
        of_revisions(object, &listed.items)
    };
    change.ok_or_else(|| failed("it has had no other template".to_owned()))
}

pub(super) fn of_replica_sets(object: &Json, sets: &[Json]) -> Option<Patch> {
    let number = |set: &Json| {
        let text = set["metadata"]["annotations"][REVISION].as_str()?;
        text.parse::<u64>().ok()
    };
    let before = second_newest(object, sets, number)?;
    let mut template = before["spec"]["template"].clone();
    if let Some(labels) = template["metadata"]["labels"].as_object_mut() {
        labels.remove(HASH);
    }
    Some(Patch::Json(json!([
        { "op": "replace", "path": "/spec/template", "value": template }
    ])))
}

pub(super) fn of_revisions(object: &Json, revisions: &[Json]) -> Option<Patch> {
    let before = second_newest(object, revisions, |one| one["revision"].as_u64())?;
    Some(Patch::Strategic(before["data"].clone()))
}

/// Of those that belong to the object the one with the second highest number.
fn second_newest<'a>(
    object: &Json,
    all: &'a [Json],
    number: impl Fn(&Json) -> Option<u64>,
) -> Option<&'a Json> {
    let uid = object["metadata"]["uid"].as_str()?;
    let is_ours = |one: &&Json| {
        let mut owners = one["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten();
        owners.any(|owner| owner["uid"] == uid && owner["controller"] == true)
    };
    let ours = all.iter().filter(is_ours);
    let mut numbered: Vec<(u64, &Json)> =
        ours.filter_map(|one| Some((number(one)?, one))).collect();
    numbered.sort_by_key(|(number, _)| *number);
    let last = numbered.len().checked_sub(2)?;
    numbered.get(last).map(|(_, one)| *one)
}

//! What the controllers of pods share: which pods are whose, how a pod is made of a template, how templates are told apart, and
//! when a pod counts.
//!
//! As Kubernetes' `pkg/controller/controller_ref_manager.go` and `controller_utils.go`.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::world::{
    Action, Decision, Liveness, Target, World, controller_of, is_active, node_of, ready_since,
};

/// Kubernetes' alphabet of generated names (util/rand).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Letters of a template's hash.
const HASH_LETTERS: usize = 10;

/// The pods of a controller, in the order of their names: those that it owns and that match. Matching pods without an owner are
/// adopted, pods that match no longer are released. `adopted` holds what others have adopted in this round.
pub(super) fn claim<'a>(
    world: &'a World,
    owner: &Target,
    selects: impl Fn(&ObjectMeta) -> bool,
    adopted: &mut BTreeSet<&'a str>,
    decision: &mut Decision,
) -> Vec<&'a Pod> {
    let mut owned: Vec<&Pod> = Vec::new();
    for pod in world.pods_in(&owner.namespace) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match controller_of(&pod.metadata) {
            Some(controller) if controller.uid != owner.uid => {}
            Some(_) if selects(&pod.metadata) => owned.push(pod),
            Some(_) if pod.metadata.deletion_timestamp.is_none() => {
                let left = owners_of(pod, |reference| reference != owner.uid);
                decision.actions.push(owner_patch(pod, &left));
            }
            None if is_active(pod) && selects(&pod.metadata) && adopted.insert(uid) => {
                let mut owners = owners_of(pod, |_| true);
                owners.push(owner.owner_reference());
                decision.actions.push(owner_patch(pod, &owners));
                owned.push(pod);
            }
            _ => {}
        }
    }
    owned
}

fn owners_of(pod: &Pod, kept: impl Fn(&str) -> bool) -> Vec<Value> {
    pod.metadata
        .owner_references
        .iter()
        .flatten()
        .filter(|owner| kept(&owner.uid))
        .map(|owner| json!(owner))
        .collect()
}

fn owner_patch(pod: &Pod, owners: &[Value]) -> Action {
    Action::Patch {
        target: Target::of("Pod", &pod.metadata),
        status: false,
        patch: json!({"metadata": {"ownerReferences": owners}}),
    }
}

/// A pod of a template, owned by its controller. It is named `OWNER-xxxxx` unless a name is put into it.
pub(super) fn pod_of(owner: &Target, template: Option<&PodTemplateSpec>) -> Value {
    let template = template.cloned().unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-", owner.name),
            "namespace": owner.namespace,
            "labels": metadata.labels.unwrap_or_default(),
            "annotations": metadata.annotations.unwrap_or_default(),
            "finalizers": metadata.finalizers.unwrap_or_default(),
            "ownerReferences": [owner.owner_reference()],
        },
        "spec": template.spec,
    })
}

/// The creation of a pod.
pub(super) fn create_pod(owner: &Target, object: Value) -> Action {
    Action::Create {
        kind: "Pod",
        namespace: owner.namespace.clone(),
        object,
    }
}

/// FNV-1a of a template and of how often that collided, in letters that make no words.
pub(super) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let text = format!("{}{collisions}", json!(template));
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in text.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let letters = ALPHABET.len() as u64;
    (0..HASH_LETTERS)
        .map(|_| {
            let letter = usize::try_from(hash % letters).unwrap_or(0);
            hash /= letters;
            char::from(ALPHABET[letter])
        })
        .collect()
}

/// Which way a part of a pod is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounding {
    Up,
    Down,
}

/// A number, or so many per cent of `of`.
pub(super) fn resolve(value: &IntOrString, of: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent * i64::from(of);
            let rounded = match rounding {
                Rounding::Up => (hundredths + 99) / 100,
                Rounding::Down => hundredths / 100,
            };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// Since when a pod is ready: one on a node that is silent is not.
pub(super) fn reachable_since(world: &World, pod: &Pod) -> Option<Timestamp> {
    ready_since(pod)
        .filter(|_| node_of(pod).is_none_or(|node| world.liveness_of(node) < Liveness::Silent))
}

/// Whether a pod has been ready for so long; if it will be, it is looked at again then.
pub(super) fn is_available(
    world: &World,
    pod: &Pod,
    min_ready_seconds: i32,
    decision: &mut Decision,
) -> bool {
    let Some(since) = reachable_since(world, pod) else {
        return false;
    };
    let min_ready = SignedDuration::from_secs(i64::from(min_ready_seconds));
    let available = since.checked_add(min_ready).unwrap_or(Timestamp::MAX);
    if available <= world.now || min_ready.is_zero() {
        return true;
    }
    decision.recheck_at(available);
    false
}

/// A time as Kubernetes writes it.
pub(super) fn written(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_as_they_are_meant() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(resolve(&quarter, 3, Rounding::Up), 1);
        assert_eq!(resolve(&quarter, 3, Rounding::Down), 0);
        assert_eq!(resolve(&IntOrString::Int(2), 3, Rounding::Up), 2);
    }
}

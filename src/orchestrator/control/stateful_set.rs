//! StatefulSets: pods with ordinals, which start in order, stop in reverse order, and are replaced one at a time from the last.
//!
//! As Kubernetes' `pkg/controller/statefulset/stateful_set_control.go`; [`order`] decides, and is a plain function of what is known
//! of each ordinal.
//!
//! Invariant: an ordinal never has two pods, since both would have one name; a pod that is to be replaced is deleted, and its
//! successor is made when the API has it no longer.

mod order;
mod status;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use self::order::{Member, Revision, Step, Wanted};
use super::revisions::{self, HASH_LABEL, History};
use super::workload::{claim, create_pod, is_available, pod_of, reachable_since};
use super::world::{
    Action, Decision, Target, World, event, is_finished, label_selector_selects, phase,
};

const COMPONENT: &str = "statefulset-controller";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    for set in world.stateful_sets.values() {
        if set.metadata.deletion_timestamp.is_none() {
            reconcile_one(world, set, &mut decision);
        }
    }
    decision
}

/// A StatefulSet with its pods.
struct Replicas<'a> {
    target: Target,
    set: &'a StatefulSet,
    pods: BTreeMap<i32, &'a Pod>,
    members: BTreeMap<i32, Member>,
    wanted: Wanted,
    history: History<'a>,
    /// The revision before the update, or the only one.
    current: String,
}

fn reconcile_one(world: &World, set: &StatefulSet, decision: &mut Decision) {
    let replicas = Replicas::of(world, set, decision);
    for step in order::next(&replicas.wanted, &replicas.members) {
        replicas.take(world, &step, decision);
    }
    replicas.status(decision);
}

/// The number at the end of a pod's name.
fn ordinal(metadata: &ObjectMeta, set: &str) -> Option<i32> {
    let digits = metadata
        .name
        .as_deref()?
        .strip_prefix(set)?
        .strip_prefix('-')?;
    let number: i32 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

fn label<'a>(pod: &'a Pod, name: &str) -> &'a str {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(name))
        .map(String::as_str)
        .unwrap_or_default()
}

impl<'a> Replicas<'a> {
    fn of(world: &'a World, set: &'a StatefulSet, decision: &mut Decision) -> Self {
        let target = Target::of("StatefulSet", &set.metadata);
        let spec = &set.spec;
        let selects = |metadata: &ObjectMeta| {
            ordinal(metadata, &target.name).is_some()
                && label_selector_selects(&spec.selector, metadata)
        };
        let owned = claim(world, &target, selects, &mut BTreeSet::new(), decision);
        let pods: BTreeMap<i32, &Pod> = owned
            .into_iter()
            .filter_map(|pod| Some((ordinal(&pod.metadata, &target.name)?, pod)))
            .collect();
        let known = set.status.as_ref();
        let known = known.and_then(|status| status.current_revision.as_deref());
        let mut in_use: BTreeSet<&str> = pods.values().map(|pod| label(pod, HASH_LABEL)).collect();
        in_use.extend(known);
        let owner = revisions::Owner {
            target: &target,
            template: &spec.template,
            labels: spec.selector.match_labels.as_ref(),
            limit: spec.revision_history_limit.unwrap_or(10),
            in_use,
        };
        let history = revisions::sync(world, &owner, decision);
        let current = known.unwrap_or(&history.update).to_owned();
        let mut members = BTreeMap::new();
        for (ordinal, pod) in &pods {
            let healthy = phase(pod) == "Running" && reachable_since(world, pod).is_some();
            let seconds = spec.min_ready_seconds.unwrap_or(0);
            let member = Member {
                revision: Revision::of(label(pod, HASH_LABEL), &current, &history.update),
                terminating: pod.metadata.deletion_timestamp.is_some(),
                ended: is_finished(pod),
                healthy,
                available: healthy && is_available(world, pod, seconds, decision),
            };
            members.insert(*ordinal, member);
        }
        let wanted = Wanted::of(spec);
        Self {
            target,
            set,
            pods,
            members,
            wanted,
            history,
            current,
        }
    }

    fn take(&self, world: &World, step: &Step, decision: &mut Decision) {
        let mut tell = |reason: &str, message: &str| {
            decision
                .actions
                .push(event(world.now, &self.target, COMPONENT, reason, message));
        };
        match step {
            Step::Create(ordinal, revision) => {
                let name = format!("{}-{ordinal}", self.target.name);
                let message = format!(
                    "create Pod {name} in StatefulSet {} successful",
                    self.target.name
                );
                tell("SuccessfulCreate", &message);
                self.create(world, *ordinal, *revision, decision);
            }
            Step::Delete(ordinal) => {
                let Some(pod) = self.pods.get(ordinal) else {
                    return;
                };
                let pod = Target::of("Pod", &pod.metadata);
                let message = format!(
                    "delete Pod {} in StatefulSet {} successful",
                    pod.name, self.target.name
                );
                tell("SuccessfulDelete", &message);
                decision.actions.push(Action::Delete {
                    target: pod,
                    force: false,
                });
            }
        }
    }

    fn create(&self, world: &World, ordinal: i32, revision: Revision, decision: &mut Decision) {
        let before = match revision {
            Revision::Current => self.history.template(&self.current),
            Revision::Update | Revision::Other => None,
        };
        let (template, revision): (&PodTemplateSpec, &str) = match &before {
            Some(template) => (template, self.current.as_str()),
            None => (&self.set.spec.template, self.history.update.as_str()),
        };
        let name = format!("{}-{ordinal}", self.target.name);
        let mut pod = pod_of(&self.target, Some(template));
        let metadata = &mut pod["metadata"];
        if let Some(map) = metadata.as_object_mut() {
            map.shift_remove("generateName");
        }
        metadata["name"] = json!(name);
        metadata["labels"][NAME_LABEL] = json!(name);
        metadata["labels"][INDEX_LABEL] = json!(ordinal.to_string());
        metadata["labels"][HASH_LABEL] = json!(revision);
        let spec = &mut pod["spec"];
        spec["hostname"] = json!(name);
        spec["subdomain"] = json!(self.set.spec.service_name);
        self.claims(world, ordinal, spec, decision);
        decision.actions.push(create_pod(&self.target, pod));
    }

    /// The pod's own claims, which outlive it.
    fn claims(&self, world: &World, ordinal: i32, spec: &mut Value, decision: &mut Decision) {
        let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        for template in self.set.spec.volume_claim_templates.iter().flatten() {
            let volume = template.metadata.name.clone().unwrap_or_default();
            let name = format!("{volume}-{}-{ordinal}", self.target.name);
            volumes.retain(|known| known["name"] != json!(volume));
            volumes.push(json!({"name": volume, "persistentVolumeClaim": {"claimName": name}}));
            if world.has("PersistentVolumeClaim", &self.target.namespace, &name) {
                continue;
            }
            let mut claim = json!(template);
            claim["apiVersion"] = json!("v1");
            claim["kind"] = json!("PersistentVolumeClaim");
            claim["metadata"] = json!({
                "name": name,
                "namespace": self.target.namespace,
                "labels": self.set.spec.selector.match_labels,
                "annotations": template.metadata.annotations,
            });
            decision.actions.push(Action::Create {
                kind: "PersistentVolumeClaim",
                namespace: self.target.namespace.clone(),
                object: claim,
            });
        }
        if !volumes.is_empty() {
            spec["volumes"] = json!(volumes);
        }
    }
}

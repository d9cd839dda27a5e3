//! DaemonSets: one pod on every node that fits.
//!
//! As Kubernetes' `pkg/controller/daemon/daemon_controller.go`: a pod is made for its node and goes through the scheduler, which
//! its affinity leaves one choice; an update replaces as many at a time as may be unavailable. A pod is of one template or another
//! by its hash (`revisions`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::nodes::taints;
use super::revisions::{self, HASH_LABEL};
use super::scheduler::{node_matches, tolerates};
use super::workload::{
    Rounding, claim, create_pod, is_available, pod_of, reachable_since, resolve,
};
use super::world::{
    Action, Decision, Target, World, event, is_finished, label_selector_selects, node_of,
};

const COMPONENT: &str = "daemonset-controller";
/// What a daemon stays through, and the scheduler's own mark (`AddOrUpdateDaemonPodTolerations`).
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    for set in world.daemon_sets.values() {
        if set.metadata.deletion_timestamp.is_none() {
            reconcile_one(world, set, &mut decision);
        }
    }
    decision
}

fn reconcile_one(world: &World, set: &DaemonSet, decision: &mut Decision) {
    let target = Target::of("DaemonSet", &set.metadata);
    let selects = |metadata: &ObjectMeta| label_selector_selects(&set.spec.selector, metadata);
    let pods = claim(world, &target, selects, &mut BTreeSet::new(), decision);
    let owner = revisions::Owner {
        target: &target,
        template: &set.spec.template,
        labels: set.spec.selector.match_labels.as_ref(),
        limit: set.spec.revision_history_limit.unwrap_or(10),
        in_use: pods.iter().filter_map(|pod| hash_of(pod)).collect(),
    };
    let hash = revisions::sync(world, &owner, decision).update_hash(&target);
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        by_node.entry(place(pod)).or_default().push(pod);
    }
    let spec = daemon_spec(set);
    let mut round = Round {
        world,
        target,
        set,
        hash,
        counted: DaemonSetStatus {
            observed_generation: set.metadata.generation,
            collision_count: set
                .status
                .as_ref()
                .and_then(|status| status.collision_count),
            ..DaemonSetStatus::default()
        },
        living: Vec::new(),
    };
    for node in world.nodes.values() {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let here = by_node.remove(name).unwrap_or_default();
        round.node(node, fit(&spec, node), here, decision);
    }
    // What is left is on no node, or on one that is gone: that is garbage.
    round.update(decision);
    round.status(decision);
}

/// The pods' spec with what every daemon tolerates.
fn daemon_spec(set: &DaemonSet) -> PodSpec {
    let mut spec = set.spec.template.spec.clone().unwrap_or_default();
    let more = TOLERATED.map(|(key, effect)| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        ..Toleration::default()
    });
    spec.tolerations.get_or_insert_default().extend(more);
    spec
}

fn hash_of(pod: &Pod) -> Option<&str> {
    let labels = pod.metadata.labels.as_ref()?;
    labels.get(HASH_LABEL).map(String::as_str)
}

/// The node that a pod is on, or was made for.
fn place(pod: &Pod) -> &str {
    let made_for = || {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
        let required = affinity
            .node_affinity
            .as_ref()?
            .required_during_scheduling_ignored_during_execution
            .as_ref()?;
        let fields = required
            .node_selector_terms
            .first()?
            .match_fields
            .as_ref()?;
        let names = fields.first()?.values.as_ref()?;
        names.first().map(String::as_str)
    };
    node_of(pod).or_else(made_for).unwrap_or_default()
}

/// Whether a node gets a pod, and whether it keeps one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It gets one.
    Wanted,
    /// It gets none, and keeps what it has: it was tainted `NoSchedule` since.
    Kept,
    /// It has none.
    Unwanted,
}

fn fit(spec: &PodSpec, node: &Node) -> Fit {
    if !node_matches(spec, node) {
        return Fit::Unwanted;
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let repels = |effect: &str| {
        taints(node).iter().any(|taint| {
            taint.effect == effect
                && !tolerations
                    .iter()
                    .any(|toleration| tolerates(toleration, taint))
        })
    };
    if repels("NoExecute") {
        Fit::Unwanted
    } else if repels("NoSchedule") {
        Fit::Kept
    } else {
        Fit::Wanted
    }
}

/// One look at a DaemonSet.
struct Round<'a> {
    world: &'a World,
    target: Target,
    set: &'a DaemonSet,
    hash: String,
    counted: DaemonSetStatus,
    /// The pods of wanted nodes, and whether each is available.
    living: Vec<(&'a Pod, bool)>,
}

impl<'a> Round<'a> {
    fn node(&mut self, node: &Node, fit: Fit, here: Vec<&'a Pod>, decision: &mut Decision) {
        let (ended, mut alive): (Vec<&Pod>, Vec<&Pod>) =
            here.into_iter().partition(|pod| is_finished(pod));
        for pod in ended {
            self.delete(pod, "FailedDaemonPod", "Found failed daemon pod", decision);
        }
        // The one that has been ready for longest is kept.
        let key = |pod: &&Pod| {
            let ready = reachable_since(self.world, pod);
            (ready.is_none(), ready, pod.metadata.name.clone())
        };
        alive.sort_by_key(key);
        if fit == Fit::Unwanted {
            self.counted.number_misscheduled += i32::from(!alive.is_empty());
            for pod in alive {
                self.delete(pod, "SuccessfulDelete", "Deleted pod:", decision);
            }
            return;
        }
        let mut alive = alive.into_iter();
        let first = alive.next();
        for pod in alive.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
            self.delete(pod, "SuccessfulDelete", "Deleted pod:", decision);
        }
        if fit == Fit::Kept {
            self.counted.number_misscheduled += i32::from(first.is_some());
            return;
        }
        self.counted.desired_number_scheduled += 1;
        match first {
            Some(pod) => self.count(pod, decision),
            None => self.create(node, decision),
        }
    }

    fn count(&mut self, pod: &'a Pod, decision: &mut Decision) {
        self.counted.current_number_scheduled += 1;
        let seconds = self.set.spec.min_ready_seconds.unwrap_or(0);
        let leaving = pod.metadata.deletion_timestamp.is_some();
        let available = !leaving && is_available(self.world, pod, seconds, decision);
        let ready = reachable_since(self.world, pod).is_some();
        let updated = hash_of(pod) == Some(self.hash.as_str());
        let counted = &mut self.counted;
        counted.number_ready += i32::from(ready);
        *counted.number_available.get_or_insert_default() += i32::from(available);
        *counted.updated_number_scheduled.get_or_insert_default() += i32::from(updated);
        self.living.push((pod, available));
    }

    fn delete(&self, pod: &Pod, reason: &str, what: &str, decision: &mut Decision) {
        if pod.metadata.deletion_timestamp.is_some() {
            return;
        }
        let pod = Target::of("Pod", &pod.metadata);
        let message = format!("{what} {}", pod.name);
        decision.actions.push(event(
            self.world.now,
            &self.target,
            COMPONENT,
            reason,
            &message,
        ));
        decision.actions.push(Action::Delete {
            target: pod,
            force: false,
        });
    }

    fn create(&self, node: &Node, decision: &mut Decision) {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut pod = pod_of(&self.target, Some(&self.set.spec.template));
        pod["metadata"]["labels"][HASH_LABEL] = json!(self.hash);
        let mut spec = json!(daemon_spec(self.set));
        let field = json!({"key": "metadata.name", "operator": "In", "values": [name]});
        let required =
            &mut spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        // Every term gets the node's name: what was required besides stays so.
        match required["nodeSelectorTerms"].as_array_mut() {
            Some(terms) => {
                for term in terms {
                    term["matchFields"] = json!([field]);
                }
            }
            None => required["nodeSelectorTerms"] = json!([{"matchFields": [field]}]),
        }
        pod["spec"] = spec;
        decision.actions.push(create_pod(&self.target, pod));
    }

    /// Deletes pods of another template, as many as may be unavailable; those that are not available anyway first.
    fn update(&self, decision: &mut Decision) {
        let strategy = self.set.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let one = IntOrString::Int(1);
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let desired = self.counted.desired_number_scheduled;
        let most = resolve(most.unwrap_or(&one), desired, Rounding::Up).max(1);
        let available = self.counted.number_available.unwrap_or(0);
        let mut spare = most - (desired - available);
        for (pod, available) in &self.living {
            if hash_of(pod) == Some(self.hash.as_str()) {
                continue;
            }
            if !available {
                self.delete(pod, "SuccessfulDelete", "Deleted pod:", decision);
            } else if spare > 0 {
                spare -= 1;
                self.delete(pod, "SuccessfulDelete", "Deleted pod:", decision);
            }
        }
    }

    fn status(&mut self, decision: &mut Decision) {
        let counted = &mut self.counted;
        let available = *counted.number_available.get_or_insert_default();
        counted.updated_number_scheduled.get_or_insert_default();
        counted.number_unavailable = Some(counted.desired_number_scheduled - available);
        let mut known = self.set.status.clone().unwrap_or_default();
        counted.conditions = known.conditions.take();
        known.conditions.clone_from(&counted.conditions);
        if known == *counted {
            return;
        }
        let status: Value = json!(counted);
        decision.actions.push(Action::Patch {
            target: self.target.clone(),
            status: true,
            patch: json!({"status": status}),
        });
    }
}

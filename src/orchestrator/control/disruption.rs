//! PodDisruptionBudgets: how many of their pods may be evicted now.
//!
//! As Kubernetes' `pkg/controller/disruption/disruption.go`. What an eviction has taken off the budget stays off it until the pod is
//! gone or has not gone within [`EVICTED_WITHIN`]; a status is written only if the budget still is as it was seen, so that no
//! eviction is forgotten.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::workload::{Rounding, reachable_since, resolve, written};
use super::world::{Action, Decision, Target, World, controller_of, label_selector_selects};

/// An evicted pod that has not begun to go after so long counts again (`DeletionTimeout`).
const EVICTED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    for budget in world.disruption_budgets.values() {
        if budget.metadata.deletion_timestamp.is_none() {
            reconcile_one(world, budget, &mut decision);
        }
    }
    decision
}

/// What a budget comes to.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    expected: i32,
    desired: i32,
    healthy: i32,
    /// Pods that are being evicted, and since when.
    disrupted: BTreeMap<String, String>,
    /// Why it cannot be counted.
    failure: Option<String>,
}

fn reconcile_one(world: &World, budget: &PodDisruptionBudget, decision: &mut Decision) {
    let spec = budget.spec.clone().unwrap_or_default();
    let status = budget.status.clone().unwrap_or_default();
    let target = Target::of("PodDisruptionBudget", &budget.metadata);
    let selects = |pod: &&Pod| {
        let selector = spec.selector.as_ref();
        selector.is_some_and(|selector| label_selector_selects(selector, &pod.metadata))
    };
    let pods: Vec<&Pod> = world.pods_in(&target.namespace).filter(selects).collect();
    let counted = count(world, &spec, &status, &pods, decision);
    let allowed = if counted.failure.is_some() || counted.expected <= 0 {
        0
    } else {
        (counted.healthy - counted.desired).max(0)
    };
    let (told, reason) = match (&counted.failure, allowed) {
        (Some(_), _) => ("False", "SyncFailed"),
        (None, 0) => ("False", "InsufficientPods"),
        (None, _) => ("True", "SufficientPods"),
    };
    let message = counted.failure.clone().unwrap_or_default();
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "DisruptionAllowed");
    let generation = budget.metadata.generation;
    let known = status.disrupted_pods.iter().flatten();
    let known: BTreeMap<String, String> = known
        .map(|(pod, since)| (pod.clone(), written(since.0)))
        .collect();
    let same = status.disruptions_allowed == Some(allowed)
        && status.current_healthy == Some(counted.healthy)
        && status.desired_healthy == Some(counted.desired)
        && status.expected_pods == Some(counted.expected)
        && status.observed_generation == generation
        && known == counted.disrupted
        && condition.is_some_and(|condition| {
            condition.status == told && condition.reason == reason && condition.message == message
        });
    if same {
        return;
    }
    let since = condition
        .filter(|condition| condition.status == told)
        .map_or_else(
            || written(world.now),
            |condition| written(condition.last_transition_time.0),
        );
    let mut disrupted = json!(counted.disrupted);
    for gone in known
        .keys()
        .filter(|pod| !counted.disrupted.contains_key(*pod))
    {
        disrupted[gone] = Value::Null;
    }
    let patch = json!({"metadata": {"resourceVersion": target.resource_version}, "status": {
        "disruptionsAllowed": allowed,
        "currentHealthy": counted.healthy,
        "desiredHealthy": counted.desired,
        "expectedPods": counted.expected,
        "observedGeneration": generation,
        "disruptedPods": disrupted,
        "conditions": [{
            "type": "DisruptionAllowed", "status": told, "reason": reason, "message": message,
            "observedGeneration": generation, "lastTransitionTime": since,
        }],
    }});
    decision.actions.push(Action::Patch {
        target,
        status: true,
        patch,
    });
}

fn count(
    world: &World,
    spec: &PodDisruptionBudgetSpec,
    status: &PodDisruptionBudgetStatus,
    pods: &[&Pod],
    decision: &mut Decision,
) -> Counted {
    let mut counted = Counted {
        expected: 0,
        desired: 0,
        healthy: 0,
        disrupted: BTreeMap::new(),
        failure: None,
    };
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let evicted = status
            .disrupted_pods
            .as_ref()
            .and_then(|evicted| evicted.get(&name))
            .map(|time| time.0);
        let until = evicted.and_then(|since| since.checked_add(EVICTED_WITHIN).ok());
        if let (Some(since), Some(until)) = (evicted, until.filter(|until| *until > world.now)) {
            decision.recheck_at(until);
            counted.disrupted.insert(name, written(since));
        } else {
            counted.healthy += i32::from(reachable_since(world, pod).is_some());
        }
    }
    match expected(world, spec, pods) {
        Ok((expected, desired)) => (counted.expected, counted.desired) = (expected, desired),
        Err(failure) => counted.failure = Some(failure),
    }
    counted
}

/// How many pods there are to be, and how many of them have to be healthy.
fn expected(
    world: &World,
    spec: &PodDisruptionBudgetSpec,
    pods: &[&Pod],
) -> Result<(i32, i32), String> {
    if let Some(most) = &spec.max_unavailable {
        let expected = scale(world, pods)?;
        let most = resolve(most, expected, Rounding::Up);
        return Ok((expected, (expected - most).max(0)));
    }
    match &spec.min_available {
        Some(IntOrString::Int(least)) => {
            let there = i32::try_from(pods.len()).unwrap_or(i32::MAX);
            Ok((there, *least))
        }
        Some(share @ IntOrString::String(_)) => {
            let expected = scale(world, pods)?;
            Ok((expected, resolve(share, expected, Rounding::Up)))
        }
        None => Ok((0, 0)),
    }
}

/// The sum of what the pods' controllers are asked for.
fn scale(world: &World, pods: &[&Pod]) -> Result<i32, String> {
    let mut scales: BTreeMap<&str, i32> = BTreeMap::new();
    for pod in pods {
        let Some(owner) = controller_of(&pod.metadata) else {
            continue;
        };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let key = (namespace.clone(), owner.name.clone());
        let replicas = match owner.kind.as_str() {
            "ReplicationController" => world.replication_controllers.get(&key).map(|found| {
                let spec = found.spec.as_ref();
                (owner.uid.as_str(), spec.and_then(|spec| spec.replicas))
            }),
            "ReplicaSet" => world.replica_sets.get(&key).map(|set| {
                let deployment = controller_of(&set.metadata).and_then(|above| {
                    let found = world.deployments.get(&(namespace, above.name.clone()))?;
                    Some((above.uid.as_str(), found.spec.replicas))
                });
                deployment.unwrap_or((owner.uid.as_str(), set.spec.replicas))
            }),
            "StatefulSet" => world
                .stateful_sets
                .get(&key)
                .map(|set| (owner.uid.as_str(), set.spec.replicas)),
            other => {
                return Err(format!(
                    "{}.{other} does not implement the scale subresource",
                    other.to_lowercase()
                ));
            }
        };
        if let Some((uid, replicas)) = replicas {
            scales.insert(uid, replicas.unwrap_or(1));
        }
    }
    Ok(scales.values().sum())
}

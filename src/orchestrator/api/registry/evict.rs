//! Eviction: a pod is deleted if its disruption budget allows it (k8s.io/kubernetes/pkg/registry/core/pod/storage/eviction.go).
//!
//! The budget is spent before the pod is deleted, by a write that fails if anybody else has changed the budget meanwhile: of two
//! evictions at the same moment that one disruption is left for, one is told to come again. What is spent is given back by the
//! controller when the pod is gone and its successor is healthy.

use serde_json::{Value, json};

use super::write::now;
use super::{DeleteOptions, RACE_RETRIES, Registry};
use crate::orchestrator::api::kinds::parts::label_selector;
use crate::orchestrator::api::kinds::{self, Cause, Subresource};
use crate::orchestrator::api::patch::Patch;
use crate::orchestrator::api::status::{Details, Status};

/// So many evictions at most are under way within one budget.
const DISRUPTED_PODS_MAX: usize = 2000;
const REFUSED: &str = "Cannot evict pod as it would violate the pod's disruption budget.";

/// Evicts a pod, as POST …/eviction does. 429 while its budget allows no disruption.
pub(super) async fn evict(
    registry: &Registry,
    namespace: &str,
    name: &str,
    eviction: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let given = eviction.pointer("/metadata/name").and_then(Value::as_str);
    if given.is_some_and(|given| !given.is_empty() && given != name) {
        return Err(Status::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let mut options = DeleteOptions::parse(eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
    options.dry_run |= dry_run;
    let pod = registry.get(&kinds::POD, Some(namespace), name)?;
    if !needs_no_budget(&pod) {
        spend(registry, namespace, &pod, options.dry_run).await?;
        if !options.dry_run {
            tell(registry, namespace, name, &pod).await?;
        }
    }
    // A namesake that came meanwhile is another pod.
    if options.uid.is_none() {
        options.uid = pod
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .map(str::to_owned);
    }
    registry
        .delete(&kinds::POD, Some(namespace), name, options)
        .await?;
    Ok(())
}

/// A pod that serves nobody yet, or no longer.
fn needs_no_budget(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    matches!(phase, None | Some("Pending" | "Succeeded" | "Failed"))
        || pod.pointer("/metadata/deletionTimestamp").is_some()
}

/// Takes one disruption off the pod's budget, if it has one.
async fn spend(
    registry: &Registry,
    namespace: &str,
    pod: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let kind = &kinds::POD_DISRUPTION_BUDGET;
    let labels = pod
        .pointer("/metadata/labels")
        .cloned()
        .unwrap_or_else(|| json!({}));
    let (budgets, _) = registry.list(kind, Some(namespace));
    let mut meant = budgets.iter().filter(|budget| {
        budget
            .pointer("/spec/selector")
            .is_some_and(|selector| label_selector::selects(selector, &labels))
    });
    let Some(budget) = meant.next() else {
        return Ok(());
    };
    if meant.next().is_some() {
        return Err(Status::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    let name = budget
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    for _ in 0..RACE_RETRIES {
        let current = registry.get(kind, Some(namespace), name)?;
        let Some(next) = admit(&current, pod, &now())? else {
            return Ok(());
        };
        if dry_run {
            return Ok(());
        }
        // It carries the revision that was read, so that nobody else's eviction is forgotten.
        let written = registry
            .update(kind, Some(namespace), name, Some(Subresource::Status), next)
            .await;
        match written {
            Ok(_) => return Ok(()),
            Err(status) if status.is_conflict() => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::modified(kind, name))
}

/// What becomes of the budget when the pod is evicted; `None` if nothing is taken off it. 429 if it has nothing left.
fn admit(budget: &Value, pod: &Value, now: &str) -> Result<Option<Value>, Status> {
    let count = |field: &str| budget["status"][field].as_i64().unwrap_or_default();
    let (healthy, desired) = (count("currentHealthy"), count("desiredHealthy"));
    let unhealthy = !is_ready(pod);
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if unhealthy && (always || (healthy >= desired && desired > 0)) {
        return Ok(None);
    }
    let name = budget["metadata"]["name"].as_str().unwrap_or_default();
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if count("observedGeneration") < generation {
        return Err(refused(format!(
            "The disruption budget {name} is still being processed by the server."
        )));
    }
    let disrupted = budget["status"]["disruptedPods"]
        .as_object()
        .map_or(0, serde_json::Map::len);
    if disrupted > DISRUPTED_PODS_MAX {
        return Err(Status::forbidden(format!(
            "poddisruptionbudgets.policy \"{name}\" is forbidden: DisruptedPods map too big - too many evictions not confirmed by PDB controller"
        )));
    }
    let allowed = count("disruptionsAllowed");
    if allowed <= 0 {
        return Err(refused(why_not(budget, name, healthy, desired)));
    }
    let mut next = budget.clone();
    next["status"]["disruptionsAllowed"] = json!(allowed - 1);
    if allowed == 1 {
        insufficient(&mut next, now);
    }
    let pod = pod["metadata"]["name"].as_str().unwrap_or_default();
    next["status"]["disruptedPods"][pod] = json!(now);
    Ok(Some(next))
}

fn why_not(budget: &Value, name: &str, healthy: i64, desired: i64) -> String {
    let failed = budget["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| {
            condition["type"] == "DisruptionAllowed" && condition["reason"] == "SyncFailed"
        });
    match failed.and_then(|condition| condition["message"].as_str()) {
        Some(message) => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        ),
        None => format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        ),
    }
}

fn refused(why: String) -> Status {
    let mut status = Status::too_many_requests(REFUSED);
    status.details = Some(Box::new(Details {
        causes: vec![Cause {
            reason: "DisruptionBudget",
            field: String::new(),
            message: why,
        }],
        ..Details::default()
    }));
    status
}

/// The last disruption is spent.
fn insufficient(budget: &mut Value, now: &str) {
    let conditions = budget["status"]["conditions"].as_array_mut();
    for condition in conditions.into_iter().flatten() {
        if condition["type"] == "DisruptionAllowed" {
            condition["status"] = json!("False");
            condition["reason"] = json!("InsufficientPods");
            condition["lastTransitionTime"] = json!(now);
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    pod.pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The pod's own condition says why it goes.
async fn tell(registry: &Registry, namespace: &str, name: &str, pod: &Value) -> Result<(), Status> {
    let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting", "lastTransitionTime": now()});
    let patch =
        json!({"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": [condition]}});
    registry
        .patch(
            &kinds::POD,
            Some(namespace),
            name,
            Some(Subresource::Status),
            Patch::Strategic(patch),
        )
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::registry::tests::registry;

    const NOW: &str = "2026-11-30T00:00:00Z";

    fn budget(status: &Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 1}, "spec": {"selector": {}}, "status": status})
    }

    fn pod(ready: &str) -> Value {
        json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}})
    }

    #[test]
    fn a_budget_is_spent_and_then_refuses() {
        let status = json!({"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2,
            "conditions": [{"type": "DisruptionAllowed", "status": "True", "reason": "SufficientPods"}]});
        let spent = admit(&budget(&status), &pod("True"), NOW).expect("allowed");
        let spent = spent.expect("it is taken off");
        assert_eq!(spent["status"]["disruptionsAllowed"], json!(0));
        assert_eq!(spent["status"]["disruptedPods"], json!({"p": NOW}));
        assert_eq!(
            spent["status"]["conditions"][0]["reason"],
            json!("InsufficientPods")
        );
        let refused = admit(&spent, &pod("True"), NOW).expect_err("nothing is left");
        assert_eq!((refused.code, refused.message.as_str()), (429, REFUSED));
        let sent = refused.to_value();
        assert_eq!(
            sent["details"]["causes"][0],
            json!({"reason": "DisruptionBudget", "message": "The disruption budget b needs 2 healthy pods and has 3 currently"})
        );
    }

    #[test]
    fn a_budget_that_was_not_looked_at_yet_refuses() {
        let status = json!({"disruptionsAllowed": 1});
        let refused = admit(&budget(&status), &pod("True"), NOW).expect_err("not observed");
        let cause = refused.details.expect("details").causes.remove(0).message;
        assert_eq!(
            cause,
            "The disruption budget b is still being processed by the server."
        );
    }

    #[test]
    fn a_pod_that_serves_nobody_is_no_disruption() {
        let enough = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 2});
        assert_eq!(admit(&budget(&enough), &pod("False"), NOW), Ok(None));
        let fewer = json!({"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1, "desiredHealthy": 2});
        assert!(admit(&budget(&fewer), &pod("False"), NOW).is_err());
        let mut always = budget(&fewer);
        always["spec"]["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
        assert_eq!(admit(&always, &pod("False"), NOW), Ok(None));
        for phase in ["Pending", "Succeeded", "Failed"] {
            assert!(needs_no_budget(
                &json!({"metadata": {}, "status": {"phase": phase}})
            ));
        }
    }

    #[tokio::test]
    async fn an_eviction_through_the_registry() {
        let registry = registry().await;
        let labels = json!({"a": "b"});
        let new = json!({"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": "w1", "containers": [{"name": "c", "image": "i"}]}});
        let namespace = Some("default");
        registry
            .create(&kinds::POD, namespace, new)
            .await
            .expect("created");
        let running = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let status = Some(Subresource::Status);
        registry
            .patch(
                &kinds::POD,
                namespace,
                "p",
                status,
                Patch::Strategic(running),
            )
            .await
            .expect("reported");
        let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": labels}}});
        let kind = &kinds::POD_DISRUPTION_BUDGET;
        registry
            .create(kind, namespace, budget)
            .await
            .expect("created");
        let body = json!({"metadata": {"name": "p"}});
        let refused = evict(&registry, "default", "p", &body, false).await;
        assert_eq!(refused.map_err(|status| status.code), Err(429));
        let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1}});
        registry
            .patch(kind, namespace, "b", status, Patch::Strategic(counted))
            .await
            .expect("counted");
        evict(&registry, "default", "p", &body, true)
            .await
            .expect("it would be evicted");
        let untouched = registry.get(&kinds::POD, namespace, "p").expect("there");
        assert!(untouched.pointer("/metadata/deletionTimestamp").is_none());
        evict(&registry, "default", "p", &body, false)
            .await
            .expect("evicted");
        let pod = registry
            .get(&kinds::POD, namespace, "p")
            .expect("it has its grace");
        assert!(pod.pointer("/metadata/deletionTimestamp").is_some());
        let target = pod["status"]["conditions"].as_array().expect("conditions");
        assert!(target.iter().any(|one| one["type"] == "DisruptionTarget"));
        let budget = registry.get(kind, namespace, "b").expect("there");
        assert_eq!(budget["status"]["disruptionsAllowed"], json!(0));
        let other = json!({"metadata": {"name": "q"}});
        let refused = evict(&registry, "default", "p", &other, false).await;
        assert_eq!(refused.map_err(|status| status.code), Err(400));
    }
}

//! A Deployment's status (`progress.go`): counts, and the conditions Available and Progressing.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus, ReplicaSet};
use serde_json::{Value, json};

use super::{Rollout, available, status_replicas};
use crate::orchestrator::control::world::{Action, Decision, World};

/// Without this long, a Deployment never fails to progress.
const DEADLINE_SECONDS: i32 = 600;

/// What a condition says.
struct Condition {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
    /// Whether it is news even if it says the same as before.
    renewed: bool,
}

/// How many replicas there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    replicas: i32,
    updated: i32,
    ready: i32,
    available: i32,
}

impl Counts {
    fn of_status(status: &DeploymentStatus) -> Self {
        Self {
            replicas: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
        }
    }

    /// Whether something has come nearer to its end.
    fn progressed_from(self, before: Self) -> bool {
        self.updated > before.updated
            || self.replicas - self.updated < before.replicas - before.updated
            || self.ready > before.ready
            || self.available > before.available
    }
}

impl Rollout<'_> {
    /// Writes what has changed in the status.
    pub(super) fn status(&self, world: &World, decision: &mut Decision) {
        let known = self.deployment.status.clone().unwrap_or_default();
        let before = Counts::of_status(&known);
        let now = self.counts();
        let found = |kind: &str| {
            known
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_.as_deref() == Some(kind))
        };
        let wanted = [
            Some(self.is_available(now)),
            self.progress(world, now, before, found("Progressing"), decision),
        ];
        let conditions: Vec<Value> = wanted
            .into_iter()
            .flatten()
            .filter_map(|condition| condition.write(found(condition.kind), world.now))
            .collect();
        let generation = self.deployment.metadata.generation;
        if conditions.is_empty() && now == before && known.observed_generation == generation {
            return;
        }
        let mut status = json!({
            "observedGeneration": generation,
            "replicas": now.replicas,
            "updatedReplicas": now.updated,
            "readyReplicas": now.ready,
            "availableReplicas": now.available,
            "unavailableReplicas": (now.replicas - now.available).max(0),
        });
        if !conditions.is_empty() {
            status["conditions"] = json!(conditions);
        }
        decision.actions.push(Action::Patch {
            target: self.target.clone(),
            status: true,
            patch: json!({"status": status}),
        });
    }

    fn counts(&self) -> Counts {
        let sum = |count: fn(&ReplicaSet) -> i32| self.all().map(count).sum();
        Counts {
            replicas: sum(status_replicas),
            updated: self.new.map_or(0, status_replicas),
            ready: sum(|set| {
                let status = set.status.as_ref();
                status.and_then(|status| status.ready_replicas).unwrap_or(0)
            }),
            available: sum(available),
        }
    }

    fn is_available(&self, now: Counts) -> Condition {
        let enough = now.available >= self.wanted - self.unavailable;
        let (status, reason, message) = if enough {
            (
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            )
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        Condition {
            kind: "Available",
            status,
            reason,
            message: message.to_owned(),
            renewed: false,
        }
    }

    fn progress(
        &self,
        world: &World,
        now: Counts,
        before: Counts,
        known: Option<&DeploymentCondition>,
        decision: &mut Decision,
    ) -> Option<Condition> {
        let deadline = self
            .spec
            .progress_deadline_seconds
            .unwrap_or(DEADLINE_SECONDS);
        if deadline == i32::MAX {
            return None;
        }
        let reason = known.and_then(|known| known.reason.as_deref());
        let say = |status, reason, message: String| {
            Some(Condition {
                kind: "Progressing",
                status,
                reason,
                message,
                renewed: true,
            })
        };
        if self.spec.paused == Some(true) {
            return (reason != Some("DeploymentPaused"))
                .then(|| {
                    say(
                        "Unknown",
                        "DeploymentPaused",
                        "Deployment is paused".to_owned(),
                    )
                })
                .flatten();
        }
        if reason == Some("DeploymentPaused") {
            return say(
                "Unknown",
                "DeploymentResumed",
                "Deployment is resumed".to_owned(),
            );
        }
        let Some(new) = self.new else { return None };
        let name = new.metadata.name.as_deref().unwrap_or_default();
        let complete = now.updated == self.wanted
            && now.replicas == self.wanted
            && now.available >= self.wanted;
        // What has succeeded is not undone by pods that fail later.
        if now.updated == now.replicas
            && reason == Some("NewReplicaSetAvailable")
            && !self.is_news()
        {
            return None;
        }
        if complete {
            let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
            return say("True", "NewReplicaSetAvailable", message);
        }
        if known.is_none() || self.is_news() {
            let message = format!("ReplicaSet \"{name}\" is progressing.");
            return say("True", "ReplicaSetUpdated", message);
        }
        if now.progressed_from(before) {
            let message = format!("ReplicaSet \"{name}\" is progressing.");
            return say("True", "ReplicaSetUpdated", message);
        }
        let since = known
            .and_then(|known| known.last_update_time.as_ref())
            .map_or(world.now, |time| time.0);
        let until = since
            .checked_add(SignedDuration::from_secs(i64::from(deadline)))
            .unwrap_or(Timestamp::MAX);
        if until > world.now {
            decision.recheck_at(until);
            return None;
        }
        (reason != Some("ProgressDeadlineExceeded"))
            .then(|| {
                let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
                say("False", "ProgressDeadlineExceeded", message)
            })
            .flatten()
    }

    /// Whether the Deployment has changed since its status was written.
    fn is_news(&self) -> bool {
        let status = self.deployment.status.as_ref();
        status.and_then(|status| status.observed_generation) != self.deployment.metadata.generation
    }
}

impl Condition {
    /// As it is written, if it says anything new.
    fn write(&self, known: Option<&DeploymentCondition>, now: Timestamp) -> Option<Value> {
        let same = known.is_some_and(|known| {
            known.status.as_deref() == Some(self.status)
                && known.reason.as_deref() == Some(self.reason)
        });
        let same_message = known.and_then(|known| known.message.as_ref()) == Some(&self.message);
        if same && same_message && !self.renewed {
            return None;
        }
        let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let since = known
            .filter(|known| known.status.as_deref() == Some(self.status))
            .and_then(|known| known.last_transition_time.as_ref())
            .map_or_else(|| json!(at), |time| json!(time));
        Some(json!({
            "type": self.kind,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastUpdateTime": at,
            "lastTransitionTime": since,
        }))
    }
}

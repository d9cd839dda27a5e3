//! A StatefulSet's status.

use k8s_openapi::api::apps::v1::StatefulSetStatus;
use serde_json::json;

use super::Replicas;
use super::order::{Member, Revision};
use crate::orchestrator::control::world::{Action, Decision};

impl Replicas<'_> {
    /// Writes what has changed. When every pod is of the present template and ready, that is the current one.
    pub(super) fn status(&self, decision: &mut Decision) {
        let count = |counts: fn(&Member) -> bool| {
            let members = self.members.values().filter(|member| counts(member));
            i32::try_from(members.count()).unwrap_or(i32::MAX)
        };
        let replicas = count(|_| true);
        let ready = count(|member| member.healthy);
        let updated = count(|member| !member.terminating && member.revision == Revision::Update);
        let is_new = self.current == self.history.update;
        let before = count(|member| !member.terminating && member.revision == Revision::Current);
        let complete = self.wanted.partition.is_some() && updated == replicas && ready == replicas;
        let (current, current_replicas) = if is_new || complete {
            (&self.history.update, updated)
        } else {
            (&self.current, before)
        };
        let known = self.set.status.clone().unwrap_or_default();
        let wanted = StatefulSetStatus {
            replicas,
            ready_replicas: Some(ready),
            available_replicas: Some(count(|member| member.available)),
            current_replicas: Some(current_replicas),
            updated_replicas: Some(updated),
            current_revision: Some(current.clone()),
            update_revision: Some(self.history.update.clone()),
            observed_generation: self.set.metadata.generation,
            collision_count: Some(0),
            conditions: known.conditions.clone(),
        };
        if known == wanted {
            return;
        }
        decision.actions.push(Action::Patch {
            target: self.target.clone(),
            status: true,
            patch: json!({"status": wanted}),
        });
    }
}

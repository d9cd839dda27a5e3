//! Keeps the API's status of the pod as this agent's.

use k8s_openapi::api::core::v1::PodStatus;
use tokio::time::Instant;

use super::outcome::Outcome;
use super::{RETRY, Worker, revision};
use crate::orchestrator::agent::decide::Progress;
use crate::orchestrator::agent::objects::{Patched, PodApi};
use crate::orchestrator::agent::runtime::Runtime;
use crate::orchestrator::agent::status::{self, Moment};

/// How far the API knows the status.
#[derive(Default)]
pub(super) struct Published {
    in_flight: bool,
    /// What was written last, and the revision that this made.
    sent: Option<(PodStatus, u64)>,
    retry_at: Option<Instant>,
    pub(super) gone: bool,
}

impl<R: Runtime, A: PodApi> Worker<R, A> {
    /// Writes the status if the API has another; returns when to try again.
    pub(super) fn publish(&mut self, now: Instant) -> Option<Instant> {
        let moment = Moment {
            now,
            wall: jiff::Timestamp::now(),
            host_address: self.context.host_address,
        };
        let next = status::status(&self.pod, &self.observed, &self.status, &moment);
        self.status = next.clone();
        if self.published.in_flight
            || self.published.gone
            || self.observed.gone
            || self.observed.farewell != Progress::Idle
        {
            return None;
        }
        let outdated = match &self.published.sent {
            Some((sent, revision)) => {
                *sent != next || (self.there.0 > *revision && !covers(&self.there.1, &next))
            }
            None => !covers(&self.there.1, &next),
        };
        if !outdated {
            return None;
        }
        if let Some(at) = self.published.retry_at.filter(|&at| at > now) {
            return Some(at);
        }
        self.published.retry_at = None;
        self.published.in_flight = true;
        let (context, pod) = (self.context.clone(), self.pod.clone());
        self.tasks.spawn(async move {
            let patched = context.api.patch_status(&pod, &next).await;
            Outcome::Patched(Box::new(next), patched)
        });
        None
    }

    pub(super) fn take_patched(&mut self, status: PodStatus, patched: Result<Patched, String>) {
        self.published.in_flight = false;
        match patched {
            Ok(Patched::Done(pod)) => {
                let revision = revision(&pod);
                self.published.sent = Some((status, revision));
                if revision >= self.there.0 {
                    self.there = (revision, pod.status.unwrap_or_default());
                }
            }
            Ok(Patched::Gone) => self.published.gone = true,
            Err(why) => {
                tracing::debug!(
                    pod = self.pod.metadata.uid,
                    why,
                    "the status cannot be written, trying again"
                );
                self.published.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }
}

/// Whether the API's status says what this agent would say.
fn covers(there: &PodStatus, ours: &PodStatus) -> bool {
    there.phase == ours.phase
        && there.pod_ip == ours.pod_ip
        && there.host_ip == ours.host_ip
        && there.container_statuses == ours.container_statuses
        && there.init_container_statuses == ours.init_container_statuses
        && ours.conditions.iter().flatten().all(|condition| {
            there
                .conditions
                .iter()
                .flatten()
                .any(|known| known == condition)
        })
}

//! The new controller's pods, as they are known now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::kubernetes::client::ObjectMap;

/// A pod condition of Flightcage's own orchestrator: `False` while a liveness probe's last answer was a failure.
const ANSWERS: &str = "flightcage.dev/Answers";
/// A new pod that was restarted counts as available after being ready for so long.
const AFTER_RESTART: SignedDuration = SignedDuration::from_secs(60);

/// Those of `all` that a controller's selector takes in and that are not being deleted.
pub(super) struct Pods<'a> {
    pub(super) all: Arc<ObjectMap<Pod>>,
    pub(super) namespace: &'a str,
    pub(super) selector: BTreeMap<String, String>,
}

impl Pods<'_> {
    fn ours(&self) -> impl Iterator<Item = &Pod> {
        self.all.values().map(AsRef::as_ref).filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            pod.metadata.namespace.as_deref() == Some(self.namespace)
                && pod.metadata.deletion_timestamp.is_none()
                && self
                    .selector
                    .iter()
                    .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
    }

    /// How many have been ready for long enough, and no liveness probe has found wanting: one whose last failed is as good as
    /// gone, and one that was restarted has to be ready for [`AFTER_RESTART`] first, or the old pods would be given up for new
    /// ones that come and go.
    pub(super) fn available(&self, min_ready: Duration) -> i32 {
        let min_ready = SignedDuration::try_from(min_ready).unwrap_or(SignedDuration::MAX);
        let now = Timestamp::now();
        i32::try_from(
            self.ours()
                .filter(|pod| is_available(pod, min_ready, now))
                .count(),
        )
        .unwrap_or(i32::MAX)
    }

    /// What keeps them from being available, in their containers' own words.
    pub(super) fn trouble(&self) -> String {
        let statuses = self.ours().flat_map(|pod| {
            let statuses = pod
                .status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten());
            statuses.map(|status| (pod.metadata.name.clone().unwrap_or_default(), status))
        });
        let troubles: Vec<String> = statuses
            .filter_map(|(pod, status)| {
                let waiting = status
                    .state
                    .as_ref()
                    .and_then(|state| state.waiting.as_ref());
                let waiting = waiting.map(|waiting| {
                    let words = [waiting.reason.as_deref(), waiting.message.as_deref()];
                    words.into_iter().flatten().collect::<Vec<_>>().join(": ")
                });
                let restarts = (status.restart_count > 0)
                    .then(|| format!("restarted {} times", status.restart_count));
                Some(format!("`{pod}`: {}", waiting.or(restarts)?))
            })
            .collect();
        if troubles.is_empty() {
            String::new()
        } else {
            format!(" ({})", troubles.join("; "))
        }
    }
}

fn is_available(pod: &Pod, min_ready: SignedDuration, now: Timestamp) -> bool {
    let status = pod.status.as_ref();
    let mut containers = status
        .into_iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let restarted = containers.any(|container| container.restart_count > 0);
    let min_ready = if restarted {
        min_ready.max(AFTER_RESTART)
    } else {
        min_ready
    };
    let conditions = || {
        status
            .into_iter()
            .flat_map(|status| status.conditions.iter().flatten())
    };
    !conditions().any(|condition| condition.type_ == ANSWERS && condition.status == "False")
        && conditions().any(|condition| {
            let since = condition
                .last_transition_time
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
            let long_enough = min_ready.is_zero() || now.duration_since(since) >= min_ready;
            condition.type_ == "Ready" && condition.status == "True" && long_enough
        })
}

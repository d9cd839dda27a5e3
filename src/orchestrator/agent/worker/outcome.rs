//! What the worker's tasks bring back.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;
use tokio::time::Instant;

use super::{RETRY, Worker};
use crate::orchestrator::agent::decide::{Progress, Pull};
use crate::orchestrator::agent::drain::{Drained, Draining};
use crate::orchestrator::agent::events::Severity;
use crate::orchestrator::agent::objects::{Patched, PodApi};
use crate::orchestrator::agent::runtime::{
    ContainerState, ContainerStatus, Image, PullError, Runtime,
};
use crate::orchestrator::agent::work::{self, Failure, SetUp};

/// Of the pod, or of a container by its name.
pub(super) enum Outcome {
    SetUp(Result<SetUp, Failure>),
    Pulled(String, Result<Image, PullError>, Duration),
    Started(String, Result<ContainerStatus, Failure>),
    Drained(Drained, Draining),
    Stopped(String, Option<ContainerStatus>),
    Removed(Result<(), String>),
    Deleted(Result<(), String>),
    Patched(Box<PodStatus>, Result<Patched, String>),
    Refreshed(Result<(), Failure>),
}

impl<R: Runtime, A: PodApi> Worker<R, A> {
    pub(super) fn take_outcome(&mut self, outcome: Outcome) {
        let now = Instant::now();
        let failed = |failure: &Failure, after: Duration| Progress::Failed {
            until: now + after,
            reason: failure.reason.to_owned(),
            message: failure.message.clone(),
        };
        let again = |message: String| Progress::Failed {
            until: now + RETRY,
            reason: String::new(),
            message,
        };
        match outcome {
            Outcome::SetUp(Ok(setup)) => {
                self.observed.address = Some(setup.address);
                self.observed.setup = Progress::Done;
                self.setup = Some(setup);
            }
            Outcome::SetUp(Err(failure)) => {
                self.observed.setup = failed(&failure, RETRY);
                self.event(None, Severity::Warning, failure.reason, failure.message);
            }
            Outcome::Pulled(container, pulled, took) => self.take_pulled(&container, pulled, took),
            Outcome::Started(container, Ok(status)) => {
                self.observe(&status);
                let view = self.observed.container(&container);
                view.start = Progress::Idle;
                if view.ready {
                    self.context.runtime.settled(&work::uid(&self.pod));
                }
                self.event(
                    Some(&container),
                    Severity::Normal,
                    "Created",
                    format!("Created container: {container}"),
                );
                self.event(
                    Some(&container),
                    Severity::Normal,
                    "Started",
                    format!("Started container {container}"),
                );
                self.context.relist.notify_one();
            }
            Outcome::Started(container, Err(failure)) => {
                let view = self.observed.container(&container);
                let after = if failure.reason == "RunContainerError" {
                    view.crash_backoff.next()
                } else {
                    RETRY
                };
                view.start = failed(&failure, after);
                self.event(
                    Some(&container),
                    Severity::Warning,
                    "Failed",
                    format!("Error: {}", failure.message),
                );
            }
            Outcome::Drained(drained, draining) => {
                self.observed.drain = Progress::Done;
                // What is still open ends at a quiet moment, until the containers have stopped.
                self.draining = Some(draining);
                self.tell_drained(drained);
            }
            Outcome::Stopped(container, status) => {
                let status =
                    status.or_else(|| self.observed.container(&container).status.clone().map(lost));
                self.observed.container(&container).stopping = false;
                if let Some(status) = status {
                    self.observe(&status);
                }
                self.context.relist.notify_one();
            }
            Outcome::Removed(Ok(())) => self.observed.removal = Progress::Done,
            Outcome::Removed(Err(why)) => {
                tracing::warn!(
                    pod = self.pod.metadata.uid,
                    why,
                    "the pod cannot be removed, trying again"
                );
                self.observed.removal = again(why);
            }
            Outcome::Deleted(Ok(())) => self.observed.farewell = Progress::Done,
            Outcome::Deleted(Err(why)) => {
                tracing::debug!(
                    pod = self.pod.metadata.uid,
                    why,
                    "the pod cannot be deleted from the API, trying again"
                );
                self.observed.farewell = again(why);
            }
            Outcome::Patched(status, patched) => self.take_patched(*status, patched),
            Outcome::Refreshed(refreshed) => {
                self.refreshing = false;
                if let Err(failure) = refreshed {
                    tracing::warn!(
                        pod = self.pod.metadata.uid,
                        failure.message,
                        "the pod's volumes cannot be refreshed"
                    );
                }
            }
        }
    }

    fn tell_drained(&self, drained: Drained) {
        match drained {
            Drained::Complete { excluded } if excluded.is_empty() => {
                tracing::info!(
                    pod = self.pod.metadata.uid,
                    "drained: no balancer uses the pod any more"
                );
            }
            Drained::Complete { excluded } => {
                let message = format!(
                    "Drained without {}: silent, so not waited for",
                    excluded.join(", ")
                );
                self.event(None, Severity::Warning, "DrainIncomplete", message);
            }
            Drained::TimedOut { waiting } => {
                let message = format!("Stopping before the drain was over: {waiting}");
                self.event(None, Severity::Warning, "DrainTimedOut", message);
            }
        }
    }

    fn take_pulled(&mut self, container: &str, pulled: Result<Image, PullError>, took: Duration) {
        self.pulls.remove(container);
        let image = self
            .find(container)
            .and_then(|container| container.image)
            .unwrap_or_default();
        let now = Instant::now();
        let view = self.observed.container(container);
        match pulled {
            Ok(pulled) => {
                view.pull = Pull::Done(pulled);
                view.pull_backoff.reset();
                let message = format!(
                    "Successfully pulled image \"{image}\" in {} ms",
                    took.as_millis()
                );
                self.event(Some(container), Severity::Normal, "Pulled", message);
            }
            Err(error) => {
                let reason = match &error {
                    PullError::InvalidName(_) => "InvalidImageName",
                    PullError::NeverPull(_) => "ErrImageNeverPull",
                    PullError::NotFound(_) | PullError::Failed { .. } => "ErrImagePull",
                };
                let message = work::chain(&error);
                let until = now + view.pull_backoff.next();
                view.pull = Pull::Failed {
                    at: now,
                    until,
                    reason: reason.to_owned(),
                    message: message.clone(),
                };
                self.event(
                    Some(container),
                    Severity::Warning,
                    "Failed",
                    format!("Failed to pull image \"{image}\": {message}"),
                );
                self.event(
                    Some(container),
                    Severity::Warning,
                    "Failed",
                    format!("Error: {reason}"),
                );
                self.event(
                    Some(container),
                    Severity::Normal,
                    "BackOff",
                    format!("Back-off pulling image \"{image}\""),
                );
            }
        }
    }
}

/// A container that the runtime has lost has ended.
fn lost(mut status: ContainerStatus) -> ContainerStatus {
    if let ContainerState::Running { started_at_ms } = status.state {
        let finished_at_ms = jiff::Timestamp::now().as_millisecond();
        status.state = ContainerState::Exited {
            exit_code: 137,
            oom_killed: false,
            started_at_ms,
            finished_at_ms,
        };
    }
    status
}

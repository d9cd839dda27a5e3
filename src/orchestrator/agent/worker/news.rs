//! What the worker learns from the API and from the runtime.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::{Input, Worker, revision};
use crate::orchestrator::agent::decide::{Deletion, Pull, grace, restarts};
use crate::orchestrator::agent::events::Severity;
use crate::orchestrator::agent::objects::{self, PodApi};
use crate::orchestrator::agent::runtime::{
    ContainerState, ContainerStatus, Runtime, SandboxStatus,
};
use crate::orchestrator::agent::{probe, termination};

impl<R: Runtime, A: PodApi> Worker<R, A> {
    /// Starts from what the runtime and the API know.
    pub(super) fn adopt(&mut self, adopted: Option<&SandboxStatus>) {
        let now = Instant::now();
        self.observed.address = adopted.map(|sandbox| sandbox.address);
        let known = self.status.clone();
        let statuses = known
            .init_container_statuses
            .iter()
            .flatten()
            .chain(known.container_statuses.iter().flatten());
        for api in statuses {
            let view = self.observed.container(&api.name);
            if api.container_id.is_some() {
                // It ran once; should the runtime have lost it, counting goes on.
                view.first_instance = u32::try_from(api.restart_count)
                    .unwrap_or(0)
                    .saturating_add(1);
            }
        }
        for status in adopted
            .iter()
            .flat_map(|sandbox| sandbox.containers.values())
        {
            let Some(container) = self.find(&status.name) else {
                continue;
            };
            let api = known
                .init_container_statuses
                .iter()
                .chain(&known.container_statuses)
                .flatten()
                .find(|api| {
                    api.name == status.name
                        && api.container_id.as_deref()
                            == Some(&format!("flightcage://{}", status.id))
                });
            let view = self.observed.container(&status.name);
            view.observe(status, now);
            let left = self.left(status, &container);
            let view = self.observed.container(&status.name);
            view.messages
                .extend(left.map(|message| (status.restart_count, message)));
            view.started = container.startup_probe.is_none()
                || api.is_some_and(|api| api.started == Some(true));
            view.ready = probe::ready_at_once(&container) || api.is_some_and(|api| api.ready);
        }
    }

    pub(super) fn take_input(&mut self, input: Input) {
        if revision(&input.pod) >= self.there.0 {
            self.there = (
                revision(&input.pod),
                input.pod.status.clone().unwrap_or_default(),
            );
            self.published.gone = false;
        }
        let (old, new) = (&self.pod.metadata, &input.pod.metadata);
        let is_renamed = old.labels != new.labels || old.annotations != new.annotations;
        if is_renamed && objects::shows_itself(&input.pod) {
            self.refresh_at = Some(Instant::now());
        }
        self.pod = input.pod;
        self.observed.gone = input.gone;
        let leaving = input.gone || self.pod.metadata.deletion_timestamp.is_some();
        if !leaving {
            return;
        }
        let Some(spec) = self.pod.spec.as_ref() else {
            return;
        };
        let allowed = grace(self.pod.metadata.deletion_grace_period_seconds, spec);
        match &mut self.observed.deletion {
            // A second deletion may only shorten the first.
            Some(deletion) => deletion.grace = deletion.grace.min(allowed),
            None => {
                self.observed.deletion = Some(Deletion {
                    since: Instant::now(),
                    grace: allowed,
                })
            }
        }
        self.probes.clear();
        for (container, pull) in self.pulls.drain() {
            pull.abort();
            self.observed.container(&container).pull = Pull::Idle;
        }
    }

    pub(super) fn take_sandbox(&mut self, sandbox: Option<&SandboxStatus>) {
        for status in sandbox
            .iter()
            .flat_map(|sandbox| sandbox.containers.values())
        {
            self.observe(status);
        }
    }

    pub(super) fn observe(&mut self, status: &ContainerStatus) {
        let Some(definition) = self.find(&status.name) else {
            return;
        };
        let leaving = self.observed.deletion.is_some();
        let view = self.observed.container(&status.name);
        let before = view.status.as_ref().map(|status| status.restart_count);
        let exited = view.observe(status, Instant::now());
        if exited {
            let instance = status.restart_count;
            let left = self.left(status, &definition);
            let view = self.observed.container(&status.name);
            view.messages.retain(|known, _| *known + 1 >= instance);
            view.messages
                .extend(left.map(|message| (instance, message)));
        }
        let view = self.observed.container(&status.name);
        if view.status.as_ref().map(|status| status.restart_count) != before {
            view.started = definition.startup_probe.is_none();
            view.ready = probe::ready_at_once(&definition);
            view.answers = true;
            view.kill = None;
            view.pull = Pull::Idle;
            if before.is_some() {
                view.crash_backoff.next();
            }
        }
        let (code, delay) = (view.exit_code(), view.crash_backoff.delay());
        if let Some(code) = code.filter(|_| exited && !leaving) {
            self.tell_exit(status, &definition, code, delay);
        }
    }

    /// The message that an instance has left, or of one that failed the end of its log, if its container asks for that.
    fn left(&self, status: &ContainerStatus, definition: &Container) -> Option<String> {
        let instance = status.restart_count;
        let (pod, roots) = (&self.pod, &self.context.roots);
        let failed =
            matches!(status.state, ContainerState::Exited { exit_code, .. } if exit_code != 0);
        let by_log =
            definition.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        termination::read(pod, &status.name, instance, roots).or_else(|| {
            let uid = pod.metadata.uid.as_deref().filter(|_| failed && by_log)?;
            let lines = self.context.runtime.last_lines(uid, &status.name, instance);
            Some(lines).filter(|lines| !lines.is_empty())
        })
    }

    fn tell_exit(
        &self,
        status: &ContainerStatus,
        definition: &Container,
        code: i32,
        delay: Duration,
    ) {
        tracing::info!(pod = %status.id, container = status.name, code, "the container exited");
        if matches!(
            status.state,
            ContainerState::Exited {
                oom_killed: true,
                ..
            }
        ) {
            let resources = definition
                .resources
                .as_ref()
                .and_then(|resources| resources.limits.as_ref());
            let limit = resources.and_then(|limits| limits.get("memory"));
            let limit = limit.map_or_else(String::new, |limit| format!(" of {}", limit.0));
            let message = format!(
                "Container {} was killed for its memory limit{limit}",
                status.name
            );
            self.event(Some(&status.name), Severity::Warning, "OOMKilled", message);
        }
        let init = self
            .spec()
            .and_then(|spec| spec.init_containers.as_ref())
            .is_some_and(|all| all.iter().any(|one| one.name == status.name));
        let again = self
            .spec()
            .is_some_and(|spec| restarts(spec, definition, init, code));
        if again && !delay.is_zero() {
            let metadata = &self.pod.metadata;
            let message = format!(
                "Back-off restarting failed container {} in pod {}_{}({})",
                status.name,
                metadata.name.as_deref().unwrap_or_default(),
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.uid.as_deref().unwrap_or_default()
            );
            self.event(Some(&status.name), Severity::Warning, "BackOff", message);
        }
    }
}

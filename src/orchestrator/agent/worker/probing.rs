//! Probes of exactly the instances that run, and what they report.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Worker;
use crate::orchestrator::agent::ask::PodProber;
use crate::orchestrator::agent::decide::Kill;
use crate::orchestrator::agent::events::Severity;
use crate::orchestrator::agent::objects::PodApi;
use crate::orchestrator::agent::probe::{self, Kind, Report, Target};
use crate::orchestrator::agent::runtime::{ContainerState, ContainerStatus, Runtime};
use crate::orchestrator::agent::work;

/// The probes of one instance.
pub(super) struct Probing {
    instance: u32,
    started: watch::Sender<bool>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl<R: Runtime, A: PodApi> Worker<R, A> {
    /// Probes exactly the instances that run.
    pub(super) fn sync_probes(&mut self) {
        let Some(address) = self
            .observed
            .address
            .filter(|_| self.observed.deletion.is_none() && !self.observed.expired)
        else {
            return;
        };
        let running: HashMap<String, (u32, i64)> = self
            .observed
            .containers
            .iter()
            .filter_map(|(name, view)| match view.status.as_ref()? {
                ContainerStatus {
                    restart_count,
                    state: ContainerState::Running { started_at_ms },
                    ..
                } if !view.stopping => Some((name.clone(), (*restart_count, *started_at_ms))),
                _ => None,
            })
            .collect();
        self.probes.retain(|name, probing| {
            running
                .get(name)
                .is_some_and(|(instance, _)| *instance == probing.instance)
        });
        for (name, (instance, started_at_ms)) in running {
            if self.probes.contains_key(&name) {
                continue;
            }
            let Some(container) = self.find(&name) else {
                continue;
            };
            let view = self.observed.container(&name);
            let target = Target {
                container: name.clone(),
                instance,
                address,
                age: age(started_at_ms),
                ready: view.ready,
            };
            let (started, watching) = watch::channel(view.started);
            let already = view.started;
            let plans = probe::plans(&container)
                .into_iter()
                .filter(|plan| !(already && plan.kind == Kind::Startup));
            let mut tasks: Vec<_> = plans
                .map(|plan| self.probe(plan, target.clone(), watching.clone()))
                .collect();
            if !target.ready {
                tasks.extend(self.wait_listening(&container, target));
            }
            self.probes.insert(
                name,
                Probing {
                    instance,
                    started,
                    _tasks: tasks,
                },
            );
        }
    }

    /// Makes a container without a readiness probe ready as soon as it listens and has answered once.
    fn wait_listening(
        &self,
        container: &Container,
        target: Target,
    ) -> Option<AbortOnDropHandle<()>> {
        let ports = probe::listening_ports(container);
        let question = probe::first_question(container);
        let gated = container.readiness_probe.is_none() && !ports.is_empty();
        let (prober, reports) = (self.prober(), self.reports.0.clone());
        gated.then(|| {
            AbortOnDropHandle::new(tokio::spawn(async move {
                probe::wait_listening(&prober, &ports, question, target, reports).await;
            }))
        })
    }

    fn probe(
        &self,
        plan: probe::Plan,
        target: Target,
        started: watch::Receiver<bool>,
    ) -> AbortOnDropHandle<()> {
        let (prober, reports) = (self.prober(), self.reports.0.clone());
        AbortOnDropHandle::new(tokio::spawn(async move {
            probe::watch_container(&prober, plan, target, started, reports).await;
        }))
    }

    fn prober(&self) -> PodProber<R> {
        PodProber {
            runtime: self.context.runtime.clone(),
            pod_uid: work::uid(&self.pod),
        }
    }

    pub(super) fn take_report(&mut self, report: Report) {
        let view = self.observed.container(&report.container);
        let current = view.running()
            && view
                .status
                .as_ref()
                .is_some_and(|status| status.restart_count == report.instance);
        if !current || self.observed.deletion.is_some() {
            return;
        }
        let view = self.observed.container(&report.container);
        match (report.kind, report.verdict) {
            (Kind::Readiness, Some(ready)) => {
                view.ready = ready;
                if ready {
                    self.context.runtime.settled(&work::uid(&self.pod));
                }
            }
            (Kind::Startup, Some(true)) => {
                view.started = true;
                if let Some(probing) = self.probes.get(&report.container) {
                    probing.started.send_replace(true);
                }
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                let message = format!(
                    "Container {} failed {} probe, will be restarted",
                    report.container,
                    report.kind.title().to_lowercase()
                );
                view.kill = Some(Kill {
                    message,
                    grace: report.grace,
                });
            }
            (Kind::Liveness, Some(true)) | (_, None) => {}
        }
        if report.kind == Kind::Liveness && !report.excused {
            // Its restart needs several failures in a row; traffic turns away at the first, and comes back at the first success.
            view.answers = report.failure.is_none();
        }
        if let Some(why) = report.failure {
            let message = format!("{} probe failed: {why}", report.kind.title());
            self.event(
                Some(&report.container),
                Severity::Warning,
                "Unhealthy",
                message,
            );
        }
    }
}

fn age(started_at_ms: i64) -> Duration {
    let age = jiff::Timestamp::now()
        .as_millisecond()
        .saturating_sub(started_at_ms);
    Duration::from_millis(u64::try_from(age).unwrap_or(0))
}

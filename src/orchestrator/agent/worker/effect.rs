//! Begins what [`decide`](crate::orchestrator::agent::decide::decide) asks for: each effect is a task of the worker's.

use tokio::time::Instant;

use super::Worker;
use super::outcome::Outcome;
use crate::orchestrator::agent::decide::{Effect, Progress, Pull};
use crate::orchestrator::agent::events::Severity;
use crate::orchestrator::agent::launch::pull_policy;
use crate::orchestrator::agent::objects::PodApi;
use crate::orchestrator::agent::pull_secrets;
use crate::orchestrator::agent::runtime::Runtime;
use crate::orchestrator::agent::work;

impl<R: Runtime, A: PodApi> Worker<R, A> {
    pub(super) fn begin(&mut self, effect: Effect) {
        let (context, pod) = (self.context.clone(), self.pod.clone());
        match effect {
            Effect::SetUp => {
                self.observed.setup = Progress::InFlight;
                self.tasks
                    .spawn(async move { Outcome::SetUp(work::set_up(&context, pod).await) });
            }
            Effect::Pull { container } => self.begin_pull(&container),
            Effect::Start {
                container,
                image,
                instance,
            } => {
                let (Some(definition), Some(setup)) = (self.find(&container), self.setup.clone())
                else {
                    return;
                };
                self.observed.container(&container).start = Progress::InFlight;
                self.tasks.spawn(async move {
                    let started =
                        work::start(&context, &pod, &definition, image, instance, &setup).await;
                    Outcome::Started(container, started)
                });
            }
            Effect::Drain(by) => {
                self.observed.drain = Progress::InFlight;
                let own = self
                    .spec()
                    .is_none_or(|spec| spec.host_network != Some(true));
                let mut draining = context
                    .drains
                    .begin(&work::uid(&pod), self.observed.address.filter(|_| own));
                self.tasks.spawn(async move {
                    let drained = draining
                        .wait(by.saturating_duration_since(Instant::now()))
                        .await;
                    Outcome::Drained(drained, draining)
                });
            }
            Effect::Stop {
                container,
                deadline,
                message,
            } => {
                let Some(definition) = self.find(&container) else {
                    return;
                };
                let view = self.observed.container(&container);
                view.stopping = true;
                view.kill = None;
                self.event(Some(&container), Severity::Normal, "Killing", message);
                let address = self.observed.address;
                self.tasks.spawn(async move {
                    let status = work::stop(&context, &pod, &definition, address, deadline).await;
                    Outcome::Stopped(container, status)
                });
            }
            Effect::Remove => {
                self.observed.removal = Progress::InFlight;
                self.tasks
                    .spawn(async move { Outcome::Removed(work::remove(&context, &pod).await) });
            }
            Effect::Delete => {
                self.observed.farewell = Progress::InFlight;
                self.tasks
                    .spawn(async move { Outcome::Deleted(context.api.delete(&pod).await) });
            }
            Effect::Wake(_) => {}
        }
    }

    fn begin_pull(&mut self, container: &str) {
        let Some(definition) = self.find(container) else {
            return;
        };
        let policy = pull_policy(&definition);
        let image = definition.image.clone().unwrap_or_default();
        self.observed.container(container).pull = Pull::InFlight;
        self.event(
            Some(container),
            Severity::Normal,
            "Pulling",
            format!("Pulling image \"{image}\""),
        );
        let (context, pod, name) = (self.context.clone(), self.pod.clone(), container.to_owned());
        let handle = self.tasks.spawn(async move {
            let begun = Instant::now();
            let pulled = pull_secrets::pull(&context, &pod, &name, &image, policy).await;
            Outcome::Pulled(name, pulled, begun.elapsed())
        });
        self.pulls.insert(container.to_owned(), handle);
    }
}

//! The pods of a node: `agent::pods` and `agent::worker` without their tasks, around production's [`decide`] and [`status`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::time::Instant;

use super::Simulation;
use super::agent::Sandbox;
use super::messages::{Deed, Event, Message, Reply, Request, Work};
use super::network::{CLIENT_END, Host, PodAddress, Stopped};
use super::server::node_name;
use crate::orchestrator::agent::decide::{
    Deletion, Effect, Observed, Progress, Pull, decide, grace,
};
use crate::orchestrator::agent::runtime::{ContainerState, ContainerStatus, Image};
use crate::orchestrator::agent::status::{Moment, status};
use crate::orchestrator::control::simulation::cluster::start;
use crate::orchestrator::tunnel::FromNode;

/// The container of every pod.
const CONTAINER: &str = "c";
/// As in `agent::worker`.
const RETRY: Duration = Duration::from_secs(2);

pub(super) struct Worker {
    pod: Arc<Pod>,
    gone: bool,
    status: PodStatus,
    pub(super) observed: Observed,
    sent: Option<PodStatus>,
    in_flight: bool,
    retry_ms: Option<u64>,
    /// A drain that was asked for, and its address.
    #[expect(
        clippy::option_option,
        reason = "a pod of the host's network drains without an address"
    )]
    drain: Option<Option<Ipv4Addr>>,
}

fn image() -> Image {
    Image {
        digest: "sha256:0".to_owned(),
        reference: "i:latest".to_owned(),
    }
}

impl Simulation {
    fn wall(&self) -> jiff::Timestamp {
        start() + SignedDuration::from_millis(i64::try_from(self.now_ms).expect("short"))
    }

    /// A new agent looks after what its predecessor left (`Pods::adopt`).
    pub(super) fn adopt_all(&mut self, host: Host) {
        let known: Vec<(String, Arc<Pod>)> = self.machines[&host]
            .checkpoint
            .iter()
            .map(|(uid, pod)| (uid.clone(), pod.clone()))
            .collect();
        for (uid, pod) in known {
            self.spawn_worker(host, &uid, pod);
        }
    }

    fn spawn_worker(&mut self, host: Host, uid: &str, pod: Arc<Pod>) {
        let known = pod.status.clone().unwrap_or_default();
        let mut observed = Observed::default();
        let sandbox = self.machines[&host].sandboxes.get(uid).cloned();
        observed.address = sandbox.as_ref().map(|sandbox| sandbox.address);
        let api = known.container_statuses.iter().flatten().next().cloned();
        let view = observed.container(CONTAINER);
        if let Some(api) = api.as_ref().filter(|api| api.container_id.is_some()) {
            view.first_instance = u32::try_from(api.restart_count).unwrap_or(0) + 1;
        }
        if let Some(container) = sandbox.and_then(|sandbox| sandbox.container) {
            view.observe(&container, Instant::now());
            view.started = true;
            let id = format!("flightcage://{}", container.id);
            view.ready =
                api.is_some_and(|api| api.ready && api.container_id.as_deref() == Some(&id));
        }
        let worker = Worker {
            pod: pod.clone(),
            gone: false,
            status: known,
            observed,
            sent: None,
            in_flight: false,
            retry_ms: None,
            drain: None,
        };
        self.agent(host).workers.insert(uid.to_owned(), worker);
        self.take_input(host, uid, pod, false);
    }

    /// `Worker::take_input`.
    fn take_input(&mut self, host: Host, uid: &str, pod: Arc<Pod>, gone: bool) {
        // One whose end was noticed on the way here has gone.
        let Some(worker) = self.agent(host).workers.get_mut(uid) else {
            return;
        };
        worker.pod = pod;
        worker.gone = gone;
        worker.observed.gone = gone;
        if (gone || worker.pod.metadata.deletion_timestamp.is_some())
            && let Some(spec) = &worker.pod.spec
        {
            let allowed = grace(worker.pod.metadata.deletion_grace_period_seconds, spec);
            match &mut worker.observed.deletion {
                Some(deletion) => deletion.grace = deletion.grace.min(allowed),
                None => {
                    worker.observed.deletion = Some(Deletion {
                        since: Instant::now(),
                        grace: allowed,
                    })
                }
            }
            if let Some(view) = worker
                .observed
                .containers
                .get_mut(CONTAINER)
                .filter(|view| view.pull == Pull::InFlight)
            {
                view.pull = Pull::Idle;
            }
        }
        self.worker_turn(host, uid);
    }

    /// `Pods::reconcile`.
    pub(super) fn reconcile_pods(&mut self, host: Host) {
        let machine = self.machines.get_mut(&host).expect("a node");
        let Some(wanted) = machine.agent.wanted.clone() else {
            return;
        };
        machine
            .agent
            .finished
            .retain(|uid| wanted.contains_key(uid));
        let gone: Vec<(String, Arc<Pod>)> = machine
            .agent
            .workers
            .iter()
            .filter(|(uid, worker)| !wanted.contains_key(*uid) && !worker.gone)
            .map(|(uid, worker)| (uid.clone(), worker.pod.clone()))
            .collect();
        for (uid, pod) in gone {
            self.take_input(host, &uid, pod, true);
        }
        for (uid, pod) in wanted.iter() {
            let machine = self.machines.get_mut(&host).expect("a node");
            if machine.agent.orphans.contains(uid) || machine.agent.finished.contains(uid) {
                continue;
            }
            let known = machine
                .agent
                .workers
                .get(uid)
                .map(|worker| (worker.pod.metadata.resource_version.clone(), worker.gone));
            if known.as_ref() == Some(&(pod.metadata.resource_version.clone(), false)) {
                continue;
            }
            machine.checkpoint.insert(uid.clone(), pod.clone());
            if known.is_some() {
                self.take_input(host, uid, pod.clone(), false);
            } else {
                self.spawn_worker(host, uid, pod.clone());
            }
        }
        let machine = self.machines.get_mut(&host).expect("a node");
        let agent = &machine.agent;
        let unknown = machine.sandboxes.keys().filter(|uid| {
            !wanted.contains_key(*uid)
                && !agent.workers.contains_key(*uid)
                && !agent.orphans.contains(*uid)
        });
        let unknown: Vec<String> = unknown.cloned().collect();
        for uid in unknown {
            self.note(format!("{} removes orphan {uid}", node_name(host)));
            self.agent(host).orphans.insert(uid.clone());
            self.stop_container(host, &uid);
            let life = self.machines[&host].life;
            self.after(
                500,
                Event::Worked {
                    host,
                    life,
                    uid,
                    work: Work::Removed,
                },
            );
        }
    }

    /// `Worker::turn`.
    pub(super) fn worker_turn(&mut self, host: Host, uid: &str) {
        let now = Instant::now();
        let sandbox = self.machines[&host].sandboxes.get(uid).cloned();
        let listening = sandbox.as_ref().is_some_and(|sandbox| {
            self.network()
                .pods
                .get(&sandbox.address)
                .is_some_and(|pod| pod.listening)
        });
        let Some(worker) = self.agent(host).workers.get_mut(uid) else {
            return;
        };
        if worker.observed.finished() {
            self.worker_ends(host, uid);
            return;
        }
        let leaving = worker.observed.deletion.is_some();
        let view = worker.observed.container(CONTAINER);
        if view.running() && !view.stopping && listening && !leaving {
            view.ready = true;
        }
        let spec = worker.pod.spec.clone().unwrap_or_default();
        for effect in decide(&spec, &worker.observed, now) {
            self.begin(host, uid, effect);
        }
        self.publish(host, uid);
    }

    fn begin(&mut self, host: Host, uid: &str, effect: Effect) {
        let life = self.machines[&host].life;
        let work = |work: Work| Event::Worked {
            host,
            life,
            uid: uid.to_owned(),
            work,
        };
        let (brief, long) = (self.random(2..40), self.random(20..300));
        let worker = self.agent(host).workers.get_mut(uid).expect("a worker");
        let key = (
            worker.pod.metadata.namespace.clone().unwrap_or_default(),
            worker.pod.metadata.name.clone().unwrap_or_default(),
        );
        match effect {
            Effect::SetUp => {
                worker.observed.setup = Progress::InFlight;
                self.after(long, work(Work::SetUp));
            }
            Effect::Pull { .. } => {
                worker.observed.container(CONTAINER).pull = Pull::InFlight;
                self.after(long, work(Work::Pulled));
            }
            Effect::Start { instance, .. } => {
                worker.observed.container(CONTAINER).start = Progress::InFlight;
                self.after(brief, work(Work::Started(instance)));
            }
            Effect::Drain(by) => {
                worker.observed.drain = Progress::InFlight;
                worker.drain = Some(worker.observed.address);
                self.tell_drains(host);
                let by = self.ms_of(by);
                self.at(
                    by,
                    Event::Worker {
                        host,
                        life,
                        uid: uid.to_owned(),
                    },
                );
            }
            Effect::Stop { .. } => {
                worker.observed.container(CONTAINER).stopping = true;
                let wanted = worker.observed.deletion.is_some();
                self.audit_stop(host, uid, wanted);
                self.stop_container(host, uid);
            }
            Effect::Remove => {
                worker.observed.removal = Progress::InFlight;
                self.after(brief, work(Work::Removed));
            }
            Effect::Delete => {
                worker.observed.farewell = Progress::InFlight;
                self.call(
                    host,
                    life,
                    Request::Delete {
                        uid: uid.to_owned(),
                        key,
                    },
                );
            }
            Effect::Wake(at) => {
                let at = self.ms_of(at).max(self.now_ms + 1);
                self.at(
                    at,
                    Event::Worker {
                        host,
                        life,
                        uid: uid.to_owned(),
                    },
                );
            }
        }
    }

    /// It is told to stop: images of the talk close their listener at once, and end a little later.
    fn stop_container(&mut self, host: Host, uid: &str) {
        let after = self.random(5..400);
        let machine = self.machines.get_mut(&host).expect("a node");
        let boot = machine.boot;
        let Some(sandbox) = machine.sandboxes.get_mut(uid) else {
            return;
        };
        sandbox.stopping = true;
        let address = sandbox.address;
        let Some(instance) = sandbox
            .container
            .as_ref()
            .map(|container| container.restart_count)
        else {
            return;
        };
        if let Some(pod) = self.network().pods.get_mut(&address) {
            pod.listening = false;
        }
        self.after(
            after,
            Event::Container {
                host,
                boot,
                uid: uid.to_owned(),
                instance,
                deed: Deed::Exits,
            },
        );
    }

    /// A task of the worker is done.
    pub(super) fn worked(&mut self, host: Host, uid: &str, work: Work) {
        let started_at_ms = self.wall().as_millisecond();
        let machine = self.machines.get_mut(&host).expect("a node");
        let boot = machine.boot;
        match work {
            Work::SetUp => {
                if !machine.agent.workers.contains_key(uid) {
                    return;
                }
                let address = machine.sandboxes.get(uid).map_or_else(
                    || {
                        machine.addresses = machine.addresses % 20 + 1;
                        Ipv4Addr::new(10, 78, u8::try_from(host).expect("few"), machine.addresses)
                    },
                    |sandbox| sandbox.address,
                );
                let sandbox = Sandbox {
                    address,
                    container: None,
                    stopping: false,
                };
                machine.sandboxes.entry(uid.to_owned()).or_insert(sandbox);
                let worker = machine.agent.workers.get_mut(uid).expect("looked at above");
                worker.observed.address = Some(address);
                worker.observed.setup = Progress::Done;
                let mut network = self.network();
                network.pods.entry(address).or_insert(PodAddress {
                    host,
                    uid: uid.to_owned(),
                    listening: false,
                });
            }
            Work::Pulled => {
                let Some(worker) = machine.agent.workers.get_mut(uid) else {
                    return;
                };
                let view = worker.observed.container(CONTAINER);
                if view.pull == Pull::InFlight {
                    view.pull = Pull::Done(image());
                }
            }
            Work::Started(instance) => {
                let (Some(worker), Some(sandbox)) = (
                    machine.agent.workers.get_mut(uid),
                    machine.sandboxes.get_mut(uid),
                ) else {
                    return;
                };
                let container = ContainerStatus {
                    name: CONTAINER.to_owned(),
                    id: format!("{uid}-{instance}"),
                    restart_count: instance,
                    image: image(),
                    state: ContainerState::Running { started_at_ms },
                };
                sandbox.container = Some(container.clone());
                sandbox.stopping = false;
                let view = worker.observed.container(CONTAINER);
                let again = view.status.is_some();
                view.observe(&container, Instant::now());
                (view.started, view.ready, view.answers, view.kill, view.pull) =
                    (true, false, true, None, Pull::Idle);
                view.start = Progress::Idle;
                if again {
                    view.crash_backoff.next();
                }
                let after = self.random(50..900);
                self.after(
                    after,
                    Event::Container {
                        host,
                        boot,
                        uid: uid.to_owned(),
                        instance,
                        deed: Deed::Listens,
                    },
                );
            }
            Work::Removed => {
                if let Some(sandbox) = machine.sandboxes.remove(uid) {
                    let mut network = self.network();
                    if network
                        .pods
                        .get(&sandbox.address)
                        .is_some_and(|pod| pod.uid == uid)
                    {
                        network.pods.remove(&sandbox.address);
                    }
                }
                let machine = self.machines.get_mut(&host).expect("a node");
                if machine.agent.orphans.remove(uid) {
                    machine.checkpoint.remove(uid);
                    self.reconcile_pods(host);
                    return;
                }
                let Some(worker) = machine.agent.workers.get_mut(uid) else {
                    return;
                };
                worker.observed.removal = Progress::Done;
            }
        }
        self.worker_turn(host, uid);
    }

    /// A container does something, whether or not its agent runs.
    pub(super) fn container(&mut self, host: Host, uid: &str, instance: u32, deed: Deed) {
        let now_ms = self.wall().as_millisecond();
        let machine = self.machines.get_mut(&host).expect("a node");
        let up = machine.up;
        let Some(sandbox) = machine.sandboxes.get_mut(uid) else {
            return;
        };
        let address = sandbox.address;
        let stopping = sandbox.stopping;
        let Some(container) = sandbox
            .container
            .as_mut()
            .filter(|container| container.restart_count == instance)
        else {
            return;
        };
        let ContainerState::Running { started_at_ms } = container.state else {
            return;
        };
        let listening = deed == Deed::Listens && !stopping;
        if deed == Deed::Exits {
            container.state = ContainerState::Exited {
                exit_code: 0,
                oom_killed: false,
                started_at_ms,
                finished_at_ms: now_ms,
            };
        }
        let container = container.clone();
        if let Some(pod) = self
            .network()
            .pods
            .get_mut(&address)
            .filter(|pod| pod.uid == uid)
        {
            pod.listening = listening;
        }
        if !up {
            return;
        }
        if let Some(worker) = self.agent(host).workers.get_mut(uid) {
            let view = worker.observed.container(CONTAINER);
            if deed == Deed::Exits {
                view.stopping = false;
                view.ready = false;
                view.observe(&container, Instant::now());
            }
            self.worker_turn(host, uid);
        }
    }

    fn worker_ends(&mut self, host: Host, uid: &str) {
        let machine = self.machines.get_mut(&host).expect("a node");
        machine.agent.workers.remove(uid);
        machine.agent.finished.insert(uid.to_owned());
        machine.checkpoint.remove(uid);
        self.tell_drains(host);
        self.reconcile_pods(host);
    }

    /// `Drains::news` on the tunnel that is open.
    pub(super) fn tell_drains(&mut self, host: Host) {
        let agent = self.agent(host);
        let Some(stream) = agent.tunnel else { return };
        let now: BTreeMap<String, Option<Ipv4Addr>> = agent
            .workers
            .iter()
            .filter_map(|(uid, worker)| Some((uid.clone(), worker.drain?)))
            .collect();
        let said = std::mem::replace(&mut agent.said, now.clone());
        for uid in said.keys().filter(|uid| !now.contains_key(*uid)) {
            self.send(
                stream,
                CLIENT_END,
                Message::FromNode(FromNode::DrainOver {
                    pod_uid: uid.clone(),
                }),
            );
        }
        for (uid, address) in now
            .into_iter()
            .filter(|(uid, address)| said.get(uid) != Some(address))
        {
            self.send(
                stream,
                CLIENT_END,
                Message::FromNode(FromNode::Drain {
                    pod_uid: uid,
                    address,
                }),
            );
        }
    }

    /// The server says that a pod is drained.
    pub(super) fn drained(&mut self, host: Host, uid: &str, excluded: Option<Vec<String>>) {
        let Some(worker) = self.agent(host).workers.get_mut(uid) else {
            return;
        };
        if worker.observed.drain != Progress::InFlight {
            return;
        }
        worker.observed.drain = Progress::Done;
        if let (Some(excluded), Some(address)) = (excluded, worker.observed.address) {
            self.note(format!(
                "{} may stop {uid}, without {excluded:?}",
                node_name(host)
            ));
            let stopped = Stopped {
                uid: uid.to_owned(),
                excused: excluded.into_iter().collect(),
            };
            self.network().stopped.insert(address, stopped);
        }
        self.worker_turn(host, uid);
    }

    /// `Worker::publish`.
    fn publish(&mut self, host: Host, uid: &str) {
        let (wall, now_ms) = (self.wall(), self.now_ms);
        let life = self.machines[&host].life;
        let host_address = Ipv4Addr::new(10, 77, 0, 10 + u8::try_from(host).expect("few"));
        let Some(worker) = self.agent(host).workers.get_mut(uid) else {
            return;
        };
        let next = status(
            &worker.pod,
            &worker.observed,
            &worker.status,
            &Moment {
                now: Instant::now(),
                wall,
                host_address,
            },
        );
        worker.status.clone_from(&next);
        if worker.in_flight
            || worker.observed.gone
            || worker.observed.farewell != Progress::Idle
            || worker.sent.as_ref() == Some(&next)
        {
            return;
        }
        if let Some(at) = worker.retry_ms.filter(|at| *at > now_ms) {
            self.at(
                at,
                Event::Worker {
                    host,
                    life,
                    uid: uid.to_owned(),
                },
            );
            return;
        }
        worker.retry_ms = None;
        worker.in_flight = true;
        let key = (
            worker.pod.metadata.namespace.clone().unwrap_or_default(),
            worker.pod.metadata.name.clone().unwrap_or_default(),
        );
        self.call(
            host,
            life,
            Request::PatchStatus {
                uid: uid.to_owned(),
                key,
                status: Box::new(next),
            },
        );
    }

    pub(super) fn patched(&mut self, host: Host, uid: &str, status: PodStatus, reply: &Reply) {
        let now_ms = self.now_ms;
        let Some(worker) = self.agent(host).workers.get_mut(uid) else {
            return;
        };
        worker.in_flight = false;
        match reply {
            Reply::Failed => worker.retry_ms = Some(now_ms + 2000),
            _ => worker.sent = Some(status),
        }
        self.worker_turn(host, uid);
    }

    pub(super) fn deleted(&mut self, host: Host, uid: &str, reply: &Reply) {
        let Some(worker) = self.agent(host).workers.get_mut(uid) else {
            return;
        };
        worker.observed.farewell = match reply {
            Reply::Failed => Progress::Failed {
                until: Instant::now() + RETRY,
                reason: String::new(),
                message: String::new(),
            },
            _ => Progress::Done,
        };
        self.worker_turn(host, uid);
    }
}

//! What happens to a cluster: faults that begin and end, and what people do meanwhile. All of it follows from the seed.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Simulation;
use super::messages::{Deed, Event};
use super::network::{CLIENT_END, Host, Link, OUTSIDE, Purpose, SERVER};
use super::server::node_name;
use crate::kubernetes::rolling_update::{self, State, Turn};
use crate::orchestrator::control::world::{Key, ready_since};

/// Faults begin after this, when the cluster has come up, and have ended by then.
const QUIET_UNTIL_MS: u64 = 7_000;
pub(super) const FAULTS_END_MS: u64 = 30_000;
/// An update looks so often what to do next.
const ROLL_EVERY_MS: u64 = 200;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// One direction carries nothing.
    Cut(Host, Host),
    Mend(Host, Host),
    /// A machine is cut off from everybody.
    Isolate(Host),
    Rejoin(Host),
    /// Machines are parted from all others; those whose bit is set.
    Part(u32),
    Unite(u32),
    Spoil(Host, Host, Link),
    Freeze(Host),
    Thaw(Host),
    PowerOff(Host),
    PowerOn(Host),
    KillAgent(Host),
    StartAgent(Host),
    KillBalancer(usize),
    StartBalancer(usize),
    KillServer,
    StartServer,
    KillContainer(usize),
    DeletePod(usize),
    Scale(i32),
    Update,
    Roll(Turn),
    EndOfFaults,
    Converged,
    /// From now on no node has a reason to fence itself.
    NobodyFences,
}

/// An update that is under way.
#[derive(Debug, Clone)]
pub(super) struct Rollout {
    pub(super) old: String,
    pub(super) new: String,
    desired: i32,
}

/// Everything that will happen.
pub(super) fn plan(rng: &mut StdRng, hosts: usize) -> Vec<(u64, Step)> {
    let mut steps = Vec::new();
    for _ in 0..rng.random_range(1..8) {
        let at = rng.random_range(QUIET_UNTIL_MS..FAULTS_END_MS - 2_000);
        let lasts = if rng.random_bool(0.4) {
            rng.random_range(100..2_500)
        } else {
            rng.random_range(1_000..14_000)
        };
        let until = (at + lasts).min(FAULTS_END_MS);
        let (begin, end) = fault(rng, hosts);
        steps.push((at, begin));
        steps.extend(end.map(|end| (until, end)));
    }
    for _ in 0..rng.random_range(0..5) {
        let at = rng.random_range(QUIET_UNTIL_MS..FAULTS_END_MS);
        let step = match rng.random_range(0..4) {
            0 => Step::Scale(rng.random_range(1..5)),
            1 => Step::DeletePod(rng.random_range(0..8)),
            _ => Step::Update,
        };
        steps.push((at, step));
    }
    steps.push((FAULTS_END_MS, Step::EndOfFaults));
    steps
}

/// The server ends and comes back; meanwhile agents end and start again, and one node at a time is frozen.
pub(super) fn without_server(rng: &mut StdRng, hosts: usize) -> Vec<(u64, Step)> {
    let ends = if rng.random_bool(0.5) {
        Step::KillServer
    } else {
        Step::PowerOff(SERVER)
    };
    let mut steps = vec![(QUIET_UNTIL_MS, Step::NobodyFences), (QUIET_UNTIL_MS, ends)];
    let workers = SERVER + 1..hosts;
    for worker in workers.clone() {
        let mut at = QUIET_UNTIL_MS + rng.random_range(0..8_000);
        while rng.random_bool(0.7) && at < FAULTS_END_MS - 8_000 {
            // systemd starts it after a second.
            let until = at + rng.random_range(1_000..2_500);
            steps.extend([
                (at, Step::KillAgent(worker)),
                (until, Step::StartAgent(worker)),
            ]);
            at = until + rng.random_range(100..5_000);
        }
    }
    // Of two, the one that is awake could not tell that from the smaller side of a partition.
    if workers.len() > 2 {
        let worker = rng.random_range(workers);
        let at = QUIET_UNTIL_MS + rng.random_range(3_000..10_000);
        steps.extend([
            (at, Step::Freeze(worker)),
            (at + rng.random_range(500..9_000), Step::Thaw(worker)),
        ]);
    }
    steps.push((FAULTS_END_MS, Step::EndOfFaults));
    steps
}

fn fault(rng: &mut StdRng, hosts: usize) -> (Step, Option<Step>) {
    let node = rng.random_range(SERVER..hosts);
    let worker = rng.random_range(SERVER + 1..hosts);
    let (from, to) = (
        rng.random_range(OUTSIDE..hosts),
        rng.random_range(OUTSIDE..hosts),
    );
    match rng.random_range(0..14) {
        0 => (Step::Cut(from, to), Some(Step::Mend(from, to))),
        1 => (Step::Cut(worker, SERVER), Some(Step::Mend(worker, SERVER))),
        2 => (Step::Cut(SERVER, worker), Some(Step::Mend(SERVER, worker))),
        3 | 4 => (Step::Isolate(worker), Some(Step::Rejoin(worker))),
        5 => {
            let group = rng.random_range(1..1_u32 << hosts);
            (Step::Part(group), Some(Step::Unite(group)))
        }
        6 => {
            let link = Link {
                cut: false,
                loss: rng.random_range(0.0..0.3),
                delay_ms: rng.random_range(1..150),
            };
            (
                Step::Spoil(from, to, link),
                Some(Step::Spoil(
                    from,
                    to,
                    Link {
                        delay_ms: 1,
                        ..Link::default()
                    },
                )),
            )
        }
        7 => (Step::Freeze(node), Some(Step::Thaw(node))),
        8 | 9 => (Step::PowerOff(worker), Some(Step::PowerOn(worker))),
        10 => (Step::KillAgent(worker), Some(Step::StartAgent(worker))),
        11 => (Step::KillBalancer(from), Some(Step::StartBalancer(from))),
        12 if rng.random_bool(0.5) => (Step::PowerOff(SERVER), Some(Step::PowerOn(SERVER))),
        12 => (Step::KillServer, Some(Step::StartServer)),
        _ => (Step::KillContainer(rng.random_range(0..8)), None),
    }
}

fn controller(name: &str, replicas: i32, grace_seconds: u64) -> Value {
    let labels = json!({"app": "web", "version": name});
    let container =
        json!({"name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}]});
    let spec = json!({"containers": [container], "terminationGracePeriodSeconds": grace_seconds});
    let template = json!({"metadata": {"labels": labels}, "spec": spec});
    json!({"metadata": {"name": name, "generation": 1}, "spec": {"replicas": replicas, "selector": labels, "template": template}})
}

impl Simulation {
    pub(super) fn create(&mut self, name: &str, replicas: i32) {
        let grace_seconds = self.random(4..31);
        self.server.store.put(
            "ReplicationController",
            "default",
            controller(name, replicas, grace_seconds),
        );
        self.stored();
    }

    pub(super) fn step(&mut self, step: Step) {
        if !matches!(step, Step::Roll(_) | Step::Converged) {
            self.note(format!("==> {step:?}"));
        }
        match step {
            Step::Cut(from, to) if from != to => self.network().links[from][to].cut = true,
            Step::Mend(from, to) => self.network().links[from][to].cut = false,
            Step::Isolate(host) => self.part(1 << host, true),
            Step::Rejoin(host) => self.part(1 << host, false),
            Step::Part(group) => self.part(group, true),
            Step::Unite(group) => self.part(group, false),
            Step::Spoil(from, to, link) => {
                let cut = self.network().links[from][to].cut;
                self.network().links[from][to] = Link { cut, ..link };
            }
            Step::Freeze(host) => self.freeze(host),
            Step::Thaw(host) => self.thaw(host),
            Step::PowerOff(host) => self.power_off(host),
            Step::PowerOn(host) => self.power_on(host),
            Step::KillAgent(host) if self.machines[&host].up => self.stop_agent(host),
            Step::StartAgent(host) if !self.machines[&host].up && !self.network().off[host] => {
                self.start_agent(host)
            }
            Step::KillBalancer(index) if self.balancers[index].up => self.stop_balancer(index),
            Step::StartBalancer(index) => {
                let host = self.balancers[index].host;
                if !self.balancers[index].up && !self.network().off[host] {
                    self.start_balancer(index);
                }
            }
            Step::KillServer if self.server.up => self.stop_server(),
            Step::StartServer if !self.server.up && !self.network().off[SERVER] => {
                self.start_server()
            }
            Step::KillContainer(which) => self.kill_container(which),
            Step::DeletePod(which) => self.delete_pod(which),
            Step::Scale(replicas) => self.scale_web(replicas),
            Step::Update => self.update(),
            Step::Roll(turn) => self.roll(turn),
            Step::EndOfFaults => self.end_faults(),
            Step::Converged => self.look_converged(),
            Step::NobodyFences => self.audit.nobody_fences = true,
            _ => {}
        }
    }

    fn part(&mut self, group: u32, cut: bool) {
        let hosts = self.hosts();
        let mut network = self.network();
        for from in 0..hosts {
            for to in 0..hosts {
                if (group >> from & 1) != (group >> to & 1) {
                    network.links[from][to].cut = cut;
                }
            }
        }
    }

    fn freeze(&mut self, host: Host) {
        if !self.network().off[host] {
            self.network().frozen[host] = true;
        }
    }

    fn thaw(&mut self, host: Host) {
        if !std::mem::replace(&mut self.network().frozen[host], false) {
            return;
        }
        // An agent that was started meanwhile has the time that it has after a start.
        let excused = self.audit.excused_until.entry(host).or_default();
        *excused = (*excused).max(self.now_ms + 1500);
        let deferred = self.deferred.remove(&host).unwrap_or_default();
        // What waits in the network card comes before timers that have run out.
        let (packets, timers): (Vec<_>, Vec<_>) = deferred
            .into_iter()
            .partition(|(_, event)| matches!(event, Event::Pump { .. } | Event::CallArrives(_)));
        for (due_ms, event) in packets.into_iter().chain(timers) {
            self.enqueue(self.now_ms, due_ms, event);
        }
    }

    fn power_off(&mut self, host: Host) {
        if self.network().off[host] {
            return;
        }
        // Whoever waits for it goes on waiting: what was to happen meets a machine that is off.
        for (due_ms, event) in self.deferred.remove(&host).unwrap_or_default() {
            self.enqueue(self.now_ms, due_ms, event);
        }
        {
            let mut network = self.network();
            network.frozen[host] = false;
            network.off[host] = true;
            network.fenced[host] = false;
            network.pods.retain(|_, pod| pod.host != host);
        }
        // Nobody says good-bye.
        let end_of = |purpose: Purpose| {
            matches!(
                purpose,
                Purpose::Tunnel | Purpose::Pods | Purpose::Reports(_) | Purpose::Endpoints(_)
            )
        };
        for stream in self
            .streams
            .values_mut()
            .filter(|stream| stream.client == host && end_of(stream.purpose))
        {
            stream.open[CLIENT_END] = false;
        }
        if self.machines[&host].up {
            self.stop_agent(host);
        }
        let machine = self.machines.get_mut(&host).expect("a node");
        machine.boot += 1;
        machine.sandboxes.clear();
        machine.checkpoint.clear();
        machine.kept = None;
        if self.balancers[host].up {
            self.stop_balancer(host);
        }
        self.balancers[host].kept = None;
        if host == SERVER && self.server.up {
            self.stop_server();
        }
    }

    fn power_on(&mut self, host: Host) {
        if !std::mem::replace(&mut self.network().off[host], false) {
            return;
        }
        if host == SERVER {
            self.start_server();
        }
        self.start_agent(host);
        self.start_balancer(host);
    }

    fn kill_container(&mut self, which: usize) {
        let running: Vec<_> = self
            .machines
            .iter()
            .flat_map(|(host, machine)| {
                let boot = machine.boot;
                machine.sandboxes.iter().filter_map(move |(uid, sandbox)| {
                    Some((
                        *host,
                        boot,
                        uid.clone(),
                        sandbox.container.as_ref()?.restart_count,
                    ))
                })
            })
            .collect();
        if let Some((host, boot, uid, instance)) =
            running.get(which % running.len().max(1)).cloned()
        {
            self.after(
                0,
                Event::Container {
                    host,
                    boot,
                    uid,
                    instance,
                    deed: Deed::Exits,
                },
            );
        }
    }

    /// Whether somebody outside can use the API now.
    fn api_answers(&self) -> bool {
        let network = self.network();
        self.server.up && !network.frozen[SERVER] && network.connected(OUTSIDE, SERVER)
    }

    fn delete_pod(&mut self, which: usize) {
        let pods: Vec<(Key, String)> = self
            .server
            .store
            .world
            .pods
            .iter()
            .filter(|(_, pod)| pod.metadata.deletion_timestamp.is_none())
            .map(|(key, pod)| (key.clone(), pod.metadata.uid.clone().unwrap_or_default()))
            .collect();
        if let (true, Some((key, uid))) = (self.api_answers(), pods.get(which % pods.len().max(1)))
        {
            self.server.store.delete("Pod", key, uid, false);
            self.server.store.next += 1;
            self.stored();
        }
    }

    fn scale_web(&mut self, replicas: i32) {
        if self.rollout.is_none() && self.api_answers() {
            let name = self.web.clone();
            self.scale(&name, replicas);
        }
    }

    fn scale(&mut self, name: &str, replicas: i32) {
        let key = ("default".to_owned(), name.to_owned());
        let controller = self.server.store.world.replication_controllers[&key].clone();
        self.server
            .store
            .edit("ReplicationController", &*controller, |value| {
                value["spec"]["replicas"] = json!(replicas)
            });
        self.stored();
    }

    fn update(&mut self) {
        if self.rollout.is_some() || !self.api_answers() {
            return;
        }
        let (old, new) = (self.web.clone(), format!("web-{}", self.fresh()));
        let desired = self.replicas(&old);
        self.create(&new, 0);
        self.rollout = Some(Rollout { old, new, desired });
        self.after(ROLL_EVERY_MS, Event::Script(Step::Roll(Turn::Up)));
    }

    pub(super) fn replicas(&self, name: &str) -> i32 {
        let key = ("default".to_owned(), name.to_owned());
        let controller = self.server.store.world.replication_controllers.get(&key);
        controller
            .and_then(|controller| controller.spec.as_ref()?.replicas)
            .unwrap_or(0)
    }

    /// One step of production's algorithm of the rolling update.
    fn roll(&mut self, turn: Turn) {
        let Some(rollout) = self.rollout.clone() else {
            return;
        };
        let other = if turn == Turn::Up {
            Turn::Down
        } else {
            Turn::Up
        };
        let mut next = Step::Roll(other);
        if self.api_answers() {
            let ready = self
                .server
                .store
                .owned_by(&rollout.new)
                .iter()
                .filter(|pod| ready_since(pod).is_some())
                .count();
            let state = State {
                desired: rollout.desired,
                max_surge: 1,
                max_unavailable: 0,
                old: self.replicas(&rollout.old),
                new: self.replicas(&rollout.new),
                new_available: i32::try_from(ready).expect("few"),
                turn,
            };
            match rolling_update::next(&state) {
                rolling_update::Action::ScaleUp(replicas) => self.scale(&rollout.new, replicas),
                rolling_update::Action::ScaleDown(replicas) => self.scale(&rollout.old, replicas),
                rolling_update::Action::Wait => {}
                rolling_update::Action::Finish => {
                    self.server.store.remove(
                        "ReplicationController",
                        &("default".to_owned(), rollout.old),
                    );
                    self.server.store.next += 1;
                    self.web = rollout.new;
                    self.rollout = None;
                    self.stored();
                    return;
                }
            }
        } else {
            next = Step::Roll(turn);
        }
        self.after(ROLL_EVERY_MS, Event::Script(next));
    }

    fn end_faults(&mut self) {
        let hosts = self.hosts();
        self.network().links = vec![
            vec![
                Link {
                    delay_ms: 1,
                    ..Link::default()
                };
                hosts
            ];
            hosts
        ];
        for host in SERVER..hosts {
            self.step(Step::Thaw(host));
            self.step(Step::PowerOn(host));
            self.step(Step::StartAgent(host));
        }
        self.step(Step::StartServer);
        for index in 0..self.balancers.len() {
            self.step(Step::StartBalancer(index));
        }
        self.after(1_000, Event::Script(Step::Converged));
    }

    pub(super) fn boot(&mut self) {
        let now = Instant::now();
        self.server.memory = super::server::Memory::new(now);
        self.start_server();
        for host in SERVER..self.hosts() {
            self.start_agent(host);
        }
        for index in 0..self.balancers.len() {
            self.start_balancer(index);
        }
        let names: Vec<String> = (SERVER..self.hosts()).map(node_name).collect();
        self.note(format!("nodes {names:?}"));
    }
}

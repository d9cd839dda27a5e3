//! The server: its store outlives it, all else is gone with its process. Decisions are those of production: [`reconcile`],
//! [`Detector`], [`Barrier`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::Instant;

use super::Simulation;
use super::messages::{Event, Message, Reply, Request};
use super::network::{Host, OUTSIDE, Purpose, SERVER, SERVER_END};
use crate::balancer::report::Orders;
use crate::orchestrator::api::balancers::lists;
use crate::orchestrator::api::barrier::{Barrier, LOAD_BALANCER, Standing, State};
use crate::orchestrator::api::heartbeats::{Beat, Statement, Statements, testify};
use crate::orchestrator::control::detector::{Detector, Watched};
use crate::orchestrator::control::nodes::Brake;
use crate::orchestrator::control::reconcile;
use crate::orchestrator::control::simulation::cluster::{Cluster, start};
use crate::orchestrator::control::world::{Action, Key, Liveness, Objects, node_of};
use crate::orchestrator::tunnel::{FromNode, NEVER_MS, PEER_PORT, ToNode};

/// A connection on which a client says nothing for so long is closed (`api::tunnels`, `api::balancers`).
const SILENCE_MS: u64 = 10_000;
/// Watches say that they live so often (the client's keep-alive).
const ALIVE_EVERY_MS: u64 = 2_000;

pub(super) struct Server {
    pub(super) up: bool,
    pub(super) life: u64,
    pub(super) store: Cluster,
    /// The revision of the last change of any Endpoints.
    endpoints_revision: u64,
    pub(super) memory: Memory,
}

/// What a crash takes.
pub(super) struct Memory {
    detector: Detector,
    pub(super) beats: BTreeMap<String, Beat>,
    pub(super) statements: Statements,
    pub(super) barrier: Barrier,
    pub(super) liveness: BTreeMap<String, Liveness>,
    pub(super) tunnels: BTreeMap<Host, u64>,
    /// Probes that were asked for: of which tunnel, about whom, when.
    probes: BTreeMap<u64, (u64, String, Instant)>,
    /// Drains that a tunnel waits for, and the answer that was given.
    drains: BTreeMap<(u64, String), Option<Standing>>,
    told: BTreeMap<u64, Orders>,
    sent: BTreeMap<u64, Vec<Arc<Pod>>>,
    number: u64,
    barrier_seen: u64,
    writing: bool,
    dirty: bool,
    recheck_ms: Option<u64>,
    alive_at_ms: u64,
}

impl Memory {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            detector: Detector::new(now, Brake::default()),
            beats: BTreeMap::new(),
            statements: Statements::new(),
            barrier: Barrier::default(),
            liveness: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            probes: BTreeMap::new(),
            drains: BTreeMap::new(),
            told: BTreeMap::new(),
            sent: BTreeMap::new(),
            number: 0,
            barrier_seen: 0,
            writing: false,
            dirty: false,
            recheck_ms: None,
            alive_at_ms: 0,
        }
    }
}

impl Server {
    pub(super) fn new(now: Instant, workers: usize) -> Self {
        let mut store = Cluster::new(workers);
        let controller = store.world.nodes[&(String::new(), "c1".to_owned())].clone();
        store.edit("Node", &*controller, |value| {
            value["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = json!("")
        });
        Self {
            up: true,
            life: 1,
            store,
            endpoints_revision: 0,
            memory: Memory::new(now),
        }
    }
}

/// The name of a balancer's certificate.
pub(super) fn balancer_name(host: Host) -> String {
    if host == OUTSIDE {
        LOAD_BALANCER.to_owned()
    } else {
        format!("system:kube-proxy:{}", node_name(host))
    }
}

pub(super) fn node_name(host: Host) -> String {
    match host {
        OUTSIDE => "outside".to_owned(),
        SERVER => "c1".to_owned(),
        worker => format!("w{}", worker - SERVER),
    }
}

pub(super) fn host_of_node(name: &str) -> Host {
    match name.strip_prefix('w') {
        Some(number) => number.parse::<usize>().expect("workers are numbered") + SERVER,
        None => SERVER,
    }
}

impl Simulation {
    /// Starts the server's process.
    pub(super) fn start_server(&mut self) {
        let now = Instant::now();
        let server = &mut self.server;
        server.life += 1;
        server.up = true;
        server.memory = Memory::new(now);
        let life = server.life;
        self.note(format!("server starts, life {life}"));
        self.after(0, Event::Detect { life });
        self.changed();
    }

    /// Ends it; what its ends of connections were is reset by its kernel when somebody asks.
    pub(super) fn stop_server(&mut self) {
        self.note("server stops".to_owned());
        self.server.up = false;
        self.server.life += 1;
        let streams: Vec<u64> = self.streams.keys().copied().collect();
        for stream in streams {
            self.close(stream, SERVER_END);
        }
    }

    /// A client has dialled.
    pub(super) fn accepted(&mut self, stream: u64, purpose: Purpose, client: Host) {
        let memory = &mut self.server.memory;
        match purpose {
            Purpose::Tunnel => {
                let old = memory.tunnels.insert(client, stream);
                let beat = Beat {
                    last: Instant::now(),
                    late: Duration::ZERO,
                    contact: Duration::MAX,
                    connected: true,
                };
                memory.beats.insert(node_name(client), beat);
                if let Some(old) = old {
                    self.close(old, SERVER_END);
                    // Its task notices a little later.
                    let life = self.server.life;
                    let after = self.random(0..60);
                    self.after(after, Event::TunnelOver { life, stream: old });
                }
            }
            Purpose::Pods => self.push_pods(stream, client, true),
            Purpose::Reports(_) => {
                let orders = self.server.memory.barrier.look(State::orders);
                self.server.memory.told.insert(stream, orders.clone());
                self.send(stream, SERVER_END, Message::Orders(orders));
            }
            Purpose::Endpoints(_) => self.push_endpoints(stream, self.server.store.next),
        }
    }

    /// The server's end of a connection is closed.
    pub(super) fn server_lost(&mut self, stream: u64) {
        let memory = &mut self.server.memory;
        memory.told.remove(&stream);
        memory.sent.remove(&stream);
        let tunnel = memory
            .tunnels
            .iter()
            .find(|(_, open)| **open == stream)
            .map(|(host, _)| *host);
        if let Some(host) = tunnel {
            memory.tunnels.remove(&host);
            if let Some(beat) = memory.beats.get_mut(&node_name(host)) {
                beat.connected = false;
            }
            self.tunnel_over(stream);
        }
    }

    /// A tunnel's drains end with it.
    pub(super) fn tunnel_over(&mut self, stream: u64) {
        let memory = &mut self.server.memory;
        let over: Vec<String> = memory
            .drains
            .keys()
            .filter(|(tunnel, _)| *tunnel == stream)
            .map(|(_, uid)| uid.clone())
            .collect();
        for uid in over {
            memory.drains.remove(&(stream, uid.clone()));
            memory.barrier.change(|state| state.end(&uid, stream));
        }
        self.barrier_turn();
    }

    pub(super) fn server_hears(&mut self, stream: u64, client: Host, message: Message) {
        let now = Instant::now();
        match message {
            Message::FromNode(FromNode::Heartbeat {
                late_ms,
                contact_ms,
                ..
            }) => {
                let contact = if contact_ms == NEVER_MS {
                    Duration::MAX
                } else {
                    Duration::from_millis(contact_ms)
                };
                let beat = Beat {
                    last: now,
                    late: Duration::from_millis(late_ms),
                    contact,
                    connected: true,
                };
                self.server.memory.beats.insert(node_name(client), beat);
                self.audit.beats.insert(node_name(client), self.now_ms);
            }
            Message::FromNode(FromNode::Probed { request, answer }) => {
                if let Some((_, suspect, asked)) = self.server.memory.probes.remove(&request) {
                    self.note(format!("{} finds {suspect} {answer:?}", node_name(client)));
                    self.audit
                        .testified(self.now_ms, &suspect, &node_name(client), answer);
                    testify(
                        &mut self.server.memory.statements,
                        &suspect,
                        &node_name(client),
                        Statement { asked, answer },
                    );
                }
            }
            Message::FromNode(FromNode::Drain { pod_uid, address }) => {
                self.note(format!("{} drains {pod_uid}", node_name(client)));
                self.server
                    .memory
                    .barrier
                    .change(|state| state.begin(&pod_uid, address, stream));
                self.server.memory.drains.insert((stream, pod_uid), None);
                self.barrier_turn();
            }
            #[expect(
                clippy::collapsible_match,
                reason = "a guard that removes would surprise"
            )]
            Message::FromNode(FromNode::DrainOver { pod_uid }) => {
                if self
                    .server
                    .memory
                    .drains
                    .remove(&(stream, pod_uid.clone()))
                    .is_some()
                {
                    self.server
                        .memory
                        .barrier
                        .change(|state| state.end(&pod_uid, stream));
                    self.barrier_turn();
                }
            }
            Message::Ping(ping) => self.send(stream, SERVER_END, Message::Pong(ping)),
            Message::Report(report) => {
                self.server
                    .memory
                    .barrier
                    .heard(&balancer_name(client), report, now);
                self.barrier_turn();
            }
            _ => {}
        }
    }

    /// One round of failure detection.
    pub(super) fn detect(&mut self, life: u64) {
        let now = Instant::now();
        let watched: Vec<Watched> = (SERVER..self.hosts())
            .map(|host| Watched {
                name: node_name(host),
                beside_server: host == SERVER,
            })
            .collect();
        let memory = &mut self.server.memory;
        let round = memory
            .detector
            .round(now, &watched, &memory.beats, &memory.statements);
        let due = memory.detector.due();
        let due = self.ms_of(due);
        let before = std::mem::replace(&mut self.server.memory.liveness, round.liveness);
        for (observer, suspect) in round.ask {
            self.server.memory.number += 1;
            let request = self.server.memory.number;
            let Some(stream) = self
                .server
                .memory
                .tunnels
                .get(&host_of_node(&observer))
                .copied()
            else {
                continue;
            };
            let address = (
                std::net::Ipv4Addr::new(
                    10,
                    77,
                    0,
                    10 + u8::try_from(host_of_node(&suspect)).expect("few"),
                ),
                PEER_PORT,
            );
            self.server
                .memory
                .probes
                .insert(request, (stream, suspect, now));
            self.send(
                stream,
                SERVER_END,
                Message::ToNode(ToNode::Probe {
                    request,
                    address: address.into(),
                }),
            );
        }
        if before != self.server.memory.liveness {
            self.note(format!("liveness {:?}", self.server.memory.liveness));
            self.audit_liveness(&before);
            let nodes = &self.server.memory.liveness;
            let at_least = |least: Liveness| -> BTreeSet<String> {
                nodes
                    .iter()
                    .filter(|(_, liveness)| **liveness >= least)
                    .map(|(node, _)| node.clone())
                    .collect()
            };
            self.server
                .memory
                .barrier
                .set_silent_nodes(at_least(Liveness::Suspect), at_least(Liveness::Silent));
            self.barrier_turn();
            self.changed();
        }
        self.close_silent();
        self.at(due.max(self.now_ms + 1), Event::Detect { life });
    }

    fn close_silent(&mut self) {
        let silent: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, stream)| {
                stream.open[SERVER_END]
                    && matches!(stream.purpose, Purpose::Tunnel | Purpose::Reports(_))
                    && self.now_ms - stream.heard_ms[SERVER_END] > SILENCE_MS
            })
            .map(|(number, _)| *number)
            .collect();
        for stream in silent {
            self.close(stream, SERVER_END);
        }
        if self.now_ms >= self.server.memory.alive_at_ms {
            self.server.memory.alive_at_ms = self.now_ms + ALIVE_EVERY_MS;
            let watches = self.streams.iter().filter(|(_, stream)| {
                stream.open[SERVER_END]
                    && matches!(stream.purpose, Purpose::Pods | Purpose::Endpoints(_))
            });
            let watches: Vec<u64> = watches.map(|(number, _)| *number).collect();
            for stream in watches {
                self.send(stream, SERVER_END, Message::Alive);
            }
        }
    }

    /// Something has changed that controllers look at.
    pub(super) fn changed(&mut self) {
        let memory = &mut self.server.memory;
        if !self.server.up || std::mem::replace(&mut memory.dirty, true) || memory.writing {
            return;
        }
        let life = self.server.life;
        self.after(1, Event::Reconcile { life });
    }

    pub(super) fn reconcile(&mut self, life: u64) {
        let memory = &mut self.server.memory;
        if memory.writing {
            return;
        }
        memory.dirty = false;
        memory.barrier.deciding();
        let world = &mut self.server.store.world;
        world.now =
            start() + SignedDuration::from_millis(i64::try_from(self.now_ms).expect("short"));
        world.liveness = memory.liveness.clone();
        let decision = reconcile(world);
        if let Some(at) = decision.recheck {
            let after = u64::try_from(at.duration_since(world.now).as_millis())
                .unwrap_or(0)
                .max(10);
            let at = self.now_ms + after;
            if memory
                .recheck_ms
                .is_none_or(|known| known <= self.now_ms || at < known)
            {
                memory.recheck_ms = Some(at);
                self.at(at, Event::Reconcile { life });
            }
        }
        if decision.actions.is_empty() {
            self.server.memory.barrier.decided();
        } else {
            self.server.memory.writing = true;
            let after = self.random(1..6);
            self.after(
                after,
                Event::Write {
                    life,
                    actions: decision.actions,
                },
            );
        }
    }

    /// What the controllers decided is written, as far as it still applies.
    pub(super) fn write(&mut self, actions: Vec<Action>) {
        for action in actions {
            self.apply(action);
        }
        self.server.memory.writing = false;
        self.server.memory.dirty = false;
        self.server.memory.barrier.decided();
        self.changed();
        self.stored();
    }

    fn apply(&mut self, action: Action) {
        let store = &mut self.server.store;
        let key_of =
            |namespace: &str, name: &str| -> Key { (namespace.to_owned(), name.to_owned()) };
        let current = match &action {
            Action::Create { kind: "Event", .. } => return,
            Action::Create {
                kind,
                namespace,
                object,
            } => {
                if object["metadata"]["name"]
                    .as_str()
                    .is_some_and(|name| store.value(kind, &key_of(namespace, name)).is_some())
                {
                    return;
                }
                None
            }
            Action::Patch { target, .. }
            | Action::Replace { target, .. }
            | Action::Delete { target, .. }
            | Action::Bind { target, .. }
            | Action::FinalizeNamespace(target) => {
                let Some(current) =
                    store.value(target.kind, &key_of(&target.namespace, &target.name))
                else {
                    return;
                };
                if !target.uid.is_empty()
                    && current["metadata"]["uid"] != json!(target.uid)
                    && !matches!(action, Action::Replace { .. })
                {
                    return;
                }
                Some(current)
            }
        };
        let kind = match &action {
            Action::Create { kind, .. } => *kind,
            Action::Replace { target, object } => {
                if current.is_some_and(|current| {
                    current["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"]
                }) {
                    return;
                }
                target.kind
            }
            Action::Bind { target, node } => {
                if current.is_some_and(|current| !current["spec"]["nodeName"].is_null()) {
                    return;
                }
                let (uid, node) = (target.uid.clone(), node.clone());
                self.note(format!("{} is bound to {node}", target.name));
                self.audit_bind(&uid, &node);
                "Pod"
            }
            Action::Delete { target, force } => {
                let current = current.expect("looked up above");
                let node = current["spec"]["nodeName"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                if target.kind == "Pod" && *force && !node.is_empty() {
                    self.note(format!("{} is evicted from {node}", target.name));
                    self.audit_evict(&target.uid, &node);
                } else if !current["metadata"]["deletionTimestamp"].is_null() {
                    return;
                }
                target.kind
            }
            Action::Patch { target, .. } | Action::FinalizeNamespace(target) => target.kind,
        };
        let deletes = matches!(action, Action::Delete { .. });
        self.server.store.apply(action);
        if deletes {
            self.server.store.next += 1;
        }
        if kind == "Endpoints" {
            self.server.endpoints_revision = self.server.store.next;
        }
    }

    /// Tells watches and the barrier of what is new in the store.
    pub(super) fn stored(&mut self) {
        if !self.server.up {
            return;
        }
        let watches: Vec<(u64, Purpose, Host)> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.open[SERVER_END])
            .map(|(number, stream)| (*number, stream.purpose, stream.client))
            .collect();
        for (stream, purpose, client) in watches {
            match purpose {
                Purpose::Pods => self.push_pods(stream, client, false),
                Purpose::Endpoints(_) => {
                    self.push_endpoints(stream, self.server.endpoints_revision)
                }
                Purpose::Tunnel | Purpose::Reports(_) => {}
            }
        }
        self.barrier_turn();
        self.changed();
    }

    fn push_pods(&mut self, stream: u64, client: Host, first: bool) {
        let name = node_name(client);
        let own: Vec<Arc<Pod>> = self
            .server
            .store
            .world
            .pods
            .values()
            .filter(|pod| node_of(pod) == Some(name.as_str()))
            .cloned()
            .collect();
        let sent = self.server.memory.sent.get(&stream);
        let same = sent.is_some_and(|sent| {
            sent.len() == own.len() && sent.iter().zip(&own).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        if same && !first {
            return;
        }
        self.server.memory.sent.insert(stream, own.clone());
        let by_uid = own
            .into_iter()
            .filter_map(|pod| Some((pod.metadata.uid.clone()?, pod)))
            .collect();
        self.send(stream, SERVER_END, Message::Pods(Arc::new(by_uid)));
    }

    fn push_endpoints(&mut self, stream: u64, revision: u64) {
        fn all<K>(objects: &Objects<K>) -> Vec<Arc<K>> {
            objects.values().cloned().collect()
        }
        let known = self.streams[&stream].pushed;
        let services: u64 = self.server.store.world.services.len() as u64;
        if known == Some((revision, services)) {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.pushed = Some((self.server.endpoints_revision, services));
        }
        let world = &self.server.store.world;
        let message = (
            all(&world.services),
            all(&world.endpoints),
            revision.max(self.server.endpoints_revision),
        );
        self.send(stream, SERVER_END, Message::Endpoints(Arc::new(message)));
    }

    /// What follows from the barrier's state: `api::balancers::follow` and the tasks of tunnels and streams.
    pub(super) fn barrier_turn(&mut self) {
        if !self.server.up {
            return;
        }
        let world = &self.server.store.world;
        let memory = &mut self.server.memory;
        let barrier = &memory.barrier;
        if barrier.look(|state| state.nodes().len() != world.nodes.len()) {
            let nodes = world.nodes.keys().map(|(_, name)| name.clone()).collect();
            barrier.change(|state| state.set_nodes(nodes));
        }
        for (uid, address) in barrier.look(State::unsettled) {
            if !world
                .endpoints
                .values()
                .any(|endpoints| lists(&json!(&**endpoints), &uid, address))
            {
                barrier.change(|state| state.left(&uid, self.server.endpoints_revision));
            }
        }
        let now = Instant::now();
        let mut out = Vec::new();
        let mut recheck: Option<Instant> = None;
        for ((stream, uid), told) in &mut memory.drains {
            if matches!(told, Some(Standing::Drained { .. })) {
                continue;
            }
            let standing = barrier.look(|state| state.standing(uid, now));
            match &standing {
                Standing::Drained { excluded } => {
                    let answer = ToNode::Drained {
                        pod_uid: uid.clone(),
                        excluded: excluded.clone(),
                    };
                    out.push((*stream, Message::ToNode(answer)));
                }
                Standing::Waiting { recheck: at, .. } => {
                    recheck = at.iter().copied().chain(recheck).min()
                }
            }
            *told = Some(standing);
        }
        let seen = *barrier.subscribe().borrow();
        if std::mem::replace(&mut memory.barrier_seen, seen) != seen {
            let orders = barrier.look(State::orders);
            for (stream, told) in &mut memory.told {
                if *told != orders {
                    told.clone_from(&orders);
                    out.push((*stream, Message::Orders(orders.clone())));
                }
            }
        }
        for (stream, message) in out {
            self.send(stream, SERVER_END, message);
        }
        if let Some(at) = recheck {
            let life = self.server.life;
            let at = self.ms_of(at);
            self.at(at.max(self.now_ms + 1), Event::Barrier { life });
        }
    }

    /// The API's answer to an agent.
    pub(super) fn serve(&mut self, client: Host, request: Request) -> Reply {
        let uid_at = |simulation: &Self, key: &Key| {
            simulation
                .server
                .store
                .world
                .pods
                .get(key)
                .and_then(|pod| pod.metadata.uid.clone())
                .unwrap_or_default()
        };
        match request {
            Request::ListOwn => {
                let name = node_name(client);
                let pods = self
                    .server
                    .store
                    .world
                    .pods
                    .values()
                    .filter(|pod| node_of(pod) == Some(name.as_str()));
                Reply::Listed(pods.filter_map(|pod| pod.metadata.uid.clone()).collect())
            }
            Request::PatchStatus { uid, key, status } => {
                if uid_at(self, &key) != uid {
                    return Reply::Gone;
                }
                let pod = self.server.store.world.pods[&key].clone();
                self.server
                    .store
                    .edit("Pod", &*pod, |value| value["status"] = json!(status));
                self.stored();
                Reply::Done
            }
            Request::Delete { uid, key } => {
                if uid_at(self, &key) == uid {
                    self.server.store.remove("Pod", &key);
                    self.server.store.next += 1;
                    self.stored();
                }
                Reply::Done
            }
        }
    }
}

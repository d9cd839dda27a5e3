//! A node's agent: its tunnel, its lease and fence, its questions to others. Decisions are those of production: [`Contact`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::Instant;

use super::Simulation;
use super::messages::{Event, Message, Reply, Request};
use super::network::{CLIENT_END, Host, Purpose, SERVER};
use super::pods::Worker;
use super::server::node_name;
use crate::orchestrator::agent::contact::{Contact, Kept};
use crate::orchestrator::agent::lease::{ASK_AFTER, Lease, PeerSaid};
use crate::orchestrator::agent::peers::Found;
use crate::orchestrator::agent::runtime::ContainerStatus;
use crate::orchestrator::agent::words::Words;
use crate::orchestrator::tunnel::{FromNode, HEARTBEAT_INTERVAL_MS, ToNode};

/// As in `agent::tunnel`.
const BACKOFF_FIRST_MS: u64 = 200;
const BACKOFF_LAST_MS: u64 = 2000;
const SILENCE_LIMIT_MS: u64 = 4000;
/// As in `agent::fence`.
const FENCE_ROUND_MS: u64 = 100;
const ASK_EVERY: Duration = Duration::from_millis(850);
const LIST_EVERY: Duration = Duration::from_millis(250);
const REMOVAL_LIMIT: Duration = Duration::from_mins(1);
/// As in `agent::peers`.
const ANSWER_WITHIN_MS: u64 = 400;
const CONNECT_AGAIN_MS: u64 = 150;
const LATE_MS: u64 = 150;
/// A request to the API that nothing comes back of fails after so long (keep-alive), and is sent again so often meanwhile.
const CALL_LIMIT_MS: u64 = 5000;
const CALL_RESEND_MS: u64 = 300;
/// As in `agent::fence`.
const LIST_LIMIT_MS: u64 = 2000;

/// A pod's sandbox and its container: it outlives the agent.
#[derive(Debug, Clone)]
pub(super) struct Sandbox {
    pub(super) address: Ipv4Addr,
    pub(super) container: Option<ContainerStatus>,
    pub(super) stopping: bool,
}

/// A node.
pub(super) struct Machine {
    /// Grows with every boot.
    pub(super) boot: u64,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    /// Manifests on disk, of this boot.
    pub(super) checkpoint: BTreeMap<String, Arc<Pod>>,
    pub(super) addresses: u8,
    /// What the agent keeps for the next one, of this boot.
    pub(super) kept: Option<Kept>,
    /// The agent's process, which may be down.
    pub(super) up: bool,
    pub(super) life: u64,
    pub(super) agent: Agent,
}

/// What is lost with the agent's process.
pub(super) struct Agent {
    contact: Contact,
    pub(super) tunnel: Option<u64>,
    watch: Option<u64>,
    backoff_ms: u64,
    sequence: u64,
    /// What the tunnel has been told of drains.
    pub(super) said: BTreeMap<String, Option<Ipv4Addr>>,
    peers: Vec<Option<PeerSaid>>,
    asked: Option<Instant>,
    pub(super) fence_up: Option<bool>,
    held_since: Option<Instant>,
    words: Words<Host>,
    /// When the API was asked for this node's pods last, and whether it has not answered yet.
    listing: Option<(Instant, bool)>,
    pub(super) wanted: Option<Arc<BTreeMap<String, Arc<Pod>>>>,
    pub(super) workers: BTreeMap<String, Worker>,
    pub(super) orphans: BTreeSet<String>,
    pub(super) finished: BTreeSet<String>,
}

impl Agent {
    pub(super) fn new(now: Instant, before: Option<Kept>, other_workers: usize) -> Self {
        Self {
            contact: Contact::new(now, before),
            tunnel: None,
            watch: None,
            backoff_ms: BACKOFF_FIRST_MS,
            sequence: 0,
            said: BTreeMap::new(),
            peers: vec![None; other_workers],
            asked: None,
            fence_up: None,
            held_since: None,
            words: Words::default(),
            listing: None,
            wanted: None,
            workers: BTreeMap::new(),
            orphans: BTreeSet::new(),
            finished: BTreeSet::new(),
        }
    }
}

/// A question of one agent to another.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    from: Host,
    life: u64,
    to: Host,
    begun_ms: u64,
    why: Why,
    over: bool,
}

#[derive(Debug, Clone, Copy)]
enum Why {
    /// The fence wants to know; which of the other workers it is.
    Fence(usize),
    /// The server wants to know; the number of its request.
    Server(u64),
}

/// A request to the API on its way.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) from: Host,
    pub(super) life: u64,
    pub(super) request: Request,
    begun_ms: u64,
    over: bool,
}

impl Call {
    fn limit_ms(&self) -> u64 {
        if matches!(self.request, Request::ListOwn) {
            LIST_LIMIT_MS
        } else {
            CALL_LIMIT_MS
        }
    }
}

impl Simulation {
    /// The other workers of a node, as `agent::peers` reads them from the routes.
    fn other_workers(&self, host: Host) -> Vec<Host> {
        (SERVER + 1..self.hosts())
            .filter(|other| *other != host)
            .collect()
    }

    pub(super) fn start_agent(&mut self, host: Host) {
        let others = self.other_workers(host).len();
        self.note(format!("agent of {} starts", node_name(host)));
        let machine = self.machines.get_mut(&host).expect("a node");
        machine.life += 1;
        machine.up = true;
        machine.agent = Agent::new(Instant::now(), machine.kept, others);
        let life = machine.life;
        self.audit.excused_until.insert(host, self.now_ms + 3500);
        self.after(
            0,
            Event::Dial {
                host,
                purpose: Purpose::Tunnel,
                life,
            },
        );
        self.after(
            0,
            Event::Dial {
                host,
                purpose: Purpose::Pods,
                life,
            },
        );
        self.after(0, Event::Fence { host, life });
        self.adopt_all(host);
    }

    pub(super) fn stop_agent(&mut self, host: Host) {
        self.note(format!("agent of {} stops", node_name(host)));
        let machine = self.machines.get_mut(&host).expect("a node");
        machine.up = false;
        machine.life += 1;
        (machine.agent.tunnel, machine.agent.watch) = (None, None);
        let mine = self.streams.iter().filter(|(_, stream)| {
            stream.client == host
                && stream.open[CLIENT_END]
                && matches!(stream.purpose, Purpose::Tunnel | Purpose::Pods)
        });
        let mine: Vec<u64> = mine.map(|(number, _)| *number).collect();
        for stream in mine {
            self.close(stream, CLIENT_END);
        }
    }

    pub(super) fn agent(&mut self, host: Host) -> &mut Agent {
        &mut self.machines.get_mut(&host).expect("a node").agent
    }

    pub(super) fn agent_dialled(&mut self, host: Host, stream: u64, purpose: Purpose) {
        self.note(format!("agent of {} has {purpose:?}", node_name(host)));
        let agent = self.agent(host);
        if purpose == Purpose::Tunnel {
            agent.tunnel = Some(stream);
            agent.sequence = 0;
            agent.said.clear();
            self.after(0, Event::Beat { host, stream });
            self.tell_drains(host);
        } else {
            agent.watch = Some(stream);
        }
    }

    /// The agent's end of a connection is closed: it dials again.
    pub(super) fn agent_lost(&mut self, host: Host, stream: u64) {
        self.note(format!("agent of {} lost a connection", node_name(host)));
        let life = self.machines[&host].life;
        let agent = self.agent(host);
        let backoff = agent.backoff_ms;
        if agent.tunnel == Some(stream) {
            agent.tunnel = None;
            agent.backoff_ms = (agent.backoff_ms * 2).min(BACKOFF_LAST_MS);
            self.after(
                backoff,
                Event::Dial {
                    host,
                    purpose: Purpose::Tunnel,
                    life,
                },
            );
        } else if agent.watch == Some(stream) {
            agent.watch = None;
            self.after(
                BACKOFF_FIRST_MS,
                Event::Dial {
                    host,
                    purpose: Purpose::Pods,
                    life,
                },
            );
        }
    }

    pub(super) fn beat(&mut self, host: Host, stream: u64, due_ms: u64) {
        if self.machines[&host].agent.tunnel != Some(stream) {
            return;
        }
        let late = Duration::from_millis(self.now_ms - due_ms);
        let late = self.agent(host).contact.late(Instant::now(), late);
        for (tunnel, limit) in [
            (Some(stream), SILENCE_LIMIT_MS),
            (self.machines[&host].agent.watch, CALL_LIMIT_MS),
        ] {
            let Some(number) = tunnel else { continue };
            if self
                .streams
                .get(&number)
                .is_some_and(|one| self.now_ms - one.heard_ms[CLIENT_END] > limit)
            {
                self.close(number, CLIENT_END);
                self.agent_lost(host, number);
            }
        }
        if self.machines[&host].agent.tunnel != Some(stream) {
            return;
        }
        let late_ms = u64::try_from(late.as_millis()).expect("short");
        let agent = self.agent(host);
        agent.sequence += 1;
        if agent.sequence * HEARTBEAT_INTERVAL_MS > BACKOFF_LAST_MS {
            agent.backoff_ms = BACKOFF_FIRST_MS;
        }
        let sequence = agent.sequence;
        let contact_ms = agent.contact.heard_ms_ago(Instant::now());
        let ping = agent.contact.ping(Instant::now());
        self.send(
            stream,
            CLIENT_END,
            Message::FromNode(FromNode::Heartbeat {
                sequence,
                late_ms,
                contact_ms,
            }),
        );
        self.send(stream, CLIENT_END, Message::Ping(ping));
        self.after(HEARTBEAT_INTERVAL_MS, Event::Beat { host, stream });
    }

    pub(super) fn agent_hears(&mut self, host: Host, stream: u64, message: Message) {
        match message {
            Message::Pong(ping) => {
                let machine = self.machines.get_mut(&host).expect("a node");
                machine.kept = machine.agent.contact.answered(&ping).or(machine.kept);
            }
            Message::ToNode(ToNode::Probe { request, address }) => {
                let std::net::IpAddr::V4(address) = address.ip() else {
                    return;
                };
                let to = usize::from(address.octets()[3]) - 10;
                self.ask(host, to, Why::Server(request));
            }
            Message::ToNode(ToNode::Drained { pod_uid, excluded }) => {
                self.drained(host, &pod_uid, Some(excluded))
            }
            Message::Pods(pods) => {
                assert_eq!(
                    self.machines[&host].agent.watch,
                    Some(stream),
                    "an agent has one watch"
                );
                self.agent(host).wanted = Some(pods);
                self.reconcile_pods(host);
            }
            _ => {}
        }
    }

    /// One round of `agent::fence::keep`.
    pub(super) fn fence(&mut self, host: Host, life: u64) {
        let now = Instant::now();
        let others = self.other_workers(host);
        let agent = self.agent(host);
        let heard = agent.contact.heard();
        let mut ask = false;
        if now.saturating_duration_since(heard) > ASK_AFTER {
            if agent
                .asked
                .is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_EVERY)
            {
                agent.asked = Some(now);
                ask = true;
            }
        } else {
            agent.asked = None;
        }
        let lease = agent.contact.look(now, &agent.peers);
        if ask {
            for (worker, to) in others.into_iter().enumerate() {
                self.ask(host, to, Why::Fence(worker));
            }
        }
        self.obey(host, life, lease);
        let agent = &self.machines[&host].agent;
        let calm = self.ms_of(heard + ASK_AFTER) + 1;
        let round = self.now_ms + FENCE_ROUND_MS;
        let lapse = self.ms_of(agent.contact.lapse());
        let due = if agent.fence_up == Some(false) && !agent.contact.is_in_doubt() {
            calm.max(round)
        } else {
            round
        };
        let due = if lapse > self.now_ms {
            due.min(lapse)
        } else {
            due
        };
        self.at(due, Event::Fence { host, life });
    }

    /// `Fence::obey`.
    fn obey(&mut self, host: Host, life: u64, lease: Lease) {
        let agent = self.agent(host);
        if lease != Lease::Held {
            agent.held_since = None;
            agent.listing = None;
        }
        match lease {
            Lease::Fence if agent.fence_up != Some(true) => self.set_fence(host, true),
            Lease::LeftAlone(_) if agent.fence_up != Some(false) => self.set_fence(host, false),
            Lease::Held if agent.fence_up != Some(false) || agent.contact.is_in_doubt() => {
                let since = *agent.held_since.get_or_insert_with(Instant::now);
                if since.elapsed() > REMOVAL_LIMIT {
                    agent.contact.give_up_doubt();
                    self.trust(host);
                } else if agent
                    .listing
                    .is_none_or(|(asked, waits)| !waits && asked.elapsed() > LIST_EVERY)
                {
                    agent.listing = Some((Instant::now(), true));
                    self.call(host, life, Request::ListOwn);
                }
            }
            Lease::Held => agent.listing = None,
            _ => {}
        }
    }

    fn trust(&mut self, host: Host) {
        let agent = self.agent(host);
        (agent.held_since, agent.listing) = (None, None);
        if agent.fence_up != Some(false) {
            self.set_fence(host, false);
        }
    }

    fn set_fence(&mut self, host: Host, up: bool) {
        let agent = self.agent(host);
        if agent.fence_up.is_some() || up {
            self.note(format!(
                "fence of {} {}",
                node_name(host),
                if up { "up" } else { "down" }
            ));
        }
        if up && self.audit.nobody_fences {
            self.violated(format!(
                "{} fences itself without a reason",
                node_name(host)
            ));
        }
        self.agent(host).fence_up = Some(up);
        self.network().fenced[host] = up;
    }

    /// `Fence::listed`: what the API had when it was asked.
    pub(super) fn own_listed(&mut self, host: Host, asked_ms: u64, listed: Option<&[String]>) {
        let asked = self.instant(asked_ms);
        let machine = self.machines.get_mut(&host).expect("a node");
        let Some(listing) = machine
            .agent
            .listing
            .as_mut()
            .filter(|(last, _)| *last == asked)
        else {
            return;
        };
        listing.1 = false;
        let gone =
            listed.is_some_and(|known| machine.sandboxes.keys().all(|uid| known.contains(uid)));
        if gone && machine.agent.contact.all_are_known(asked) {
            self.trust(host);
        }
    }

    fn ask(&mut self, from: Host, to: Host, why: Why) {
        let life = self.machines[&from].life;
        let id = self.fresh();
        self.asks.insert(
            id,
            Ask {
                from,
                life,
                to,
                begun_ms: self.now_ms,
                why,
                over: false,
            },
        );
        self.ask_leaves(id);
        self.after(CONNECT_AGAIN_MS, Event::AskLeaves(id));
        self.after(
            ANSWER_WITHIN_MS,
            Event::AskEnds {
                ask: id,
                found: Found::Silence,
            },
        );
    }

    /// A connection is dialled, the first or the second.
    pub(super) fn ask_leaves(&mut self, id: u64) {
        let Some(Ask { from, to, .. }) = self.asks.get(&id).cloned() else {
            return;
        };
        let passes = self.network().passes(from, to);
        if let Some(after) = passes {
            self.after(after, Event::AskArrives(id));
        }
    }

    /// The question is at the other machine, whose kernel answers whatever its agent does.
    pub(super) fn ask_arrives(&mut self, id: u64) {
        let Some(ask) = self.asks.get(&id).cloned().filter(|ask| !ask.over) else {
            return;
        };
        if self.network().frozen[ask.to] {
            return;
        }
        let Some(back) = self.network().passes(ask.to, ask.from) else {
            return;
        };
        if !self.machines[&ask.to].up {
            self.after(
                back,
                Event::AskEnds {
                    ask: id,
                    found: Found::Machine,
                },
            );
            return;
        }
        // The handshake of TLS and the answer: two more round trips, each of which may be lost and sent again.
        let mut after = back;
        for _ in 0..2 {
            match self.network().round_trip(ask.from, ask.to) {
                Some(more) => after += more,
                None => after += super::network::RESEND_FIRST_MS * 2,
            }
        }
        let (now, agent) = (Instant::now(), self.agent(ask.to));
        let hello = agent.words.hello(
            now,
            ask.from,
            agent.contact.heard_ms_ago(now),
            agent.fence_up == Some(true),
        );
        let found = if after <= ANSWER_WITHIN_MS {
            Found::Agent(hello)
        } else {
            Found::Machine
        };
        self.after(
            after.min(ANSWER_WITHIN_MS),
            Event::AskEnds { ask: id, found },
        );
    }

    pub(super) fn ask_ends(&mut self, id: u64, found: Found) {
        let Some(ask) = self.asks.remove(&id) else {
            return;
        };
        if self.machines[&ask.from].life != ask.life {
            return;
        }
        let late = self.now_ms - ask.begun_ms > ANSWER_WITHIN_MS + LATE_MS;
        let found = if late && found == Found::Silence {
            Found::Late
        } else {
            found
        };
        match ask.why {
            Why::Fence(worker) => {
                if let Some(said) =
                    PeerSaid::new(self.instant(ask.begun_ms), Instant::now(), &found)
                {
                    self.agent(ask.from).peers[worker] = Some(said);
                }
            }
            Why::Server(request) => {
                let answer =
                    self.agent(ask.from)
                        .words
                        .testify(Instant::now(), ask.to, found.into());
                if let Some(stream) = self.machines[&ask.from].agent.tunnel {
                    self.send(
                        stream,
                        CLIENT_END,
                        Message::FromNode(FromNode::Probed { request, answer }),
                    );
                }
            }
        }
    }

    /// Asks the API for something; the reply comes back, or `Failed` does.
    pub(super) fn call(&mut self, from: Host, life: u64, request: Request) {
        let id = self.fresh();
        self.calls.insert(
            id,
            Call {
                from,
                life,
                request,
                begun_ms: self.now_ms,
                over: false,
            },
        );
        self.after(0, Event::CallLeaves(id));
    }

    pub(super) fn call_leaves(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id).cloned() else {
            return;
        };
        let passes = self.network().passes(call.from, SERVER);
        match passes {
            Some(after) => self.after(after, Event::CallArrives(id)),
            None if self.now_ms - call.begun_ms >= call.limit_ms() => {
                self.after(
                    0,
                    Event::CallEnds {
                        call: id,
                        reply: Reply::Failed,
                    },
                );
            }
            None => self.after(CALL_RESEND_MS, Event::CallLeaves(id)),
        }
    }

    pub(super) fn call_arrives(&mut self, id: u64) {
        if self.network().off[SERVER] {
            self.call_leaves(id);
            return;
        }
        let Some(call) = self.calls.get_mut(&id).filter(|call| !call.over) else {
            return;
        };
        call.over = true;
        let call = call.clone();
        let reply = if self.server.up {
            self.serve(call.from, call.request)
        } else {
            Reply::Failed
        };
        self.call_returns(id, reply);
    }

    pub(super) fn call_returns(&mut self, id: u64, reply: Reply) {
        let Some(call) = self.calls.get(&id).cloned() else {
            return;
        };
        let passes = self.network().passes(SERVER, call.from);
        match passes {
            Some(after) => self.after(after, Event::CallEnds { call: id, reply }),
            None if self.now_ms - call.begun_ms >= call.limit_ms() => {
                self.after(
                    0,
                    Event::CallEnds {
                        call: id,
                        reply: Reply::Failed,
                    },
                );
            }
            None => self.after(CALL_RESEND_MS, Event::CallReturns { call: id, reply }),
        }
    }

    pub(super) fn call_ends(&mut self, id: u64, reply: Reply) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        if self.machines[&call.from].life != call.life {
            return;
        }
        match call.request {
            Request::ListOwn => {
                let listed = if let Reply::Listed(uids) = &reply {
                    Some(uids.as_slice())
                } else {
                    None
                };
                self.own_listed(call.from, call.begun_ms, listed);
            }
            Request::PatchStatus { uid, status, .. } => {
                self.patched(call.from, &uid, *status, &reply)
            }
            Request::Delete { uid, .. } => self.deleted(call.from, &uid, &reply),
        }
    }

    /// Who a call or a question is of.
    pub(super) fn asker(&self, id: u64) -> Option<Host> {
        self.asks.get(&id).map(|ask| ask.from)
    }
}

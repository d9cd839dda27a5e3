//! Whole clusters, simulated: one seed is one run, event by event, and after every event the invariants are checked.
//!
//! # Why not turmoil
//! turmoil replaces tokio's sockets by its own. Production's connections are TLS over tokio's, in hyper and tungstenite, to a store on disk and
//! to containers; several of their select loops are fair by chance and their maps in random order. None of it would run unchanged, and what
//! ran would not repeat. So messages are simulated and decisions are not: a queue of events in simulated time (tokio's paused clock, so that
//! [`Instant`] is production's) carries what tunnels, watches and streams say over lossy links, and what they decide is production's own code:
//! the controllers' `reconcile`, the detector's rounds, the barrier, the agents' contact and its `lease`, `decide` and `status`, the rolling
//! update's `next`; balancers run whole, over a simulated dial.
//!
//! What stands in for production here, and so is not proven: the loops around those decisions (`agent::{fence, pods, worker, tunnel}`,
//! `api::{tunnels, balancers}`, `balancer::stream`, the reflector), which are followed line by line; containers; the store, which loses nothing.
//!
//! ```text
//!  script (faults, people) ─► queue of events ─► server │ agents, pods │ balancers ─► messages on links ─► queue
//!                                    │
//!                                    └─► audit: after every event, and in the end
//! ```
//! A failure prints its seed and the events before it. `FLIGHTCAGE_SIM_SEED` runs one seed, `FLIGHTCAGE_SIM_SEEDS` that many.

mod agent;
mod audit;
mod balancers;
mod messages;
mod network;
mod pods;
mod script;
mod server;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use agent::{Agent, Ask, Call, Machine};
use audit::Audit;
use balancers::Process;
use messages::{Event, Message};
use network::{
    CLIENT_END, Host, Network, OUTSIDE, Pipe, Purpose, RESEND_FIRST_MS, RESEND_LAST_MS, SERVER,
    SERVER_END, Stream,
};
use script::{Rollout, Step};
use server::Server;

/// Seeds of failures that were found: they run always. What they showed when they were found:
/// 0: the fence was lifted without the server, in front of a pod that had been replaced.
/// 3, 151: the brake let go, and a pod was evicted where it served on account of what had been true before.
/// 171: a node that another had just reached was evicted before it could know that nobody does any more.
/// 242: a node was more patient with itself than the server, which had not heard how late it was.
/// 545, 585: a node served on by the word of another that was cut off with it.
/// 100545, 100833: a node slept while it was replaced, and served on by the word of others when the server was gone since, or cut off from it.
/// 100570: an agent that was started anew knew nothing of the time before.
/// 200146: a server that had just started took nodes that it had not heard yet for alive, and let go of its brake.
/// 200244: a fence was lifted by the word of one whom the server still counted among the living when it replaced.
/// 200285: as that, and the server heard him for seconds: only what he heard was cut.
/// 300367: an agent that was never heard said that it was when it started, and others took it for one that reaches the server.
/// 300285, 300990: the server was patient after a stall and asked others late, and a node served on by their word, which it had not heard.
/// 202797: a node that heard nothing told another that the server is gone, and its beats told the server that it need not brake.
/// 300969, 400530, 402682, 408464: a node that heard nothing lived by the word of another before it fell silent, and nobody was asked.
/// 404656, 410764: one that had just answered a node did not reach it, and told the server so.
/// 404718, 408356: a drain did not wait for a load balancer that had not come back to a new server, and did not name it.
/// 1024147, 1024815: the simulation gave an agent less time when its machine was frozen while it started.
/// 405571: a node was replaced because it had been found fenced, and lifted its fence because the server had looked gone.
/// 412575: Endpoints were written with a pod, as decided before its deletion, when its drain had found that none have it.
const REGRESSIONS: &[u64] = &[
    0, 3, 151, 171, 242, 545, 585, 100_545, 100_570, 100_833, 200_146, 200_244, 200_285, 202_797,
    300_285, 300_367, 300_969, 300_990, 400_530, 402_682, 404_656, 404_718, 405_571, 408_356,
    408_464, 410_764, 412_575, 1_024_147, 1_024_815,
];
/// So many others run by default.
const SEEDS: u64 = 60;
/// A dial that nobody answers is tried again after so long.
const DIAL_AGAIN_MS: u64 = 1000;
/// So many lines are shown of what came before a failure.
const LINES: usize = 120;

struct Simulation {
    epoch: Instant,
    now_ms: u64,
    /// By time and number: what happens, and when it was due.
    queue: BTreeMap<(u64, u64), (u64, Event)>,
    number: u64,
    /// What waits for a machine to thaw.
    deferred: BTreeMap<Host, Vec<(u64, Event)>>,
    rng: StdRng,
    network: Arc<Mutex<Network>>,
    streams: BTreeMap<u64, Stream>,
    asks: BTreeMap<u64, Ask>,
    calls: BTreeMap<u64, Call>,
    server: Server,
    machines: BTreeMap<Host, Machine>,
    /// By the host they run on.
    balancers: Vec<Process>,
    /// The controller that serves, and the update that replaces it.
    web: String,
    rollout: Option<Rollout>,
    audit: Audit,
    violation: Option<String>,
    lines: VecDeque<String>,
    events: u64,
    over: bool,
}

/// What will happen, and when, to a cluster of so many machines.
type Plan = fn(&mut StdRng, usize) -> Vec<(u64, Step)>;

/// What a run came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    events: u64,
    evictions: usize,
    connected: usize,
    refused: usize,
    simulated_ms: u64,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.evictions += other.evictions;
        self.connected += other.connected;
        self.refused += other.refused;
        self.simulated_ms += other.simulated_ms;
    }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let workers = rng.random_range(2..5);
        let hosts = workers + 2;
        let epoch = Instant::now();
        let machine = |host: Host| {
            let others = workers - usize::from(host != SERVER);
            let agent = Agent::new(epoch, None, others);
            let machine = Machine {
                boot: 1,
                sandboxes: BTreeMap::new(),
                checkpoint: BTreeMap::new(),
                addresses: 0,
                kept: None,
                up: false,
                life: 1,
                agent,
            };
            (host, machine)
        };
        let mut simulation = Self {
            epoch,
            now_ms: 0,
            queue: BTreeMap::new(),
            number: 0,
            deferred: BTreeMap::new(),
            rng,
            network: Arc::new(Mutex::new(Network::new(seed, hosts))),
            streams: BTreeMap::new(),
            asks: BTreeMap::new(),
            calls: BTreeMap::new(),
            server: Server::new(epoch, workers),
            machines: (SERVER..hosts).map(machine).collect(),
            balancers: Vec::new(),
            web: "web".to_owned(),
            rollout: None,
            audit: Audit::default(),
            violation: None,
            lines: VecDeque::new(),
            events: 0,
            over: false,
        };
        simulation.balancers = (OUTSIDE..hosts)
            .map(|host| Process::new(&simulation, host))
            .collect();
        simulation
    }

    async fn run(mut self, plan: Plan) -> Result<Outcome, (String, Vec<String>)> {
        self.boot();
        let replicas = self.rng.random_range(1..5);
        self.server.store.service();
        self.create("web", replicas);
        let hosts = self.hosts();
        for (at, step) in plan(&mut self.rng, hosts) {
            self.at(at, Event::Script(step));
        }
        while !self.over {
            let ((at, _), (due, event)) =
                self.queue.pop_first().expect("somebody always looks again");
            if at > self.now_ms {
                tokio::time::sleep_until(self.instant(at)).await;
                self.now_ms = at;
            } else {
                tokio::task::yield_now().await;
            }
            self.events += 1;
            self.happens(due, event);
            self.check();
            if let Some(violation) = self.violation.take() {
                return Err((violation, self.lines.into()));
            }
        }
        let [connected, refused] = self.network().connects;
        let (events, evictions) = (self.events, self.audit.evictions);
        Ok(Outcome {
            events,
            evictions,
            connected,
            refused,
            simulated_ms: self.now_ms,
        })
    }

    /// All machines, the one outside among them.
    fn hosts(&self) -> usize {
        self.machines.len() + 1
    }

    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn instant(&self, ms: u64) -> Instant {
        self.epoch + Duration::from_millis(ms)
    }

    fn ms_of(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.epoch);
        u64::try_from(since.as_micros().div_ceil(1000)).expect("short")
    }

    fn random(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.rng.random_range(range)
    }

    fn fresh(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn note(&mut self, line: String) {
        if self.lines.len() >= LINES {
            self.lines.pop_front();
        }
        self.lines
            .push_back(format!("{:>7} ms  {line}", self.now_ms));
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    fn at(&mut self, ms: u64, event: Event) {
        self.enqueue(ms, ms, event);
    }

    fn enqueue(&mut self, at_ms: u64, due_ms: u64, event: Event) {
        let number = self.fresh();
        self.queue
            .insert((at_ms.max(self.now_ms), number), (due_ms, event));
    }

    /// The machine that an event happens on: while that is frozen, the event waits.
    fn place(&self, event: &Event) -> Option<Host> {
        match event {
            Event::Pump { stream, end } | Event::Reset { stream, end } => {
                let client = self.streams.get(stream)?.client;
                Some(if *end == SERVER_END { SERVER } else { client })
            }
            Event::Dial { host, .. }
            | Event::Beat { host, .. }
            | Event::Fence { host, .. }
            | Event::Worker { host, .. }
            | Event::Worked { host, .. }
            | Event::Container { host, .. } => Some(*host),
            Event::AskLeaves(ask) | Event::AskEnds { ask, .. } => self.asker(*ask),
            Event::CallLeaves(call) | Event::CallEnds { call, .. } => {
                self.calls.get(call).map(|call| call.from)
            }
            Event::CallArrives(_)
            | Event::CallReturns { .. }
            | Event::Detect { .. }
            | Event::Reconcile { .. }
            | Event::Write { .. }
            | Event::Barrier { .. }
            | Event::TunnelOver { .. } => Some(SERVER),
            Event::Report { balancer, .. }
            | Event::Client { balancer, .. }
            | Event::Rules { balancer, .. } => Some(self.balancers[*balancer].host),
            Event::AskArrives(_) | Event::Script(_) => None,
        }
    }

    fn happens(&mut self, due_ms: u64, event: Event) {
        if let Some(host) = self.place(&event)
            && self.network().frozen[host]
        {
            self.deferred.entry(host).or_default().push((due_ms, event));
            return;
        }
        let server = |life: u64| self.server.up && life == self.server.life;
        let agent =
            |host: Host, life: u64| self.machines[&host].up && life == self.machines[&host].life;
        let balancer = |index: usize, life: u64| {
            self.balancers[index].up && life == self.balancers[index].life
        };
        match event {
            Event::Pump { stream, end } => self.pump(stream, end),
            Event::Reset { stream, end } => self.reset(stream, end),
            Event::Dial {
                host,
                purpose,
                life,
            } => self.dial(host, purpose, life),
            Event::Beat { host, stream } => self.beat(host, stream, due_ms),
            Event::Fence { host, life } if agent(host, life) => self.fence(host, life),
            Event::Worker { host, life, uid } if agent(host, life) => {
                let due = self.machines[&host]
                    .agent
                    .workers
                    .get(&uid)
                    .and_then(|worker| worker.observed.deletion);
                if due.is_some_and(|deletion| deletion.drained_by() <= Instant::now()) {
                    self.drained(host, &uid, None);
                }
                self.worker_turn(host, &uid);
            }
            Event::Worked {
                host,
                life,
                uid,
                work,
            } if agent(host, life) => self.worked(host, &uid, work),
            Event::Container {
                host,
                boot,
                uid,
                instance,
                deed,
            } if self.machines[&host].boot == boot => {
                self.container(host, &uid, instance, deed);
            }
            Event::AskLeaves(ask) => self.ask_leaves(ask),
            Event::AskArrives(ask) => self.ask_arrives(ask),
            Event::AskEnds { ask, found } => self.ask_ends(ask, found),
            Event::CallLeaves(call) => self.call_leaves(call),
            Event::CallArrives(call) => self.call_arrives(call),
            Event::CallReturns { call, reply } => self.call_returns(call, reply),
            Event::CallEnds { call, reply } => self.call_ends(call, reply),
            Event::Report {
                balancer: index,
                life,
                stream,
                regular,
            } if balancer(index, life) => {
                self.report(index, stream, regular);
            }
            Event::Client {
                balancer: index,
                life,
            } if balancer(index, life) => self.client(index),
            Event::Rules {
                balancer: index,
                life,
            } if balancer(index, life) => self.old_rules(index),
            Event::Detect { life } if server(life) => self.detect(life),
            Event::Reconcile { life } if server(life) => self.reconcile(life),
            Event::Write { life, actions } if server(life) => self.write(actions),
            Event::Barrier { life } if server(life) => self.barrier_turn(),
            Event::TunnelOver { life, stream } if server(life) => self.tunnel_over(stream),
            Event::Script(step) => self.step(step),
            _ => {}
        }
    }

    /// A client dials the server.
    fn dial(&mut self, host: Host, purpose: Purpose, life: u64) {
        let now_life = match purpose {
            Purpose::Tunnel | Purpose::Pods => self.machines[&host].life,
            Purpose::Reports(index) | Purpose::Endpoints(index) => self.balancers[index].life,
        };
        if now_life != life {
            return;
        }
        let answers =
            !self.network().frozen[SERVER] && self.network().round_trip(host, SERVER).is_some();
        if !answers || !self.server.up {
            self.after(
                DIAL_AGAIN_MS,
                Event::Dial {
                    host,
                    purpose,
                    life,
                },
            );
            return;
        }
        let number = self.fresh();
        let stream = Stream {
            purpose,
            client: host,
            open: [true; 2],
            pipes: [Pipe::default(), Pipe::default()],
            heard_ms: [self.now_ms; 2],
            pushed: None,
        };
        self.streams.insert(number, stream);
        match purpose {
            Purpose::Tunnel | Purpose::Pods => self.agent_dialled(host, number, purpose),
            Purpose::Reports(index) | Purpose::Endpoints(index) => {
                self.balancer_dialled(index, number, purpose)
            }
        }
        self.accepted(number, purpose, host);
    }

    /// Sends from an end of a connection.
    fn send(&mut self, number: u64, from_end: usize, message: Message) {
        if self
            .streams
            .get(&number)
            .is_some_and(|stream| stream.open[from_end])
        {
            self.push(number, from_end, message);
        }
    }

    fn push(&mut self, number: u64, from_end: usize, message: Message) {
        let to_end = 1 - from_end;
        let now_ms = self.now_ms;
        let (from, to) = self.ends(number, from_end);
        let delay_ms = self.network().links[from][to].delay_ms;
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let pipe = &mut stream.pipes[to_end];
        let ready = pipe
            .queue
            .back()
            .map_or(0, |(ready, _)| *ready)
            .max(now_ms + if from == to { 0 } else { delay_ms });
        pipe.queue.push_back((ready, message));
        if !std::mem::replace(&mut pipe.pumping, true) {
            self.at(
                ready,
                Event::Pump {
                    stream: number,
                    end: to_end,
                },
            );
        }
    }

    /// The machines at an end of a connection, and at the other.
    fn ends(&self, number: u64, end: usize) -> (Host, Host) {
        let client = self
            .streams
            .get(&number)
            .map_or(SERVER, |stream| stream.client);
        if end == CLIENT_END {
            (client, SERVER)
        } else {
            (SERVER, client)
        }
    }

    /// What is on its way to an end arrives, or is sent again later.
    fn pump(&mut self, number: u64, end: usize) {
        let (to, from) = self.ends(number, end);
        let passes = self.network().passes(from, to).is_some();
        let now_ms = self.now_ms;
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        let pipe = &mut stream.pipes[end];
        if !passes {
            pipe.resend_ms = (pipe.resend_ms * 2).clamp(RESEND_FIRST_MS, RESEND_LAST_MS);
            let after = pipe.resend_ms;
            if stream.open == [false; 2] {
                self.streams.remove(&number);
                return;
            }
            self.after(
                after,
                Event::Pump {
                    stream: number,
                    end,
                },
            );
            return;
        }
        pipe.resend_ms = 0;
        let mut arrived = Vec::new();
        while pipe
            .queue
            .front()
            .is_some_and(|(ready, _)| *ready <= now_ms)
        {
            arrived.extend(pipe.queue.pop_front().map(|(_, message)| message));
        }
        pipe.pumping = !pipe.queue.is_empty();
        let next = pipe.queue.front().map(|(ready, _)| *ready);
        if let Some(next) = next {
            self.at(
                next,
                Event::Pump {
                    stream: number,
                    end,
                },
            );
        }
        for message in arrived {
            self.arrives(number, end, message);
        }
    }

    fn arrives(&mut self, number: u64, end: usize, message: Message) {
        let Some(stream) = self.streams.get_mut(&number) else {
            return;
        };
        if !stream.open[end] {
            // A reset, if the other end still cares.
            if stream.open[1 - end] {
                self.after(
                    1,
                    Event::Reset {
                        stream: number,
                        end: 1 - end,
                    },
                );
            } else {
                self.streams.remove(&number);
            }
            return;
        }
        if matches!(message, Message::End) {
            self.reset(number, end);
            return;
        }
        stream.heard_ms[end] = self.now_ms;
        let (purpose, client) = (stream.purpose, stream.client);
        if end == SERVER_END {
            self.server_hears(number, client, message);
            return;
        }
        match purpose {
            Purpose::Tunnel | Purpose::Pods => self.agent_hears(client, number, message),
            Purpose::Reports(index) | Purpose::Endpoints(index) => {
                self.balancer_hears(index, message)
            }
        }
    }

    /// An end learns that the other is closed.
    fn reset(&mut self, number: u64, end: usize) {
        let Some(stream) = self
            .streams
            .get_mut(&number)
            .filter(|stream| stream.open[end])
        else {
            return;
        };
        stream.open[end] = false;
        let (purpose, client) = (stream.purpose, stream.client);
        if end == SERVER_END {
            self.server_lost(number);
            return;
        }
        match purpose {
            Purpose::Tunnel | Purpose::Pods => self.agent_lost(client, number),
            Purpose::Reports(index) | Purpose::Endpoints(index) => {
                self.balancer_lost(index, number)
            }
        }
    }

    /// An end closes the connection; the other learns of it when the network lets it.
    fn close(&mut self, number: u64, end: usize) {
        let Some(stream) = self
            .streams
            .get_mut(&number)
            .filter(|stream| stream.open[end])
        else {
            return;
        };
        stream.open[end] = false;
        stream.pipes[end].queue.clear();
        self.push(number, end, Message::End);
        if end == SERVER_END {
            self.server_lost(number);
        }
    }
}

/// Runs a seed to its end; what was violated, and what came before it.
fn run(seed: u64, plan: Plan) -> Result<Outcome, (String, Vec<String>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing");
    let simulated = || runtime.block_on(async { Simulation::new(seed).run(plan).await });
    // An assertion of production's that fails is a finding, too, and needs its seed.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(simulated)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Err((
            format!("panicked: {}", text.unwrap_or_default()),
            Vec::new(),
        ))
    })
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    match (
        number("FLIGHTCAGE_SIM_SEED"),
        number("FLIGHTCAGE_SIM_SEEDS"),
    ) {
        (Some(first), count) => (first..first + count.unwrap_or(1)).collect(),
        (None, count) => REGRESSIONS
            .iter()
            .copied()
            .chain(0..count.unwrap_or(SEEDS))
            .collect(),
    }
}

#[test]
fn invariants_hold_whatever_happens() {
    let (mut total, mut failed) = (Outcome::default(), Vec::new());
    let seeds = seeds();
    for seed in &seeds {
        match run(*seed, script::plan) {
            Ok(outcome) => total.add(&outcome),
            Err((violation, lines)) => failed.push((*seed, violation, lines)),
        }
    }
    if let Some((seed, _, lines)) = failed.first() {
        let violations: Vec<String> = failed
            .iter()
            .map(|(seed, violation, _)| format!("seed {seed}: {violation}"))
            .collect();
        panic!(
            "{} of {} seeds failed\n{}\nbefore that of seed {seed}:\n{}\nagain: FLIGHTCAGE_SIM_SEED={seed} cargo test --lib simulation::whole",
            failed.len(),
            seeds.len(),
            violations.join("\n"),
            lines.join("\n"),
        );
    }
    assert!(
        seeds.len() < 10 || total.evictions > 0 && total.connected > 1000,
        "the simulation does not bite: {total:?}"
    );
}

#[test]
fn a_seed_repeats() {
    let once = run(7, script::plan).map_err(|(violation, _)| violation);
    assert_eq!(
        once,
        run(7, script::plan).map_err(|(violation, _)| violation)
    );
}

/// Fail static: whatever agents and nodes go through meanwhile, without the server nothing is replaced, so nobody has to be fenced.
#[test]
fn nobody_is_fenced_while_the_server_is_gone() {
    for seed in 0..SEEDS {
        match run(seed, script::without_server) {
            Ok(outcome) => assert_eq!(outcome.evictions, 0, "seed {seed}"),
            Err((violation, lines)) => panic!("seed {seed}: {violation}\n{}", lines.join("\n")),
        }
    }
}

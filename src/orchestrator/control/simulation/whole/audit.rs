//! What must hold after every event, and in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Simulation;
use super::balancers::service_port;
use super::messages::Event;
use super::network::{Host, SERVER};
use super::script::{FAULTS_END_MS, Step};
use super::server::{host_of_node, node_name};
use crate::orchestrator::control::world::{Liveness, is_active, ready_since};
use crate::orchestrator::tunnel::PeerAnswer;

/// When faults have ended, everything is as it should be within so long.
const CONVERGES_WITHIN_MS: u64 = 90_000;
const LOOK_EVERY_MS: u64 = 500;
/// What a finding of a node counts for, as the detector has it, with the time it takes to find it.
const FINDING_COUNTS_MS: u64 = 2_600;

/// Books that are kept apart from what is audited.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// When nodes beat last.
    pub(super) beats: BTreeMap<String, u64>,
    /// Who found what of whom, and when that was heard.
    findings: Vec<(u64, String, String, PeerAnswer)>,
    bound: BTreeMap<String, String>,
    /// Pods that were evicted, and from where.
    evicted: BTreeMap<String, Host>,
    /// Until when a node that thawed, or whose agent started, has time to fence itself.
    pub(super) excused_until: BTreeMap<Host, u64>,
    pub(super) evictions: usize,
    /// No node has a reason to fence itself.
    pub(super) nobody_fences: bool,
}

impl Audit {
    pub(super) fn testified(
        &mut self,
        now_ms: u64,
        suspect: &str,
        observer: &str,
        answer: PeerAnswer,
    ) {
        self.findings
            .push((now_ms, suspect.to_owned(), observer.to_owned(), answer));
    }
}

impl Simulation {
    pub(super) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(super) fn audit_bind(&mut self, uid: &str, node: &str) {
        if let Some(before) = self.audit.bound.insert(uid.to_owned(), node.to_owned()) {
            self.violated(format!("{uid} is bound to {node}, and was to {before}"));
        }
    }

    /// A node is lost only when another found silence, since it beat last, and only while the brake allows it.
    pub(super) fn audit_liveness(&mut self, before: &BTreeMap<String, Liveness>) {
        let lost: Vec<String> = self
            .server
            .memory
            .liveness
            .iter()
            .filter(|(node, now)| {
                **now == Liveness::Lost && before.get(*node) != Some(&Liveness::Lost)
            })
            .map(|(node, _)| node.clone())
            .collect();
        for node in lost {
            let since = self.audit.beats.get(&node).copied().unwrap_or(0);
            let corroborated = self
                .audit
                .findings
                .iter()
                .any(|(at, suspect, observer, answer)| {
                    *suspect == node
                        && *observer != node
                        && *at >= since
                        && self.now_ms - at <= FINDING_COUNTS_MS
                        && matches!(answer, PeerAnswer::Silent | PeerAnswer::Fenced)
                });
            if !corroborated {
                self.violated(format!("{node} is lost, and nobody found it silent"));
            }
        }
    }

    /// A pod is evicted only from a lost node, and only when it serves nobody there.
    pub(super) fn audit_evict(&mut self, uid: &str, node: &str) {
        let host = host_of_node(node);
        let liveness = &self.server.memory.liveness;
        let workers = self.hosts() - SERVER - 1;
        let silent = liveness
            .iter()
            .filter(|(node, liveness)| *node != "c1" && **liveness != Liveness::Alive)
            .count();
        if liveness.get(node) != Some(&Liveness::Lost) {
            self.violated(format!("{uid} is evicted from {node}, which is not lost"));
        }
        if silent == workers || silent > 1 && silent * 2 > workers {
            self.violated(format!(
                "{uid} is evicted from {node} though {silent} of {workers} workers are silent"
            ));
        }
        self.audit.evictions += 1;
        self.audit.evicted.insert(uid.to_owned(), host);
        if self.serves(uid, host) {
            self.violated(format!("{uid} is evicted from {node}, where it serves"));
        }
    }

    /// Whether a pod serves clients on a node that has no excuse.
    fn serves(&self, uid: &str, host: Host) -> bool {
        let machine = &self.machines[&host];
        let Some(sandbox) = machine
            .sandboxes
            .get(uid)
            .filter(|sandbox| !sandbox.stopping)
        else {
            return false;
        };
        let network = self.network();
        let listens = network
            .pods
            .get(&sandbox.address)
            .is_some_and(|pod| pod.listening && pod.uid == uid);
        let leaves = machine
            .agent
            .workers
            .get(uid)
            .is_some_and(|worker| worker.observed.deletion.is_some());
        let excused = !machine.up
            || self
                .audit
                .excused_until
                .get(&host)
                .is_some_and(|until| self.now_ms < *until);
        listens
            && !leaves
            && !excused
            && !network.off[host]
            && !network.frozen[host]
            && !network.fenced[host]
    }

    /// An agent stops only what is to go.
    pub(super) fn audit_stop(&mut self, host: Host, uid: &str, wanted: bool) {
        let pods = &self.server.store.world.pods;
        let there = pods
            .values()
            .find(|pod| pod.metadata.uid.as_deref() == Some(uid));
        if !wanted || there.is_some_and(|pod| is_active(pod)) {
            self.violated(format!("{} stops {uid}, which is to run", node_name(host)));
        }
    }

    /// After every event.
    pub(super) fn check(&mut self) {
        let dialled = self.network().violation.take();
        if let Some(violation) = dialled {
            self.violated(violation);
        }
        let mut owners: BTreeSet<&String> = BTreeSet::new();
        let mut found = None;
        for (host, machine) in &self.machines {
            for uid in machine.sandboxes.keys() {
                if !owners.insert(uid) {
                    found = Some(format!(
                        "{uid} is on {} and on another node",
                        node_name(*host)
                    ));
                }
            }
        }
        for (uid, host) in &self.audit.evicted {
            if self.serves(uid, *host) {
                found = Some(format!(
                    "{uid} was replaced, and serves on {}",
                    node_name(*host)
                ));
            }
        }
        {
            let network = self.network();
            let key = service_port();
            for (address, stopped) in &network.stopped {
                if network
                    .pods
                    .get(address)
                    .is_some_and(|pod| pod.uid != stopped.uid)
                {
                    continue;
                }
                let to = (IpAddr::V4(*address), 8080).into();
                for process in self
                    .balancers
                    .iter()
                    .filter(|process| process.up && !stopped.excused.contains(&process.name))
                {
                    if process.balancer.confirmed(&key, to)
                        || process.balancer.open_connections(&key, to) > 0
                    {
                        found = Some(format!(
                            "{} has {address} of {}, which was drained",
                            process.name, stopped.uid
                        ));
                    }
                }
            }
        }
        if let Some(found) = found {
            self.violated(found);
        }
    }

    /// Looks again until everything is as it should be, and fails when that takes too long.
    pub(super) fn look_converged(&mut self) {
        match self.differs() {
            None => self.over = true,
            Some(why) if self.now_ms > FAULTS_END_MS + CONVERGES_WITHIN_MS => {
                self.violated(format!("it does not converge: {why}"));
            }
            Some(_) => self.after(LOOK_EVERY_MS, Event::Script(Step::Converged)),
        }
    }

    /// What is not yet as it should be.
    fn differs(&self) -> Option<String> {
        if self.rollout.is_some() {
            return Some("an update is under way".to_owned());
        }
        if let Some((node, liveness)) = self
            .server
            .memory
            .liveness
            .iter()
            .find(|(_, liveness)| **liveness != Liveness::Alive)
        {
            return Some(format!("{node} is {liveness:?}"));
        }
        let world = &self.server.store.world;
        let wanted = usize::try_from(self.replicas(&self.web)).expect("not negative");
        let pods: BTreeSet<&str> = world
            .pods
            .values()
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        let ready = world
            .pods
            .values()
            .filter(|pod| is_active(pod) && ready_since(pod).is_some())
            .count();
        if (pods.len(), ready) != (wanted, wanted) {
            return Some(format!(
                "{} pods, {ready} ready, {wanted} wanted",
                pods.len()
            ));
        }
        let run: BTreeSet<&str> = self
            .machines
            .values()
            .flat_map(|machine| machine.sandboxes.keys().map(String::as_str))
            .collect();
        if run != pods {
            return Some(format!("{run:?} run, {pods:?} are to"));
        }
        if let Some((host, machine)) = self
            .machines
            .iter()
            .find(|(_, machine)| machine.agent.fence_up != Some(false))
        {
            return Some(format!(
                "the fence of {} is {:?}",
                node_name(*host),
                machine.agent.fence_up
            ));
        }
        let key = service_port();
        for process in &self.balancers {
            let endpoints = process
                .table
                .ports
                .get(&key)
                .map(|port| port.endpoints.clone())
                .unwrap_or_default();
            if endpoints.len() != wanted
                || !endpoints
                    .iter()
                    .all(|endpoint| process.balancer.confirmed(&key, endpoint.addr))
            {
                return Some(format!("{} knows {endpoints:?}", process.name));
            }
        }
        None
    }
}

//! The drain barrier: when may a pod that is to stop be told so?
//!
//! ```text
//!  agent: drain P ──► P leaves every Endpoints object (controllers) ──► required = newest revision of Endpoints
//!                 ──► every balancer has applied `required`, and none has a connection to P ──► agent: P is drained
//! ```
//! Controllers may be writing what they decided before the drain began: until they have, Endpoints say nothing about the pod.
//! A balancer that has said nothing for [`LAPSED_AFTER`] is not waited for, and is named in the answer. The agent bounds the
//! whole by the pod's grace period. All of it is in memory: agents and balancers say it again to a server that starts anew, and
//! until [`START_GRACE`] is over, a balancer that has not been heard of yet is waited for.
//!
//! [`State`] is pure: time comes in as an argument. [`Barrier`] shares it between the streams.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::balancer::report::{Orders, Report};

/// A balancer that is silent for so long holds up no drain: six reports, and longer than a busy machine stalls.
pub const LAPSED_AFTER: Duration = Duration::from_secs(3);
/// After the server's start, balancers have so long to come back.
pub const START_GRACE: Duration = Duration::from_secs(5);

/// The host's load balancer, by its certificate. It is on no node, so nothing but its own report tells a server that there is one: until then
/// it may be cut off from a server that was started anew, and is waited for and named as a silent one.
pub const LOAD_BALANCER: &str = "system:flightcage:load-balancer";

/// A pod that is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Drain {
    address: Option<Ipv4Addr>,
    /// The tunnels that asked for it: a node's old one may end after its new one has asked again.
    tunnels: BTreeSet<u64>,
    /// The revision that every balancer has to pass; `None` while an Endpoints object still has the pod.
    required: Option<u64>,
    /// Controllers that decided before they could know of it are still writing: what they write may have the pod.
    overtakes: bool,
}

#[derive(Debug, Clone)]
struct Balancer {
    heard: Instant,
    report: Report,
}

/// How a drain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not yet; why, and when to look again even if nothing changes.
    Waiting {
        /// For people.
        reason: String,
        /// When silence changes the answer.
        recheck: Option<Instant>,
    },
    /// The pod may be told to stop.
    Drained {
        /// Balancers that were not waited for, because they are silent.
        excluded: Vec<String>,
    },
}

/// Who balances, what they said last, and what drains.
#[derive(Debug)]
pub struct State {
    started: Instant,
    balancers: BTreeMap<String, Balancer>,
    /// Nodes there are: each has a service proxy.
    nodes: BTreeSet<String>,
    drains: BTreeMap<String, Drain>,
    /// The controllers have looked at the objects, and have not written yet what follows.
    deciding: bool,
    silent_nodes: BTreeSet<String>,
    dead_nodes: BTreeSet<String>,
}

/// The name of a node's service proxy.
fn proxy_of(node: &str) -> String {
    format!("system:kube-proxy:{node}")
}

impl State {
    /// Nothing known yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            started: now,
            balancers: BTreeMap::new(),
            nodes: BTreeSet::new(),
            drains: BTreeMap::new(),
            deciding: false,
            silent_nodes: BTreeSet::new(),
            dead_nodes: BTreeSet::new(),
        }
    }

    /// A balancer reports. Returns whether it says anything else than before: that it lives is no news.
    pub fn heard(&mut self, balancer: &str, report: Report, now: Instant) -> bool {
        let before = self.balancers.get(balancer).map(|before| &before.report);
        let news = before != Some(&report);
        self.balancers
            .insert(balancer.to_owned(), Balancer { heard: now, report });
        news
    }

    /// These nodes there are. A balancer of a node that is gone is forgotten.
    pub fn set_nodes(&mut self, nodes: BTreeSet<String>) {
        for gone in self.nodes.difference(&nodes) {
            self.balancers.remove(&proxy_of(gone));
        }
        self.nodes = nodes;
    }

    /// The nodes there are.
    #[must_use]
    pub fn nodes(&self) -> &BTreeSet<String> {
        &self.nodes
    }

    /// A pod is to stop, says a tunnel; said again, nothing changes.
    pub fn begin(&mut self, pod_uid: &str, address: Option<Ipv4Addr>, tunnel: u64) {
        let overtakes = self.deciding;
        let new = || Drain {
            address,
            tunnels: BTreeSet::new(),
            required: None,
            overtakes,
        };
        let drain = self.drains.entry(pod_uid.to_owned()).or_insert_with(new);
        drain.address = address;
        drain.tunnels.insert(tunnel);
    }

    /// The pod has stopped, or its tunnel has ended.
    pub fn end(&mut self, pod_uid: &str, tunnel: u64) {
        let Some(drain) = self.drains.get_mut(pod_uid) else {
            return;
        };
        drain.tunnels.remove(&tunnel);
        if drain.tunnels.is_empty() {
            self.drains.remove(pod_uid);
        }
    }

    /// The controllers are about to look at the objects. A pod that is to stop from now on may be in what they write afterwards.
    pub fn deciding(&mut self) {
        self.deciding = true;
    }

    /// They have written. Returns whether a drain had to wait for that.
    pub fn decided(&mut self) -> bool {
        self.deciding = false;
        let overtaking = self.drains.values_mut().filter(|drain| drain.overtakes);
        overtaking.map(|drain| drain.overtakes = false).count() > 0
    }

    /// Drains of which it can be found now whether an Endpoints object has the pod.
    pub fn unsettled(&self) -> Vec<(String, Option<Ipv4Addr>)> {
        let open = self
            .drains
            .iter()
            .filter(|(_, drain)| drain.required.is_none() && !drain.overtakes);
        open.map(|(uid, drain)| (uid.clone(), drain.address))
            .collect()
    }

    /// No Endpoints object has the pod any more since `revision` at the latest.
    pub fn left(&mut self, pod_uid: &str, revision: u64) {
        if let Some(drain) = self.drains.get_mut(pod_uid) {
            drain.required.get_or_insert(revision);
        }
    }

    /// Addresses that drain, and by which drains.
    pub fn settled(&self) -> Vec<(String, Ipv4Addr)> {
        let settled = self
            .drains
            .iter()
            .filter(|(_, drain)| drain.required.is_some());
        settled
            .filter_map(|(uid, drain)| Some((uid.clone(), drain.address?)))
            .collect()
    }

    /// An Endpoints object has the address again: somebody else's now, and no balancer may drain it.
    pub fn returned(&mut self, pod_uid: &str) {
        if let Some(drain) = self.drains.get_mut(pod_uid) {
            drain.required = None;
        }
    }

    /// What balancers are to do. An address drains once no Endpoints object has it: so a node cannot touch another's pods.
    #[must_use]
    pub fn orders(&self) -> Orders {
        let left = self
            .drains
            .values()
            .filter(|drain| drain.required.is_some());
        let draining = left
            .filter_map(|drain| drain.address)
            .map(IpAddr::V4)
            .collect();
        Orders {
            draining,
            silent_nodes: self.silent_nodes.clone(),
            dead_nodes: self.dead_nodes.clone(),
        }
    }

    /// How a pod's drain stands; a pod of which nothing is known is drained.
    #[must_use]
    pub fn standing(&self, pod_uid: &str, now: Instant) -> Standing {
        let Some(drain) = self.drains.get(pod_uid) else {
            return Standing::Drained {
                excluded: Vec::new(),
            };
        };
        let Some(required) = drain.required else {
            return Standing::Waiting {
                reason: "it is still in Endpoints".to_owned(),
                recheck: None,
            };
        };
        let mut excluded = Vec::new();
        let mut reasons = Vec::new();
        let mut recheck: Option<Instant> = None;
        let host = std::iter::once(LOAD_BALANCER.to_owned());
        let expected = self
            .nodes
            .iter()
            .map(|node| proxy_of(node))
            .chain(self.balancers.keys().cloned())
            .chain(host);
        for name in expected.collect::<BTreeSet<_>>() {
            let (lapses, waits) = match self.balancers.get(&name) {
                None => (
                    self.started + START_GRACE,
                    Some(format!("{name} has not been heard of")),
                ),
                Some(Balancer { heard, report }) => (
                    *heard + LAPSED_AFTER,
                    waits_for(&name, report, required, drain.address),
                ),
            };
            if now >= lapses {
                excluded.push(name);
            } else if let Some(reason) = waits {
                reasons.push(reason);
                recheck = Some(recheck.map_or(lapses, |earlier| earlier.min(lapses)));
            }
        }
        if reasons.is_empty() {
            Standing::Drained { excluded }
        } else {
            Standing::Waiting {
                reason: reasons.join("; "),
                recheck,
            }
        }
    }
}

fn waits_for(
    name: &str,
    report: &Report,
    required: u64,
    address: Option<Ipv4Addr>,
) -> Option<String> {
    if report.applied < required {
        return Some(format!("{name} has not acknowledged that it left"));
    }
    let address = IpAddr::V4(address?);
    let open: usize = report
        .open
        .iter()
        .filter(|(addr, _)| addr.ip() == address)
        .map(|(_, count)| count)
        .sum();
    (open > 0).then(|| {
        format!(
            "{name} has {open} open connection{} to it",
            if open == 1 { "" } else { "s" }
        )
    })
}

/// The barrier, as agents' tunnels and balancers' streams share it.
#[derive(Debug)]
pub struct Barrier {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Default for Barrier {
    fn default() -> Self {
        Self {
            state: Mutex::new(State::new(Instant::now())),
            changes: watch::Sender::new(0),
        }
    }
}

impl Barrier {
    /// Looks at the state.
    pub fn look<T>(&self, at: impl FnOnce(&State) -> T) -> T {
        at(&self.state())
    }

    /// Changes the state and tells everybody who follows.
    pub fn change<T>(&self, by: impl FnOnce(&mut State) -> T) -> T {
        let result = by(&mut self.state());
        self.changes.send_modify(|count| *count += 1);
        result
    }

    /// A balancer reports; those that wait are woken if that may matter to them.
    pub fn heard(&self, balancer: &str, report: Report, now: Instant) {
        if self.state().heard(balancer, report, now) {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// The controllers are about to look at the objects.
    pub fn deciding(&self) {
        self.state().deciding();
    }

    /// The controllers have written what followed; whoever had to wait for that is woken.
    pub fn decided(&self) {
        if self.state().decided() {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// These nodes are silent, as far as failure detection can tell: balancers avoid them, which is reversible. `dead` are those of
    /// them whose open connections are given up, which is not.
    pub fn set_silent_nodes(&self, silent: BTreeSet<String>, dead: BTreeSet<String>) {
        if self.look(|state| state.silent_nodes != silent || state.dead_nodes != dead) {
            self.change(|state| (state.silent_nodes, state.dead_nodes) = (silent, dead));
        }
    }

    /// Tells of every change; the number only grows.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the pod is drained. `waiting` is told why not, whenever the reason changes. Returns the balancers that were not
    /// waited for.
    pub async fn drained(&self, pod_uid: &str, mut waiting: impl FnMut(&str)) -> Vec<String> {
        let mut changes = self.subscribe();
        let mut told = String::new();
        loop {
            changes.borrow_and_update();
            match self.look(|state| state.standing(pod_uid, Instant::now())) {
                Standing::Drained { excluded } => return excluded,
                Standing::Waiting { reason, recheck } => {
                    if reason != told {
                        waiting(&reason);
                        told = reason;
                    }
                    let silence = async {
                        match recheck {
                            Some(at) => tokio::time::sleep_until(at).await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        // The sender lives as long as `self`.
                        _ = changes.changed() => {}
                        () = silence => {}
                    }
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 2);

    struct Case {
        state: State,
        start: Instant,
    }

    impl Case {
        fn new() -> Self {
            let start = Instant::now();
            let mut state = State::new(start);
            state.set_nodes(["w1", "w2"].map(str::to_owned).into());
            Self { state, start }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn report(&mut self, at_ms: u64, name: &str, applied: u64, open: usize) {
            let open = if open == 0 {
                BTreeMap::new()
            } else {
                [((POD, 80).into(), open), ((POD, 443).into(), 1)].into()
            };
            let now = self.at(at_ms);
            self.state.heard(name, Report { applied, open }, now);
        }

        fn reason(&self, at_ms: u64) -> String {
            match self.state.standing("p", self.at(at_ms)) {
                Standing::Waiting { reason, .. } => reason,
                Standing::Drained { excluded } => format!("drained without {excluded:?}"),
            }
        }
    }

    #[test]
    fn a_pod_drains_when_all_have_applied_its_leaving_and_none_is_connected() {
        let mut case = Case::new();
        case.report(0, "system:kube-proxy:w1", 6, 2);
        case.report(0, LOAD_BALANCER, 9, 0);
        case.state.begin("p", Some(POD), 1);
        assert!(case.state.orders().draining.is_empty());
        assert_eq!(case.reason(100), "it is still in Endpoints");
        assert_eq!(case.state.unsettled(), [("p".to_owned(), Some(POD))]);
        case.state.left("p", 7);
        case.state.left("p", 8);
        assert_eq!(case.state.orders().draining, [IpAddr::V4(POD)].into());
        assert!(case.state.unsettled().is_empty());
        let first = "system:kube-proxy:w1 has not acknowledged that it left; system:kube-proxy:w2 has not been heard of";
        assert_eq!(case.reason(100), first);
        case.report(200, "system:kube-proxy:w2", 7, 0);
        case.report(200, "system:kube-proxy:w1", 7, 2);
        assert_eq!(
            case.reason(200),
            "system:kube-proxy:w1 has 3 open connections to it"
        );
        case.report(300, "system:kube-proxy:w1", 7, 0);
        assert_eq!(case.reason(300), "drained without []");
        assert_eq!(case.state.settled(), [("p".to_owned(), POD)]);
        case.state.returned("p");
        assert!(case.state.orders().draining.is_empty() && case.state.settled().is_empty());
        assert_eq!(case.reason(300), "it is still in Endpoints");
        case.state.left("p", 7);
        case.state.end("p", 1);
        assert!(case.state.orders().draining.is_empty());
    }

    #[test]
    fn the_silent_are_not_waited_for_but_named() {
        let mut case = Case::new();
        case.state.begin("p", Some(POD), 1);
        case.state.left("p", 7);
        case.report(4000, "system:kube-proxy:w1", 6, 0);
        let Standing::Waiting { recheck, .. } = case.state.standing("p", case.at(4000)) else {
            panic!("it waits")
        };
        assert_eq!(
            recheck,
            Some(case.at(5000)),
            "the other one may still come back after the start"
        );
        assert_eq!(
            case.reason(6999),
            "system:kube-proxy:w1 has not acknowledged that it left"
        );
        let all = format!(
            r#"drained without ["{LOAD_BALANCER}", "system:kube-proxy:w1", "system:kube-proxy:w2"]"#
        );
        assert_eq!(case.reason(7000), all);
        case.report(7500, "system:kube-proxy:w1", 6, 0);
        assert_eq!(
            case.reason(7600),
            "system:kube-proxy:w1 has not acknowledged that it left",
            "it is back"
        );
        case.state.set_nodes(BTreeSet::new());
        assert_eq!(
            case.reason(7600),
            format!("drained without [{LOAD_BALANCER:?}]"),
            "with its node, its proxy is gone"
        );
    }

    #[test]
    fn a_server_that_starts_waits_for_the_hosts_load_balancer() {
        let mut case = Case::new();
        case.state.set_nodes(BTreeSet::new());
        case.state.begin("p", Some(POD), 1);
        case.state.left("p", 7);
        assert_eq!(
            case.reason(4999),
            format!("{LOAD_BALANCER} has not been heard of")
        );
        assert_eq!(
            case.reason(5000),
            format!("drained without [{LOAD_BALANCER:?}]"),
            "it may be cut off, or there may be none"
        );
    }

    #[test]
    fn what_controllers_decided_before_is_waited_for() {
        let mut case = Case::new();
        case.state.deciding();
        case.state.begin("p", Some(POD), 1);
        assert!(
            case.state.unsettled().is_empty(),
            "Endpoints with the pod may yet be written"
        );
        assert!(case.state.decided());
        assert_eq!(case.state.unsettled(), [("p".to_owned(), Some(POD))]);
        case.state.deciding();
        assert_eq!(
            case.state.unsettled(),
            [("p".to_owned(), Some(POD))],
            "what is decided now knows of it"
        );
        assert!(!case.state.decided(), "and nobody waited");
    }

    #[test]
    fn an_old_tunnel_ends_no_drain_of_the_new_one() {
        let mut case = Case::new();
        case.state.begin("p", Some(POD), 1);
        case.state.begin("p", Some(POD), 2);
        case.state.end("p", 1);
        assert_eq!(case.reason(100), "it is still in Endpoints");
        case.state.end("p", 2);
        assert_eq!(case.reason(100), "drained without []");
    }

    #[tokio::test]
    async fn waiters_see_every_change() {
        let barrier = Barrier::default();
        let report = |applied| Report {
            applied,
            ..Report::default()
        };
        barrier.change(|state| {
            state.heard(LOAD_BALANCER, report(0), Instant::now());
            state.begin("p", Some(POD), 1);
        });
        let reasons = Mutex::new(Vec::new());
        let waiting = barrier.drained("p", |reason| {
            reasons.lock().unwrap().push(reason.to_owned())
        });
        let leaving = async {
            let said = async |count| {
                while reasons.lock().unwrap().len() < count {
                    tokio::task::yield_now().await;
                }
            };
            said(1).await;
            barrier.change(|state| state.left("p", 1));
            said(2).await;
            barrier.heard(LOAD_BALANCER, report(1), Instant::now());
        };
        let (excluded, ()) = tokio::join!(waiting, leaving);
        assert!(excluded.is_empty());
        let left = format!("{LOAD_BALANCER} has not acknowledged that it left");
        assert_eq!(
            *reasons.lock().unwrap(),
            ["it is still in Endpoints".to_owned(), left]
        );
        assert!(
            barrier
                .drained("unknown", |_| unreachable!("it waits for nothing"))
                .await
                .is_empty()
        );
    }
}

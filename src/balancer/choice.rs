//! Which endpoint is tried first, and which next. Pure: time comes in as an argument.
//!
//! ```text
//!            connect succeeded            refused, or silent beside another
//!  new ───────────────────────► good ────────────────────────────────────────► penalised
//!                                 ▲                                                 │
//!                                 └──────────── a probe's connect succeeded ────────┘
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Endpoint;

/// Pause before the first probe of a penalised endpoint; each penalty soon after the last doubles it.
pub(super) const PENALTY_FIRST: Duration = Duration::from_millis(200);
/// The longest such pause.
const PENALTY_LAST: Duration = Duration::from_secs(2);
/// Good for so long, an endpoint's earlier penalties are forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// The endpoints of one Service port and what is known about each.
#[derive(Debug, Default)]
pub(super) struct Choice {
    members: Vec<Member>,
    next: usize,
}

#[derive(Debug)]
struct Member {
    addr: SocketAddr,
    node: Option<String>,
    confirmed: bool,
    penalised: bool,
    last_penalty: Option<(Instant, Duration)>,
    /// Connections that wait for it.
    pending: Arc<AtomicUsize>,
    /// Connections that were tried on it since it came into the set.
    tried: u64,
    /// Those of them that it refused, or for which another answered first, or nobody.
    failed: u64,
}

/// What is known about one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known<'a> {
    pub(super) addr: SocketAddr,
    pub(super) node: Option<&'a str>,
    pub(super) confirmed: bool,
    pub(super) penalised: bool,
    pub(super) waiting: usize,
    pub(super) tried: u64,
    pub(super) failed: u64,
}

impl Choice {
    /// Replaces the set and returns the members that are new and have to be confirmed.
    pub(super) fn replace(&mut self, endpoints: &[Endpoint]) -> Vec<SocketAddr> {
        self.members.retain(|member| {
            endpoints
                .iter()
                .any(|endpoint| endpoint.addr == member.addr)
        });
        let mut new = Vec::new();
        for Endpoint { addr, node } in endpoints {
            if let Some(member) = self.member(*addr) {
                member.node.clone_from(node);
            } else {
                self.members.push(Member {
                    addr: *addr,
                    node: node.clone(),
                    confirmed: false,
                    penalised: false,
                    last_penalty: None,
                    pending: Arc::default(),
                    tried: 0,
                    failed: 0,
                });
                new.push(*addr);
            }
        }
        new
    }

    /// Whether the endpoint is in the set.
    pub(super) fn contains(&self, addr: SocketAddr) -> bool {
        self.members.iter().any(|member| member.addr == addr)
    }

    /// A connect to the endpoint has succeeded.
    pub(super) fn confirm(&mut self, addr: SocketAddr) {
        if let Some(member) = self.member(addr) {
            member.confirmed = true;
            member.penalised = false;
        }
    }

    /// A connect to the endpoint was refused, or silent while another's succeeded. Returns the pause before it is probed, if nobody
    /// probes it yet.
    pub(super) fn penalise(&mut self, addr: SocketAddr, now: Instant) -> Option<Duration> {
        let member = self
            .member(addr)
            .filter(|member| member.confirmed && !member.penalised)?;
        let recent = member
            .last_penalty
            .filter(|(at, _)| now.saturating_duration_since(*at) < FORGIVEN_AFTER);
        let pause = recent.map_or(PENALTY_FIRST, |(_, pause)| (pause * 2).min(PENALTY_LAST));
        member.penalised = true;
        member.last_penalty = Some((now, pause));
        Some(pause)
    }

    /// The count of connections that wait for an endpoint in the set, for whoever opens one.
    pub(super) fn pending(&mut self, addr: SocketAddr) -> Option<Arc<AtomicUsize>> {
        let member = self.member(addr)?;
        member.tried += 1;
        Some(Arc::clone(&member.pending))
    }

    /// A connection that was tried on the endpoint did not come about.
    pub(super) fn failed(&mut self, addr: SocketAddr) {
        if let Some(member) = self.member(addr) {
            member.failed += 1;
        }
    }

    /// What is known about each endpoint.
    pub(super) fn known(&self) -> impl Iterator<Item = Known<'_>> {
        self.members.iter().map(|member| Known {
            addr: member.addr,
            node: member.node.as_deref(),
            confirmed: member.confirmed,
            penalised: member.penalised,
            waiting: member.pending.load(Ordering::Relaxed),
            tried: member.tried,
            failed: member.failed,
        })
    }

    /// The node of an endpoint.
    pub(super) fn node(&self, addr: SocketAddr) -> Option<&str> {
        self.members
            .iter()
            .find(|member| member.addr == addr)?
            .node
            .as_deref()
    }

    /// The endpoints on a node.
    pub(super) fn on_node(&self, node: &str) -> Vec<SocketAddr> {
        self.members
            .iter()
            .filter(|member| member.node.as_deref() == Some(node))
            .map(|member| member.addr)
            .collect()
    }

    pub(super) fn confirmed(&self, addr: SocketAddr) -> bool {
        self.members
            .iter()
            .any(|member| member.addr == addr && member.confirmed)
    }

    /// The endpoints in the order in which a new connection should try them: good ones, then those that are penalised or
    /// `unanswering`, then those that never accepted a connection. Among equals first those for which the fewest connections wait, so that
    /// one that has become slow gets less to do at once, and by turns.
    /// Returns how many of them are good as well.
    pub(super) fn order_and_good(
        &mut self,
        unanswering: impl Fn(SocketAddr) -> bool,
    ) -> (Vec<SocketAddr>, usize) {
        let turn = self.next;
        self.next = self.next.wrapping_add(1);
        let mut ranked: [Vec<(usize, SocketAddr)>; 3] = Default::default();
        for member in &self.members {
            let doubtful = member.penalised || unanswering(member.addr);
            let pending = member.pending.load(Ordering::Relaxed);
            ranked[if member.confirmed {
                usize::from(doubtful)
            } else {
                2
            }]
            .push((pending, member.addr));
        }
        for rank in &mut ranked {
            let members = rank.len().max(1);
            rank.rotate_left(turn % members);
            rank.sort_by_key(|(pending, _)| *pending);
        }
        let good = ranked[0].len();
        let order = ranked.into_iter().flatten().map(|(_, addr)| addr);
        (order.collect(), good)
    }

    fn member(&mut self, addr: SocketAddr) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.addr == addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 78, 0, last], 80))
    }

    fn endpoints(lasts: &[u8]) -> Vec<Endpoint> {
        lasts
            .iter()
            .map(|&last| Endpoint {
                addr: addr(last),
                node: Some(format!("w{}", last % 2)),
            })
            .collect()
    }

    fn confirmed(lasts: &[u8]) -> Choice {
        let mut choice = Choice::default();
        for addr in choice.replace(&endpoints(lasts)) {
            choice.confirm(addr);
        }
        choice
    }

    fn order(choice: &mut Choice) -> Vec<SocketAddr> {
        choice.order_and_good(|_| false).0
    }

    #[test]
    fn good_endpoints_take_turns() {
        let mut choice = confirmed(&[1, 2, 3]);
        let firsts: Vec<_> = (0..6).map(|_| order(&mut choice)[0]).collect();
        assert_eq!(firsts, [1, 2, 3, 1, 2, 3].map(addr));
    }

    #[test]
    fn those_that_fewer_wait_for_come_first() {
        let mut choice = confirmed(&[1, 2, 3]);
        let [slow, slower] =
            [1, 2].map(|last| choice.pending(addr(last)).expect("it is in the set"));
        slow.store(1, Ordering::Relaxed);
        slower.store(2, Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(order(&mut choice), [3, 1, 2].map(addr));
        }
        choice.penalise(addr(3), Instant::now());
        assert_eq!(
            order(&mut choice),
            [1, 2, 3].map(addr),
            "a good one that is slow before a doubtful one"
        );
    }

    #[test]
    fn what_was_tried_and_failed_is_counted_while_an_endpoint_is_in_the_set() {
        let mut choice = confirmed(&[1, 2]);
        for last in [1, 1, 2, 9] {
            choice.pending(addr(last));
        }
        choice.failed(addr(1));
        choice.failed(addr(9));
        let counts = |choice: &Choice| -> Vec<_> {
            choice
                .known()
                .map(|known| (known.addr, known.tried, known.failed))
                .collect()
        };
        assert_eq!(counts(&choice), [(addr(1), 2, 1), (addr(2), 1, 0)]);
        choice.replace(&endpoints(&[2]));
        choice.replace(&endpoints(&[1, 2]));
        assert_eq!(counts(&choice), [(addr(2), 1, 0), (addr(1), 0, 0)]);
    }

    #[test]
    fn penalised_endpoints_are_a_last_resort_until_a_probe_succeeds() {
        let mut choice = confirmed(&[1, 2]);
        let now = Instant::now();
        assert_eq!(choice.penalise(addr(1), now), Some(PENALTY_FIRST));
        assert_eq!(choice.penalise(addr(1), now), None, "it is probed already");
        for _ in 0..3 {
            assert_eq!(order(&mut choice), [addr(2), addr(1)]);
        }
        choice.penalise(addr(2), now);
        assert_ne!(
            order(&mut choice)[0],
            order(&mut choice)[0],
            "all penalised: all are used"
        );
        choice.confirm(addr(1));
        assert_eq!(order(&mut choice), [addr(1), addr(2)]);
        let pauses: Vec<_> = (1..6)
            .map(|second| {
                let pause = choice
                    .penalise(addr(1), now + Duration::from_secs(second))
                    .unwrap();
                choice.confirm(addr(1));
                pause.as_millis()
            })
            .collect();
        assert_eq!(pauses, [400, 800, 1600, 2000, 2000]);
        assert_eq!(
            choice.penalise(addr(1), now + Duration::from_secs(15)),
            Some(PENALTY_FIRST),
            "good for long"
        );
    }

    #[test]
    fn unanswering_endpoints_are_a_last_resort() {
        let mut choice = confirmed(&[1, 2]);
        for _ in 0..3 {
            assert_eq!(
                choice.order_and_good(|other| other == addr(1)),
                (vec![addr(2), addr(1)], 1)
            );
        }
    }

    #[test]
    fn unconfirmed_endpoints_wait_unless_there_is_nothing_else() {
        let mut choice = confirmed(&[1]);
        assert_eq!(choice.replace(&endpoints(&[1, 2])), [addr(2)]);
        assert_eq!(
            choice.penalise(addr(2), Instant::now()),
            None,
            "it is probed since it came"
        );
        for _ in 0..3 {
            assert_eq!(order(&mut choice), [addr(1), addr(2)]);
        }
        // The only confirmed one leaves: the new one is all there is.
        assert_eq!(choice.replace(&endpoints(&[2])), []);
        assert_eq!(order(&mut choice), [addr(2)]);
        assert!(!choice.confirmed(addr(1)) && !choice.contains(addr(1)));
        assert_eq!(
            (choice.on_node("w0"), choice.on_node("w1")),
            (vec![addr(2)], vec![])
        );
    }
}

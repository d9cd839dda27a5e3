//! Which endpoint is tried first, and which next. Pure: time comes in as an argument.

use std::net::SocketAddr;

use tokio::time::Instant;

/// The endpoints of one Service port and what is known about each.
#[derive(Debug, Default)]
pub(super) struct Choice {
    members: Vec<Member>,
    next: usize,
}

#[derive(Debug)]
struct Member {
    addr: SocketAddr,
    confirmed: bool,
    penalised_until: Option<Instant>,
}

impl Choice {
    /// Replaces the set and returns the members that are new and have to be confirmed.
    pub(super) fn replace(&mut self, addrs: &[SocketAddr]) -> Vec<SocketAddr> {
        self.members.retain(|member| addrs.contains(&member.addr));
        let mut new = Vec::new();
        for &addr in addrs {
            if self.members.iter().all(|member| member.addr != addr) {
                self.members.push(Member { addr, confirmed: false, penalised_until: None });
                new.push(addr);
            }
        }
        new
    }

    /// A connect to the endpoint has succeeded.
    pub(super) fn confirm(&mut self, addr: SocketAddr) {
        if let Some(member) = self.member(addr) {
            member.confirmed = true;
            member.penalised_until = None;
        }
    }

    /// A connect to the endpoint was refused, or silent while another's succeeded.
    pub(super) fn penalise(&mut self, addr: SocketAddr, until: Instant) {
        if let Some(member) = self.member(addr) {
            member.penalised_until = Some(until);
        }
    }

    pub(super) fn confirmed(&self, addr: SocketAddr) -> bool {
        self.members.iter().any(|member| member.addr == addr && member.confirmed)
    }

    /// The endpoints in the order in which a new connection should try them: good ones by turns, then penalised ones, then those
    /// that never accepted a connection.
    pub(super) fn order(&mut self, now: Instant) -> Vec<SocketAddr> {
        let turn = self.next;
        self.next = self.next.wrapping_add(1);
        let mut ranked: [Vec<SocketAddr>; 3] = Default::default();
        for member in &self.members {
            let penalised = member.penalised_until.is_some_and(|until| now < until);
            ranked[if member.confirmed { usize::from(penalised) } else { 2 }].push(member.addr);
        }
        for rank in &mut ranked {
            let members = rank.len().max(1);
            rank.rotate_left(turn % members);
        }
        ranked.concat()
    }

    fn member(&mut self, addr: SocketAddr) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.addr == addr)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 78, 0, last], 80))
    }

    fn confirmed(lasts: &[u8]) -> Choice {
        let mut choice = Choice::default();
        let addrs: Vec<_> = lasts.iter().copied().map(addr).collect();
        assert_eq!(choice.replace(&addrs), addrs);
        addrs.iter().for_each(|&addr| choice.confirm(addr));
        choice
    }

    #[test]
    fn good_endpoints_take_turns() {
        let mut choice = confirmed(&[1, 2, 3]);
        let now = Instant::now();
        let firsts: Vec<_> = (0..6).map(|_| choice.order(now)[0]).collect();
        assert_eq!(firsts, [1, 2, 3, 1, 2, 3].map(addr));
    }

    #[test]
    fn penalised_endpoints_are_a_last_resort_and_come_back() {
        let mut choice = confirmed(&[1, 2]);
        let now = Instant::now();
        choice.penalise(addr(1), now + Duration::from_secs(2));
        for _ in 0..3 {
            assert_eq!(choice.order(now), [addr(2), addr(1)]);
        }
        choice.penalise(addr(2), now + Duration::from_secs(2));
        assert_ne!(choice.order(now)[0], choice.order(now)[0], "all penalised: all are used");
        let later = now + Duration::from_secs(2);
        assert_ne!(choice.order(later)[0], choice.order(later)[0]);
    }

    #[test]
    fn unconfirmed_endpoints_wait_unless_there_is_nothing_else() {
        let mut choice = confirmed(&[1]);
        assert_eq!(choice.replace(&[addr(1), addr(2)]), [addr(2)]);
        for _ in 0..3 {
            assert_eq!(choice.order(Instant::now()), [addr(1), addr(2)]);
        }
        // The only confirmed one leaves: the new one is all there is.
        assert_eq!(choice.replace(&[addr(2)]), []);
        assert_eq!(choice.order(Instant::now()), [addr(2)]);
        assert!(!choice.confirmed(addr(1)));
    }
}

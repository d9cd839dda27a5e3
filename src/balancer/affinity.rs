//! Clients that stay with an endpoint: `sessionAffinity: ClientIP`. Pure: time comes in as an argument.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

/// Clients that are remembered for one Service port; beyond, the one that has been away for longest is forgotten.
const CLIENTS_MAX: usize = 10_000;

/// Which endpoint each client of one Service port had last.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    /// For so long after its last connection; `None`: clients do not stay.
    stay: Option<Duration>,
    clients: HashMap<IpAddr, (SocketAddr, Instant)>,
}

impl Affinity {
    /// For how long clients stay from now on.
    pub(super) fn set(&mut self, stay: Option<Duration>) {
        if stay.is_none() {
            self.clients.clear();
        }
        self.stay = stay;
    }

    /// Puts the client's endpoint first, if it is among the first `good` ones; a new client gets the first.
    pub(super) fn prefer(
        &mut self,
        client: IpAddr,
        order: &mut [SocketAddr],
        good: usize,
        now: Instant,
    ) {
        let Some(stay) = self.stay else { return };
        let known = self.clients.get(&client);
        let known = known.filter(|(_, at)| now.saturating_duration_since(*at) < stay);
        let place = known.and_then(|(addr, _)| order[..good].iter().position(|one| one == addr));
        if let Some(place) = place {
            order[..=place].rotate_right(1);
        }
        // Noted before the connection is up, so that connections that come together stay together.
        if let Some(first) = order.first() {
            self.note(client, *first, now);
        }
    }

    /// The client has got this endpoint.
    pub(super) fn note(&mut self, client: IpAddr, addr: SocketAddr, now: Instant) {
        if self.stay.is_none() {
            return;
        }
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&client) {
            let oldest = self.clients.iter().min_by_key(|(_, (_, at))| *at);
            if let Some(oldest) = oldest.map(|(client, _)| *client) {
                self.clients.remove(&oldest);
            }
        }
        self.clients.insert(client, (addr, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 78, 0, last], 80))
    }

    fn client(last: u8) -> IpAddr {
        IpAddr::from([10, 78, 1, last])
    }

    #[test]
    fn a_client_stays_until_it_has_been_away_or_its_endpoint_is_not_good() {
        let mut affinity = Affinity::default();
        let begun = Instant::now();
        let mut order = [addr(2), addr(1)];
        affinity.prefer(client(1), &mut [addr(1), addr(2)], 2, begun);
        affinity.prefer(client(1), &mut order, 2, begun);
        assert_eq!(order[0], addr(2), "it is not asked for");
        affinity.set(Some(Duration::from_secs(10)));
        let mut first = |seconds: u64, client: IpAddr, lasts: &[u8], good: usize| {
            let mut order: Vec<SocketAddr> = lasts.iter().map(|last| addr(*last)).collect();
            affinity.prefer(
                client,
                &mut order,
                good,
                begun + Duration::from_secs(seconds),
            );
            order[0]
        };
        assert_eq!(first(0, client(1), &[1, 2, 3], 3), addr(1));
        assert_eq!(first(1, client(1), &[2, 3, 1], 3), addr(1));
        assert_eq!(
            first(1, client(2), &[2, 3, 1], 3),
            addr(2),
            "another client"
        );
        assert_eq!(first(9, client(1), &[3, 2, 1], 3), addr(1));
        assert_eq!(
            first(10, client(2), &[3, 1, 2], 2),
            addr(3),
            "its own is in doubt"
        );
        assert_eq!(
            first(11, client(2), &[1, 2, 3], 3),
            addr(3),
            "it stays where it went"
        );
        assert_eq!(
            first(19, client(1), &[2, 3, 1], 3),
            addr(2),
            "it was away for too long"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut affinity = Affinity::default();
        affinity.set(Some(Duration::from_secs(10)));
        let begun = Instant::now();
        for number in 0..=u32::try_from(CLIENTS_MAX).expect("it fits") {
            let client = IpAddr::from(number.to_be_bytes());
            affinity.note(
                client,
                addr(1),
                begun + Duration::from_millis(number.into()),
            );
        }
        assert_eq!(affinity.clients.len(), CLIENTS_MAX);
        assert!(!affinity.clients.contains_key(&IpAddr::from([0, 0, 0, 0])));
    }
}

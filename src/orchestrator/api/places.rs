//! Who may have how many connections and long requests at once: nobody can take what others need.
//!
//! ```text
//!  accepted ──► Handshakes (the oldest of the greediest address gives way) ──► Users (places by identity) ──► requests
//! ```

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::authorize::Identity;
use super::limits::{
    ANSWER_BYTES, ANSWERS_BYTES, ANSWERS_OF_ADMINISTRATORS_BYTES, CONNECTIONS,
    CONNECTIONS_BY_TOKEN, CONNECTIONS_FOR_ADMINISTRATORS, CONNECTIONS_FOR_FIRST,
    CONNECTIONS_OF_ADMINISTRATOR, CONNECTIONS_OF_USER, FIRST_CONNECTIONS, HANDSHAKES, LONG_BODIES,
    LONG_BODIES_OF_ADMINISTRATORS, TURN_TIME, TURNS, TURNS_OF_ADMINISTRATORS,
};
use super::status::Status;

/// Handshakes that are under way. Nobody has shown a certificate yet: only the address tells one from another.
#[derive(Debug)]
pub(super) struct Handshakes {
    under_way: Mutex<UnderWay>,
    most: usize,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self::of(HANDSHAKES)
    }
}

#[derive(Debug, Default)]
struct UnderWay {
    next: u64,
    /// Oldest first.
    handshakes: VecDeque<(u64, IpAddr, CancellationToken)>,
}

/// One of them; over when dropped.
#[derive(Debug)]
pub(super) struct Handshake {
    number: u64,
    of: Arc<Handshakes>,
    /// Cancelled when another needs the place.
    pub(super) given_up: CancellationToken,
}

impl Handshakes {
    /// At most so many.
    pub(super) fn of(most: usize) -> Self {
        Self {
            under_way: Mutex::default(),
            most,
        }
    }

    /// Another begins. If there are too many, the oldest of the address with the most of them gives way.
    pub(super) fn begin(self: &Arc<Self>, from: IpAddr) -> Handshake {
        let mut under_way = self.lock();
        if under_way.handshakes.len() >= self.most {
            under_way.give_one_up();
        }
        let number = under_way.next;
        under_way.next += 1;
        let given_up = CancellationToken::new();
        under_way
            .handshakes
            .push_back((number, from, given_up.clone()));
        Handshake {
            number,
            of: self.clone(),
            given_up,
        }
    }

    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay {
    fn give_one_up(&mut self) {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (_, from, _) in &self.handshakes {
            *counts.entry(*from).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        let oldest = self
            .handshakes
            .iter()
            .position(|(_, from, _)| counts[from] == most);
        if let Some((_, _, given_up)) = oldest.and_then(|place| self.handshakes.remove(place)) {
            given_up.cancel();
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.of
            .lock()
            .handshakes
            .retain(|(number, _, _)| *number != self.number);
    }
}

/// The users that have connections.
#[derive(Debug, Default)]
pub(super) struct Users {
    users: Mutex<HashMap<String, Weak<User>>>,
    connections: AtomicUsize,
    /// Of these, those by tokens.
    by_token: AtomicUsize,
}

/// One of the connections by tokens; no more when dropped.
#[derive(Debug)]
struct ByToken(Arc<Users>);

impl Drop for ByToken {
    fn drop(&mut self) {
        self.0.by_token.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct User {
    administrator: bool,
    connections: AtomicUsize,
    long_bodies: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// In units of [`ANSWER_BYTES`].
    answers: Arc<Semaphore>,
}

/// Room for an answer that is being sent; free when dropped.
#[derive(Debug, Default)]
pub(super) struct Room(#[expect(dead_code, reason = "it is held")] Option<OwnedSemaphorePermit>);

/// A connection's place; free when dropped.
#[derive(Debug)]
pub(super) struct Place {
    user: Arc<User>,
    of: Arc<Users>,
    by_token: Option<ByToken>,
}

/// Whether a user with `own` connections may have another, when there are `all`.
fn may_have(administrator: bool, own: usize, all: usize) -> bool {
    let (most, enough) = if administrator {
        (CONNECTIONS_OF_ADMINISTRATOR, CONNECTIONS)
    } else if own < FIRST_CONNECTIONS {
        (
            CONNECTIONS_OF_USER,
            CONNECTIONS - CONNECTIONS_FOR_ADMINISTRATORS,
        )
    } else {
        (
            CONNECTIONS_OF_USER,
            CONNECTIONS - CONNECTIONS_FOR_ADMINISTRATORS - CONNECTIONS_FOR_FIRST,
        )
    };
    own < most && all < enough
}

impl Users {
    /// A place for another connection of `who`, or `None` when it has its share.
    pub(super) fn admit(self: &Arc<Self>, who: &Identity) -> Option<Place> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let user = users.get(&who.user).and_then(Weak::upgrade);
        let user = user.unwrap_or_else(|| {
            users.retain(|_, user| user.strong_count() > 0);
            let user = Arc::new(User::new(who.is_master()));
            users.insert(who.user.clone(), Arc::downgrade(&user));
            user
        });
        let own = user.connections.load(Ordering::Relaxed);
        let all = self.connections.load(Ordering::Relaxed);
        if !may_have(user.administrator, own, all) {
            return None;
        }
        user.connections.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Some(Place {
            user,
            of: self.clone(),
            by_token: None,
        })
    }

    /// The same for a connection whose requests show tokens: all accounts together have a share of their own.
    pub(super) fn admit_by_token(self: &Arc<Self>, who: &Identity) -> Option<Place> {
        let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
        self.by_token
            .fetch_update(set, read, |count| {
                (count < CONNECTIONS_BY_TOKEN).then_some(count + 1)
            })
            .ok()?;
        let counted = ByToken(self.clone());
        let mut place = self.admit(who)?;
        place.by_token = Some(counted);
        Some(place)
    }

    /// Connections of everybody.
    #[must_use]
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl User {
    fn new(administrator: bool) -> Self {
        let (long_bodies, turns, answers_bytes) = if administrator {
            (
                LONG_BODIES_OF_ADMINISTRATORS,
                TURNS_OF_ADMINISTRATORS,
                ANSWERS_OF_ADMINISTRATORS_BYTES,
            )
        } else {
            (LONG_BODIES, TURNS, ANSWERS_BYTES)
        };
        Self {
            administrator,
            connections: AtomicUsize::new(0),
            long_bodies: Arc::new(Semaphore::new(long_bodies)),
            turns: Arc::new(Semaphore::new(turns)),
            answers: Arc::new(Semaphore::new(answers_bytes / ANSWER_BYTES)),
        }
    }
}

impl Place {
    /// Waits until the user may send a long body.
    pub(super) async fn long_body(&self) -> Result<OwnedSemaphorePermit, Status> {
        wait_for(&self.user.long_bodies, "long requests").await
    }

    /// Waits until the user may have another patch or long body handled.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, Status> {
        wait_for(&self.user.turns, "requests").await
    }
}

impl Place {
    /// Room for an answer of this length, or 429: whoever does not read its answers gets no more of them.
    pub(super) fn room(&self, length: Option<u64>) -> Result<Room, Status> {
        let bytes = length.and_then(|length| usize::try_from(length).ok());
        let units = bytes.unwrap_or(ANSWER_BYTES).div_ceil(ANSWER_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        match self.user.answers.clone().try_acquire_many_owned(units) {
            Ok(permit) => Ok(Room(Some(permit))),
            Err(_) => Err(Status::too_many_requests(
                "too many answers to this user are waiting to be read: read them, or try again later",
            )),
        }
    }
}

async fn wait_for(places: &Arc<Semaphore>, what: &str) -> Result<OwnedSemaphorePermit, Status> {
    match tokio::time::timeout(TURN_TIME, places.clone().acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Status::too_many_requests(format!(
            "too many {what} of this user are being handled: try again later"
        ))),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.user.connections.fetch_sub(1, Ordering::Relaxed);
        self.of.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn who(user: &str, group: &str) -> Identity {
        Identity {
            user: user.to_owned(),
            groups: vec![group.to_owned()],
        }
    }

    #[test]
    fn the_greediest_address_loses_its_oldest_handshake() {
        let handshakes = Arc::new(Handshakes::default());
        let from = |last| IpAddr::V4(Ipv4Addr::new(10, 77, 0, last));
        let other = handshakes.begin(from(12));
        let held: Vec<Handshake> = (1..HANDSHAKES)
            .map(|_| handshakes.begin(from(13)))
            .collect();
        assert!(!held[0].given_up.is_cancelled());
        let newest = handshakes.begin(from(14));
        assert!(held[0].given_up.is_cancelled() && !held[1].given_up.is_cancelled());
        assert!(!other.given_up.is_cancelled() && !newest.given_up.is_cancelled());
        drop(held);
        assert_eq!(handshakes.lock().handshakes.len(), 2);
    }

    #[test]
    fn who_does_not_read_gets_no_more_answers() {
        let users = Arc::new(Users::default());
        let place = users
            .admit(&who("system:node:w1", "system:nodes"))
            .expect("there are places");
        let large = Some(1 << 20);
        let mut unread: Vec<Room> = std::iter::from_fn(|| place.room(large).ok()).collect();
        assert_eq!(unread.len(), ANSWERS_BYTES >> 20);
        assert_eq!(place.room(None).expect_err("none is left").code, 429);
        let other = users.admit(&who("system:node:w2", "system:nodes"));
        assert!(other.is_some_and(|other| other.room(large).is_ok()));
        unread.pop();
        assert!(place.room(None).is_ok() && place.room(large).is_ok());
        assert!(
            place.room(Some(0)).is_ok(),
            "an answer without a body weighs nothing"
        );
    }

    #[test]
    fn tokens_have_a_share_of_their_own() {
        let users = Arc::new(Users::default());
        let all: Vec<Place> = (0..100)
            .flat_map(|n| {
                let account = who(&format!("system:serviceaccount:default:a{n}"), "accounts");
                let users = users.clone();
                std::iter::from_fn(move || users.admit_by_token(&account))
            })
            .collect();
        assert_eq!(all.len(), CONNECTIONS_BY_TOKEN);
        let node = who("system:node:w1", "system:nodes");
        assert!(users.admit(&node).is_some());
        drop(all);
        let account = who("system:serviceaccount:default:a", "accounts");
        assert!(users.admit_by_token(&account).is_some());
    }

    #[test]
    fn a_worker_takes_its_share_and_places_are_kept() {
        let users = Arc::new(Users::default());
        let (node, other) = (
            who("system:node:w1", "system:nodes"),
            who("system:node:w2", "system:nodes"),
        );
        let all: Vec<Place> = std::iter::from_fn(|| users.admit(&node)).collect();
        assert_eq!(all.len(), CONNECTIONS_OF_USER);
        assert!(users.admit(&other).is_some());
        drop(all);
        assert_eq!(users.connections(), 0);
        let many: Vec<Place> = (0..100)
            .flat_map(|n| {
                let node = who(&format!("system:node:n{n}"), "system:nodes");
                let users = users.clone();
                std::iter::from_fn(move || users.admit(&node))
            })
            .collect();
        assert_eq!(many.len(), CONNECTIONS - CONNECTIONS_FOR_ADMINISTRATORS);
        assert!(users.admit(&who("admin", "system:masters")).is_some());
    }
}

//! When the server last heard this node, and what follows from its silence: the node's own lease.
//!
//! Every ping on the tunnel carries a number; its answer proves that the server had heard this node when the ping was sent, or later. So
//! the lease, which counts from the sending, has lapsed here before the server can think so.
//!
//! # Cut off, or left alone?
//! From this side a dead server and a cut cable look the same; the other nodes tell them apart. The question matters: pods of a node that
//! is cut off are replaced elsewhere, pods of a node that lost its server are not, and must go on serving (fail static).
//!
//! | the lease has lapsed, and | the node |
//! |---|---|
//! | another worker answers that it does reach the server | serves on for [`CUT_OFF_AFTER`], since the server does not evict what another node reaches; then it fences itself and says so, which lets the server replace |
//! | it and those that answer that they do not reach the server either are more than half of all workers | serves on: the server is gone, or on the smaller side, where it may not evict so many (`control::Brake`) |
//! | they are not | fences its pods: it is on the smaller side of a partition |
//! | there is no other worker | serves on: nothing can be replaced anywhere |
//!
//! A machine that stood still past its lease and finds no answer at once fences first and asks then. The fence is lifted when another node
//! answers that the server is gone, or, once the server hears this node again, after the pods that were replaced have been removed by UID.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Without contact for so long the lease has lapsed. Shorter than the time after which the server may replace this node's pods (a pause of a
/// second, a beat, and its patience: `control::detector`).
pub(crate) const LEASE: Duration = Duration::from_millis(1250);
/// Other nodes are asked when contact is older than this, which is two pings.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(700);
/// A node that is cut off from the server alone gives up its pods after so long.
pub(crate) const CUT_OFF_AFTER: Duration = Duration::from_secs(20);
/// An answer of another node counts for so long.
pub(crate) const ANSWER_COUNTS: Duration = Duration::from_secs(1);
/// Pings whose answers are waited for.
const PINGS: usize = 64;

/// Pings and their answers.
#[derive(Debug)]
pub(crate) struct Contact {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    waiting: VecDeque<(u64, Instant)>,
    heard: Instant,
}

impl Contact {
    /// The lease of an agent that starts now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { state: Mutex::new(State { next: 0, waiting: VecDeque::new(), heard: now }) }
    }

    /// What to put into a ping that is sent now.
    pub(crate) fn ping(&self, now: Instant) -> Bytes {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.next += 1;
        let number = state.next;
        state.waiting.push_back((number, now));
        if state.waiting.len() > PINGS {
            state.waiting.pop_front();
        }
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    /// A ping was answered.
    pub(crate) fn answered(&self, ping: &[u8]) {
        let Ok(number) = ping.try_into().map(u64::from_be_bytes) else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.waiting.front().is_some_and(|(waiting, _)| *waiting <= number) {
            if let Some((_, sent)) = state.waiting.pop_front() {
                state.heard = state.heard.max(sent);
            }
        }
    }

    /// When the server is known to have heard this node last.
    pub(crate) fn heard(&self) -> Instant {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).heard
    }
}

/// What another worker said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerSaid {
    /// When it was asked.
    pub(crate) asked: Instant,
    /// How long ago the server heard it; `None` if it did not answer.
    pub(crate) contact: Option<Duration>,
}

/// What to do with the pods' service traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    /// The server hears this node.
    Held,
    /// The server does not hear this node, but its pods are not being replaced.
    ServeOn,
    /// Keep service traffic away from the pods.
    Fence,
    /// Nobody has answered yet: as before.
    Undecided,
}

/// The table of the module's head. `workers` are the last words of all other workers; `stalled`: this node's own clock has just jumped past
/// its lease.
pub(crate) fn judge(now: Instant, heard: Instant, workers: &[Option<PeerSaid>], stalled: bool) -> Lease {
    let silence = now.saturating_duration_since(heard);
    if silence < LEASE {
        return Lease::Held;
    }
    if workers.is_empty() {
        return Lease::ServeOn;
    }
    let fresh = |said: &&PeerSaid| now.saturating_duration_since(said.asked) < ANSWER_COUNTS;
    let said: Vec<&PeerSaid> = workers.iter().flatten().filter(fresh).collect();
    let contacts: Vec<Duration> = said.iter().filter_map(|said| said.contact).collect();
    if contacts.iter().any(|contact| *contact < ASK_AFTER) {
        return if silence >= CUT_OFF_AFTER { Lease::Fence } else { Lease::ServeOn };
    }
    if (contacts.len() + 1) * 2 > workers.len() + 1 {
        return Lease::ServeOn;
    }
    if stalled || said.len() == workers.len() { Lease::Fence } else { Lease::Undecided }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_lease_counts_from_the_sending_of_an_answered_ping() {
        let start = Instant::now();
        let contact = Contact::new(start);
        let pings: Vec<Bytes> = (1..=3).map(|number| contact.ping(start + MS(number * 300))).collect();
        contact.answered(&pings[1]);
        assert_eq!(contact.heard(), start + MS(600));
        contact.answered(&pings[0]);
        contact.answered(b"nonsens");
        assert_eq!(contact.heard(), start + MS(600), "an old answer takes nothing back");
        contact.answered(&pings[2]);
        assert_eq!(contact.heard(), start + MS(900));
        for _ in 0..1000 {
            contact.ping(start);
        }
        assert!(contact.state.lock().unwrap().waiting.len() <= PINGS);
    }

    #[test]
    fn cut_off_or_left_alone() {
        let heard = Instant::now();
        let now = heard + MS(1300);
        let said = |contact: Option<u64>| Some(PeerSaid { asked: now - MS(200), contact: contact.map(MS) });
        let old = Some(PeerSaid { asked: now - MS(1100), contact: None });
        for (workers, wanted) in [
            (vec![], Lease::ServeOn),
            (vec![None], Lease::Undecided),
            (vec![old], Lease::Undecided),
            (vec![said(None)], Lease::Fence),
            (vec![said(None), None], Lease::Undecided),
            (vec![said(Some(1200)), said(None)], Lease::ServeOn),
            (vec![said(Some(1200)), said(None), said(None)], Lease::Fence),
            (vec![said(Some(1200)), said(Some(1300)), said(None), None], Lease::ServeOn),
            (vec![said(Some(100)), said(None)], Lease::ServeOn),
        ] {
            assert_eq!(judge(now, heard, &workers, false), wanted, "{workers:?}");
            assert_eq!(judge(heard + MS(1000), heard, &workers, true), Lease::Held);
        }
        assert_eq!(judge(now, heard, &[None], true), Lease::Fence, "it stood still: fence first");
        let later = heard + CUT_OFF_AFTER;
        let contact = |age| Some(PeerSaid { asked: later - MS(100), contact: Some(MS(age)) });
        assert_eq!(judge(later, heard, &[contact(100)], false), Lease::Fence, "cut off from the server alone");
        assert_eq!(judge(later, heard, &[contact(5000)], false), Lease::ServeOn, "the server is gone, for as long as it takes");
    }
}

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
//! Nobody is silent who lets a TCP connection be made: a machine's kernel answers long before a starved agent does. And a node whose own
//! processor is starved is patient by as much as it was late of late, as the server is, which it tells so with every beat: by what the
//! server is known to have heard, no more.
//!
//! The fence is lifted once the server hears this node again, after the pods that were replaced have been removed by UID; without the server
//! only when so many lost it no later than this node did that it cannot have replaced anything ([`Lease::LeftAlone`]): behind a fence that
//! was up while the server lived there may be pods that serve elsewhere.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::orchestrator::lateness::Lateness;

/// Without contact for so long the lease has lapsed. Shorter than the time after which the server may replace this node's pods (a pause of a
/// second, a beat, and its patience: `control::detector`).
pub(crate) const LEASE: Duration = Duration::from_millis(1250);
/// Other nodes are asked when contact is older than this, which is two pings.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(700);
/// A node that is cut off from the server alone gives up its pods after so long.
pub(crate) const CUT_OFF_AFTER: Duration = Duration::from_secs(20);
/// An answer of another node counts for so long.
pub(crate) const ANSWER_COUNTS: Duration = Duration::from_millis(1500);
/// An answer comes within so long (`peers::ANSWER_WITHIN`, once to connect and once to speak).
const ANSWERED_WITHIN: Duration = Duration::from_millis(800);
/// The server is patient by as much as a node was late, by these at least and at most (`control::detector`); the least is part of [`LEASE`].
const LATE_MIN: Duration = Duration::from_millis(150);
const LATE_MAX: Duration = Duration::from_secs(3);
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
    waiting: VecDeque<Waiting>,
    heard: Instant,
    lateness: Lateness,
    /// The worst lateness that the server knew of when it heard this node last.
    told: Duration,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    sent: Instant,
    told: Duration,
}

impl Contact {
    /// The lease of an agent that starts now.
    pub(crate) fn new(now: Instant) -> Self {
        let state = State { next: 0, waiting: VecDeque::new(), heard: now, lateness: Lateness::default(), told: Duration::ZERO };
        Self { state: Mutex::new(state) }
    }

    /// A beat was late by so much. Returns what it is to tell the server: the worst of late, since any beat before may be lost.
    pub(crate) fn late(&self, now: Instant, late: Duration) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lateness.note(now, late);
        state.lateness.worst(now)
    }

    /// What to put into a ping that is sent now, behind a beat.
    pub(crate) fn ping(&self, now: Instant) -> Bytes {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.next += 1;
        let number = state.next;
        let told = state.lateness.worst(now);
        state.waiting.push_back(Waiting { number, sent: now, told });
        if state.waiting.len() > PINGS {
            state.waiting.pop_front();
        }
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    /// A ping was answered.
    pub(crate) fn answered(&self, ping: &[u8]) {
        let Ok(number) = ping.try_into().map(u64::from_be_bytes) else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.waiting.front().is_some_and(|waiting| waiting.number <= number) {
            if let Some(Waiting { sent, told, .. }) = state.waiting.pop_front().filter(|waiting| waiting.sent >= state.heard) {
                (state.heard, state.told) = (sent, told);
            }
        }
    }

    /// When the server is known to have heard this node last.
    pub(crate) fn heard(&self) -> Instant {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).heard
    }

    /// By how much this node was late, as far as the server knew then: it is as patient.
    pub(crate) fn patience(&self) -> Duration {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).told
    }
}

/// What another worker said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerSaid {
    /// When it was asked.
    pub(crate) asked: Instant,
    /// What came back.
    pub(crate) word: Word,
}

/// What came back from another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// It said how long ago the server heard it.
    Contact(Duration),
    /// Its machine answered, its agent did not, or not in time.
    Reached,
    /// Nothing.
    Silence,
}

/// What to do with the pods' service traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    /// The server hears this node.
    Held,
    /// The server does not hear this node, but its pods are not being replaced: as before, with or without a fence.
    ServeOn,
    /// Nor can they have been replaced since the lease lapsed: the server was gone by then.
    LeftAlone,
    /// Keep service traffic away from the pods.
    Fence,
    /// Nobody has answered yet: as before.
    Undecided,
}

/// When the lease lapses.
pub(crate) fn lapses(heard: Instant, late: Duration) -> Instant {
    heard + LEASE + late.clamp(LATE_MIN, LATE_MAX) - LATE_MIN
}

/// The table of the module's head. `workers` are the last words of all other workers; `late` is [`Contact::patience`].
pub(crate) fn judge(now: Instant, heard: Instant, workers: &[Option<PeerSaid>], late: Duration) -> Lease {
    let silence = now.saturating_duration_since(heard);
    if now < lapses(heard, late) {
        return Lease::Held;
    }
    if workers.is_empty() {
        return Lease::LeftAlone;
    }
    let fresh = |said: &&PeerSaid| now.saturating_duration_since(said.asked) < ANSWER_COUNTS;
    let said: Vec<PeerSaid> = workers.iter().flatten().filter(fresh).copied().collect();
    let words: Vec<Word> = said.iter().map(|said| said.word).collect();
    if words.iter().any(|word| matches!(word, Word::Contact(contact) if *contact < ASK_AFTER)) {
        return if silence >= CUT_OFF_AFTER { Lease::Fence } else { Lease::ServeOn };
    }
    let count = |wanted: fn(&Word) -> bool| words.iter().filter(|word| wanted(word)).count();
    let is_majority = |others: usize| (others + 1) * 2 > workers.len() + 1;
    // It spoke after it was asked, and within the limits of a question: then its contact is not younger than this.
    let lost_by = |said: &PeerSaid| match said.word {
        Word::Contact(contact) => (said.asked + ANSWERED_WITHIN).checked_sub(contact),
        Word::Reached | Word::Silence => None,
    };
    if is_majority(said.iter().filter_map(lost_by).filter(|lost| *lost <= heard + LEASE).count()) {
        return Lease::LeftAlone;
    }
    if is_majority(count(|word| matches!(word, Word::Contact(_)))) {
        return Lease::ServeOn;
    }
    let possible = workers.len() - count(|word| *word == Word::Silence);
    if is_majority(possible) { Lease::Undecided } else { Lease::Fence }
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
    fn patience_is_what_the_server_knows_of() {
        let start = Instant::now();
        let contact = Contact::new(start);
        let ping = contact.ping(start);
        assert_eq!(contact.late(start + MS(2000), MS(1800)), MS(1800));
        contact.answered(&ping);
        assert_eq!(contact.patience(), Duration::ZERO, "that ping was before");
        assert_eq!(contact.late(start + MS(2150), MS(0)), MS(1800), "told again, since a beat may be lost");
        contact.answered(&contact.ping(start + MS(2150)));
        assert_eq!(contact.patience(), MS(1800));
        contact.answered(&contact.ping(start + MS(8000)));
        assert_eq!(contact.patience(), Duration::ZERO);
    }

    #[test]
    fn cut_off_or_left_alone() {
        let heard = Instant::now();
        let now = heard + MS(1300);
        let said = |word: Word| Some(PeerSaid { asked: now - MS(200), word });
        let contact = |age| said(Word::Contact(MS(age)));
        let (silence, reached) = (said(Word::Silence), said(Word::Reached));
        let old = Some(PeerSaid { asked: now - MS(1600), word: Word::Silence });
        for (workers, wanted) in [
            (vec![], Lease::LeftAlone),
            (vec![None], Lease::Undecided),
            (vec![old], Lease::Undecided),
            (vec![silence], Lease::Fence),
            (vec![reached], Lease::Undecided),
            (vec![silence, None], Lease::Undecided),
            (vec![silence, silence, None], Lease::Fence),
            (vec![contact(1200), silence], Lease::LeftAlone),
            (vec![contact(1200), silence, silence], Lease::Fence),
            (vec![contact(1200), contact(1300), silence, None], Lease::LeftAlone),
            (vec![contact(100), silence, silence], Lease::ServeOn),
        ] {
            assert_eq!(judge(now, heard, &workers, Duration::ZERO), wanted, "{workers:?}");
            assert_eq!(judge(now, heard, &workers, MS(250)), Lease::Held, "it was late itself");
        }
        let later = heard + CUT_OFF_AFTER;
        let word = |age| Some(PeerSaid { asked: later - MS(100), word: Word::Contact(MS(age)) });
        assert_eq!(judge(later, heard, &[word(100)], Duration::ZERO), Lease::Fence, "cut off from the server alone");
        assert_eq!(judge(later, heard, &[word(5000)], MS(60_000)), Lease::ServeOn, "the server is gone, for as long as it takes");
    }

    #[test]
    fn a_fence_stays_while_the_server_may_have_replaced_what_is_behind_it() {
        let heard = Instant::now();
        let now = heard + MS(10_000);
        let lost = |age| Some(PeerSaid { asked: now - MS(200), word: Word::Contact(MS(age)) });
        for (workers, wanted) in [
            (vec![lost(9500), lost(9600)], Lease::LeftAlone),
            (vec![lost(9500), lost(2000)], Lease::LeftAlone),
            (vec![lost(2000), lost(2000)], Lease::ServeOn),
            (vec![lost(9500), lost(100)], Lease::ServeOn),
        ] {
            assert_eq!(judge(now, heard, &workers, Duration::ZERO), wanted, "{workers:?}");
        }
    }
}

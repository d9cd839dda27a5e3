//! When the server last heard this node, and whether it may have replaced this node's pods since: the node's own lease.
//!
//! Every ping on the tunnel carries a number; its answer proves that the server had heard this node when the ping was sent, or later. So
//! the lease, which counts from the sending, has lapsed here before the server can think so. What follows then is [`lease`](super::lease)'s
//! table.
//!
//! # Doubt
//! That table is for a node that was awake. One that slept (its machine was frozen, or stood still) past the time for which it knew that
//! nothing was replaced, or whose agent has just started, may have been replaced and brought back to a cluster whose server is gone by now,
//! or cut off from this node alone. What others say of now does not help it. The clock counts the time that was slept (design.md,
//! "Freeze"), so the first look afterwards finds it out:
//!
//! ```text
//!  sure ──────── now is past what was known to be safe, or the agent starts ────────► in doubt ──the table says so──► fenced
//!    ▲                                                                                   │ undecided, or serves on,     │
//!    │                                                                                   └── for DECIDED_WITHIN ───────►│
//!    ├── the API has every pod that runs here, and has heard the node without a break since ◄───────────────────────────┤
//!    └── left alone: the server was gone before it could replace anything ◄─────────────────────────────────────────────┘
//! ```
//! A node in doubt does not fence itself at once: most have stood still for a moment, as the whole host may have, and their server
//! answers the next ping.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::lease::{CUT_OFF_AFTER, Lease, Own, PeerSaid, judge, lapses};
use crate::orchestrator::lateness::Lateness;
use crate::orchestrator::tunnel::NEVER_MS;

/// Pings whose answers are waited for.
const PINGS: usize = 64;
/// Who was awake at a moment is found silent by nobody for so long: a question is waited for as long (`peers::ANSWER_WITHIN`).
const AWAKE_FOR: Duration = Duration::from_millis(400);
/// A node in doubt may serve for so long: a ping and its answer, or a question to the others and a second. Longer after the agent's start:
/// its tunnel has to be dialled.
const DECIDED_WITHIN: Duration = Duration::from_millis(1200);
const DECIDED_AFTER_START: Duration = Duration::from_secs(3);

/// What an agent knows that the next one needs, should it end now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// When the server is known to have heard this node last.
    pub(crate) heard: Instant,
    /// By how much the node was late, as far as the server knew then.
    pub(crate) late: Duration,
    /// When the last lease lapses under which nothing here had been replaced.
    pub(crate) sure: Instant,
}

/// Pings and their answers, and what they prove.
#[derive(Debug)]
pub(crate) struct Contact {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    waiting: VecDeque<Waiting>,
    heard: Instant,
    /// It is known to have heard this agent, or one before it, at all.
    ever_heard: bool,
    /// The server has heard the node since then without a lapse in between.
    unbroken_since: Instant,
    lateness: Lateness,
    /// The worst lateness that the server knew of when it heard this node last.
    told: Duration,
    /// See [`Kept`]. It stays where it is while there is doubt.
    sure: Instant,
    /// Nothing here is replaced before this.
    safe_until: Instant,
    /// There is doubt, and it is decided by then.
    doubt: Option<Instant>,
    /// When it was last looked what to do.
    looked: Instant,
    /// Others reach the server since then, and this node does not. (When all have lost it and it returns, somebody is the last to find it.)
    cut_off_since: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    sent: Instant,
    told: Duration,
}

impl State {
    fn lapse(&self) -> Instant {
        lapses(self.heard, self.told)
    }

    /// The server was heard while there was no doubt.
    fn is_sure(&mut self) {
        let lapse = self.lapse();
        self.sure = lapse;
        self.safe_until = self.safe_until.max(lapse);
    }
}

impl Contact {
    /// The lease of an agent that starts now. `before` is what the agent before it kept; without one, nothing ran before.
    pub(crate) fn new(now: Instant, before: Option<Kept>) -> Self {
        let kept = before.unwrap_or(Kept {
            heard: now,
            late: Duration::ZERO,
            sure: lapses(now, Duration::ZERO),
        });
        let state = State {
            next: 0,
            waiting: VecDeque::new(),
            heard: kept.heard,
            ever_heard: before.is_some(),
            unbroken_since: now,
            lateness: Lateness::default(),
            told: kept.late,
            sure: kept.sure,
            safe_until: now,
            doubt: Some(now + DECIDED_AFTER_START),
            looked: now,
            cut_off_since: None,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A beat was late by so much. Returns what it is to tell the server: the worst of late, since any beat before may be lost.
    pub(crate) fn late(&self, now: Instant, late: Duration) -> Duration {
        let mut state = self.state();
        state.lateness.note(now, late);
        state.lateness.worst(now)
    }

    /// What to put into a ping that is sent now, behind a beat.
    pub(crate) fn ping(&self, now: Instant) -> Bytes {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        let told = state.lateness.worst(now);
        state.waiting.push_back(Waiting {
            number,
            sent: now,
            told,
        });
        if state.waiting.len() > PINGS {
            state.waiting.pop_front();
        }
        Bytes::copy_from_slice(&number.to_be_bytes())
    }

    /// A ping was answered. Returns what is to be kept of it.
    pub(crate) fn answered(&self, ping: &[u8]) -> Option<Kept> {
        let number = ping.try_into().map(u64::from_be_bytes).ok()?;
        let mut state = self.state();
        let mut news = false;
        while state
            .waiting
            .front()
            .is_some_and(|waiting| waiting.number <= number)
        {
            let Some(Waiting { sent, told, .. }) = state
                .waiting
                .pop_front()
                .filter(|waiting| waiting.sent >= state.heard)
            else {
                continue;
            };
            if sent > state.lapse() {
                state.unbroken_since = sent;
            }
            (state.heard, state.told) = (sent, told);
            state.ever_heard = true;
            // One that slept and is answered before its next look has not looked at what was replaced meanwhile.
            if state.doubt.is_none() && sent <= state.safe_until {
                state.is_sure();
            }
            news = true;
        }
        news.then(|| Kept {
            heard: state.heard,
            late: state.told,
            sure: state.sure,
        })
    }

    /// When the server is known to have heard this node last; the start of an agent that it never heard.
    pub(crate) fn heard(&self) -> Instant {
        self.state().heard
    }

    /// What to tell others of that: how long ago it was in milliseconds, [`NEVER_MS`] if it never was.
    pub(crate) fn heard_ms_ago(&self, now: Instant) -> u64 {
        let state = self.state();
        let ago = now.saturating_duration_since(state.heard).as_millis();
        if state.ever_heard {
            u64::try_from(ago).unwrap_or(NEVER_MS)
        } else {
            NEVER_MS
        }
    }

    /// When the lease lapses.
    pub(crate) fn lapse(&self) -> Instant {
        self.state().lapse()
    }

    /// What to do now. `workers` are the last words of all other workers. To be called several times a second while contact is missing.
    pub(crate) fn look(&self, now: Instant, workers: &[Option<PeerSaid>]) -> Lease {
        let mut state = self.state();
        let slept = now > state.looked + AWAKE_FOR;
        state.looked = now;
        state.doubt = match state.doubt {
            None => (now > state.safe_until).then(|| now + DECIDED_WITHIN),
            // What was to decide it could not be asked for meanwhile.
            Some(by) if slept => Some(by.max(now + DECIDED_WITHIN)),
            doubt => doubt,
        };
        let mut lease = judge(
            now,
            &Own {
                heard: state.heard,
                lapse: state.lapse(),
                sure: state.sure,
            },
            workers,
        );
        match lease {
            Lease::CutOff(_)
                if now.saturating_duration_since(*state.cut_off_since.get_or_insert(now))
                    >= CUT_OFF_AFTER =>
            {
                lease = Lease::Fence;
            }
            Lease::Held | Lease::ServeOn(_) | Lease::LeftAlone(_) => state.cut_off_since = None,
            Lease::CutOff(_) | Lease::Fence | Lease::Undecided => {}
        }
        match (lease, state.doubt) {
            (Lease::LeftAlone(until), _) => {
                state.doubt = None;
                state.safe_until = state.safe_until.max(until);
            }
            (Lease::Fence, _) => state.doubt = Some(now),
            (Lease::ServeOn(_) | Lease::CutOff(_) | Lease::Undecided, Some(by)) if now >= by => {
                return Lease::Fence;
            }
            (Lease::ServeOn(until) | Lease::CutOff(until), None) => {
                state.safe_until = state.safe_until.max(until)
            }
            (Lease::Held | Lease::Undecided, None) => {
                state.safe_until = state.safe_until.max(now + AWAKE_FOR)
            }
            (Lease::Held | Lease::ServeOn(_) | Lease::CutOff(_) | Lease::Undecided, Some(_)) => {}
        }
        lease
    }

    /// Whether pods of this node may have been replaced.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.state().doubt.is_some()
    }

    /// The API was asked then, and had every pod that runs here. Returns whether that is still worth something: the server must have heard
    /// the node ever since.
    pub(crate) fn all_are_known(&self, asked: Instant) -> bool {
        let mut state = self.state();
        let worth = state.unbroken_since <= asked;
        if worth {
            state.doubt = None;
            state.is_sure();
        }
        worth
    }

    /// Whatever could not be removed is served no more by anybody: the doubt is given up.
    pub(crate) fn give_up_doubt(&self) {
        let mut state = self.state();
        state.doubt = None;
        state.is_sure();
    }
}

#[cfg(test)]
mod tests {
    use super::super::lease::{LEASE, Word};
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A node that was sure when it was heard at its start.
    fn sure(start: Instant) -> Contact {
        let contact = Contact::new(start, None);
        assert!(contact.all_are_known(start));
        contact
    }

    fn said(asked: Instant, age_ms: u64) -> [Option<PeerSaid>; 1] {
        [Some(PeerSaid {
            asked,
            answered: asked,
            word: Word::Contact(MS(age_ms)),
            denounced: None,
        })]
    }

    #[test]
    fn the_lease_counts_from_the_sending_of_an_answered_ping() {
        let start = Instant::now();
        let contact = sure(start);
        let pings: Vec<Bytes> = (1..=3)
            .map(|number| contact.ping(start + MS(number * 300)))
            .collect();
        assert!(contact.answered(&pings[1]).is_some());
        assert_eq!(contact.heard(), start + MS(600));
        assert_eq!(contact.answered(&pings[0]), None);
        assert_eq!(contact.answered(b"nonsens"), None);
        assert_eq!(
            contact.heard(),
            start + MS(600),
            "an old answer takes nothing back"
        );
        let kept = contact.answered(&pings[2]);
        let sure = start + MS(900) + LEASE;
        assert_eq!(
            kept,
            Some(Kept {
                heard: start + MS(900),
                late: Duration::ZERO,
                sure
            })
        );
        for _ in 0..1000 {
            contact.ping(start);
        }
        assert!(contact.state().waiting.len() <= PINGS);
    }

    #[test]
    fn who_was_never_heard_says_so() {
        let start = Instant::now();
        let contact = Contact::new(start, None);
        assert_eq!(
            contact.heard_ms_ago(start + MS(100)),
            NEVER_MS,
            "its start is not a word of the server"
        );
        contact.answered(&contact.ping(start + MS(200)));
        assert_eq!(contact.heard_ms_ago(start + MS(500)), 300);
        let kept = Kept {
            heard: start,
            late: Duration::ZERO,
            sure: start + LEASE,
        };
        assert_eq!(
            Contact::new(start + MS(400), Some(kept)).heard_ms_ago(start + MS(500)),
            500
        );
    }

    #[test]
    fn patience_is_what_the_server_knows_of() {
        let start = Instant::now();
        let contact = sure(start);
        let patience = || {
            (contact.lapse() - contact.heard())
                .checked_sub(LEASE)
                .expect("it lasts a lease at least")
        };
        let ping = contact.ping(start);
        assert_eq!(contact.late(start + MS(2000), MS(1800)), MS(1800));
        contact.answered(&ping);
        assert_eq!(patience(), Duration::ZERO, "that ping was before");
        assert_eq!(
            contact.late(start + MS(2150), MS(0)),
            MS(1800),
            "told again, since a beat may be lost"
        );
        contact.answered(&contact.ping(start + MS(2150)));
        assert_eq!(patience(), MS(1650), "the least is part of the lease");
        contact.answered(&contact.ping(start + MS(8000)));
        assert_eq!(patience(), Duration::ZERO);
    }

    #[test]
    fn who_slept_is_in_doubt_whatever_others_say() {
        for (age_ms, why) in [
            (100, "the server is there"),
            (2000, "it is gone, and was not when the lease lapsed"),
        ] {
            let start = Instant::now();
            let contact = sure(start);
            let woke = start + MS(10_000);
            let look = |ms| contact.look(woke + MS(ms), &said(woke + MS(ms), age_ms + ms));
            assert!(
                matches!(look(0), Lease::ServeOn(_) | Lease::CutOff(_)),
                "{why}"
            );
            assert!(contact.is_in_doubt());
            for ms in (300..1200).step_by(300) {
                assert_ne!(look(ms), Lease::Fence, "its server may answer yet");
            }
            assert_eq!(look(1200), Lease::Fence, "{why}");
        }
    }

    #[test]
    fn who_is_awake_serves_on_until_it_was_cut_off_alone_for_long() {
        let start = Instant::now();
        let contact = sure(start);
        // At first the server is gone for all, later for it alone.
        for ms in (0..60_000).step_by(300) {
            let now = start + MS(ms);
            let lease = contact.look(now, &said(now, if ms < 30_000 { ms } else { 100 }));
            let wanted = match ms {
                0..1250 => matches!(lease, Lease::Held),
                1250..30_000 => matches!(lease, Lease::LeftAlone(_)),
                30_000..50_000 => matches!(lease, Lease::CutOff(_)),
                _ => lease == Lease::Fence,
            };
            assert!(wanted, "{lease:?} at {ms}");
            assert_eq!(contact.is_in_doubt(), lease == Lease::Fence);
        }
    }

    #[test]
    fn who_slept_and_was_left_alone_is_sure() {
        let start = Instant::now();
        let contact = sure(start);
        let woke = start + MS(10_000);
        assert_eq!(contact.look(woke, &[None]), Lease::Undecided);
        assert!(contact.is_in_doubt());
        assert!(matches!(
            contact.look(woke + MS(100), &said(woke, 9900)),
            Lease::LeftAlone(_)
        ));
        assert!(!contact.is_in_doubt());
    }

    #[test]
    fn doubt_ends_when_the_api_has_what_runs_here_and_contact_was_not_broken() {
        let start = Instant::now();
        let contact = sure(start);
        let woke = start + MS(10_000);
        let kept = contact.answered(&contact.ping(woke)).expect("it is news");
        assert_eq!(
            kept.sure,
            start + LEASE,
            "it has slept, though it did not look yet"
        );
        assert_eq!(contact.look(woke + MS(10), &[None]), Lease::Held);
        assert!(contact.is_in_doubt());
        assert!(
            !contact.all_are_known(woke - MS(9000)),
            "pods may have been replaced after that"
        );
        assert!(contact.all_are_known(woke + MS(10)) && !contact.is_in_doubt());
        let kept = contact
            .answered(&contact.ping(woke + MS(300)))
            .expect("it is news");
        assert_eq!(kept.sure, woke + MS(300) + LEASE);
    }

    #[test]
    fn a_fence_is_doubt_that_contact_alone_does_not_end() {
        let start = Instant::now();
        let contact = sure(start);
        let silence = |at| {
            [Some(PeerSaid {
                asked: at,
                answered: at,
                word: Word::Silence,
                denounced: None,
            })]
        };
        for ms in (300..=1200).step_by(300) {
            contact.look(start + MS(ms), &silence(start + MS(ms)));
        }
        assert_eq!(
            contact.look(start + MS(1300), &silence(start + MS(1300))),
            Lease::Fence
        );
        // Heard for a moment; then the server is gone, as others say, before it could be asked anything.
        contact.answered(&contact.ping(start + MS(5000)));
        assert_eq!(contact.look(start + MS(5100), &[None]), Lease::Held);
        let later = start + MS(7000);
        assert!(
            matches!(contact.look(later, &said(later, 2000)), Lease::ServeOn(_)),
            "the fence is left as it is"
        );
        assert!(contact.is_in_doubt());
    }

    #[test]
    fn an_agent_that_starts_knows_what_the_one_before_it_kept() {
        let before = Instant::now();
        let start = before + MS(10_000);
        let kept = Kept {
            heard: before,
            late: Duration::ZERO,
            sure: before + LEASE,
        };
        // Left alone all the time: the server was gone first.
        let contact = Contact::new(start, Some(kept));
        assert!(matches!(
            contact.look(start, &said(start, 9900)),
            Lease::LeftAlone(_)
        ));
        // The server lives, and has had the time to replace: the tunnel has to be open by then.
        let contact = Contact::new(start, Some(kept));
        for ms in (0..3000).step_by(300) {
            assert!(
                matches!(
                    contact.look(start + MS(ms), &said(start + MS(ms), 100)),
                    Lease::CutOff(_)
                ),
                "{ms}"
            );
        }
        assert_eq!(
            contact.look(start + MS(3000), &said(start + MS(3000), 100)),
            Lease::Fence
        );
        // What was in doubt before stays so.
        let contact = Contact::new(
            start,
            Some(Kept {
                heard: start - MS(100),
                ..kept
            }),
        );
        assert_eq!(contact.look(start, &[None]), Lease::Held);
        assert!(matches!(
            contact.look(start + MS(1300), &said(start + MS(1300), 1400)),
            Lease::ServeOn(_)
        ));
        assert!(contact.is_in_doubt());
    }
}

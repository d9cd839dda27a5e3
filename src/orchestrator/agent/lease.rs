//! What follows from the server's silence: a pure table.
//!
//! # Cut off, or left alone?
//! From this side a dead server and a cut cable look the same; the other nodes tell them apart. The question matters: pods of a node that
//! is cut off are replaced elsewhere, pods of a node that lost its server are not, and must go on serving (fail static).
//!
//! | the lease has lapsed, and | the node |
//! |---|---|
//! | another worker answers that it does reach the server | serves on for [`CUT_OFF_AFTER`], since the server does not evict what another node reaches; then it fences itself and says so, which lets the server replace |
//! | as that, but has just told it that this node is silent, as has every other that reaches it | fences its pods: they may be replaced at any moment |
//! | it and those that answer that they do not reach the server either are more than half of all workers | serves on: the server is gone, or on the smaller side, where it may not evict so many (`control::Brake`) |
//! | they are not | fences its pods: it is on the smaller side of a partition |
//! | there is no other worker | serves on: nothing can be replaced anywhere |
//!
//! Nobody is silent who lets a TCP connection be made: a machine's kernel answers long before a starved agent does. And a node whose own
//! processor is starved is patient by as much as it was late of late, as the server is, which it tells so with every beat: by what the
//! server is known to have heard, no more.
//!
//! The server replaces nothing that no node has told it to be silent. So whoever did say that of this node speaks against its having been
//! left alone.
//!
//! Serving on is for a node that was awake all the time: what others answer now says nothing of the time it slept through. See
//! [`contact`](super::contact) for what it knows of that.

use std::time::Duration;

use tokio::time::Instant;

use super::peers::Found;
use crate::orchestrator::tunnel::NEVER_MS;

/// Without contact for so long the lease has lapsed. Shorter than the time after which the server may replace this node's pods (a pause of a
/// second, a beat, and its patience: `control::detector`).
pub(crate) const LEASE: Duration = Duration::from_millis(1250);
/// Other nodes are asked when contact is older than this, which is four pings: one is sent with every beat.
pub(crate) const ASK_AFTER: Duration = Duration::from_millis(700);
/// A node that is cut off from the server alone gives up its pods after so long.
pub(super) const CUT_OFF_AFTER: Duration = Duration::from_secs(20);
/// An answer of another node counts for so long.
pub(crate) const ANSWER_COUNTS: Duration = Duration::from_millis(1500);
/// The server may replace a node for so long on account of one that told it that the node is silent (`control::detector`).
const DENOUNCED_FOR: Duration = Duration::from_secs(2);
/// A server that lives knows so long after it was last heard by a node that it does not hear that node either, and then counts it to those
/// that keep its brake: the node's next beat, three in silence and the least patience, and a round (`control::detector`).
const UNTIL_THE_SERVER_KNOWS: Duration = Duration::from_millis(800);
/// The server is patient by as much as a node was late, by these at least and at most (`control::detector`); the least is part of [`LEASE`].
const LATE_MIN: Duration = Duration::from_millis(150);
const LATE_MAX: Duration = Duration::from_secs(3);

/// What another worker said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerSaid {
    /// When it was asked.
    pub(crate) asked: Instant,
    /// When that was known here.
    pub(crate) answered: Instant,
    /// What came back.
    pub(crate) word: Word,
    /// When it told the server last that this node is silent, or fenced, if it did: nothing is replaced without such a word.
    pub(crate) denounced: Option<Instant>,
}

impl PeerSaid {
    /// What was found, if it says anything.
    pub(crate) fn new(asked: Instant, answered: Instant, found: &Found) -> Option<Self> {
        let mut denounced = None;
        let word = match found {
            Found::Agent(hello) => {
                denounced = hello
                    .denounced_ms
                    .and_then(|ago_ms| answered.checked_sub(Duration::from_millis(ago_ms)));
                if hello.contact_ms == NEVER_MS {
                    Word::Unheard
                } else {
                    Word::Contact(Duration::from_millis(hello.contact_ms))
                }
            }
            Found::Machine => Word::Reached,
            Found::Silence => Word::Silence,
            Found::Late => return None,
        };
        Some(Self {
            asked,
            answered,
            word,
            denounced,
        })
    }
}

/// What came back from another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// It said how long ago the server heard it.
    Contact(Duration),
    /// It said that the server has not heard it since it started, which tells nothing of the time before.
    Unheard,
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
    /// The server does not hear this node, but does not replace its pods either, until then at least: as before, with or without a fence.
    ServeOn(Instant),
    /// As that: another reaches the server, which leaves this node alone for the time being.
    CutOff(Instant),
    /// Nor can they have been replaced since the lease lapsed: the server was gone by then, and is until this time at least.
    LeftAlone(Instant),
    /// Keep service traffic away from the pods.
    Fence,
    /// Nobody has answered yet: as before.
    Undecided,
}

/// What this node itself knows of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Own {
    /// When the server is known to have heard it last.
    pub(super) heard: Instant,
    /// When the lease lapses.
    pub(super) lapse: Instant,
    /// When the last lease lapsed, or will, under which nothing here had been replaced.
    pub(super) sure: Instant,
}

/// When the lease lapses that counts from `heard`, by a node that was `late` as far as the server knew then.
pub(crate) fn lapses(heard: Instant, late: Duration) -> Instant {
    heard + LEASE + late.clamp(LATE_MIN, LATE_MAX) - LATE_MIN
}

/// The table of the module's head. `workers` are the last words of all other workers.
pub(super) fn judge(now: Instant, own: &Own, workers: &[Option<PeerSaid>]) -> Lease {
    if now < own.lapse {
        return Lease::Held;
    }
    if workers.is_empty() {
        return Lease::LeftAlone(now + ANSWER_COUNTS);
    }
    let fresh = |said: &&PeerSaid| now.saturating_duration_since(said.asked) < ANSWER_COUNTS;
    let said: Vec<PeerSaid> = workers.iter().flatten().filter(fresh).copied().collect();
    let in_contact = said
        .iter()
        .filter(|said| matches!(said.word, Word::Contact(contact) if contact < ASK_AFTER));
    let is_denouncer = |said: &&PeerSaid| {
        said.denounced
            .is_some_and(|at| at > own.heard && at + DENOUNCED_FOR > said.answered)
    };
    let (denouncers, vouchers): (Vec<&PeerSaid>, Vec<&PeerSaid>) =
        in_contact.partition(is_denouncer);
    if let Some(asked) = vouchers.iter().map(|said| said.asked).max() {
        return Lease::CutOff(asked + ANSWER_COUNTS);
    }
    if !denouncers.is_empty() {
        return Lease::Fence;
    }
    let is_majority = |others: usize| (others + 1) * 2 > workers.len() + 1;
    // The older the first of their answers, the sooner they are a majority no more.
    let counts_until = |asked: &[Instant]| {
        asked
            .iter()
            .min()
            .map_or(now, |first| *first + ANSWER_COUNTS)
    };
    // When nothing could be replaced any more, as far as it can tell: by a server that was gone, or had its brake on.
    let gone_by = |said: &PeerSaid| match said.word {
        Word::Contact(contact) => said
            .answered
            .checked_sub(contact)
            .map(|heard| heard + UNTIL_THE_SERVER_KNOWS),
        Word::Unheard | Word::Reached | Word::Silence => None,
    };
    let in_time = |said: &&PeerSaid| gone_by(said).is_some_and(|gone| gone <= own.sure);
    let lost_in_time: Vec<Instant> = said.iter().filter(in_time).map(|said| said.asked).collect();
    // The server may have gone on hearing who did not hear it.
    let denounced = said
        .iter()
        .filter_map(|said| said.denounced)
        .any(|at| at + LEASE > own.sure);
    if is_majority(lost_in_time.len()) && !denounced {
        return Lease::LeftAlone(counts_until(&lost_in_time));
    }
    let is_lost = |said: &&PeerSaid| matches!(said.word, Word::Contact(_) | Word::Unheard);
    let lost: Vec<Instant> = said.iter().filter(is_lost).map(|said| said.asked).collect();
    if is_majority(lost.len()) {
        return Lease::ServeOn(counts_until(&lost));
    }
    let silent = said
        .iter()
        .filter(|said| said.word == Word::Silence)
        .count();
    if is_majority(workers.len() - silent) {
        Lease::Undecided
    } else {
        Lease::Fence
    }
}

#[cfg(test)]
mod tests {
    use super::super::peers::Hello;
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn own(heard: Instant, late: Duration) -> Own {
        let lapse = lapses(heard, late);
        Own {
            heard,
            lapse,
            sure: lapse,
        }
    }

    #[expect(
        clippy::unnecessary_wraps,
        reason = "what a peer may have said is an Option"
    )]
    fn said(asked: Instant, word: Word) -> Option<PeerSaid> {
        Some(PeerSaid {
            asked,
            answered: asked,
            word,
            denounced: None,
        })
    }

    /// A verdict without its time.
    fn kind(lease: Lease) -> &'static str {
        match lease {
            Lease::Held => "held",
            Lease::ServeOn(_) => "serve on",
            Lease::CutOff(_) => "cut off",
            Lease::LeftAlone(_) => "left alone",
            Lease::Fence => "fence",
            Lease::Undecided => "undecided",
        }
    }

    #[test]
    fn cut_off_or_left_alone() {
        let heard = Instant::now();
        let now = heard + MS(1300);
        let said = |word: Word| said(now - MS(200), word);
        let contact = |age| said(Word::Contact(MS(age)));
        let (silence, reached) = (said(Word::Silence), said(Word::Reached));
        let old = self::said(now - MS(1600), Word::Silence);
        for (workers, wanted) in [
            (vec![], "left alone"),
            (vec![None], "undecided"),
            (vec![old], "undecided"),
            (vec![silence], "fence"),
            (vec![reached], "undecided"),
            (vec![silence, None], "undecided"),
            (vec![silence, silence, None], "fence"),
            (vec![contact(1200), silence], "left alone"),
            (vec![contact(1200), silence, silence], "fence"),
            (
                vec![contact(1200), contact(1300), silence, None],
                "left alone",
            ),
            (vec![contact(100), silence, silence], "cut off"),
            (vec![said(Word::Unheard)], "serve on"),
            (vec![said(Word::Unheard), silence, silence], "fence"),
        ] {
            assert_eq!(
                kind(judge(now, &own(heard, Duration::ZERO), &workers)),
                wanted,
                "{workers:?}"
            );
            assert_eq!(
                judge(now, &own(heard, MS(250)), &workers),
                Lease::Held,
                "it was late itself"
            );
        }
    }

    #[test]
    fn left_alone_is_who_lost_the_server_before_it_could_replace_anything() {
        let heard = Instant::now();
        let now = heard + MS(10_000);
        let lost = |age| said(now - MS(200), Word::Contact(MS(age)));
        for (workers, wanted) in [
            (vec![lost(9500), lost(9600)], "left alone"),
            (vec![lost(9500), lost(2000)], "left alone"),
            (vec![lost(9360), lost(2000)], "left alone"),
            (vec![lost(9340), lost(2000)], "serve on"),
            (vec![lost(2000), lost(2000)], "serve on"),
            (vec![lost(9500), lost(100)], "cut off"),
        ] {
            let own = own(heard, Duration::ZERO);
            assert_eq!(kind(judge(now, &own, &workers)), wanted, "{workers:?}");
            let replaced = Own {
                sure: heard - MS(5000),
                ..own
            };
            assert_ne!(
                kind(judge(now, &replaced, &workers)),
                "left alone",
                "it may have been replaced before it was heard last"
            );
        }
        let denouncer = lost(9500).map(|said| PeerSaid {
            denounced: Some(heard + MS(900)),
            ..said
        });
        assert_eq!(
            kind(judge(now, &own(heard, Duration::ZERO), &[denouncer])),
            "serve on",
            "it was said to be silent"
        );
        let before = lost(9500).map(|said| PeerSaid {
            denounced: Some(heard - MS(100)),
            ..said
        });
        assert_eq!(
            kind(judge(now, &own(heard, Duration::ZERO), &[before])),
            "left alone",
            "it was heard since"
        );
    }

    #[test]
    fn who_was_never_heard_is_no_contact() {
        let now = Instant::now();
        let hello = |contact_ms| {
            Found::Agent(Hello {
                contact_ms,
                fenced: false,
                denounced_ms: None,
            })
        };
        let word = |contact_ms| PeerSaid::new(now, now, &hello(contact_ms)).map(|said| said.word);
        assert_eq!(
            (word(100), word(NEVER_MS)),
            (Some(Word::Contact(MS(100))), Some(Word::Unheard))
        );
    }

    #[test]
    fn the_word_of_one_that_called_this_node_silent_is_none() {
        let heard = Instant::now();
        let now = heard + MS(3000);
        let said = |denounced: Option<u64>| {
            let denounced = denounced.map(|ago_ms| now - MS(ago_ms));
            Some(PeerSaid {
                asked: now - MS(200),
                answered: now,
                word: Word::Contact(MS(100)),
                denounced,
            })
        };
        for (workers, wanted) in [
            (vec![said(Some(1900))], "fence"),
            (vec![said(Some(2100))], "cut off"),
            (vec![said(Some(1900)), said(None)], "cut off"),
            (vec![said(Some(1900)), said(Some(300))], "fence"),
        ] {
            assert_eq!(
                kind(judge(now, &own(heard, Duration::ZERO), &workers)),
                wanted,
                "{workers:?}"
            );
        }
        let since = own(now - MS(1300), Duration::ZERO);
        assert_eq!(
            kind(judge(now, &since, &[said(Some(1900))])),
            "cut off",
            "it was heard since"
        );
    }

    #[test]
    fn a_verdict_says_until_when_it_holds() {
        let heard = Instant::now();
        let now = heard + MS(3000);
        let lost = |ago, age| said(now - MS(ago), Word::Contact(MS(age)));
        let lease = |workers: &[Option<PeerSaid>]| judge(now, &own(heard, Duration::ZERO), workers);
        assert_eq!(
            lease(&[lost(900, 10), lost(100, 20)]),
            Lease::CutOff(now + MS(1400)),
            "by the word of one"
        );
        assert_eq!(
            lease(&[lost(900, 2100), lost(100, 2900)]),
            Lease::LeftAlone(now + MS(600)),
            "by those of two"
        );
        assert_eq!(
            lease(&[lost(900, 700), lost(100, 1500)]),
            Lease::ServeOn(now + MS(600))
        );
    }
}

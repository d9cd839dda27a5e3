//! What this node has said to others, and to the server of others: the two must not contradict each other.
//!
//! A node without contact serves on by what others answer it ([`lease`](super::lease)), and the server replaces it by the word of another that
//! it is silent (`control::detector`). Both may be the same node: packets get lost on the way there and not on the way back, or the network
//! changes in between. So whoever answered another does not call it silent while the answer may count; and whoever called it silent says so
//! with its answer.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::lease::ANSWER_COUNTS;
use super::peers::Hello;
use crate::orchestrator::tunnel::PeerAnswer;

/// Who was answered serves on by that for so long at most: as long as an answer counts, and two rounds of its fence.
const SERVES_ON_FOR: Duration = ANSWER_COUNTS.saturating_add(Duration::from_millis(200));

/// The last words, by the other node.
#[derive(Debug)]
pub(crate) struct Words<N> {
    /// When it was answered.
    answered: BTreeMap<N, Instant>,
    /// When the server was told that it is silent, or fenced: that it may be replaced.
    denounced: BTreeMap<N, Instant>,
}

impl<N> Default for Words<N> {
    fn default() -> Self {
        Self {
            answered: BTreeMap::new(),
            denounced: BTreeMap::new(),
        }
    }
}

impl<N: Ord> Words<N> {
    /// What to say to another that asks.
    pub(crate) fn hello(&mut self, now: Instant, asker: N, contact_ms: u64, fenced: bool) -> Hello {
        let ago = |at: &Instant| {
            u64::try_from(now.saturating_duration_since(*at).as_millis()).unwrap_or(u64::MAX)
        };
        let denounced_ms = self.denounced.get(&asker).map(ago);
        self.answered.insert(asker, now);
        Hello {
            contact_ms,
            fenced,
            denounced_ms,
        }
    }

    /// What to tell the server of another of which this was found.
    pub(crate) fn testify(&mut self, now: Instant, about: N, found: PeerAnswer) -> PeerAnswer {
        let serves_on = self
            .answered
            .get(&about)
            .is_some_and(|at| now.saturating_duration_since(*at) < SERVES_ON_FOR);
        match found {
            PeerAnswer::Silent if serves_on => PeerAnswer::Serving,
            PeerAnswer::Silent | PeerAnswer::Fenced => {
                self.denounced.insert(about, now);
                found
            }
            PeerAnswer::Serving | PeerAnswer::Refused | PeerAnswer::Late => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn who_was_answered_is_not_called_silent_while_that_counts() {
        let start = Instant::now();
        let mut words = Words::default();
        assert_eq!(
            words.hello(start, "w1", 100, false),
            Hello {
                contact_ms: 100,
                fenced: false,
                denounced_ms: None
            }
        );
        for (ms, found, said) in [
            (100, PeerAnswer::Late, PeerAnswer::Late),
            (200, PeerAnswer::Silent, PeerAnswer::Serving),
            (300, PeerAnswer::Fenced, PeerAnswer::Fenced),
            (1600, PeerAnswer::Silent, PeerAnswer::Serving),
            (1700, PeerAnswer::Silent, PeerAnswer::Silent),
        ] {
            assert_eq!(words.testify(start + MS(ms), "w1", found), said, "{ms}");
        }
        assert_eq!(
            words.testify(start, "w2", PeerAnswer::Silent),
            PeerAnswer::Silent,
            "nothing was said to that one"
        );
    }

    #[test]
    fn who_was_called_silent_is_told_so() {
        let start = Instant::now();
        let mut words = Words::default();
        words.testify(start, "w1", PeerAnswer::Silent);
        assert_eq!(
            words.hello(start + MS(300), "w1", 100, false).denounced_ms,
            Some(300)
        );
        assert_eq!(
            words.hello(start + MS(300), "w2", 100, false).denounced_ms,
            None
        );
    }
}

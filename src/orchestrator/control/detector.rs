//! Which nodes are silent, from their beats.
//!
//! Silence counts from the last beat, from the moment a node was first known, or from the end of the server's own last stall,
//! whichever is latest: a server that was itself stopped or starved (its clock jumps over several rounds) suspects nobody for what it did not hear.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::world::Liveness;

/// Silent for so long, a node is avoided by traffic; five beats and a scheduling delay. Reversible at once.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(2500);
/// Silent for so long, a node's pods are replaced.
pub const EVICT_AFTER: Duration = Duration::from_secs(8);
/// After a start, agents have so long to come back before anything is evicted.
const START_GRACE: Duration = Duration::from_secs(10);
/// The detector looks at least so often while nodes exist.
const ROUND: Duration = Duration::from_millis(500);
/// A round that comes so late means that the server itself was stalled.
const STALL: Duration = Duration::from_millis(1000);

/// Follows the beats of all nodes.
#[derive(Debug)]
pub(super) struct Detector {
    started: Instant,
    /// Silence before this moment is not held against anybody.
    amnesty: Instant,
    last_round: Instant,
    first_seen: BTreeMap<String, Instant>,
}

impl Detector {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, amnesty: now, last_round: now, first_seen: BTreeMap::new() }
    }

    /// How each of these nodes fares now.
    pub(super) fn observe<'a>(
        &mut self,
        now: Instant,
        nodes: impl Iterator<Item = &'a str>,
        beats: &BTreeMap<String, Instant>,
    ) -> BTreeMap<String, Liveness> {
        let late = now.saturating_duration_since(self.last_round).saturating_sub(ROUND);
        if late > STALL {
            tracing::warn!(late_ms = late.as_millis(), "the server was stalled: no node is suspected for that time");
            self.amnesty = now;
        }
        self.last_round = now;
        let seen = std::mem::take(&mut self.first_seen);
        let mut liveness = BTreeMap::new();
        for node in nodes {
            let first = seen.get(node).copied().unwrap_or(now);
            self.first_seen.insert(node.to_owned(), first);
            let last = beats.get(node).copied().unwrap_or(first).max(self.amnesty);
            let silence = now.saturating_duration_since(last);
            let state = if silence < SUSPECT_AFTER {
                Liveness::Alive
            } else if silence < EVICT_AFTER || now.saturating_duration_since(self.started) < START_GRACE {
                Liveness::Suspect
            } else {
                Liveness::Lost
            };
            liveness.insert(node.to_owned(), state);
        }
        liveness
    }

    /// When to observe again at the latest.
    pub(super) fn next_round(&self) -> Instant {
        self.last_round + ROUND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        detector: Detector,
        start: Instant,
        beats: BTreeMap<String, Instant>,
    }

    impl Case {
        fn new() -> Self {
            let start = Instant::now();
            Self { detector: Detector::new(start), start, beats: BTreeMap::new() }
        }

        /// Rounds of half a second until then, with w1 beating in between or not.
        fn until(&mut self, from_ms: u64, to_ms: u64, beating: bool) -> Liveness {
            let mut last = Liveness::Alive;
            for at in (from_ms..=to_ms).step_by(500) {
                last = self.at(at, beating);
            }
            last
        }

        fn at(&mut self, at_ms: u64, beating: bool) -> Liveness {
            let now = self.start + Duration::from_millis(at_ms);
            if beating {
                self.beats.insert("w1".to_owned(), now);
            }
            self.detector.observe(now, ["w1"].into_iter(), &self.beats)["w1"]
        }
    }

    #[test]
    fn silence_is_suspected_then_held_lost_then_forgiven() {
        let mut case = Case::new();
        assert_eq!(case.until(0, 20_000, true), Liveness::Alive);
        assert_eq!(case.until(20_500, 22_000, false), Liveness::Alive);
        assert_eq!(case.at(22_500, false), Liveness::Suspect);
        assert_eq!(case.until(23_000, 27_500, false), Liveness::Suspect);
        assert_eq!(case.at(28_000, false), Liveness::Lost);
        assert_eq!(case.at(28_100, true), Liveness::Alive);
    }

    #[test]
    fn a_server_that_was_stalled_suspects_nobody() {
        let mut case = Case::new();
        assert_eq!(case.until(0, 20_000, true), Liveness::Alive);
        assert_eq!(case.at(60_000, false), Liveness::Alive);
        assert_eq!(case.until(60_500, 62_000, false), Liveness::Alive);
        assert_eq!(case.until(62_500, 67_500, false), Liveness::Suspect);
        assert_eq!(case.at(68_000, false), Liveness::Lost);
    }

    #[test]
    fn nothing_is_lost_just_after_a_start() {
        let mut case = Case::new();
        assert_eq!(case.until(0, 9_500, false), Liveness::Suspect);
        assert_eq!(case.at(10_000, false), Liveness::Lost);
    }
}

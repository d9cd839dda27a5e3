//! The search: ddmin over the faults (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002), then each
//! fault's duration halved for as long as it still fails.
//!
//! It asks no candidate twice, and every candidate that fails is smaller than the one that failed before: the last that did is the
//! smallest known, whenever the search is stopped. Without a stop no single fault of the result can be left out.

use std::collections::BTreeMap;
use std::time::Duration;

/// Shorter than this no fault is tried: it has to be seen to act.
const SHORTEST: Duration = Duration::from_millis(500);
/// Durations are tried in whole multiples of this.
const GRAIN_MS: u64 = 100;
/// A duration is short enough if what was seen to be too short is less than this part of it away.
const CLOSE_ENOUGH: u32 = 8;

/// A fault of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kept {
    /// Its place among the original's.
    pub fault: usize,
    /// For how long it acts; zero: once.
    pub lasts: Duration,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It fails as the original does.
    Fails,
    /// It does not, or nobody knows.
    Holds,
    /// Nothing more is to be tried.
    Stopped,
}

/// Tells whether a candidate still fails. The search asks one at a time.
pub trait Oracle {
    /// Tries a candidate: faults in the order of the original.
    fn try_one(&mut self, candidate: &[Kept]) -> impl Future<Output = Answer>;
}

/// Shrinks a candidate that is known to fail. Returns the smallest that was seen to.
pub async fn shrink<O: Oracle>(all: Vec<Kept>, oracle: &mut O) -> Vec<Kept> {
    let mut search = Search {
        oracle,
        known: BTreeMap::new(),
        stopped: false,
    };
    let fewest = search.fewest(all).await;
    search.shortest(fewest).await
}

struct Search<'o, O> {
    oracle: &'o mut O,
    known: BTreeMap<Vec<Kept>, bool>,
    stopped: bool,
}

impl<O: Oracle> Search<'_, O> {
    async fn fails(&mut self, candidate: &[Kept]) -> bool {
        if self.stopped {
            return false;
        }
        if let Some(known) = self.known.get(candidate) {
            return *known;
        }
        let fails = match self.oracle.try_one(candidate).await {
            Answer::Fails => true,
            Answer::Holds => false,
            Answer::Stopped => {
                self.stopped = true;
                return false;
            }
        };
        self.known.insert(candidate.to_vec(), fails);
        fails
    }

    async fn fewest(&mut self, all: Vec<Kept>) -> Vec<Kept> {
        // Whatever fails without any fault needs none of them.
        if self.fails(&[]).await {
            return Vec::new();
        }
        let mut current = all;
        let mut parts = 2;
        while current.len() >= 2 && !self.stopped {
            match self.smaller(&current, parts).await {
                Some((smaller, next)) => {
                    current = smaller;
                    parts = next;
                }
                None if parts < current.len() => parts = (parts * 2).min(current.len()),
                None => break,
            }
        }
        current
    }

    /// A part that fails, or all but a part, and in how many parts to cut it next.
    async fn smaller(&mut self, current: &[Kept], parts: usize) -> Option<(Vec<Kept>, usize)> {
        let cut = cut(current, parts);
        for part in &cut {
            if self.fails(part).await {
                return Some((part.clone(), 2));
            }
        }
        // With two parts each is all but the other.
        if parts == 2 {
            return None;
        }
        for left_out in 0..cut.len() {
            let others = cut.iter().enumerate();
            let others = others.filter(|(place, _)| *place != left_out);
            let rest: Vec<Kept> = others.flat_map(|(_, part)| part.clone()).collect();
            if self.fails(&rest).await {
                return Some((rest, (parts - 1).max(2)));
            }
        }
        None
    }

    async fn shortest(&mut self, mut current: Vec<Kept>) -> Vec<Kept> {
        for place in 0..current.len() {
            let mut too_short = Duration::ZERO;
            while let Some(lasts) = between(too_short, current[place].lasts) {
                let mut shorter = current.clone();
                shorter[place].lasts = lasts;
                if self.fails(&shorter).await {
                    current = shorter;
                } else if self.stopped {
                    return current;
                } else {
                    too_short = lasts;
                }
            }
        }
        current
    }
}

/// Cut into so many parts of nearly one size; there are at least as many.
fn cut(current: &[Kept], parts: usize) -> Vec<Vec<Kept>> {
    let len = current.len();
    (0..parts)
        .map(|part| current[part * len / parts..(part + 1) * len / parts].to_vec())
        .collect()
}

/// The duration to try next, between one that is too short and one that fails; `None` if these are close enough.
fn between(too_short: Duration, fails: Duration) -> Option<Duration> {
    let gap = fails.saturating_sub(too_short);
    if gap <= SHORTEST.max(fails / CLOSE_ENOUGH) {
        return None;
    }
    let middle = u64::try_from((too_short + gap / 2).as_millis()).ok()?;
    let middle = Duration::from_millis(middle / GRAIN_MS * GRAIN_MS);
    (middle > too_short && middle >= SHORTEST && middle < fails).then_some(middle)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Fails if the candidate says so; notes what it was asked.
    struct Generated<F> {
        fails: F,
        asked: Vec<Vec<Kept>>,
        /// Stops at this question.
        stop_at: usize,
        last_failed: Vec<Kept>,
    }

    impl<F: Fn(&[Kept]) -> bool> Oracle for Generated<F> {
        async fn try_one(&mut self, candidate: &[Kept]) -> Answer {
            if self.asked.len() == self.stop_at {
                return Answer::Stopped;
            }
            self.asked.push(candidate.to_vec());
            if (self.fails)(candidate) {
                self.last_failed = candidate.to_vec();
                Answer::Fails
            } else {
                Answer::Holds
            }
        }
    }

    fn all(lasts_s: &[u64]) -> Vec<Kept> {
        let kept = |(fault, lasts): (usize, &u64)| Kept {
            fault,
            lasts: Duration::from_secs(*lasts),
        };
        lasts_s.iter().enumerate().map(kept).collect()
    }

    fn search(
        all: &[Kept],
        stop_at: usize,
        fails: impl Fn(&[Kept]) -> bool,
    ) -> (Vec<Kept>, Vec<Vec<Kept>>) {
        let mut oracle = Generated {
            fails,
            asked: Vec::new(),
            stop_at,
            last_failed: all.to_vec(),
        };
        let found = futures::executor::block_on(shrink(all.to_vec(), &mut oracle));
        assert_eq!(
            found, oracle.last_failed,
            "the smallest is the last that failed"
        );
        (found, oracle.asked)
    }

    fn faults_of(candidate: &[Kept]) -> BTreeSet<usize> {
        candidate.iter().map(|kept| kept.fault).collect()
    }

    fn has(candidate: &[Kept], fault: usize, at_least_ms: u64) -> bool {
        let long = Duration::from_millis(at_least_ms);
        candidate
            .iter()
            .any(|kept| kept.fault == fault && kept.lasts >= long)
    }

    #[test]
    fn of_two_faults_that_fail_together_the_others_are_left_out_and_both_shortened() {
        let fails = |candidate: &[Kept]| has(candidate, 1, 3_000) && has(candidate, 4, 0);
        let (found, asked) = search(&all(&[9, 40, 5, 5, 0, 7]), usize::MAX, fails);
        assert_eq!(faults_of(&found), BTreeSet::from([1, 4]));
        let (first, second) = (found[0].lasts.as_millis(), found[1].lasts);
        assert!((3_000..=3_500).contains(&first), "{first} ms");
        assert_eq!(second, Duration::ZERO, "what acts once has no duration");
        assert!(asked.len() <= 25, "{}", asked.len());
    }

    #[test]
    fn what_fails_without_faults_needs_none_and_is_asked_once() {
        let (found, asked) = search(&all(&[9, 9]), usize::MAX, |_| true);
        assert_eq!((found.len(), asked.len()), (0, 1));
    }

    #[test]
    fn a_single_fault_stays_and_is_no_shorter_than_half_a_second() {
        let (found, _) = search(&all(&[30]), usize::MAX, |candidate| !candidate.is_empty());
        assert_eq!(found.len(), 1);
        let lasts = found[0].lasts.as_millis();
        assert!((500..=1_000).contains(&lasts), "{lasts} ms");
    }

    proptest! {
        /// Any set of needed faults is found, each as short as its own need allows, and nothing is asked twice.
        #[test]
        fn what_is_needed_is_found(
            lasts in prop::collection::vec(1_u64..60, 1..12),
            needs in prop::collection::btree_map(0_usize..12, 0_u64..60, 1..5),
        ) {
            let original = all(&lasts);
            let mut needed: BTreeMap<usize, u64> = BTreeMap::new();
            for (fault, need) in needs {
                let fault = fault % lasts.len();
                needed.insert(fault, need.min(lasts[fault]) * 1_000);
            }
            let fails = |candidate: &[Kept]| {
                needed.iter().all(|(fault, need)| has(candidate, *fault, *need))
            };
            let (found, asked) = search(&original, usize::MAX, fails);
            prop_assert_eq!(faults_of(&found), needed.keys().copied().collect::<BTreeSet<_>>());
            for kept in &found {
                let lasts = u64::try_from(kept.lasts.as_millis()).unwrap();
                let need = needed[&kept.fault];
                prop_assert!(lasts >= need);
                prop_assert!(lasts - need <= (lasts / 8).max(1_000), "{} of {}", lasts, need);
            }
            let once: BTreeSet<_> = asked.iter().collect();
            prop_assert_eq!(once.len(), asked.len());
        }

        /// Whatever fails or not: without a stop no single fault of the result can be left out; with one the result failed.
        #[test]
        fn no_fault_of_the_result_can_be_left_out(
            count in 1_usize..8,
            salt in any::<u64>(),
            stop_at in 0_usize..60,
        ) {
            let original = all(&vec![2; count]);
            let whole = original.clone();
            let fails = move |candidate: &[Kept]| {
                let bits = candidate.iter().fold(0_u64, |bits, kept| bits | (1_u64 << kept.fault));
                let mixed = (bits ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
                faults_of(candidate) == faults_of(&whole) || !candidate.is_empty() && mixed % 3 == 0
            };
            let (found, asked) = search(&original, usize::MAX, &fails);
            prop_assert!(fails(&found));
            for left_out in 0..found.len() {
                let mut fewer: Vec<Kept> = original
                    .iter()
                    .filter(|kept| faults_of(&found).contains(&kept.fault))
                    .copied()
                    .collect();
                fewer.remove(left_out);
                prop_assert!(!fails(&fewer), "{:?}", fewer);
            }
            let (stopped, asked_until) = search(&original, stop_at, &fails);
            prop_assert!(fails(&stopped));
            prop_assert_eq!(&asked_until[..], &asked[..stop_at.min(asked.len())]);
        }
    }
}

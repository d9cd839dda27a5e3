//! What a directed link does to its frames. Pure: time comes in as an argument, and chance from a seed.
//!
//! A link may carry several layers of rules, each set and healed under its own tag (a scenario's step, or `by-hand`), so that healing one
//! fault never heals another. A frame passes the layers in the order in which they were set; any of them may drop it, and what they delay adds up.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::link::{InvalidRule, LinkRule, MAX_LAYERS};

/// How long a frame may wait for its turn on a link with a rate; one that would wait longer is dropped, as by a router's full queue.
pub(super) const RATE_QUEUE: Duration = Duration::from_millis(200);
/// How much later than its turn a reordered frame leaves: the frames behind it overtake.
const REORDERED_BY: Duration = Duration::from_millis(10);

/// Whose rule it is, for how long it acts, and what decides its chances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The name under which it is replaced and healed.
    pub tag: String,
    /// It heals itself after this.
    pub lasts: Option<Duration>,
    /// Same seed, same link, same frames: same fates.
    pub seed: u64,
}

impl Layer {
    /// A rule that lasts until it is healed.
    #[must_use]
    pub fn tagged(tag: &str) -> Self {
        Self {
            tag: tag.to_owned(),
            lasts: None,
            seed: 1,
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// At once, as on a perfect link.
    Pass,
    /// When it is due, and perhaps once more.
    Later {
        due: Instant,
        twice: bool,
        reordered: bool,
    },
    /// Cut or lost.
    Lose,
    /// The queue of a link with a rate was full.
    Overflow,
}

/// A directed link: from port, to port.
pub(super) type Link = (usize, usize);

/// Numbers that are uniform in 0..1 and follow from a seed alone, on every platform and in every version: splitmix64 (Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn of_link(seed: u64, (from, to): Link) -> Self {
        let mut chance = Self(seed ^ ((from as u64) << 48) ^ ((to as u64) << 32));
        chance.next();
        chance
    }

    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
        let fraction = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
        fraction
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.next() < share
    }
}

/// One layer of one link, with what it remembers from frame to frame.
#[derive(Debug)]
struct Shaper {
    tag: String,
    rule: LinkRule,
    until: Option<Instant>,
    chance: Chance,
    /// When the link's rate has sent everything before.
    free_at: Option<Instant>,
    /// When the frame before is due.
    last_due: Option<Instant>,
}

impl Shaper {
    fn acts(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// Decides about a frame of `bytes` that comes to this layer at `at`.
    fn fate(&mut self, at: Instant, bytes: usize) -> Fate {
        let rule = self.rule;
        if rule.cut || self.chance.happens(rule.loss) {
            return Fate::Lose;
        }
        let mut due = at;
        if let Some(rate) = rule.rate {
            let turn = self.free_at.map_or(at, |free| free.max(at));
            if turn - at > RATE_QUEUE {
                return Fate::Overflow;
            }
            let nanos = (bytes as u64).saturating_mul(8_000_000_000) / rate;
            due = turn + Duration::from_nanos(nanos);
            self.free_at = Some(due);
        }
        due += rule.delay;
        if !rule.jitter.is_zero() {
            due = due - rule.jitter + rule.jitter.mul_f64(2.0 * self.chance.next());
        }
        due = self.last_due.map_or(due, |last| last.max(due));
        self.last_due = Some(due);
        let reordered = self.chance.happens(rule.reorder);
        if reordered {
            due += REORDERED_BY;
        }
        let twice = self.chance.happens(rule.duplicate);
        if due == at && !twice {
            Fate::Pass
        } else {
            Fate::Later {
                due,
                twice,
                reordered,
            }
        }
    }
}

/// The rules in force. A link without one is perfect.
#[derive(Debug, Default)]
pub(super) struct RuleTable(BTreeMap<Link, Mutex<Vec<Shaper>>>);

impl RuleTable {
    /// Sets a layer of a link, in place of the one with the same tag. A perfect rule removes it.
    pub(super) fn set(
        &mut self,
        link: Link,
        rule: LinkRule,
        layer: &Layer,
        now: Instant,
    ) -> Result<(), InvalidRule> {
        if rule == LinkRule::default() {
            self.heal(Some(link), Some(&layer.tag));
            return Ok(());
        }
        let layers = self
            .0
            .entry(link)
            .or_default()
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        layers.retain(|shaper| shaper.tag != layer.tag && shaper.acts(now));
        if layers.len() >= MAX_LAYERS {
            return Err(InvalidRule::Layers);
        }
        layers.push(Shaper {
            tag: layer.tag.clone(),
            rule,
            until: layer.lasts.map(|lasts| now + lasts),
            chance: Chance::of_link(layer.seed, link),
            free_at: None,
            last_due: None,
        });
        Ok(())
    }

    /// Removes the layers of one link or of all, with one tag or any.
    pub(super) fn heal(&mut self, link: Option<Link>, tag: Option<&str>) {
        self.0.retain(|of, layers| {
            let layers = layers.get_mut().unwrap_or_else(PoisonError::into_inner);
            layers.retain(|shaper| {
                link.is_some_and(|link| link != *of) || tag.is_some_and(|tag| tag != shaper.tag)
            });
            !layers.is_empty()
        });
    }

    /// What acts at `now`, ordered by link, then by age.
    pub(super) fn acting(&self, now: Instant) -> Vec<(Link, String, LinkRule)> {
        let mut rules = Vec::new();
        for (link, layers) in &self.0 {
            let layers = layers.lock().unwrap_or_else(PoisonError::into_inner);
            rules.extend(
                layers
                    .iter()
                    .filter(|shaper| shaper.acts(now))
                    .map(|s| (*link, s.tag.clone(), s.rule)),
            );
        }
        rules
    }

    /// Decides about one frame on `link`. The time is only asked for when a rule needs it.
    pub(super) fn fate(&self, link: Link, bytes: usize, now: impl FnOnce() -> Instant) -> Fate {
        let Some(layers) = self.0.get(&link) else {
            return Fate::Pass;
        };
        let now = now();
        let mut all = Fate::Pass;
        for shaper in layers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter_mut()
            .filter(|shaper| shaper.acts(now))
        {
            let at = if let Fate::Later { due, .. } = all {
                due
            } else {
                now
            };
            all = match (all, shaper.fate(at, bytes)) {
                (_, dropped @ (Fate::Lose | Fate::Overflow)) => return dropped,
                (before, Fate::Pass) => before,
                (
                    Fate::Later {
                        twice, reordered, ..
                    },
                    Fate::Later {
                        due,
                        twice: again,
                        reordered: overtaken,
                    },
                ) => Fate::Later {
                    due,
                    twice: twice || again,
                    reordered: reordered || overtaken,
                },
                (_, later) => later,
            };
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn table(link: Link, rule: LinkRule) -> (RuleTable, Instant) {
        let now = Instant::now();
        let mut table = RuleTable::default();
        table.set(link, rule, &Layer::tagged("test"), now).unwrap();
        (table, now)
    }

    /// When frames sent `gap` apart are due, relative to their sending; `None` for those that do not arrive.
    fn delays(rule: LinkRule, count: u32, gap: Duration) -> Vec<Option<Duration>> {
        let (table, begin) = table((0, 1), rule);
        let fate = |index: u32| {
            let at = begin + gap * index;
            match table.fate((0, 1), 1250, || at) {
                Fate::Pass => Some(Duration::ZERO),
                Fate::Later { due, .. } => Some(due - at),
                Fate::Lose | Fate::Overflow => None,
            }
        };
        (0..count).map(fate).collect()
    }

    #[test]
    fn fates_follow_the_rule_of_that_direction_only() {
        let (mut table, now) = table((0, 1), LinkRule::cut());
        assert_eq!(table.fate((0, 1), 60, || now), Fate::Lose);
        assert_eq!(table.fate((1, 0), 60, || now), Fate::Pass);
        table
            .set((0, 1), LinkRule::default(), &Layer::tagged("test"), now)
            .unwrap();
        assert_eq!(table.acting(now), []);
        assert_eq!(table.fate((0, 1), 60, || now), Fate::Pass);
    }

    #[test]
    fn healing_one_fault_leaves_the_other_and_delays_add_up() {
        let (mut table, now) = table(
            (0, 1),
            LinkRule {
                delay: 5 * MS,
                ..LinkRule::default()
            },
        );
        table
            .set(
                (0, 1),
                LinkRule {
                    delay: 7 * MS,
                    ..LinkRule::default()
                },
                &Layer::tagged("other"),
                now,
            )
            .unwrap();
        assert_eq!(
            table.fate((0, 1), 60, || now),
            Fate::Later {
                due: now + 12 * MS,
                twice: false,
                reordered: false
            }
        );
        table
            .set((0, 1), LinkRule::cut(), &Layer::tagged("cut"), now)
            .unwrap();
        assert_eq!(table.fate((0, 1), 60, || now), Fate::Lose);
        table.heal(None, Some("cut"));
        table.heal(Some((1, 0)), None);
        assert_eq!(table.acting(now).len(), 2);
        table.heal(Some((0, 1)), Some("test"));
        let later = now + 20 * MS;
        assert_eq!(
            table.fate((0, 1), 60, || later),
            Fate::Later {
                due: later + 7 * MS,
                twice: false,
                reordered: false
            }
        );
        table.heal(None, None);
        assert_eq!(table.acting(now), []);
    }

    #[test]
    fn a_rule_heals_itself_when_its_time_is_over() {
        let (mut table, now) = (RuleTable::default(), Instant::now());
        let layer = Layer {
            lasts: Some(3 * MS),
            ..Layer::tagged("short")
        };
        table.set((0, 1), LinkRule::cut(), &layer, now).unwrap();
        assert_eq!(table.fate((0, 1), 60, || now + 2 * MS), Fate::Lose);
        assert_eq!(table.fate((0, 1), 60, || now + 3 * MS), Fate::Pass);
        assert_eq!(
            (table.acting(now).len(), table.acting(now + 3 * MS).len()),
            (1, 0)
        );
    }

    #[test]
    fn loss_duplicates_and_reordering_are_as_frequent_as_asked_and_the_same_for_the_same_seed() {
        let rule = LinkRule {
            loss: 0.01,
            duplicate: 0.02,
            reorder: 0.03,
            ..LinkRule::default()
        };
        let count = |seed: u64| {
            let (now, mut table) = (Instant::now(), RuleTable::default());
            table
                .set(
                    (0, 1),
                    rule,
                    &Layer {
                        seed,
                        ..Layer::tagged("test")
                    },
                    now,
                )
                .unwrap();
            let mut counts = [0_u32; 3];
            for _ in 0..100_000 {
                match table.fate((0, 1), 60, || now) {
                    Fate::Lose => counts[0] += 1,
                    Fate::Later {
                        twice, reordered, ..
                    } => {
                        counts[1] += u32::from(twice);
                        counts[2] += u32::from(reordered);
                    }
                    _ => {}
                }
            }
            counts
        };
        let counts = count(7);
        assert_eq!(counts, count(7));
        assert_ne!(counts, count(8));
        for (share, wanted) in counts
            .map(|count| f64::from(count) / 100_000.0)
            .into_iter()
            .zip([0.01, 0.0198, 0.0297])
        {
            assert!((share - wanted).abs() <= 0.001, "{counts:?}");
        }
    }

    #[test]
    fn jitter_stays_in_its_bounds_and_averages_out() {
        let rule = LinkRule {
            delay: 50 * MS,
            jitter: 5 * MS,
            ..LinkRule::default()
        };
        let delays: Vec<Duration> = delays(rule, 2000, 20 * MS).into_iter().flatten().collect();
        assert_eq!(delays.len(), 2000);
        assert!(
            delays
                .iter()
                .all(|delay| (45 * MS..=55 * MS).contains(delay))
        );
        let mean = delays.iter().sum::<Duration>() / 2000;
        assert!(mean.abs_diff(50 * MS) < MS, "{mean:?}");
        assert!(
            delays.iter().any(|delay| *delay < 46 * MS)
                && delays.iter().any(|delay| *delay > 54 * MS)
        );
    }

    #[test]
    fn jitter_keeps_the_order() {
        let rule = LinkRule {
            delay: 50 * MS,
            jitter: 50 * MS,
            ..LinkRule::default()
        };
        let delays = delays(rule, 500, MS);
        let dues: Vec<Duration> = delays
            .iter()
            .flatten()
            .zip(0_u32..)
            .map(|(delay, index)| *delay + MS * index)
            .collect();
        assert!(dues.is_sorted());
    }

    #[test]
    fn a_rate_spaces_frames_and_drops_what_would_wait_too_long() {
        // 1250 bytes at 1 Mbit/s take 10 ms.
        let rule = LinkRule {
            rate: Some(1_000_000),
            ..LinkRule::default()
        };
        let delays = delays(rule, 30, Duration::ZERO);
        let passed: Vec<Duration> = delays.iter().flatten().copied().collect();
        assert_eq!(passed, (1..=21).map(|n| 10 * MS * n).collect::<Vec<_>>());
        let idle = super::tests::delays(rule, 5, 20 * MS);
        assert_eq!(idle, [Some(10 * MS); 5]);
    }
}

//! What a directed link does to its frames. Pure: chance comes in as a number.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest delay a link may have.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// How one directed link treats its frames. The default is a perfect link.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkRule {
    /// Nothing passes.
    pub cut: bool,
    /// Each frame arrives this much later.
    pub delay: Duration,
    /// The share of frames that is lost, 0 to 1.
    pub loss: f64,
}

/// Why a rule was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRule {
    /// `loss` is not a share.
    #[error("loss must be between 0 and 1")]
    Loss,
    /// `delay` is out of range.
    #[error("delay must be at most {} s", MAX_DELAY.as_secs())]
    Delay,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Later(Duration),
    Drop,
}

/// A directed link: from port, to port.
pub(super) type Link = (usize, usize);

impl LinkRule {
    /// The rule that lets nothing pass.
    #[must_use]
    pub fn cut() -> Self {
        Self { cut: true, ..Self::default() }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// When a field is out of range.
    pub fn validate(&self) -> Result<(), InvalidRule> {
        if !(0.0..=1.0).contains(&self.loss) {
            return Err(InvalidRule::Loss);
        }
        if self.delay > MAX_DELAY {
            return Err(InvalidRule::Delay);
        }
        Ok(())
    }

    /// Decides about one frame; `chance` is uniform in 0..1.
    fn fate(&self, chance: f64) -> Fate {
        if self.cut || chance < self.loss {
            Fate::Drop
        } else if self.delay.is_zero() {
            Fate::Pass
        } else {
            Fate::Later(self.delay)
        }
    }
}

/// The rules in force. A link without one is perfect.
#[derive(Debug, Default)]
pub(super) struct RuleTable(BTreeMap<Link, LinkRule>);

impl RuleTable {
    pub(super) fn set(&mut self, link: Link, rule: LinkRule) {
        if rule == LinkRule::default() {
            self.0.remove(&link);
        } else {
            self.0.insert(link, rule);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Link, LinkRule)> + '_ {
        self.0.iter().map(|(link, rule)| (*link, *rule))
    }

    /// Decides about one frame on `link`.
    pub(super) fn fate(&self, link: Link, chance: impl FnOnce() -> f64) -> Fate {
        self.0.get(&link).map_or(Fate::Pass, |rule| rule.fate(if rule.loss > 0.0 { chance() } else { 1.0 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fates_follow_the_rule_of_that_direction_only() {
        let mut table = RuleTable::default();
        table.set((0, 1), LinkRule::cut());
        table.set((2, 1), LinkRule { loss: 0.25, delay: Duration::from_millis(5), ..LinkRule::default() });
        assert_eq!(table.fate((0, 1), || 1.0), Fate::Drop);
        assert_eq!(table.fate((1, 0), || 0.0), Fate::Pass);
        assert_eq!(table.fate((2, 1), || 0.2), Fate::Drop);
        assert_eq!(table.fate((2, 1), || 0.3), Fate::Later(Duration::from_millis(5)));
        table.set((0, 1), LinkRule::default());
        assert_eq!(table.iter().count(), 1);
    }

    #[test]
    fn impossible_rules_are_refused() {
        for loss in [-0.1, 1.1, f64::NAN] {
            assert_eq!(LinkRule { loss, ..LinkRule::default() }.validate(), Err(InvalidRule::Loss));
        }
        let late = LinkRule { delay: Duration::from_secs(31), ..LinkRule::default() };
        assert_eq!(late.validate(), Err(InvalidRule::Delay));
        assert_eq!(LinkRule { loss: 1.0, ..LinkRule::default() }.validate(), Ok(()));
    }
}

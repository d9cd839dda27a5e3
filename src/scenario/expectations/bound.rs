//! `<= 0.5%`: a comparison with a limit, against a value that is known only to lie in an interval.

use super::super::report::State;

/// A comparison with a number whose unit depends on the figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// The comparison.
    pub comparison: Comparison,
    /// The limit.
    pub limit: f64,
}

/// How a measured value compares to the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `==`
    Equal,
    /// `>=`
    AtLeast,
    /// `>`
    More,
}

/// Two ways to write one number may differ by this much: `3.1%` is not exactly 31 of 1000.
const SAME: f64 = 1e-9;

impl Bound {
    /// Reads a bound whose limit `parse` understands.
    pub(super) fn parse(text: &str, parse: impl Fn(&str) -> Option<f64>) -> Option<Self> {
        const SIGNS: [(&str, Comparison); 5] = [
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("==", Comparison::Equal),
            ("<", Comparison::Less),
            (">", Comparison::More),
        ];
        let text = text.trim();
        let (rest, comparison) = SIGNS
            .iter()
            .find_map(|(sign, comparison)| Some((text.strip_prefix(sign)?, *comparison)))?;
        let limit = parse(rest.trim()).filter(|limit| limit.is_finite() && *limit >= 0.0)?;
        Some(Self { comparison, limit })
    }

    /// Whether `measured` satisfies the bound.
    #[must_use]
    pub fn holds(self, measured: f64) -> bool {
        match self.comparison {
            Comparison::Less => measured < self.limit - SAME,
            Comparison::AtMost => measured <= self.limit + SAME,
            Comparison::Equal => (measured - self.limit).abs() <= SAME,
            Comparison::AtLeast => measured >= self.limit - SAME,
            Comparison::More => measured > self.limit + SAME,
        }
    }

    /// Met if every value of the interval keeps the bound, not met if none does.
    #[must_use]
    pub fn decide(self, low: f64, high: f64) -> State {
        let none = match self.comparison {
            Comparison::Less | Comparison::AtMost => !self.holds(low),
            Comparison::AtLeast | Comparison::More => !self.holds(high),
            Comparison::Equal => self.limit < low - SAME || self.limit > high + SAME,
        };
        if self.holds(low) && self.holds(high) {
            State::Met
        } else if none {
            State::NotMet
        } else {
            State::Undecided
        }
    }

    /// Whether it is an upper bound: larger is worse.
    #[must_use]
    pub fn is_upper(self) -> bool {
        matches!(self.comparison, Comparison::Less | Comparison::AtMost)
    }

    /// Whether every value from 0 to `most` keeps it.
    #[must_use]
    pub fn holds_always(self, most: f64) -> bool {
        self.decide(0.0, most) == State::Met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_met_not_met_or_undecided() {
        use State::{Met, NotMet, Undecided};
        let table = [
            ("<= 3", 1.0, 3.0, Met),
            ("<= 3", 2.0, 3.1, Undecided),
            ("<= 3", 3.1, 4.0, NotMet),
            ("< 3", 2.0, 3.0, Undecided),
            ("< 3", 3.0, 4.0, NotMet),
            (">= 3", 3.0, f64::INFINITY, Met),
            (">= 3", 2.0, 4.0, Undecided),
            ("> 3", 1.0, 3.0, NotMet),
            ("== 0", 0.0, 0.0, Met),
            ("== 0", 0.0, 0.1, Undecided),
            ("== 0", 0.1, 0.2, NotMet),
        ];
        for (text, low, high, expected) in table {
            let bound = Bound::parse(text, |limit| limit.parse().ok()).unwrap();
            assert_eq!(bound.decide(low, high), expected, "{text}: {low} to {high}");
        }
        let share = Bound::parse("<= 3.1", |limit| {
            limit.parse::<f64>().ok().map(|p| p / 100.0)
        });
        assert!(share.unwrap().holds(31.0 / 1000.0));
        assert_eq!(Bound::parse("3", |limit| limit.parse().ok()), None);
        assert_eq!(Bound::parse("<= -3", |limit| limit.parse().ok()), None);
    }
}

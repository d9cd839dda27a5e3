//! Several runs of one scenario: how often it fails, how sure that is, and which run was the worst.

use super::report::{Outcome, Report, State, Verdict};

/// The normal quantile of a 95 % interval.
const Z: f64 = 1.959_964;

/// The name of a repeat: `run-3`, or `seed-2-run-3` for the cell of a matrix.
#[must_use]
pub fn cell_name(cell: Option<&str>, number: u32) -> String {
    cell.map_or_else(
        || format!("run-{number}"),
        |cell| format!("{cell}-run-{number}"),
    )
}

/// The cell that a repeat is one of (empty if the scenario has no matrix), if this is the name of a repeat.
#[must_use]
pub fn repeated_cell(name: &str) -> Option<&str> {
    let (cell, number) = name.rsplit_once("run-")?;
    number.parse::<u32>().ok()?;
    Some(cell.strip_suffix('-').unwrap_or(cell)).filter(|base| cell.is_empty() || *base != cell)
}

/// How runs of one scenario ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// FAIL.
    pub failed: u32,
    /// PASS.
    pub passed: u32,
    /// INCONCLUSIVE, and whatever else says nothing of the stack.
    pub undecided: u32,
}

impl Rate {
    /// Counts outcomes.
    #[must_use]
    pub fn of(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let mut rate = Self::default();
        for outcome in outcomes {
            match outcome {
                Outcome::Judged(Verdict::Fail) => rate.failed += 1,
                Outcome::Judged(Verdict::Pass) => rate.passed += 1,
                _ => rate.undecided += 1,
            }
        }
        rate
    }

    /// The share of FAIL among the runs that say something, with the ends of its 95 % interval (E. B. Wilson, Probable inference, the
    /// law of succession, and statistical inference, JASA 22, 1927). `None` if no run does.
    #[must_use]
    pub fn share(self) -> Option<(f64, f64, f64)> {
        let runs = f64::from(self.failed + self.passed);
        if runs == 0.0 {
            return None;
        }
        let share = f64::from(self.failed) / runs;
        let squared = Z * Z / runs;
        let middle = share + squared / 2.0;
        let half = Z * (share * (1.0 - share) / runs + squared / (4.0 * runs)).sqrt();
        let end = |value: f64| (value / (1.0 + squared)).clamp(0.0, 1.0);
        Some((share, end(middle - half), end(middle + half)))
    }

    /// In words, for instance `2 of 10 runs FAIL: 20.0 % (5.7 % to 51.0 %)`.
    #[must_use]
    pub fn words(self) -> String {
        let decided = self.failed + self.passed;
        let mut words = match self.share() {
            None => "no run says anything of the stack".to_owned(),
            Some((share, low, high)) => format!(
                "{} of {decided} runs FAIL: {:.1} % ({:.1} % to {:.1} %)",
                self.failed,
                share * 100.0,
                low * 100.0,
                high * 100.0
            ),
        };
        if self.undecided > 0 {
            words = format!("{words}, {} undecided", self.undecided);
        }
        words
    }
}

/// The index of the worst run: of those that failed the one with most rows that are not met, then with most failed requests.
#[must_use]
pub fn worst(reports: &[&Report]) -> Option<usize> {
    let badness = |report: &Report| {
        let not_met = report.expectations.iter();
        let not_met = not_met.filter(|row| row.state == State::NotMet).count();
        let streams = report.load.values().flat_map(|load| load.streams.values());
        let failed: u64 = streams.map(|stream| stream.failed).sum();
        (not_met, failed)
    };
    let failed = reports.iter().enumerate();
    failed
        .filter(|(_, report)| report.verdict == Verdict::Fail)
        .max_by_key(|(index, report)| (badness(report), std::cmp::Reverse(*index)))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::report::TargetFacts;

    #[test]
    fn the_interval_is_wilsons() {
        let rate = |failed, passed| Rate {
            failed,
            passed,
            undecided: 0,
        };
        // Figures of R: binom::binom.confint(x, n, methods = "wilson").
        assert_eq!(
            rate(2, 8).words(),
            "2 of 10 runs FAIL: 20.0 % (5.7 % to 51.0 %)"
        );
        assert_eq!(
            rate(0, 10).words(),
            "0 of 10 runs FAIL: 0.0 % (0.0 % to 27.8 %)"
        );
        assert_eq!(
            rate(1, 0).words(),
            "1 of 1 runs FAIL: 100.0 % (20.7 % to 100.0 %)"
        );
        assert_eq!(Rate::default().share(), None);
        let mixed = Rate::of([
            Outcome::Error,
            Outcome::Judged(Verdict::Pass),
            Outcome::Judged(Verdict::Inconclusive),
        ]);
        assert!(
            mixed.words().ends_with(", 2 undecided"),
            "{}",
            mixed.words()
        );
    }

    #[test]
    fn repeats_have_names_that_can_be_read_again() {
        for (cell, number) in [(None, 3), (Some("seed-2"), 12)] {
            let name = cell_name(cell, number);
            assert_eq!(
                repeated_cell(&name),
                Some(cell.unwrap_or_default()),
                "{name}"
            );
        }
        for other in ["seed-2", "overrun-3", "run-x", "run"] {
            assert_eq!(repeated_cell(other), None, "{other}");
        }
    }

    #[test]
    fn the_worst_run_is_one_that_failed() {
        let report = |verdict| {
            let target = TargetFacts {
                provider: "qemu".into(),
                accel: "none".into(),
                nodes: 1,
            };
            Report::without_run("demo", 1, target, verdict, Vec::new())
        };
        let (pass, fail, odd) = (
            report(Verdict::Pass),
            report(Verdict::Fail),
            report(Verdict::Inconclusive),
        );
        assert_eq!(worst(&[&pass, &odd]), None);
        assert_eq!(worst(&[&pass, &fail, &odd, &fail]), Some(1));
    }
}

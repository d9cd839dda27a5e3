//! When requests are sent: fixed before the first of them, whatever becomes of any.
//!
//! The stages make a clock that ticks faster where the rate is higher: request *n* is due when the clock has gone on by *n* ticks, or,
//! with Poisson arrival, by the *n*-th of a sum of exponential gaps of one tick on average. So the gaps of one stage never depend on
//! those of another, no error adds up, and the same seed gives the same times.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// How requests follow each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arrival {
    /// At equal distances.
    #[default]
    Constant,
    /// At random, independent of each other; the run's seed decides when.
    Poisson,
}

impl Arrival {
    /// Its name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Poisson => "poisson",
        }
    }
}

/// A rate for a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// Requests a second of each stream.
    pub rate: f64,
    /// How long, from the end of the stage before; the last one goes on until the run ends.
    pub lasts: Duration,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s for {} s", self.rate, self.lasts.as_secs_f64())
    }
}

/// The times of one stream's requests, from its beginning, without end.
#[derive(Debug, Clone)]
pub struct Schedule {
    stages: Vec<Stage>,
    /// Decides the gaps of Poisson arrival.
    random: Option<StdRng>,
    /// Ticks until the next request.
    due: f64,
    stage: usize,
    /// When the stage began, in seconds and in ticks.
    begun: (f64, f64),
}

impl Schedule {
    /// A schedule of these stages, of which there is at least one.
    #[must_use]
    pub fn new(stages: &[Stage], arrival: Arrival, seed: u64) -> Self {
        let mut random = match arrival {
            Arrival::Constant => None,
            Arrival::Poisson => Some(StdRng::seed_from_u64(seed)),
        };
        Self {
            stages: stages.to_vec(),
            due: random.as_mut().map_or(0.0, gap),
            random,
            stage: 0,
            begun: (0.0, 0.0),
        }
    }

    /// When the clock has gone on by so many ticks, in seconds. Asked for ever later ticks only.
    fn at(&mut self, ticks: f64) -> Option<f64> {
        loop {
            let stage = self.stages.get(self.stage)?;
            let (seconds, before) = self.begun;
            let lasts = stage.lasts.as_secs_f64();
            let end = before + stage.rate * lasts;
            if ticks < end || self.stage + 1 == self.stages.len() {
                return Some(seconds + (ticks - before) / stage.rate);
            }
            self.begun = (seconds + lasts, end);
            self.stage += 1;
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let due = self.due;
        self.due += self.random.as_mut().map_or(1.0, gap);
        Some(Duration::from_secs_f64(self.at(due)?))
    }
}

/// An exponential gap of one tick on average.
fn gap(random: &mut StdRng) -> f64 {
    let share: f64 = random.random();
    -(1.0 - share).ln()
}

/// The seed of one stream's schedule: streams and loads of one run do not follow each other.
#[must_use]
pub fn seed_of(seed: u64, load: &str, stream: &str) -> u64 {
    // FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
    let bytes = load.bytes().chain([0]).chain(stream.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stage(rate: f64, secs: f64) -> Stage {
        Stage {
            rate,
            lasts: Duration::from_secs_f64(secs),
        }
    }

    fn seconds(schedule: Schedule, count: usize) -> Vec<f64> {
        schedule.take(count).map(|due| due.as_secs_f64()).collect()
    }

    fn some_stages() -> impl Strategy<Value = Vec<Stage>> {
        let one = (1.0..500.0_f64, 0.05..5.0_f64).prop_map(|(rate, secs)| stage(rate, secs));
        prop::collection::vec(one, 1..6)
    }

    #[test]
    fn one_rate_is_what_it_was() {
        let times = seconds(
            Schedule::new(&[stage(50.0, 0.0)], Arrival::Constant, 7),
            1000,
        );
        for (number, time) in (0_u32..).zip(times) {
            let wanted = Duration::from_secs_f64(f64::from(number) / 50.0);
            assert!((time - wanted.as_secs_f64()).abs() < 1e-9, "{number}");
        }
    }

    #[test]
    fn each_stage_has_its_own_rate_and_the_last_goes_on() {
        let stages = [stage(10.0, 1.0), stage(2.0, 2.0), stage(4.0, 0.5)];
        let times = seconds(Schedule::new(&stages, Arrival::Constant, 0), 40);
        let within = |from: f64, to: f64| {
            let count = times.iter().filter(|time| (from..to).contains(*time));
            count.count()
        };
        assert_eq!((within(0.0, 1.0), within(1.0, 3.0)), (10, 4));
        assert_eq!(within(3.0, 8.0), 20);
    }

    #[test]
    fn the_same_seed_gives_the_same_times_and_another_does_not() {
        let times = |seed| {
            let schedule = Schedule::new(&[stage(20.0, 1.0)], Arrival::Poisson, seed);
            seconds(schedule, 50)
        };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
        let seeds = [
            seed_of(1, "web", "new"),
            seed_of(1, "web", "reused"),
            seed_of(1, "other", "new"),
            seed_of(2, "web", "new"),
        ];
        for (index, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..index].contains(seed));
        }
    }

    #[test]
    fn a_poisson_stream_is_as_dense_as_its_rate_and_its_gaps_are_exponential() {
        let times = seconds(
            Schedule::new(&[stage(100.0, 0.0)], Arrival::Poisson, 3),
            20_000,
        );
        let last = times.last().copied().unwrap_or_default();
        assert!((last - 200.0).abs() < 10.0, "{last}");
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        let long = gaps.filter(|gap| *gap > 0.01).count();
        // A share of 1 / e is longer than the mean.
        assert!((7_000..7_720).contains(&long), "{long}");
    }

    proptest! {
        #[test]
        fn times_never_go_back(stages in some_stages(), poisson: bool, seed: u64) {
            let arrival = if poisson { Arrival::Poisson } else { Arrival::Constant };
            let times = seconds(Schedule::new(&stages, arrival, seed), 300);
            prop_assert_eq!(times.len(), 300);
            prop_assert!(times.windows(2).all(|pair| pair[0] <= pair[1]));
        }

        #[test]
        fn constant_gaps_lie_between_those_of_the_rates(stages in some_stages()) {
            let rates = || stages.iter().map(|stage| stage.rate);
            let least = 1.0 / rates().fold(0.0, f64::max);
            let most = 1.0 / rates().fold(f64::INFINITY, f64::min);
            let times = seconds(Schedule::new(&stages, Arrival::Constant, 0), 300);
            for pair in times.windows(2) {
                let gap = pair[1] - pair[0];
                prop_assert!(gap >= least - 1e-6 && gap <= most + 1e-6, "{gap} of {least} to {most}");
            }
        }

        #[test]
        fn what_comes_later_changes_nothing_before(stages in some_stages(), later in some_stages(), seed: u64) {
            let whole: Vec<Stage> = stages.iter().chain(&later).copied().collect();
            let lasts: f64 = stages.iter().map(|stage| stage.lasts.as_secs_f64()).sum();
            let before = |stages: &[Stage]| -> Vec<f64> {
                let times = seconds(Schedule::new(stages, Arrival::Poisson, seed), 200);
                times.into_iter().filter(|time| *time < lasts - 1e-6).collect()
            };
            prop_assert_eq!(before(&stages), before(&whole));
        }
    }
}

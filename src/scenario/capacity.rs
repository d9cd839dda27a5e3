//! What this host is likely to carry, before anything runs on it: for `doctor` and `plan`. A run measures it.

use std::fmt;
use std::thread::available_parallelism;
use std::time::Duration;

use procfs::{CurrentSI as _, KernelStats};
use tokio::time::sleep;

use super::load::automatic::{Automatic, Cost, RATE_MIN};

/// The host is looked at for so long.
const LOOK: Duration = Duration::from_secs(1);
/// What a request to the shipped stack costs emulated workers, in seconds of processor: 27 to 40 ms were measured on 2 cores under TCG.
const EMULATED_REQUEST: f64 = 0.033;
/// What an emulated worker takes while nothing is asked of it, in processors.
const EMULATED_IDLE: f64 = 0.06;
/// What the shipped scenarios ask for, on two streams.
const USUAL: Automatic = Automatic {
    share: 0.45,
    at_most: 50.0,
};
const STREAMS: usize = 2;

/// A host as it is now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// Processors that this process may use.
    pub processors: f64,
    /// How many of them are idle.
    pub idle: f64,
    /// Whether machines are emulated.
    pub emulated: bool,
}

impl Capacity {
    /// Looks at this host for a second; `None` where its kernel does not say.
    pub async fn look(emulated: bool) -> Option<Self> {
        let times = || {
            let stats = KernelStats::current().ok()?;
            let idle = stats.total.idle + stats.total.iowait.unwrap_or(0);
            Some((idle, stats.cpu_time.len()))
        };
        let (before, host) = times()?;
        sleep(LOOK).await;
        let (after, _) = times()?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "ticks of a second, and counts of processors"
        )]
        let (idle, host) = (
            (after.saturating_sub(before)) as f64 / (LOOK.as_secs_f64() * 100.0),
            host as f64,
        );
        #[expect(clippy::cast_precision_loss, reason = "a count of processors")]
        let processors = available_parallelism().map_or(host, |count| count.get() as f64);
        Some(Self {
            processors,
            idle: idle.min(processors),
            emulated,
        })
    }

    /// Requests a second of each of two streams that the shipped scenarios would ask for; fewer than [`RATE_MIN`] is too few for them.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let cost = Cost {
            request: EMULATED_REQUEST,
            idle: EMULATED_IDLE,
            capacity: (self.idle / 2.0).min(1.0),
        };
        USUAL.rate(cost, STREAMS).unwrap_or_else(|small| small.rate)
    }

    /// Whether the shipped scenarios are likely to be judged here and now.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        !self.emulated || self.rate() >= RATE_MIN
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} processors, {:.1} of them idle now; ",
            self.processors, self.idle
        )?;
        if !self.emulated {
            return f.write_str(
                "machines run on them directly; how much they carry is measured before each load",
            );
        }
        write!(
            f,
            "machines are emulated, and a worker carries about {:.0}/s on each of two streams",
            self.rate()
        )?;
        if !self.is_enough() {
            write!(f, ", which is too few to judge by: end what else runs here")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_is_likely_to_carry() {
        let host = |idle, emulated| Capacity {
            processors: 2.0,
            idle,
            emulated,
        };
        assert_eq!(
            host(2.0, true).to_string(),
            "2 processors, 2.0 of them idle now; machines are emulated, and a worker carries about 6/s on each of two streams"
        );
        assert_eq!(
            host(0.4, true).to_string(),
            "2 processors, 0.4 of them idle now; machines are emulated, and a worker carries about 0/s on each of two streams, which is \
             too few to judge by: end what else runs here"
        );
        assert!(
            host(2.0, true).is_enough()
                && !host(0.4, true).is_enough()
                && host(0.0, false).is_enough()
        );
        // Another program on one of two processors leaves a worker half of one.
        assert!(host(1.0, true).rate() < host(2.0, true).rate() / 2.0 + 0.1);
    }
}

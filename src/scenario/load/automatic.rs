//! `rate = { auto = "45%", at_most = "50/s" }`: as many requests as one machine carries at that share of its processors.
//!
//! What a request costs is measured under a small known load, against none. Where the machines' processors cannot be seen, the latency of
//! a lone request stands for its cost: no machine needs longer for a request than it takes to answer.

use std::fmt;

/// A stream asks at least so often, or its figures say little.
pub const RATE_MIN: f64 = 2.0;
/// Rates are multiples of this.
const STEP: f64 = 0.5;
/// What a division may be short of a whole number.
const ROUNDING: f64 = 1e-6;

/// What a file asks for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Automatic {
    /// Of one worker's processors.
    pub share: f64,
    /// Requests a second of each stream, however much the machines could carry.
    pub at_most: f64,
}

impl fmt::Display for Automatic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "what one worker carries at {:.0} % of its processors, at most {}/s,",
            self.share * 100.0,
            self.at_most
        )
    }
}

/// What was found out about the machines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Processor time of all workers for one request, in seconds.
    pub request: f64,
    /// Processors that an idle worker spends.
    pub idle: f64,
    /// Processors that one worker has while another boots beside it: its own, and no more than half of what others leave of the host.
    pub capacity: f64,
}

/// A load that this target cannot carry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TooSmall {
    /// What it could, a second and stream.
    pub rate: f64,
}

impl Automatic {
    /// Requests a second of each of so many streams.
    ///
    /// # Errors
    /// When it is fewer than [`RATE_MIN`].
    pub fn rate(&self, cost: Cost, streams: usize) -> Result<f64, TooSmall> {
        let left = self.share * cost.capacity - cost.idle;
        #[expect(clippy::cast_precision_loss, reason = "one or two")]
        let rate = left.max(0.0) / (cost.request.max(f64::MIN_POSITIVE) * streams.max(1) as f64);
        let rate = rate.min(self.at_most);
        if rate < RATE_MIN {
            return Err(TooSmall { rate });
        }
        Ok((rate / STEP + ROUNDING).floor() * STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Automatic = Automatic {
        share: 0.5,
        at_most: 20.0,
    };

    #[test]
    fn as_much_as_one_worker_carries() {
        let check = |request, idle, capacity, streams, wanted: Result<f64, f64>| {
            let cost = Cost {
                request,
                idle,
                capacity,
            };
            let found = HALF.rate(cost, streams).map_err(|small| small.rate);
            let near = match (found, wanted) {
                (Ok(a), Ok(b)) | (Err(a), Err(b)) => (a - b).abs() < 1e-9,
                _ => false,
            };
            assert!(near, "{cost:?}: {found:?}, wanted {wanted:?}");
        };
        check(0.025, 0.05, 1.0, 2, Ok(9.0));
        check(0.025, 0.05, 1.0, 1, Ok(18.0));
        // Two processors carry twice as much, less what is asked at most.
        check(0.025, 0.05, 2.0, 2, Ok(19.0));
        check(0.001, 0.0, 1.0, 2, Ok(20.0));
        // Rounded down.
        check(0.024, 0.05, 1.0, 2, Ok(9.0));
        check(0.1, 0.05, 1.0, 2, Ok(2.0));
        check(0.1, 0.05, 0.8, 2, Err(1.75));
        check(0.1, 0.6, 1.0, 2, Err(0.0));
        // What costs nothing that could be measured is asked for as often as the file allows.
        check(0.0, 0.0, 1.0, 2, Ok(20.0));
    }
}

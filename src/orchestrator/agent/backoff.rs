//! Exponential back-off as the kubelet keeps it for images and crashing containers.
//!
//! Source: `k8s.io/client-go/util/flowcontrol/backoff.go` and `pkg/kubelet/kubelet.go` (`backOffPeriod`, `MaxContainerBackOff`).

use std::time::Duration;

/// The first delay.
pub(crate) const INITIAL: Duration = Duration::from_secs(10);
/// The longest delay.
pub(crate) const LONGEST: Duration = Duration::from_mins(5);
/// A container that ran this long starts over with no delay.
pub(crate) const RESET_AFTER: Duration = Duration::from_mins(10);

/// A delay that doubles with each failure, up to [`LONGEST`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    delay: Duration,
}

impl Backoff {
    /// How long to wait now: nothing before the first failure.
    pub(crate) fn delay(self) -> Duration {
        self.delay
    }

    /// Counts a failure and returns the delay that follows it.
    pub(crate) fn next(&mut self) -> Duration {
        self.delay = if self.delay.is_zero() {
            INITIAL
        } else {
            (self.delay * 2).min(LONGEST)
        };
        self.delay
    }

    /// Forgets all failures.
    pub(crate) fn reset(&mut self) {
        self.delay = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_five_minutes() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.delay(), Duration::ZERO);
        let delays: Vec<u64> = (0..7).map(|_| backoff.next().as_secs()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        backoff.reset();
        assert_eq!(backoff.next(), INITIAL);
    }
}

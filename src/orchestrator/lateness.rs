//! By how much one was late of late: what a starved processor shows first.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Lateness is remembered so long; by the server, whom a node tells its worst with every beat, twice as long.
const WINDOW: Duration = Duration::from_secs(5);

/// The worst lateness of the last five seconds.
#[derive(Debug, Default)]
pub(crate) struct Lateness(VecDeque<(Instant, Duration)>);

impl Lateness {
    /// Somebody was late by so much.
    pub(crate) fn note(&mut self, now: Instant, late: Duration) {
        while self.0.back().is_some_and(|(_, known)| *known <= late) {
            self.0.pop_back();
        }
        self.0.push_back((now, late));
    }

    /// The worst.
    pub(crate) fn worst(&mut self, now: Instant) -> Duration {
        while self
            .0
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.0.pop_front();
        }
        self.0.front().map_or(Duration::ZERO, |(_, late)| *late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_forgotten_after_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut lateness = Lateness::default();
        for (second, late) in [(0, 5), (1, 9), (2, 3), (3, 4)] {
            lateness.note(at(second), Duration::from_secs(late));
        }
        for (second, worst) in [(3, 9), (6, 9), (7, 4), (8, 4), (9, 0)] {
            assert_eq!(
                lateness.worst(at(second)),
                Duration::from_secs(worst),
                "{second}"
            );
        }
    }
}

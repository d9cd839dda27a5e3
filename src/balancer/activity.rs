//! What a connection tells by when its bytes pass, whatever protocol they are: whether the client waits for an answer, and when
//! nothing is under way, so that closing loses nothing.
//!
//! A pause after the endpoint's bytes may be the end of an answer or a gap inside it. The longest gap seen so far (bytes of the
//! endpoint, silence, more bytes of the endpoint without any of the client between) tells the two apart: a connection is quiet
//! when the endpoint spoke last and has been silent for [`SAFETY`] times that, within bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The silence that counts as quiet, in longest gaps.
const SAFETY: u32 = 4;
/// Bounds of that silence.
const QUIET_LEAST: Duration = Duration::from_millis(50);
const QUIET_MOST: Duration = Duration::from_secs(1);
/// After so many answers a connection's own gaps are all that counts.
const KNOWN_AFTER: u64 = 3;
/// Between two looks at a connection whose client waits for an answer.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A client that waits for so long for the first byte of an answer is a sign that the endpoint does not serve. Far above any usual
/// answer: a mistake costs the endpoint its turns for some seconds, and only while others have theirs.
pub(super) const UNANSWERED_AFTER: Duration = Duration::from_millis(600);

/// When the two sides of a connection spoke last, in milliseconds since it was opened; 0 is never.
#[derive(Debug)]
pub(super) struct Activity {
    opened: Instant,
    client_ms: AtomicU64,
    endpoint_ms: AtomicU64,
    longest_pause_ms: AtomicU64,
    answers: AtomicU64,
    /// Whether it is counted in `pending`: nobody has said anything yet, or the client spoke last.
    is_pending: AtomicBool,
    pending: Arc<AtomicUsize>,
}

impl Activity {
    /// `pending` counts the endpoint's connections that wait for it: from before they are dialled to its first bytes, and again
    /// whenever the client has spoken.
    pub(super) fn new(now: Instant, pending: Arc<AtomicUsize>) -> Self {
        let zero = || AtomicU64::new(0);
        pending.fetch_add(1, Ordering::Relaxed);
        Self {
            opened: now,
            client_ms: zero(),
            endpoint_ms: zero(),
            longest_pause_ms: zero(),
            answers: zero(),
            is_pending: AtomicBool::new(true),
            pending,
        }
    }

    fn set_pending(&self, pending: bool) {
        if self.is_pending.swap(pending, Ordering::Relaxed) == pending {
            return;
        }
        if pending {
            self.pending.fetch_add(1, Ordering::Relaxed);
        } else {
            self.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.opened).as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    /// Bytes of the client have passed.
    pub(super) fn client_spoke(&self, now: Instant) {
        self.set_pending(true);
        self.client_ms.store(self.ms(now), Ordering::Relaxed);
    }

    /// Bytes of the endpoint have passed. Returns whether the client had waited for them.
    pub(super) fn endpoint_spoke(&self, now: Instant) -> bool {
        self.set_pending(false);
        let now = self.ms(now);
        let before = self.endpoint_ms.swap(now, Ordering::Relaxed);
        let answers = self.client_ms.load(Ordering::Relaxed) >= before.max(1);
        if answers {
            self.answers.fetch_add(1, Ordering::Relaxed);
        } else if before > 0 {
            self.longest_pause_ms
                .fetch_max(now - before, Ordering::Relaxed);
        }
        answers
    }

    pub(super) fn longest_pause_ms(&self) -> u64 {
        self.longest_pause_ms.load(Ordering::Relaxed)
    }

    /// Since when the client waits for an answer, if it does.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let client = self.client_ms.load(Ordering::Relaxed);
        (client > 0 && client >= self.endpoint_ms.load(Ordering::Relaxed))
            .then(|| self.opened + Duration::from_millis(client))
    }

    /// `None` when the connection is quiet now, else when to look again. `pause` is the longest gap inside an answer known from
    /// other connections; it counts until this one has given [`KNOWN_AFTER`] answers.
    pub(super) fn until_quiet(&self, pause: Duration, now: Instant) -> Option<Duration> {
        let own = Duration::from_millis(self.longest_pause_ms());
        let known = self.answers.load(Ordering::Relaxed) >= KNOWN_AFTER;
        let needed =
            (if known { own } else { own.max(pause) } * SAFETY).clamp(QUIET_LEAST, QUIET_MOST);
        let (client, endpoint) = (
            self.client_ms.load(Ordering::Relaxed),
            self.endpoint_ms.load(Ordering::Relaxed),
        );
        let (since, needed) = match (client, endpoint) {
            // Nobody has said anything yet: whoever opened it may be about to.
            (0, 0) => (0, QUIET_MOST),
            _ if client >= endpoint => return Some(LOOK_AGAIN),
            _ => (endpoint, needed),
        };
        let silent = Duration::from_millis(self.ms(now).saturating_sub(since));
        needed
            .checked_sub(silent)
            .filter(|left| !left.is_zero())
            .map(|left| left.max(Duration::from_millis(1)))
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.set_pending(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_connection_is_quiet_when_its_last_answer_is_over() {
        let start = Instant::now();
        let at = |count| start + ms(count);
        let activity = Activity::new(start, Arc::default());
        assert_eq!(activity.until_quiet(ms(0), at(1)), Some(ms(999)));
        activity.client_spoke(at(10));
        assert_eq!(
            activity.until_quiet(ms(0), at(5000)),
            Some(LOOK_AGAIN),
            "an answer is under way, however slow"
        );
        assert_eq!(activity.waiting_since(), Some(at(10)));
        assert!(activity.endpoint_spoke(at(5000)));
        assert_eq!(
            (
                activity.waiting_since(),
                activity.until_quiet(ms(0), at(5000))
            ),
            (None, Some(QUIET_LEAST))
        );
        assert!(
            !activity.endpoint_spoke(at(5030)),
            "more of the same answer"
        );
        assert_eq!(
            activity.until_quiet(ms(0), at(5080)),
            Some(ms(70)),
            "four times the gap of 30 ms"
        );
        assert_eq!(
            activity.until_quiet(ms(1000), at(5080)),
            Some(ms(950)),
            "other connections know longer gaps"
        );
        assert_eq!(activity.until_quiet(ms(0), at(5150)), None);
        activity.client_spoke(at(5150));
        assert_eq!(activity.until_quiet(ms(0), at(5151)), Some(LOOK_AGAIN));
        for answer in 0..2 {
            assert!(activity.endpoint_spoke(at(5200 + 10 * answer)));
            activity.client_spoke(at(5205 + 10 * answer));
        }
        assert!(activity.endpoint_spoke(at(5220)));
        assert_eq!(
            activity.until_quiet(ms(1000), at(5340)),
            None,
            "its own gaps are known by now"
        );
    }

    #[test]
    fn a_connection_is_pending_until_the_endpoint_speaks_and_whenever_the_client_has() {
        let now = Instant::now();
        let pending = Arc::new(AtomicUsize::new(0));
        let [first, second] = [(); 2].map(|()| Activity::new(now, Arc::clone(&pending)));
        let count = || pending.load(Ordering::Relaxed);
        assert_eq!(count(), 2, "nobody has said anything");
        first.client_spoke(now);
        assert_eq!(count(), 2);
        first.endpoint_spoke(now);
        first.endpoint_spoke(now);
        assert_eq!(count(), 1);
        drop(second);
        assert_eq!(count(), 0);
        first.client_spoke(now);
        assert_eq!(count(), 1);
        drop(first);
        assert_eq!(count(), 0);
    }
}

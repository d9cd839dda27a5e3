//! One container starts at a time, with what others leave of the processor, until it serves.
//!
//! A machine often has one processor, and after the loss of another it carries that one's load too, while it starts replacements:
//! starting all of them at once would take from those that serve just then, and would bring the first replacement late.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::cgroup::{self, Share};
use super::records;

/// A start that waits for so long for others begins beside them.
const TURN_LIMIT: Duration = Duration::from_secs(20);
/// A container that does not serve after so long no longer holds up others, and gets its share.
const SETTLE_LIMIT: Duration = Duration::from_secs(8);

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Pace {
    turn: Arc<Semaphore>,
    /// By pod: cancelled when the pod serves.
    starting: Mutex<BTreeMap<String, CancellationToken>>,
}

/// A start under way. Dropped, it is over, and its pod has its share.
pub(crate) struct Start {
    pod_uid: String,
    settled: CancellationToken,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self {
            turn: Arc::new(Semaphore::new(1)),
            starting: Mutex::default(),
        }
    }

    /// Waits for a turn, and takes the pod's share down.
    pub(crate) async fn begin(&self, pod_uid: &str) -> Start {
        let turn = timeout(TURN_LIMIT, self.turn.clone().acquire_owned()).await;
        let settled = CancellationToken::new();
        self.starting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pod_uid.to_owned(), settled.clone());
        cgroup::give(&records::pod_cgroup(pod_uid), Share::Starting);
        Start {
            pod_uid: pod_uid.to_owned(),
            settled,
            _turn: turn.ok().and_then(Result::ok),
        }
    }

    /// The pod serves, or is gone.
    pub(crate) fn settled(&self, pod_uid: &str) {
        if let Some(settled) = self
            .starting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(pod_uid)
        {
            settled.cancel();
        }
    }
}

impl Start {
    /// Holds the turn until the pod serves, the container has ended (`runs` says no after a change), or patience is over.
    pub(crate) async fn settle(self, mut changes: watch::Receiver<u64>, runs: impl Fn() -> bool) {
        let ended = async { while runs() && changes.changed().await.is_ok() {} };
        let over = timeout(SETTLE_LIMIT, async {
            tokio::select! {
                () = self.settled.cancelled() => {}
                () = ended => {}
            }
        });
        // In time or not, it is over.
        let _ = over.await;
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        cgroup::give(&records::pod_cgroup(&self.pod_uid), Share::Serving);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_start_at_a_time_until_it_serves_ends_or_takes_too_long() {
        let pace = Pace::new();
        let (sender, changes) = watch::channel(0);
        let waits = |pace: &Pace| pace.turn.available_permits() == 0;

        let first = pace.begin("serves").await;
        assert!(waits(&pace));
        let settling = tokio::spawn(first.settle(changes.clone(), || true));
        pace.settled("serves");
        settling.await.expect("it settles");
        assert!(!waits(&pace));

        let second = pace.begin("ends").await;
        let settling = tokio::spawn(second.settle(changes.clone(), || false));
        settling.await.expect("it settles");
        assert!(!waits(&pace));

        let third = pace.begin("hangs").await;
        let begun = tokio::time::Instant::now();
        third.settle(changes, || true).await;
        assert_eq!(begun.elapsed(), SETTLE_LIMIT);

        let fourth = pace.begin("stuck").await;
        let begun = tokio::time::Instant::now();
        let fifth = pace.begin("goes on all the same").await;
        assert_eq!(begun.elapsed(), TURN_LIMIT);
        drop((fourth, fifth, sender));
        assert!(!waits(&pace));
    }
}

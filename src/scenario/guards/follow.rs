//! Lists and watches the objects of one entry, and resumes after what broke.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use super::Guard;
use super::track::Tracker;
use crate::kubernetes::client::{Client, ClientError};
use crate::scenario::deploy::NAMESPACE;

/// Pause after a failure: it doubles from the first to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(1);
/// So long the watch may lag behind at the end of the run,
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(5);
/// and so often that is looked at.
const CAUGHT_UP_POLL: Duration = Duration::from_millis(100);

/// Follows the objects of one entry until it is dropped.
pub(super) struct Follower {
    pub(super) client: Client,
    pub(super) guard: Guard,
    pub(super) tracker: Arc<Mutex<Tracker>>,
    pub(super) epoch: Instant,
    /// Told when the objects have been listed once.
    pub(super) listed: watch::Sender<bool>,
}

impl Follower {
    pub(super) async fn run(self) {
        let mut revision: Option<String> = None;
        let mut backoff = BACKOFF_FIRST;
        loop {
            let before = revision.clone();
            if let Err(error) = self.follow(&mut revision).await
                && !error.is_temporary()
            {
                // Compacted, or a revision that this server does not know: what happened meanwhile is not told.
                revision = None;
                self.track(|tracker, _| tracker.lost(&format!("the watch broke: {error}")));
            }
            backoff = if revision == before {
                (backoff * 2).min(BACKOFF_LAST)
            } else {
                BACKOFF_FIRST
            };
            sleep(backoff).await;
        }
    }

    /// Lists if no revision is known, then watches until the watch ends. Whatever `revision` covers is tracked.
    async fn follow(&self, revision: &mut Option<String>) -> Result<(), ClientError> {
        let (kind, params) = (&self.guard.kind, self.guard.params());
        let from = if let Some(known) = revision.clone() {
            known
        } else {
            let listed = self.client.list_values(kind, NAMESPACE, &params).await?;
            self.track(|tracker, at_ms| tracker.listed(&listed.items, at_ms));
            *revision = Some(listed.revision.clone());
            self.listed.send_replace(true);
            listed.revision
        };
        let mut events = self
            .client
            .watch_values(kind, NAMESPACE, &params, &from)
            .await?;
        while let Some(event) = events.next().await {
            let event = event?;
            let covered = self.track(|tracker, at_ms| tracker.take(&event, at_ms));
            if covered.is_some() {
                *revision = covered;
            }
        }
        Ok(())
    }

    fn track<T>(&self, look: impl FnOnce(&mut Tracker, u64) -> T) -> T {
        let at_ms = millis_since(self.epoch);
        let mut tracker = self.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        look(&mut tracker, at_ms)
    }
}

/// Waits until the watch has told of everything that a list shows; else notes that it has not.
pub(super) async fn caught_up(client: &Client, guard: &Guard, tracker: &Mutex<Tracker>) {
    let until = Instant::now() + CAUGHT_UP_WITHIN;
    let params = guard.params();
    loop {
        let asked = client.list_values(&guard.kind, NAMESPACE, &params);
        let why = match timeout_at(until, asked).await {
            Ok(Ok(listed)) => {
                let mut tracker = tracker.lock().unwrap_or_else(PoisonError::into_inner);
                if tracker.is_current(&listed.items) {
                    tracker.confirm();
                    return;
                }
                "the watch was behind at the end".to_owned()
            }
            Ok(Err(error)) => format!("the API could not be asked at the end: {error}"),
            Err(_) => "the API was silent at the end".to_owned(),
        };
        if Instant::now() + CAUGHT_UP_POLL >= until {
            let mut tracker = tracker.lock().unwrap_or_else(PoisonError::into_inner);
            tracker.lost(&why);
            return;
        }
        sleep(CAUGHT_UP_POLL).await;
    }
}

/// Whole milliseconds of the run.
pub(super) fn millis_since(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
}

//! What a connection does: one that never asks anything, or has stopped asking, gives its place back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

use super::limits::{FIRST_REQUEST_TIME, IDLE_TIME};

/// A connection's requests.
#[derive(Debug)]
pub(super) struct Activity(watch::Sender<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    open: usize,
    /// When a connection without open requests has been idle for too long.
    until: Instant,
}

/// An open request: until its answer has been sent, or given up.
#[derive(Debug)]
pub(super) struct Open(Arc<Activity>);

impl Activity {
    /// Nothing has been asked yet.
    #[must_use]
    pub(super) fn new(now: Instant) -> Self {
        let until = now + FIRST_REQUEST_TIME;
        Self(watch::Sender::new(State { open: 0, until }))
    }

    /// A request begins.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.0.send_modify(|state| state.open += 1);
        Open(self.clone())
    }

    /// Waits until the connection has been idle for too long.
    pub(super) async fn idle(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let State { open, until } = *changes.borrow_and_update();
            let sleep = async {
                if open == 0 {
                    tokio::time::sleep_until(until).await;
                } else {
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = sleep => return,
                // The sender is `self`.
                _ = changes.changed() => {}
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let until = Instant::now() + IDLE_TIME;
        self.0.0.send_modify(|state| {
            state.open -= 1;
            state.until = until;
        });
    }
}

/// An answer's body, which holds its request open.
#[derive(Debug)]
pub(super) struct Held {
    /// The body.
    pub(super) body: Body,
    /// Open as long as this is there.
    pub(super) _open: Open,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_connection_but_no_open_request() {
        let begun = Instant::now();
        let activity = Arc::new(Activity::new(begun));
        activity.idle().await;
        assert_eq!(begun.elapsed(), FIRST_REQUEST_TIME);
        let watch = activity.open();
        let hour = Duration::from_hours(1);
        assert!(tokio::time::timeout(hour, activity.idle()).await.is_err());
        drop(watch);
        let last = Instant::now();
        activity.idle().await;
        assert_eq!(last.elapsed(), IDLE_TIME);
    }
}

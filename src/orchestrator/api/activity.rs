//! What a connection does: one that never asks anything, or has stopped asking, gives its place back.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::Instant;

use super::limits::{FIRST_REQUEST_TIME, IDLE_TIME, PIECE_BYTES};
use super::places::Room;

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

/// An answer's body, which holds its request open and the room that its user has for answers.
///
/// It is given away in pieces, whatever it comes in: HTTP/2 keeps a piece that it has been given until its reader takes it, and then
/// nobody counts it any more.
#[derive(Debug)]
pub(super) struct Held {
    body: Body,
    /// Of the body's last piece, what has not been given away.
    rest: Bytes,
    /// Open as long as this is there.
    _open: Open,
    _room: Room,
}

impl Held {
    /// Holds both until the body has been sent or given up.
    pub(super) fn new(body: Body, open: Open, room: Room) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            _open: open,
            _room: room,
        }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        let length = self.rest.len().min(PIECE_BYTES);
        Frame::data(self.rest.split_to(length))
    }
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.piece())));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => Poll::Ready(Some(match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    Ok(self.piece())
                }
                Err(other) => Ok(other),
            })),
            end => Poll::Ready(end),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_large_answer_is_given_away_piece_by_piece() {
        use http_body_util::BodyExt as _;
        let open = Arc::new(Activity::new(Instant::now())).open();
        let text = Bytes::from(vec![7; 3 * PIECE_BYTES + 1]);
        let mut held = Held::new(Body::from(text.clone()), open, Room::default());
        assert_eq!(held.size_hint().exact(), Some(text.len() as u64));
        let mut all = Vec::new();
        while let Some(frame) = held.frame().await {
            let data = frame.expect("no error").into_data().expect("data");
            assert!(data.len() <= PIECE_BYTES);
            all.extend_from_slice(&data);
            let left = (text.len() - all.len()) as u64;
            assert_eq!(held.size_hint().exact(), Some(left));
        }
        assert!(held.is_end_stream() && all == text);
    }

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

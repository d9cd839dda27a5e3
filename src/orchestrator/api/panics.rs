//! No request can bring the process down: a panic while one is handled is caught here, counted, and answered with 500.
//!
//! The number is in `/metrics` and should always be 0. What a panic says may quote what a user wrote, a Secret's value among it: the
//! log gets the place and the backtrace, never the message.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::status::Status;

/// A part of the server that panicked starts again after this pause.
const RESTART: Duration = Duration::from_secs(1);

thread_local! {
    /// The panic of this thread that the hook has logged and nobody has caught yet.
    static LOGGED: Cell<Option<uuid::Uuid>> = const { Cell::new(None) };
}

/// From now on every panic of this process is logged with its place and a backtrace, and not printed.
pub fn log_all() {
    std::panic::set_hook(Box::new(|panic| {
        let id = uuid::Uuid::new_v4();
        LOGGED.set(Some(id));
        let place = panic.location().map(ToString::to_string);
        let backtrace = Backtrace::force_capture();
        tracing::error!(%id, place, %backtrace, "a panic");
    }));
}

/// Counts panics that were caught.
#[derive(Debug, Clone, Default)]
pub struct Panics(Arc<AtomicU64>);

impl Panics {
    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one that somebody else has caught, and returns its number in the log.
    pub fn note(&self, _panic: &(dyn Any + Send)) -> uuid::Uuid {
        self.0.fetch_add(1, Ordering::Relaxed);
        let id = LOGGED.take().unwrap_or_else(uuid::Uuid::new_v4);
        tracing::error!(%id, "a panic was caught");
        id
    }

    /// The future's output, or 500 if it panics.
    pub async fn caught<T>(&self, future: impl Future<Output = T>) -> Result<T, Status> {
        AssertUnwindSafe(future)
            .catch_unwind()
            .await
            .map_err(|panic| {
                let id = self.note(&*panic);
                Status::internal(format!(
                    "an internal error occurred: the server's log tells of it as {id}"
                ))
            })
    }

    /// Runs a part of the server, again whenever it panics, until it ends by itself or the server stops.
    pub async fn again<F: Future<Output = ()>>(
        &self,
        part: &'static str,
        cancel: CancellationToken,
        run: impl Fn() -> F,
    ) {
        while self.caught(run()).await.is_err() && !cancel.is_cancelled() {
            tracing::error!(part, "a part of the server panicked and starts again");
            tokio::select! { () = tokio::time::sleep(RESTART) => {}, () = cancel.cancelled() => {} }
        }
    }
}

/// Spawns what HTTP/2 connections need, and survives its panics.
#[derive(Debug, Clone)]
pub struct Spawner(pub Panics);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        let panics = self.0.clone();
        // Whoever needs the output gets it by a channel of hyper's.
        drop(tokio::spawn(
            async move { panics.caught(future).await.ok() },
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_counted_answered_and_the_part_starts_again() {
        let panics = Panics::default();
        let status = panics
            .caught(async {
                if panics.count() == 0 {
                    panic!("of this test")
                }
            })
            .await
            .expect_err("it panicked");
        assert_eq!((status.code, panics.count()), (500, 1));
        assert!(!status.message.contains("of this test"));
        let again = panics.again("test", CancellationToken::new(), || async {
            assert!(panics.count() >= 3, "of this test");
        });
        again.await;
        assert_eq!(panics.count(), 3);
    }
}

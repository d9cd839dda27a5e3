//! The race of connects to several endpoints.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{CONNECT_TIMEOUT, ConnectError, HEDGE_AFTER, Outcome};
use crate::transport::{BoxStream, Dial};

/// Connects to the first of `candidates`; whenever the last one tried fails or stays silent for [`HEDGE_AFTER`], to the next as
/// well. The first to accept wins, and the others that were tried are noted as failed.
pub(super) async fn race(
    dial: &dyn Dial,
    candidates: Vec<SocketAddr>,
    note: impl Fn(SocketAddr, Outcome),
) -> Result<(SocketAddr, BoxStream), ConnectError> {
    if candidates.is_empty() {
        return Err(ConnectError::NoEndpoints);
    }
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut waiting = VecDeque::from(candidates);
    let mut attempts = FuturesUnordered::new();
    let mut silent: Vec<SocketAddr> = Vec::new();
    let mut hedge_at = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some((addr, result)) = attempts.next() => {
                silent.retain(|other| *other != addr);
                match result {
                    Ok(stream) => {
                        note(addr, Outcome::Accepted);
                        for loser in silent {
                            note(loser, Outcome::Failed);
                        }
                        return Ok((addr, stream));
                    }
                    Err(error) => {
                        tracing::debug!(%addr, %error, "connect to an endpoint failed");
                        note(addr, Outcome::Failed);
                        hedge_at = Instant::now();
                    }
                }
            }
            () = tokio::time::sleep_until(hedge_at), if !waiting.is_empty() => {
                if let Some(addr) = waiting.pop_front() {
                    attempts.push(async move { (addr, dial.dial(addr).await) });
                    silent.push(addr);
                    hedge_at = Instant::now() + HEDGE_AFTER;
                }
            }
            () = tokio::time::sleep_until(deadline) => {
                for loser in silent {
                    note(loser, Outcome::Failed);
                }
                return Err(ConnectError::TimedOut);
            }
        }
        if waiting.is_empty() && attempts.is_empty() {
            return Err(ConnectError::AllRefused);
        }
    }
}

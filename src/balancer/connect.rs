//! The race of connects to several endpoints.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{CONNECT_TIMEOUT, ConnectError, Connection, HEDGE_AFTER, OpenConnection, Outcome};
use crate::transport::Dial;

/// Connects to the first of `candidates`; whenever the last one tried fails or stays silent for [`HEDGE_AFTER`], to the next as
/// well. The first to accept wins, and the others that were tried are noted.
///
/// `admit` is asked just before an endpoint is dialled: it counts the attempt as an open connection, or says that the endpoint has
/// left meanwhile. So an endpoint with nothing open will not be dialled any more once it has left.
pub(super) async fn race(
    dial: &dyn Dial,
    candidates: Vec<SocketAddr>,
    admit: impl Fn(SocketAddr) -> Option<OpenConnection>,
    note: impl Fn(SocketAddr, Outcome),
) -> Result<Connection, ConnectError> {
    if candidates.is_empty() {
        return Err(ConnectError::NoEndpoints);
    }
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    let mut waiting = VecDeque::from(candidates);
    let mut attempts = FuturesUnordered::new();
    let mut silent: Vec<SocketAddr> = Vec::new();
    let mut hedge_at = Instant::now();
    loop {
        // The first attempt, and the one after a refusal, wait for no timer.
        while Instant::now() >= hedge_at
            && let Some(addr) = waiting.pop_front()
        {
            let Some(open) = admit(addr) else { continue };
            attempts.push(async move { (open, dial.dial(addr).await) });
            silent.push(addr);
            hedge_at = Instant::now() + HEDGE_AFTER;
        }
        if attempts.is_empty() {
            return Err(ConnectError::AllRefused);
        }
        tokio::select! {
            biased;
            Some((open, result)) = attempts.next() => {
                let addr = open.addr();
                silent.retain(|other| *other != addr);
                match result {
                    Ok(stream) => {
                        note(addr, Outcome::Accepted);
                        for loser in silent {
                            note(loser, Outcome::Silent);
                        }
                        return Ok(Connection { stream, open });
                    }
                    Err(error) => {
                        tracing::debug!(%addr, %error, "connect to an endpoint failed");
                        note(addr, Outcome::Refused);
                        hedge_at = Instant::now();
                    }
                }
            }
            () = tokio::time::sleep_until(hedge_at), if !waiting.is_empty() => {}
            () = tokio::time::sleep_until(deadline) => {
                for loser in silent {
                    note(loser, Outcome::Silent);
                }
                return Err(ConnectError::TimedOut);
            }
        }
    }
}

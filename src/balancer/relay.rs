//! Carrying bytes between a client and an endpoint.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{Balancer, ConnectError, Connection, ServicePortKey};

/// Why a client's connection was reset.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No endpoint took it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// One side broke.
    #[error("relay broke")]
    Broken(#[source] io::Error),
    /// The endpoint's node was declared dead.
    #[error("the endpoint's node was declared dead")]
    Aborted,
}

/// Copies both ways until both directions have ended; each ends for itself.
///
/// # Errors
/// When a side breaks or the connection is aborted. The client's side is then to be reset by its owner.
pub async fn relay<C>(client: &mut C, connection: Connection) -> Result<(u64, u64), ForwardError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let Connection { mut stream, open } = connection;
    tokio::select! {
        copied = tokio::io::copy_bidirectional(client, &mut stream) => copied.map_err(ForwardError::Broken),
        () = open.aborted() => Err(ForwardError::Aborted),
    }
}

/// Serves a client's TCP connection: balances it to an endpoint and relays until it ends. When that fails, at the start or later,
/// the client sees a reset, never an orderly end.
///
/// # Errors
/// When the client was reset, and why.
pub async fn forward(mut client: TcpStream, balancer: &Balancer, key: &ServicePortKey) -> Result<(u64, u64), ForwardError> {
    let relayed = match balancer.connect(key).await {
        Ok(connection) => relay(&mut client, connection).await,
        Err(error) => Err(error.into()),
    };
    if relayed.is_err() {
        // With a zero linger, closing sends a reset. It can only fail on a socket that is gone already.
        drop(client.set_zero_linger());
    }
    relayed
}

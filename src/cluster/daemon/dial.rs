//! The dial socket: raw connections from the host into the cluster, for the prober.
//!
//! A client sends one line of JSON, a [`DialRequest`]; the daemon connects and answers one line, a [`DialReply`]; on success the
//! connection's bytes follow. A failure keeps its class, so that the prober can tell a refusal from silence.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::balancer::{Balancer, ConnectError, ServicePortKey};
use crate::transport::Dial;

/// Longest request line: a namespace, a name and a port.
const MAX_REQUEST: usize = 1024;

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DialTarget {
    /// A LoadBalancer Service, through the host's load balancer.
    #[serde(rename = "service")]
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// A port of the Service.
        port: u16,
    },
    /// An address of the fabric.
    #[serde(rename = "address")]
    Address(SocketAddr),
}

/// The first line of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialRequest {
    /// Where to.
    pub to: DialTarget,
}

/// The daemon's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DialReply {
    /// The connection's bytes follow.
    Connected,
    /// The peer refused, or no endpoint accepted.
    Refused,
    /// The service has no endpoint.
    NoEndpoints,
    /// Nobody answered.
    TimedOut,
    /// The request was not understood, or something else failed.
    Failed,
}

impl DialReply {
    /// The error kind that says the same to a prober.
    pub fn error_kind(self) -> io::ErrorKind {
        match self {
            Self::Connected => io::ErrorKind::Other,
            Self::Refused | Self::NoEndpoints => io::ErrorKind::ConnectionRefused,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::Failed => io::ErrorKind::Other,
        }
    }
}

pub(super) async fn serve(listener: UnixListener, dial: Arc<dyn Dial>, balancer: Balancer) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (dial, balancer) = (dial.clone(), balancer.clone());
                tokio::spawn(async move {
                    if let Err(error) = handle(client, &*dial, &balancer).await {
                        tracing::debug!(%error, "a dialled connection ended");
                    }
                });
            }
            Err(error) => {
                // Out of file descriptors: the ones that end make room.
                tracing::warn!(%error, "accept on the dial socket");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
    }
}

async fn handle(client: UnixStream, dial: &dyn Dial, balancer: &Balancer) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let mut line = String::new();
    let length = tokio::io::AsyncReadExt::take(&mut client, MAX_REQUEST as u64)
        .read_line(&mut line)
        .await?;
    if length == 0 {
        return Ok(());
    }
    let Ok(request) = serde_json::from_str::<DialRequest>(&line) else {
        return reply(&mut client, DialReply::Failed).await;
    };
    match request.to {
        DialTarget::Address(to) => {
            // The client gives up by closing; its going must end the attempt.
            let connected = tokio::select! {
                connected = dial.dial(to) => connected,
                _ = client.fill_buf() => return Ok(()),
            };
            match connected {
                Ok(mut stream) => {
                    reply(&mut client, DialReply::Connected).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut stream).await?;
                    Ok(())
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    reply(&mut client, DialReply::Refused).await
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    reply(&mut client, DialReply::TimedOut).await
                }
                Err(_) => reply(&mut client, DialReply::Failed).await,
            }
        }
        DialTarget::Service {
            namespace,
            name,
            port,
        } => {
            let key = ServicePortKey {
                namespace,
                name,
                port,
            };
            let connected = tokio::select! {
                connected = balancer.connect_for(&key, Some(Ipv4Addr::LOCALHOST.into())) => connected,
                _ = client.fill_buf() => return Ok(()),
            };
            match connected {
                Ok(connection) => {
                    reply(&mut client, DialReply::Connected).await?;
                    crate::balancer::relay(&mut client, connection)
                        .await
                        .map(drop)
                        .map_err(io::Error::other)
                }
                Err(ConnectError::NoEndpoints) => reply(&mut client, DialReply::NoEndpoints).await,
                Err(ConnectError::AllRefused) => reply(&mut client, DialReply::Refused).await,
                Err(ConnectError::TimedOut) => reply(&mut client, DialReply::TimedOut).await,
            }
        }
    }
}

async fn reply(client: &mut BufReader<UnixStream>, reply: DialReply) -> io::Result<()> {
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    client.write_all(&line).await?;
    client.flush().await
}

//! Agents ask each other whether they live: the indirect probe of failure detection, and how a node without contact tells a dead server
//! from a cut cable (see [`lease`](super::lease)).
//!
//! One question is one TLS connection, mutually authenticated, to [`PEER_PORT`]: the answer is one line of JSON, and it is over. A node asks
//! only while somebody is silent, so that a quiet cluster has none of these.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::contact::Contact;
use super::tunnel::TunnelError;
use super::tunnel::client_config;
use super::words::Words;
use crate::orchestrator::api::tls::{self, Clients};
use crate::orchestrator::config::AgentConfig;
use crate::orchestrator::tunnel::{PEER_PORT, PeerAnswer};

/// A node that has not answered for so long is silent.
const ANSWER_WITHIN: Duration = Duration::from_millis(400);
/// A lost SYN is sent again by the kernel after a second only, so a second connection is tried after so long: one lost packet is no silence.
const CONNECT_AGAIN: Duration = Duration::from_millis(150);
/// When the limit itself comes so late, this node was starved, and its finding counts for nothing.
const LATE: Duration = Duration::from_millis(150);
/// Longest answer.
const LINE_BYTES: u64 = 256;
/// Questions that are answered at once; more wait in the kernel's queue.
const QUESTIONS: usize = 16;
/// Between attempts to listen.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// What an agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hello {
    /// How long ago the server is known to have heard it; [`NEVER_MS`](crate::orchestrator::tunnel::NEVER_MS).
    pub(crate) contact_ms: u64,
    /// It keeps service traffic from its pods.
    pub(crate) fenced: bool,
    /// How long ago it told the server that the asking node is silent, or fenced: that it may be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) denounced_ms: Option<u64>,
}

/// The other agents.
pub(crate) struct Peers {
    connector: tokio_rustls::TlsConnector,
    acceptor: tokio_rustls::TlsAcceptor,
    own: Ipv4Addr,
    /// Addresses of the other workers.
    workers: Vec<SocketAddr>,
    contact: Arc<Contact>,
    fenced: AtomicBool,
    words: Mutex<Words<IpAddr>>,
}

impl Peers {
    /// Reads the identity.
    pub(crate) fn new(config: &AgentConfig, contact: Arc<Contact>) -> Result<Self, TunnelError> {
        let server = config
            .server
            .strip_prefix("https://")
            .and_then(|rest| rest.parse::<SocketAddr>().ok());
        let is_worker =
            |address: &&Ipv4Addr| server.is_none_or(|server| server.ip() != IpAddr::V4(**address));
        let workers = config
            .routes
            .values()
            .filter(is_worker)
            .map(|address| (*address, PEER_PORT).into())
            .collect();
        let acceptor = tls::acceptor(&config.identity, Clients::Certified).map_err(|error| {
            TunnelError::Identity {
                path: config.identity.certificate.clone(),
                what: error.to_string(),
            }
        })?;
        Ok(Self {
            connector: Arc::new(client_config(&config.identity)?).into(),
            acceptor,
            own: config.address,
            workers,
            contact,
            fenced: AtomicBool::new(false),
            words: Mutex::default(),
        })
    }

    /// The other workers.
    pub(crate) fn workers(&self) -> &[SocketAddr] {
        &self.workers
    }

    /// What this node says of itself from now on.
    pub(crate) fn set_fenced(&self, fenced: bool) {
        self.fenced.store(fenced, Ordering::Relaxed);
    }

    /// Answers other agents, for ever.
    pub(crate) async fn answer_all(self: Arc<Self>) {
        let places = Arc::new(Semaphore::new(QUESTIONS));
        loop {
            let listener = match TcpListener::bind((self.own, PEER_PORT)).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::warn!(%error, port = PEER_PORT, "other agents cannot be answered, trying again");
                    tokio::time::sleep(LISTEN_AGAIN).await;
                    continue;
                }
            };
            while let (Ok(place), Ok((stream, _))) = (
                places.clone().acquire_owned().await,
                listener.accept().await,
            ) {
                let peers = self.clone();
                tokio::spawn(async move {
                    // Who asks and goes away is nobody's problem.
                    drop(timeout(ANSWER_WITHIN * 4, peers.answer(stream)).await);
                    drop(place);
                });
            }
        }
    }

    async fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let asker = stream.peer_addr()?.ip();
        let mut stream = self.acceptor.accept(stream).await?;
        let now = Instant::now();
        let hello = self.words().hello(
            now,
            asker,
            self.contact.heard_ms_ago(now),
            self.fenced.load(Ordering::Relaxed),
        );
        let mut line = serde_json::to_vec(&hello)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        stream.shutdown().await
    }

    /// Asks another agent.
    pub(crate) async fn ask(&self, address: SocketAddr) -> Found {
        let begun = Instant::now();
        let connected = timeout(ANSWER_WITHIN, connect(address)).await;
        if begun.elapsed() > ANSWER_WITHIN + LATE {
            return Found::Late;
        }
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return refused(error.kind()),
            Err(_) => return Found::Silence,
        };
        let asked = async {
            stream.set_nodelay(true)?;
            let stream = self
                .connector
                .connect(ServerName::IpAddress(address.ip().into()), stream)
                .await?;
            let mut line = Vec::new();
            stream.take(LINE_BYTES).read_to_end(&mut line).await?;
            serde_json::from_slice(&line).map_err(std::io::Error::other)
        };
        match timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(hello)) => Found::Agent(hello),
            Ok(Err(_)) | Err(_) => Found::Machine,
        }
    }

    /// Looks for another agent, for the server.
    pub(crate) async fn look(&self, address: SocketAddr) -> PeerAnswer {
        let found = self.ask(address).await.into();
        self.words().testify(Instant::now(), address.ip(), found)
    }

    fn words(&self) -> MutexGuard<'_, Words<IpAddr>> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects, twice if need be; the first connection that is made or refused counts.
async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let again = async {
        tokio::time::sleep(CONNECT_AGAIN).await;
        TcpStream::connect(address).await
    };
    tokio::select! {
        connected = TcpStream::connect(address) => connected,
        connected = again => connected,
    }
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// The agent answered.
    Agent(Hello),
    /// The machine lives: it refused, or let a connection be made, which its kernel does however starved its agent is.
    Machine,
    /// Nothing came back.
    Silence,
    /// This node was itself too late, or is not connected, to say anything.
    Late,
}

impl From<Found> for PeerAnswer {
    fn from(found: Found) -> Self {
        match found {
            Found::Agent(Hello { fenced: true, .. }) => Self::Fenced,
            Found::Agent(_) => Self::Serving,
            Found::Machine => Self::Refused,
            Found::Silence => Self::Silent,
            Found::Late => Self::Late,
        }
    }
}

/// What a connect says that failed in time.
fn refused(kind: std::io::ErrorKind) -> Found {
    match kind {
        // Nobody answers ARP, which is what a machine without power looks like to its neighbours.
        std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::TimedOut => Found::Silence,
        std::io::ErrorKind::NetworkUnreachable => Found::Late,
        _ => Found::Machine,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn findings() {
        for (kind, wanted) in [
            (ErrorKind::HostUnreachable, Found::Silence),
            (ErrorKind::TimedOut, Found::Silence),
            (ErrorKind::NetworkUnreachable, Found::Late),
            (ErrorKind::ConnectionRefused, Found::Machine),
            (ErrorKind::ConnectionReset, Found::Machine),
        ] {
            assert_eq!(refused(kind), wanted, "{kind:?}");
        }
    }
}

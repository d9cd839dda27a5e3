//! The balancer's end of its stream to the control plane; see [`super::report`] for what is said.
//!
//! Invariant: what the control plane ordered last holds while it is away (fail static).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::Balancer;
use super::report::{Orders, PATH, REPORT_INTERVAL_MS, Report};

/// Pause before the next dial: doubles from the first to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_LAST: Duration = Duration::from_secs(2);
/// For TCP, TLS and the WebSocket's handshake together.
const DIAL_LIMIT: Duration = Duration::from_secs(5);
/// A report that cannot be written for so long: the connection is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(4);
/// A ping goes with every so many reports, and a control plane that answers none for so long is gone.
const REPORTS_PER_PING: u32 = 2;
const SILENCE_LIMIT: Duration = Duration::from_secs(4);
/// Reports that come at once are at least so far apart: connections end in crowds.
const REPORT_PACE: Duration = Duration::from_millis(5);

type Socket = WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>;

/// Why the stream cannot be dialled at all.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The control plane is not named by address.
    #[error("server `{0}` is not `https://ADDRESS:PORT`")]
    Server(String),
    /// A part of the identity cannot be used.
    #[error("use the {0} of the load balancer's identity")]
    Identity(&'static str),
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Where to report, and as whom.
pub struct ControlPlane {
    address: SocketAddr,
    url: String,
    tls: tokio_rustls::TlsConnector,
}

impl ControlPlane {
    /// The control plane at `server` (`https://ADDRESS:PORT`), and this balancer's identity in PEM.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn new(server: &str, ca_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self, StreamError> {
        let authority = server.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
        let address = authority.parse().map_err(|_| StreamError::Server(server.to_owned()))?;
        let certificates = |pem: &str, what| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            read.map_err(|_| StreamError::Identity(what))
        };
        let mut roots = rustls::RootCertStore::empty();
        for authority in certificates(ca_pem, "certificate authority")? {
            roots.add(authority)?;
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| StreamError::Identity("key"))?;
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(certificate_pem, "certificate")?, key)?;
        // A WebSocket is an upgrade of HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { address, url: format!("wss://{authority}{PATH}"), tls: Arc::new(config).into() })
    }

    async fn dial(&self) -> Result<Socket, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self.tls.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
        let (socket, _) = tokio_tungstenite::client_async(&self.url, stream).await.map_err(|error| error.to_string())?;
        Ok(socket)
    }
}

/// Reports to the control plane and follows its orders, for ever.
pub async fn keep(control_plane: ControlPlane, balancer: Balancer) {
    let mut backoff = BACKOFF_FIRST;
    let mut known = Orders::default();
    loop {
        match timeout(DIAL_LIMIT, control_plane.dial()).await.unwrap_or_else(|_| Err("no answer in time".into())) {
            Ok(socket) => {
                tracing::info!(server = %control_plane.address, "reporting to the control plane");
                let begun = Instant::now();
                let why = serve(socket, &balancer, &mut known).await;
                tracing::warn!(server = %control_plane.address, why, "the stream to the control plane broke, dialling again");
                if begun.elapsed() > BACKOFF_LAST {
                    backoff = BACKOFF_FIRST;
                }
            }
            Err(why) => tracing::debug!(server = %control_plane.address, why, "no stream to the control plane, dialling again"),
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

/// Serves one connection; returns why it ended.
async fn serve(socket: Socket, balancer: &Balancer, known: &mut Orders) -> String {
    let (mut sink, mut stream) = socket.split();
    let writing = async {
        let mut ticks = interval(Duration::from_millis(REPORT_INTERVAL_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut regular = 0_u32;
        let mut last: Option<Report> = None;
        loop {
            let due = tokio::select! {
                _ = ticks.tick() => true,
                () = balancer.changed() => false,
            };
            let report = balancer.report();
            if !due && last.as_ref() == Some(&report) {
                continue;
            }
            regular = regular.wrapping_add(u32::from(due));
            let text = serde_json::to_string(&report).expect("a report of numbers and addresses is JSON");
            last = Some(report);
            let sent = async {
                sink.feed(Message::text(text)).await?;
                if due && regular.is_multiple_of(REPORTS_PER_PING) {
                    sink.feed(Message::Ping(bytes::Bytes::new())).await?;
                }
                // In one piece: each piece wakes the control plane.
                sink.flush().await
            };
            match timeout(WRITE_LIMIT, sent).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return format!("nothing could be written for {} s", WRITE_LIMIT.as_secs()),
            }
            if !due {
                tokio::time::sleep(REPORT_PACE).await;
            }
        }
    };
    let reading = async {
        loop {
            match timeout(SILENCE_LIMIT, stream.next()).await {
                Err(_) => return format!("the control plane was silent for {} s", SILENCE_LIMIT.as_secs()),
                Ok(None) => return "the control plane closed it".to_owned(),
                Ok(Some(Err(error))) => return error.to_string(),
                Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str::<Orders>(&text) {
                    Ok(orders) => follow(balancer, orders, known),
                    Err(error) => tracing::warn!(%error, "the control plane said what this balancer does not understand"),
                },
                Ok(Some(Ok(_))) => {}
            }
        }
    };
    tokio::select! {
        why = writing => why,
        why = reading => why,
    }
}

pub(crate) fn follow(balancer: &Balancer, orders: Orders, known: &mut Orders) {
    for node in orders.silent_nodes.difference(&known.silent_nodes) {
        tracing::info!(node, "the node has fallen silent: it is avoided");
        balancer.avoid_node(node);
    }
    for node in orders.dead_nodes.difference(&known.dead_nodes) {
        tracing::warn!(node, "the node is given up: its connections are reset");
        balancer.abort_node(node);
    }
    balancer.drain(orders.draining.clone());
    *known = orders;
}

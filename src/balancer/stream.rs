//! The balancer's end of its stream to the control plane; see [`super::report`] for what is said.
//!
//! Invariant: what the control plane ordered last holds while it is away (fail static).

use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::Balancer;
use super::report::{Orders, PATH, REPORT_INTERVAL_MS, Report};
use crate::transport::dialler::{Dialler, Socket};

/// A report that cannot be written for so long: the connection is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(4);
/// A ping goes with every so many reports, and a control plane that answers none for so long is gone.
const REPORTS_PER_PING: u32 = 2;
const SILENCE_LIMIT: Duration = Duration::from_secs(4);
/// Reports that come at once are at least so far apart: connections end in crowds.
const REPORT_PACE: Duration = Duration::from_millis(5);

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
pub struct ControlPlane(Dialler);

impl ControlPlane {
    /// The control plane at `server` (`https://ADDRESS:PORT`), and this balancer's identity in PEM.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn new(
        server: &str,
        ca_pem: &str,
        certificate_pem: &str,
        key_pem: &str,
    ) -> Result<Self, StreamError> {
        let certificates = |pem: &str, what| {
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            read.map_err(|_| StreamError::Identity(what))
        };
        let mut roots = rustls::RootCertStore::empty();
        for authority in certificates(ca_pem, "certificate authority")? {
            roots.add(authority)?;
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| StreamError::Identity("key"))?;
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(certificate_pem, "certificate")?, key)?;
        Dialler::new(server, PATH, config)
            .map(Self)
            .ok_or_else(|| StreamError::Server(server.to_owned()))
    }
}

/// Reports to the control plane and follows its orders, for ever.
pub async fn keep(control_plane: ControlPlane, balancer: Balancer) {
    let ControlPlane(mut dialler) = control_plane;
    let server = dialler.address();
    let mut known = Orders::default();
    loop {
        let socket = dialler.connect().await;
        tracing::info!(%server, "reporting to the control plane");
        let why = serve(socket, &balancer, &mut known).await;
        tracing::warn!(%server, why, "the stream to the control plane broke, dialling again");
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
            let text =
                serde_json::to_string(&report).expect("a report of numbers and addresses is JSON");
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
                Err(_) => {
                    return format!("nothing could be written for {} s", WRITE_LIMIT.as_secs());
                }
            }
            if !due {
                tokio::time::sleep(REPORT_PACE).await;
            }
        }
    };
    let reading = async {
        loop {
            match timeout(SILENCE_LIMIT, stream.next()).await {
                Err(_) => {
                    return format!(
                        "the control plane was silent for {} s",
                        SILENCE_LIMIT.as_secs()
                    );
                }
                Ok(None) => return "the control plane closed it".to_owned(),
                Ok(Some(Err(error))) => return error.to_string(),
                Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str::<Orders>(&text) {
                    Ok(orders) => follow(balancer, orders, known),
                    Err(error) => {
                        tracing::warn!(%error, "the control plane said what this balancer does not understand")
                    }
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

//! A WebSocket to the control plane, dialled anew whenever it breaks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::WebSocketStream;

/// Pause before the next dial: doubles from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_LAST: Duration = Duration::from_secs(2);
/// For TCP, TLS and the WebSocket's handshake together.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// A WebSocket over TLS.
pub type Socket = WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>;

/// Where to dial, as whom, and how patiently.
pub struct Dialler {
    address: SocketAddr,
    url: String,
    tls: tokio_rustls::TlsConnector,
    pause: Duration,
    opened: Option<Instant>,
}

impl Dialler {
    /// Dials `path` of `server`; `None` if that is not `https://ADDRESS:PORT`.
    pub fn new(server: &str, path: &str, mut tls: rustls::ClientConfig) -> Option<Self> {
        // A WebSocket is an upgrade of HTTP/1.1.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let authority = server.strip_prefix("https://")?.trim_end_matches('/');
        let url = format!("wss://{authority}{path}");
        Some(Self {
            address: authority.parse().ok()?,
            url,
            tls: Arc::new(tls).into(),
            pause: PAUSE_FIRST,
            opened: None,
        })
    }

    /// The server's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, however long it takes; the one before it is over.
    pub async fn connect(&mut self) -> Socket {
        if let Some(opened) = self.opened.take() {
            if opened.elapsed() > PAUSE_LAST {
                self.pause = PAUSE_FIRST;
            }
            self.rest().await;
        }
        loop {
            match timeout(DIAL_LIMIT, self.dial(&self.url))
                .await
                .unwrap_or_else(|_| Err("no answer in time".into()))
            {
                Ok(socket) => {
                    self.opened = Some(Instant::now());
                    return socket;
                }
                Err(why) => {
                    tracing::debug!(server = %self.address, why, "the control plane cannot be reached, dialling again")
                }
            }
            self.rest().await;
        }
    }

    /// One connection to what is below the path, if there is one in time.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn once(&self, below: &str) -> Result<Socket, String> {
        timeout(DIAL_LIMIT, self.dial(&format!("{}/{below}", self.url)))
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
    }

    async fn rest(&mut self) {
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_LAST);
    }

    async fn dial(&self, url: &str) -> Result<Socket, String> {
        let stream = TcpStream::connect(self.address)
            .await
            .map_err(|error| error.to_string())?;
        stream
            .set_nodelay(true)
            .map_err(|error| error.to_string())?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = self
            .tls
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS: {error}"))?;
        let (socket, _) = tokio_tungstenite::client_async(url, stream)
            .await
            .map_err(|error| error.to_string())?;
        Ok(socket)
    }
}

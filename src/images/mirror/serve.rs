//! The mirror's connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::transport::Listen;

/// Connections served at once: a few for each of the nodes that a cluster may have.
const MAX_CONNECTIONS: usize = 512;
/// A handshake takes long on an emulated machine.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// Serves `router` over TLS until `listener` fails for good.
pub async fn serve(
    mut listener: impl Listen,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
) -> io::Result<()> {
    let acceptor = tokio_rustls::TlsAcceptor::from(tls);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => return Err(error),
        };
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let _permit = permit;
            match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await
                    {
                        tracing::debug!(%peer, %error, "registry mirror: connection");
                    }
                }
                Ok(Err(error)) => tracing::warn!(%peer, %error, "registry mirror: TLS handshake"),
                Err(_) => tracing::warn!(%peer, "registry mirror: the TLS handshake took too long"),
            }
        });
    }
}

/// Whether an accept failed because its peer went away already.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

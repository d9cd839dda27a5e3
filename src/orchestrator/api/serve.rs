//! The server's life: open the store, start the controllers, accept, stop on SIGTERM.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use super::barrier::Barrier;
use super::heartbeats::Heartbeats;
use super::http::{Server, router};
use super::registry::Registry;
use super::status::Status;
use super::tls::{self, TlsError};
use super::tunnels::Tunnels;
use super::{balancers, bootstrap, kinds};
use crate::orchestrator::config::ServerConfig;
use crate::orchestrator::control::Brake;
use crate::orchestrator::store::embedded::{EmbeddedStore, OpenError, Sealing};
use crate::orchestrator::store::seal::{SealError, Sealer};

/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(20);
/// A dead peer is noticed after about two of these.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// How long open requests get when the server stops.
const DRAIN: Duration = Duration::from_secs(5);
/// client-go's windows assume these (research: 256 KiB a stream, 25 MiB a connection).
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The data directory cannot be made.
    #[error("make the data directory `{path}`")]
    DataDirectory {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The secrets key cannot be used.
    #[error(transparent)]
    Key(#[from] SealError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The first objects cannot be written.
    #[error("create the cluster's first objects")]
    Bootstrap(#[from] Status),
    /// The address is taken or not ours.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A controller panicked.
    #[error("run the controllers")]
    Controllers(#[source] tokio::task::JoinError),
    /// Signals cannot be received.
    #[error("wait for signals")]
    Signal(#[source] std::io::Error),
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(config: ServerConfig) -> Result<(), ServerError> {
    let cancel = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(ServerError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServerError::Signal)?;
    let stop = cancel.clone();
    let waiting = tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        stop.cancel();
    });
    let listener =
        TcpListener::bind(config.listen)
            .await
            .map_err(|source| ServerError::Listen {
                address: config.listen,
                source,
            })?;
    let result = serve(config, listener, cancel).await;
    waiting.abort();
    result
}

/// Serves on `listener` until `cancel`.
pub async fn serve(
    config: ServerConfig,
    listener: TcpListener,
    cancel: CancellationToken,
) -> Result<(), ServerError> {
    let acceptor = tls::acceptor(&config.identity)?;
    std::fs::create_dir_all(&config.data_dir).map_err(|source| ServerError::DataDirectory {
        path: config.data_dir.display().to_string(),
        source,
    })?;
    let sealing = Sealing {
        sealer: Sealer::from_file(&config.secrets_key)?,
        prefix: kinds::SECRET.prefix(None),
    };
    let store = EmbeddedStore::open(&config.data_dir.join("store.redb"), sealing)?;
    let heartbeats = Arc::new(Heartbeats::default());
    let registry = Arc::new(Registry::new(Arc::new(store), heartbeats.clone()));
    bootstrap::ensure(&registry, config.address).await?;
    let barrier = Arc::new(Barrier::default());
    let _following = AbortOnDropHandle::new(tokio::spawn(balancers::follow(
        registry.clone(),
        barrier.clone(),
    )));
    let tunnels = Arc::new(Tunnels::new(heartbeats.clone(), barrier.clone()));
    let control = crate::orchestrator::control::Control {
        registry: registry.clone(),
        heartbeats,
        tunnels: tunnels.clone(),
        barrier: barrier.clone(),
        brake: Brake {
            percent: config.eviction_brake_percent,
        },
    };
    let controllers = tokio::spawn(control.run(cancel.clone()));
    let server = Server {
        registry,
        tunnels,
        barrier,
        cancel: cancel.clone(),
        address: config.listen.to_string(),
    };
    tracing::info!(listen = %config.listen, "serving");
    accept(&listener, &acceptor, &router(server), &cancel).await;
    controllers.await.map_err(ServerError::Controllers)?;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    acceptor: &TlsAcceptor,
    router: &Router,
    cancel: &CancellationToken,
) {
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            break;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = cancel.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let connection =
                    connection(stream, acceptor.clone(), router.clone(), cancel.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors: give the others a moment to close theirs.
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let drained = tokio::time::timeout(DRAIN, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    cancel: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        return tracing::debug!("a TLS handshake failed");
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first());
    let Some(who) = certificate.and_then(tls::identity) else {
        return tracing::warn!("a client certificate has no CN");
    };
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(who.clone());
        router.clone().oneshot(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = cancel.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a connection ended");
    }
}

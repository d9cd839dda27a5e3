//! The server's life: open the store, start the controllers, accept, stop on SIGTERM.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

use super::activity::{Activity, Held};
use super::barrier::Barrier;
use super::caller::Caller;
use super::heartbeats::Heartbeats;
use super::http::{Server, router};
use super::panics::{Panics, Spawner};
use super::places::{Handshake, Handshakes, Room, Users};
use super::registry::Registry;
use super::status::Status;
use super::tls::{self, Clients, TlsError};
use super::tokens::{KeyError, Tokens};
use super::tunnels::Tunnels;
use super::{balancers, bootstrap, kinds, limits, panics, rbac};
use crate::orchestrator::config::ServerConfig;
use crate::orchestrator::control::Brake;
use crate::orchestrator::private_file;
use crate::orchestrator::store::embedded::{EmbeddedStore, OpenError, Sealing};
use crate::orchestrator::store::seal::{SealError, Sealer};

/// How long open requests get when the server stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Open files that are asked of the system.
const OPEN_FILES: u64 = 16 << 10;
/// The key of ServiceAccount tokens, beside that of the Secrets.
const TOKENS_KEY: &str = "service-accounts.key";
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
    /// The key of ServiceAccount tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] KeyError),
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
    panics::log_all();
    raise_open_files();
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
    let clients = if config.tokens {
        Clients::ByToken
    } else {
        Clients::Certified
    };
    let acceptor = tls::acceptor(&config.identity, clients)?;
    private_file::make_private_directory(&config.data_dir).map_err(|source| {
        ServerError::DataDirectory {
            path: config.data_dir.display().to_string(),
            source,
        }
    })?;
    let sealing = Sealing {
        sealer: Sealer::from_file(&config.secrets_key)?,
        prefix: kinds::SECRET.prefix(None),
    };
    let store = EmbeddedStore::open(&config.data_dir.join("store.redb"), sealing)?;
    let tokens = Arc::new(Tokens::open(
        &config.secrets_key.with_file_name(TOKENS_KEY),
    )?);
    let heartbeats = Arc::new(Heartbeats::default());
    let registry = Registry::new(Arc::new(store), heartbeats.clone());
    let registry = registry
        .granting(config.granted_labels.clone())
        .accepting_unenforced(config.accept_unenforced)
        .giving_tokens(config.tokens)
        .admitting(config.images.clone());
    let registry = Arc::new(registry);
    bootstrap::ensure(&registry, config.address).await?;
    rbac::ensure(&registry).await?;
    let barrier = Arc::new(Barrier::default());
    let panics = Panics::default();
    let following = {
        let (registry, barrier) = (registry.clone(), barrier.clone());
        let (panics, cancel) = (panics.clone(), cancel.clone());
        async move {
            let follow = || balancers::follow(registry.clone(), barrier.clone());
            panics.again("balancers", cancel, follow).await;
        }
    };
    let _following = AbortOnDropHandle::new(tokio::spawn(following));
    let tunnels = Arc::new(Tunnels::new(registry.clone(), barrier.clone()));
    let control = crate::orchestrator::control::Control {
        registry: registry.clone(),
        heartbeats,
        tunnels: tunnels.clone(),
        barrier: barrier.clone(),
        brake: Brake {
            percent: config.eviction_brake_percent,
        },
        root_ca: tls::authority(&config.identity)?.into(),
    };
    let controlling = {
        let (panics, cancel) = (panics.clone(), cancel.clone());
        async move {
            let run = || control.clone().run(cancel.clone());
            panics.again("controllers", cancel.clone(), run).await;
        }
    };
    let controllers = tokio::spawn(controlling);
    let users = Arc::new(Users::default());
    let strangers = config.tokens.then(|| Strangers {
        under_way: Arc::new(Handshakes::of(limits::STRANGERS)),
        tokens: tokens.clone(),
        registry: registry.clone(),
    });
    let server = Server {
        registry,
        tokens,
        tunnels,
        barrier,
        cancel: cancel.clone(),
        address: config.listen.to_string(),
        panics: panics.clone(),
        users: users.clone(),
    };
    tracing::info!(listen = %config.listen, "serving");
    let door = Door {
        acceptor,
        router: router(server),
        handshakes: Arc::default(),
        strangers,
        users,
        panics,
        cancel,
    };
    accept(&listener, door).await;
    controllers.await.map_err(ServerError::Controllers)?;
    Ok(())
}

/// As many files and connections as the system lets this process have; what [`limits`] allows needs fewer.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum.map(|maximum| maximum.min(OPEN_FILES)),
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the number of open files cannot be raised");
    }
}

/// What connections without a certificate need.
#[derive(Clone)]
struct Strangers {
    under_way: Arc<Handshakes>,
    tokens: Arc<Tokens>,
    registry: Arc<Registry>,
}

/// What every connection comes through.
#[derive(Clone)]
struct Door {
    acceptor: TlsAcceptor,
    router: Router,
    handshakes: Arc<Handshakes>,
    /// `None` where everybody needs a certificate.
    strangers: Option<Strangers>,
    users: Arc<Users>,
    panics: Panics,
    cancel: CancellationToken,
}

async fn accept(listener: &TcpListener, door: Door) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.cancel.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, peer)) => {
                let handshake = door.handshakes.begin(peer.ip());
                let door = door.clone();
                connections.spawn(async move {
                    let panics = door.panics.clone();
                    drop(panics.caught(connection(stream, handshake, door)).await);
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

async fn connection(stream: TcpStream, handshake: Handshake, door: Door) {
    let _ = stream.set_nodelay(true);
    let shaking = tokio::time::timeout(limits::HANDSHAKE_TIME, door.acceptor.accept(stream));
    let shaken = tokio::select! {
        shaken = shaking => shaken,
        () = handshake.given_up.cancelled() => {
            return tracing::debug!("a TLS handshake was given up for another");
        }
    };
    drop(handshake);
    let Ok(Ok(stream)) = shaken else {
        return tracing::debug!("a TLS handshake failed");
    };
    let session = stream.get_ref().1;
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let peer = stream.get_ref().0.peer_addr();
    let caller = match (certificate, &door.strangers, peer) {
        (None, Some(strangers), Ok(peer)) => Caller::bearer(
            strangers.tokens.clone(),
            strangers.registry.clone(),
            door.users.clone(),
            strangers.under_way.begin(peer.ip()),
        ),
        (certificate, ..) => {
            let Some(who) = certificate.and_then(tls::identity) else {
                return tracing::warn!("a client certificate has no CN");
            };
            let Some(place) = door.users.admit(&who).map(Arc::new) else {
                return tracing::debug!(
                    user = who.user,
                    "a user has all the connections it may have"
                );
            };
            Caller::Certified { who, place }
        }
    };
    let caller = Arc::new(caller);
    let http2 = session.alpn_protocol() == Some(b"h2");
    let activity = Arc::new(Activity::new(Instant::now()));
    let service = {
        let (activity, caller) = (activity.clone(), caller.clone());
        let (router, panics) = (door.router.clone(), door.panics.clone());
        hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let open = activity.open();
            let mut request = request.map(Body::new);
            let identified = caller.identify(request.headers_mut());
            let (router, panics) = (router.clone(), panics.clone());
            async move {
                let (who, place) = match identified {
                    Ok(identified) => identified,
                    Err(status) => {
                        let held = |body| Body::new(Held::new(body, open, Room::default()));
                        return Ok(status.into_response().map(held));
                    }
                };
                request.extensions_mut().insert(who);
                request.extensions_mut().insert(place.clone());
                let response = match panics.caught(router.oneshot(request)).await {
                    Ok(Ok(response)) => response,
                    Err(status) => status.into_response(),
                };
                let (response, room) = match place.room(response.body().size_hint().exact()) {
                    Ok(room) => (response, room),
                    Err(status) => (status.into_response(), Room::default()),
                };
                let held = |body| Body::new(Held::new(body, open, room));
                Ok::<_, Infallible>(response.map(held))
            }
        })
    };
    let builder = builder(door.panics.clone());
    let builder = if http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    };
    let served = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut served = std::pin::pin!(served);
    let over = async {
        tokio::select! { () = door.cancel.cancelled() => {}, () = activity.idle() => {}, () = caller.over() => {} }
    };
    let result = tokio::select! {
        result = served.as_mut() => result,
        () = over => {
            served.as_mut().graceful_shutdown();
            // A client that never said anything has nothing to finish, and would never end it.
            let drain = caller.drain_time(DRAIN);
            tokio::time::timeout(drain, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(error, "a connection ended");
    }
}

fn builder(panics: Panics) -> Builder<Spawner> {
    let mut builder = Builder::new(Spawner(panics));
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(limits::HEAD_BYTES as usize)
        .header_read_timeout(limits::IDLE_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS)
        .max_header_list_size(limits::HEAD_BYTES)
        .keep_alive_interval(limits::KEEP_ALIVE_TIME)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES);
    builder
}

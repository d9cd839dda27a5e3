//! `flightcage daemon`: one process per cluster that holds everything which has to outlive a command.
//!
//! ```text
//!            control.sock (HTTP, JSON)          dial.sock (raw connections)      127.0.0.1:… (API server, LoadBalancers)
//!                  │                                  │                                     │
//!                  ▼                                  ▼                                     ▼
//!   provider: QEMU processes              load balancer ◄──────── Services, Endpoints (Kubernetes API)
//!                  │                                  │
//!                  ▼                                  ▼
//!   fabric: switch between the machines ◄──── gateway 10.77.0.1 ──► registry mirror :5000
//! ```
//!
//! Invariants: the daemon holds the cluster's lock for as long as it lives; the machines are its children and die with it; it
//! learns of faults only as a real cluster would, by connections that fail and by the Kubernetes API.
//! A daemon started with `owned` ends, and takes the cluster down, when its standard input ends: its owner died.

mod control;
mod dial;
mod gate;
mod ingress;
mod links;
mod machine_links;
mod network;
mod sentry;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(super) use control::MEMORY_REFUSED;
pub use control::{RestoreOrder, Served, ServedPort, Status};
pub use dial::{DialReply, DialRequest, DialTarget};
pub use links::{CaptureRequest, LinkChange, LinkEffect, LinkHeal, LinkState};

use super::home::{ClusterPaths, Home, try_lock};
use super::{pki, uninstall};
use crate::balancer::Balancer;
use crate::balancer::stream::{self, ControlPlane};
use crate::images::ImageStore;
use crate::images::mirror;
use crate::images::signature::VerifyingKey;
use crate::kubernetes::client::Client;
use crate::machines::hosts::HostsProvider;
use crate::machines::provider::{Acceleration, Provider};
use crate::machines::qemu::{QemuConfig, QemuProvider};
use crate::machines::vagrant::{VagrantConfig, VagrantProvider};
use crate::model::cluster::{ClusterSpec, MachineSpec, ProviderKind};
use network::{Network, Opened};

/// Why a daemon could not live.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another daemon holds this cluster.
    #[error("another daemon holds cluster `{0}`; `flightcage down --name {0}` ends it")]
    Held(String),
    /// A part of the daemon could not start.
    #[error("{what}")]
    Start {
        /// A lower-case fragment: what could not be done.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Wraps a cause with what was being done.
fn starting<E: std::error::Error + Send + Sync + 'static>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> DaemonError {
    let what = what.into();
    move |source| DaemonError::Start {
        what,
        source: Box::new(source),
    }
}

/// Who ends the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// `up` started it: it lives until `down`.
    Detached,
    /// `up` started it and has not finished: when its standard input ends before it was disowned, it ends, and takes a half-made cluster
    /// with it.
    Begun,
    /// `run`, `with` or `demo` started it: it takes the cluster down when its standard input ends.
    Owned,
}

/// The cluster file of the daemon: what `up` decided before it started the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// What was asked for.
    pub spec: ClusterSpec,
    /// How the machines execute code; `None`: not our business.
    pub acceleration: Option<Acceleration>,
    /// The snapshot that the machines were restored from.
    #[serde(default)]
    pub restored_from: Option<String>,
}

/// Everything a request handler needs.
struct Daemon {
    paths: ClusterPaths,
    record: ClusterRecord,
    network: Network,
    /// Troubles in the machines.
    sightings: Arc<sentry::Sightings>,
    provider: Arc<dyn Provider>,
    ingress: ingress::Ingress,
    /// The host's load balancer, which the ingress and the prober's dials go through.
    balancer: Balancer,
    /// Closed while the cluster stands still.
    gate: gate::Gate,
    /// Cancelled when the daemon is to end.
    stop: CancellationToken,
    /// Set when the cluster's directory is to go, too.
    remove: AtomicBool,
    ownership: Ownership,
    /// Set when the owner let the cluster go: the end of its pipe means nothing any more.
    disowned: AtomicBool,
}

/// Runs the daemon of a cluster until it is told to end.
///
/// # Errors
/// When another daemon holds the cluster, or a part cannot start.
pub async fn run(
    home: &Home,
    paths: ClusterPaths,
    ownership: Ownership,
) -> Result<(), DaemonError> {
    let lock = try_lock(&paths.daemon_lock())
        .map_err(starting("lock the daemon's lock"))?
        .ok_or_else(|| DaemonError::Held(paths.name().to_string()))?;
    write_pid(&lock).map_err(starting("write the daemon's process id"))?;
    raise_file_limit();
    let record: ClusterRecord =
        read_json(&paths.spec()).map_err(starting("read the cluster's specification"))?;
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();

    let provider = provider(&paths, &record)?;
    let Opened {
        network,
        dial,
        registry,
    } = network::open(&paths, &record.spec, provider.clone(), &mut tasks).await?;
    let store = ImageStore::open(home.images()).map_err(starting("open the image store"))?;
    let tls = pki::server_tls(&paths.pki(), "registry")
        .map_err(starting("load the registry's certificate"))?;
    let routes = mirror_of(&record.spec, store)?;
    tasks.spawn(async move {
        if let Err(error) = mirror::serve(registry, tls, routes).await {
            tracing::error!(%error, "the registry mirror failed");
        }
    });

    let balancer = Balancer::new(dial.clone());
    let mut ports = ingress::Ports::open(paths.ports());
    let gate = gate::Gate::default();
    let api = (dial.clone(), record.spec.address(0));
    let api_port = ingress::serve_api(&mut ports, api, gate.clone(), &mut tasks)
        .await
        .map_err(starting("listen for the API"))?;
    let server = format!("https://127.0.0.1:{api_port}");
    let config = pki::client_config(&paths.pki(), "daemon", server)
        .map_err(starting("load the daemon's certificate"))?;
    let control_plane = ControlPlane::new(
        &config.server,
        &config.ca_pem,
        &config.certificate_pem,
        &config.key_pem,
    )
    .map_err(starting(
        "prepare the load balancer's stream to the control plane",
    ))?;
    tasks.spawn(stream::keep(control_plane, balancer.clone()));
    let client = Client::new(config).map_err(starting("make the Kubernetes client"))?;
    let host = ingress::Host {
        ports,
        gate: gate.clone(),
    };
    let ingress = ingress::Ingress::start(client, balancer.clone(), host, api_port, &mut tasks);

    let sightings = Arc::new(sentry::Sightings::default());
    let nodes = record
        .spec
        .machines
        .iter()
        .map(|machine| machine.name.clone())
        .collect();
    tasks.spawn(sentry::watch(provider.clone(), nodes, sightings.clone()));

    let daemon = Arc::new(Daemon {
        network,
        sightings,
        provider,
        ingress,
        balancer: balancer.clone(),
        gate,
        stop: stop.clone(),
        remove: AtomicBool::new(false),
        ownership,
        disowned: AtomicBool::new(false),
        record,
        paths: paths.clone(),
    });
    let dial_listener =
        listen(&paths.dial_socket()).map_err(starting("listen on the dial socket"))?;
    tasks.spawn(dial::serve(dial_listener, dial, balancer));
    let control_listener =
        listen(&paths.control_socket()).map_err(starting("listen on the control socket"))?;
    tasks.spawn(control::serve(control_listener, daemon.clone()));

    wait_for_the_end(ownership, &stop, &daemon).await;
    tasks.shutdown().await;
    take_down(&daemon).await;
    Ok(())
}

/// What makes this cluster's machines.
fn provider(
    paths: &ClusterPaths,
    record: &ClusterRecord,
) -> Result<Arc<dyn Provider>, DaemonError> {
    match record.spec.provider {
        ProviderKind::Qemu => {
            let config = QemuConfig {
                cluster: paths.name().clone(),
                state_dir: paths.root().to_owned(),
                runtime_dir: paths.runtime().to_owned(),
                acceleration: record.acceleration.unwrap_or(Acceleration::Tcg),
                wrapper: "/proc/self/exe".into(),
            };
            Ok(Arc::new(
                QemuProvider::new(config).map_err(starting("start the qemu provider"))?,
            ))
        }
        ProviderKind::Hosts => Ok(Arc::new(HostsProvider::new(
            &record.spec.machines,
            uninstall::identity(paths.name(), &paths.pki()),
        ))),
        ProviderKind::Vagrant => Ok(Arc::new(VagrantProvider::new(vagrant_config(
            paths, record,
        )?))),
    }
}

fn vagrant_config(
    paths: &ClusterPaths,
    record: &ClusterRecord,
) -> Result<VagrantConfig, DaemonError> {
    let host_key = |machine: &MachineSpec| {
        let file = paths.ssh_host_key(&machine.name).with_extension("pub");
        let key = std::fs::read_to_string(&file)
            .map_err(starting(format!("read `{}`", file.display())))?;
        Ok((machine.name.clone(), key))
    };
    Ok(VagrantConfig {
        vagrant: record.spec.vagrant.clone().unwrap_or_default(),
        state_dir: paths.root().to_owned(),
        private_key: paths.ssh_key(),
        host_keys: record
            .spec
            .machines
            .iter()
            .map(host_key)
            .collect::<Result<_, _>>()?,
        kvm: record.acceleration == Some(Acceleration::Kvm),
        spec: record.spec.clone(),
    })
}

/// The host's own certificate authorities, by which upstream registries are trusted.
const HOST_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The registry mirror of a cluster, which may serve signed images only.
fn mirror_of(spec: &ClusterSpec, store: ImageStore) -> Result<axum::Router, DaemonError> {
    let upstreams = upstreams(spec)?;
    let Some(pem) = &spec.images.signed_by else {
        return Ok(mirror::router(store, upstreams));
    };
    let key = VerifyingKey::parse(pem).map_err(starting("read the key of `images.signed_by`"))?;
    Ok(mirror::router_of_signed(store, upstreams, key))
}

fn upstreams(spec: &ClusterSpec) -> Result<mirror::Upstreams, DaemonError> {
    if spec.upstream_registries.is_empty() {
        return Ok(mirror::Upstreams::none());
    }
    let roots =
        std::fs::read(HOST_AUTHORITIES).map_err(starting(format!("read `{HOST_AUTHORITIES}`")))?;
    mirror::Upstreams::https(spec.upstream_registries.clone(), &roots)
        .map_err(starting("prepare for upstream registries"))
}

/// Returns when the daemon is told to stop by request, by signal or by the end of its owner.
async fn wait_for_the_end(ownership: Ownership, stop: &CancellationToken, daemon: &Daemon) {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    let owner_gone = async {
        match ownership {
            Ownership::Detached => std::future::pending().await,
            Ownership::Begun | Ownership::Owned => {
                let mut nothing = tokio::io::sink();
                // Ends with the pipe, whoever closed it and however it died.
                let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut nothing).await;
                if daemon.disowned.load(Ordering::SeqCst) {
                    std::future::pending::<()>().await;
                }
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => tracing::info!("asked to stop"),
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        () = owner_gone => {
            tracing::info!("the owner is gone: taking the cluster down");
            let remove = ownership == Ownership::Owned || !daemon.paths.complete().exists();
            daemon.remove.store(remove, Ordering::SeqCst);
        }
    }
}

/// The lock's file says who holds it: a daemon that hangs has to be ended by its process id.
fn write_pid(mut lock: &std::fs::File) -> io::Result<()> {
    use std::io::Write;
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())
}

/// Every connection into the cluster takes file descriptors here: as many as the system allows.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    ) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// Ends the machines, and removes the cluster's directories if that was asked for.
async fn take_down(daemon: &Daemon) {
    let remove = daemon.remove.load(Ordering::SeqCst);
    if remove && let Err(error) = daemon.paths.mark_incomplete() {
        tracing::error!(%error, "the cluster could not be marked as half-made");
    }
    if remove && let Some(ended) = daemon.provider.destroy_all().await {
        match ended {
            Ok(()) => remove_directories(daemon),
            // What would find the machines again has to stay.
            Err(error) => {
                tracing::error!(error = %super::chain(&error), "the machines could not be removed")
            }
        }
        return;
    }
    // Machines that are not ours are left as they were; while one of them is not, what is needed to try again stays.
    if remove && let Err(error) = uninstall::uninstall_all(&daemon.record.spec, &daemon.paths).await
    {
        tracing::error!(
            error = crate::cluster::chain(&error),
            "not every machine could be left as it was"
        );
        return;
    }
    for machine in &daemon.record.spec.machines {
        let ended = if remove {
            daemon.provider.destroy(&machine.name).await
        } else if daemon.provider.machines_outlive_daemon() {
            Ok(())
        } else {
            daemon
                .provider
                .power(
                    &machine.name,
                    crate::machines::provider::PowerAction::PowerOff,
                )
                .await
        };
        if let Err(error) = ended {
            tracing::error!(node = %machine.name, %error, "the machine could not be ended");
        }
    }
    if remove {
        remove_directories(daemon);
    }
}

fn remove_directories(daemon: &Daemon) {
    if let Err(error) = daemon.paths.remove() {
        tracing::error!(%error, "the cluster's directories could not be removed");
    }
}

fn listen(path: &std::path::Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    UnixListener::bind(path)
}

/// Reads a JSON file.
///
/// # Errors
/// When it cannot be read or is not what was expected.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &std::path::Path) -> io::Result<T> {
    serde_json::from_slice(&std::fs::read(path)?)
        .map_err(|error| io::Error::other(format!("`{}`: {error}", path.display())))
}

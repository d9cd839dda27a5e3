//! The node agent: runs the pods that the API gives to this node, and says how they are.
//!
//! ```text
//!            ┌─ node      Node object, Lease                        ─► API
//!  run ──────┼─ tunnel    heartbeats, logs, exec                    ─► API server
//!            ├─ streams   exec, attach, port-forward                ─► API server, a connection each
//!            ├─ events    a bounded queue of Events                 ─► API
//!            └─ pods ──► worker (one a pod UID) ──► decide: what comes next, purely
//!                            ├─ work: volumes, environment, launch  ─► Runtime
//!                            ├─ probe, ask                          ─► the pod's containers
//!                            └─ status                              ─► API
//! ```
//! Invariants: the agent's end stops no container, and a restarted agent adopts what runs by pod UID; while the API is away
//! nothing is stopped on its account, and probes and restarts go on; heartbeats wait for no other part.

mod ask;
mod backoff;
mod clock;
pub(crate) mod contact;
pub mod containers;
pub(crate) mod decide;
mod downward;
mod drain;
mod environment;
mod events;
mod fence;
mod grpc;
mod host_ports;
mod kept;
mod launch;
pub(crate) mod lease;
mod node;
mod objects;
pub(crate) mod peers;
mod pod_files;
mod pods;
mod probe;
mod pull_secrets;
mod quantity;
pub mod runtime;
mod server;
pub(crate) mod status;
mod streams;
mod termination;
mod tokens;
mod tunnel;
mod volumes;
pub(crate) mod words;
mod work;
mod worker;

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::kubernetes::client::{Client, ClientError, ListParams, Object, ObjectMap, Reflector};
use crate::orchestrator::RUN_DIRECTORY;
use crate::orchestrator::config::AgentConfig;
use contact::Contact;
use containers::{RealRuntime, RuntimeConfig};
use drain::Drains;
use events::Recorder;
use kept::Keeper;
use node::Machine;
use peers::Peers;
use pods::{Checkpoint, Wanted};
use runtime::Runtime;
use server::Server;
pub use tunnel::TunnelError;
use volumes::Roots;
use work::Context;

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration's identity or server is wrong.
    #[error("prepare to speak with the API server")]
    Client(#[from] ClientError),
    /// As `Client`, for the tunnel.
    #[error("prepare the tunnel to the API server")]
    Tunnel(#[from] TunnelError),
    /// The container runtime cannot work here.
    #[error("open the container runtime")]
    Runtime(#[from] runtime::RuntimeError),
    /// The data directory cannot be used.
    #[error("open `{}`", path.display())]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A taint of the configuration is not one.
    #[error(
        "taint `{0}` is not `key=value:Effect` with the effect NoSchedule, PreferNoSchedule or NoExecute"
    )]
    Taint(String),
    /// A part of the agent ended, which none ever should; systemd starts the agent again.
    #[error("a part of the agent broke")]
    Broke(#[source] Option<tokio::task::JoinError>),
}

/// The `flightcage agent` role: runs until SIGTERM or SIGINT. Containers go on.
pub async fn run(config: AgentConfig) -> Result<(), AgentError> {
    clock::start();
    let runtime = RealRuntime::open(RuntimeConfig::from(&config)).await?;
    let run = run_with(config, Arc::new(runtime), Path::new(RUN_DIRECTORY));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|source| AgentError::Directory {
        path: RUN_DIRECTORY.into(),
        source,
    })?;
    tokio::select! {
        ended = run => ended,
        _ = terminate.recv() => Ok(()),
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// The agent over any runtime, for ever; `volatile` is a directory on a tmpfs.
pub async fn run_with<R: Runtime>(
    config: AgentConfig,
    runtime: Arc<R>,
    volatile: &Path,
) -> Result<(), AgentError> {
    if let Some(wrong) = config
        .taints
        .iter()
        .find(|taint| node::parse_taint(taint).is_none())
    {
        return Err(AgentError::Taint(wrong.clone()));
    }
    let identity = &config.identity;
    let client = Client::from_identity_files(
        &config.server,
        &identity.ca,
        &identity.certificate,
        &identity.key,
    )?;
    let dialler = tunnel::dialler(&config)?;
    let streams = Arc::new(tunnel::stream_dialler(&config)?);
    let path = volatile.join("contact");
    let (keeper, before) =
        Keeper::open(&path).map_err(|source| AgentError::Directory { path, source })?;
    let contact = Arc::new(Contact::new(tokio::time::Instant::now(), before));
    let peers = Arc::new(Peers::new(&config, contact.clone())?);
    let machine = Machine::inspect();
    let roots = Roots {
        durable: config.data_dir.join("volumes"),
        volatile: volatile.join("volumes"),
    };
    let directory = config.data_dir.join("manifests");
    let checkpoint =
        Checkpoint::open(&directory, &machine.boot_id).map_err(|source| AgentError::Directory {
            path: directory,
            source,
        })?;

    let services = client.reflect::<Service>("", ListParams::all());
    let own_pods = client.reflect::<Pod>(
        "",
        ListParams::fields(format!("spec.nodeName={}", config.node)),
    );
    let (services_out, services_in) = watch::channel(None);
    let (wanted_out, wanted_in) = watch::channel::<Wanted>(None);
    let (events, queue) = Recorder::new();
    let drains = Drains::new();
    let context = Context {
        runtime: runtime.clone(),
        api: Arc::new(Server::new(client.clone())),
        roots,
        host_address: config.address,
        node_memory_bytes: machine.memory_bytes,
        host_resolv_conf: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        services: services_in,
        drains: drains.clone(),
        events,
        relist: Arc::new(Notify::new()),
    };
    let look = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(peers.clone().answer_all());
    tasks.spawn(fence::keep(
        client.clone(),
        config.node.clone(),
        runtime.clone(),
        peers.clone(),
        contact.clone(),
    ));
    tasks.spawn(tunnel::keep(
        dialler,
        tunnel::Served {
            runtime,
            peers,
            contact,
            keeper,
            drains,
            streams,
            opened: look.clone(),
        },
    ));
    tasks.spawn(node::keep_lease(client.clone(), config.node.clone()));
    tasks.spawn(node::keep_node(
        client.clone(),
        config.clone(),
        machine,
        look,
    ));
    tasks.spawn(events::send_all(client, config.node.clone(), queue));
    tasks.spawn(forward(services, services_out, |services| {
        services
            .values()
            .map(|service| Service::clone(service))
            .collect()
    }));
    tasks.spawn(forward(own_pods, wanted_out, |pods| {
        pods.values()
            .filter_map(|pod| Some((pod.metadata.uid.clone()?, pod.clone())))
            .collect()
    }));
    tasks.spawn(pods::run(Arc::new(context), checkpoint, wanted_in));
    let broken = tasks.join_next().await.and_then(Result::err);
    tasks.shutdown().await;
    Err(AgentError::Broke(broken))
}

/// Passes on every state of a collection, from the first complete one.
async fn forward<K: Object, T>(
    reflector: Reflector<K>,
    out: watch::Sender<Option<Arc<T>>>,
    convert: fn(&ObjectMap<K>) -> T,
) {
    let mut objects = reflector.subscribe();
    reflector.wait_synced().await;
    loop {
        let now = convert(&objects.borrow_and_update().clone());
        if out.send(Some(Arc::new(now))).is_err() || objects.changed().await.is_err() {
            return;
        }
    }
}

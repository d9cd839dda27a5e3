//! The control socket: HTTP with JSON bodies between our own commands and the daemon. Only its owner can open the socket's
//! directory, which is the authentication.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;

use super::network::Network;
use super::{Daemon, links};
use crate::balancer::EndpointView;
use crate::cluster::life::own_login;
use crate::machines::journal::Sighting;
use crate::machines::provider::{
    Acceleration, DiskEffect, DiskFault, Machine, MachineRequest, PowerAction, Problem, Provider,
    ProviderError, Restored, Snapshots, Standstill, StandstillChange,
};
use crate::model::cluster::ClusterSpec;
use crate::model::names::NodeName;
use crate::shell::ssh::SshTarget;

/// What the daemon knows of its cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// What was asked for.
    pub spec: ClusterSpec,
    /// How machines execute code, where that is known.
    pub acceleration: Option<Acceleration>,
    /// Machines as they are.
    pub machines: Vec<Machine>,
    /// Loopback port of the API server.
    pub api_port: u16,
    /// LoadBalancer Services and their loopback ports.
    pub services: Vec<Served>,
    /// Whether the daemon has read the cluster's Services and Endpoints, so that `services` is all there is.
    pub ingress_synced: bool,
    /// Whether a `run`, `with` or `demo` holds the cluster for itself: it goes when that ends.
    pub owned: bool,
    /// The snapshot that the machines were restored from.
    pub restored_from: Option<String>,
    /// Whether the machines stand still because their user said so.
    #[serde(default)]
    pub paused: bool,
}

/// What the machines are restored from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// The snapshot's folder of machines.
    pub from: PathBuf,
    /// The machines, as they were made.
    pub requests: Vec<MachineRequest>,
}

/// A LoadBalancer Service reachable from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Its ports.
    pub ports: Vec<ServedPort>,
}

/// A port of a LoadBalancer Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedPort {
    /// The port's name, empty when it has none.
    pub name: String,
    /// The Service's port.
    pub port: u16,
    /// Where the host reaches it.
    pub host: SocketAddr,
}

#[derive(Deserialize)]
struct Power {
    action: PowerAction,
}

#[derive(Deserialize)]
struct Save {
    into: PathBuf,
}

#[derive(Deserialize)]
struct Down {
    remove: bool,
}

/// How the client learns that what was saved of a machine is of no use. Nothing else answers with this code.
pub(in crate::cluster) const MEMORY_REFUSED: StatusCode = StatusCode::PRECONDITION_FAILED;

/// An error as the client gets it: the chain of causes in one text.
pub(super) struct Failure(pub(super) StatusCode, pub(super) String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        let code = match error {
            ProviderError::UnknownNode(_) => StatusCode::NOT_FOUND,
            ProviderError::MemoryRefused { .. } => MEMORY_REFUSED,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(code, crate::cluster::chain(&error))
    }
}

pub(super) type Shared = State<Arc<Daemon>>;

pub(super) async fn serve(listener: UnixListener, daemon: Arc<Daemon>) {
    let router = Router::new()
        .route("/status", get(status))
        .route("/preflight", get(preflight))
        .route("/machines", post(create))
        .route("/machines/{node}/boot", post(wait_for_boot))
        .route("/machines/{node}/login", get(login))
        .route("/machines/{node}/installed", post(installed))
        .route("/machines/{node}/power", post(power))
        .route("/machines/{node}/disk", post(disk))
        .route("/sightings", get(sightings))
        .route("/links", get(links::states).post(links::change))
        .route("/links/heal", post(links::heal))
        .route("/balancer", get(balancer))
        .route("/capture", get(links::capture))
        .route("/save", post(save))
        .route("/restore", post(restore))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/disown", post(disown))
        .route("/down", post(down))
        .with_state(daemon);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the control socket failed");
    }
}

async fn status(State(daemon): Shared) -> Result<Json<Status>, Failure> {
    Ok(Json(Status {
        spec: daemon.record.spec.clone(),
        acceleration: daemon.record.acceleration,
        machines: daemon.provider.list().await?,
        api_port: daemon.ingress.api_port(),
        ingress_synced: daemon.ingress.synced(),
        services: daemon.ingress.served(),
        owned: daemon.ownership == super::Ownership::Owned
            && !daemon.disowned.load(Ordering::SeqCst),
        restored_from: daemon.record.restored_from.clone(),
        paused: is_paused(&*daemon.provider),
    }))
}

async fn preflight(State(daemon): Shared) -> Json<Vec<Problem>> {
    Json(
        daemon
            .provider
            .preflight(&daemon.record.spec.machines)
            .await,
    )
}

async fn create(
    State(daemon): Shared,
    Json(mut request): Json<MachineRequest>,
) -> Result<Json<Machine>, Failure> {
    if let Network::Fabric(fabric) = &daemon.network {
        request.fabric_socket = fabric.socket(&request.spec.name);
    }
    Ok(Json(daemon.provider.create(request).await?))
}

async fn wait_for_boot(
    State(daemon): Shared,
    Path(node): Path<NodeName>,
) -> Result<Json<SocketAddr>, Failure> {
    Ok(Json(daemon.provider.wait_for_boot(&node).await?))
}

/// How a machine is logged in to now.
async fn login(
    State(daemon): Shared,
    Path(node): Path<NodeName>,
) -> Result<Json<SshTarget>, Failure> {
    if let Some(target) = daemon.provider.login(&node).await? {
        return Ok(Json(target));
    }
    let found = daemon
        .provider
        .list()
        .await?
        .into_iter()
        .find(|machine| machine.name == node);
    let address = found
        .and_then(|machine| machine.ssh)
        .ok_or(ProviderError::UnknownNode(node.clone()))?;
    let target = own_login(&daemon.paths, &node, address);
    Ok(Json(target.map_err(|error| {
        Failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            crate::cluster::chain(&error),
        )
    })?))
}

async fn installed(State(daemon): Shared, Path(node): Path<NodeName>) -> Json<()> {
    if let Network::Relays(relays, _) = &daemon.network {
        relays.installed(&node);
    }
    Json(())
}

async fn power(
    State(daemon): Shared,
    Path(node): Path<NodeName>,
    Json(power): Json<Power>,
) -> Result<Json<()>, Failure> {
    Ok(Json(daemon.provider.power(&node, power.action).await?))
}

#[derive(Deserialize)]
struct After {
    after: u64,
}

async fn sightings(
    State(daemon): Shared,
    Query(After { after }): Query<After>,
) -> Json<Vec<Sighting>> {
    Json(daemon.sightings.after(after))
}

/// What the host's load balancer knows of its endpoints.
async fn balancer(State(daemon): Shared) -> Json<Vec<EndpointView>> {
    Json(daemon.balancer.view())
}

async fn disk(
    State(daemon): Shared,
    Path(node): Path<NodeName>,
    Json(fault): Json<Option<DiskFault>>,
) -> Result<Json<DiskEffect>, Failure> {
    Ok(Json(daemon.provider.disk(&node, fault).await?))
}

/// Goes on to its end even if the asker goes away: machines must not stay stopped.
async fn save(State(daemon): Shared, Json(save): Json<Save>) -> Result<Json<Restored>, Failure> {
    if let Network::Fabric(fabric) = &daemon.network
        && !fabric.rules().is_empty()
    {
        let what = "links are cut or shaped; `flightcage undo` heals them".to_owned();
        return Err(Failure(StatusCode::CONFLICT, what));
    }
    let saving = tokio::spawn(async move {
        snapshots(&*daemon.provider)?
            .save(save.into)
            .await
            .map_err(Failure::from)
    });
    saving
        .await
        .unwrap_or_else(|broken| {
            Err(Failure(
                StatusCode::INTERNAL_SERVER_ERROR,
                broken.to_string(),
            ))
        })
        .map(Json)
}

/// Goes on to its end even if the asker goes away: what is half restored has to be cleared by whoever made it.
async fn restore(
    State(daemon): Shared,
    Json(mut order): Json<RestoreOrder>,
) -> Result<Json<Restored>, Failure> {
    if let Network::Fabric(fabric) = &daemon.network {
        for request in &mut order.requests {
            request.fabric_socket = fabric.socket(&request.spec.name);
        }
    }
    let restoring = async move {
        snapshots(&*daemon.provider)?
            .restore(order.from, order.requests)
            .await
            .map_err(Failure::from)
    };
    let restored = tokio::spawn(restoring).await;
    restored
        .unwrap_or_else(|broken| {
            Err(Failure(
                StatusCode::INTERNAL_SERVER_ERROR,
                broken.to_string(),
            ))
        })
        .map(Json)
}

fn snapshots(provider: &dyn Provider) -> Result<&dyn Snapshots, Failure> {
    let refusal = || {
        Failure(
            StatusCode::NOT_IMPLEMENTED,
            format!("the {} provider has no snapshots", provider.name()),
        )
    };
    provider.snapshots().ok_or_else(refusal)
}

/// Goes on to its end even if the asker goes away: some machines must not stand still while others run.
async fn pause(State(daemon): Shared) -> Result<Json<StandstillChange>, Failure> {
    let pausing = tokio::spawn(async move {
        let machines = standstill(&*daemon.provider)?;
        // Nobody is let in to wait for an answer that does not come.
        daemon.gate.close();
        let paused = machines.pause().await;
        if !machines.is_paused() {
            daemon.gate.open();
        }
        paused.map_err(Failure::from)
    });
    to_the_end(pausing).await
}

/// Goes on to its end even if the asker goes away, as [`pause`].
async fn resume(State(daemon): Shared) -> Result<Json<StandstillChange>, Failure> {
    let resuming = tokio::spawn(async move {
        let machines = standstill(&*daemon.provider)?;
        let resumed = machines.resume().await;
        if !machines.is_paused() {
            daemon.gate.open();
        }
        resumed.map_err(Failure::from)
    });
    to_the_end(resuming).await
}

async fn to_the_end(
    task: tokio::task::JoinHandle<Result<StandstillChange, Failure>>,
) -> Result<Json<StandstillChange>, Failure> {
    let ended = task.await.unwrap_or_else(|broken| {
        Err(Failure(
            StatusCode::INTERNAL_SERVER_ERROR,
            broken.to_string(),
        ))
    });
    ended.map(Json)
}

fn standstill(provider: &dyn Provider) -> Result<&dyn Standstill, Failure> {
    let refusal = || {
        Failure(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "machines of the {} provider cannot be paused; only those of the qemu provider can",
                provider.name()
            ),
        )
    };
    provider.standstill().ok_or_else(refusal)
}

fn is_paused(provider: &dyn Provider) -> bool {
    provider.standstill().is_some_and(Standstill::is_paused)
}

async fn disown(State(daemon): Shared) -> Json<()> {
    daemon.disowned.store(true, Ordering::SeqCst);
    Json(())
}

async fn down(State(daemon): Shared, Json(down): Json<Down>) -> Json<()> {
    daemon.remove.store(down.remove, Ordering::SeqCst);
    daemon.stop.cancel();
    Json(())
}

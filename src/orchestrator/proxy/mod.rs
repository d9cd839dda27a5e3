//! The `flightcage proxy` role, on every node: carries connections to ClusterIPs to ready endpoints, and answers cluster DNS.
//!
//! It knows what the API says and what its own connections do, nothing else. While the API server is away everything stays as it
//! was (fail static). A ClusterIP needs no packet rules: the whole service network is a local route (AnyIP), so a listener bound
//! to the ClusterIP gets the connection, whether it comes from a pod or from the node itself.

mod dns;
mod listeners;
mod nodes;
mod route;
#[cfg(test)]
mod tests;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::dns::Dns;
use self::listeners::Listeners;
use self::zone::Zone;
use super::config::ProxyConfig;
use crate::balancer::{Balancer, ServiceTable};
use crate::kubernetes::client::{Client, ClientError, ListParams};
use crate::model::addresses;
use crate::transport::HostNetwork;

/// How often the route and the listeners that could not be made are looked after.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(1);

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The API client cannot be made.
    #[error("set up the API client of the service proxy")]
    Client(#[from] ClientError),
    /// The service network cannot be routed.
    #[error("route the service network to this node: {0}; the proxy needs CAP_NET_ADMIN")]
    Route(String),
    /// A system call failed.
    #[error("{what}")]
    System {
        /// A lower-case fragment.
        what: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Runs the proxy until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start. Later failures are logged and retried.
pub async fn run(config: ProxyConfig) -> Result<(), ProxyError> {
    let identity = &config.identity;
    let client = Client::from_identity_files(&config.server, &identity.ca, &identity.certificate, &identity.key)?;
    raise_file_limit();
    route::ensure().await.map_err(ProxyError::Route)?;
    let system = |what| move |source| ProxyError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("watch for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("watch for SIGINT"))?;
    tracing::info!(node = config.node, "service proxy starts");

    let mut proxy = Proxy::new();
    let _dns = Dns::start(SocketAddr::from((addresses::DNS_SERVICE, dns::PORT)), proxy.zone.subscribe())
        .await
        .map_err(system("listen for DNS on the cluster DNS address"))?;
    let services = client.reflect::<Service>("", ListParams::all());
    let endpoints = client.reflect::<Endpoints>("", ListParams::all());
    let nodes = client.reflect::<Node>("", ListParams::all());
    let (mut service_changes, mut endpoint_changes, mut node_changes) =
        (services.subscribe(), endpoints.subscribe(), nodes.subscribe());
    let mut maintenance = tokio::time::interval(MAINTENANCE_EVERY);
    maintenance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            Ok(()) = service_changes.changed() => {}
            Ok(()) = endpoint_changes.changed() => {}
            Ok(()) = node_changes.changed() => {
                proxy.note_nodes(node_changes.borrow_and_update().values().map(AsRef::as_ref));
                continue;
            }
            _ = maintenance.tick() => {
                if let Err(error) = route::ensure().await {
                    tracing::error!(error, "keep the route of the service network");
                }
                proxy.listeners.retry();
                continue;
            }
        }
        // Half a picture would reset clients of Services whose endpoints are not known yet.
        if services.synced() && endpoints.synced() {
            let (services, endpoints) = (services.objects(), endpoints.objects());
            proxy.apply(services.values().map(AsRef::as_ref), endpoints.values().map(AsRef::as_ref));
        }
    }
}

/// What the proxy keeps in line with the API.
struct Proxy {
    balancer: Balancer,
    listeners: Listeners,
    zone: watch::Sender<Option<Arc<Zone>>>,
    dead_nodes: nodes::DeadNodes,
}

impl Proxy {
    fn new() -> Self {
        let balancer = Balancer::new(Arc::new(HostNetwork));
        let listeners = Listeners::new(balancer.clone());
        Self { balancer, listeners, zone: watch::channel(None).0, dead_nodes: nodes::DeadNodes::default() }
    }

    /// Makes balancer, listeners and DNS follow these Services and Endpoints.
    fn apply<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a Service> + Clone,
        endpoints: impl IntoIterator<Item = &'a Endpoints> + Clone,
    ) {
        let table = ServiceTable::build(services.clone(), endpoints.clone());
        self.balancer.apply(&table);
        self.listeners.apply(&table);
        self.zone.send_replace(Some(Arc::new(Zone::build(services, endpoints))));
    }

    /// Resets the connections to nodes that have just been declared dead.
    fn note_nodes<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Node>) {
        for node in self.dead_nodes.newly_dead(nodes) {
            tracing::warn!(node, "node declared dead: resetting its connections");
            self.balancer.abort_node(&node);
        }
    }
}

/// Every relayed connection takes two descriptors, and systemd's default is 1024.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "raise the limit of open files");
    }
}

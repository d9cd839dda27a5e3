//! The `flightcage proxy` role, on every node: carries connections to ClusterIPs to ready endpoints, and answers cluster DNS.
//!
//! It knows what the API says and what its own connections do, nothing else. While the API server is away everything stays as it
//! was (fail static), also for a proxy that is started then: it goes by the rules of the one before. A ClusterIP needs no packet
//! rules: the whole service network is a local route (AnyIP), so a listener bound to the ClusterIP gets the connection, whether it
//! comes from a pod or from the node itself.

mod datagrams;
mod dns;
mod kept;
mod listeners;
mod route;
#[cfg(test)]
mod tests;
mod zone;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use self::dns::Dns;
use self::kept::{Keeper, Kept};
use self::listeners::Listeners;
use self::zone::Zone;
use super::RUN_DIRECTORY;
use super::config::ProxyConfig;
use super::datagrams::Datagrams;
use crate::balancer::stream::{self, ControlPlane, StreamError};
use crate::balancer::{Balancer, ServiceTable};
use crate::kubernetes::client::{Client, ClientError, ListParams};
use crate::model::addresses;
use crate::transport::HostNetwork;

/// How often the route and the listeners that could not be made are looked after.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(5);
/// After its start a proxy waits so long for the API server, before it goes by the rules of the proxy before it: newer ones are better, but
/// none lose every connection.
const API_WAIT: Duration = Duration::from_secs(1);

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The API client cannot be made.
    #[error("set up the API client of the service proxy")]
    Client(#[from] ClientError),
    /// The stream to the control plane cannot be dialled.
    #[error("prepare to report to the control plane")]
    Stream(#[from] StreamError),
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
    let client = Client::from_identity_files(
        &config.server,
        &identity.ca,
        &identity.certificate,
        &identity.key,
    )?;
    raise_file_limit();
    route::ensure().await.map_err(ProxyError::Route)?;
    let system = |what| move |source| ProxyError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("watch for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("watch for SIGINT"))?;
    tracing::info!(node = config.node, "service proxy starts");

    let mut proxy = Proxy::new(&config.server);
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).map_err(system(
            "read the certificate, the key or the authority of the service proxy",
        ))
    };
    let control_plane = ControlPlane::new(
        &config.server,
        &read(&identity.ca)?,
        &read(&identity.certificate)?,
        &read(&identity.key)?,
    )?;
    let _reporting = AbortOnDropHandle::new(tokio::spawn(stream::keep(
        control_plane,
        proxy.balancer.clone(),
    )));
    let _dns = Dns::start(
        SocketAddr::from((addresses::DNS_SERVICE, dns::PORT)),
        proxy.zone.subscribe(),
    )
    .await
    .map_err(system("listen for DNS on the cluster DNS address"))?;
    let keeper = Keeper::new(Path::new(RUN_DIRECTORY).join("proxy/rules.json"));
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = follow(&client, &mut proxy, keeper) => Ok(()),
    }
}

/// Keeps the proxy in line with the API, for ever.
async fn follow(client: &Client, proxy: &mut Proxy, mut keeper: Keeper) {
    let services = client.reflect::<Service>("", ListParams::all());
    let endpoints = client.reflect::<Endpoints>("", ListParams::all());
    let (mut service_changes, mut endpoint_progress) = (services.subscribe(), endpoints.progress());
    let mut maintenance = tokio::time::interval(MAINTENANCE_EVERY);
    maintenance.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let api_wait = tokio::time::sleep(API_WAIT);
    tokio::pin!(api_wait);
    let mut knows_rules = false;
    loop {
        tokio::select! {
            () = &mut api_wait, if !knows_rules => {
                knows_rules = true;
                if let Some(kept) = keeper.read() {
                    tracing::warn!("the API server is away: services go by the rules of before");
                    // No revision: what is to drain must wait until this proxy knows better.
                    proxy.apply(kept.services.iter().map(AsRef::as_ref), kept.endpoints.iter().map(AsRef::as_ref), 0);
                }
                continue;
            }
            () = keeper.due() => {
                keeper.write();
                continue;
            }
            Ok(()) = service_changes.changed() => {}
            // Every revision is acknowledged, one that changes nothing here too.
            Ok(()) = endpoint_progress.changed() => {}
            _ = maintenance.tick() => {
                if let Err(error) = route::ensure().await {
                    tracing::error!(error, "keep the route of the service network");
                }
                proxy.listeners.retry();
                proxy.datagrams.retry();
                continue;
            }
        }
        // Half a picture would reset clients of Services whose endpoints are not known yet.
        if services.synced() && endpoints.synced() {
            // In this order: the objects are then at least as new as the revision.
            let revision = endpoint_progress
                .borrow_and_update()
                .revision
                .parse()
                .unwrap_or(0);
            let (services, endpoints) = (services.objects(), endpoints.objects());
            knows_rules = true;
            proxy.apply(
                services.values().map(AsRef::as_ref),
                endpoints.values().map(AsRef::as_ref),
                revision,
            );
            keeper.changed(Kept::new(&services, &endpoints));
        }
    }
}

/// What the proxy keeps in line with the API.
struct Proxy {
    balancer: Balancer,
    listeners: Listeners,
    datagrams: Datagrams,
    /// The API server's URL, by which the node's own address is found.
    server: String,
    zone: watch::Sender<Option<Arc<Zone>>>,
}

impl Proxy {
    fn new(server: &str) -> Self {
        let balancer = Balancer::new(Arc::new(HostNetwork));
        let listeners = Listeners::new(balancer.clone());
        Self {
            balancer,
            listeners,
            datagrams: Datagrams::default(),
            server: server.to_owned(),
            zone: watch::channel(None).0,
        }
    }

    /// Makes balancer, listeners and DNS follow these Services, and Endpoints of this revision.
    fn apply<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a Service> + Clone,
        endpoints: impl IntoIterator<Item = &'a Endpoints> + Clone,
        revision: u64,
    ) {
        let table = ServiceTable::build(services.clone(), endpoints.clone());
        self.balancer.apply(&table, revision);
        self.listeners.apply(&table);
        let own = datagrams::own_addresses(&self.server);
        self.datagrams.apply(datagrams::wanted(&table, &own));
        self.zone
            .send_replace(Some(Arc::new(Zone::build(services, endpoints))));
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

//! Layer-4 load balancing for Services: the nodes' proxies and the host's load balancer share it.
//!
//! Invariants:
//! - An endpoint gets connections only after a TCP connect to it has succeeded, unless none of its Service has got that far.
//! - A connect that is refused, or silent for [`HEDGE_AFTER`], is hedged to the next endpoint, so that no new connection is lost
//!   while one endpoint lives.
//! - Among good endpoints the one for which the fewest connections wait comes first, by turns when that is equal: one that has
//!   become slow, for whatever reason, gets less to do before anybody calls it bad.
//! - An endpoint that refuses or stays silent is a last resort until a probe's connect succeeds; so are, at the first silence, all
//!   endpoints on its node, and for some seconds an endpoint that accepts but leaves a client waiting.
//! - An endpoint that leaves the set gets no new connection; its open ones go on, until they end, or their node is declared dead,
//!   or their pod drains and nothing is under way on them.
//! - A connection counts as open from before it is dialled: an endpoint that has left and has none open gets no byte any more.
//! - It learns of faults by what its connections do and by what the API says, as on a real cluster; never from the fabric.

mod activity;
mod affinity;
pub mod bench;
mod choice;
mod connect;
mod open;
mod relay;
pub mod report;
pub mod services;
pub mod stream;
#[cfg(test)]
mod tests;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::affinity::Affinity;
use self::choice::Choice;
use self::open::OpenConnections;
pub use self::open::{Connection, OpenConnection};
pub use self::relay::{ForwardError, forward, relay};
pub use self::report::Report;
pub use self::services::{ServicePort, ServicePortKey, ServiceTable};
pub use self::view::EndpointView;
use crate::transport::Dial;

/// A connect that has said nothing for so long gets company.
pub const HEDGE_AFTER: Duration = Duration::from_millis(100);
/// A connection that no endpoint accepts for so long fails.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// When every endpoint refuses, for so long it is tried again whether one has come up, and how often.
const REFUSED_PATIENCE: Duration = Duration::from_millis(500);
const REFUSED_RETRY: Duration = Duration::from_millis(50);
/// Pause between two probes of an endpoint that has not accepted yet.
const PROBE_EVERY: Duration = Duration::from_millis(200);
/// Patience of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A pod behind a Service port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Pod address and target port.
    pub addr: SocketAddr,
    /// The node it runs on, if known.
    pub node: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The Service has no ready endpoint, or there is no such Service.
    #[error("the service has no ready endpoint")]
    NoEndpoints,
    /// Every endpoint refused.
    #[error("every endpoint refused the connection")]
    AllRefused,
    /// None answered within [`CONNECT_TIMEOUT`].
    #[error("no endpoint accepted within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
}

/// Balances connections over the endpoints of Service ports. Clones share all state.
#[derive(Clone)]
pub struct Balancer {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer").finish_non_exhaustive()
    }
}

struct Shared {
    dial: Arc<dyn Dial>,
    services: Mutex<BTreeMap<ServicePortKey, Service>>,
    open: Arc<OpenConnections>,
    applied: AtomicU64,
}

#[derive(Default)]
struct Service {
    choice: Choice,
    affinity: Affinity,
    probes: HashMap<SocketAddr, AbortOnDropHandle<()>>,
}

impl Balancer {
    /// A balancer without Services, whose connections are opened by `dial`.
    #[must_use]
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        let shared = Shared {
            dial,
            services: Mutex::default(),
            open: Arc::default(),
            applied: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Replaces the ready endpoints of a Service port. New ones are probed; those that left keep their open connections.
    pub fn set_endpoints(&self, key: &ServicePortKey, endpoints: &[Endpoint]) {
        let mut services = self.services();
        let service = services.entry(key.clone()).or_default();
        for addr in service.choice.replace(endpoints) {
            self.shared.probe(key, service, addr, Duration::ZERO);
        }
        let choice = &service.choice;
        service.probes.retain(|addr, _| choice.contains(*addr));
    }

    /// Applies a whole table: what it lacks is removed. `revision` is that of the newest Endpoints in it.
    pub fn apply(&self, table: &ServiceTable, revision: u64) {
        self.services()
            .retain(|key, _| table.ports.contains_key(key));
        for (key, port) in &table.ports {
            self.set_endpoints(key, &port.endpoints);
            if let Some(service) = self.services().get_mut(key) {
                service.affinity.set(port.affinity);
            }
        }
        // After the table is in: whoever sees the revision may rely on it. It goes back with a store that was restored.
        self.shared.applied.store(revision, Ordering::SeqCst);
        self.shared.open.changed.notify_one();
    }

    /// Removes a Service port. Open connections go on.
    pub fn remove(&self, key: &ServicePortKey) {
        self.services().remove(key);
    }

    /// Opens a connection to one of the Service port's endpoints, hedging as the module's text says. It takes at most
    /// [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// When there is no endpoint, or none accepts.
    pub async fn connect(&self, key: &ServicePortKey) -> Result<Connection, ConnectError> {
        self.connect_for(key, None).await
    }

    /// As [`connect`](Self::connect), for a client that may have to stay with the endpoint it had before.
    ///
    /// # Errors
    /// When there is no endpoint, or none accepts.
    pub async fn connect_for(
        &self,
        key: &ServicePortKey,
        client: Option<IpAddr>,
    ) -> Result<Connection, ConnectError> {
        let begun = Instant::now();
        loop {
            let raced = connect::race(
                &*self.shared.dial,
                self.candidates(key, client),
                |addr| self.admit(key, addr),
                |addr, outcome| self.shared.note(key, addr, outcome),
            );
            match raced.await {
                Err(ConnectError::AllRefused) if begun.elapsed() < REFUSED_PATIENCE => {
                    tokio::time::sleep(REFUSED_RETRY).await
                }
                ended => {
                    if let (Ok(connection), Some(client)) = (&ended, client)
                        && let Some(service) = self.services().get_mut(key)
                    {
                        let addr = connection.open.addr();
                        service.affinity.note(client, addr, Instant::now());
                    }
                    return ended;
                }
            }
        }
    }

    fn candidates(&self, key: &ServicePortKey, client: Option<IpAddr>) -> Vec<SocketAddr> {
        let now = Instant::now();
        let unanswering = |addr| self.shared.open.is_unanswering(key, addr, now);
        let mut services = self.services();
        let Some(service) = services.get_mut(key) else {
            return Vec::new();
        };
        let (mut order, good) = service.choice.order_and_good(unanswering);
        if let Some(client) = client {
            service.affinity.prefer(client, &mut order, good, now);
        }
        order
    }

    /// Counts a connection to an endpoint that is still in the set.
    fn admit(&self, key: &ServicePortKey, addr: SocketAddr) -> Option<OpenConnection> {
        let mut services = self.services();
        let choice = &mut services.get_mut(key)?.choice;
        let (node, pending) = (choice.node(addr).map(str::to_owned), choice.pending(addr)?);
        Some(OpenConnections::add(
            &self.shared.open,
            key,
            addr,
            node,
            pending,
        ))
    }

    /// What has been applied and is open, for the control plane.
    #[must_use]
    pub fn report(&self) -> Report {
        // The revision first: what is open afterwards was admitted by a table at least that new.
        let applied = self.shared.applied.load(Ordering::SeqCst);
        Report {
            applied,
            open: self.shared.open.by_addr(),
        }
    }

    /// Resolves when a report has news that should not wait: another revision applied, or a connection to a draining address ended.
    pub async fn changed(&self) {
        self.shared.open.changed.notified().await;
    }

    /// From now on exactly these addresses drain: their connections end at the first quiet moment.
    pub fn drain(&self, addresses: BTreeSet<IpAddr>) {
        self.shared.open.drain(addresses);
        self.shared.open.changed.notify_one();
    }

    /// A node has fallen silent: its endpoints are a last resort until probes say that they are well.
    pub fn avoid_node(&self, node: &str) {
        self.shared.penalise_node(&mut self.services(), node);
    }

    /// Connections that are open to an endpoint now, whether it is in the set or draining.
    #[must_use]
    pub fn open_connections(&self, key: &ServicePortKey, addr: SocketAddr) -> usize {
        self.shared.open.count(key, addr)
    }

    /// All endpoints with open connections, draining ones too.
    #[must_use]
    pub fn all_open_connections(&self) -> BTreeMap<(ServicePortKey, SocketAddr), usize> {
        self.shared.open.all()
    }

    /// Whether a TCP connect to the endpoint has succeeded since it came into the set.
    #[must_use]
    pub fn confirmed(&self, key: &ServicePortKey, addr: SocketAddr) -> bool {
        self.services()
            .get(key)
            .is_some_and(|service| service.choice.confirmed(addr))
    }

    /// Resets the open connections of one endpoint.
    pub fn abort_endpoint(&self, key: &ServicePortKey, addr: SocketAddr) {
        self.shared
            .open
            .abort(|other, other_addr, _| other == key && other_addr == addr);
    }

    /// Resets all open connections to a node that was declared dead.
    pub fn abort_node(&self, node: &str) {
        self.shared.open.abort(|_, _, other| other == Some(node));
    }

    fn services(&self) -> MutexGuard<'_, BTreeMap<ServicePortKey, Service>> {
        self.shared.services()
    }
}

/// What a connect has shown about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Refused,
    /// It said nothing, while another accepted or until time was up.
    Silent,
}

impl Shared {
    fn services(&self) -> MutexGuard<'_, BTreeMap<ServicePortKey, Service>> {
        self.services
            .lock()
            .expect("no holder of the services panics")
    }

    fn note(self: &Arc<Self>, key: &ServicePortKey, addr: SocketAddr, outcome: Outcome) {
        let mut services = self.services();
        let Some(service) = services.get_mut(key) else {
            return;
        };
        if outcome != Outcome::Accepted {
            service.choice.failed(addr);
        }
        match outcome {
            Outcome::Accepted => {
                service.choice.confirm(addr);
                service.probes.remove(&addr);
            }
            Outcome::Refused => self.penalise(key, service, addr),
            Outcome::Silent => {
                self.penalise(key, service, addr);
                // A pod's address refuses when only the pod is gone. Silence is the node's: its other endpoints are probed before
                // another client waits for one of them.
                if let Some(node) = service.choice.node(addr).map(str::to_owned) {
                    self.penalise_node(&mut services, &node);
                }
            }
        }
    }

    fn penalise(self: &Arc<Self>, key: &ServicePortKey, service: &mut Service, addr: SocketAddr) {
        if let Some(pause) = service.choice.penalise(addr, Instant::now()) {
            self.probe(key, service, addr, pause);
        }
    }

    fn penalise_node(
        self: &Arc<Self>,
        services: &mut BTreeMap<ServicePortKey, Service>,
        node: &str,
    ) {
        for (key, service) in services {
            for addr in service.choice.on_node(node) {
                self.penalise(key, service, addr);
            }
        }
    }

    /// Tries an endpoint after a pause until it accepts. Ends with its endpoint's place in the set, or the balancer.
    fn probe(
        self: &Arc<Self>,
        key: &ServicePortKey,
        service: &mut Service,
        addr: SocketAddr,
        pause: Duration,
    ) {
        let (shared, key) = (Arc::downgrade(self), key.clone());
        let probing = async move {
            tokio::time::sleep(pause).await;
            loop {
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                if let Ok(Ok(_)) = tokio::time::timeout(PROBE_TIMEOUT, shared.dial.dial(addr)).await
                {
                    shared.note(&key, addr, Outcome::Accepted);
                    return;
                }
                drop(shared);
                tokio::time::sleep(PROBE_EVERY.max(pause)).await;
            }
        };
        service
            .probes
            .insert(addr, AbortOnDropHandle::new(tokio::spawn(probing)));
    }
}

//! Layer-4 load balancing for Services: the nodes' proxies and the host's load balancer share it.
//!
//! Invariants:
//! - An endpoint gets connections only after a TCP connect to it has succeeded, unless none of its Service has got that far.
//! - A connect that is refused, or silent for [`HEDGE_AFTER`], is hedged to the next endpoint, so that no new connection is lost
//!   while one endpoint lives.
//! - An endpoint that leaves the set gets no new connection; its open ones go on, until they end or their node is declared dead.
//! - It learns of faults by what its connections do and by what the API says, as on a real cluster; never from the fabric.

mod choice;
mod connect;
mod open;
mod relay;
pub mod services;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::choice::Choice;
use self::open::OpenConnections;
pub use self::open::{Connection, OpenConnection};
pub use self::relay::{ForwardError, forward, relay};
pub use self::services::{ServicePort, ServicePortKey, ServiceTable};
use crate::transport::Dial;

/// A connect that has said nothing for so long gets company. Translated guests need longer than real ones for a handshake.
pub const HEDGE_AFTER: Duration = Duration::from_millis(150);
/// A connection that no endpoint accepts for so long fails.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an endpoint that failed a connect is only a last resort.
pub const PENALTY: Duration = Duration::from_secs(2);
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
}

#[derive(Default)]
struct Service {
    choice: Choice,
    nodes: HashMap<SocketAddr, Option<String>>,
    probes: HashMap<SocketAddr, AbortOnDropHandle<()>>,
}

impl Balancer {
    /// A balancer without Services, whose connections are opened by `dial`.
    #[must_use]
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        let shared = Shared { dial, services: Mutex::default(), open: Arc::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Replaces the ready endpoints of a Service port. New ones are probed; those that left keep their open connections.
    pub fn set_endpoints(&self, key: &ServicePortKey, endpoints: &[Endpoint]) {
        let mut services = self.services();
        let service = services.entry(key.clone()).or_default();
        service.nodes = endpoints.iter().map(|endpoint| (endpoint.addr, endpoint.node.clone())).collect();
        let nodes = &service.nodes;
        service.probes.retain(|addr, _| nodes.contains_key(addr));
        let addrs: Vec<_> = endpoints.iter().map(|endpoint| endpoint.addr).collect();
        for addr in service.choice.replace(&addrs) {
            let probe = probe(Arc::downgrade(&self.shared), key.clone(), addr);
            service.probes.insert(addr, AbortOnDropHandle::new(tokio::spawn(probe)));
        }
    }

    /// Applies a whole table: what it lacks is removed.
    pub fn apply(&self, table: &ServiceTable) {
        self.services().retain(|key, _| table.ports.contains_key(key));
        for (key, port) in &table.ports {
            self.set_endpoints(key, &port.endpoints);
        }
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
        let candidates = self.services().get_mut(key).map(|service| service.choice.order(Instant::now())).unwrap_or_default();
        let attempt = connect::race(&*self.shared.dial, candidates, |addr, outcome| self.note(key, addr, outcome));
        let (addr, stream) = attempt.await?;
        let node = self.services().get(key).and_then(|service| service.nodes.get(&addr).cloned()).flatten();
        Ok(Connection { stream, open: OpenConnections::add(&self.shared.open, key, addr, node) })
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
        self.services().get(key).is_some_and(|service| service.choice.confirmed(addr))
    }

    /// Resets the open connections of one endpoint.
    pub fn abort_endpoint(&self, key: &ServicePortKey, addr: SocketAddr) {
        self.shared.open.abort(|other, other_addr, _| other == key && other_addr == addr);
    }

    /// Resets all open connections to a node that was declared dead.
    pub fn abort_node(&self, node: &str) {
        self.shared.open.abort(|_, _, other| other == Some(node));
    }

    fn note(&self, key: &ServicePortKey, addr: SocketAddr, outcome: Outcome) {
        note(&self.shared, key, addr, outcome);
    }

    fn services(&self) -> MutexGuard<'_, BTreeMap<ServicePortKey, Service>> {
        self.shared.services()
    }
}

impl Shared {
    fn services(&self) -> MutexGuard<'_, BTreeMap<ServicePortKey, Service>> {
        self.services.lock().expect("no holder of the services panics")
    }
}

/// What a connect has shown about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Accepted,
    Failed,
}

fn note(shared: &Shared, key: &ServicePortKey, addr: SocketAddr, outcome: Outcome) {
    let mut services = shared.services();
    let Some(service) = services.get_mut(key) else { return };
    match outcome {
        Outcome::Accepted => {
            service.choice.confirm(addr);
            service.probes.remove(&addr);
        }
        Outcome::Failed => service.choice.penalise(addr, Instant::now() + PENALTY),
    }
}

/// Tries an endpoint until it accepts. Ends with its endpoint's place in the set, or the balancer.
async fn probe(shared: std::sync::Weak<Shared>, key: ServicePortKey, addr: SocketAddr) {
    loop {
        let Some(shared) = shared.upgrade() else { return };
        if let Ok(Ok(_)) = tokio::time::timeout(PROBE_TIMEOUT, shared.dial.dial(addr)).await {
            note(&shared, &key, addr, Outcome::Accepted);
            return;
        }
        drop(shared);
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

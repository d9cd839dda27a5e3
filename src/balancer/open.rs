//! The connections that are open to each endpoint: counted while they last, and reset when their node is declared dead.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio_util::sync::CancellationToken;

use super::ServicePortKey;
use crate::transport::BoxStream;

type EndpointKey = (ServicePortKey, SocketAddr);

/// An established connection to an endpoint.
pub struct Connection {
    /// The bytes.
    pub stream: BoxStream,
    /// Counts the connection as open until it is dropped.
    pub open: OpenConnection,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("open", &self.open).finish_non_exhaustive()
    }
}

/// See [`Connection::open`].
#[derive(Debug)]
pub struct OpenConnection {
    registry: Arc<OpenConnections>,
    key: EndpointKey,
    aborted: CancellationToken,
}

impl OpenConnection {
    /// The endpoint.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.key.1
    }

    /// Resolves when the connection has to be reset, because its node was declared dead.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut entries = self.registry.entries();
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.count -= 1;
            if entry.count == 0 {
                entries.remove(&self.key);
            }
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct OpenConnections {
    entries: Mutex<BTreeMap<EndpointKey, Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    count: usize,
    node: Option<String>,
    aborted: CancellationToken,
}

impl OpenConnections {
    pub(super) fn add(registry: &Arc<Self>, key: &ServicePortKey, addr: SocketAddr, node: Option<String>) -> OpenConnection {
        let key = (key.clone(), addr);
        let mut entries = registry.entries();
        let entry = entries.entry(key.clone()).or_default();
        entry.count += 1;
        entry.node = node.or(entry.node.take());
        OpenConnection { registry: Arc::clone(registry), aborted: entry.aborted.clone(), key }
    }

    pub(super) fn count(&self, key: &ServicePortKey, addr: SocketAddr) -> usize {
        self.entries().get(&(key.clone(), addr)).map_or(0, |entry| entry.count)
    }

    pub(super) fn all(&self) -> BTreeMap<EndpointKey, usize> {
        self.entries().iter().map(|(key, entry)| (key.clone(), entry.count)).collect()
    }

    /// Tells the connections of every matching endpoint to end. Later ones to the same endpoint are not affected.
    pub(super) fn abort(&self, matches: impl Fn(&ServicePortKey, SocketAddr, Option<&str>) -> bool) {
        for ((key, addr), entry) in self.entries().iter_mut() {
            if matches(key, *addr, entry.node.as_deref()) {
                std::mem::take(&mut entry.aborted).cancel();
            }
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<EndpointKey, Entry>> {
        self.entries.lock().expect("no holder of the open connections panics")
    }
}

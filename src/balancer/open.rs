//! The connections that are open to each endpoint, from before they are dialled until their relay has ended: counted, told to end
//! when their node is declared dead, told to end at the next quiet moment when their endpoint drains.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ServicePortKey;
use super::activity::Activity;
use crate::transport::BoxStream;

/// For so long after a request went unanswered its endpoint is a last resort; then one connection tries it again. By then a liveness
/// probe of Kubernetes' default period has failed, too, and the endpoint is out.
const UNANSWERED_PENALTY: Duration = Duration::from_secs(10);

pub(super) type EndpointKey = (ServicePortKey, SocketAddr);

/// An established connection to an endpoint.
pub struct Connection {
    /// The bytes.
    pub stream: BoxStream,
    /// Counts the connection as open until it is dropped.
    pub open: OpenConnection,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// See [`Connection::open`].
#[derive(Debug)]
pub struct OpenConnection {
    registry: Arc<OpenConnections>,
    key: EndpointKey,
    aborted: CancellationToken,
    draining: CancellationToken,
    pub(super) activity: Activity,
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

    /// Resolves when the endpoint drains and nothing is under way on the connection (see [`Activity`]).
    pub(crate) async fn quiet_drain(&self) {
        self.draining.cancelled().await;
        let pauses = &self.registry.pauses;
        loop {
            let pause = Duration::from_millis(pauses.load(Ordering::Relaxed));
            let Some(left) = self.activity.until_quiet(pause, Instant::now()) else {
                return;
            };
            tokio::time::sleep(left).await;
        }
    }

    /// The client has waited for an answer for too long: the endpoint is a last resort for a while.
    pub(super) fn unanswered(&self) {
        tracing::debug!(service = %self.key.0, addr = %self.key.1, "a request stays unanswered");
        self.registry
            .unanswered()
            .insert(self.key.clone(), Instant::now() + UNANSWERED_PENALTY);
    }

    /// The endpoint answers after all.
    pub(super) fn answers(&self) {
        self.registry.unanswered().remove(&self.key);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.registry
            .pauses
            .fetch_max(self.activity.longest_pause_ms(), Ordering::Relaxed);
        let mut entries = self.registry.entries();
        if let Some(entry) = entries.get_mut(&self.key) {
            entry.count -= 1;
            if entry.count == 0 {
                entries.remove(&self.key);
            }
        }
        drop(entries);
        if self.draining.is_cancelled() {
            self.registry.changed.notify_one();
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct OpenConnections {
    entries: Mutex<BTreeMap<EndpointKey, Entry>>,
    draining: Mutex<BTreeSet<IpAddr>>,
    unanswered: Mutex<BTreeMap<EndpointKey, Instant>>,
    /// The longest pause inside an answer that any connection has seen, in milliseconds.
    pauses: AtomicU64,
    /// Something that has to be reported at once has changed.
    pub(super) changed: Notify,
}

#[derive(Debug, Default)]
struct Entry {
    count: usize,
    node: Option<String>,
    aborted: CancellationToken,
    draining: CancellationToken,
}

impl OpenConnections {
    /// Counts a connection that is about to be dialled; as long as it waits for the endpoint, in `pending` too.
    pub(super) fn add(
        registry: &Arc<Self>,
        key: &ServicePortKey,
        addr: SocketAddr,
        node: Option<String>,
        pending: Arc<AtomicUsize>,
    ) -> OpenConnection {
        let key = (key.clone(), addr);
        let drains = registry.draining().contains(&addr.ip());
        let mut entries = registry.entries();
        let entry = entries.entry(key.clone()).or_default();
        entry.count += 1;
        entry.node = node.or(entry.node.take());
        if drains {
            entry.draining.cancel();
        } else if entry.draining.is_cancelled() {
            // Another pod has this address now.
            entry.draining = CancellationToken::new();
        }
        let (aborted, draining) = (entry.aborted.clone(), entry.draining.clone());
        OpenConnection {
            registry: Arc::clone(registry),
            aborted,
            draining,
            key,
            activity: Activity::new(Instant::now(), pending),
        }
    }

    pub(super) fn count(&self, key: &ServicePortKey, addr: SocketAddr) -> usize {
        self.entries()
            .iter()
            .find(|((known, at), _)| *at == addr && known == key)
            .map_or(0, |(_, entry)| entry.count)
    }

    pub(super) fn all(&self) -> BTreeMap<EndpointKey, usize> {
        self.entries()
            .iter()
            .map(|(key, entry)| (key.clone(), entry.count))
            .collect()
    }

    /// Open connections by address, whichever Services they belong to.
    pub(super) fn by_addr(&self) -> BTreeMap<SocketAddr, usize> {
        let mut counts = BTreeMap::new();
        for ((_, addr), entry) in self.entries().iter() {
            *counts.entry(*addr).or_default() += entry.count;
        }
        counts
    }

    /// Tells the connections of every matching endpoint to end. Later ones to the same endpoint are not affected.
    pub(super) fn abort(
        &self,
        matches: impl Fn(&ServicePortKey, SocketAddr, Option<&str>) -> bool,
    ) {
        for ((key, addr), entry) in self.entries().iter_mut() {
            if matches(key, *addr, entry.node.as_deref()) {
                std::mem::take(&mut entry.aborted).cancel();
            }
        }
    }

    /// From now on exactly these addresses drain.
    pub(super) fn drain(&self, addresses: BTreeSet<IpAddr>) {
        for ((_, addr), entry) in self.entries().iter() {
            if addresses.contains(&addr.ip()) {
                entry.draining.cancel();
            }
        }
        *self.draining() = addresses;
    }

    /// Whether a request to the endpoint went unanswered not long ago.
    pub(super) fn is_unanswering(
        &self,
        key: &ServicePortKey,
        addr: SocketAddr,
        now: Instant,
    ) -> bool {
        let mut unanswered = self.unanswered();
        unanswered.retain(|_, until| now < *until);
        !unanswered.is_empty() && unanswered.contains_key(&(key.clone(), addr))
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<EndpointKey, Entry>> {
        self.entries
            .lock()
            .expect("no holder of the open connections panics")
    }

    fn draining(&self) -> MutexGuard<'_, BTreeSet<IpAddr>> {
        self.draining
            .lock()
            .expect("no holder of the draining addresses panics")
    }

    fn unanswered(&self) -> MutexGuard<'_, BTreeMap<EndpointKey, Instant>> {
        self.unanswered
            .lock()
            .expect("no holder of the unanswered endpoints panics")
    }
}

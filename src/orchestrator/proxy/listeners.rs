//! One listener for each ClusterIP port, and one on every address of this node for each node port.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

use crate::balancer::{Balancer, ServicePortKey, ServiceTable, forward};
use crate::model::addresses;

/// Connections relayed at a time; more wait in the listeners' backlogs.
const MAX_CONNECTIONS: usize = 4096;
const BACKLOG: u32 = 1024;
/// Pause after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The listeners, kept in line with a [`ServiceTable`].
pub(super) struct Listeners {
    balancer: Balancer,
    permits: Arc<Semaphore>,
    wanted: BTreeMap<SocketAddrV4, ServicePortKey>,
    running: BTreeMap<SocketAddrV4, (ServicePortKey, AbortOnDropHandle<()>)>,
}

impl Listeners {
    pub(super) fn new(balancer: Balancer) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Self {
            balancer,
            permits,
            wanted: BTreeMap::new(),
            running: BTreeMap::new(),
        }
    }

    /// Opens listeners for new ports and closes those that are gone. Connections that are open go on.
    pub(super) fn apply(&mut self, table: &ServiceTable) {
        self.wanted = table
            .ports
            .iter()
            // Cluster DNS is served by this process itself.
            .filter(|(_, port)| port.cluster_ip != Some(addresses::DNS_SERVICE))
            .flat_map(|(key, port)| {
                let of_cluster = port.cluster_ip.map(|ip| SocketAddrV4::new(ip, key.port));
                let of_node = port
                    .node_port
                    .map(|number| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, number));
                let both = of_cluster.into_iter().chain(of_node);
                both.map(|addr| (addr, key.clone()))
            })
            .collect();
        let wanted = &self.wanted;
        self.running
            .retain(|addr, (key, _)| wanted.get(addr) == Some(key));
        self.retry();
    }

    /// Opens the listeners that could not be opened before.
    pub(super) fn retry(&mut self) {
        for (addr, key) in &self.wanted {
            if self.running.contains_key(addr) {
                continue;
            }
            match bind(*addr) {
                Ok(listener) => {
                    let task = accept(
                        listener,
                        key.clone(),
                        self.balancer.clone(),
                        Arc::clone(&self.permits),
                    );
                    self.running.insert(
                        *addr,
                        (key.clone(), AbortOnDropHandle::new(tokio::spawn(task))),
                    );
                }
                Err(error) => tracing::warn!(service = %key, %addr, %error, "listen for a service"),
            }
        }
    }

    /// Whether this address is listened on.
    #[cfg(test)]
    pub(super) fn listens_on(&self, addr: SocketAddrV4) -> bool {
        self.running.contains_key(&addr)
    }
}

fn bind(addr: SocketAddrV4) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // A listener that is closed and opened again must not wait for its old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::V4(addr))?;
    socket.listen(BACKLOG)
}

async fn accept(
    listener: TcpListener,
    key: ServicePortKey,
    balancer: Balancer,
    permits: Arc<Semaphore>,
) {
    loop {
        let permit = Arc::clone(&permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((client, peer)) => {
                let (key, balancer) = (key.clone(), balancer.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    let _ = client.set_nodelay(true);
                    if let Err(error) = forward(client, &balancer, &key).await {
                        let error = &error as &dyn std::error::Error;
                        tracing::debug!(service = %key, %peer, error, "connection reset");
                    }
                });
            }
            Err(error) => {
                tracing::error!(service = %key, %error, "accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

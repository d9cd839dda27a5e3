//! What a balancer knows of its endpoints, for people to look at.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Balancer;

/// One endpoint of a Service port, as the balancer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Port of the Service.
    pub port: u16,
    /// Address of the pod, and its port.
    pub address: SocketAddr,
    /// The node it runs on, if known.
    pub node: Option<String>,
    /// Whether new connections go to it; else it has left the set, and only what was open goes on.
    pub in_set: bool,
    /// Whether a connect to it has succeeded since it came into the set.
    pub confirmed: bool,
    /// Whether it is a last resort because it refused, or it or its node was silent, until a probe's connect succeeds.
    pub penalised: bool,
    /// Whether it is a last resort because it left a client without an answer not long ago.
    pub unanswering: bool,
    /// Connections that wait for it now.
    pub waiting: usize,
    /// Connections that are open to it now.
    pub open: usize,
    /// Connections that were tried on it since it came into the set.
    pub tried: u64,
    /// Those of them that it refused, or for which another answered first, or nobody.
    pub failed: u64,
}

impl Balancer {
    /// Every endpoint by Service port, and after those of a set the ones that have left it and still have connections.
    #[must_use]
    pub fn view(&self) -> Vec<EndpointView> {
        let now = Instant::now();
        let open = self.all_open_connections();
        let mut views = Vec::new();
        let mut seen = BTreeSet::new();
        for (key, service) in self.services().iter() {
            for known in service.choice.known() {
                let endpoint = (key.clone(), known.addr);
                views.push(EndpointView {
                    namespace: key.namespace.clone(),
                    service: key.name.clone(),
                    port: key.port,
                    address: known.addr,
                    node: known.node.map(str::to_owned),
                    in_set: true,
                    confirmed: known.confirmed,
                    penalised: known.penalised,
                    unanswering: self.shared.open.is_unanswering(key, known.addr, now),
                    waiting: known.waiting,
                    open: open.get(&endpoint).copied().unwrap_or(0),
                    tried: known.tried,
                    failed: known.failed,
                });
                seen.insert(endpoint);
            }
        }
        for ((key, address), open) in open {
            if !seen.contains(&(key.clone(), address)) {
                views.push(EndpointView {
                    namespace: key.namespace,
                    service: key.name,
                    port: key.port,
                    address,
                    node: None,
                    in_set: false,
                    confirmed: true,
                    penalised: false,
                    unanswering: false,
                    waiting: 0,
                    open,
                    tried: 0,
                    failed: 0,
                });
            }
        }
        views
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use futures::future::BoxFuture;

    use super::super::{Endpoint, ServicePortKey};
    use super::*;
    use crate::transport::{BoxStream, Dial};

    /// Only port 1 accepts.
    struct Half;

    impl Dial for Half {
        fn dial(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<BoxStream>> {
            Box::pin(async move {
                if to.port() == 1 {
                    let (stream, _) = tokio::io::duplex(64);
                    Ok(Box::new(stream) as BoxStream)
                } else {
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn endpoints_are_shown_with_what_became_of_their_connections() {
        let balancer = Balancer::new(Arc::new(Half));
        let key = ServicePortKey {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            port: 80,
        };
        let endpoint = |port| Endpoint {
            addr: SocketAddr::from(([10, 0, 0, 1], port)),
            node: Some("w1".to_owned()),
        };
        balancer.set_endpoints(&key, &[endpoint(1), endpoint(2)]);
        let connection = balancer.connect(&key).await.expect("one accepts");
        let view = balancer.view();
        assert_eq!(view.len(), 2);
        let good = view.iter().find(|view| view.address.port() == 1);
        let good = good.expect("it is in the set");
        assert!(good.in_set && good.confirmed && !good.penalised);
        assert_eq!((good.open, good.tried, good.failed), (1, 1, 0));
        assert_eq!(good.node.as_deref(), Some("w1"));
        let bad = view.iter().find(|view| view.address.port() == 2);
        let bad = bad.expect("it is in the set");
        assert!(!bad.confirmed);
        assert_eq!(bad.tried, bad.failed, "whatever was tried was refused");

        balancer.set_endpoints(&key, &[endpoint(2)]);
        let left = balancer.view();
        let left = left.iter().find(|view| !view.in_set);
        assert_eq!(
            left.map(|view| (view.address, view.open)),
            Some((endpoint(1).addr, 1)),
            "it has left, and its connection goes on"
        );
        drop(connection);
        assert!(balancer.view().iter().all(|view| view.in_set));
    }
}

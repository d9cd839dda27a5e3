//! The fabric: a layer-2 switch in user space that every machine's cluster NIC plugs into, and the gateway through which the
//! host reaches the cluster.
//!
//! A NIC is QEMU's `-netdev stream,server=off,addr.type=unix,addr.path=SOCKET`: each frame is preceded by its length, 4 bytes
//! big-endian. There is one socket file a node, so the path alone says who speaks. No root, no bridge, no TAP.
//!
//! Invariants:
//! - A port carries at most one connection; a newer one (the machine was started again) replaces the older.
//! - Every queue is bounded. A frame that finds its queue full is dropped and counted, as a real switch would do.
//! - A port may speak only with its own node's MAC: the switch knows the MACs and learns nothing.
//! - Frames leave a directed link in the order in which they are due.

mod bench;
mod capture;
mod counters;
mod delay;
mod gateway;
mod port;
mod probe;
mod rules;
#[cfg(test)]
mod spoiled;
mod stack;
mod stream;
mod switch;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::bench::{BenchError, FabricFigures, bench};
pub use self::capture::{Capture, CaptureFilter};
pub use self::counters::LinkCounters;
pub use self::gateway::{Gateway, GatewayListener, InvalidRoute};
pub use self::probe::{Measured, ProbePlan};
pub use self::rules::Layer;
use self::stack::Identity;
use self::switch::{HOST, Switch};
use crate::model::addresses;
pub use crate::model::link::{InvalidRule, LinkRule, Links, Port};
use crate::model::names::NodeName;

/// What the fabric connects.
#[derive(Debug, Clone)]
pub struct FabricConfig {
    /// Directory of the socket files; it must exist.
    pub socket_dir: PathBuf,
    /// The cluster's nodes in the order of their index, from which their MACs follow.
    pub nodes: Vec<NodeName>,
    /// Their addresses, in the same order.
    pub addresses: Vec<Ipv4Addr>,
}

/// Why a rule could not be set or a counter not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FabricError {
    /// The fabric has no such port.
    #[error("fabric has no port `{0}`")]
    UnknownPort(Port),
    /// The rule makes no sense.
    #[error(transparent)]
    InvalidRule(#[from] InvalidRule),
}

/// A running fabric. Clones are handles; when the last one is dropped its tasks end, and the connections of its [`Gateway`].
#[derive(Debug, Clone)]
pub struct Fabric {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: FabricConfig,
    ports: Vec<Port>,
    switch: Arc<Switch>,
    gateway: Gateway,
    cancel: CancellationToken,
    tasks: Mutex<JoinSet<()>>,
    _cancel_on_drop: DropGuard,
}

impl Fabric {
    /// Binds every node's socket and starts to switch. A stale socket file is replaced.
    ///
    /// # Errors
    /// When a socket cannot be bound, or there are more nodes than addresses.
    pub async fn start(config: FabricConfig) -> io::Result<Self> {
        if config.nodes.len() > addresses::MAX_NODES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "more nodes than the fabric has addresses",
            ));
        }
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let (switch, host_frames, delay_line) = Switch::new(config.nodes.len());
        tasks.spawn(delay::run(Arc::clone(&switch), delay_line, cancel.clone()));
        for (index, node) in config.nodes.iter().enumerate() {
            let listener = port::bind(&socket_path(&config, node)).await?;
            tasks.spawn(port::run(
                Arc::clone(&switch),
                switch::node_port(index),
                listener,
                cancel.clone(),
            ));
        }
        let outward = Arc::clone(&switch);
        let emit = Box::new(move |frame: &Bytes| outward.forward(HOST, frame));
        let (gateway, driver) =
            gateway::new(Identity::gateway(&config.addresses), host_frames, emit);
        tasks.spawn(driver.run(cancel.clone()));
        let ports = config
            .nodes
            .iter()
            .cloned()
            .map(Port::Node)
            .chain([Port::Host])
            .collect();
        let shared = Shared {
            config,
            ports,
            switch,
            gateway,
            _cancel_on_drop: cancel.clone().drop_guard(),
            cancel,
            tasks: Mutex::new(tasks),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The socket file that the node's NIC connects to.
    #[must_use]
    pub fn socket(&self, node: &NodeName) -> PathBuf {
        socket_path(&self.shared.config, node)
    }

    /// The host's way into the cluster.
    #[must_use]
    pub fn gateway(&self) -> Gateway {
        self.shared.gateway.clone()
    }

    /// Every port: the nodes in their order, then the host.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.shared.ports
    }

    /// Sets the rule of the directed link `from` → `to` under the layer's tag, at once.
    ///
    /// # Errors
    /// When a port is unknown or the rule is out of range.
    pub fn set_rule(
        &self,
        from: &Port,
        to: &Port,
        rule: LinkRule,
        layer: &Layer,
    ) -> Result<(), FabricError> {
        rule.validate()?;
        let link = (self.index_of(from)?, self.index_of(to)?);
        self.shared
            .switch
            .rules
            .write()
            .expect("no holder of the rules panics")
            .set(link, rule, layer, Instant::now())?;
        Ok(())
    }

    /// Removes the rules of one directed link or of all, those with one tag or with any.
    ///
    /// # Errors
    /// When a port is unknown.
    pub fn heal(&self, link: Option<(&Port, &Port)>, tag: Option<&str>) -> Result<(), FabricError> {
        let link = match link {
            Some((from, to)) => Some((self.index_of(from)?, self.index_of(to)?)),
            None => None,
        };
        self.shared
            .switch
            .rules
            .write()
            .expect("no holder of the rules panics")
            .heal(link, tag);
        Ok(())
    }

    /// The rules that act now, each with its tag, ordered by link.
    #[must_use]
    pub fn rules(&self) -> Vec<(Port, Port, String, LinkRule)> {
        let rules = self
            .shared
            .switch
            .rules
            .read()
            .expect("no holder of the rules panics")
            .acting(Instant::now());
        rules
            .into_iter()
            .map(|((from, to), tag, rule)| (self.port_at(from), self.port_at(to), tag, rule))
            .collect()
    }

    /// Sends probes along the directed link `from` → `to`, through its rules but to nobody, and tells what became of them.
    ///
    /// # Errors
    /// When a port is unknown.
    pub async fn measure(
        &self,
        from: &Port,
        to: &Port,
        plan: ProbePlan,
    ) -> Result<Measured, FabricError> {
        let link = (self.index_of(from)?, self.index_of(to)?);
        Ok(probe::measure(&self.shared.switch, link, plan).await)
    }

    /// Begins to copy frames as pcapng. The copy ends when it is dropped, or after `lasts`.
    ///
    /// # Errors
    /// When a port is unknown.
    pub fn capture(
        &self,
        filter: &CaptureFilter,
        lasts: Option<Duration>,
    ) -> Result<Capture, FabricError> {
        let (name, filter) = match filter {
            CaptureFilter::Port(port) => (
                port.to_string(),
                capture::Filter::Port(self.index_of(port)?),
            ),
            CaptureFilter::Link(from, to) => (
                format!("{from} to {to}"),
                capture::Filter::Link((self.index_of(from)?, self.index_of(to)?)),
            ),
        };
        Ok(Capture::start(&self.shared.switch, filter, &name, lasts))
    }

    /// What has passed the directed link `from` → `to` since the fabric started.
    ///
    /// # Errors
    /// When a port is unknown.
    pub fn counters(&self, from: &Port, to: &Port) -> Result<LinkCounters, FabricError> {
        Ok(self
            .shared
            .switch
            .counters
            .read((self.index_of(from)?, self.index_of(to)?)))
    }

    /// Whether the node's NIC is connected now.
    #[must_use]
    pub fn connected(&self, node: &NodeName) -> bool {
        self.index_of(&Port::Node(node.clone()))
            .is_ok_and(|index| self.shared.switch.connected(index))
    }

    /// Ends every task and waits for them. Connections through the gateway fail from here on.
    pub async fn shutdown(&self) {
        self.shared.cancel.cancel();
        let mut tasks = self.shared.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
        for node in &self.shared.config.nodes {
            let _ = std::fs::remove_file(self.socket(node));
        }
    }

    fn index_of(&self, port: &Port) -> Result<usize, FabricError> {
        match port {
            Port::Host => Ok(HOST),
            Port::Node(name) => {
                let index = self
                    .shared
                    .config
                    .nodes
                    .iter()
                    .position(|node| node == name);
                index
                    .map(switch::node_port)
                    .ok_or_else(|| FabricError::UnknownPort(port.clone()))
            }
        }
    }

    fn port_at(&self, index: usize) -> Port {
        match index.checked_sub(switch::node_port(0)) {
            None => Port::Host,
            Some(node) => Port::Node(self.shared.config.nodes[node].clone()),
        }
    }
}

fn socket_path(config: &FabricConfig, node: &NodeName) -> PathBuf {
    config.socket_dir.join(format!("{node}.sock"))
}

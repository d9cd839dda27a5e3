//! What a balancer and the control plane say to each other on the balancer's long-lived WebSocket.
//!
//! The balancer dials `wss://…/flightcage/v1/balancer` with its certificate, whose name is its name in the control plane; the
//! control plane never dials. Each message is one JSON text frame. Reports come at least every [`REPORT_INTERVAL_MS`], and at once
//! when a drain may wait for them; orders come when they change, and once when the stream is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// A balancer says that it lives at least so often.
pub const REPORT_INTERVAL_MS: u64 = 500;
/// Where the stream is.
pub const PATH: &str = "/flightcage/v1/balancer";

/// Balancer to control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The highest revision of Endpoints that new connections follow.
    pub applied: u64,
    /// Connections that are open or being opened, by endpoint; endpoints that have left are among them until their last has ended.
    pub open: BTreeMap<SocketAddr, usize>,
}

/// Control plane to balancer: how things are to be from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Orders {
    /// Addresses of pods that are to stop: connections to them end at the first quiet moment.
    pub draining: BTreeSet<IpAddr>,
    /// Nodes that have fallen silent: they are avoided, and connections that are open go on.
    pub silent_nodes: BTreeSet<String>,
    /// Those of them that are not ready any more: their connections are reset.
    pub dead_nodes: BTreeSet<String>,
}

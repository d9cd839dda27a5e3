//! The task around the [`Detector`](super::detector): gives it beats and statements, has nodes asked, publishes its findings.
//!
//! It runs apart from the controllers, so that a slow disk is not taken for a stall of the server.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::detector::{Detector, Watched};
use super::nodes::{Brake, CONTROL_PLANE_LABELS};
use super::world::Liveness;
use crate::orchestrator::api::heartbeats::Heartbeats;
use crate::orchestrator::api::kinds;
use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::api::tunnels::Tunnels;
use crate::orchestrator::tunnel::PEER_PORT;

/// Follows all nodes, for ever.
pub(super) async fn detect(
    registry: &Registry,
    heartbeats: &Heartbeats,
    tunnels: &Tunnels,
    brake: Brake,
    out: watch::Sender<BTreeMap<String, Liveness>>,
) {
    let mut detector = Detector::new(Instant::now(), brake);
    loop {
        tokio::time::sleep_until(detector.due()).await;
        let (nodes, _) = registry.list(&kinds::NODE, None);
        let watched: Vec<Watched> = nodes.iter().filter_map(|node| watched(node)).collect();
        let round = detector.round(
            Instant::now(),
            &watched,
            &heartbeats.snapshot(),
            &heartbeats.statements(),
        );
        heartbeats.forget_all_but(|name| watched.iter().any(|node| node.name == name));
        for (observer, suspect) in &round.ask {
            if let Some(address) = address(&nodes, suspect) {
                tunnels.probe(observer, suspect, address);
            }
        }
        out.send_if_modified(|known| {
            for (node, now) in &round.liveness {
                let before = known.get(node).copied().unwrap_or(Liveness::Alive);
                if before != *now {
                    tracing::info!(node, ?before, ?now, "node liveness changed");
                }
            }
            let changed = *known != round.liveness;
            *known = round.liveness;
            changed
        });
    }
}

fn watched(node: &Value) -> Option<Watched> {
    let name = node.pointer("/metadata/name")?.as_str()?.to_owned();
    let beside_server = CONTROL_PLANE_LABELS
        .iter()
        .any(|label| !node["metadata"]["labels"][*label].is_null());
    Some(Watched {
        name,
        beside_server,
    })
}

/// Where a node's agent answers other agents.
fn address(nodes: &[Arc<Value>], name: &str) -> Option<SocketAddr> {
    let node = nodes.iter().find(|node| node["metadata"]["name"] == name)?;
    let addresses = node.pointer("/status/addresses")?.as_array()?;
    let internal = addresses
        .iter()
        .find(|address| address["type"] == "InternalIP")?;
    let ip: IpAddr = internal["address"].as_str()?.parse().ok()?;
    Some(SocketAddr::new(ip, PEER_PORT))
}

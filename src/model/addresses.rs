//! The addresses inside a cluster's fabric. They exist inside the fabric and the machines only, never on the host.

use std::net::Ipv4Addr;

/// The host's side of the fabric: registry mirror, load balancer and prober speak from here.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Prefix length of the node network 10.77.0.0/24.
pub const NODE_PREFIX: u8 = 24;
/// The service network, 10.79.0.0/16.
pub const SERVICE_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 0);
/// Prefix length of the service network.
pub const SERVICE_PREFIX: u8 = 16;
/// The ClusterIP of Service `default/kubernetes`.
pub const KUBERNETES_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
/// Cluster DNS, served by every node's proxy.
pub const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 10);
/// DNS suffix of the cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Where the API server listens, on the controller's node address.
pub const API_PORT: u16 = 6443;
/// Where the registry mirror listens, on [`GATEWAY`].
pub const REGISTRY_PORT: u16 = 5000;
/// Machines a cluster may have: node addresses end in 11..=250.
pub const MAX_NODES: usize = 200;

/// The fabric address of the node with this index (0 is the first controller): 10.77.0.11 and up.
///
/// # Panics
/// When `index` is not below [`MAX_NODES`], which cluster validation has refused before.
#[must_use]
pub fn node_address(index: usize) -> Ipv4Addr {
    assert!(
        index < MAX_NODES,
        "node index {index} is validated against MAX_NODES"
    );
    Ipv4Addr::new(
        10,
        77,
        0,
        11 + u8::try_from(index).expect("index is below 200"),
    )
}

/// The pod network of the node with this index: 10.78.N.0/24.
///
/// # Panics
/// When `index` is not below [`MAX_NODES`].
#[must_use]
pub fn pod_network(index: usize) -> (Ipv4Addr, u8) {
    assert!(
        index < MAX_NODES,
        "node index {index} is validated against MAX_NODES"
    );
    (
        Ipv4Addr::new(10, 78, u8::try_from(index).expect("index is below 200"), 0),
        24,
    )
}

/// The gateway's MAC on the fabric.
pub const GATEWAY_MAC: [u8; 6] = [0x52, 0x54, 0x00, 0x77, 0x00, 0x01];

/// The MAC of a node's cluster NIC, `52:54:00:77:00:NN`, where NN is the last octet of its address.
///
/// # Panics
/// When `index` is not below [`MAX_NODES`].
#[must_use]
pub fn node_mac(index: usize) -> [u8; 6] {
    [
        0x52,
        0x54,
        0x00,
        0x77,
        0x00,
        node_address(index).octets()[3],
    ]
}

/// The MAC of a node's SSH NIC, `52:54:00:78:00:NN`, which is not on the fabric.
///
/// # Panics
/// When `index` is not below [`MAX_NODES`].
#[must_use]
pub fn ssh_mac(index: usize) -> [u8; 6] {
    [
        0x52,
        0x54,
        0x00,
        0x78,
        0x00,
        node_address(index).octets()[3],
    ]
}

/// A hardware address as text, `52:54:00:77:00:0b`.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

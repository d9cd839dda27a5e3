//! The UDP ports of Services on this node: of each its ClusterIP's, and its node port on the node's own addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use crate::balancer::ServiceTable;
use crate::model::addresses;
use crate::orchestrator::datagrams::Wanted;

/// A port of the server that nothing is sent to.
const ANY_PORT: u16 = 9;

/// What is to be listened on for these Services, on a node with these addresses.
pub(super) fn wanted(table: &ServiceTable, own: &[Ipv4Addr]) -> Wanted {
    let mut wanted = Wanted::new();
    for (key, port) in &table.datagrams {
        let endpoints: Vec<SocketAddr> = port
            .endpoints
            .iter()
            .map(|endpoint| endpoint.addr)
            .collect();
        let of_cluster = port
            .cluster_ip
            // Cluster DNS is served by this process itself.
            .filter(|ip| *ip != addresses::DNS_SERVICE)
            .map(|ip| SocketAddrV4::new(ip, key.port));
        let of_node = port
            .node_port
            .into_iter()
            .flat_map(|number| own.iter().map(move |ip| SocketAddrV4::new(*ip, number)));
        for addr in of_cluster.into_iter().chain(of_node) {
            wanted.insert(addr, endpoints.clone());
        }
    }
    wanted
}

/// Loopback, and the address from which this node reaches the API server; that one only while there is a way to it.
pub(super) fn own_addresses(server: &str) -> Vec<Ipv4Addr> {
    let mut own = vec![Ipv4Addr::LOCALHOST];
    own.extend(address_towards(server).filter(|address| !address.is_loopback()));
    own
}

/// Connecting a UDP socket sends nothing: the kernel chooses the way, and with it the address.
fn address_towards(server: &str) -> Option<Ipv4Addr> {
    let server = server.parse::<http::Uri>().ok()?;
    let server = server.host()?.parse::<Ipv4Addr>().ok()?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((server, ANY_PORT)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Endpoints, Service};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_port_is_on_every_address_of_the_node_beside_the_cluster_ip() {
        let service: Service = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "echo" },
            "spec": { "type": "NodePort", "clusterIP": "10.79.0.20", "ports": [
                { "name": "u", "port": 53, "nodePort": 30053, "protocol": "UDP" },
                { "name": "t", "port": 53, "nodePort": 30053, "protocol": "TCP" },
                { "name": "v", "port": 54, "protocol": "UDP" },
            ] },
        }))
        .expect("a Service");
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "echo" },
            "subsets": [{ "addresses": [{ "ip": "10.78.1.2" }], "ports": [{ "name": "u", "port": 5353, "protocol": "UDP" }] }],
        }))
        .expect("Endpoints");
        let table = ServiceTable::build([&service], [&endpoints]);
        let own = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(10, 77, 0, 12)];
        let told: Vec<String> = wanted(&table, &own)
            .into_iter()
            .map(|(addr, endpoints)| format!("{addr} {endpoints:?}"))
            .collect();
        assert_eq!(
            told,
            [
                "10.77.0.12:30053 [10.78.1.2:5353]",
                "10.79.0.20:53 [10.78.1.2:5353]",
                "10.79.0.20:54 []",
                "127.0.0.1:30053 [10.78.1.2:5353]",
            ]
        );
    }

    #[test]
    fn a_node_without_a_way_to_the_server_has_its_loopback() {
        for server in [
            "",
            "https://no-address.example:6443",
            "https://127.0.0.1:6443",
        ] {
            assert_eq!(own_addresses(server), [Ipv4Addr::LOCALHOST], "{server}");
        }
    }
}

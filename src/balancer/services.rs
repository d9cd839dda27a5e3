//! From the API's Services and Endpoints to what is balanced where. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{EndpointSubset, Endpoints, Service, ServiceSpec};

use super::Endpoint;

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortKey {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The Service's port number, which is unique among its TCP ports.
    pub port: u16,
}

impl std::fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What is known about one TCP port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Where the Service is reached inside the cluster; `None` when it is headless.
    pub cluster_ip: Option<Ipv4Addr>,
    /// The port's name, if it has one.
    pub port_name: Option<String>,
    /// `ClusterIP`, `NodePort` or `LoadBalancer`.
    pub service_type: String,
    /// The port on every node, if there is one.
    pub node_port: Option<u16>,
    /// For how long a client stays with its endpoint; `None` if it does not.
    pub affinity: Option<Duration>,
    /// Ready endpoints, in address order.
    pub endpoints: Vec<Endpoint>,
}

/// All ports of all Services that select or name endpoints. `ExternalName` Services are not balanced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceTable {
    /// TCP, by Service and port.
    pub ports: BTreeMap<ServicePortKey, ServicePort>,
    /// UDP, by Service and port.
    pub datagrams: BTreeMap<ServicePortKey, ServicePort>,
}

impl ServiceTable {
    /// Matches Services with the Endpoints of the same name, port by port.
    pub fn build<'a>(
        services: impl IntoIterator<Item = &'a Service>,
        endpoints: impl IntoIterator<Item = &'a Endpoints>,
    ) -> Self {
        let endpoints: BTreeMap<_, _> = endpoints
            .into_iter()
            .map(|object| {
                (
                    (
                        object.metadata.namespace.as_deref(),
                        object.metadata.name.as_deref(),
                    ),
                    object,
                )
            })
            .collect();
        let (mut ports, mut datagrams) = (BTreeMap::new(), BTreeMap::new());
        for service in services {
            let (Some(namespace), Some(name), Some(spec)) = (
                &service.metadata.namespace,
                &service.metadata.name,
                &service.spec,
            ) else {
                continue;
            };
            let service_type = spec.type_.as_deref().unwrap_or("ClusterIP");
            if service_type == "ExternalName" {
                continue;
            }
            let subsets = endpoints
                .get(&(Some(namespace.as_str()), Some(name.as_str())))
                .and_then(|object| object.subsets.as_deref())
                .unwrap_or_default();
            for port in spec.ports.iter().flatten() {
                let protocol = port.protocol.as_deref().unwrap_or("TCP");
                let (Ok(number), "TCP" | "UDP") = (u16::try_from(port.port), protocol) else {
                    continue;
                };
                let key = ServicePortKey {
                    namespace: namespace.clone(),
                    name: name.clone(),
                    port: number,
                };
                let value = ServicePort {
                    cluster_ip: spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()),
                    port_name: port.name.clone().filter(|name| !name.is_empty()),
                    service_type: service_type.to_owned(),
                    node_port: port
                        .node_port
                        .and_then(|port| u16::try_from(port).ok())
                        .filter(|port| *port != 0),
                    affinity: affinity(spec),
                    endpoints: ready_endpoints(subsets, port.name.as_deref(), protocol),
                };
                if protocol == "UDP" {
                    datagrams.insert(key, value);
                } else {
                    ports.insert(key, value);
                }
            }
        }
        Self { ports, datagrams }
    }

    /// The ports of a Service, by name.
    pub fn service<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
    ) -> impl Iterator<Item = (&'a ServicePortKey, &'a ServicePort)> + 'a {
        self.ports
            .iter()
            .filter(move |(key, _)| key.namespace == namespace && key.name == name)
    }
}

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const STAY_SECONDS: i32 = 10_800;

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config
        .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
        .unwrap_or(STAY_SECONDS);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The ready addresses of every subset, with the port of that name.
fn ready_endpoints(
    subsets: &[EndpointSubset],
    port_name: Option<&str>,
    protocol: &str,
) -> Vec<Endpoint> {
    let wanted = port_name.unwrap_or_default();
    let mut found = Vec::new();
    for subset in subsets {
        let port = subset.ports.iter().flatten().find(|port| {
            port.name.as_deref().unwrap_or_default() == wanted
                && port.protocol.as_deref().unwrap_or("TCP") == protocol
        });
        let Some(port) = port.and_then(|port| u16::try_from(port.port).ok()) else {
            continue;
        };
        for address in subset.addresses.iter().flatten() {
            if let Ok(ip) = address.ip.parse::<IpAddr>() {
                found.push(Endpoint {
                    addr: SocketAddr::new(ip, port),
                    node: address.node_name.clone(),
                });
            }
        }
    }
    found.sort();
    found.dedup_by(|a, b| a.addr == b.addr);
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_matched_by_name_and_only_ready_addresses_count() {
        let service: Service = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "flappy-nginx" },
            "spec": { "type": "LoadBalancer", "clusterIP": "10.79.3.4", "ports": [
                { "name": "http", "port": 80, "targetPort": "http", "nodePort": 30080 },
                { "name": "https", "port": 443, "targetPort": "https" },
                { "name": "dns", "port": 53, "protocol": "UDP" },
            ] },
        }))
        .unwrap();
        let headless: Service = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "db" },
            "spec": { "clusterIP": "None", "ports": [{ "port": 5432 }], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } } },
        }))
        .unwrap();
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "flappy-nginx" },
            "subsets": [{
                "addresses": [{ "ip": "10.78.2.3", "nodeName": "w2" }, { "ip": "10.78.1.2", "nodeName": "w1" }],
                "notReadyAddresses": [{ "ip": "10.78.1.9" }],
                "ports": [{ "name": "https", "port": 8443 }, { "name": "http", "port": 8080 }],
            }],
        }))
        .unwrap();
        let elsewhere: Endpoints = serde_json::from_value(json!({
            "metadata": { "namespace": "other", "name": "flappy-nginx" },
            "subsets": [{ "addresses": [{ "ip": "10.78.9.9" }], "ports": [{ "name": "http", "port": 1 }] }],
        }))
        .unwrap();
        let table = ServiceTable::build([&service, &headless], [&endpoints, &elsewhere]);
        let keys: Vec<_> = table.ports.keys().map(ToString::to_string).collect();
        assert_eq!(
            keys,
            [
                "default/db:5432",
                "default/flappy-nginx:80",
                "default/flappy-nginx:443"
            ]
        );
        let http = table.service("default", "flappy-nginx").next().unwrap().1;
        assert_eq!(http.cluster_ip, Some(Ipv4Addr::new(10, 79, 3, 4)));
        assert_eq!(http.node_port, Some(30080));
        let pods: Vec<_> = http
            .endpoints
            .iter()
            .map(|e| (e.addr.to_string(), e.node.clone().unwrap()))
            .collect();
        assert_eq!(
            pods,
            [
                ("10.78.1.2:8080".into(), "w1".into()),
                ("10.78.2.3:8080".into(), "w2".into())
            ]
        );
        let db = table.service("default", "db").next().unwrap().1;
        assert_eq!((db.cluster_ip, db.endpoints.len()), (None, 0));
        assert_eq!(
            (http.affinity, db.affinity),
            (None, Some(Duration::from_mins(1)))
        );
    }
}

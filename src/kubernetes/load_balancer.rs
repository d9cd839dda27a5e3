//! Where a Service of type LoadBalancer is reached from outside: its status, as a load balancer writes it and a client reads it.
//!
//! Kubernetes takes for granted that a load balancer listens on the Service's own ports. Ours listens on loopback, where ports below
//! 1024 and those of another cluster are taken: the ports it has instead stand in a condition of the Service's status.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

/// The condition's type. Its message is `443=40443 80=40080`: the Service's port, and where it is reached.
pub const HOST_PORTS: &str = "flightcage.dev/HostPorts";
/// The type of a Service that a load balancer serves.
pub const LOAD_BALANCER: &str = "LoadBalancer";

/// The host of a load balancer, as it announced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// Its address.
    Address(IpAddr),
    /// A name that is to be resolved.
    Name(String),
}

/// Where a Service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrance {
    /// The load balancer.
    pub host: Host,
    /// The ports that it has instead of the Service's own.
    ports: BTreeMap<u16, u16>,
}

impl Entrance {
    /// What a Service's status says; nothing while no load balancer has announced itself.
    #[must_use]
    pub fn of(service: &Service) -> Option<Self> {
        let ingress = service
            .status
            .as_ref()?
            .load_balancer
            .as_ref()?
            .ingress
            .as_ref()?;
        let address = ingress
            .iter()
            .find_map(|ingress| ingress.ip.as_ref()?.parse().ok().map(Host::Address));
        let host = address.or_else(|| {
            ingress
                .iter()
                .find_map(|ingress| ingress.hostname.clone().map(Host::Name))
        })?;
        Some(Self {
            host,
            ports: host_ports(service),
        })
    }

    /// Where the Service's `port` is reached.
    #[must_use]
    pub fn port(&self, port: u16) -> u16 {
        self.ports.get(&port).copied().unwrap_or(port)
    }
}

fn host_ports(service: &Service) -> BTreeMap<u16, u16> {
    let conditions = service
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let messages = conditions
        .filter(|condition| condition.type_ == HOST_PORTS)
        .map(|condition| condition.message.as_str());
    let pair = |pair: &str| {
        let (port, host) = pair.split_once('=')?;
        Some((port.parse().ok()?, host.parse().ok()?))
    };
    messages
        .flat_map(str::split_whitespace)
        .filter_map(pair)
        .collect()
}

/// The patch of a LoadBalancer Service's status that says where it is reached; `None` when it says so already, or is of another type.
#[must_use]
pub fn announcement(
    service: &Service,
    address: IpAddr,
    ports: &BTreeMap<u16, u16>,
) -> Option<Value> {
    let is_load_balancer = service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.type_.as_deref() == Some(LOAD_BALANCER));
    let wanted = Entrance {
        host: Host::Address(address),
        ports: ports.clone(),
    };
    if !is_load_balancer || Entrance::of(service) == Some(wanted) {
        return None;
    }
    let message: Vec<String> = ports
        .iter()
        .map(|(port, host)| format!("{port}={host}"))
        .collect();
    let condition = json!({
        "type": HOST_PORTS, "status": "True", "reason": "Listening", "message": message.join(" "),
        "lastTransitionTime": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    });
    let ingress = json!([{ "ip": address.to_string() }]);
    Some(json!({ "status": { "loadBalancer": { "ingress": ingress }, "conditions": [condition] } }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(kind: &str, status: Value) -> Service {
        let object =
            json!({ "metadata": { "name": "web" }, "spec": { "type": kind }, "status": status });
        serde_json::from_value(object).expect("a Service")
    }

    #[test]
    fn what_is_announced_is_read_back_and_not_announced_again() {
        let loopback: IpAddr = "127.0.0.1".parse().expect("an address");
        let ports = BTreeMap::from([(443, 40443), (80, 40080)]);
        let announced =
            announcement(&service("LoadBalancer", json!({})), loopback, &ports).expect("news");
        let after = service("LoadBalancer", announced["status"].clone());
        let entrance = Entrance::of(&after).expect("announced");
        assert_eq!(entrance.host, Host::Address(loopback));
        assert_eq!(
            (entrance.port(443), entrance.port(80), entrance.port(8080)),
            (40443, 40080, 8080)
        );
        assert_eq!(announcement(&after, loopback, &ports), None);
        let moved = BTreeMap::from([(443, 41000), (80, 40080)]);
        assert!(announcement(&after, loopback, &moved).is_some());
        assert_eq!(
            announcement(&service("ClusterIP", json!({})), loopback, &ports),
            None
        );
    }

    #[test]
    fn other_load_balancers_are_understood() {
        let of = |ingress: Value| {
            Entrance::of(&service(
                "LoadBalancer",
                json!({ "loadBalancer": { "ingress": ingress } }),
            ))
        };
        assert_eq!(of(json!([])), None);
        let named = of(json!([{ "hostname": "lb.example" }])).expect("announced");
        assert_eq!(
            (named.host.clone(), named.port(443)),
            (Host::Name("lb.example".into()), 443)
        );
        let both =
            of(json!([{ "hostname": "lb.example" }, { "ip": "192.0.2.7" }])).expect("announced");
        assert_eq!(
            both.host,
            Host::Address("192.0.2.7".parse().expect("an address"))
        );
    }
}

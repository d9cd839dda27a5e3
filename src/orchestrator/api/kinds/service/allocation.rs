//! Cluster addresses and node ports. The caller holds the allocation lock until the write is committed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::addresses::{DNS_SERVICE, SERVICE_NETWORK, SERVICE_PREFIX};
use crate::orchestrator::api::kinds::Cause;

const NODE_PORTS: std::ops::RangeInclusive<u16> = 30000..=32767;

/// What other Services have.
struct Taken {
    addresses: BTreeSet<Ipv4Addr>,
    ports: BTreeSet<(u16, String)>,
}

fn taken(services: &[Arc<Value>], own_uid: &str) -> Taken {
    let mut taken = Taken {
        addresses: BTreeSet::from([DNS_SERVICE]),
        ports: BTreeSet::new(),
    };
    for service in services
        .iter()
        .filter(|service| service["metadata"]["uid"].as_str() != Some(own_uid))
    {
        taken.addresses.extend(
            service["spec"]["clusterIP"]
                .as_str()
                .and_then(|text| text.parse::<Ipv4Addr>().ok()),
        );
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            taken
                .ports
                .extend(node_port(port).map(|number| (number, protocol(port))));
        }
    }
    taken
}

fn node_port(port: &Value) -> Option<u16> {
    port.get("nodePort")
        .and_then(Value::as_u64)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

fn protocol(port: &Value) -> String {
    port.get("protocol")
        .and_then(Value::as_str)
        .unwrap_or("TCP")
        .to_owned()
}

/// Gives a Service its address and node ports, keeps those it had, and names what it may not have.
pub(super) fn allocate(
    services: &[Arc<Value>],
    service: &mut Value,
    old: Option<&Value>,
) -> Vec<Cause> {
    let own_uid = service
        .pointer("/metadata/uid")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut taken = taken(services, &own_uid);
    let mut causes = Vec::new();
    let kind = service
        .pointer("/spec/type")
        .and_then(Value::as_str)
        .unwrap_or("ClusterIP")
        .to_owned();
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else {
        return causes;
    };
    if kind == "ExternalName" {
        if let Some(spec) = spec.as_object_mut() {
            spec.shift_remove("clusterIP");
            spec.shift_remove("clusterIPs");
        }
        return causes;
    }
    cluster_address(spec, old, &taken, &mut causes);
    let wants_ports = kind == "NodePort"
        || (kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"] != json!(false));
    node_ports(spec, old, &mut taken, wants_ports, &mut causes);
    causes
}

fn cluster_address(spec: &mut Value, old: Option<&Value>, taken: &Taken, causes: &mut Vec<Cause>) {
    let field = || "spec.clusterIP".to_owned();
    let asked = spec
        .get("clusterIP")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let had = old
        .filter(|old| old.pointer("/spec/type").and_then(Value::as_str) != Some("ExternalName"))
        .and_then(|old| old.pointer("/spec/clusterIP"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let address = if !had.is_empty() {
        if !asked.is_empty() && asked != had {
            let message = format!("Invalid value: \"{asked}\": field is immutable");
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: field(),
                message,
            });
        }
        had.to_owned()
    } else if asked == "None" {
        asked
    } else if asked.is_empty() {
        // The first address is `kubernetes`'s; small clusters read well with low numbers.
        let base = u32::from(SERVICE_NETWORK);
        let size = 1_u32 << (32 - u32::from(SERVICE_PREFIX));
        let free = (1..size - 1)
            .map(|offset| Ipv4Addr::from(base + offset))
            .find(|address| !taken.addresses.contains(address));
        match free {
            Some(address) => address.to_string(),
            None => {
                let message =
                    "Internal error: every address of the service network is taken".to_owned();
                causes.push(Cause {
                    reason: "InternalError",
                    field: field(),
                    message,
                });
                return;
            }
        }
    } else {
        let mask = u32::MAX << (32 - u32::from(SERVICE_PREFIX));
        let problem = match asked.parse::<Ipv4Addr>() {
            Err(_) => Some("must be empty, 'None', or a valid IP address"),
            Ok(address) if u32::from(address) & mask != u32::from(SERVICE_NETWORK) => Some(
                "failed to allocate IP: the provided IP is not in the valid range 10.79.0.0/16",
            ),
            // DNS is reserved for whoever asks for it by name.
            Ok(address) if address != DNS_SERVICE && taken.addresses.contains(&address) => {
                Some("failed to allocate IP: provided IP is already allocated")
            }
            Ok(_) => None,
        };
        if let Some(problem) = problem {
            let message = format!("Invalid value: \"{asked}\": {problem}");
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: field(),
                message,
            });
        }
        asked
    };
    spec["clusterIPs"] = json!([address]);
    spec["clusterIP"] = json!(address);
}

fn node_ports(
    spec: &mut Value,
    old: Option<&Value>,
    taken: &mut Taken,
    wanted: bool,
    causes: &mut Vec<Cause>,
) {
    let had: Vec<Value> = old
        .and_then(|old| old.pointer("/spec/ports"))
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    for (number, port) in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .enumerate()
    {
        if !wanted {
            if let Some(port) = port.as_object_mut() {
                port.shift_remove("nodePort");
            }
            continue;
        }
        let protocol = protocol(port);
        let kept = had
            .iter()
            .find(|old| old["port"] == port["port"] && old["protocol"] == port["protocol"])
            .and_then(node_port);
        let asked = node_port(port);
        let chosen = asked.or(kept).or_else(|| {
            NODE_PORTS
                .into_iter()
                .find(|free| !taken.ports.contains(&(*free, protocol.clone())))
        });
        let field = format!("spec.ports[{number}].nodePort");
        let Some(chosen) = chosen else {
            let message = "Internal error: every node port is taken".to_owned();
            causes.push(Cause {
                reason: "InternalError",
                field,
                message,
            });
            continue;
        };
        let problem = if !NODE_PORTS.contains(&chosen) {
            Some("provided port is not in the valid range. The range of valid ports is 30000-32767")
        } else if !taken.ports.insert((chosen, protocol)) {
            Some("provided port is already allocated")
        } else {
            None
        };
        if let Some(problem) = problem {
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field,
                message: format!("Invalid value: {chosen}: {problem}"),
            });
        }
        port["nodePort"] = json!(chosen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::kinds;
    use crate::orchestrator::api::patch::Patch;
    use crate::orchestrator::api::registry::tests::registry;

    fn service(name: &str, spec: &Value) -> Value {
        json!({"metadata": {"name": name}, "spec": spec})
    }

    #[tokio::test]
    async fn addresses_and_ports_are_given_once_and_kept() {
        let registry = registry().await;
        let spec = json!({"type": "LoadBalancer", "selector": {"a": "b"}, "ports": [{"name": "http", "port": 80}, {"name": "https", "port": 443}]});
        let first = registry
            .create(&kinds::SERVICE, Some("default"), service("a", &spec))
            .await
            .expect("created");
        let second = registry
            .create(&kinds::SERVICE, Some("default"), service("b", &spec))
            .await
            .expect("created");
        assert_eq!(first["spec"]["clusterIP"], json!("10.79.0.2"));
        assert_ne!(first["spec"]["clusterIP"], second["spec"]["clusterIP"]);
        assert_eq!(first["spec"]["ports"][0]["nodePort"], json!(30000));
        assert_eq!(second["spec"]["ports"][1]["nodePort"], json!(30003));
        let again = registry
            .update(
                &kinds::SERVICE,
                Some("default"),
                "a",
                None,
                service("a", &spec),
            )
            .await
            .expect("updated");
        assert_eq!(again["spec"]["clusterIP"], first["spec"]["clusterIP"]);
        assert_eq!(again["spec"]["ports"], first["spec"]["ports"]);
        let moved = Patch::Merge(json!({"spec": {"clusterIP": "10.79.9.9"}}));
        let refused = registry
            .patch(&kinds::SERVICE, Some("default"), "a", None, moved)
            .await
            .expect_err("immutable");
        assert_eq!(refused.code, 422);
        let fixed = json!({"clusterIP": "10.79.0.2", "ports": [{"port": 1}]});
        let refused = registry
            .create(&kinds::SERVICE, Some("default"), service("c", &fixed))
            .await
            .expect_err("taken");
        assert!(refused.message.contains("already allocated"), "{refused}");
        let headless = json!({"clusterIP": "None", "ports": [{"port": 1}]});
        let headless = registry
            .create(&kinds::SERVICE, Some("default"), service("d", &headless))
            .await
            .expect("created");
        assert_eq!(headless["spec"]["clusterIP"], json!("None"));
    }
}

//! What a node may say of itself: Kubernetes' admission plug-in NodeRestriction (plugin/pkg/admission/noderestriction).
//!
//! A node in strange hands must not attract pods, with the Secrets that they mount, nor addresses that are another's.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use serde_json::Value;

use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::api::status::Status;
use crate::orchestrator::api::{kinds, limits};

/// Labels with Kubernetes' own prefixes that a node may set (k8s.io/kubelet/pkg/apis/well_known_labels.go).
const ALLOWED_LABELS: &[&str] = &[
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "kubernetes.io/arch",
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
/// Prefixes of which it may set every label, with their subdomains (the same file).
const ALLOWED_PREFIXES: &[&str] = &["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Prefixes that are Kubernetes' own, with their subdomains.
const OWN_PREFIXES: &[&str] = &["kubernetes.io", "k8s.io"];

/// Whether a node must not set the label: `isForbiddenLabelKey` of the plug-in.
fn is_forbidden(key: &str) -> bool {
    let Some((prefix, _)) = key.split_once('/') else {
        return false;
    };
    let within = |domains: &[&str]| {
        domains.iter().any(|domain| {
            prefix == *domain
                || prefix
                    .strip_suffix(domain)
                    .is_some_and(|left| left.ends_with('.'))
        })
    };
    within(OWN_PREFIXES) && !ALLOWED_LABELS.contains(&key) && !within(ALLOWED_PREFIXES)
}

/// Keys whose values differ.
fn changed_labels<'a>(old: &'a Value, new: &'a Value) -> BTreeSet<&'a str> {
    let of = |object: &'a Value| {
        object
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
    };
    let keys = [of(old), of(new)]
        .into_iter()
        .flatten()
        .flat_map(|map| map.keys());
    keys.filter(|key| {
        let value = |object| of(object).and_then(|map| map.get(key.as_str()));
        value(old) != value(new)
    })
    .map(String::as_str)
    .collect()
}

fn check_labels(registry: &Registry, node: &str, old: &Value, new: &Value) -> Result<(), Status> {
    let forbidden: Vec<&str> = changed_labels(old, new)
        .into_iter()
        .filter(|key| is_forbidden(key) && !registry.grants_label(node, key))
        .take(16)
        .collect();
    if forbidden.is_empty() {
        return Ok(());
    }
    Err(refusal(
        node,
        &format!("to modify labels: {}", forbidden.join(", ")),
    ))
}

fn refusal(node: &str, what: &str) -> Status {
    Status::forbidden(format!(
        "nodes \"{node}\" is forbidden: node \"{node}\" is not allowed {what}"
    ))
}

/// A node registers itself: taints it may bring along, as a kubelet's `--register-with-taints`; an address range of another not.
pub(super) fn created(registry: &Registry, node: &str, body: &Value) -> Result<(), Status> {
    check_labels(registry, node, &Value::Null, body)?;
    if body.pointer("/metadata/ownerReferences").is_some() {
        return Err(refusal(node, "to set owner references"));
    }
    let wanted = pod_networks(body);
    let (nodes, _) = registry.list(&kinds::NODE, None);
    // An agent that starts anew registers its node again, and is told that it is there.
    let others = nodes
        .iter()
        .filter(|other| other["metadata"]["name"] != node);
    let taken = others.flat_map(|other| pod_networks(other));
    if taken
        .into_iter()
        .any(|taken| wanted.iter().any(|wanted| wanted.overlaps(taken)))
    {
        return Err(refusal(node, "to take the pod network of another node"));
    }
    Ok(())
}

/// A node changes its own Node: labels that are not restricted and annotations. Its status has an endpoint of its own.
pub(super) fn changed(
    registry: &Registry,
    node: &str,
    current: &Value,
    changed: &Value,
) -> Result<(), Status> {
    check_labels(registry, node, current, changed)?;
    let fields = |pointer: &str| {
        let of = |object: &Value| -> BTreeSet<String> {
            let map = object.pointer(pointer).and_then(Value::as_object);
            map.into_iter()
                .flat_map(|map| map.keys().cloned())
                .collect()
        };
        &of(current) | &of(changed)
    };
    let metadata = ["ownerReferences", "finalizers"].map(str::to_owned);
    let all = fields("/spec")
        .into_iter()
        .map(|field| ("spec", field))
        .chain(metadata.map(|field| ("metadata", field)));
    for (part, field) in all {
        let value = |object: &'_ Value| {
            object[part]
                .get(&field)
                .filter(|value| !is_empty(value))
                .cloned()
        };
        if value(current) != value(changed) {
            return Err(refusal(node, &format!("to modify {part}.{field}")));
        }
    }
    Ok(())
}

/// Whether a field says the same as if it were absent.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A node reports of its pod: the pod's address is of the node's own pod network, unless the pod uses the node's.
pub(super) fn reported(
    registry: &Registry,
    node: &str,
    current: &Value,
    changed: &Value,
) -> Result<(), Status> {
    if current.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    let known = addresses(current);
    let mut new = addresses(changed)
        .into_iter()
        .filter(|address| !known.contains(address));
    if new.all(|address| is_of_node(registry, node, &address)) {
        return Ok(());
    }
    Err(refusal(
        node,
        "to report a pod's address that is not of its own pod network",
    ))
}

/// A node records what happens to its own pods and to itself. Events stay for an hour, so that there is a bound on how many it has.
pub(super) fn recorded(
    registry: &Registry,
    node: &str,
    current: Option<&Value>,
    event: &Value,
) -> Result<(), Status> {
    let refused = |what: &str| {
        Err(Status::forbidden(format!(
            "events is forbidden: node \"{node}\" is not allowed {what}"
        )))
    };
    let text = |object: &Value, pointer: &str| -> String {
        let text = object.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let own = |event: &Value| text(event, "/source/host") == node;
    if !own(event) || !current.is_none_or(own) {
        return refused("to record an Event whose source is not itself");
    }
    if !["Normal", "Warning"].contains(&text(event, "/type").as_str()) {
        return refused("to record an Event that is neither Normal nor Warning");
    }
    if event.to_string().len() > limits::EVENT_OF_NODE_BYTES {
        return refused("to record so long an Event");
    }
    let about = |field: &str| text(event, &format!("/involvedObject/{field}"));
    let (namespace, name) = (about("namespace"), about("name"));
    let its = match about("kind").as_str() {
        "Node" => name == node,
        // A pod may be gone by now.
        "Pod" => registry
            .get(&kinds::POD, Some(&namespace), &name)
            .map_or(true, |pod| text(&pod, "/spec/nodeName") == node),
        _ => false,
    };
    if !its {
        return refused("to record an Event about another's object");
    }
    if current.is_none() {
        let (events, _) = registry.list(&kinds::EVENT, None);
        if events.iter().filter(|event| own(event)).count() >= limits::EVENTS_OF_NODE {
            return Err(Status::too_many_requests(format!(
                "node \"{node}\" has {} Events already",
                limits::EVENTS_OF_NODE
            )));
        }
    }
    Ok(())
}

fn addresses(pod: &Value) -> Vec<String> {
    let ips = pod.pointer("/status/podIPs").and_then(Value::as_array);
    let ips = ips.into_iter().flatten().map(|entry| &entry["ip"]);
    pod.pointer("/status/podIP")
        .into_iter()
        .chain(ips)
        .filter_map(Value::as_str)
        .filter(|address| !address.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether the address is of the pod network that the node's Node has.
pub(in crate::orchestrator::api) fn is_of_node(
    registry: &Registry,
    node: &str,
    address: &str,
) -> bool {
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        return false;
    };
    let Ok(node) = registry.get(&kinds::NODE, None, node) else {
        return false;
    };
    pod_networks(&node)
        .iter()
        .any(|network| network.has(address))
}

#[derive(Debug, Clone, Copy)]
struct Network {
    address: u32,
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        let address = address.parse::<Ipv4Addr>().ok()?.to_bits();
        Some(Self { address, prefix })
    }

    fn has(self, address: Ipv4Addr) -> bool {
        self.same(address.to_bits(), self.prefix)
    }

    fn same(self, other: u32, prefix: u32) -> bool {
        prefix == 0 || (self.address ^ other) >> (32 - prefix) == 0
    }

    fn overlaps(self, other: Self) -> bool {
        self.same(other.address, self.prefix.min(other.prefix))
    }
}

fn pod_networks(node: &Value) -> Vec<Network> {
    let list = node.pointer("/spec/podCIDRs").and_then(Value::as_array);
    node.pointer("/spec/podCIDR")
        .into_iter()
        .chain(list.into_iter().flatten())
        .filter_map(|text| Network::parse(text.as_str()?))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::registry::tests::registry;

    #[test]
    fn labels_are_restricted_as_the_plug_in_restricts_them() {
        for allowed in [
            "zone",
            "example.com/zone",
            "notkubernetes.io/x",
            "kubernetes.io/hostname",
            "topology.kubernetes.io/zone",
            "node.kubernetes.io/anything",
            "sub.kubelet.kubernetes.io/x",
        ] {
            assert!(!is_forbidden(allowed), "{allowed}");
        }
        for forbidden in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/tier",
            "kubernetes.io/other",
            "k8s.io/x",
            "x.k8s.io/y",
        ] {
            assert!(is_forbidden(forbidden), "{forbidden}");
        }
    }

    #[tokio::test]
    async fn a_node_says_nothing_of_itself_that_attracts_pods_or_addresses() {
        let registry = registry().await;
        let node = |name: &str, network: &str| {
            json!({"metadata": {"name": name, "labels": {"zone": "a"}},
                "spec": {"podCIDR": network, "podCIDRs": [network], "taints": [{"key": "x", "effect": "NoSchedule"}]}})
        };
        let own = node("w1", "10.78.1.0/24");
        created(&registry, "w1", &own).expect("with its taints");
        registry
            .create(&kinds::NODE, None, own.clone())
            .await
            .expect("created");
        for network in [
            "10.78.1.0/24",
            "10.78.1.128/25",
            "10.78.0.0/16",
            "0.0.0.0/0",
        ] {
            assert!(
                created(&registry, "w2", &node("w2", network)).is_err(),
                "{network}"
            );
        }
        assert!(created(&registry, "w2", &node("w2", "10.78.2.0/24")).is_ok());
        let again = created(&registry, "w1", &node("w1", "10.78.1.0/24"));
        assert!(again.is_ok(), "an agent starts anew");
        let with = |pointer: &str, value: Value| {
            let mut other = own.clone();
            *other.pointer_mut(pointer).expect("there") = value;
            changed(&registry, "w1", &own, &other).map_or_else(|status| status.code, |()| 200)
        };
        assert_eq!(
            with(
                "/metadata/labels",
                json!({"zone": "b", "kubernetes.io/os": "linux"})
            ),
            200
        );
        let role = json!({"zone": "a", "node-role.kubernetes.io/control-plane": ""});
        assert_eq!(with("/metadata/labels", role), 403);
        let tier = json!({"zone": "a", "node-restriction.kubernetes.io/tier": "x"});
        assert_eq!(with("/metadata/labels", tier), 403);
        assert_eq!(with("/spec/taints", json!([])), 403);
        assert_eq!(with("/spec/podCIDR", json!("10.78.2.0/24")), 403);
        let mut cordoned = own["spec"].clone();
        cordoned["unschedulable"] = json!(false);
        assert_eq!(
            with("/spec", cordoned.clone()),
            200,
            "as it is, written otherwise"
        );
        cordoned["unschedulable"] = json!(true);
        assert_eq!(with("/spec", cordoned), 403);
    }

    #[tokio::test]
    async fn a_node_records_events_of_its_own_only() {
        let registry = registry().await;
        for (name, node) in [("mine", "w1"), ("other", "w2")] {
            let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
            registry
                .create(&kinds::POD, Some("default"), pod)
                .await
                .expect("created");
        }
        let event = |about: (&str, &str), host: &str, severity: &str| {
            json!({"metadata": {"generateName": "e-"}, "type": severity, "source": {"host": host},
                "involvedObject": {"kind": about.0, "name": about.1, "namespace": "default"}})
        };
        let code = |event: &Value| {
            recorded(&registry, "w1", None, event).map_or_else(|status| status.code, |()| 200)
        };
        let mine = event(("Pod", "mine"), "w1", "Normal");
        assert_eq!(code(&mine), 200);
        assert_eq!(code(&event(("Pod", "gone"), "w1", "Warning")), 200);
        assert_eq!(code(&event(("Node", "w1"), "w1", "Warning")), 200);
        for wrong in [
            event(("Pod", "other"), "w1", "Normal"),
            event(("Node", "w2"), "w1", "Normal"),
            event(("Secret", "s"), "w1", "Normal"),
            event(("Pod", "mine"), "w2", "Normal"),
            event(("Pod", "mine"), "w1", "Great"),
        ] {
            assert_eq!(code(&wrong), 403, "{wrong}");
        }
        let mut long = mine.clone();
        long["message"] = json!("x".repeat(limits::EVENT_OF_NODE_BYTES));
        assert_eq!(code(&long), 403);
        let others = event(("Pod", "mine"), "w2", "Normal");
        assert!(recorded(&registry, "w1", Some(&others), &mine).is_err());
        for _ in 0..limits::EVENTS_OF_NODE {
            registry
                .create(&kinds::EVENT, Some("default"), mine.clone())
                .await
                .expect("created");
        }
        assert_eq!(code(&mine), 429);
        assert!(
            recorded(&registry, "w1", Some(&mine), &mine).is_ok(),
            "counting goes on"
        );
    }

    #[tokio::test]
    async fn a_pod_has_an_address_of_its_node() {
        let registry = registry().await;
        let node = json!({"metadata": {"name": "w1"}, "spec": {"podCIDR": "10.78.1.0/24"}});
        registry
            .create(&kinds::NODE, None, node)
            .await
            .expect("created");
        let pod = |host: bool, address: &str| json!({"spec": {"hostNetwork": host}, "status": {"podIP": address, "podIPs": [{"ip": address}]}});
        let says =
            |host, address| reported(&registry, "w1", &pod(host, ""), &pod(host, address)).is_ok();
        assert!(says(false, "10.78.1.9") && says(true, "10.77.0.12"));
        assert!(!says(false, "10.78.2.9") && !says(false, "10.79.0.1") && !says(false, "fe80::1"));
        assert!(!is_of_node(&registry, "w2", "10.78.1.9"));
    }
}

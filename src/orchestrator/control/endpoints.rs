//! Endpoints and EndpointSlices of every Service with a selector.
//!
//! A pod is a ready address if it has an IP, is ready, is not terminating, its node beats, and its last liveness probe succeeded. If
//! no address would remain, silence of nodes and containers is ignored: an address that may answer is better than none. Slices hold terminating pods too (KEP-1669).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

use super::world::{
    Action, Decision, Liveness, Target, World, is_finished, node_of, ready_since, selects,
};
use crate::orchestrator::ANSWERS;

/// The label that marks Endpoints as ours, as Kubernetes 1.33 and later set it.
const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ENDPOINTS_CONTROLLER: &str = "endpoint-controller";
const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SLICE_CONTROLLER: &str = "endpointslice-controller.k8s.io";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Name, number and protocol of a target port.
type Port = (String, i32, String);

/// One pod behind a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Address {
    pod: String,
    uid: String,
    ip: String,
    /// By which it is found as `HOSTNAME.SERVICE`.
    hostname: Option<String>,
    node: String,
    ready: bool,
    serving: bool,
    terminating: bool,
}

/// The pods behind a Service, by the target ports they have.
type Groups = BTreeMap<Vec<Port>, Vec<Address>>;

pub(super) fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    for service in world
        .services
        .values()
        .filter(|service| service.metadata.deletion_timestamp.is_none())
    {
        let Some(spec) = &service.spec else { continue };
        let selector = spec.selector.clone().unwrap_or_default();
        if selector.is_empty() || spec.type_.as_deref() == Some("ExternalName") {
            continue;
        }
        let groups = groups(world, service, &selector);
        endpoints(world, service, &groups, &mut decision);
        slices(world, service, &groups, &mut decision);
    }
    for (key, endpoints) in &world.endpoints {
        let ours = label(&endpoints.metadata, ENDPOINTS_MANAGED_BY) == Some(ENDPOINTS_CONTROLLER);
        if ours && !world.services.contains_key(key) {
            decision.actions.push(Action::Delete {
                target: Target::of("Endpoints", &endpoints.metadata),
                force: false,
            });
        }
    }
    decision
}

fn groups(world: &World, service: &Service, selector: &BTreeMap<String, String>) -> Groups {
    let spec = service.spec.clone().unwrap_or_default();
    let namespace = service.metadata.namespace.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let tolerant = spec.publish_not_ready_addresses == Some(true);
    let mut groups = Groups::new();
    let inside = world
        .pods
        .range((namespace.clone(), String::new())..)
        .take_while(|(key, _)| key.0 == namespace);
    for pod in inside
        .map(|(_, pod)| pod)
        .filter(|pod| selects(selector, &pod.metadata) && !is_finished(pod))
    {
        let ip = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.clone())
            .filter(|ip| !ip.is_empty());
        let Some(ip) = ip else { continue };
        let node = node_of(pod).unwrap_or_default().to_owned();
        let serving = ready_since(pod).is_some() || tolerant;
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let beats = world.liveness_of(&node) < Liveness::Silent;
        groups
            .entry(target_ports(&ports, pod))
            .or_default()
            .push(Address {
                pod: pod.metadata.name.clone().unwrap_or_default(),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                ip,
                hostname: hostname(pod, service),
                node,
                ready: serving && !terminating && beats && answers(pod),
                serving,
                terminating,
            });
    }
    if !groups.values().flatten().any(|address| address.ready) {
        for address in groups.values_mut().flatten() {
            address.ready = address.serving && !address.terminating;
        }
    }
    for addresses in groups.values_mut() {
        addresses.sort();
    }
    groups
}

/// The pod's own name below the Service that is its subdomain, as pods of StatefulSets have one.
fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let below = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|_| below)
}

/// Whether its agent has seen no liveness probe fail last.
fn answers(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    !conditions
        .iter()
        .any(|condition| condition.type_ == ANSWERS && condition.status == "False")
}

/// The pod's own numbers for the Service's ports; a port it does not have is left out.
fn target_ports(ports: &[ServicePort], pod: &Pod) -> Vec<Port> {
    let containers = pod
        .spec
        .as_ref()
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default();
    let mut found: Vec<Port> = ports
        .iter()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let number = match &port.target_port {
                None | Some(IntOrString::Int(0)) => port.port,
                Some(IntOrString::Int(number)) => *number,
                Some(IntOrString::String(name)) => {
                    let mut declared = containers
                        .iter()
                        .flat_map(|container| container.ports.iter().flatten());
                    let same = declared.find(|declared| {
                        declared.name.as_ref() == Some(name)
                            && declared.protocol.as_deref().unwrap_or("TCP") == protocol
                    })?;
                    same.container_port
                }
            };
            Some((port.name.clone().unwrap_or_default(), number, protocol))
        })
        .collect();
    found.sort();
    found
}

fn endpoints(world: &World, service: &Service, groups: &Groups, decision: &mut Decision) {
    let target = Target::of("Endpoints", &service.metadata);
    let subsets: Vec<_> = groups
        .iter()
        .filter(|(ports, _)| {
            !ports.is_empty()
                || service
                    .spec
                    .as_ref()
                    .is_some_and(|spec| spec.ports.is_none())
        })
        .map(|(ports, addresses)| {
            let of = |ready: bool| -> Vec<Address> {
                addresses
                    .iter()
                    .filter(|address| !address.terminating && address.ready == ready)
                    .cloned()
                    .collect()
            };
            (ports.clone(), of(true), of(false))
        })
        .filter(|(_, ready, other)| !ready.is_empty() || !other.is_empty())
        .collect();
    let existing = world
        .endpoints
        .get(&(target.namespace.clone(), target.name.clone()));
    let wanted: Vec<_> = subsets
        .iter()
        .map(|(ports, ready, other)| (ports.clone(), identities(ready), identities(other)))
        .collect();
    if existing.is_some_and(|existing| shape_of_endpoints(existing) == wanted) {
        return;
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(
        ENDPOINTS_MANAGED_BY.to_owned(),
        ENDPOINTS_CONTROLLER.to_owned(),
    );
    let subsets: Vec<Value> = subsets
        .iter()
        .map(|(ports, ready, other)| {
            let mut subset = json!({"ports": ports.iter().map(port_value).collect::<Vec<_>>()});
            for (field, addresses) in [("addresses", ready), ("notReadyAddresses", other)] {
                if !addresses.is_empty() {
                    let values = addresses.iter().map(|address| {
                        let mut value = json!({"ip": address.ip, "nodeName": address.node, "targetRef": reference(&target.namespace, address)});
                        if let Some(hostname) = &address.hostname {
                            value["hostname"] = json!(hostname);
                        }
                        value
                    });
                    subset[field] = values.collect();
                }
            }
            subset
        })
        .collect();
    let object = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": target.name, "namespace": target.namespace, "labels": labels},
        "subsets": subsets,
    });
    put(
        "Endpoints",
        existing.map(|existing| &existing.metadata),
        &target,
        object,
        decision,
    );
}

fn slices(world: &World, service: &Service, groups: &Groups, decision: &mut Decision) {
    let target = Target::of("Service", &service.metadata);
    let mine = |slice: &EndpointSlice| {
        slice.metadata.namespace.as_ref() == Some(&target.namespace)
            && label(&slice.metadata, SERVICE_NAME) == Some(target.name.as_str())
            && label(&slice.metadata, SLICE_MANAGED_BY) == Some(SLICE_CONTROLLER)
    };
    let mut left: BTreeMap<&str, &EndpointSlice> = world
        .slices
        .values()
        .filter(|slice| mine(slice))
        .map(|slice| (slice.metadata.name.as_deref().unwrap_or_default(), &**slice))
        .collect();
    // Without pods the last slice stays, empty, so that its watchers see it change and not vanish.
    let mut wanted: Vec<(String, Vec<Port>, &[Address])> = groups
        .iter()
        .map(|(ports, addresses)| {
            (
                slice_name(&target.name, ports),
                ports.clone(),
                addresses.as_slice(),
            )
        })
        .collect();
    if let (true, Some((name, slice))) = (wanted.is_empty(), left.first_key_value()) {
        wanted.push(((*name).to_owned(), ports_of_slice(slice), &[]));
    }
    for (name, ports, addresses) in wanted {
        let existing = left.remove(name.as_str());
        if existing.is_some_and(|slice| shape_of_slice(slice) == (ports.clone(), states(addresses)))
        {
            continue;
        }
        let endpoints: Vec<Value> = addresses
            .iter()
            .map(|address| {
                let mut value = json!({
                    "addresses": [address.ip],
                    "conditions": {"ready": address.ready, "serving": address.serving, "terminating": address.terminating},
                    "nodeName": address.node,
                    "targetRef": reference(&target.namespace, address),
                });
                if let Some(hostname) = &address.hostname {
                    value["hostname"] = json!(hostname);
                }
                value
            })
            .collect();
        let slice_target = Target {
            kind: "EndpointSlice",
            name: name.clone(),
            ..target.clone()
        };
        let object = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": target.namespace,
                "labels": {SERVICE_NAME: target.name, SLICE_MANAGED_BY: SLICE_CONTROLLER},
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Service", "name": target.name, "uid": target.uid,
                    "controller": true, "blockOwnerDeletion": true,
                }],
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": ports.iter().map(port_value).collect::<Vec<_>>(),
        });
        put(
            "EndpointSlice",
            existing.map(|slice| &slice.metadata),
            &slice_target,
            object,
            decision,
        );
    }
    for slice in left.into_values() {
        decision.actions.push(Action::Delete {
            target: Target::of("EndpointSlice", &slice.metadata),
            force: false,
        });
    }
}

fn put(
    kind: &'static str,
    existing: Option<&ObjectMeta>,
    target: &Target,
    mut object: Value,
    decision: &mut Decision,
) {
    decision.actions.push(match existing {
        Some(metadata) => {
            let target = Target::of(kind, metadata);
            object["metadata"]["resourceVersion"] = json!(target.resource_version);
            object["metadata"]["uid"] = json!(target.uid);
            Action::Replace { target, object }
        }
        None => Action::Create {
            kind,
            namespace: target.namespace.clone(),
            object,
        },
    });
}

fn port_value((name, number, protocol): &Port) -> Value {
    if name.is_empty() {
        json!({"port": number, "protocol": protocol})
    } else {
        json!({"name": name, "port": number, "protocol": protocol})
    }
}

fn reference(namespace: &str, address: &Address) -> Value {
    json!({"kind": "Pod", "namespace": namespace, "name": address.pod, "uid": address.uid})
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(key))
        .map(String::as_str)
}

/// A slice's name follows from its ports, so that it never changes hands. FNV-1a; nothing depends on it being hard to guess.
fn slice_name(service: &str, ports: &[Port]) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in format!("{ports:?}").bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    let service = &service[..service.floor_char_boundary(57)];
    format!("{service}-{:05x}", hash & 0xf_ffff)
}

type Identity = (String, String, String);

fn identities(addresses: &[Address]) -> BTreeSet<Identity> {
    addresses
        .iter()
        .map(|address| {
            (
                address.ip.clone(),
                address.uid.clone(),
                address.node.clone(),
            )
        })
        .collect()
}

fn states(addresses: &[Address]) -> BTreeSet<(Identity, [bool; 3])> {
    let identity = |address: &Address| {
        (
            address.ip.clone(),
            address.uid.clone(),
            address.node.clone(),
        )
    };
    addresses
        .iter()
        .map(|address| {
            (
                identity(address),
                [address.ready, address.serving, address.terminating],
            )
        })
        .collect()
}

fn shape_of_endpoints(
    endpoints: &Endpoints,
) -> Vec<(Vec<Port>, BTreeSet<Identity>, BTreeSet<Identity>)> {
    let subsets = endpoints.subsets.iter().flatten();
    let mut shape: Vec<_> = subsets
        .map(|subset| {
            let ports = subset.ports.iter().flatten().map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
                (port.name.clone().unwrap_or_default(), port.port, protocol)
            });
            let of = |addresses: &Option<Vec<k8s_openapi::api::core::v1::EndpointAddress>>| {
                let identity = |address: &k8s_openapi::api::core::v1::EndpointAddress| {
                    let uid = address
                        .target_ref
                        .as_ref()
                        .and_then(|target| target.uid.clone())
                        .unwrap_or_default();
                    (
                        address.ip.clone(),
                        uid,
                        address.node_name.clone().unwrap_or_default(),
                    )
                };
                addresses.iter().flatten().map(identity).collect()
            };
            (
                sorted(ports),
                of(&subset.addresses),
                of(&subset.not_ready_addresses),
            )
        })
        .collect();
    shape.sort();
    shape
}

fn ports_of_slice(slice: &EndpointSlice) -> Vec<Port> {
    sorted(slice.ports.iter().flatten().map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        (
            port.name.clone().unwrap_or_default(),
            port.port.unwrap_or_default(),
            protocol,
        )
    }))
}

fn shape_of_slice(slice: &EndpointSlice) -> (Vec<Port>, BTreeSet<(Identity, [bool; 3])>) {
    let endpoints = slice.endpoints.iter().flatten();
    let states = endpoints.map(|endpoint| {
        let uid = endpoint
            .target_ref
            .as_ref()
            .and_then(|target| target.uid.clone())
            .unwrap_or_default();
        let ip = endpoint.addresses.first().cloned().unwrap_or_default();
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let flags = [conditions.ready, conditions.serving, conditions.terminating]
            .map(|flag| flag == Some(true));
        (
            (ip, uid, endpoint.node_name.clone().unwrap_or_default()),
            flags,
        )
    });
    (ports_of_slice(slice), states.collect())
}

fn sorted(ports: impl Iterator<Item = Port>) -> Vec<Port> {
    let mut ports: Vec<Port> = ports.collect();
    ports.sort();
    ports
}

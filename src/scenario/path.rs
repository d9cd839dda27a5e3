//! The path of a load: the pods that its requests pass through, and which of them a fault strikes.
//!
//! They are the pods behind the load's Service, and behind every Service that the scenario's deploy files name in that namespace. A
//! fault that strikes none of them proves nothing about the load.

use std::collections::{BTreeMap, BTreeSet};

use super::deploy::NAMESPACE;
use super::events::View;
use super::injection::Place;
use super::spec::{Load, Scenario};
use crate::kubernetes::manifest::{self, Manifest};
use crate::model::link::Port;
use crate::model::names::NodeName;

/// How the pods of one load's path are found.
#[derive(Debug, Clone)]
pub(super) struct LoadPath {
    /// The load's name.
    pub(super) load: String,
    namespace: String,
    service: String,
    selectors: Vec<BTreeMap<String, String>>,
}

impl LoadPath {
    /// The paths of all loads. Manifests were read before the run began; one that is gone since names no Service.
    pub(super) fn of(scenario: &Scenario) -> Vec<Self> {
        let manifests = manifest::load(&scenario.deploy.files).unwrap_or_default();
        let loads = scenario.loads.iter();
        loads
            .map(|(name, load)| Self::of_load(name, load, &manifests))
            .collect()
    }

    fn of_load(name: &str, load: &Load, manifests: &[Manifest]) -> Self {
        let services = manifests.iter().filter(|manifest| {
            manifest.kind.kind == "Service"
                && manifest.namespace(NAMESPACE) == load.url.namespace
                && load.url.namespace == NAMESPACE
        });
        let selector = |service: &Manifest| {
            let selector = service.value.pointer("/spec/selector")?.as_object()?;
            let labels = selector
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
            Some(labels.collect())
        };
        Self {
            load: name.to_owned(),
            namespace: load.url.namespace.clone(),
            service: load.url.host.clone(),
            selectors: services.filter_map(selector).collect(),
        }
    }

    /// The pods that are on it now, with the machine of each.
    pub(super) fn pods(&self, view: &View) -> BTreeMap<String, String> {
        let mut pods = view.endpoint_pods(&self.namespace, &self.service);
        for selector in &self.selectors {
            pods.extend(view.pods_with_node(selector));
        }
        pods
    }
}

/// Which of these pods are at a fault's place: they themselves, on the machine, or on machines whose links among each other or to the host are struck.
pub(super) fn struck(pods: &BTreeMap<String, String>, place: &Place) -> Vec<String> {
    let machines: BTreeSet<String> = match place {
        Place::Node(node) => BTreeSet::from([node.to_string()]),
        Place::Nodes(nodes) => nodes.iter().map(ToString::to_string).collect(),
        Place::Links(links) => {
            let on_path: BTreeSet<&String> = pods.values().collect();
            let nodes = on_path
                .into_iter()
                .filter_map(|name| name.parse::<NodeName>().ok())
                .map(Port::Node);
            let ports: Vec<Port> = nodes.chain([Port::Host]).collect();
            let struck = links.among(&ports);
            struck
                .into_iter()
                .flat_map(|(from, to)| [from, to])
                .filter_map(|port| match port {
                    Port::Node(node) => Some(node.to_string()),
                    Port::Host => None,
                })
                .collect()
        }
        Place::Pods(struck) => {
            let names = struck.iter().map(|pod| &pod.name);
            return names
                .filter(|name| pods.contains_key(*name))
                .cloned()
                .collect();
        }
    };
    let at_place = pods.iter().filter(|(_, node)| machines.contains(*node));
    at_place.map(|(pod, _)| pod.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::link::Links;
    use crate::scenario::injection::StruckPod;

    #[test]
    fn a_fault_strikes_the_pods_at_its_place() {
        let pods: BTreeMap<String, String> = [("a", "w1"), ("b", "w1"), ("c", "w2")]
            .map(|(pod, node)| (pod.to_owned(), node.to_owned()))
            .into();
        let node = |name: &str| name.parse::<NodeName>().unwrap();
        let port = |name: &str| name.parse::<Port>().unwrap();
        assert_eq!(struck(&pods, &Place::Node(node("w1"))), ["a", "b"]);
        assert_eq!(struck(&pods, &Place::Node(node("c1"))), [""; 0]);
        let nodes = Place::Nodes(vec![node("c1"), node("w2")]);
        assert_eq!(struck(&pods, &nodes), ["c"]);
        let between = |from: &str, to: &str| {
            Place::Links(Links::Between {
                from: Some(port(from)),
                to: Some(port(to)),
                both_directions: false,
            })
        };
        assert_eq!(struck(&pods, &between("w1", "w2")), ["a", "b", "c"]);
        assert_eq!(struck(&pods, &between("host", "w2")), ["c"]);
        // The controller serves nothing of the load.
        assert_eq!(struck(&pods, &between("c1", "w2")), [""; 0]);
        assert_eq!(struck(&BTreeMap::new(), &Place::Node(node("w1"))), [""; 0]);
        // Of pods that were struck, those that serve the load: not the others of their machines.
        let pod = |name: &str| StruckPod {
            name: name.to_owned(),
            uid: String::new(),
            node: node("w1"),
        };
        let place = Place::Pods(vec![pod("b"), pod("other")]);
        assert_eq!(struck(&pods, &place), ["b"]);
    }
}

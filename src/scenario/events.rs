//! The timeline of what the API server shows: nodes, endpoints, pods. Taken from watches, so times are when the host saw it.

mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, ReplicationController};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::hopeless::Hopeless;
use super::injection::StruckPod;
use super::live::{self, LiveSender, Seen};
use super::pod_target::PodsMeant;
use super::report::EventReport;
use crate::kubernetes::client::{Client, ListParams, Reflector};
use crate::model::names::NodeName;

/// A run keeps at most this many events.
const EVENTS_MAX: usize = 10_000;

/// By pod: its workload, and how often its containers were restarted.
pub type Restarts = BTreeMap<String, (String, u32)>;

/// Copies of what the scenario looks at: in its own namespace, among the Nodes, and the endpoints that its loads ask elsewhere.
pub struct View {
    nodes: Reflector<Node>,
    pods: Reflector<Pod>,
    endpoints: Reflector<Endpoints>,
    /// By namespace: of Services that are not the scenario's own. They are no part of the timeline.
    endpoints_elsewhere: BTreeMap<String, Reflector<Endpoints>>,
    controllers: Reflector<ReplicationController>,
    events: Arc<Mutex<Vec<EventReport>>>,
    restarts: Arc<Mutex<Restarts>>,
    _timeline: AbortOnDropHandle<()>,
}

/// What the timeline compares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Facts {
    nodes: BTreeMap<String, bool>,
    pods: BTreeMap<String, String>,
    places: BTreeMap<String, PodPlace>,
    endpoints: BTreeSet<String>,
}

/// Whose a pod is, where it runs, and how often its containers were started again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PodPlace {
    owner: Option<String>,
    node: Option<String>,
    address: Option<String>,
    restarts: BTreeMap<String, i32>,
}

impl View {
    /// Starts watching `namespace`, and the endpoints of those in `elsewhere`; event times are relative to `epoch`. What changes is
    /// told to whoever looks.
    #[must_use]
    pub fn start(
        client: &Client,
        (namespace, elsewhere): (&str, &BTreeSet<&str>),
        epoch: Instant,
        live: LiveSender,
    ) -> Self {
        let nodes = client.reflect::<Node>("", ListParams::all());
        let pods = client.reflect::<Pod>(namespace, ListParams::all());
        let endpoints = client.reflect::<Endpoints>(namespace, ListParams::all());
        let controllers = client.reflect::<ReplicationController>(namespace, ListParams::all());
        let endpoints_of = |namespace: &&str| {
            (
                (*namespace).to_owned(),
                client.reflect(namespace, ListParams::all()),
            )
        };
        let endpoints_elsewhere = elsewhere
            .iter()
            .filter(|other| **other != namespace)
            .map(endpoints_of)
            .collect();
        let events = Arc::new(Mutex::new(Vec::new()));
        let (mut node_changes, mut pod_changes, mut endpoint_changes) =
            (nodes.subscribe(), pods.subscribe(), endpoints.subscribe());
        let mut controller_changes = controllers.subscribe();
        let kept = Arc::clone(&events);
        let restarts = Arc::new(Mutex::new(Restarts::new()));
        let counted = Arc::clone(&restarts);
        let timeline = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut known = Facts::default();
            loop {
                let changed = tokio::select! {
                    changed = node_changes.changed() => changed,
                    changed = pod_changes.changed() => changed,
                    changed = endpoint_changes.changed() => changed,
                    changed = controller_changes.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
                // Each lock is held for a copy only: a second look at one while its writer waits would wait for ever.
                let nodes = node_changes.borrow().clone();
                let pods = pod_changes.borrow().clone();
                let endpoints = endpoint_changes.borrow().clone();
                let controllers = controller_changes.borrow().clone();
                let now = Facts {
                    nodes: nodes
                        .values()
                        .map(|node| (name(&node.metadata), node_ready(node)))
                        .collect(),
                    pods: pods
                        .values()
                        .map(|pod| (name(&pod.metadata), pod_state(pod)))
                        .collect(),
                    places: pods
                        .values()
                        .map(|pod| (name(&pod.metadata), pod_place(pod)))
                        .collect(),
                    endpoints: endpoints
                        .values()
                        .flat_map(|endpoints| addresses(endpoints))
                        .collect(),
                };
                let at_ms = u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
                note_restarts(
                    &mut counted.lock().unwrap_or_else(PoisonError::into_inner),
                    pods.values().map(AsRef::as_ref),
                );
                let mut events = kept.lock().unwrap_or_else(PoisonError::into_inner);
                for (kind, object) in changes(&known, &now) {
                    if events.len() < EVENTS_MAX {
                        let event = EventReport {
                            at_ms,
                            kind,
                            object,
                        };
                        live.tell(|| Seen::Event(event.clone()));
                        events.push(event);
                    }
                }
                live.tell(|| {
                    let pods = pods.values().map(AsRef::as_ref);
                    let controllers = controllers.values().map(AsRef::as_ref);
                    Seen::Facts(Box::new(live::Facts {
                        nodes: now.nodes.clone(),
                        workloads: workloads::of(pods, controllers),
                    }))
                });
                known = now;
            }
        }));
        Self {
            nodes,
            pods,
            endpoints,
            endpoints_elsewhere,
            controllers,
            events,
            restarts,
            _timeline: timeline,
        }
    }

    /// Waits until everything has been listed once.
    pub async fn wait_synced(&self) {
        tokio::join!(
            self.nodes.wait_synced(),
            self.pods.wait_synced(),
            self.endpoints.wait_synced(),
            self.controllers.wait_synced(),
            join_all(
                self.endpoints_elsewhere
                    .values()
                    .map(Reflector::wait_synced)
            ),
        );
    }

    /// Waits until something changes in the scenario's namespace or among the Nodes. Cancel-safe. Look again after a while all the same: a change just before the call is not seen.
    pub async fn changed(&self) {
        let (mut nodes, mut pods, mut endpoints, mut controllers) = (
            self.nodes.subscribe(),
            self.pods.subscribe(),
            self.endpoints.subscribe(),
            self.controllers.subscribe(),
        );
        // A new receiver takes what is there already for a change.
        nodes.mark_unchanged();
        pods.mark_unchanged();
        endpoints.mark_unchanged();
        controllers.mark_unchanged();
        // The senders live as long as `self`.
        tokio::select! {
            _ = nodes.changed() => {}
            _ = pods.changed() => {}
            _ = endpoints.changed() => {}
            _ = controllers.changed() => {}
        }
    }

    /// The events so far.
    #[must_use]
    pub fn events(&self) -> Vec<EventReport> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How many Nodes are Ready.
    #[must_use]
    pub fn nodes_ready(&self) -> usize {
        self.nodes
            .objects()
            .values()
            .filter(|node| node_ready(node))
            .count()
    }

    /// Ready replicas of a workload: of a ReplicationController as its status says, of any other its ready pods; 0 if there is none.
    #[must_use]
    pub fn replicas_ready(&self, namespace: &str, workload: &str) -> u32 {
        let Some(controller) = self.controllers.get(namespace, workload) else {
            return self.ready_by_workload().get(workload).copied().unwrap_or(0);
        };
        let ready = controller
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas);
        ready
            .and_then(|ready| u32::try_from(ready).ok())
            .unwrap_or(0)
    }

    /// Ready pods of a workload that run on other nodes than this one.
    #[must_use]
    pub fn replicas_ready_avoiding(
        &self,
        namespace: &str,
        workload: &str,
        avoided: Option<&NodeName>,
    ) -> u32 {
        let controller = self.controllers.get(namespace, workload);
        let selector = controller.and_then(|rc| rc.spec.as_ref()?.selector.clone());
        let belongs = |pod: &Pod| match &selector {
            Some(selector) => matches_labels(pod, selector),
            None => is_of(pod, workload),
        };
        let pods = self.pods.objects();
        let count = pods.values().filter(|pod| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            belongs(pod) && pod_ready(pod) && node != avoided.map(NodeName::as_str)
        });
        u32::try_from(count.count()).unwrap_or(u32::MAX)
    }

    /// Whether a Service has an endpoint.
    #[must_use]
    pub fn has_endpoint(&self, namespace: &str, service: &str) -> bool {
        let endpoints = self
            .endpoints_elsewhere
            .get(namespace)
            .unwrap_or(&self.endpoints);
        endpoints
            .get(namespace, service)
            .is_some_and(|endpoints| !addresses(&endpoints).is_empty())
    }

    /// Restarts so far, of pods that are gone too.
    #[must_use]
    pub fn restarts(&self) -> Restarts {
        self.restarts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Restarts by workload since `before`: by `kind/name`, and by plain names where these are unique.
    #[must_use]
    pub fn restarts_since(&self, before: &Restarts) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for (pod, (workload, count)) in self.restarts() {
            let known = before.get(&pod).map_or(0, |(_, known)| *known);
            *counts.entry(workload).or_insert(0) += count.saturating_sub(known);
        }
        with_plain_names(counts)
    }

    /// Ready replicas by workload: by `kind/name`, and by plain names where these are unique.
    #[must_use]
    pub fn ready_by_workload(&self) -> BTreeMap<String, u32> {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for pod in self.pods.objects().values() {
            if let Some(workload) = workload(pod) {
                *counts.entry(workload).or_insert(0) += u32::from(pod_ready(pod));
            }
        }
        for controller in self.controllers.objects().values() {
            let name = name(&controller.metadata);
            let namespace = controller.metadata.namespace.as_deref().unwrap_or_default();
            let ready = self.replicas_ready(namespace, &name);
            counts.insert(format!("replicationcontroller/{name}"), ready);
        }
        with_plain_names(counts)
    }

    /// The pods that this selector matches, with the node of each.
    #[must_use]
    pub fn pods_with_node(&self, selector: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let pods = self.pods.objects();
        let matching = pods.values().filter(|pod| {
            matches_labels(pod, selector) && pod.metadata.deletion_timestamp.is_none()
        });
        matching
            .filter_map(|pod| Some((name(&pod.metadata), pod.spec.as_ref()?.node_name.clone()?)))
            .collect()
    }

    /// The pods that run, of those that are meant.
    pub(super) fn running_pods(&self, meant: &PodsMeant) -> Vec<StruckPod> {
        let pods = self.pods.objects();
        let running = pods.values().filter(|pod| meant.holds(pod));
        running.filter_map(|pod| struck_pod(pod)).collect()
    }

    /// The pods behind a Service, with the node of each.
    #[must_use]
    pub fn endpoint_pods(&self, namespace: &str, service: &str) -> BTreeMap<String, String> {
        let of_namespace = self.endpoints_elsewhere.get(namespace);
        let Some(endpoints) = of_namespace
            .unwrap_or(&self.endpoints)
            .get(namespace, service)
        else {
            return BTreeMap::new();
        };
        let subsets = endpoints.subsets.iter().flatten();
        let addresses = subsets.flat_map(|subset| {
            let ready = subset.addresses.iter().flatten();
            ready.chain(subset.not_ready_addresses.iter().flatten())
        });
        addresses
            .filter_map(|address| {
                let pod = address.target_ref.as_ref()?.name.clone()?;
                Some((pod, address.node_name.clone()?))
            })
            .collect()
    }

    /// The nodes of the pods that this selector matches, with how many each runs.
    #[must_use]
    pub fn pods_by_node(&self, selector: &BTreeMap<String, String>) -> BTreeMap<String, usize> {
        let mut nodes = BTreeMap::new();
        for pod in self.pods.objects().values() {
            if matches_labels(pod, selector)
                && pod.metadata.deletion_timestamp.is_none()
                && let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone())
            {
                *nodes.entry(node).or_default() += 1;
            }
        }
        nodes
    }

    /// Pods that will not become ready: of these ReplicationControllers of a namespace, or of whatever made them.
    pub(super) fn hopeless(&self, of: Option<(&str, &[&str])>) -> Vec<Hopeless> {
        let selectors = of.map(|(namespace, names)| {
            let controllers = names.iter();
            controllers
                .filter_map(|name| self.controllers.get(namespace, name))
                .filter_map(|rc| rc.spec.as_ref()?.selector.clone())
                .collect::<Vec<_>>()
        });
        let all_nodes_ready = self.nodes.objects().values().all(|node| node_ready(node));
        let pods = self.pods.objects();
        let meant = pods.values().filter(|pod| {
            let matches = |selector: &BTreeMap<_, _>| matches_labels(pod, selector);
            let any = |selectors: &Vec<_>| selectors.iter().any(matches);
            selectors.as_ref().is_none_or(any)
        });
        meant
            .filter_map(|pod| Hopeless::of(pod, all_nodes_ready))
            .collect()
    }

    /// Pods that are not ready, each with why, for messages.
    #[must_use]
    pub fn pods_waiting(&self) -> Vec<String> {
        let pods = self.pods.objects();
        let waiting = pods.values().filter(|pod| !pod_ready(pod));
        waiting
            .map(|pod| format!("pod `{}`: {}", name(&pod.metadata), waiting_reason(pod)))
            .collect()
    }
}

/// Whether the pod has all these labels.
#[must_use]
pub fn matches_labels(pod: &Pod, selector: &BTreeMap<String, String>) -> bool {
    let labels = pod.metadata.labels.as_ref();
    !selector.is_empty()
        && selector
            .iter()
            .all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
}

fn name(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

/// A pod as a fault finds it; `None` if it does not run, or is on its way out.
fn struck_pod(pod: &Pod) -> Option<StruckPod> {
    let phase = pod.status.as_ref()?.phase.as_deref();
    if phase != Some("Running") || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    Some(StruckPod {
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
        node: pod.spec.as_ref()?.node_name.as_ref()?.parse().ok()?,
    })
}

pub(super) fn node_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    })
}

fn pod_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.is_some_and(|conditions| {
            conditions
                .iter()
                .any(|c| c.type_ == "Ready" && c.status == "True")
        })
}

/// `running` if it is ready, `terminating` when it was asked to stop, else the phase in lower case.
fn pod_state(pod: &Pod) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "terminating".to_owned();
    }
    if pod_ready(pod) {
        return "running".to_owned();
    }
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending");
    if phase == "Running" {
        "not_ready".to_owned()
    } else {
        phase.to_ascii_lowercase()
    }
}

fn pod_place(pod: &Pod) -> PodPlace {
    let owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.clone().find(|owner| owner.controller == Some(true));
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_ref());
    PodPlace {
        owner: owner.map(|owner| format!("{}/{}", owner.kind, owner.name)),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        address: status.and_then(|status| status.pod_ip.clone()),
        restarts: containers
            .into_iter()
            .flatten()
            .map(|container| (container.name.clone(), container.restart_count))
            .collect(),
    }
}

/// What became known of a pod, as an event's kind and the words after the pod's name.
fn place_changes(known: &PodPlace, now: &PodPlace) -> Vec<(&'static str, String)> {
    let mut changes = Vec::new();
    let facts = [
        ("pod.owned", &known.owner, &now.owner),
        ("pod.placed", &known.node, &now.node),
        ("pod.address", &known.address, &now.address),
    ];
    for (kind, before, after) in facts {
        if let Some(after) = after.as_ref().filter(|_| before != after) {
            changes.push((kind, after.clone()));
        }
    }
    for (container, count) in &now.restarts {
        let before = known.restarts.get(container);
        if before.is_some_and(|before| before < count) {
            changes.push(("pod.restarted", container.clone()));
        }
    }
    changes
}

/// Whether a pod is of this workload, by its name or by `kind/name`.
pub(super) fn is_of(pod: &Pod, name: &str) -> bool {
    workload(pod).is_some_and(|workload| {
        let plain = workload.split_once('/').map(|(_, plain)| plain);
        workload == name || plain == Some(name)
    })
}

/// What made a pod, as `kind/name`. A Deployment's ReplicaSet bears the hash of its pods' template.
fn workload(pod: &Pod) -> Option<String> {
    let owners = pod.metadata.owner_references.as_ref()?;
    let owner = owners.iter().find(|owner| owner.controller == Some(true))?;
    let hash = pod.metadata.labels.as_ref();
    let hash = hash.and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash.and_then(|hash| {
        let name = owner.name.strip_suffix(hash.as_str())?;
        name.strip_suffix('-')
    });
    Some(match (owner.kind.as_str(), deployment) {
        ("ReplicaSet", Some(deployment)) => format!("deployment/{deployment}"),
        (kind, _) => format!("{}/{}", kind.to_ascii_lowercase(), owner.name),
    })
}

fn note_restarts<'a>(restarts: &mut Restarts, pods: impl Iterator<Item = &'a Pod>) {
    for pod in pods {
        let Some(workload) = workload(pod) else {
            continue;
        };
        let statuses = pod.status.as_ref();
        let statuses = statuses.and_then(|status| status.container_statuses.as_ref());
        let count: i32 = statuses
            .into_iter()
            .flatten()
            .map(|s| s.restart_count)
            .sum();
        let count = u32::try_from(count).unwrap_or(0);
        let known = restarts
            .entry(name(&pod.metadata))
            .or_insert_with(|| (workload, 0));
        known.1 = known.1.max(count);
    }
}

/// Adds the plain names of those whose name no other kind has.
fn with_plain_names(mut counts: BTreeMap<String, u32>) -> BTreeMap<String, u32> {
    let mut plain: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (workload, count) in &counts {
        if let Some((_, name)) = workload.split_once('/') {
            plain.entry(name.to_owned()).or_default().push(*count);
        }
    }
    for (name, found) in plain {
        if let [count] = found[..] {
            counts.insert(name, count);
        }
    }
    counts
}

fn waiting_reason(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let containers = status
        .and_then(|status| status.container_statuses.clone())
        .unwrap_or_default();
    let waiting = containers
        .iter()
        .find_map(|container| container.state.as_ref()?.waiting.clone());
    if let Some(waiting) = waiting {
        let (reason, message) = (
            waiting.reason.unwrap_or_default(),
            waiting.message.unwrap_or_default(),
        );
        return format!("{reason} {message}").trim().to_owned();
    }
    let unscheduled = status
        .and_then(|status| status.conditions.as_ref())
        .and_then(|conditions| {
            conditions
                .iter()
                .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?
                .message
                .clone()
        });
    unscheduled.unwrap_or_else(|| pod_state(pod))
}

fn addresses(endpoints: &Endpoints) -> Vec<String> {
    let service = name(&endpoints.metadata);
    let subsets = endpoints.subsets.iter().flatten();
    subsets
        .flat_map(|subset| subset.addresses.iter().flatten())
        .map(|address| format!("{service} {}", address.ip))
        .collect()
}

fn changes(known: &Facts, now: &Facts) -> Vec<(String, String)> {
    let mut changes = Vec::new();
    let mut tell = |kind: &str, object: &str| changes.push((kind.to_owned(), object.to_owned()));
    for (node, ready) in &now.nodes {
        if known.nodes.get(node) != Some(ready) {
            tell(
                if *ready {
                    "node.ready"
                } else {
                    "node.not_ready"
                },
                node,
            );
        }
    }
    for node in known
        .nodes
        .keys()
        .filter(|node| !now.nodes.contains_key(*node))
    {
        tell("node.deleted", node);
    }
    for endpoint in known.endpoints.difference(&now.endpoints) {
        tell("endpoint.removed", endpoint);
    }
    for endpoint in now.endpoints.difference(&known.endpoints) {
        tell("endpoint.added", endpoint);
    }
    for (pod, state) in &now.pods {
        if known.pods.get(pod) != Some(state) {
            tell(&format!("pod.{state}"), pod);
        }
    }
    let nothing = PodPlace::default();
    for (pod, place) in &now.places {
        for (kind, what) in place_changes(known.places.get(pod).unwrap_or(&nothing), place) {
            tell(kind, &format!("{pod} {what}"));
        }
    }
    for pod in known.pods.keys().filter(|pod| !now.pods.contains_key(*pod)) {
        tell("pod.deleted", pod);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_told() {
        let facts = |ready: bool, pod: Option<&str>, endpoint: &[&str]| Facts {
            nodes: BTreeMap::from([("w1".to_owned(), ready)]),
            pods: pod
                .map(|state| ("a".to_owned(), state.to_owned()))
                .into_iter()
                .collect(),
            places: BTreeMap::new(),
            endpoints: endpoint.iter().map(|e| (*e).to_owned()).collect(),
        };
        let before = facts(true, Some("running"), &["web 10.78.1.2"]);
        assert_eq!(changes(&before, &before), []);
        let told: Vec<String> = changes(&before, &facts(false, None, &["web 10.78.2.2"]))
            .into_iter()
            .map(|(k, o)| format!("{k} {o}"))
            .collect();
        assert_eq!(
            told,
            [
                "node.not_ready w1",
                "endpoint.removed web 10.78.1.2",
                "endpoint.added web 10.78.2.2",
                "pod.deleted a"
            ]
        );
    }

    #[test]
    fn only_a_pod_that_runs_can_be_struck() {
        let pod = |status: serde_json::Value, deleted: Option<&str>| -> Pod {
            serde_json::from_value(serde_json::json!({
                "metadata": { "name": "a", "uid": "u", "deletionTimestamp": deleted },
                "spec": { "containers": [], "nodeName": "w1" },
                "status": status,
            }))
            .unwrap()
        };
        let running = serde_json::json!({ "phase": "Running" });
        assert!(struck_pod(&pod(running.clone(), None)).is_some());
        assert!(struck_pod(&pod(running, Some("2026-01-01T00:00:00Z"))).is_none());
        assert!(struck_pod(&pod(serde_json::json!({ "phase": "Pending" }), None)).is_none());
    }

    #[test]
    fn where_a_pod_runs_and_that_it_was_started_again_is_told_once() {
        let place = |node: Option<&str>, restarts: i32| PodPlace {
            owner: Some("ReplicationController/web".to_owned()),
            node: node.map(str::to_owned),
            address: None,
            restarts: BTreeMap::from([("php".to_owned(), restarts)]),
        };
        let kinds = |known: &PodPlace, now: &PodPlace| -> Vec<String> {
            place_changes(known, now)
                .into_iter()
                .map(|(kind, what)| format!("{kind} {what}"))
                .collect()
        };
        // A count that was there when the pod was first seen is no restart of this run.
        assert_eq!(
            kinds(&PodPlace::default(), &place(None, 3)),
            ["pod.owned ReplicationController/web"]
        );
        assert_eq!(
            kinds(&place(None, 3), &place(Some("w1"), 4)),
            ["pod.placed w1", "pod.restarted php"]
        );
        assert!(kinds(&place(Some("w1"), 4), &place(Some("w1"), 4)).is_empty());
    }
}

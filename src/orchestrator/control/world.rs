//! What controllers see and what they may ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta, OwnerReference,
};
use serde_json::{Value, json};

use super::nodes::Brake;
use crate::orchestrator::api::kinds;

/// Namespace (empty for kinds without one) and name.
pub type Key = (String, String);
/// All objects of a kind.
pub type Objects<K> = BTreeMap<Key, Arc<K>>;

/// Whether a node beats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It beats.
    Alive,
    /// It is silent: traffic avoids it.
    Suspect,
    /// It is silent for so long that it is not ready; nobody corroborates that it is lost.
    Silent,
    /// It is lost, which others corroborate: its pods are replaced.
    Lost,
}

/// Calls `$with!` with every kind that controllers read whole: the field of [`World`], the type (its whole path, so that nobody who
/// reads the list has to import it), and the constant of its kind.
/// Dependents stand before what may own them, so that a newborn child is never read without its owner. Of all other kinds
/// controllers see the metadata.
macro_rules! seen_whole {
    ($with:ident) => {
        $with! {
            pods: k8s_openapi::api::core::v1::Pod = POD;
            slices: k8s_openapi::api::discovery::v1::EndpointSlice = ENDPOINT_SLICE;
            endpoints: k8s_openapi::api::core::v1::Endpoints = ENDPOINTS;
            replication_controllers: k8s_openapi::api::core::v1::ReplicationController = REPLICATION_CONTROLLER;
            controller_revisions: k8s_openapi::api::apps::v1::ControllerRevision = CONTROLLER_REVISION;
            stateful_sets: k8s_openapi::api::apps::v1::StatefulSet = STATEFUL_SET;
            daemon_sets: k8s_openapi::api::apps::v1::DaemonSet = DAEMON_SET;
            jobs: k8s_openapi::api::batch::v1::Job = JOB;
            cron_jobs: k8s_openapi::api::batch::v1::CronJob = CRON_JOB;
            replica_sets: k8s_openapi::api::apps::v1::ReplicaSet = REPLICA_SET;
            deployments: k8s_openapi::api::apps::v1::Deployment = DEPLOYMENT;
            disruption_budgets: k8s_openapi::api::policy::v1::PodDisruptionBudget = POD_DISRUPTION_BUDGET;
            services: k8s_openapi::api::core::v1::Service = SERVICE;
            nodes: k8s_openapi::api::core::v1::Node = NODE;
            namespaces: k8s_openapi::api::core::v1::Namespace = NAMESPACE;
        }
    };
}
pub(super) use seen_whole;

macro_rules! world {
    ($($field:ident: $type:ty = $kind:ident;)*) => {
        /// A snapshot of the cluster at one revision.
        #[derive(Debug, Clone, Default)]
        pub struct World {
            /// Current time.
            pub now: Timestamp,
            $(
                #[doc = concat!("Every ", stringify!($type), ".")]
                pub $field: Objects<$type>,
            )*
            /// Metadata of all objects of all other kinds, by kind.
            pub others: Vec<(&'static str, Arc<ObjectMeta>)>,
            /// Nodes that do not beat; a node that is missing here is alive.
            pub liveness: BTreeMap<String, Liveness>,
            /// When evictions stop.
            pub brake: Brake,
            /// The cluster's certificate authority as PEM.
            pub root_ca: Arc<str>,
        }

        impl World {
            /// The metadata of every object, with its kind.
            pub fn all_metadata(&self) -> impl Iterator<Item = (&'static str, &ObjectMeta)> {
                std::iter::empty()
                    $(.chain(self.$field.values().map(|object| (kinds::$kind.kind, &object.metadata))))*
                    .chain(self.others.iter().map(|(kind, metadata)| (*kind, &**metadata)))
            }
        }
    };
}
seen_whole!(world);

/// Something to do through the API.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Create an object.
    Create {
        /// Kind.
        kind: &'static str,
        /// Namespace, empty if the kind has none.
        namespace: String,
        /// The object.
        object: Value,
    },
    /// Merge into an object: into its status strategically, so that conditions are merged by type; into the rest by RFC 7386, if
    /// it still is as it was seen.
    Patch {
        /// Which object.
        target: Target,
        /// Its status, not the rest.
        status: bool,
        /// The patch.
        patch: Value,
    },
    /// Replace an object; it carries the resource version that was seen.
    Replace {
        /// Which object.
        target: Target,
        /// The object.
        object: Value,
    },
    /// Delete an object.
    Delete {
        /// Which object.
        target: Target,
        /// At once, without grace.
        force: bool,
    },
    /// Let go of a namespace that is empty.
    FinalizeNamespace(Target),
    /// Give a pod a node.
    Bind {
        /// Which pod.
        target: Target,
        /// The node's name.
        node: String,
    },
}

/// One object, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Kind.
    pub kind: &'static str,
    /// Namespace, empty if the kind has none.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID, so that a namesake is left alone.
    pub uid: String,
    /// Revision that was seen.
    pub resource_version: String,
}

/// What a controller wants, and when it wants to look again even if nothing changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// What to do.
    pub actions: Vec<Action>,
    /// When to look again.
    pub recheck: Option<Timestamp>,
}

impl Decision {
    /// Takes another decision in.
    pub fn merge(&mut self, other: Self) {
        self.actions.extend(other.actions);
        if let Some(at) = other.recheck {
            self.recheck_at(at);
        }
    }

    /// Wants to look again at that hour.
    pub fn recheck_at(&mut self, at: Timestamp) {
        self.recheck = Some(self.recheck.map_or(at, |earlier| earlier.min(at)));
    }
}

impl Target {
    /// The target that an object's metadata name.
    pub fn of(kind: &'static str, metadata: &ObjectMeta) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            kind,
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
            uid: text(&metadata.uid),
            resource_version: text(&metadata.resource_version),
        }
    }
}

impl Target {
    /// `apiVersion` of its kind.
    pub fn api_version(&self) -> String {
        kinds::named(self.kind).map_or_else(|| "v1".to_owned(), |kind| kind.api_version())
    }

    /// A reference by which it owns and controls another object.
    pub(super) fn owner_reference(&self) -> Value {
        json!({
            "apiVersion": self.api_version(),
            "kind": self.kind,
            "name": self.name,
            "uid": self.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        })
    }
}

impl World {
    /// How a node fares.
    pub fn liveness_of(&self, node: &str) -> Liveness {
        self.liveness.get(node).copied().unwrap_or(Liveness::Alive)
    }

    /// Whether there is such an object of a kind of which only the metadata are seen.
    pub(super) fn has(&self, kind: &str, namespace: &str, name: &str) -> bool {
        self.others.iter().any(|(known, metadata)| {
            *known == kind
                && metadata.namespace.as_deref() == Some(namespace)
                && metadata.name.as_deref() == Some(name)
        })
    }

    /// The pods of a namespace, by name.
    pub(super) fn pods_in(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        within(&self.pods, namespace)
    }
}

/// The objects of a namespace, by name.
pub(super) fn within<'a, K>(
    objects: &'a Objects<K>,
    namespace: &str,
) -> impl Iterator<Item = &'a K> + use<'a, K> {
    let namespace = namespace.to_owned();
    objects
        .range((namespace.clone(), String::new())..)
        .take_while(move |(key, _)| key.0 == namespace)
        .map(|(_, object)| &**object)
}

/// The owner that controls an object.
pub(super) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// Whether the labels satisfy an equality selector; an empty selector selects nothing.
pub(super) fn selects(selector: &BTreeMap<String, String>, metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    !selector.is_empty()
        && selector.iter().all(|(key, value)| {
            labels
                .and_then(|labels| labels.get(key))
                .is_some_and(|found| found == value)
        })
}

/// Whether the labels satisfy a LabelSelector; an empty one selects everything.
pub(super) fn label_selector_selects(selector: &LabelSelector, metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    let found = |key: &String| labels.and_then(|labels| labels.get(key));
    let expression = |wanted: &LabelSelectorRequirement| {
        let listed = found(&wanted.key)
            .is_some_and(|found| wanted.values.iter().flatten().any(|value| value == found));
        match wanted.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => found(&wanted.key).is_some(),
            "DoesNotExist" => found(&wanted.key).is_none(),
            _ => false,
        }
    };
    selector
        .match_labels
        .iter()
        .flatten()
        .all(|(key, value)| found(key) == Some(value))
        && selector.match_expressions.iter().flatten().all(expression)
}

/// Neither finished nor on its way out.
pub(super) fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !is_finished(pod)
}

/// Its containers have ended for good.
pub(super) fn is_finished(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// `status.phase`, `Pending` if there is none.
pub(super) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// The node a pod is bound to.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .filter(|name| !name.is_empty())
}

/// Since when a pod is ready, if it is.
pub(super) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(
        ready
            .last_transition_time
            .as_ref()
            .map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    )
}

/// A v1 Event about an object.
pub(super) fn event(
    now: Timestamp,
    target: &Target,
    component: &str,
    reason: &str,
    message: &str,
) -> Action {
    let warning =
        reason.starts_with("Failed") || reason.contains("Not") || reason.contains("Evict");
    let namespace = if target.namespace.is_empty() {
        "default"
    } else {
        &target.namespace
    };
    let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Action::Create {
        kind: "Event",
        namespace: namespace.to_owned(),
        object: json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": format!("{}.", target.name), "namespace": namespace},
            "involvedObject": {
                "apiVersion": target.api_version(), "kind": target.kind, "namespace": target.namespace, "name": target.name, "uid": target.uid,
            },
            "reason": reason,
            "message": message,
            "type": if warning { "Warning" } else { "Normal" },
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }),
    }
}

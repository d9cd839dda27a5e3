//! The kinds that are served, for code that handles objects as plain JSON.
//!
//! The identity of a kind stands here, once, on one line of [`every_kind`]; the API server adds the kind's strategy, from the
//! file that the line names. Everything else (manifests, listing, the reset between scenarios, discovery, garbage collection)
//! follows from these lines.

use k8s_openapi::Resource;

/// Where objects of one kind live in the API, and what people call them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKind {
    /// API group, empty for the core group.
    pub group: &'static str,
    /// API version within the group, for instance `v1`.
    pub version: &'static str,
    /// The kind, for instance `ReplicationController`.
    pub kind: &'static str,
    /// Its path segment, for instance `replicationcontrollers`.
    pub plural: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Short names that kubectl accepts.
    pub short: &'static [&'static str],
    /// Whether kubectl's category `all` has it.
    pub in_all: bool,
    /// Whether the cluster itself keeps these objects, so that a user's clean-up leaves them alone.
    pub kept_by_cluster: bool,
}

/// Calls `$with!` with every kind: the name of its module, the name of its constant, and its identity. They are in the order in
/// which they are listed to people.
macro_rules! every_kind {
    ($with:ident) => {
        $with! {
            namespace NAMESPACE = core("Namespace", "namespaces", &["ns"]).cluster_wide();
            node NODE = core("Node", "nodes", &["no"]).cluster_wide();
            pod POD = core("Pod", "pods", &["po"]).in_all();
            replication_controller REPLICATION_CONTROLLER = core("ReplicationController", "replicationcontrollers", &["rc"]).in_all();
            deployment DEPLOYMENT = of("apps/v1", "Deployment", "deployments", &["deploy"]).in_all();
            replica_set REPLICA_SET = of("apps/v1", "ReplicaSet", "replicasets", &["rs"]).in_all();
            stateful_set STATEFUL_SET = of("apps/v1", "StatefulSet", "statefulsets", &["sts"]).in_all();
            daemon_set DAEMON_SET = of("apps/v1", "DaemonSet", "daemonsets", &["ds"]).in_all();
            cron_job CRON_JOB = of("batch/v1", "CronJob", "cronjobs", &["cj"]).in_all();
            job JOB = of("batch/v1", "Job", "jobs", &[]).in_all();
            controller_revision CONTROLLER_REVISION = of("apps/v1", "ControllerRevision", "controllerrevisions", &[]).kept_by_cluster();
            pod_disruption_budget POD_DISRUPTION_BUDGET = of("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"]);
            service SERVICE = core("Service", "services", &["svc"]).in_all();
            endpoints ENDPOINTS = core("Endpoints", "endpoints", &["ep"]).kept_by_cluster();
            endpoint_slice ENDPOINT_SLICE = of("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", &[]).kept_by_cluster();
            secret SECRET = core("Secret", "secrets", &[]);
            config_map CONFIG_MAP = core("ConfigMap", "configmaps", &["cm"]);
            service_account SERVICE_ACCOUNT = core("ServiceAccount", "serviceaccounts", &["sa"]);
            role ROLE = of("rbac.authorization.k8s.io/v1", "Role", "roles", &[]);
            role_binding ROLE_BINDING = of("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings", &[]);
            cluster_role CLUSTER_ROLE = of("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", &[]).cluster_wide();
            cluster_role_binding CLUSTER_ROLE_BINDING = of("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", &[]).cluster_wide();
            ingress INGRESS = of("networking.k8s.io/v1", "Ingress", "ingresses", &["ing"]);
            ingress_class INGRESS_CLASS = of("networking.k8s.io/v1", "IngressClass", "ingressclasses", &[]).cluster_wide();
            network_policy NETWORK_POLICY = of("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", &["netpol"]);
            persistent_volume PERSISTENT_VOLUME = core("PersistentVolume", "persistentvolumes", &["pv"]).cluster_wide();
            persistent_volume_claim PERSISTENT_VOLUME_CLAIM = core("PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"]);
            storage_class STORAGE_CLASS = of("storage.k8s.io/v1", "StorageClass", "storageclasses", &["sc"]).cluster_wide();
            horizontal_pod_autoscaler HORIZONTAL_POD_AUTOSCALER = of("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"]).in_all();
            resource_quota RESOURCE_QUOTA = core("ResourceQuota", "resourcequotas", &["quota"]);
            limit_range LIMIT_RANGE = core("LimitRange", "limitranges", &["limits"]);
            priority_class PRIORITY_CLASS = of("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", &["pc"]).cluster_wide();
            custom_resource_definition CUSTOM_RESOURCE_DEFINITION = of("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", &["crd", "crds"]).cluster_wide();
            event EVENT = core("Event", "events", &["ev"]).kept_by_cluster();
            lease LEASE = of("coordination.k8s.io/v1", "Lease", "leases", &[]).kept_by_cluster();
        }
    };
}
pub(crate) use every_kind;

macro_rules! identities {
    ($($module:ident $name:ident = $identity:expr;)*) => {
        $(
            #[doc = concat!("See `", stringify!($module), "`.")]
            pub static $name: ResourceKind = $identity;
        )*

        /// Every kind that is served, in the order in which they are listed to people.
        pub static RESOURCES: &[&ResourceKind] = &[$(&$name),*];
    };
}
every_kind!(identities);

const fn core(
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
) -> ResourceKind {
    of("v1", kind, plural, short)
}

/// A kind of this `apiVersion`.
const fn of(
    api_version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
) -> ResourceKind {
    let (group, version) = split(api_version);
    ResourceKind {
        group,
        version,
        kind,
        plural,
        namespaced: true,
        short,
        in_all: false,
        kept_by_cluster: false,
    }
}

const fn split(api_version: &'static str) -> (&'static str, &'static str) {
    let bytes = api_version.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'/' {
            let (group, rest) = api_version.split_at(at);
            return (group, rest.split_at(1).1);
        }
        at += 1;
    }
    ("", api_version)
}

/// The kind with this `apiVersion` and `kind`, as they are written in manifests.
pub fn resource_for(api_version: &str, kind: &str) -> Option<ResourceKind> {
    RESOURCES
        .iter()
        .find(|resource| resource.kind == kind && resource.api_version() == api_version)
        .map(|resource| (*resource).clone())
}

/// The kind that a person calls `name`: kind, plural, singular or short name, in any case.
pub fn resource_named(name: &str) -> Option<ResourceKind> {
    let name = name.to_ascii_lowercase();
    RESOURCES
        .iter()
        .find(|resource| {
            resource.plural == name
                || resource.kind.to_ascii_lowercase() == name
                || resource.short.contains(&name.as_str())
        })
        .map(|resource| (*resource).clone())
}

impl ResourceKind {
    const fn cluster_wide(self) -> Self {
        Self {
            namespaced: false,
            ..self
        }
    }

    const fn in_all(self) -> Self {
        Self {
            in_all: true,
            ..self
        }
    }

    const fn kept_by_cluster(self) -> Self {
        Self {
            kept_by_cluster: true,
            ..self
        }
    }

    /// The kind of a typed object.
    pub fn of<K: Resource>() -> Self {
        resource_for(K::API_VERSION, K::KIND).unwrap_or(Self {
            group: K::GROUP,
            version: K::VERSION,
            kind: K::KIND,
            plural: K::URL_PATH_SEGMENT,
            namespaced: true,
            short: &[],
            in_all: false,
            kept_by_cluster: false,
        })
    }

    /// `pod`, as people write it.
    pub fn singular(&self) -> String {
        self.kind.to_ascii_lowercase()
    }

    /// `pods`, `leases.coordination.k8s.io`: as messages name it.
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// `apiVersion` as manifests write it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// URL path of the collection, in all namespaces if `namespace` is empty.
    pub fn collection_path(&self, namespace: &str) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if namespace.is_empty() || !self.namespaced {
            format!("{root}/{}", self.plural)
        } else {
            format!("{root}/namespaces/{namespace}/{}", self.plural)
        }
    }

    /// URL path of one object, or of one of its subresources.
    pub fn object_path(&self, namespace: &str, name: &str, subresource: Option<&str>) -> String {
        let collection = self.collection_path(namespace);
        match subresource {
            Some(subresource) => format!("{collection}/{name}/{subresource}"),
            None => format!("{collection}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Node, Pod};
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    use super::*;

    #[test]
    fn paths_are_those_of_kubernetes() {
        assert_eq!(
            ResourceKind::of::<Pod>().collection_path(""),
            "/api/v1/pods"
        );
        assert_eq!(
            ResourceKind::of::<Pod>().object_path("a", "b", Some("status")),
            "/api/v1/namespaces/a/pods/b/status"
        );
        assert_eq!(
            ResourceKind::of::<Node>().object_path("ignored", "w1", None),
            "/api/v1/nodes/w1"
        );
        assert_eq!(
            ResourceKind::of::<EndpointSlice>().collection_path("x"),
            "/apis/discovery.k8s.io/v1/namespaces/x/endpointslices"
        );
    }

    #[test]
    fn people_may_use_any_name() {
        for name in [
            "rc",
            "ReplicationController",
            "replicationcontrollers",
            "replicationcontroller",
        ] {
            assert_eq!(
                resource_named(name).map(|resource| resource.kind),
                Some("ReplicationController"),
                "{name}"
            );
        }
        assert_eq!(resource_named("nothing"), None);
    }
}

//! The kinds the API serves, in one table: routes, discovery, tables and storage keys are derived from it.

/// How an object may be reached besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: what controllers report.
    Status,
    /// `scale`: autoscaling/v1 Scale.
    Scale,
    /// `binding`: a pod is given a node.
    Binding,
    /// `log`: a container's output.
    Log,
}

impl Subresource {
    /// As it stands in a path.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Log => "log",
        }
    }
}

/// One kind of object. Compare kinds by `group` and `plural`.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version in the group.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Subresources.
    pub subresources: &'static [Subresource],
    /// Whether kubectl's category `all` has it.
    pub in_all: bool,
}

impl Kind {
    /// `v1`, `coordination.k8s.io/v1`.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `pods`, `leases.coordination.k8s.io`: as messages name it.
    #[must_use]
    pub fn resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Below this prefix the store keeps the kind, or one namespace of it.
    #[must_use]
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let group = if self.group.is_empty() {
            "core"
        } else {
            self.group
        };
        match namespace {
            Some(namespace) if self.namespaced => {
                format!("/registry/{group}/{}/{namespace}/", self.plural)
            }
            _ => format!("/registry/{group}/{}/", self.plural),
        }
    }

    /// The store's key of one object.
    #[must_use]
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}{name}", self.prefix(namespace))
    }

    /// Whether it has this subresource.
    #[must_use]
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Whether it is this kind.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.group == other.group && self.plural == other.plural
    }
}

const CORE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    namespaced: true,
    subresources: &[],
    in_all: false,
};

/// v1 Namespace.
pub static NAMESPACE: Kind = Kind {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    namespaced: false,
    subresources: &[Subresource::Status],
    ..CORE
};
/// v1 Node.
pub static NODE: Kind = Kind {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    namespaced: false,
    subresources: &[Subresource::Status],
    ..CORE
};
/// v1 Pod.
pub static POD: Kind = Kind {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    subresources: &[Subresource::Status, Subresource::Binding, Subresource::Log],
    in_all: true,
    ..CORE
};
/// v1 ReplicationController.
pub static REPLICATION_CONTROLLER: Kind = Kind {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    subresources: &[Subresource::Status, Subresource::Scale],
    in_all: true,
    ..CORE
};
/// v1 Service.
pub static SERVICE: Kind = Kind {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    subresources: &[Subresource::Status],
    in_all: true,
    ..CORE
};
/// v1 Endpoints.
pub static ENDPOINTS: Kind = Kind {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    ..CORE
};
/// v1 Secret.
pub static SECRET: Kind = Kind {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    ..CORE
};
/// v1 ConfigMap.
pub static CONFIG_MAP: Kind = Kind {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    ..CORE
};
/// v1 Event.
pub static EVENT: Kind = Kind {
    kind: "Event",
    plural: "events",
    singular: "event",
    short_names: &["ev"],
    ..CORE
};
/// v1 ServiceAccount.
pub static SERVICE_ACCOUNT: Kind = Kind {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    ..CORE
};
/// coordination.k8s.io/v1 Lease.
pub static LEASE: Kind = Kind {
    group: "coordination.k8s.io",
    kind: "Lease",
    plural: "leases",
    singular: "lease",
    ..CORE
};
/// discovery.k8s.io/v1 EndpointSlice.
pub static ENDPOINT_SLICE: Kind = Kind {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    ..CORE
};

/// Every kind, in the order discovery prints them.
pub static ALL: &[&Kind] = &[
    &CONFIG_MAP,
    &ENDPOINTS,
    &EVENT,
    &NAMESPACE,
    &NODE,
    &POD,
    &REPLICATION_CONTROLLER,
    &SECRET,
    &SERVICE_ACCOUNT,
    &SERVICE,
    &LEASE,
    &ENDPOINT_SLICE,
];

/// The kind served at this group, version and plural.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter()
        .copied()
        .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

//! The kinds that are served, for code that handles objects as plain JSON.

use k8s_openapi::Resource;

/// Where objects of one kind live in the API.
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
}

const fn core(
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
) -> ResourceKind {
    ResourceKind {
        group: "",
        version: "v1",
        kind,
        plural,
        namespaced: true,
        short,
    }
}

/// Every kind that is served, in the order in which they are listed to people.
pub const RESOURCES: &[ResourceKind] = &[
    ResourceKind {
        namespaced: false,
        ..core("Namespace", "namespaces", &["ns"])
    },
    ResourceKind {
        namespaced: false,
        ..core("Node", "nodes", &["no"])
    },
    core("Pod", "pods", &["po"]),
    core("ReplicationController", "replicationcontrollers", &["rc"]),
    core("Service", "services", &["svc"]),
    core("Endpoints", "endpoints", &["ep"]),
    ResourceKind {
        group: "discovery.k8s.io",
        ..core("EndpointSlice", "endpointslices", &[])
    },
    core("Secret", "secrets", &[]),
    core("ConfigMap", "configmaps", &["cm"]),
    core("Event", "events", &["ev"]),
    ResourceKind {
        group: "coordination.k8s.io",
        ..core("Lease", "leases", &[])
    },
];

/// The kind with this `apiVersion` and `kind`, as they are written in manifests.
pub fn resource_for(api_version: &str, kind: &str) -> Option<ResourceKind> {
    RESOURCES
        .iter()
        .find(|resource| resource.kind == kind && resource.api_version() == api_version)
        .cloned()
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
        .cloned()
}

impl ResourceKind {
    /// The kind of a typed object.
    pub fn of<K: Resource>() -> Self {
        resource_for(K::API_VERSION, K::KIND).unwrap_or(Self {
            group: K::GROUP,
            version: K::VERSION,
            kind: K::KIND,
            plural: K::URL_PATH_SEGMENT,
            namespaced: true,
            short: &[],
        })
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

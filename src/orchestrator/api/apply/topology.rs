//! How values of Kubernetes' types are owned: field by field, element by element, or as one (`listType`, `listMapKey` and
//! `mapType` in k8s.io/api). Fields come from the table of messages; what differs from the rule stands here.

use crate::orchestrator::api::custom::{Definition, Elements, Layout};
use crate::orchestrator::api::kinds::Kind;
use crate::orchestrator::api::protobuf::schema::{self, Shape, Type};

/// How a value is owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orchestrator::api) enum Topology<'a> {
    /// As one.
    Whole,
    /// An object, by the fields of this message.
    Message(&'static str),
    /// An object of plain values, each by itself.
    Map,
    /// A list of different plain values, each by itself.
    Set,
    /// A list of messages, each by the value of these fields.
    Keyed(&'static [&'static str], &'static str),
    /// A whole object without a message: its metadata are known, and its layout if it is of a definition.
    Object(Option<Layout<'a>>),
    /// A part of one.
    Custom(Layout<'a>),
    /// Nothing is known: objects by their fields, lists as one.
    Unknown,
}

/// Lists whose elements are owned one by one, in every message that has such a field. Containers' ports have another key.
const KEYED: &[(&str, &[&str])] = &[
    ("addresses", &["type"]),
    ("claims", &["name"]),
    ("conditions", &["type"]),
    ("containers", &["name"]),
    ("env", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    ("podIPs", &["ip"]),
    ("resourceClaims", &["name"]),
    ("schedulingGates", &["name"]),
    ("secrets", &["name"]),
    (
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    ("volumeDevices", &["devicePath"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];
const CONTAINER_PORTS: &[&str] = &["containerPort", "protocol"];
const SERVICE_PORTS: &[&str] = &["port", "protocol"];

/// Of the fields above, those that are owned as one.
const WHOLE_LISTS: &[(&str, &str)] = &[
    ("batch.JobStatus", "conditions"),
    ("core.ServiceAccount", "imagePullSecrets"),
    ("core.EndpointSubset", "addresses"),
];

/// Lists of plain values that are owned one by one.
const SETS: &[(&str, &str)] = &[
    ("core.NodeSpec", "podCIDRs"),
    ("meta.ObjectMeta", "finalizers"),
];

/// Maps of plain values that are owned as one.
const WHOLE_MAPS: &[(&str, &str)] = &[
    ("core.PodSpec", "nodeSelector"),
    ("core.ReplicationControllerSpec", "selector"),
    ("core.ServiceSpec", "selector"),
];

/// Messages that are owned as one.
const WHOLE_MESSAGES: &[&str] = &[
    "core.ConfigMapKeySelector",
    "core.LocalObjectReference",
    "core.NodeSelector",
    "core.NodeSelectorTerm",
    "core.ObjectFieldSelector",
    "core.ObjectReference",
    "core.ResourceFieldSelector",
    "core.SecretKeySelector",
    "core.SecretReference",
    "core.TypedLocalObjectReference",
    "meta.LabelSelector",
    "rbac.RoleRef",
    "rbac.Subject",
];

/// The topology of a kind's objects, which may be of a definition.
pub(in crate::orchestrator::api) fn of<'d>(
    kind: &Kind,
    definition: Option<&'d Definition>,
) -> Topology<'d> {
    match definition {
        Some(definition) => Topology::Object(Some(definition.layout())),
        None => of_kind(kind),
    }
}

fn of_kind(kind: &Kind) -> Topology<'static> {
    schema::of_object(&kind.api_version(), kind.kind)
        .map_or(Topology::Object(None), |(message, _)| {
            Topology::Message(message)
        })
}

impl Topology<'_> {
    /// Whether an object's fields are owned one by one.
    pub(in crate::orchestrator::api) fn has_fields(self) -> bool {
        match self {
            Self::Message(_) | Self::Object(_) | Self::Map | Self::Unknown => true,
            Self::Custom(layout) => layout.has_fields(),
            Self::Whole | Self::Set | Self::Keyed(..) => false,
        }
    }

    /// Whether a list's elements are owned one by one.
    pub(in crate::orchestrator::api) fn has_elements(self) -> bool {
        match self {
            Self::Set | Self::Keyed(..) => true,
            Self::Custom(layout) => layout.elements() != Elements::Whole,
            Self::Message(_) | Self::Object(_) | Self::Map | Self::Unknown | Self::Whole => false,
        }
    }

    /// Of a field of an object.
    pub(in crate::orchestrator::api) fn field(self, name: &str) -> Self {
        match self {
            Self::Message(message) => of_field(message, name),
            Self::Object(_) if name == "metadata" => Self::Message("meta.ObjectMeta"),
            Self::Object(Some(layout)) | Self::Custom(layout) => {
                layout.field(name).map_or(Self::Unknown, Self::Custom)
            }
            Self::Object(None) | Self::Unknown => Self::Unknown,
            Self::Whole | Self::Map | Self::Set | Self::Keyed(..) => Self::Whole,
        }
    }
}

fn of_field(message: &'static str, name: &str) -> Topology<'static> {
    // Every object has these beside its message's.
    if ["apiVersion", "kind"].contains(&name) {
        return Topology::Whole;
    }
    for field in schema::named(message).unwrap_or_default() {
        match field.of {
            Type::Message(at) if field.name == "~" => {
                let found = of_field(schema::name(at), name);
                if found != Topology::Unknown {
                    return found;
                }
            }
            of if field.name == name => return of_type(message, name, field.shape, of),
            _ => {}
        }
    }
    Topology::Unknown
}

fn of_type(message: &str, name: &str, shape: Shape, of: Type) -> Topology<'static> {
    let place = |(of, field): &(&str, &str)| *of == message && *field == name;
    match (shape, of) {
        (Shape::List, Type::Message(at)) => {
            if WHOLE_LISTS.iter().any(place) {
                return Topology::Whole;
            }
            let element = schema::name(at);
            let keys = match element {
                "core.ContainerPort" => Some(CONTAINER_PORTS),
                "core.ServicePort" => Some(SERVICE_PORTS),
                _ => KEYED
                    .iter()
                    .find(|(field, _)| *field == name)
                    .map(|(_, keys)| *keys),
            };
            keys.map_or(Topology::Whole, |keys| Topology::Keyed(keys, element))
        }
        (Shape::List, _) if SETS.iter().any(place) => Topology::Set,
        (Shape::List, _) => Topology::Whole,
        (Shape::Map, Type::Message(_)) => Topology::Unknown,
        (Shape::Map, _) if WHOLE_MAPS.iter().any(place) => Topology::Whole,
        (Shape::Map, _) => Topology::Map,
        (Shape::One | Shape::Optional, Type::Message(at)) => {
            let inner = schema::name(at);
            if WHOLE_MESSAGES.contains(&inner) {
                Topology::Whole
            } else {
                Topology::Message(inner)
            }
        }
        (Shape::One | Shape::Optional, _) => Topology::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::kinds;

    #[test]
    fn fields_are_owned_as_kubernetes_says() {
        let at = |kind: &Kind, path: &[&str]| {
            path.iter()
                .fold(of_kind(kind), |topology, field| topology.field(field))
        };
        let pod = &kinds::POD;
        assert_eq!(
            at(pod, &["spec", "containers"]),
            Topology::Keyed(&["name"], "core.Container")
        );
        let container = Topology::Message("core.Container");
        assert_eq!(
            container.field("ports"),
            Topology::Keyed(CONTAINER_PORTS, "core.ContainerPort")
        );
        assert_eq!(container.field("command"), Topology::Whole);
        assert_eq!(at(pod, &["metadata", "labels"]), Topology::Map);
        assert_eq!(at(pod, &["metadata", "finalizers"]), Topology::Set);
        assert_eq!(at(pod, &["spec", "nodeSelector"]), Topology::Whole);
        assert_eq!(at(pod, &["spec", "tolerations"]), Topology::Whole);
        assert_eq!(
            at(&kinds::DEPLOYMENT, &["spec", "selector"]),
            Topology::Whole
        );
        assert_eq!(at(&kinds::CONFIG_MAP, &["data"]), Topology::Map);
        // Its fields stand in the volume itself.
        let volume = Topology::Message("core.Volume");
        assert_eq!(
            volume.field("emptyDir"),
            Topology::Message("core.EmptyDirVolumeSource")
        );
    }

    #[test]
    fn the_tables_name_what_there_is() {
        let lists = SETS.iter().chain(WHOLE_MAPS).chain(WHOLE_LISTS);
        let named: Vec<&str> = lists
            .map(|(message, _)| *message)
            .chain(WHOLE_MESSAGES.iter().copied())
            .collect();
        for message in named {
            assert!(schema::named(message).is_some(), "{message}");
        }
    }
}

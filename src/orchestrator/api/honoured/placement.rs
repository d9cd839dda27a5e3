//! Where a pod may run.

use super::Effect::Ignored;
use super::TypeTable;

pub(super) static TYPES: &[TypeTable] = &[
    TypeTable {
        name: "Affinity",
        applied: &["nodeAffinity", "podAffinity", "podAntiAffinity"],
        others: &[],
    },
    TypeTable {
        name: "NodeAffinity",
        applied: &[
            "preferredDuringSchedulingIgnoredDuringExecution",
            "requiredDuringSchedulingIgnoredDuringExecution",
        ],
        others: &[],
    },
    TypeTable {
        name: "PodAffinity",
        applied: &[
            "preferredDuringSchedulingIgnoredDuringExecution",
            "requiredDuringSchedulingIgnoredDuringExecution",
        ],
        others: &[],
    },
    TypeTable {
        name: "PodAntiAffinity",
        applied: &[
            "preferredDuringSchedulingIgnoredDuringExecution",
            "requiredDuringSchedulingIgnoredDuringExecution",
        ],
        others: &[],
    },
    TypeTable {
        name: "NodeSelector",
        applied: &["nodeSelectorTerms"],
        others: &[],
    },
    TypeTable {
        name: "NodeSelectorTerm",
        applied: &["matchExpressions", "matchFields"],
        others: &[],
    },
    TypeTable {
        name: "NodeSelectorRequirement",
        applied: &["key", "operator", "values"],
        others: &[],
    },
    TypeTable {
        name: "PreferredSchedulingTerm",
        applied: &["preference", "weight"],
        others: &[],
    },
    TypeTable {
        name: "WeightedPodAffinityTerm",
        applied: &["podAffinityTerm", "weight"],
        others: &[],
    },
    TypeTable {
        name: "PodAffinityTerm",
        applied: &["labelSelector", "namespaces", "topologyKey"],
        others: &[
            (
                "matchLabelKeys",
                Ignored(&[], "labels are compared by labelSelector only"),
            ),
            (
                "mismatchLabelKeys",
                Ignored(&[], "labels are compared by labelSelector only"),
            ),
            (
                "namespaceSelector",
                Ignored(&[], "an empty one means all namespaces, any other none"),
            ),
        ],
    },
    TypeTable {
        name: "Toleration",
        applied: &["effect", "key", "operator", "tolerationSeconds", "value"],
        others: &[],
    },
    TypeTable {
        name: "TopologySpreadConstraint",
        applied: &[
            "labelSelector",
            "maxSkew",
            "topologyKey",
            "whenUnsatisfiable",
        ],
        others: &[
            (
                "matchLabelKeys",
                Ignored(&[], "labels are compared by labelSelector only"),
            ),
            (
                "minDomains",
                Ignored(&["1"], "as many domains count as there are"),
            ),
            ("nodeAffinityPolicy", Ignored(&[], "it is not looked at")),
            ("nodeTaintsPolicy", Ignored(&[], "it is not looked at")),
        ],
    },
];

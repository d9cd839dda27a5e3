//! Where a pod may run.

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
        applied: &[
            "labelSelector",
            "matchLabelKeys",
            "mismatchLabelKeys",
            "namespaceSelector",
            "namespaces",
            "topologyKey",
        ],
        others: &[],
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
            "matchLabelKeys",
            "maxSkew",
            "minDomains",
            "nodeAffinityPolicy",
            "nodeTaintsPolicy",
            "topologyKey",
            "whenUnsatisfiable",
        ],
        others: &[],
    },
];

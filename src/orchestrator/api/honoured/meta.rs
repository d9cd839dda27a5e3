//! What every object has.

use super::Effect::OfServer;
use super::TypeTable;

pub(super) static TYPES: &[TypeTable] = &[
    TypeTable {
        name: "ObjectMeta",
        applied: &[
            "annotations",
            "finalizers",
            "generateName",
            "labels",
            "name",
            "namespace",
            "ownerReferences",
        ],
        others: &[
            ("creationTimestamp", OfServer),
            ("deletionGracePeriodSeconds", OfServer),
            ("deletionTimestamp", OfServer),
            ("generation", OfServer),
            ("managedFields", OfServer),
            ("resourceVersion", OfServer),
            ("selfLink", OfServer),
            ("uid", OfServer),
        ],
    },
    TypeTable {
        name: "OwnerReference",
        applied: &[
            "apiVersion",
            "blockOwnerDeletion",
            "controller",
            "kind",
            "name",
            "uid",
        ],
        others: &[],
    },
    TypeTable {
        name: "LabelSelector",
        applied: &["matchExpressions", "matchLabels"],
        others: &[],
    },
    TypeTable {
        name: "LabelSelectorRequirement",
        applied: &["key", "operator", "values"],
        others: &[],
    },
];

//! What the controllers of pods say.

use super::Effect::OfServer;
use super::TypeTable;

pub(super) static TYPES: &[TypeTable] = &[
    TypeTable {
        name: "PodTemplateSpec",
        applied: &["metadata", "spec"],
        others: &[],
    },
    TypeTable {
        name: "ReplicationController",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "ReplicationControllerSpec",
        applied: &["minReadySeconds", "replicas", "selector", "template"],
        others: &[],
    },
    TypeTable {
        name: "ReplicaSet",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "ReplicaSetSpec",
        applied: &["minReadySeconds", "replicas", "selector", "template"],
        others: &[],
    },
    TypeTable {
        name: "Deployment",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "DeploymentSpec",
        applied: &[
            "minReadySeconds",
            "paused",
            "progressDeadlineSeconds",
            "replicas",
            "revisionHistoryLimit",
            "selector",
            "strategy",
            "template",
        ],
        others: &[],
    },
    TypeTable {
        name: "DeploymentStrategy",
        applied: &["rollingUpdate", "type"],
        others: &[],
    },
    TypeTable {
        name: "RollingUpdateDeployment",
        applied: &["maxSurge", "maxUnavailable"],
        others: &[],
    },
];

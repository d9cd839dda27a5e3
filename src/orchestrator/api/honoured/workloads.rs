//! What the controllers of pods say.

use super::Effect::{Ignored, OfServer};
use super::TypeTable;

const NOT_BY_INDEX: &str = "failures are counted for all indexes together";

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
    TypeTable {
        name: "StatefulSet",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "StatefulSetSpec",
        applied: &[
            "minReadySeconds",
            "ordinals",
            "podManagementPolicy",
            "replicas",
            "revisionHistoryLimit",
            "selector",
            "serviceName",
            "template",
            "updateStrategy",
        ],
        others: &[
            (
                "persistentVolumeClaimRetentionPolicy",
                Ignored(&["Retain"], "claims are kept"),
            ),
            (
                "volumeClaimTemplates",
                Ignored(
                    &[],
                    "the claims are made and stay Pending, so that its pods do not start",
                ),
            ),
        ],
    },
    TypeTable {
        name: "StatefulSetOrdinals",
        applied: &["start"],
        others: &[],
    },
    TypeTable {
        name: "StatefulSetUpdateStrategy",
        applied: &["rollingUpdate", "type"],
        others: &[],
    },
    TypeTable {
        name: "RollingUpdateStatefulSetStrategy",
        applied: &["partition"],
        others: &[(
            "maxUnavailable",
            Ignored(&["1"], "one pod at a time is replaced"),
        )],
    },
    TypeTable {
        name: "DaemonSet",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "DaemonSetSpec",
        applied: &[
            "minReadySeconds",
            "revisionHistoryLimit",
            "selector",
            "template",
            "updateStrategy",
        ],
        others: &[],
    },
    TypeTable {
        name: "DaemonSetUpdateStrategy",
        applied: &["rollingUpdate", "type"],
        others: &[],
    },
    TypeTable {
        name: "RollingUpdateDaemonSet",
        applied: &["maxUnavailable"],
        others: &[(
            "maxSurge",
            Ignored(&["0"], "a pod is removed before the next is made"),
        )],
    },
    TypeTable {
        name: "Job",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "JobSpec",
        applied: &[
            "activeDeadlineSeconds",
            "backoffLimit",
            "completionMode",
            "completions",
            "parallelism",
            "podReplacementPolicy",
            "selector",
            "suspend",
            "template",
            "ttlSecondsAfterFinished",
        ],
        others: &[
            ("backoffLimitPerIndex", Ignored(&[], NOT_BY_INDEX)),
            (
                "managedBy",
                Ignored(
                    &["kubernetes.io/job-controller"],
                    "the built-in controller runs it",
                ),
            ),
            (
                "manualSelector",
                Ignored(&["false"], "the selector is made by the server"),
            ),
            ("maxFailedIndexes", Ignored(&[], NOT_BY_INDEX)),
            ("podFailurePolicy", Ignored(&[], "only backoffLimit counts")),
            ("scheduling", Ignored(&[], "each pod is scheduled alone")),
            ("successPolicy", Ignored(&[], "only completions count")),
        ],
    },
    TypeTable {
        name: "CronJob",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "CronJobSpec",
        applied: &[
            "concurrencyPolicy",
            "failedJobsHistoryLimit",
            "jobTemplate",
            "schedule",
            "startingDeadlineSeconds",
            "successfulJobsHistoryLimit",
            "suspend",
        ],
        others: &[(
            "timeZone",
            Ignored(&["Etc/UTC", "UTC"], "schedules are in UTC"),
        )],
    },
    TypeTable {
        name: "JobTemplateSpec",
        applied: &["metadata", "spec"],
        others: &[],
    },
];

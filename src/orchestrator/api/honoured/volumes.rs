//! What a pod mounts.

use super::Effect::{self, Ignored, IgnoredUnless, Unenforced};
use super::TypeTable;

const NO_VOLUME: Effect = Ignored(&[], "there are no such volumes: the pod does not start");
const NO_FILE: Effect = Ignored(&[], "nobody issues it here: the file is not there");
const NO_OWNER: Effect = Ignored(&[], "its files belong to root, and to the pod's fsGroup");

pub(super) static TYPES: &[TypeTable] = &[
    TypeTable {
        name: "Volume",
        applied: &[
            "configMap",
            "downwardAPI",
            "emptyDir",
            "hostPath",
            "name",
            "projected",
            "secret",
        ],
        others: &[
            ("awsElasticBlockStore", NO_VOLUME),
            ("azureDisk", NO_VOLUME),
            ("azureFile", NO_VOLUME),
            ("cephfs", NO_VOLUME),
            ("cinder", NO_VOLUME),
            ("csi", NO_VOLUME),
            ("ephemeral", NO_VOLUME),
            ("fc", NO_VOLUME),
            ("flexVolume", NO_VOLUME),
            ("flocker", NO_VOLUME),
            ("gcePersistentDisk", NO_VOLUME),
            ("gitRepo", NO_VOLUME),
            ("glusterfs", NO_VOLUME),
            ("image", NO_VOLUME),
            ("iscsi", NO_VOLUME),
            ("nfs", NO_VOLUME),
            ("persistentVolumeClaim", NO_VOLUME),
            ("photonPersistentDisk", NO_VOLUME),
            ("portworxVolume", NO_VOLUME),
            ("quobyte", NO_VOLUME),
            ("rbd", NO_VOLUME),
            ("scaleIO", NO_VOLUME),
            ("storageos", NO_VOLUME),
            ("vsphereVolume", NO_VOLUME),
        ],
    },
    TypeTable {
        name: "EmptyDirVolumeSource",
        applied: &[],
        others: &[
            ("medium", Ignored(&["Memory"], "it is on the node's disk")),
            ("mode", Ignored(&[], "its mode is 0777")),
            (
                "sizeLimit",
                IgnoredUnless(
                    ("medium", "Memory"),
                    "on the node's disk it takes whatever there is",
                ),
            ),
        ],
    },
    TypeTable {
        name: "HostPathVolumeSource",
        applied: &["path", "type"],
        others: &[],
    },
    TypeTable {
        name: "SecretVolumeSource",
        applied: &["defaultMode", "items", "optional", "secretName"],
        others: &[("defaultUser", NO_OWNER)],
    },
    TypeTable {
        name: "ConfigMapVolumeSource",
        applied: &["defaultMode", "items", "name", "optional"],
        others: &[("defaultUser", NO_OWNER)],
    },
    TypeTable {
        name: "DownwardAPIVolumeSource",
        applied: &["defaultMode", "items"],
        others: &[("defaultUser", NO_OWNER)],
    },
    TypeTable {
        name: "DownwardAPIProjection",
        applied: &["items"],
        others: &[],
    },
    TypeTable {
        name: "DownwardAPIVolumeFile",
        applied: &["fieldRef", "mode", "path", "resourceFieldRef"],
        others: &[("user", NO_OWNER)],
    },
    TypeTable {
        name: "ProjectedVolumeSource",
        applied: &["defaultMode", "sources"],
        others: &[("defaultUser", NO_OWNER)],
    },
    TypeTable {
        name: "VolumeProjection",
        applied: &["configMap", "downwardAPI", "secret", "serviceAccountToken"],
        others: &[("clusterTrustBundle", NO_FILE), ("podCertificate", NO_FILE)],
    },
    TypeTable {
        name: "SecretProjection",
        applied: &["items", "name", "optional"],
        others: &[],
    },
    TypeTable {
        name: "ConfigMapProjection",
        applied: &["items", "name", "optional"],
        others: &[],
    },
    TypeTable {
        name: "ServiceAccountTokenProjection",
        applied: &["audience", "expirationSeconds", "path"],
        others: &[("user", NO_OWNER)],
    },
    TypeTable {
        name: "KeyToPath",
        applied: &["key", "mode", "path"],
        others: &[("user", NO_OWNER)],
    },
    TypeTable {
        name: "VolumeMount",
        applied: &["mountPath", "name", "readOnly", "subPath", "subPathExpr"],
        others: &[
            (
                "bindMountOptions",
                Ignored(&[], "it is mounted as by default"),
            ),
            (
                "mountPropagation",
                Ignored(&["None"], "mounts made later are not passed on"),
            ),
            (
                "recursiveReadOnly",
                Unenforced(&["Disabled", "IfPossible"], "mounts below it stay writable"),
            ),
        ],
    },
];

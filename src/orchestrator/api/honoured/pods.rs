//! What a pod says as a whole.

use super::Effect::{Ignored, OfServer, Unenforced};
use super::TypeTable;

const NO_PREEMPTION: &str = "pods have no priority, and none is removed for another";

pub(super) static TYPES: &[TypeTable] = &[
    TypeTable {
        name: "Pod",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "PodSpec",
        applied: &[
            "activeDeadlineSeconds",
            "affinity",
            "containers",
            "dnsConfig",
            "dnsPolicy",
            "enableServiceLinks",
            "hostAliases",
            "hostNetwork",
            "hostname",
            "hostnameOverride",
            "imagePullSecrets",
            "initContainers",
            "nodeName",
            "nodeSelector",
            "os",
            "readinessGates",
            "restartPolicy",
            "securityContext",
            "setHostnameAsFQDN",
            "subdomain",
            "terminationGracePeriodSeconds",
            "tolerations",
            "topologySpreadConstraints",
            "volumes",
        ],
        others: &[
            (
                "automountServiceAccountToken",
                Ignored(
                    &["false"],
                    "a token is mounted only where the cluster's file says `tokens = true`",
                ),
            ),
            ("ephemeralContainers", Ignored(&[], "they are not started")),
            (
                "evictionResponders",
                Ignored(&[], "nobody is asked before the pod is removed"),
            ),
            (
                "hostIPC",
                Ignored(&["false"], "the containers have IPC of their own"),
            ),
            (
                "hostPID",
                Ignored(&["false"], "the containers see their own processes only"),
            ),
            (
                "hostUsers",
                Unenforced(&["true"], "the containers' users are the node's"),
            ),
            (
                "overhead",
                Ignored(&[], "nothing is added to the containers' requests"),
            ),
            (
                "preemptionPolicy",
                Ignored(&["Never", "PreemptLowerPriority"], NO_PREEMPTION),
            ),
            ("priority", Ignored(&["0"], NO_PREEMPTION)),
            ("priorityClassName", Ignored(&[], NO_PREEMPTION)),
            ("resourceClaims", Ignored(&[], "no devices are allocated")),
            (
                "resources",
                Ignored(&[], "only the containers' own limits and requests count"),
            ),
            (
                "runtimeClassName",
                Unenforced(&[], "every node has one runtime, without further isolation"),
            ),
            (
                "schedulerName",
                Ignored(
                    &["default-scheduler"],
                    "the built-in scheduler places the pod",
                ),
            ),
            (
                "schedulingGates",
                Ignored(&[], "the pod is scheduled at once"),
            ),
            (
                "schedulingGroup",
                Ignored(&[], "the pod is scheduled alone"),
            ),
            (
                "serviceAccount",
                Ignored(
                    &["default"],
                    "its token is mounted only where the cluster's file says `tokens = true`",
                ),
            ),
            (
                "serviceAccountName",
                Ignored(
                    &["default"],
                    "its token is mounted only where the cluster's file says `tokens = true`",
                ),
            ),
            (
                "shareProcessNamespace",
                Ignored(&["false"], "each container sees its own processes only"),
            ),
        ],
    },
    TypeTable {
        name: "PodSecurityContext",
        applied: &[
            "appArmorProfile",
            "fsGroup",
            // Volumes of this node get their group when they are made: there is nothing to change afterwards.
            "fsGroupChangePolicy",
            "runAsGroup",
            "runAsNonRoot",
            "runAsUser",
            "seccompProfile",
            "supplementalGroups",
            "sysctls",
        ],
        others: &[
            (
                "seLinuxChangePolicy",
                Ignored(&["MountOption", "Recursive"], "nodes have no SELinux"),
            ),
            ("seLinuxOptions", Unenforced(&[], "nodes have no SELinux")),
            (
                "supplementalGroupsPolicy",
                Unenforced(&["Merge"], "groups that the image gives its user are added"),
            ),
            ("windowsOptions", Ignored(&[], "nodes run Linux")),
        ],
    },
    TypeTable {
        name: "SeccompProfile",
        applied: &["localhostProfile"],
        others: &[(
            "type",
            Unenforced(&["Unconfined"], "no system call is filtered"),
        )],
    },
    TypeTable {
        name: "AppArmorProfile",
        applied: &["localhostProfile"],
        others: &[(
            "type",
            Unenforced(&["Unconfined"], "no AppArmor profile is loaded"),
        )],
    },
    TypeTable {
        name: "Sysctl",
        applied: &["name", "value"],
        others: &[],
    },
    TypeTable {
        name: "PodReadinessGate",
        applied: &["conditionType"],
        others: &[],
    },
    TypeTable {
        name: "PodOS",
        applied: &[],
        others: &[("name", Ignored(&["linux"], "nodes run Linux"))],
    },
    TypeTable {
        name: "LocalObjectReference",
        applied: &["name"],
        others: &[],
    },
    TypeTable {
        name: "PodDNSConfig",
        applied: &["nameservers", "options", "searches"],
        others: &[],
    },
    TypeTable {
        name: "PodDNSConfigOption",
        applied: &["name", "value"],
        others: &[],
    },
    TypeTable {
        name: "HostAlias",
        applied: &["hostnames", "ip"],
        others: &[],
    },
];

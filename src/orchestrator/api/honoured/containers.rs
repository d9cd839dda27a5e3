//! What a container says.

use super::Effect::{Ignored, IgnoredIf, Unenforced};
use super::TypeTable;

pub(super) static TYPES: &[TypeTable] = &[
    TypeTable {
        name: "Container",
        applied: &[
            "args",
            "command",
            "env",
            "envFrom",
            "image",
            "imagePullPolicy",
            "lifecycle",
            "livenessProbe",
            "name",
            "ports",
            "readinessProbe",
            "resources",
            "securityContext",
            "startupProbe",
            "stdin",
            "stdinOnce",
            "terminationMessagePath",
            "terminationMessagePolicy",
            "tty",
            "volumeMounts",
            "workingDir",
        ],
        others: &[
            (
                "resizePolicy",
                Ignored(&[], "resources do not change while a container runs"),
            ),
            (
                "restartPolicy",
                Ignored(&["Always"], "the pod's restartPolicy decides"),
            ),
            (
                "restartPolicyRules",
                Ignored(&[], "the pod's restartPolicy decides"),
            ),
            ("volumeDevices", Ignored(&[], "there are no block volumes")),
        ],
    },
    TypeTable {
        name: "SecurityContext",
        applied: &[
            "allowPrivilegeEscalation",
            "appArmorProfile",
            "capabilities",
            "privileged",
            "readOnlyRootFilesystem",
            "runAsGroup",
            "runAsNonRoot",
            "runAsUser",
            "seccompProfile",
        ],
        others: &[
            (
                "procMount",
                Unenforced(&["Default"], "/proc is masked as by default"),
            ),
            ("seLinuxOptions", Unenforced(&[], "nodes have no SELinux")),
            ("windowsOptions", Ignored(&[], "nodes run Linux")),
        ],
    },
    TypeTable {
        name: "Capabilities",
        applied: &["add", "drop"],
        others: &[],
    },
    TypeTable {
        name: "ContainerPort",
        applied: &["containerPort", "hostIP", "name", "protocol"],
        others: &[(
            "hostPort",
            IgnoredIf(
                ("protocol", "SCTP"),
                "nothing listens on the node's port: only TCP and UDP are carried; it keeps pods of the same port apart",
            ),
        )],
    },
    TypeTable {
        name: "EnvVar",
        applied: &["name", "value", "valueFrom"],
        others: &[],
    },
    TypeTable {
        name: "EnvVarSource",
        applied: &[
            "configMapKeyRef",
            "fieldRef",
            "resourceFieldRef",
            "secretKeyRef",
        ],
        others: &[("fileKeyRef", Ignored(&[], "the container does not start"))],
    },
    TypeTable {
        name: "ConfigMapKeySelector",
        applied: &["key", "name", "optional"],
        others: &[],
    },
    TypeTable {
        name: "SecretKeySelector",
        applied: &["key", "name", "optional"],
        others: &[],
    },
    TypeTable {
        name: "ResourceFieldSelector",
        applied: &["containerName", "divisor", "resource"],
        others: &[],
    },
    TypeTable {
        name: "ObjectFieldSelector",
        applied: &["apiVersion", "fieldPath"],
        others: &[],
    },
    TypeTable {
        name: "EnvFromSource",
        applied: &["configMapRef", "prefix", "secretRef"],
        others: &[],
    },
    TypeTable {
        name: "ConfigMapEnvSource",
        applied: &["name", "optional"],
        others: &[],
    },
    TypeTable {
        name: "SecretEnvSource",
        applied: &["name", "optional"],
        others: &[],
    },
    TypeTable {
        name: "ResourceRequirements",
        applied: &["limits", "requests"],
        others: &[("claims", Ignored(&[], "no devices are allocated"))],
    },
    TypeTable {
        name: "Probe",
        applied: &[
            "exec",
            "failureThreshold",
            "grpc",
            "httpGet",
            "initialDelaySeconds",
            "periodSeconds",
            "successThreshold",
            "tcpSocket",
            "terminationGracePeriodSeconds",
            "timeoutSeconds",
        ],
        others: &[],
    },
    TypeTable {
        name: "Lifecycle",
        applied: &["postStart", "preStop", "stopSignal"],
        others: &[],
    },
    TypeTable {
        name: "LifecycleHandler",
        applied: &["exec", "httpGet", "sleep"],
        others: &[("tcpSocket", Ignored(&[], "the hook fails"))],
    },
    TypeTable {
        name: "GRPCAction",
        applied: &["mode", "port", "service"],
        others: &[],
    },
    TypeTable {
        name: "ExecAction",
        applied: &["command"],
        others: &[],
    },
    TypeTable {
        name: "HTTPGetAction",
        applied: &["host", "httpHeaders", "path", "port", "scheme"],
        others: &[(
            "protocol",
            Ignored(&["HTTP1", "HTTP/1.1"], "HTTP/1.1 is spoken"),
        )],
    },
    TypeTable {
        name: "HTTPHeader",
        applied: &["name", "value"],
        others: &[],
    },
    TypeTable {
        name: "TCPSocketAction",
        applied: &["host", "port"],
        others: &[],
    },
    TypeTable {
        name: "SleepAction",
        applied: &["seconds"],
        others: &[],
    },
];

//! What a Service says.

use super::Effect::{Ignored, OfServer, Unenforced};
use super::TypeTable;

pub(super) static TYPES: &[TypeTable] = &[
    TypeTable {
        name: "Service",
        applied: &["apiVersion", "kind", "metadata", "spec"],
        others: &[("status", OfServer)],
    },
    TypeTable {
        name: "ServiceSpec",
        applied: &[
            "allocateLoadBalancerNodePorts",
            "clusterIP",
            "clusterIPs",
            "externalName",
            "ports",
            "publishNotReadyAddresses",
            "selector",
            "sessionAffinity",
            "sessionAffinityConfig",
            "type",
        ],
        others: &[
            ("externalIPs", Ignored(&[], "nothing listens on them")),
            (
                "externalTrafficPolicy",
                Ignored(&["Cluster"], "pods of every node are used"),
            ),
            (
                "healthCheckNodePort",
                Ignored(&["0"], "nothing listens on it"),
            ),
            (
                "internalTrafficPolicy",
                Ignored(&["Cluster"], "pods of every node are used"),
            ),
            (
                "ipFamilies",
                Ignored(&["IPv4"], "the cluster has IPv4 only"),
            ),
            (
                "ipFamilyPolicy",
                Ignored(
                    &["SingleStack", "PreferDualStack"],
                    "the cluster has IPv4 only",
                ),
            ),
            (
                "loadBalancerClass",
                Ignored(&[], "the host's load balancer carries it"),
            ),
            (
                "loadBalancerIP",
                Ignored(&[], "the host's load balancer has its own address"),
            ),
            (
                "loadBalancerSourceRanges",
                Unenforced(&[], "clients of any address are let in"),
            ),
            (
                "trafficDistribution",
                Ignored(&[], "pods of every node are used alike"),
            ),
        ],
    },
    TypeTable {
        name: "SessionAffinityConfig",
        applied: &["clientIP"],
        others: &[],
    },
    TypeTable {
        name: "ClientIPConfig",
        applied: &["timeoutSeconds"],
        others: &[],
    },
    TypeTable {
        name: "ServicePort",
        applied: &["appProtocol", "name", "nodePort", "port", "targetPort"],
        others: &[(
            "protocol",
            Ignored(
                &["TCP", "UDP"],
                "nothing answers on the port: only TCP and UDP are carried",
            ),
        )],
    },
];

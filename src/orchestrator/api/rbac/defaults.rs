//! The roles and bindings that every cluster has (`plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go`), as far as the kinds
//! that they name are served.

use serde_json::{Value, json};

const READ: &[&str] = &["get", "list", "watch"];
const READ_WRITE: &[&str] = &[
    "get",
    "list",
    "watch",
    "create",
    "delete",
    "deletecollection",
    "patch",
    "update",
];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

const RBAC: &str = "rbac.authorization.k8s.io";

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": [group], "resources": resources})
}

fn paths(verbs: &[&str], paths: &[&str]) -> Value {
    json!({"verbs": verbs, "nonResourceURLs": paths})
}

fn metadata(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
}

fn role(name: &str, rules: Vec<Value>) -> Value {
    json!({"metadata": metadata(name), "rules": rules})
}

/// A role that is all roles with this label, and that has labels itself.
fn aggregated(name: &str, label: &str, labels: &[&str]) -> Value {
    let mut role = json!({
        "metadata": metadata(name),
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {label: "true"}}]},
    });
    for label in labels {
        role["metadata"]["labels"][*label] = json!("true");
    }
    role
}

const TO_ADMIN: &str = "rbac.authorization.k8s.io/aggregate-to-admin";
const TO_EDIT: &str = "rbac.authorization.k8s.io/aggregate-to-edit";
const TO_VIEW: &str = "rbac.authorization.k8s.io/aggregate-to-view";

fn part(name: &str, label: &str, rules: Vec<Value>) -> Value {
    let mut role = role(name, rules);
    role["metadata"]["labels"][label] = json!("true");
    role
}

/// What is read to see a namespace.
fn view() -> Vec<Value> {
    let core = [
        "bindings",
        "configmaps",
        "endpoints",
        "events",
        "limitranges",
        "namespaces",
        "namespaces/status",
        "persistentvolumeclaims",
        "persistentvolumeclaims/status",
        "pods",
        "pods/log",
        "pods/status",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "replicationcontrollers/status",
        "resourcequotas",
        "resourcequotas/status",
        "serviceaccounts",
        "services",
        "services/status",
    ];
    let apps = [
        "controllerrevisions",
        "daemonsets",
        "daemonsets/status",
        "deployments",
        "deployments/scale",
        "deployments/status",
        "replicasets",
        "replicasets/scale",
        "replicasets/status",
        "statefulsets",
        "statefulsets/scale",
        "statefulsets/status",
    ];
    let scalers = [
        "horizontalpodautoscalers",
        "horizontalpodautoscalers/status",
    ];
    let batch = ["cronjobs", "cronjobs/status", "jobs", "jobs/status"];
    let budgets = ["poddisruptionbudgets", "poddisruptionbudgets/status"];
    let networking = ["ingresses", "ingresses/status", "networkpolicies"];
    vec![
        rule(READ, "", &core),
        rule(READ, "discovery.k8s.io", &["endpointslices"]),
        rule(READ, "apps", &apps),
        rule(READ, "autoscaling", &scalers),
        rule(READ, "batch", &batch),
        rule(READ, "policy", &budgets),
        rule(READ, "networking.k8s.io", &networking),
    ]
}

/// What is written to work in a namespace.
fn edit() -> Vec<Value> {
    let reached = [
        "pods/attach",
        "pods/exec",
        "pods/portforward",
        "pods/proxy",
        "secrets",
        "services/proxy",
    ];
    let core = [
        "configmaps",
        "events",
        "persistentvolumeclaims",
        "pods",
        "pods/attach",
        "pods/exec",
        "pods/portforward",
        "pods/proxy",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "secrets",
        "serviceaccounts",
        "services",
        "services/proxy",
    ];
    let apps = [
        "daemonsets",
        "deployments",
        "deployments/rollback",
        "deployments/scale",
        "replicasets",
        "replicasets/scale",
        "statefulsets",
        "statefulsets/scale",
    ];
    vec![
        rule(READ, "", &reached),
        rule(&["impersonate"], "", &["serviceaccounts"]),
        rule(WRITE, "", &core),
        rule(&["create"], "", &["pods/eviction", "serviceaccounts/token"]),
        rule(WRITE, "apps", &apps),
        rule(WRITE, "autoscaling", &["horizontalpodautoscalers"]),
        rule(WRITE, "batch", &["cronjobs", "jobs"]),
        rule(WRITE, "policy", &["poddisruptionbudgets"]),
        rule(
            WRITE,
            "networking.k8s.io",
            &["ingresses", "networkpolicies"],
        ),
        rule(READ_WRITE, "coordination.k8s.io", &["leases"]),
    ]
}

/// Every default ClusterRole.
pub(super) fn cluster_roles() -> Vec<Value> {
    let discovery = [
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ];
    let public = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let access = ["selfsubjectaccessreviews", "selfsubjectrulesreviews"];
    let monitoring = [
        "/healthz",
        "/healthz/*",
        "/livez",
        "/livez/*",
        "/metrics",
        "/metrics/slis",
        "/readyz",
        "/readyz/*",
    ];
    let kinds_of_roles = ["rolebindings", "roles"];
    vec![
        role(
            "cluster-admin",
            vec![rule(&["*"], "*", &["*"]), paths(&["*"], &["*"])],
        ),
        role("system:discovery", vec![paths(&["get"], &discovery)]),
        role("system:public-info-viewer", vec![paths(&["get"], &public)]),
        role(
            "system:basic-user",
            vec![
                rule(&["create"], "authorization.k8s.io", &access),
                rule(
                    &["create"],
                    "authentication.k8s.io",
                    &["selfsubjectreviews"],
                ),
            ],
        ),
        role(
            "system:auth-delegator",
            vec![
                rule(&["create"], "authentication.k8s.io", &["tokenreviews"]),
                rule(
                    &["create"],
                    "authorization.k8s.io",
                    &["subjectaccessreviews"],
                ),
            ],
        ),
        role("system:monitoring", vec![paths(&["get"], &monitoring)]),
        aggregated("admin", TO_ADMIN, &[]),
        aggregated("edit", TO_EDIT, &[TO_ADMIN]),
        aggregated("view", TO_VIEW, &[TO_EDIT]),
        part(
            "system:aggregate-to-admin",
            TO_ADMIN,
            vec![
                rule(
                    &["create"],
                    "authorization.k8s.io",
                    &["localsubjectaccessreviews"],
                ),
                rule(READ_WRITE, RBAC, &kinds_of_roles),
            ],
        ),
        part("system:aggregate-to-edit", TO_EDIT, edit()),
        part("system:aggregate-to-view", TO_VIEW, view()),
    ]
}

/// Every default ClusterRoleBinding: each of the role of its name, to a group.
pub(super) fn cluster_role_bindings() -> Vec<Value> {
    let of = |name: &str, group: &str| {
        json!({
            "metadata": metadata(name),
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": group}],
        })
    };
    vec![
        of("cluster-admin", "system:masters"),
        of("system:discovery", super::AUTHENTICATED),
        of("system:public-info-viewer", super::AUTHENTICATED),
        of("system:basic-user", super::AUTHENTICATED),
        of("system:monitoring", "system:monitoring"),
    ]
}

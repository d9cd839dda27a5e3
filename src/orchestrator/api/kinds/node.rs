//! v1 Node.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::parts::causes::no_rules;
use super::parts::cells::{AGE, Column, NAME, column, list, or_none, text, wide};
use super::parts::decode::through;
use super::parts::fields::no_defaults;
use super::parts::warnings::no_warnings;
use super::parts::{names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[Subresource::Status],
    decode: through::<Node>,
    default: no_defaults,
    name: names::subdomain,
    validate: no_rules,
    columns: COLUMNS,
    selectable_fields: &["spec.unschedulable"],
    selector: selector::none,
    generation: Generation::Absent,
    // An agent registers its node with what it found.
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Status", node_status),
    column("Roles", node_roles),
    AGE,
    column("Version", |node| {
        json!(text(node, "/status/nodeInfo/kubeletVersion"))
    }),
    wide("Internal-IP", |node| {
        json!(node_address(node, "InternalIP"))
    }),
    wide("External-IP", |node| {
        json!(node_address(node, "ExternalIP"))
    }),
    wide("OS-Image", |node| {
        json!(text(node, "/status/nodeInfo/osImage"))
    }),
    wide("Kernel-Version", |node| {
        json!(text(node, "/status/nodeInfo/kernelVersion"))
    }),
    wide("Container-Runtime", |node| {
        json!(text(node, "/status/nodeInfo/containerRuntimeVersion"))
    }),
];

fn node_status(node: &Value) -> Value {
    let ready = list(node, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&json!(true)) {
        status.push_str(",SchedulingDisabled");
    }
    json!(status)
}

fn node_roles(node: &Value) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    json!(or_none(&roles.join(",")))
}

fn node_address(node: &Value, kind: &str) -> String {
    let found = list(node, "/status/addresses")
        .iter()
        .find(|address| text(address, "/type") == kind);
    or_none(
        found
            .map(|address| text(address, "/address"))
            .unwrap_or_default(),
    )
    .to_owned()
}

//! Nodes that take no new pods because a run wants it so: told from those that an operator cordoned by an annotation, which outlives
//! a run that is killed.

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::kubernetes::client::{Client, Patch};
use crate::model::names::NodeName;
use crate::model::reader::Table;
use crate::scenario::file::{self, Nodes};

/// The annotation of a node that a run cordoned.
const CORDONED: &str = "flightcage.dev/cordoned-by-run";

/// Reads `node`.
pub(super) fn read(table: &Table<'_, '_>, nodes: &Nodes) -> Option<NodeName> {
    table
        .require("node")
        .and_then(|value| file::node(&value, nodes))
}

/// Keeps new pods away from a node. One that somebody else cordoned stays theirs.
pub(super) async fn cordon(client: &Client, node: &NodeName) -> Result<(), String> {
    let failed = |error| format!("cordon node `{node}`: {error}");
    if takes_no_pods(&find(client, node).await?) {
        return Ok(());
    }
    let change = Patch::Merge(json!({
        "metadata": { "annotations": { CORDONED: "true" } },
        "spec": { "unschedulable": true },
    }));
    let changed = client.patch::<Node>("", node.as_str(), &change, None).await;
    changed.map(drop).map_err(failed)
}

/// Lets a node take pods again, whoever cordoned it.
pub(super) async fn uncordon(client: &Client, node: &NodeName) -> Result<(), String> {
    let failed = |error| format!("uncordon node `{node}`: {error}");
    find(client, node).await?;
    let change = Patch::Merge(json!({
        "metadata": { "annotations": { CORDONED: null } },
        "spec": { "unschedulable": null },
    }));
    let changed = client.patch::<Node>("", node.as_str(), &change, None).await;
    changed.map(drop).map_err(failed)
}

/// Lets a node take pods again if a run cordoned it; whether it did. A node that is no more is fine.
pub(in crate::scenario) async fn uncordon_ours(
    client: &Client,
    node: &NodeName,
) -> Result<bool, String> {
    let found = client.get_optional::<Node>("", node.as_str()).await;
    let found = found.map_err(|error| format!("uncordon node `{node}`: {error}"))?;
    if !found.as_ref().is_some_and(is_ours) {
        return Ok(false);
    }
    uncordon(client, node).await.map(|()| true)
}

async fn find(client: &Client, node: &NodeName) -> Result<Node, String> {
    let found = client.get_optional::<Node>("", node.as_str()).await;
    let found = found.map_err(|error| format!("read node `{node}`: {error}"))?;
    found.ok_or_else(|| format!("there is no node `{node}`"))
}

/// Whether new pods are kept away from it.
pub(super) fn takes_no_pods(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    spec.and_then(|spec| spec.unschedulable) == Some(true)
}

fn is_ours(node: &Node) -> bool {
    let annotations = node.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(CORDONED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_run_cordoned_is_given_back() {
        let node = |spec: serde_json::Value, annotations: serde_json::Value| -> Node {
            serde_json::from_value(
                json!({ "metadata": { "name": "w1", "annotations": annotations }, "spec": spec }),
            )
            .unwrap()
        };
        let operators = node(json!({ "unschedulable": true }), json!({ "a": "b" }));
        assert!(takes_no_pods(&operators) && !is_ours(&operators));
        let ours = node(
            json!({ "unschedulable": true }),
            json!({ CORDONED: "true" }),
        );
        assert!(takes_no_pods(&ours) && is_ours(&ours));
        let free = node(json!({}), json!({}));
        assert!(!takes_no_pods(&free) && !is_ours(&free));
    }
}

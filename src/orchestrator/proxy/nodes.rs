//! Which nodes have been declared dead. Pure.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;

/// The nodes that were dead at the last look.
#[derive(Debug, Default)]
pub(super) struct DeadNodes(BTreeSet<String>);

impl DeadNodes {
    /// The nodes that are dead now and were not before.
    pub(super) fn newly_dead<'a>(&mut self, nodes: impl IntoIterator<Item = &'a Node>) -> Vec<String> {
        let dead: BTreeSet<_> =
            nodes.into_iter().filter(|node| silent(node)).filter_map(|node| node.metadata.name.clone()).collect();
        let new = dead.difference(&self.0).cloned().collect();
        self.0 = dead;
        new
    }
}

/// The node controller sets `Ready` to `Unknown` when a node's heartbeats have stopped; `False` is what a living node says.
fn silent(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "Unknown")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, ready: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_newly_dead_once_each_time_it_falls_silent() {
        let mut dead = DeadNodes::default();
        assert!(dead.newly_dead(&[node("w1", "True"), node("w2", "False")]).is_empty());
        assert_eq!(dead.newly_dead(&[node("w1", "Unknown"), node("w2", "False")]), ["w1"]);
        assert!(dead.newly_dead(&[node("w1", "Unknown")]).is_empty());
        assert!(dead.newly_dead(&[node("w1", "True")]).is_empty());
        assert_eq!(dead.newly_dead(&[node("w1", "Unknown")]), ["w1"]);
    }
}

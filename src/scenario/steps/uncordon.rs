//! `uncordon = { node }`: a drained node takes pods again.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{StepAction, StepContext, StepType, node};
use crate::model::names::NodeName;
use crate::model::reader::Value;
use crate::scenario::file::Nodes;

pub(super) const UNCORDON: StepType = StepType {
    key: "uncordon",
    read,
};

fn read(value: &Value<'_, '_>, nodes: &Nodes) -> Option<Arc<dyn StepAction>> {
    let table = value.table()?;
    table.allow(&["node"]);
    let node = node::read(&table, nodes)?;
    Some(Arc::new(Uncordon { node }))
}

#[derive(Debug)]
struct Uncordon {
    node: NodeName,
}

impl StepAction for Uncordon {
    fn plan(&self) -> String {
        format!("let node `{}` take pods again", self.node)
    }

    fn node(&self) -> Option<&NodeName> {
        Some(&self.node)
    }

    fn run<'a>(&'a self, context: &'a StepContext<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(node::uncordon(context.client, &self.node))
    }
}

//! Nodes that a run drained are given back, however it ends.

use std::collections::BTreeSet;

use tokio::time::timeout;

use super::{ASKED_WITHIN, Run};
use crate::model::names::NodeName;
use crate::scenario::spec::Action;
use crate::scenario::steps::uncordon_ours;

impl Run<'_> {
    /// Lets the nodes take pods that the file's steps drained and did not give back; returns what could not be undone.
    pub(super) async fn uncordon_left(&self) -> Vec<String> {
        let steps = self.scenario.steps.iter();
        let nodes: BTreeSet<&NodeName> = steps
            .filter_map(|step| match &step.action {
                Action::Other(action) => action.node(),
                _ => None,
            })
            .collect();
        let mut doubts = Vec::new();
        for node in nodes {
            let undone = uncordon_ours(&self.environment.client, node);
            match timeout(ASKED_WITHIN, undone).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => self.tell(format!(
                    "node `{node}` was drained and not uncordoned by the file: it takes pods again"
                )),
                Ok(Err(error)) => doubts.push(error),
                Err(_) => doubts.push(format!("uncordon node `{node}`: the API does not answer")),
            }
        }
        for doubt in &doubts {
            self.tell(doubt.clone());
        }
        doubts
    }

    /// Lets the nodes of a cluster of ours take pods that a run drained which was killed before its end.
    pub(super) async fn uncordon_earlier(&self) {
        for node in &self.environment.nodes {
            let undone = uncordon_ours(&self.environment.client, node);
            match timeout(ASKED_WITHIN, undone).await {
                Ok(Ok(true)) => self.tell(format!(
                    "node `{node}` had been drained by an earlier run: it takes pods again"
                )),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => self.tell(error),
                // Whoever deploys next finds that out, and says so.
                Err(_) => return,
            }
        }
    }
}

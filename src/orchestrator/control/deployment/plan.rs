//! What is to change in each ReplicaSet: one write a set and round.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::{Value, json};

use super::size;
use crate::orchestrator::control::world::{Action, Target};

/// The changes of all sets, in the order in which they were decided.
#[derive(Default)]
pub(super) struct Plan<'a>(Vec<(&'a ReplicaSet, Change)>);

/// The change of one set.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Change {
    pub(super) replicas: Option<i32>,
    pub(super) min_ready_seconds: Option<i32>,
    pub(super) annotations: BTreeMap<&'static str, String>,
    /// Annotations that follow the Deployment's; `None` removes one.
    pub(super) copied: BTreeMap<String, Option<String>>,
}

impl<'a> Plan<'a> {
    /// The change of this set.
    pub(super) fn of(&mut self, set: &'a ReplicaSet) -> &mut Change {
        let found = self
            .0
            .iter()
            .position(|(known, _)| known.metadata.uid == set.metadata.uid);
        let at = found.unwrap_or_else(|| {
            self.0.push((set, Change::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }

    /// The size that a set will have.
    pub(super) fn size(&self, set: &ReplicaSet) -> i32 {
        let planned = self
            .0
            .iter()
            .find(|(known, _)| known.metadata.uid == set.metadata.uid)
            .and_then(|(_, change)| change.replicas);
        planned.unwrap_or_else(|| size(set))
    }

    /// Every change.
    pub(super) fn changes(&self) -> impl Iterator<Item = (&'a ReplicaSet, &Change)> {
        self.0.iter().map(|(set, change)| (*set, change))
    }
}

impl Change {
    /// The write, if anything differs.
    pub(super) fn action(&self, set: &ReplicaSet) -> Option<Action> {
        let mut patch = json!({});
        if let Some(replicas) = self.replicas.filter(|replicas| *replicas != size(set)) {
            patch["spec"]["replicas"] = json!(replicas);
        }
        let known = set.spec.min_ready_seconds.unwrap_or(0);
        if let Some(seconds) = self.min_ready_seconds.filter(|seconds| *seconds != known) {
            patch["spec"]["minReadySeconds"] = json!(seconds);
        }
        let held = |name: &str| {
            let annotations = set.metadata.annotations.as_ref()?;
            annotations.get(name)
        };
        for (name, value) in &self.annotations {
            if held(name) != Some(value) {
                patch["metadata"]["annotations"][*name] = json!(value);
            }
        }
        for (name, value) in &self.copied {
            if held(name) != value.as_ref() {
                patch["metadata"]["annotations"][name] = json!(value);
            }
        }
        (patch != Value::Object(serde_json::Map::new())).then(|| Action::Patch {
            target: Target::of("ReplicaSet", &set.metadata),
            status: false,
            patch,
        })
    }
}

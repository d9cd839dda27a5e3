//! In which order the objects of a file are created, and what of that is impossible whatever the cluster has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{DEFAULT_NAMESPACE, portable};
use crate::kubernetes::client::{ResourceKind, resource_for};
use crate::kubernetes::manifest::{Manifest, ManifestProblem};

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) api_version: String,
    pub(super) kind: &'static str,
    /// Empty for kinds without one.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    fn new(kind: &ResourceKind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.namespaced { namespace } else { "" };
        Self {
            api_version: kind.api_version(),
            kind: kind.kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub(super) fn of_namespace(name: &str) -> Self {
        Self {
            api_version: "v1".to_owned(),
            kind: "Namespace",
            namespace: String::new(),
            name: name.to_owned(),
        }
    }

    pub(super) fn is_namespace(&self) -> bool {
        self.kind == "Namespace" && self.api_version == "v1"
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} `{}`", self.kind, self.name)
        } else {
            write!(f, "{} `{}/{}`", self.kind, self.namespace, self.name)
        }
    }
}

/// The objects of a file, in order.
#[derive(Debug)]
pub(super) struct Plan {
    /// Each object's own.
    pub(super) keys: Vec<Key>,
    /// Each object's owners, with their place among its references.
    pub(super) owners: Vec<Vec<(usize, Key)>>,
    /// The objects by number: what comes first is created first.
    pub(super) order: Vec<usize>,
    /// What is wrong.
    pub(super) problems: Vec<ManifestProblem>,
}

impl Plan {
    pub(super) fn new(manifests: &[Manifest]) -> Self {
        let mut problems = Vec::new();
        let keys: Vec<Key> = manifests.iter().map(key_of).collect();
        let mut lines: BTreeMap<&Key, u64> = BTreeMap::new();
        for (manifest, key) in manifests.iter().zip(&keys) {
            if !portable::is_carried(&manifest.kind) {
                let what = format!("{key} is the cluster's own doing: take it out");
                problems.push(problem(manifest, "kind", what));
            }
            if let Some(line) = lines.insert(key, manifest.line) {
                let what = format!("{key} is on line {line} already: take one of them out");
                problems.push(problem(manifest, "metadata.name", what));
            }
        }
        let owners: Vec<Vec<(usize, Key)>> = manifests
            .iter()
            .zip(&keys)
            .map(|(manifest, key)| owners_of(manifest, key, &mut problems))
            .collect();
        let order = in_order(manifests, &keys, &owners, &mut problems);
        Self {
            keys,
            owners,
            order,
            problems,
        }
    }

    /// Owners and namespaces that have to be in the cluster, since they are not in the file.
    pub(super) fn outside(&self) -> BTreeSet<Key> {
        let inside: BTreeSet<&Key> = self.keys.iter().collect();
        let owners = self.owners.iter().flatten().map(|(_, owner)| owner.clone());
        let namespaces = self
            .keys
            .iter()
            .filter(|key| !key.namespace.is_empty())
            .map(|key| Key::of_namespace(&key.namespace));
        owners
            .chain(namespaces)
            .filter(|key| !inside.contains(key))
            .collect()
    }

    /// What is neither in the file nor among `known`, which the cluster has.
    pub(super) fn missing(
        &self,
        manifests: &[Manifest],
        known: &BTreeMap<Key, String>,
    ) -> Vec<ManifestProblem> {
        let is_missing = {
            let outside = self.outside();
            move |key: &Key| outside.contains(key) && !known.contains_key(key)
        };
        let mut problems = Vec::new();
        for ((manifest, key), owners) in manifests.iter().zip(&self.keys).zip(&self.owners) {
            let namespace = Key::of_namespace(&key.namespace);
            if !key.namespace.is_empty() && is_missing(&namespace) {
                let what = format!("there is no {namespace}, or it is going: add it to the file");
                problems.push(problem(manifest, "metadata.namespace", what));
            }
            for (at, owner) in owners {
                if is_missing(owner) {
                    let what = format!(
                        "its owner {owner} is neither here nor in the cluster: add it, or take the reference out"
                    );
                    let field = format!("metadata.ownerReferences[{at}]");
                    problems.push(problem(manifest, &field, what));
                }
            }
        }
        problems
    }
}

/// Something wrong with a field of an object.
pub(super) fn problem(manifest: &Manifest, field: &str, problem: String) -> ManifestProblem {
    let (line, column) = manifest.locate(field);
    ManifestProblem {
        source: manifest.source.clone(),
        line,
        column,
        problem,
    }
}

fn key_of(manifest: &Manifest) -> Key {
    Key::new(
        &manifest.kind,
        manifest.namespace(DEFAULT_NAMESPACE),
        manifest.name(),
    )
}

fn owners_of(
    manifest: &Manifest,
    key: &Key,
    problems: &mut Vec<ManifestProblem>,
) -> Vec<(usize, Key)> {
    let references = manifest.value["metadata"]["ownerReferences"].as_array();
    let mut owners = Vec::new();
    for (at, reference) in references.into_iter().flatten().enumerate() {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        match resource_for(text("apiVersion"), text("kind")) {
            Some(kind) => owners.push((at, Key::new(&kind, &key.namespace, text("name")))),
            None => {
                let field = format!("metadata.ownerReferences[{at}]");
                let what = "its owner is of a kind that is not served: take the reference out";
                problems.push(problem(manifest, &field, what.to_owned()));
            }
        }
    }
    owners
}

/// Namespaces first, then what pods need, then what makes pods.
fn rank(kind: &ResourceKind) -> u8 {
    match kind.kind {
        "Namespace" => 0,
        "Service" => 1,
        _ if kind.in_all => 2,
        _ => 1,
    }
}

/// By rank, and every owner before what it owns.
fn in_order(
    manifests: &[Manifest],
    keys: &[Key],
    owners: &[Vec<(usize, Key)>],
    problems: &mut Vec<ManifestProblem>,
) -> Vec<usize> {
    let inside: BTreeSet<&Key> = keys.iter().collect();
    let mut waiting: Vec<usize> = (0..manifests.len()).collect();
    waiting.sort_by_key(|index| rank(&manifests[*index].kind));
    let mut order = Vec::new();
    let mut placed: BTreeSet<&Key> = BTreeSet::new();
    while !waiting.is_empty() {
        let is_ready = |index: &usize| {
            owners[*index]
                .iter()
                .all(|(_, owner)| !inside.contains(owner) || placed.contains(owner))
        };
        let (ready, later): (Vec<usize>, Vec<usize>) = waiting.iter().copied().partition(is_ready);
        if ready.is_empty() {
            for index in later {
                let manifest = &manifests[index];
                let what = "its owners own each other: take a reference out".to_owned();
                problems.push(problem(manifest, "metadata.ownerReferences", what));
            }
            break;
        }
        placed.extend(ready.iter().map(|index| &keys[*index]));
        order.extend(ready);
        waiting = later;
    }
    order
}

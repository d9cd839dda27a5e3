//! The objects of a cluster as one file, and back.
//!
//! The file is JSON, an object a line, so that `kubectl apply -f` reads it as well, and whatever is wrong with it has a line. It holds what
//! was asked for, not what the cluster made of it:
//! - what controllers made of other objects is left to them; what the cluster keeps itself (nodes, Endpoints, Leases, Events) is its own;
//! - status, uid, resourceVersion, generation, times and owners of fields are of one cluster, and are not carried;
//! - of kinds that CustomResourceDefinitions define, the definitions are carried, and their objects only counted;
//! - owner references are carried: an owner is created before what it owns, and its new uid takes the place of the old one.
//!
//! Each kind is listed by itself: what changes meanwhile is in the file as it was before or after. An import changes nothing unless all
//! is right, as far as a server says that before it is asked in earnest; if it is then refused all the same, what was created goes again.

mod plan;
mod portable;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{
    Client, ClientError, DeleteParams, ListParams, RESOURCES, ResourceKind, resource_for,
};
use super::manifest::{DEFINITION, Manifest, ManifestProblem, kinds_defined};
use plan::{Key, Plan};

pub use portable::{Left, Secrets};

/// Where objects live that name no namespace.
const DEFAULT_NAMESPACE: &str = "default";

/// Why objects could not be exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file is wrong, or does not go with what the cluster has: everything that is.
    #[error("{}; nothing was changed", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<ManifestProblem>),
    /// The server did not say what it has.
    #[error("ask for {what}")]
    Ask {
        /// Of what.
        what: String,
        /// What it said.
        #[source]
        source: Box<ClientError>,
    },
    /// The server refused an object that had seemed right.
    #[error("create {object} ({}:{line}); {}", path.display(), taken_back(left))]
    Create {
        /// Kind and name.
        object: String,
        /// The file.
        path: PathBuf,
        /// The line on which it begins.
        line: u64,
        /// What was created before it and could not be removed again.
        left: Vec<String>,
        /// What the server said.
        #[source]
        source: Box<ClientError>,
    },
    /// The user had enough.
    #[error("interrupted; {}", taken_back(.0))]
    Interrupted(Vec<String>),
}

fn taken_back(left: &[String]) -> String {
    if left.is_empty() {
        return "what was created before is removed again".to_owned();
    }
    format!(
        "of what was created before, these could not be removed again: {}",
        left.join(", ")
    )
}

fn asking(what: impl Into<String>) -> impl FnOnce(ClientError) -> TransferError {
    let what = what.into();
    move |source| TransferError::Ask {
        what,
        source: Box::new(source),
    }
}

/// A cluster's objects as a file's text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// An object a line.
    pub text: String,
    /// How many they are.
    pub objects: usize,
    /// What is not among them.
    pub left: BTreeMap<Left, usize>,
}

impl Exported {
    fn add(&mut self, kind: &ResourceKind, object: &Value, secrets: Secrets) {
        match portable::portable(kind, object, secrets) {
            Ok(object) => {
                self.text.push_str(&object.to_string());
                self.text.push('\n');
                self.objects += 1;
            }
            Err(left) => *self.left.entry(left).or_default() += 1,
        }
    }
}

/// Reads all objects that can be carried to another cluster.
///
/// # Errors
/// When the server does not answer.
pub async fn export(client: &Client, secrets: Secrets) -> Result<Exported, TransferError> {
    let mut exported = Exported::default();
    for kind in RESOURCES.iter().filter(|kind| portable::is_carried(kind)) {
        let listed = client
            .list_values(kind, "", &ListParams::all())
            .await
            .map_err(asking(kind.resource()))?;
        for object in &listed.items {
            exported.add(kind, object, secrets);
        }
        if kind.kind == DEFINITION {
            let custom = count_custom(client, &listed.items).await?;
            if custom > 0 {
                exported.left.insert(Left::Custom, custom);
            }
        }
    }
    Ok(exported)
}

/// How many objects there are of the kinds that these define.
async fn count_custom(client: &Client, definitions: &[Value]) -> Result<usize, TransferError> {
    let mut count = 0;
    for definition in definitions {
        // Each version of a kind lists all of its objects.
        if let Some(kind) = kinds_defined(definition).first() {
            let listed = client.list_values(kind, "", &ListParams::all()).await;
            count += listed.map_err(asking(kind.resource()))?.items.len();
        }
    }
    Ok(count)
}

/// An object that was created, or a namespace that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its namespace, empty if the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it is new.
    pub created: bool,
}

/// Creates all objects of a file, each after its namespace and its owners. Once `stop` is set, no other is begun.
///
/// # Errors
/// When one is wrong, exists already, or lacks its namespace or its owner: all of that at once, and nothing was changed. When the server
/// refuses one in earnest: what was created is removed again.
pub async fn import(
    client: &Client,
    manifests: &[Manifest],
    stop: &AtomicBool,
) -> Result<Vec<Imported>, TransferError> {
    let plan = Plan::new(manifests);
    let mut known = look(client, manifests, &plan).await?;
    let mut imported = Vec::new();
    let mut created: Vec<(usize, String)> = Vec::new();
    for index in &plan.order {
        let (index, key) = (*index, &plan.keys[*index]);
        let is_there = known.contains_key(key);
        if !is_there {
            if stop.load(Ordering::SeqCst) {
                let left = take_back(client, manifests, &plan, &created).await;
                return Err(TransferError::Interrupted(left));
            }
            let manifest = &manifests[index];
            let object = with_owners(manifest, &plan.owners[index], &known);
            match client
                .create_value(&manifest.kind, &key.namespace, &object)
                .await
            {
                Ok(answer) => {
                    let uid = uid_of(&answer);
                    created.push((index, uid.clone()));
                    known.insert(key.clone(), uid);
                }
                Err(source) => {
                    return Err(TransferError::Create {
                        object: key.to_string(),
                        path: manifest.source.clone(),
                        line: manifest.line,
                        left: take_back(client, manifests, &plan, &created).await,
                        source: Box::new(source),
                    });
                }
            }
        }
        imported.push(Imported {
            kind: manifests[index].kind.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            created: !is_there,
        });
    }
    Ok(imported)
}

/// Holds the file against what the cluster has, and changes nothing. Returns the uids of owners and namespaces that are there.
async fn look(
    client: &Client,
    manifests: &[Manifest],
    plan: &Plan,
) -> Result<BTreeMap<Key, String>, TransferError> {
    let mut problems = plan.problems.clone();
    let mut known = BTreeMap::new();
    for key in plan.outside() {
        if let Some(found) = find(client, &key).await? {
            known.insert(key, found);
        }
    }
    let mut present = BTreeSet::new();
    for (manifest, key) in manifests.iter().zip(&plan.keys) {
        match find(client, key).await? {
            None => {}
            Some(found) if key.is_namespace() => {
                known.insert(key.clone(), found);
            }
            Some(_) => {
                present.insert(key.clone());
                problems.push(plan::problem(
                    manifest,
                    "metadata.name",
                    format!("{key} exists already: delete it, or take it out"),
                ));
            }
        }
    }
    problems.extend(plan.missing(manifests, &known));
    for (index, manifest) in manifests.iter().enumerate() {
        let key = &plan.keys[index];
        // In a namespace that is not there yet nothing can be tried.
        let can_be_tried =
            !manifest.kind.namespaced || known.contains_key(&Key::of_namespace(&key.namespace));
        if !can_be_tried || known.contains_key(key) || present.contains(key) {
            continue;
        }
        if let Some(said) = try_out(client, manifest, key).await? {
            problems.push(plan::problem(manifest, "", format!("{key}: {said}")));
        }
    }
    if problems.is_empty() {
        return Ok(known);
    }
    problems.sort_by_key(|problem| (problem.source.clone(), problem.line, problem.column));
    Err(TransferError::Invalid(problems))
}

/// The uid of an object that is there.
async fn find(client: &Client, key: &Key) -> Result<Option<String>, TransferError> {
    let Some(kind) = resource_for(&key.api_version, key.kind) else {
        return Ok(None);
    };
    match client.get_value(&kind, &key.namespace, &key.name).await {
        // One that goes is no place for new objects.
        Ok(found) if key.is_namespace() && !found["metadata"]["deletionTimestamp"].is_null() => {
            Ok(None)
        }
        Ok(found) => Ok(Some(uid_of(&found))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(asking(key.to_string())(error)),
    }
}

/// What the server would say, without doing it.
async fn try_out(
    client: &Client,
    manifest: &Manifest,
    key: &Key,
) -> Result<Option<String>, TransferError> {
    let path = format!(
        "{}?dryRun=All",
        manifest.kind.collection_path(&key.namespace)
    );
    match client.raw(Method::POST, &path, Some(&manifest.value)).await {
        Ok(_) => Ok(None),
        Err(error) if error.is_temporary() || error.code().is_none() => {
            Err(asking(key.to_string())(error))
        }
        Err(error) => Ok(Some(error.to_string())),
    }
}

/// The object with its owners' uids in this cluster.
fn with_owners(
    manifest: &Manifest,
    owners: &[(usize, Key)],
    known: &BTreeMap<Key, String>,
) -> Value {
    let mut object = manifest.value.clone();
    for (at, owner) in owners {
        if let Some(uid) = known.get(owner) {
            object["metadata"]["ownerReferences"][*at]["uid"] = json!(uid);
        }
    }
    object
}

fn uid_of(object: &Value) -> String {
    object["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Removes what was created, the last first, and nothing that somebody else made of the same name. Returns what could not be removed.
async fn take_back(
    client: &Client,
    manifests: &[Manifest],
    plan: &Plan,
    created: &[(usize, String)],
) -> Vec<String> {
    let mut left = Vec::new();
    for (index, uid) in created.iter().rev() {
        let key = &plan.keys[*index];
        let params = DeleteParams {
            uid: Some(uid.clone()),
            ..DeleteParams::default()
        };
        let kind = &manifests[*index].kind;
        match client
            .delete_value(kind, &key.namespace, &key.name, &params)
            .await
        {
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => left.push(format!("{key} ({error})")),
        }
    }
    left
}

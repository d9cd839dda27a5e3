//! The API as the pod logic needs it, and the Secrets and ConfigMaps that a pod names.
//!
//! They are read one by one, as a node may. What was read last is kept in the pod's directory in memory (mode 0600), so that a
//! container can be restarted, also by a restarted agent, while the API is away.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodStatus, Secret};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::volumes::{Roots, make_private_parents};
use crate::kubernetes::client::{Client, ClientError, DeleteParams, Patch};
use crate::model::json;

/// What a status update came to.
#[derive(Debug)]
pub(crate) enum Patched {
    /// The API has it; the pod as it is there now.
    Done(Box<Pod>),
    /// The pod, or this one of its name, is gone.
    Gone,
}

/// What the pod logic asks of the API. Implemented over [`Client`], and by a fake in tests. Errors are for logs and events only:
/// every call is tried again.
pub(crate) trait PodApi: Send + Sync + 'static {
    /// Reads a Secret; `None` if there is none.
    fn secret(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<Secret>, String>> + Send;
    /// Reads a ConfigMap; `None` if there is none.
    fn config_map(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Option<ConfigMap>, String>> + Send;
    /// Writes a pod's status, of this UID only.
    fn patch_status(&self, pod: &Pod, status: &PodStatus) -> impl Future<Output = Result<Patched, String>> + Send;
    /// Deletes a pod at once, of this UID only. Absent is fine.
    fn delete(&self, pod: &Pod) -> impl Future<Output = Result<(), String>> + Send;
}

fn text(error: &ClientError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn key(pod: &Pod) -> (&str, &str, &str) {
    let metadata = &pod.metadata;
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default(),
    )
}

impl PodApi for Client {
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, String> {
        self.get_optional(namespace, name).await.map_err(|error| text(&error))
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, String> {
        self.get_optional(namespace, name).await.map_err(|error| text(&error))
    }

    async fn patch_status(&self, pod: &Pod, status: &PodStatus) -> Result<Patched, String> {
        let (namespace, name, uid) = key(pod);
        let patch = Patch::Merge(json!({"metadata": {"uid": uid}, "status": status}));
        match self.patch::<Pod>(namespace, name, &patch, Some("status")).await {
            Ok(pod) if pod.metadata.uid.as_deref() == Some(uid) => Ok(Patched::Done(Box::new(pod))),
            Ok(_) => Ok(Patched::Gone),
            Err(error) if error.is_not_found() || error.is_conflict() => {
                // A conflict of UIDs and one of writers look the same; who is there now tells them apart.
                match self.get_optional::<Pod>(namespace, name).await.map_err(|error| text(&error))? {
                    Some(there) if there.metadata.uid.as_deref() == Some(uid) => Err(text(&error)),
                    _ => Ok(Patched::Gone),
                }
            }
            Err(error) => Err(text(&error)),
        }
    }

    async fn delete(&self, pod: &Pod) -> Result<(), String> {
        let (namespace, name, uid) = key(pod);
        let params = DeleteParams { grace_period_seconds: Some(0), propagation: None, uid: Some(uid.to_owned()) };
        match Client::delete::<Pod>(self, namespace, name, &params).await {
            // Gone, or another pod of this name is there: ours is deleted.
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(text(&error)),
            _ => Ok(()),
        }
    }
}

/// The Secrets and ConfigMaps of a pod, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodObjects {
    /// Those that exist.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Those that exist.
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
}

/// Names of the Secrets and the ConfigMaps that a pod uses.
pub(crate) fn names(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut secrets, mut config_maps) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return (secrets, config_maps) };
    for volume in spec.volumes.iter().flatten() {
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
    }
    let containers: Vec<&Container> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
    for container in containers {
        for source in container.env_from.iter().flatten() {
            secrets.extend(source.secret_ref.iter().map(|reference| reference.name.clone()));
            config_maps.extend(source.config_map_ref.iter().map(|reference| reference.name.clone()));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
            config_maps.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
        }
    }
    (secrets, config_maps)
}

/// Reads what a pod names; from what was kept, when the API is away.
pub(crate) async fn fetch<A: PodApi>(api: &A, pod: &Pod, roots: &Roots) -> Result<PodObjects, String> {
    let (secrets, config_maps) = names(pod);
    if secrets.is_empty() && config_maps.is_empty() {
        return Ok(PodObjects::default());
    }
    let (namespace, _, uid) = key(pod);
    let path = roots.pod_volatile(uid).join("objects.json");
    let kept = load(&path);
    let mut objects = PodObjects::default();
    for name in secrets {
        let found = match api.secret(namespace, &name).await {
            Ok(found) => found,
            Err(why) => Some(kept.secrets.get(&name).cloned().ok_or(why)?),
        };
        objects.secrets.extend(found.map(|secret| (name, secret)));
    }
    for name in config_maps {
        let found = match api.config_map(namespace, &name).await {
            Ok(found) => found,
            Err(why) => Some(kept.config_maps.get(&name).cloned().ok_or(why)?),
        };
        objects.config_maps.extend(found.map(|map| (name, map)));
    }
    if objects != kept
        && let Err(error) = keep(&path, &objects)
    {
        tracing::warn!(path = %path.display(), %error, "the pod's Secrets and ConfigMaps cannot be kept for a time without API");
    }
    Ok(objects)
}

fn load(path: &Path) -> PodObjects {
    std::fs::read(path).ok().and_then(|bytes| json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn keep(path: &Path, objects: &PodObjects) -> io::Result<()> {
    write_private(path, &json::to_vec(objects)?)
}

/// Replaces a file that only this user may read, in one step.
pub(crate) fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    make_private_parents(path)?;
    let mut next = PathBuf::from(path);
    next.set_extension("next");
    drop(std::fs::remove_file(&next));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    file.write_all(contents)?;
    drop(file);
    std::fs::rename(&next, path)
}

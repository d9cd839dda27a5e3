//! The API as the pod logic needs it, and the Secrets and ConfigMaps that a pod names, and its tokens.
//!
//! They are read one by one, as a node may. What was read last is kept in the pod's directory in memory (mode 0600), so that a
//! container can be restarted, also by a restarted agent, while the API is away.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodStatus, Secret};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::tokens::{self, Token, Wanted};
use super::volumes::Roots;
use crate::model::json;
use crate::orchestrator::private_file::write_private;

/// What a status update came to.
#[derive(Debug)]
pub(crate) enum Patched {
    /// The API has it; the pod as it is there now.
    Done(Box<Pod>),
    /// The pod, or this one of its name, is gone.
    Gone,
}

/// What the pod logic asks of the API. Implemented by [`super::server::Server`], and by a fake in tests. Errors are for logs and events only:
/// every call is tried again.
pub(crate) trait PodApi: Send + Sync + 'static {
    /// Reads a Secret; `None` if there is none.
    fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Secret>, String>> + Send;
    /// Reads a ConfigMap; `None` if there is none.
    fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<ConfigMap>, String>> + Send;
    /// Asks for a token of the pod's ServiceAccount, bound to the pod.
    fn token(
        &self,
        pod: &Pod,
        wanted: &Wanted,
    ) -> impl Future<Output = Result<Token, String>> + Send;
    /// From now on, `changed` is told whenever a Secret or ConfigMap that the pod names may have changed, until the handles are
    /// dropped.
    fn watch_objects(&self, pod: &Pod, changed: &Arc<Notify>) -> Vec<AbortOnDropHandle<()>>;
    /// Writes a pod's status, of this UID only.
    fn patch_status(
        &self,
        pod: &Pod,
        status: &PodStatus,
    ) -> impl Future<Output = Result<Patched, String>> + Send;
    /// Deletes a pod at once, of this UID only. Absent is fine.
    fn delete(&self, pod: &Pod) -> impl Future<Output = Result<(), String>> + Send;
}

/// Namespace, name and UID.
pub(crate) fn key(pod: &Pod) -> (&str, &str, &str) {
    let metadata = &pod.metadata;
    (
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
        metadata.uid.as_deref().unwrap_or_default(),
    )
}

/// The Secrets and ConfigMaps of a pod, by name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodObjects {
    /// Those that exist.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Those that exist.
    pub(crate) config_maps: BTreeMap<String, ConfigMap>,
    /// Tokens, by [`Wanted::key`].
    #[serde(default)]
    pub(crate) tokens: BTreeMap<String, Token>,
}

/// Names of the Secrets and the ConfigMaps that a pod uses.
pub(crate) fn names(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut secrets, mut config_maps) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else {
        return (secrets, config_maps);
    };
    for volume in spec.volumes.iter().flatten() {
        secrets.extend(
            volume
                .secret
                .iter()
                .filter_map(|source| source.secret_name.clone()),
        );
        config_maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        let projected = volume.projected.as_ref();
        for part in projected
            .and_then(|all| all.sources.as_ref())
            .into_iter()
            .flatten()
        {
            secrets.extend(part.secret.iter().map(|source| source.name.clone()));
            config_maps.extend(part.config_map.iter().map(|source| source.name.clone()));
        }
    }
    let containers: Vec<&Container> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .collect();
    for container in containers {
        for source in container.env_from.iter().flatten() {
            secrets.extend(
                source
                    .secret_ref
                    .iter()
                    .map(|reference| reference.name.clone()),
            );
            config_maps.extend(
                source
                    .config_map_ref
                    .iter()
                    .map(|reference| reference.name.clone()),
            );
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| variable.value_from.as_ref())
        {
            secrets.extend(
                source
                    .secret_key_ref
                    .iter()
                    .map(|reference| reference.name.clone()),
            );
            config_maps.extend(
                source
                    .config_map_key_ref
                    .iter()
                    .map(|reference| reference.name.clone()),
            );
        }
    }
    (secrets, config_maps)
}

/// Whether a volume of the pod shows something of the pod itself.
pub(crate) fn shows_itself(pod: &Pod) -> bool {
    let mut volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| {
        let projected = volume
            .projected
            .as_ref()
            .and_then(|all| all.sources.as_ref());
        volume.downward_api.is_some()
            || projected
                .into_iter()
                .flatten()
                .any(|part| part.downward_api.is_some())
    })
}

/// Reads what a pod names; from what was kept, when the API is away.
pub(crate) async fn fetch<A: PodApi>(
    api: &A,
    pod: &Pod,
    roots: &Roots,
) -> Result<PodObjects, String> {
    let (secrets, config_maps) = names(pod);
    let wanted = tokens::wanted(pod);
    if secrets.is_empty() && config_maps.is_empty() && wanted.is_empty() {
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
    for wanted in wanted {
        let (known, now) = (kept.tokens.get(&wanted.key()), tokens::now());
        let token = match known.filter(|token| token.is_fresh(now)) {
            Some(fresh) => fresh.clone(),
            None => match api.token(pod, &wanted).await {
                Ok(token) => token,
                Err(why) => known
                    .filter(|token| token.is_good(now))
                    .cloned()
                    .ok_or(why)?,
            },
        };
        objects.tokens.insert(wanted.key(), token);
    }
    if objects != kept
        && let Err(error) = keep(&path, &objects)
    {
        tracing::warn!(path = %path.display(), %error, "the pod's Secrets and ConfigMaps cannot be kept for a time without API");
    }
    Ok(objects)
}

fn load(path: &Path) -> PodObjects {
    std::fs::read(path)
        .ok()
        .and_then(|bytes| json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn keep(path: &Path, objects: &PodObjects) -> io::Result<()> {
    write_private(path, &json::to_vec(objects)?)
}

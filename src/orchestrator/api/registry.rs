//! The objects, as the HTTP layer and the controllers use them: every rule of the API that does not depend on who asks.
//!
//! Reads are synchronous (they come from memory). Writes are retried here when they raced another write and the caller named no
//! resourceVersion; otherwise the caller gets 409 and decides.

mod account;
mod delete;
mod evict;
pub(super) mod scale;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

pub use super::kinds::Propagation;
pub use delete::DeleteOptions;
pub(super) use write::{Run, now};

use super::custom::{self, Customs, Served};
use super::heartbeats::Heartbeats;
use super::kinds::{self, Kind, Subresource};
use super::patch::Patch;
use super::rbac::Cache;
use super::status::Status;
use crate::model::image_policy::ImagePolicy;
use crate::orchestrator::store::{Condition, Entry, Event, Page, Revision, Store, Window};

/// How often a write that lost a race is tried again.
const RACE_RETRIES: usize = 16;

/// All objects of the cluster, and the beats of its nodes.
pub struct Registry {
    store: Arc<dyn Store>,
    /// Who beats.
    pub heartbeats: Arc<Heartbeats>,
    /// Kinds that definitions define.
    customs: Customs,
    /// Serialises allocation of cluster addresses and node ports.
    allocation: tokio::sync::Mutex<()>,
    /// Restricted labels that the cluster's file gives a node, which may therefore set them.
    granted_labels: BTreeMap<String, BTreeSet<String>>,
    /// Whether objects are taken that ask for protection which nobody here enforces.
    accepts_unenforced: bool,
    /// Whether new pods get a token of their account.
    gives_tokens: bool,
    /// Who is granted what.
    pub(super) policy: Cache,
    /// Which images may run.
    images: ImagePolicy,
}

impl Registry {
    /// On `store`. `bootstrap::ensure` creates the objects every cluster has.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, heartbeats: Arc<Heartbeats>) -> Self {
        let registry = Self {
            store,
            heartbeats,
            customs: Customs::default(),
            allocation: tokio::sync::Mutex::default(),
            granted_labels: BTreeMap::new(),
            accepts_unenforced: false,
            gives_tokens: false,
            policy: Cache::default(),
            images: ImagePolicy::default(),
        };
        registry.refresh_customs();
        registry
    }

    /// The kinds that are served now, those of definitions among them.
    #[must_use]
    pub fn served(&self) -> Arc<Served> {
        self.customs.served()
    }

    /// Serves what the stored definitions define.
    fn refresh_customs(&self) {
        let (definitions, _) = self.list(&kinds::CUSTOM_RESOURCE_DEFINITION, None);
        self.customs.refresh(&definitions);
    }

    /// After a write of this kind: definitions have their effect before the write is answered.
    fn written(&self, kind: &Kind) {
        if kind.is(&kinds::CUSTOM_RESOURCE_DEFINITION) {
            self.refresh_customs();
        }
    }

    /// A definition that waits for names may have them now that another one has changed or is gone.
    async fn settle_names(&self, kind: &Kind) {
        if !kind.is(&kinds::CUSTOM_RESOURCE_DEFINITION) {
            return;
        }
        let kind = &kinds::CUSTOM_RESOURCE_DEFINITION;
        let (definitions, _) = self.list(kind, None);
        let waiting = definitions
            .iter()
            .filter(|crd| custom::names::waits_for_names(crd));
        for crd in waiting {
            let name = crd.pointer("/metadata/name").and_then(Value::as_str);
            let again = |current: &Value| Ok(current.clone());
            let run = write::Run::Real;
            let name = name.unwrap_or_default();
            if let Err(error) = write::update(self, kind, None, name, None, &again, run).await {
                tracing::warn!(name, %error, "a definition still waits for its names");
            }
        }
    }

    /// Taking objects that ask for protection which nobody here enforces, or not.
    #[must_use]
    pub fn accepting_unenforced(mut self, accepts: bool) -> Self {
        self.accepts_unenforced = accepts;
        self
    }

    /// Giving new pods a token of their account, or not.
    #[must_use]
    pub fn giving_tokens(mut self, gives: bool) -> Self {
        self.gives_tokens = gives;
        self
    }

    /// Taking only pods, and what makes pods, whose images this allows.
    #[must_use]
    pub fn admitting(mut self, images: ImagePolicy) -> Self {
        self.images = images;
        self
    }

    /// With labels of Kubernetes' own prefixes that some nodes may set, by node.
    #[must_use]
    pub fn granting(mut self, labels: BTreeMap<String, BTreeSet<String>>) -> Self {
        self.granted_labels = labels;
        self
    }

    /// Whether the cluster's file gives the node this label.
    #[must_use]
    pub fn grants_label(&self, node: &str, label: &str) -> bool {
        self.granted_labels
            .get(node)
            .is_some_and(|labels| labels.contains(label))
    }

    /// Every object of a kind, of one namespace or of all, and the revision at which the list is true.
    #[must_use]
    pub fn list(&self, kind: &Kind, namespace: Option<&str>) -> (Vec<Arc<Value>>, Revision) {
        match self.page(kind, namespace, Window::default()) {
            Ok(page) => (
                page.entries.into_iter().map(|entry| entry.value).collect(),
                page.revision,
            ),
            // Only a window on the past can fail.
            Err(_) => (Vec::new(), self.revision()),
        }
    }

    /// A page of a kind.
    pub fn page(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        window: Window<'_>,
    ) -> Result<Page, Status> {
        let mut page = self
            .store
            .range(&kind.prefix(namespace), window)
            .map_err(|error| Status::from_store(&error, kind, ""))?;
        if kind.custom.is_some() {
            for entry in &mut page.entries {
                entry.value = custom::as_read(kind, entry.value.clone());
            }
        }
        Ok(page)
    }

    /// One object. `namespace` is `None` for kinds without namespaces.
    pub fn get(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<Arc<Value>, Status> {
        Ok(self.entry(kind, namespace, name)?.value)
    }

    /// Creates an object and returns it as stored. `metadata.name` or `metadata.generateName` is needed.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Arc<Value>, Status> {
        write::create(self, kind, namespace, object, write::Run::Real).await
    }

    /// Replaces an object, or with [`Subresource::Status`] only its status. If the object names a `metadata.resourceVersion`, it
    /// must be the current one.
    pub async fn update(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<Subresource>,
        object: Value,
    ) -> Result<Arc<Value>, Status> {
        let change = |_: &Value| Ok(object.clone());
        self.change(
            kind,
            namespace,
            name,
            subresource,
            &change,
            write::Run::Real,
        )
        .await
    }

    /// Changes an object, or with [`Subresource::Status`] only its status.
    pub async fn patch(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<Subresource>,
        patch: Patch,
    ) -> Result<Arc<Value>, Status> {
        let change = |current: &Value| patch.apply(kind, current);
        self.change(
            kind,
            namespace,
            name,
            subresource,
            &change,
            write::Run::Real,
        )
        .await
    }

    /// As [`Registry::create`], but nothing is stored.
    pub async fn create_dry(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        object: Value,
    ) -> Result<Arc<Value>, Status> {
        write::create(self, kind, namespace, object, write::Run::Dry).await
    }

    /// Changes an object by a function of its current state, which may be called again after a race; `dry` stores nothing.
    pub(super) async fn change(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        subresource: Option<Subresource>,
        change: &(dyn Fn(&Value) -> Result<Value, Status> + Send + Sync),
        run: write::Run,
    ) -> Result<Arc<Value>, Status> {
        let changed = write::update(self, kind, namespace, name, subresource, change, run).await;
        self.settle_names(kind).await;
        changed
    }

    /// Deletes an object, or begins to: pods get their grace period, objects with finalizers wait for them. Returns the object
    /// as it was left.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        name: &str,
        options: DeleteOptions,
    ) -> Result<Arc<Value>, Status> {
        let deleted = delete::delete(self, kind, namespace, name, &options).await;
        self.settle_names(kind).await;
        deleted
    }

    /// Deletes a pod if its disruption budget allows it, as POST …/eviction does. 429 if not.
    pub async fn evict(
        &self,
        namespace: &str,
        pod: &str,
        eviction: &Value,
        dry_run: bool,
    ) -> Result<(), Status> {
        evict::evict(self, namespace, pod, eviction, dry_run).await
    }

    /// Gives an unbound pod a node, as POST …/binding does. 409 when it has one.
    pub async fn bind(&self, namespace: &str, pod: &str, node: &str) -> Result<Arc<Value>, Status> {
        write::bind(self, namespace, pod, node).await
    }

    /// Changes of a kind strictly after a revision: at most `limit`, and the revision up to which they are complete.
    pub fn events(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        after: Revision,
        limit: usize,
    ) -> Result<(Vec<Event>, Revision), Status> {
        let (mut events, upto) = self
            .store
            .events(&kind.prefix(namespace), after, limit)
            .map_err(|error| Status::from_store(&error, kind, ""))?;
        if kind.custom.is_some() {
            for event in &mut events {
                for value in [&mut event.value, &mut event.previous] {
                    *value = value.take().map(|value| custom::as_read(kind, value));
                }
            }
        }
        Ok((events, upto))
    }

    /// Tells of every new revision of the store.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.store.subscribe()
    }

    /// The store's current revision.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.store.revision()
    }

    /// Whether the store can be written, and what it could not read.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.store.condition()
    }

    fn entry(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Entry, Status> {
        let mut entry = self
            .store
            .get(&kind.key(namespace, name))
            .ok_or_else(|| Status::not_found(kind, name))?;
        entry.value = custom::as_read(kind, entry.value);
        Ok(entry)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::orchestrator::api::bootstrap;
    use crate::orchestrator::store::embedded::{EmbeddedStore, Sealing};
    use crate::orchestrator::store::seal::Sealer;

    /// A registry as every cluster begins.
    pub(in crate::orchestrator::api) async fn registry() -> Arc<Registry> {
        let sealing = Sealing {
            sealer: Sealer::new(&[3; 32]).expect("32 bytes"),
            prefix: "/registry/core/secrets/".to_owned(),
        };
        let store = EmbeddedStore::in_memory(sealing).expect("opened");
        let registry = Arc::new(Registry::new(Arc::new(store), Arc::default()));
        bootstrap::ensure(&registry, crate::model::addresses::node_address(0))
            .await
            .expect("bootstrapped");
        registry
    }

    #[tokio::test]
    async fn definitions_are_served_again_after_a_restart() {
        let registry = registry().await;
        let crd = serde_json::json!({
            "metadata": {"name": "lamps.example.org"},
            "spec": {"group": "example.org", "scope": "Cluster", "names": {"plural": "lamps", "kind": "Lamp"},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}}}]},
        });
        let made = registry
            .create(&kinds::CUSTOM_RESOURCE_DEFINITION, None, crd)
            .await;
        made.expect("created");
        let again = Registry::new(registry.store.clone(), Arc::default());
        let found = again.served().find("example.org", "v1", "lamps");
        assert!(found.is_some_and(|kind| !kind.namespaced && kind.kind == "Lamp"));
        assert_eq!(again.served().custom().len(), 1);
    }
}

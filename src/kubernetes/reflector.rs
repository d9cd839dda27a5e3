//! A local copy of one collection, kept by list and watch.
//!
//! The copy stays as it was while the server is away (fail static). The task ends when the [`Reflector`] is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::client::{Client, ClientError, ListParams, Object, WatchEvent};

/// Namespace (empty for kinds without one) and name.
pub type ObjectKey = (String, String);
/// All objects of the collection.
pub type ObjectMap<K> = BTreeMap<ObjectKey, Arc<K>>;

/// Pause after a failure: it doubles from the first to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(2);
/// So many events at most are taken in before the copy is published.
const EVENTS_PER_PUBLICATION: usize = 256;

/// How far a reflector is. The objects are published before the progress that covers them: whoever reads the progress first and
/// the objects afterwards has objects at least that new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The collection has been listed once.
    pub synced: bool,
    /// A watch is open now.
    pub connected: bool,
    /// Every change up to this revision is in the copy.
    pub revision: String,
}

/// A collection that is kept up to date in the background.
#[derive(Debug)]
pub struct Reflector<K> {
    objects: watch::Receiver<Arc<ObjectMap<K>>>,
    progress: watch::Receiver<Progress>,
    _task: AbortOnDropHandle<()>,
}

impl<K: Object> Reflector<K> {
    pub(super) fn start(client: Client, namespace: String, params: ListParams) -> Self {
        let (objects_out, objects) = watch::channel(Arc::new(ObjectMap::new()));
        let (progress_out, progress) = watch::channel(Progress::default());
        let task = Task {
            client,
            namespace,
            params,
            map: ObjectMap::new(),
            objects: objects_out,
            progress: progress_out,
        };
        Self {
            objects,
            progress,
            _task: AbortOnDropHandle::new(tokio::spawn(task.run())),
        }
    }

    /// The objects as they are known now.
    pub fn objects(&self) -> Arc<ObjectMap<K>> {
        self.objects.borrow().clone()
    }

    /// One object as it is known now.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.objects
            .borrow()
            .get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    /// Sees every publication of the objects.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ObjectMap<K>>> {
        self.objects.clone()
    }

    /// Sees how far the copy is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Whether the collection has been listed once.
    pub fn synced(&self) -> bool {
        self.progress.borrow().synced
    }

    /// Waits until the collection has been listed once.
    pub async fn wait_synced(&self) {
        let mut progress = self.progress.clone();
        // The sender lives as long as the task, and the task as long as `self`.
        drop(progress.wait_for(|progress| progress.synced).await);
    }
}

struct Task<K> {
    client: Client,
    namespace: String,
    params: ListParams,
    map: ObjectMap<K>,
    objects: watch::Sender<Arc<ObjectMap<K>>>,
    progress: watch::Sender<Progress>,
}

impl<K: Object> Task<K> {
    async fn run(mut self) {
        let mut backoff = BACKOFF_FIRST;
        let mut revision = None;
        loop {
            match self.follow(&mut revision, &mut backoff).await {
                Ok(()) => {}
                Err(error) => {
                    if !matches!(
                        error,
                        ClientError::Transport { .. } | ClientError::TimedOut { .. }
                    ) {
                        // Compacted, a revision from the future (a restored store), or nonsense: start afresh.
                        revision = None;
                    }
                    tracing::debug!(
                        kind = K::KIND,
                        error = &error as &dyn std::error::Error,
                        "watch broke, trying again"
                    );
                    self.progress
                        .send_modify(|progress| progress.connected = false);
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_LAST);
                }
            }
        }
    }

    /// Lists if no revision is known, then watches until the watch ends.
    async fn follow(
        &mut self,
        known: &mut Option<String>,
        backoff: &mut Duration,
    ) -> Result<(), ClientError> {
        let from = match known.clone() {
            Some(revision) => revision,
            None => {
                let listed = self.client.list::<K>(&self.namespace, &self.params).await?;
                self.map = listed
                    .items
                    .into_iter()
                    .map(|object| (key(&object), Arc::new(object)))
                    .collect();
                *known = Some(listed.revision.clone());
                self.publish(&listed.revision);
                listed.revision
            }
        };
        let watch = self
            .client
            .watch::<K>(&self.namespace, &self.params, &from)
            .await?;
        self.progress
            .send_modify(|progress| progress.connected = true);
        let mut events = watch.ready_chunks(EVENTS_PER_PUBLICATION);
        let mut seen_any = false;
        while let Some(chunk) = events.next().await {
            let mut failed = None;
            let mut revision = None;
            for event in chunk {
                match event {
                    Ok(event) => revision = Some(self.take(event)),
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(revision) = revision {
                seen_any = true;
                *backoff = BACKOFF_FIRST;
                *known = Some(revision.clone());
                self.publish(&revision);
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        if !seen_any {
            // A server that closes every watch at once must not be hammered.
            tokio::time::sleep(*backoff).await;
            *backoff = (*backoff * 2).min(BACKOFF_LAST);
        }
        Ok(())
    }

    /// Takes one event in and returns its revision.
    fn take(&mut self, event: WatchEvent<K>) -> String {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let revision = object
                    .metadata()
                    .resource_version
                    .clone()
                    .unwrap_or_default();
                self.map.insert(key(&object), Arc::new(object));
                revision
            }
            WatchEvent::Deleted(object) => {
                self.map.remove(&key(&object));
                object
                    .metadata()
                    .resource_version
                    .clone()
                    .unwrap_or_default()
            }
            WatchEvent::Bookmark { revision } => revision,
        }
    }

    fn publish(&self, revision: &str) {
        self.objects.send_if_modified(|objects| {
            let changed = objects.len() != self.map.len()
                || objects
                    .iter()
                    .zip(&self.map)
                    .any(|(old, new)| old.0 != new.0 || !Arc::ptr_eq(old.1, new.1));
            if changed {
                *objects = Arc::new(self.map.clone());
            }
            changed
        });
        self.progress.send_modify(|progress| {
            progress.synced = true;
            revision.clone_into(&mut progress.revision);
        });
    }
}

fn key<K: Object>(object: &K) -> ObjectKey {
    let metadata = object.metadata();
    (
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

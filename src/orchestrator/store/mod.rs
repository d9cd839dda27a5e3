//! The store seam: what Kubernetes needs of etcd, and no more.
//!
//! Keys are paths (`/registry/core/pods/default/web-1`), values JSON objects. There is one revision for the whole store; every
//! write takes the next one. Invariants every implementation keeps, checked by the one conformance suite:
//! - a write is acknowledged only after it is committed, and nobody sees it before;
//! - a write happens only if the key's revision is the one its writer expected;
//! - a watch delivers every later event of its prefix once, in order of revision, or ends with [`StoreError::Compacted`];
//! - `metadata.resourceVersion` of a stored object is the revision of its last write.
//!
//! Reads are answered from memory: an implementation on a remote database keeps a watch cache, as Kubernetes' API server does.

pub mod embedded;
mod index;
pub mod seal;

#[cfg(test)]
mod conformance;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;

/// A point in the store's one history. Revisions only grow; they are not dense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stored object.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its key.
    pub key: Arc<str>,
    /// The object, with `metadata.resourceVersion` set.
    pub value: Arc<Value>,
    /// Revision of its last write.
    pub revision: Revision,
}

/// What a writer believes of the key it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The key does not exist.
    Absent,
    /// The key's last write has this revision.
    At(Revision),
}

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power failure: the write is on disk.
    Synced,
    /// A crash of the process only by luck; for Events and Leases. At most about a second of such writes is lost.
    Eventual,
}

/// One page of a prefix.
#[derive(Debug, Clone)]
pub struct Page {
    /// The objects, in order of key.
    pub entries: Vec<Entry>,
    /// The store's revision the page shows: the current one, or the one asked for.
    pub revision: Revision,
    /// How many objects follow this page.
    pub remaining: usize,
}

/// Which part of a prefix to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window<'a> {
    /// Read strictly after this key.
    pub after: Option<&'a str>,
    /// At most so many objects; `None` is all.
    pub limit: Option<usize>,
    /// The store as it was at this revision, as long as the event ring reaches back to it.
    pub at: Option<Revision>,
}

/// One change of one key.
#[derive(Debug, Clone)]
pub struct Event {
    /// The key.
    pub key: Arc<str>,
    /// Revision of the change.
    pub revision: Revision,
    /// The object after it; `None` when it was deleted.
    pub value: Option<Arc<Value>>,
    /// The object before it; `None` when it was created.
    pub previous: Option<Arc<Value>>,
}

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The key is not as the writer expected.
    #[error("`{key}` is at another revision than expected")]
    Conflict {
        /// The key.
        key: String,
        /// Its revision now; `None` when it does not exist.
        current: Option<Revision>,
    },
    /// The history asked for is gone.
    #[error("revision {asked} is older than the oldest kept, {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest revision a watch may start from.
        oldest: Revision,
    },
    /// The object is too long to be stored.
    #[error("`{key}` would take {bytes} bytes, more than an object may have")]
    TooLarge {
        /// The key.
        key: String,
        /// Its length as JSON.
        bytes: usize,
    },
    /// Too many writes wait; try again.
    #[error("the store's write queue is full")]
    Overloaded,
    /// The database failed; nothing was written.
    #[error("write the database: {0}")]
    Database(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// How a store is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Condition {
    /// Why it takes no writes at present; it tries again by itself.
    pub failing: Option<String>,
    /// Keys of values that could not be read when it was opened: these objects are missing.
    pub damaged: Vec<String>,
}

/// What the API server needs of a database. Callers: `api::Registry` alone.
///
/// Reads may be called at any time and block for microseconds. A cancelled write may or may not happen. [`Store::compact`] is
/// idempotent.
pub trait Store: Send + Sync + 'static {
    /// The current revision.
    fn revision(&self) -> Revision;

    /// The object at `key`.
    fn get(&self, key: &str) -> Option<Entry>;

    /// The objects below `prefix`. Fails only with [`StoreError::Compacted`], and only when `window.at` is set.
    fn range(&self, prefix: &str, window: Window<'_>) -> Result<Page, StoreError>;

    /// Writes `value` if the key is as `expected`, and returns it as stored.
    fn put(
        &self,
        key: &str,
        value: Value,
        expected: Expected,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Entry, StoreError>>;

    /// Deletes the key if its revision is `expected`. Returns the object as it was, with the deletion's revision set.
    fn delete(
        &self,
        key: &str,
        expected: Revision,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Entry, StoreError>>;

    /// Up to `limit` events below `prefix` strictly after `after`, and the revision up to which they are complete: pass it as the
    /// next `after`.
    fn events(
        &self,
        prefix: &str,
        after: Revision,
        limit: usize,
    ) -> Result<(Vec<Event>, Revision), StoreError>;

    /// Tells of every new revision; slow readers miss numbers, not the last one.
    fn subscribe(&self) -> watch::Receiver<Revision>;

    /// Forgets the events up to and including `upto`.
    fn compact(&self, upto: Revision);

    /// Whether it can be written, and what it lost.
    fn condition(&self) -> Condition;
}

//! The default store: everything in memory, redb on disk, one writer thread.
//!
//! ```text
//! put, delete ──► bounded queue ──► writer: batch ► check ► one redb commit ► index and ring ► answers, new revision
//! get, range, events ──────────────────────────────────────► index (read lock)
//! ```
//! The writer takes whatever has queued up while the last commit ran and commits it together. A batch of Eventual writes is
//! committed without a sync; the next synced commit, at the latest [`FLUSH_AFTER`] later, makes it durable. Because such
//! writes may be lost, a reopened store starts [`REOPEN_GAP`] revisions further on: no revision is ever given twice.
//!
//! A commit that fails (a full disk) closes the database: redb takes nothing more after an error. From then on writes are refused,
//! until it could be opened again and made to hold what the index holds, which is tried at every write and every [`FLUSH_AFTER`].

#[cfg(test)]
mod model;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::BoxFuture;
use redb::Database;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use self::rows::Rows;
use super::index::{Index, stamp, stamped};
use super::seal::{SealError, Sealer};
use super::{
    Condition, Durability, Entry, Event, Expected, Page, Revision, Store, StoreError, Window,
};
use crate::orchestrator::limits::QUEUE_WRITES;
use crate::orchestrator::measure::measure;
use crate::orchestrator::private_file;

/// Writes in one commit.
const BATCH_WRITES: usize = 512;
/// Unsynced writes never get older than this.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// Unsynced commits before a synced one; with [`BATCH_WRITES`] it bounds what a crash may lose.
const UNSYNCED_WRITES: u64 = 1024;
/// Larger than every number of revisions that a crash may lose.
const REOPEN_GAP: u64 = 4096;
/// redb's own cache: the objects are in memory already.
const DATABASE_CACHE_BYTES: usize = 2 << 20;

/// After a failure the database is opened again at most so often.
const REOPEN_PAUSE: Duration = Duration::from_millis(250);

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database file could not be opened or read.
    #[error("open the database `{path}`: {reason}")]
    Database {
        /// The file.
        path: String,
        /// redb's words.
        reason: String,
    },
    /// There was a cluster, and the file is empty or gone.
    #[error(
        "the store `{path}` is empty, but `{mark}` says that there was a cluster: restore the store, or remove `{mark}` to begin a new one"
    )]
    Lost {
        /// The file.
        path: String,
        /// What says so.
        mark: String,
    },
    /// A file beside it cannot be made.
    #[error("make `{path}`")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A sealed value cannot be read.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// No thread for the writer.
    #[error("start the store's writer thread")]
    Thread(#[source] std::io::Error),
}

/// What is encrypted at rest.
pub struct Sealing {
    /// With which key.
    pub sealer: Sealer,
    /// Objects whose keys begin so.
    pub prefix: String,
}

/// The embedded store. Dropping it finishes the queued writes and syncs.
pub struct EmbeddedStore {
    index: Arc<RwLock<Index>>,
    revision: watch::Receiver<Revision>,
    condition: Arc<Mutex<Condition>>,
    queue: Option<SyncSender<Write>>,
    writer: Option<JoinHandle<()>>,
}

/// Opens the database, also again after it failed; tells why not in redb's words.
type OpenDatabase = Box<dyn Fn() -> Result<Database, String> + Send>;

struct Write {
    key: Arc<str>,
    /// `None` deletes.
    value: Option<Value>,
    expected: Expected,
    durability: Durability,
    answer: oneshot::Sender<Result<Entry, StoreError>>,
}

impl EmbeddedStore {
    /// Opens or creates the database at `path`, which only one process may have open, and only its user may read.
    ///
    /// A mark beside it says that there is a cluster: an empty file is then no new one, but a lost one.
    pub fn open(path: &Path, sealing: Sealing) -> Result<Self, OpenError> {
        let mark = path.with_extension("made");
        let empty = fs::metadata(path).map_or(true, |file| file.len() == 0);
        if empty && mark.exists() {
            return Err(OpenError::Lost {
                path: path.display().to_string(),
                mark: mark.display().to_string(),
            });
        }
        private_file::make_private(path).map_err(|source| failed_file(path, source))?;
        let file = path.to_owned();
        let open = move || {
            Database::builder()
                .set_cache_size(DATABASE_CACHE_BYTES)
                .create(&file)
                .map_err(|error| error.to_string())
        };
        let store = Self::start(Box::new(open), sealing, &path.display().to_string())?;
        private_file::make_private(&mark).map_err(|source| failed_file(&mark, source))?;
        Ok(store)
    }

    /// A store that is lost with the process.
    pub fn in_memory(sealing: Sealing) -> Result<Self, OpenError> {
        let open = || {
            Database::builder()
                .create_with_backend(redb::backends::InMemoryBackend::new())
                .map_err(|error| error.to_string())
        };
        Self::start(Box::new(open), sealing, "(memory)")
    }

    pub(super) fn start(
        open: OpenDatabase,
        sealing: Sealing,
        path: &str,
    ) -> Result<Self, OpenError> {
        let refused = |reason: String| OpenError::Database {
            path: path.to_owned(),
            reason,
        };
        // redb panics over some pages that are damaged.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let database = open().map_err(refused)?;
            let loaded = rows::load(&database, &sealing, &refused)?;
            let revision = loaded.revision + REOPEN_GAP;
            // At once: what is lost before anything is synced must not have its revisions given to others at the next start. A full
            // disk is no reason not to begin.
            let written = rows::write(&database, &Rows::new(), Durability::Synced, revision);
            let (database, failing) = match written {
                Ok(()) => (Some(database), None),
                Err(error) => (None, Some(error.to_string())),
            };
            Ok((database, failing, loaded, Revision(revision)))
        }));
        let (database, failing, loaded, revision) =
            opened.unwrap_or_else(|_| Err(refused("it is damaged".to_owned())))?;
        for key in &loaded.damaged {
            tracing::error!(
                key,
                "a stored value is damaged: this object is missing from now on"
            );
        }
        let (announce, announced) = watch::channel(revision);
        let index = Arc::new(RwLock::new(Index::new(loaded.objects, revision)));
        let condition = Arc::new(Mutex::new(Condition {
            failing,
            damaged: loaded.damaged,
        }));
        let (queue, queued) = sync_channel(QUEUE_WRITES);
        let writer = Writer {
            database,
            open,
            opened: Instant::now(),
            sealing,
            index: index.clone(),
            condition: condition.clone(),
            announce,
            next: revision.0 + 1,
            unsynced: 0,
        };
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&queued))
            .map_err(OpenError::Thread)?;
        Ok(Self {
            index,
            revision: announced,
            condition,
            queue: Some(queue),
            writer: Some(writer),
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(
        &self,
        key: &str,
        value: Option<Value>,
        expected: Expected,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Entry, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let write = Write {
            key: Arc::from(key),
            value,
            expected,
            durability,
            answer,
        };
        let sent = match &self.queue {
            Some(queue) => queue.try_send(write).map_err(|error| match error {
                TrySendError::Full(_) => StoreError::Overloaded,
                TrySendError::Disconnected(_) => StoreError::Closed,
            }),
            None => Err(StoreError::Closed),
        };
        Box::pin(async move {
            sent?;
            answered.await.unwrap_or(Err(StoreError::Closed))
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has already closed every pending write.
            let _ = writer.join();
        }
    }
}

impl Store for EmbeddedStore {
    fn revision(&self) -> Revision {
        self.read().revision()
    }

    fn get(&self, key: &str) -> Option<Entry> {
        self.read().get(key).cloned()
    }

    fn range(&self, prefix: &str, window: Window<'_>) -> Result<Page, StoreError> {
        self.read().range(prefix, window)
    }

    fn put(
        &self,
        key: &str,
        value: Value,
        expected: Expected,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Entry, StoreError>> {
        self.write(key, Some(value), expected, durability)
    }

    fn delete(
        &self,
        key: &str,
        expected: Revision,
        durability: Durability,
    ) -> BoxFuture<'_, Result<Entry, StoreError>> {
        self.write(key, None, Expected::At(expected), durability)
    }

    fn events(
        &self,
        prefix: &str,
        after: Revision,
        limit: usize,
    ) -> Result<(Vec<Event>, Revision), StoreError> {
        self.read().events(prefix, after, limit)
    }

    fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }

    fn compact(&self, upto: Revision) {
        self.index
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .compact(upto);
    }

    fn condition(&self) -> Condition {
        let mut condition = lock(&self.condition).clone();
        if self.writer.as_ref().is_none_or(JoinHandle::is_finished) {
            condition.failing = Some("its writer has ended".to_owned());
        }
        condition
    }
}

fn lock(condition: &Mutex<Condition>) -> MutexGuard<'_, Condition> {
    condition.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed_file(path: &Path, source: std::io::Error) -> OpenError {
    OpenError::File {
        path: path.display().to_string(),
        source,
    }
}

struct Writer {
    /// `None` after a failure, until it could be opened again.
    database: Option<Database>,
    open: OpenDatabase,
    /// When that was last tried.
    opened: Instant,
    sealing: Sealing,
    index: Arc<RwLock<Index>>,
    condition: Arc<Mutex<Condition>>,
    announce: watch::Sender<Revision>,
    next: u64,
    unsynced: u64,
}

type Answer = (
    oneshot::Sender<Result<Entry, StoreError>>,
    Result<Entry, StoreError>,
);

impl Writer {
    fn run(mut self, queued: &Receiver<Write>) {
        loop {
            match queued.recv_timeout(FLUSH_AFTER) {
                Ok(first) => {
                    let mut batch = vec![first];
                    batch.extend(queued.try_iter().take(BATCH_WRITES - 1));
                    self.batch(batch);
                }
                Err(RecvTimeoutError::Timeout) if self.unsynced == 0 && self.database.is_some() => {
                }
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush();
                    return;
                }
            }
        }
    }

    fn flush(&mut self) {
        // What went wrong is in the condition, and in the log.
        if self.commit(&Rows::new(), Durability::Synced).is_ok() {
            self.unsynced = 0;
        }
    }

    fn batch(&mut self, batch: Vec<Write>) {
        let mut durability = Durability::Eventual;
        let (mut events, mut answers): (Vec<Event>, Vec<Answer>) = (Vec::new(), Vec::new());
        let mut rows = Rows::new();
        // What this batch has already changed, newest last.
        let mut changed: HashMap<Arc<str>, Option<Arc<Value>>> = HashMap::new();
        for write in batch {
            let previous = match self.check(&write, &changed) {
                Ok(previous) => previous,
                Err(error) => {
                    answers.push((write.answer, Err(error)));
                    continue;
                }
            };
            let revision = Revision(self.next);
            let (event, entry) = change(write.key, write.value, previous, revision);
            let value = event.value.as_deref();
            let encoded = value.map(|value| rows::encode(&self.sealing, &event.key, value));
            match encoded.transpose() {
                Ok(encoded) => rows.push((event.key.clone(), encoded)),
                // A revision that nobody has seen is given to the next.
                Err(error) => {
                    answers.push((write.answer, Err(error)));
                    continue;
                }
            }
            if write.durability == Durability::Synced {
                durability = Durability::Synced;
            }
            self.next += 1;
            changed.insert(event.key.clone(), event.value.clone());
            events.push(event);
            answers.push((write.answer, Ok(entry)));
        }
        if self.unsynced >= UNSYNCED_WRITES {
            durability = Durability::Synced;
        }
        match self.commit(&rows, durability) {
            Ok(()) => {
                self.unsynced = if durability == Durability::Synced {
                    0
                } else {
                    self.unsynced + events.len() as u64
                };
                self.publish(events);
                for (answer, result) in answers {
                    // A writer that went away does not want its answer.
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                for (answer, result) in answers {
                    let failed = || StoreError::Database(error.to_string());
                    let _ = answer.send(result.and_then(|_| Err(failed())));
                }
            }
        }
    }

    /// The object before the write, if the write is as its writer expected.
    fn check(
        &self,
        write: &Write,
        changed: &HashMap<Arc<str>, Option<Arc<Value>>>,
    ) -> Result<Option<Arc<Value>>, StoreError> {
        let current = match changed.get(&write.key) {
            Some(value) => value.clone(),
            None => {
                let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
                index.get(&write.key).map(|entry| entry.value.clone())
            }
        };
        let revision = current.as_deref().map(stamped);
        let as_expected = match write.expected {
            Expected::Absent => revision.is_none(),
            Expected::At(expected) => revision == Some(expected),
        };
        if as_expected {
            Ok(current)
        } else {
            Err(StoreError::Conflict {
                key: write.key.to_string(),
                current: revision,
            })
        }
    }

    /// Writes rows into the database, which is opened again first if it failed before.
    fn commit(&mut self, rows: &Rows, durability: Durability) -> Result<(), StoreError> {
        if rows.is_empty() && durability == Durability::Eventual {
            return Ok(());
        }
        if self.database.is_none() {
            self.recover()?;
        }
        let Some(database) = &self.database else {
            return Err(StoreError::Closed);
        };
        match rows::write(database, rows, durability, self.next - 1) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fail(error.to_string())),
        }
    }

    fn fail(&mut self, reason: String) -> StoreError {
        self.database = None;
        let mut condition = lock(&self.condition);
        if condition.failing.is_none() {
            tracing::error!(
                reason,
                "the store cannot be written: writes are refused until it can"
            );
        }
        condition.failing = Some(reason.clone());
        StoreError::Database(reason)
    }

    /// Opens the database again and makes it hold what the index holds: nothing of a commit that failed, everything that was committed
    /// without a sync.
    fn recover(&mut self) -> Result<(), StoreError> {
        let failing = lock(&self.condition).failing.clone();
        if let Some(reason) = failing
            && self.opened.elapsed() < REOPEN_PAUSE
        {
            return Err(StoreError::Database(reason));
        }
        self.opened = Instant::now();
        let reopened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let database = (self.open)()?;
            let rows = {
                let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
                let damaged = lock(&self.condition).damaged.clone();
                rows::differences(&database, &self.sealing, index.objects(), &damaged)?
            };
            rows::write(&database, &rows, Durability::Synced, self.next - 1)
                .map_err(|error| error.to_string())?;
            Ok(database)
        }));
        match reopened.unwrap_or_else(|_| Err("the database is damaged".to_owned())) {
            Ok(database) => {
                self.database = Some(database);
                self.unsynced = 0;
                lock(&self.condition).failing = None;
                tracing::info!("the store can be written again");
                Ok(())
            }
            Err(reason) => Err(self.fail(reason)),
        }
    }

    fn publish(&self, events: Vec<Event>) {
        let Some(last) = events.last().map(|event| event.revision) else {
            return;
        };
        let weighed: Vec<(Event, usize)> = events
            .into_iter()
            .map(|event| {
                let held = event.value.as_deref().or(event.previous.as_deref());
                let bytes = held.map_or(0, |value| measure(value).bytes);
                (event, bytes)
            })
            .collect();
        {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for (event, bytes) in weighed {
                index.apply(event, bytes);
            }
        }
        self.announce.send_replace(last);
    }
}

fn change(
    key: Arc<str>,
    value: Option<Value>,
    previous: Option<Arc<Value>>,
    revision: Revision,
) -> (Event, Entry) {
    match value {
        Some(mut value) => {
            stamp(&mut value, revision);
            let value = Arc::new(value);
            let entry = Entry {
                key: key.clone(),
                value: value.clone(),
                revision,
            };
            (
                Event {
                    key,
                    revision,
                    value: Some(value),
                    previous,
                },
                entry,
            )
        }
        None => {
            let mut last = previous.as_deref().cloned().unwrap_or(Value::Null);
            stamp(&mut last, revision);
            let entry = Entry {
                key: key.clone(),
                value: Arc::new(last),
                revision,
            };
            (
                Event {
                    key,
                    revision,
                    value: None,
                    previous,
                },
                entry,
            )
        }
    }
}

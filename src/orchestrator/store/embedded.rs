//! The default store: everything in memory, redb on disk, one writer thread.
//!
//! ```text
//! put, delete ──► bounded queue ──► writer: batch ► check ► one redb commit ► index and ring ► answers, new revision
//! get, range, events ──────────────────────────────────────► index (read lock)
//! ```
//! The writer takes whatever has queued up while the last commit ran and commits it together. A batch of Eventual writes is
//! committed without a sync; the next synced commit, at the latest [`FLUSH_AFTER`] later, makes it durable. Because such
//! writes may be lost, a reopened store starts [`REOPEN_GAP`] revisions further on: no revision is ever given twice.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::future::BoxFuture;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::index::{Index, RING_EVENTS, stamp, stamped};
use super::seal::{SealError, Sealer};
use super::{Durability, Entry, Event, Expected, Page, Revision, Store, StoreError, Window};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";

/// Writes that may wait for the writer; more are refused as [`StoreError::Overloaded`].
const QUEUE_WRITES: usize = 4096;
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

const PLAIN: u8 = 0;
const SEALED: u8 = 1;

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
    /// A stored value cannot be read.
    #[error("the stored value of `{0}` is damaged")]
    Damaged(String),
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
    queue: Option<SyncSender<Write>>,
    writer: Option<JoinHandle<()>>,
}

/// Keys and sealed values, as they are in the database.
type Rows = Vec<(String, Vec<u8>)>;

struct Write {
    key: Arc<str>,
    /// `None` deletes.
    value: Option<Value>,
    expected: Expected,
    durability: Durability,
    answer: oneshot::Sender<Result<Entry, StoreError>>,
}

impl EmbeddedStore {
    /// Opens or creates the database at `path`, which only one process may have open.
    pub fn open(path: &Path, sealing: Sealing) -> Result<Self, OpenError> {
        let refused = |reason: String| OpenError::Database {
            path: path.display().to_string(),
            reason,
        };
        let database = Database::builder()
            .set_cache_size(DATABASE_CACHE_BYTES)
            .create(path)
            .map_err(|error| refused(error.to_string()))?;
        Self::start(database, sealing, refused)
    }

    /// A store that is lost with the process.
    pub fn in_memory(sealing: Sealing) -> Result<Self, OpenError> {
        let refused = |reason: String| OpenError::Database {
            path: "(memory)".to_owned(),
            reason,
        };
        let database = Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .map_err(|error| refused(error.to_string()))?;
        Self::start(database, sealing, refused)
    }

    fn start(
        database: Database,
        sealing: Sealing,
        refused: impl Fn(String) -> OpenError,
    ) -> Result<Self, OpenError> {
        let (objects, revision) = load(&database, &sealing, &refused)?;
        let (announce, announced) = watch::channel(revision);
        let index = Arc::new(RwLock::new(Index::new(objects, revision, RING_EVENTS)));
        let (queue, queued) = sync_channel(QUEUE_WRITES);
        let writer = Writer {
            database,
            sealing,
            index: index.clone(),
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
}

type Objects = BTreeMap<Arc<str>, Entry>;

fn load(
    database: &Database,
    sealing: &Sealing,
    refused: &impl Fn(String) -> OpenError,
) -> Result<(Objects, Revision), OpenError> {
    let started = || -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(OBJECTS)?;
        transaction.open_table(META)?;
        transaction.commit()?;
        Ok(())
    };
    started().map_err(|error| refused(error.to_string()))?;
    let rows = || -> Result<(Rows, Option<u64>), redb::Error> {
        let transaction = database.begin_read()?;
        let last = transaction
            .open_table(META)?
            .get(REVISION)?
            .map(|found| found.value());
        let table = transaction.open_table(OBJECTS)?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok((rows, last))
    };
    let (rows, last) = rows().map_err(|error| refused(error.to_string()))?;
    let mut objects = BTreeMap::new();
    for (key, bytes) in rows {
        let value = decode(sealing, &key, &bytes)?;
        let key: Arc<str> = Arc::from(key);
        let entry = Entry {
            key: key.clone(),
            revision: stamped(&value),
            value: Arc::new(value),
        };
        objects.insert(key, entry);
    }
    Ok((objects, Revision(last.map_or(1, |last| last + REOPEN_GAP))))
}

fn encode(sealing: &Sealing, key: &str, value: &Value) -> Result<Vec<u8>, StoreError> {
    let json =
        serde_json::to_vec(value).map_err(|error| StoreError::Database(error.to_string()))?;
    let (tag, body) = if key.starts_with(&sealing.prefix) {
        (
            SEALED,
            sealing
                .sealer
                .seal(key, &json)
                .map_err(|error| StoreError::Database(error.to_string()))?,
        )
    } else {
        (PLAIN, json)
    };
    let mut bytes = Vec::with_capacity(body.len() + 1);
    bytes.push(tag);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn decode(sealing: &Sealing, key: &str, bytes: &[u8]) -> Result<Value, OpenError> {
    let damaged = || OpenError::Damaged(key.to_owned());
    let (tag, body) = bytes.split_first().ok_or_else(damaged)?;
    match *tag {
        PLAIN => serde_json::from_slice(body).map_err(|_| damaged()),
        SEALED => serde_json::from_slice(&sealing.sealer.unseal(key, body)?).map_err(|_| damaged()),
        _ => Err(damaged()),
    }
}

struct Writer {
    database: Database,
    sealing: Sealing,
    index: Arc<RwLock<Index>>,
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
                Err(RecvTimeoutError::Timeout) if self.unsynced == 0 => {}
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush();
                    return;
                }
            }
        }
    }

    fn flush(&mut self) {
        match self.commit(&[], Durability::Synced) {
            Ok(()) => self.unsynced = 0,
            Err(error) => tracing::error!(%error, "sync the store"),
        }
    }

    fn batch(&mut self, batch: Vec<Write>) {
        let mut durability = Durability::Eventual;
        let (mut events, mut answers): (Vec<Event>, Vec<Answer>) = (Vec::new(), Vec::new());
        // What this batch has already changed, newest last.
        let mut changed: HashMap<Arc<str>, Option<Arc<Value>>> = HashMap::new();
        for write in batch {
            match self.check(&write, &changed) {
                Err(error) => answers.push((write.answer, Err(error))),
                Ok(previous) => {
                    if write.durability == Durability::Synced {
                        durability = Durability::Synced;
                    }
                    let revision = Revision(self.next);
                    self.next += 1;
                    let (event, entry) = change(write.key, write.value, previous, revision);
                    changed.insert(event.key.clone(), event.value.clone());
                    events.push(event);
                    answers.push((write.answer, Ok(entry)));
                }
            }
        }
        if self.unsynced >= UNSYNCED_WRITES {
            durability = Durability::Synced;
        }
        match self.commit(&events, durability) {
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
                tracing::error!(%error, "commit to the store");
                for (answer, _) in answers {
                    let _ = answer.send(Err(StoreError::Database(error.to_string())));
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

    fn commit(&self, events: &[Event], durability: Durability) -> Result<(), StoreError> {
        if events.is_empty() && durability == Durability::Eventual {
            return Ok(());
        }
        let rows = events
            .iter()
            .map(|event| {
                let bytes = event
                    .value
                    .as_deref()
                    .map(|value| encode(&self.sealing, &event.key, value))
                    .transpose()?;
                Ok((event.key.as_ref(), bytes))
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        let committed = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(match durability {
                Durability::Synced => redb::Durability::Immediate,
                Durability::Eventual => redb::Durability::None,
            })?;
            {
                let mut objects = transaction.open_table(OBJECTS)?;
                for (key, bytes) in &rows {
                    match bytes {
                        Some(bytes) => drop(objects.insert(key, bytes.as_slice())?),
                        None => drop(objects.remove(key)?),
                    }
                }
                transaction
                    .open_table(META)?
                    .insert(REVISION, self.next - 1)?;
            }
            transaction.commit()?;
            Ok(())
        };
        committed().map_err(|error| StoreError::Database(error.to_string()))
    }

    fn publish(&self, events: Vec<Event>) {
        let Some(last) = events.last().map(|event| event.revision) else {
            return;
        };
        {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                index.apply(event);
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

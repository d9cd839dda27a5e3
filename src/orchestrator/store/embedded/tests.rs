//! What only a store on a disk suffers: a disk that is full, bits that flip, a file that is gone.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{ReadableTable, StorageBackend, TableDefinition};
use serde_json::json;

use super::*;
use crate::orchestrator::limits::{OBJECT_BYTES, RING_BYTES};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");

fn sealing() -> Sealing {
    Sealing {
        sealer: Sealer::new(&[1; 32]).expect("32 bytes"),
        prefix: "/secret/".to_owned(),
    }
}

fn object(text: &str) -> Value {
    json!({"metadata": {"name": "o"}, "text": text})
}

async fn create(store: &EmbeddedStore, key: &str, text: &str) -> Result<Entry, StoreError> {
    let durability = Durability::Synced;
    store
        .put(key, object(text), Expected::Absent, durability)
        .await
}

/// A disk that is full when it is told so.
#[derive(Debug, Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().expect("no test panics with it")
    }

    fn room(&self) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        } else {
            Ok(())
        }
    }

    fn store(&self) -> EmbeddedStore {
        let disk = self.clone();
        let open = move || {
            Database::builder()
                .create_with_backend(disk.clone())
                .map_err(|error| error.to_string())
        };
        EmbeddedStore::start(Box::new(open), sealing(), "(test)").expect("opened")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("small");
        out.copy_from_slice(&self.bytes()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.room()?;
        let length = usize::try_from(length).expect("small");
        self.bytes().resize(length, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.room()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        let start = usize::try_from(offset).expect("small");
        self.bytes()[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[tokio::test]
async fn the_end_of_a_full_disk_is_the_end_of_its_refusals() {
    let disk = Disk::default();
    let store = disk.store();
    create(&store, "/a/1", "before").await.expect("written");
    store
        .put(
            "/a/lazy",
            object("not synced"),
            Expected::Absent,
            Durability::Eventual,
        )
        .await
        .expect("written");
    disk.full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = create(&store, "/a/2", "full").await;
        assert!(matches!(refused, Err(StoreError::Database(_))));
    }
    assert!(store.condition().failing.is_some());
    assert!(store.get("/a/2").is_none() && store.get("/a/lazy").is_some());
    disk.full.store(false, Ordering::SeqCst);
    // By itself: nobody has to write for it.
    while store.condition().failing.is_some() {
        tokio::task::yield_now().await;
    }
    let after = create(&store, "/a/2", "after").await.expect("written");
    drop(store);
    let store = disk.store();
    let text = |key: &str| store.get(key).map(|entry| entry.value["text"].clone());
    assert_eq!(text("/a/1"), Some(json!("before")));
    assert_eq!(text("/a/lazy"), Some(json!("not synced")));
    assert_eq!(text("/a/2"), Some(json!("after")));
    assert!(store.revision() > after.revision);
    assert_eq!(store.condition(), Condition::default());
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("store.redb")
}

/// Changes a stored value behind the store's back.
fn damage(path: &Path, key: &str, change: impl Fn(&mut Vec<u8>)) {
    let database = Database::create(path).expect("opened");
    let transaction = database.begin_write().expect("begun");
    {
        let mut table = transaction.open_table(OBJECTS).expect("there");
        let mut bytes = table
            .get(key)
            .expect("read")
            .expect("there")
            .value()
            .to_vec();
        change(&mut bytes);
        table.insert(key, bytes.as_slice()).expect("changed");
    }
    transaction.commit().expect("committed");
}

#[tokio::test]
async fn every_flipped_bit_of_a_value_costs_that_object_and_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path(&directory);
    let keys = ["/a/1", "/a/2", "/secret/1", "/secret/2"];
    {
        let store = EmbeddedStore::open(&path, sealing()).expect("opened");
        for key in keys {
            create(&store, key, "value").await.expect("written");
        }
    }
    for key in ["/a/2", "/secret/2"] {
        for byte in 0..60 {
            damage(&path, key, |bytes| bytes[byte] ^= 1 << (byte % 8));
            let store = EmbeddedStore::open(&path, sealing()).expect("opened");
            assert_eq!(store.condition().damaged, [key], "byte {byte}");
            assert!(store.get(key).is_none());
            assert_eq!(
                keys.iter().filter(|key| store.get(key).is_some()).count(),
                3
            );
            drop(store);
            damage(&path, key, |bytes| bytes[byte] ^= 1 << (byte % 8));
        }
        damage(&path, key, Vec::clear);
        let store = EmbeddedStore::open(&path, sealing()).expect("opened");
        create(&store, key, "anew")
            .await
            .expect("it can be made again");
        drop(store);
        let store = EmbeddedStore::open(&path, sealing()).expect("opened");
        assert_eq!(store.condition().damaged, Vec::<String>::new());
    }
    let other_key = Sealing {
        sealer: Sealer::new(&[2; 32]).expect("32 bytes"),
        ..sealing()
    };
    assert!(matches!(
        EmbeddedStore::open(&path, other_key),
        Err(OpenError::Seal(_))
    ));
}

#[tokio::test]
async fn values_of_before_there_were_checksums_are_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path(&directory);
    let store = EmbeddedStore::open(&path, sealing()).expect("opened");
    create(&store, "/a/1", "value").await.expect("written");
    create(&store, "/secret/1", "value").await.expect("written");
    drop(store);
    for key in ["/a/1", "/secret/1"] {
        damage(&path, key, |bytes| {
            bytes[0] -= 2;
            bytes.drain(1..5);
        });
    }
    let store = EmbeddedStore::open(&path, sealing()).expect("opened");
    for key in ["/a/1", "/secret/1"] {
        assert_eq!(store.get(key).expect("read").value["text"], json!("value"));
    }
}

#[tokio::test]
async fn an_empty_file_is_a_new_cluster_only_once_and_nobody_else_reads_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = path(&directory);
    let mode = |path: &Path| {
        let metadata = std::fs::metadata(path).expect("there");
        metadata.permissions().mode() & 0o777
    };
    std::fs::write(&path, b"").expect("written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("changed");
    drop(EmbeddedStore::open(&path, sealing()).expect("a new cluster"));
    let mark = path.with_extension("made");
    assert_eq!((mode(&path), mode(&mark)), (0o600, 0o600));
    std::fs::write(&path, b"").expect("written");
    let lost = |path| {
        matches!(
            EmbeddedStore::open(path, sealing()),
            Err(OpenError::Lost { .. })
        )
    };
    assert!(lost(&path));
    std::fs::remove_file(&path).expect("removed");
    assert!(lost(&path) && !path.exists());
    std::fs::remove_file(&mark).expect("removed");
    assert!(!lost(&path));
}

#[tokio::test]
async fn the_ring_is_bounded_in_bytes_and_so_is_an_object() {
    let store = EmbeddedStore::in_memory(sealing()).expect("opened");
    let large = "x".repeat(1 << 20);
    let first = create(&store, "/a/1", &large).await.expect("written");
    let mut revision = first.revision;
    for _ in 0..RING_BYTES / large.len() {
        let put = store.put(
            "/a/1",
            object(&large),
            Expected::At(revision),
            Durability::Eventual,
        );
        revision = put.await.expect("written").revision;
    }
    assert!(matches!(
        store.events("/a/", first.revision, 1),
        Err(StoreError::Compacted { .. })
    ));
    let recent = Revision(revision.0 - 20);
    let (events, _) = store
        .events("/a/", recent, 100)
        .expect("recent ones are kept");
    assert_eq!(events.len(), 20);
    let too_large = create(&store, "/a/2", &"x".repeat(OBJECT_BYTES)).await;
    assert!(matches!(too_large, Err(StoreError::TooLarge { .. })));
    create(&store, "/a/3", "others are").await.expect("written");
}

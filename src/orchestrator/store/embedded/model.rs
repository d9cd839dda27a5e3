//! The store against a model, through crashes: a disk that loses, tears or keeps whatever was not synced.
//!
//! After every crash the store holds what it held after some write, none of the acknowledged synced ones being missing.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;
use serde_json::json;

use super::*;

/// How many histories are tried, when it matters.
const SEEDS: &str = "FLIGHTCAGE_STORE_SEEDS";
const CRASHES: usize = 4;
/// A disk writes so many bytes at once or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Debug, Clone)]
enum Change {
    Length(usize),
    Bytes(usize, Vec<u8>),
}

#[derive(Debug, Default)]
struct Platter {
    /// As of the last sync.
    synced: Vec<u8>,
    /// What came since.
    since: Vec<Change>,
    /// What a reader sees.
    now: Vec<u8>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => bytes.resize(*length, 0),
        Change::Bytes(start, data) => {
            let end = start + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*start..end].copy_from_slice(data);
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk as it may be found after the power went.
    fn after_crash(&self, random: &mut StdRng) -> Self {
        let platter = self.platter();
        let mut bytes = platter.synced.clone();
        let kept = [0.0, 0.1, 0.5, 0.9, 1.0][random.random_range(0..5)];
        for change in &platter.since {
            if !random.random_bool(kept) {
                continue;
            }
            match change {
                Change::Bytes(start, data) if random.random_bool(0.2) => {
                    let sectors = random.random_range(0..=data.len() / SECTOR_BYTES);
                    let torn = data[..sectors * SECTOR_BYTES].to_vec();
                    apply(&mut bytes, &Change::Bytes(*start, torn));
                }
                whole => apply(&mut bytes, whole),
            }
        }
        Self(Arc::new(Mutex::new(Platter {
            synced: bytes.clone(),
            since: Vec::new(),
            now: bytes,
        })))
    }

    fn store(&self) -> EmbeddedStore {
        let disk = self.clone();
        let open = move || {
            Database::builder()
                .create_with_backend(disk.clone())
                .map_err(|error| error.to_string())
        };
        let sealing = Sealing {
            sealer: Sealer::new(&[1; 32]).expect("32 bytes"),
            prefix: "/secret/".to_owned(),
        };
        EmbeddedStore::start(Box::new(open), sealing, "(test)").expect("it opens after every crash")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.platter().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).expect("small");
        out.copy_from_slice(&self.platter().now[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let change = Change::Length(usize::try_from(length).expect("small"));
        let mut platter = self.platter();
        apply(&mut platter.now, &change);
        platter.since.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.platter();
        platter.synced = platter.now.clone();
        platter.since.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let change = Change::Bytes(usize::try_from(offset).expect("small"), data.to_vec());
        let mut platter = self.platter();
        apply(&mut platter.now, &change);
        platter.since.push(change);
        Ok(())
    }
}

/// What the store holds: a number under each key.
type Contents = BTreeMap<String, u64>;

fn contents(store: &EmbeddedStore) -> Contents {
    let page = store.range("/", Window::default()).expect("the present");
    let pair = |entry: &Entry| {
        let number = entry.value["n"].as_u64().expect("a number");
        (entry.key.to_string(), number)
    };
    page.entries.iter().map(pair).collect()
}

struct History {
    /// After each write, the newest last.
    states: Vec<Contents>,
    /// The state of the last write that was acknowledged as synced.
    synced: usize,
    newest: Revision,
}

impl History {
    /// One write. `acknowledged` is whether anybody waits for it.
    async fn write(&mut self, store: &EmbeddedStore, random: &mut StdRng, acknowledged: bool) {
        let key = format!(
            "{}{}",
            ["/a/", "/secret/"][random.random_range(0..2)],
            random.random_range(0..4)
        );
        let durability = if random.random_bool(0.5) {
            Durability::Synced
        } else {
            Durability::Eventual
        };
        let mut next = self.states.last().cloned().unwrap_or_default();
        let number = self.states.len() as u64;
        let object = json!({"metadata": {"name": "o"}, "n": number, "text": "x".repeat(random.random_range(0..3000))});
        let writing = match store.get(&key) {
            Some(entry) if random.random_bool(0.4) => {
                next.remove(&key);
                store.delete(&key, entry.revision, durability)
            }
            found => {
                next.insert(key.clone(), number);
                let expected = found.map_or(Expected::Absent, |entry| Expected::At(entry.revision));
                store.put(&key, object, expected, durability)
            }
        };
        self.states.push(next);
        if !acknowledged {
            // It is on its way: the crash may come before, in the middle or after.
            return drop(writing);
        }
        self.newest = writing.await.expect("written").revision;
        if durability == Durability::Synced {
            self.synced = self.states.len() - 1;
        }
    }

    /// What a store that was opened again says is true.
    fn check(&mut self, store: &EmbeddedStore) {
        assert_eq!(
            store.condition(),
            Condition::default(),
            "nothing is damaged"
        );
        assert!(store.revision() > self.newest, "no revision is given twice");
        let found = contents(store);
        let as_of = self.states.iter().rposition(|state| *state == found);
        let as_of = as_of.expect("the store holds what it held after some write");
        assert!(
            as_of >= self.synced || self.states[as_of] == self.states[self.synced],
            "an acknowledged write is lost"
        );
        self.states.truncate(as_of + 1);
        self.synced = as_of;
    }
}

#[tokio::test]
async fn crashes_lose_no_synced_write_and_nothing_in_between() {
    let seeds = std::env::var(SEEDS).map_or(25, |text| text.parse().expect("a number"));
    for seed in 0..seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let mut disk = Disk::default();
        let mut history = History {
            states: vec![Contents::new()],
            synced: 0,
            newest: Revision::default(),
        };
        for _ in 0..CRASHES {
            let store = disk.store();
            history.check(&store);
            for _ in 0..random.random_range(0..12) {
                history.write(&store, &mut random, true).await;
            }
            if random.random_bool(0.5) {
                history.write(&store, &mut random, false).await;
            }
            disk = disk.after_crash(&mut random);
        }
        history.check(&disk.store());
    }
}

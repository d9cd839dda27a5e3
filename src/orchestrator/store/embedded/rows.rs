//! What is in the database: a row an object, with a checksum; and the revision, twice.
//!
//! ```text
//! objects: key ──► tag, CRC-32 of key, tag and body, body (JSON, or nonce and sealed JSON)
//! meta:    "revision" ──► n, "revision-check" ──► !n
//! ```
//! Rows without a checksum, as earlier versions wrote them, are read too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};
use serde_json::Value;

use super::{OpenError, Sealing};
use crate::orchestrator::limits::OBJECT_BYTES;
use crate::orchestrator::store::index::stamped;
use crate::orchestrator::store::seal::SealError;
use crate::orchestrator::store::{Durability, Entry, StoreError};

const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
const REVISION_CHECK: &str = "revision-check";

const PLAIN_UNCHECKED: u8 = 0;
const SEALED_UNCHECKED: u8 = 1;
const PLAIN: u8 = 2;
const SEALED: u8 = 3;

/// Keys, and values as they are in the database; `None` deletes.
pub(super) type Rows = Vec<(Arc<str>, Option<Vec<u8>>)>;

/// A database's contents.
pub(super) struct Loaded {
    pub(super) objects: BTreeMap<Arc<str>, Entry>,
    pub(super) revision: u64,
    /// Keys of values that cannot be read.
    pub(super) damaged: Vec<String>,
}

/// Why a value cannot be read.
enum Unreadable {
    Damaged,
    /// It is as it was written, as far as a checksum can tell; the key is another.
    Sealed(SealError),
}

/// An object as a row's value.
pub(super) fn encode(sealing: &Sealing, key: &str, value: &Value) -> Result<Vec<u8>, StoreError> {
    let failed = |error: &dyn std::fmt::Display| StoreError::Database(error.to_string());
    let json = serde_json::to_vec(value).map_err(|error| failed(&error))?;
    if json.len() > OBJECT_BYTES {
        return Err(StoreError::TooLarge {
            key: key.to_owned(),
            bytes: json.len(),
        });
    }
    let (tag, body) = if key.starts_with(&sealing.prefix) {
        let sealed = sealing.sealer.seal(key, &json);
        (SEALED, sealed.map_err(|error| failed(&error))?)
    } else {
        (PLAIN, json)
    };
    let mut bytes = Vec::with_capacity(body.len() + 5);
    bytes.push(tag);
    bytes.extend_from_slice(&checksum(key, tag, &body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn checksum(key: &str, tag: u8, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(&[tag]);
    hasher.update(body);
    hasher.finalize()
}

fn decode(sealing: &Sealing, key: &str, bytes: &[u8]) -> Result<Value, Unreadable> {
    let (tag, rest) = bytes.split_first().ok_or(Unreadable::Damaged)?;
    let body = match *tag {
        PLAIN | SEALED => {
            let (check, body) = rest.split_first_chunk().ok_or(Unreadable::Damaged)?;
            if u32::from_le_bytes(*check) != checksum(key, *tag, body) {
                return Err(Unreadable::Damaged);
            }
            body
        }
        _ => rest,
    };
    let json = match *tag {
        PLAIN | PLAIN_UNCHECKED => serde_json::from_slice(body),
        SEALED | SEALED_UNCHECKED => {
            let plain = sealing.sealer.unseal(key, body);
            serde_json::from_slice(&plain.map_err(Unreadable::Sealed)?)
        }
        _ => return Err(Unreadable::Damaged),
    };
    json.map_err(|_| Unreadable::Damaged)
}

/// Everything that can be read. A value that cannot costs its object and nothing else, unless none of the sealed ones can: then it is
/// the key that is wrong.
pub(super) fn load(
    database: &Database,
    sealing: &Sealing,
    refused: &impl Fn(String) -> OpenError,
) -> Result<Loaded, OpenError> {
    let (rows, last, length) = read(database).map_err(|error| refused(error.to_string()))?;
    let (mut objects, mut damaged) = (BTreeMap::new(), Vec::new());
    let (mut unsealed, mut wrong_key) = (false, None);
    if length != rows.len() as u64 {
        damaged.push(format!(
            "{} of {length} objects",
            length.abs_diff(rows.len() as u64)
        ));
    }
    let mut newest = 0;
    for (key, bytes) in rows {
        match decode(sealing, &key, &bytes) {
            Ok(value) => {
                unsealed |= key.starts_with(&sealing.prefix);
                let key: Arc<str> = Arc::from(key);
                let entry = Entry {
                    key: key.clone(),
                    revision: stamped(&value),
                    value: Arc::new(value),
                };
                newest = newest.max(entry.revision.0);
                objects.insert(key, entry);
            }
            Err(why) => {
                damaged.push(key);
                if let Unreadable::Sealed(error) = why {
                    wrong_key.get_or_insert(error);
                }
            }
        }
    }
    match wrong_key {
        Some(error) if !unsealed => Err(error.into()),
        _ => Ok(Loaded {
            objects,
            revision: last.unwrap_or(1).max(newest),
            damaged,
        }),
    }
}

type Read = (Vec<(String, Vec<u8>)>, Option<u64>, u64);

/// All rows, the revision unless it is damaged, and how many rows there should be.
fn read(database: &Database) -> Result<Read, redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(OBJECTS)?;
    transaction.open_table(META)?;
    transaction.commit()?;
    let transaction = database.begin_read()?;
    let meta = transaction.open_table(META)?;
    let number = |name: &str| -> Result<Option<u64>, redb::Error> {
        Ok(meta.get(name)?.map(|found| found.value()))
    };
    let revision = match (number(REVISION)?, number(REVISION_CHECK)?) {
        (Some(revision), Some(check)) if check != !revision => None,
        (revision, _) => revision,
    };
    let table = transaction.open_table(OBJECTS)?;
    let mut rows = Vec::new();
    for row in table.iter()? {
        let (key, value) = row?;
        rows.push((key.value().to_owned(), value.value().to_vec()));
    }
    Ok((rows, revision, table.len()?))
}

/// Commits rows and the revision together.
pub(super) fn write(
    database: &Database,
    rows: &Rows,
    durability: Durability,
    revision: u64,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(match durability {
        Durability::Synced => redb::Durability::Immediate,
        Durability::Eventual => redb::Durability::None,
    })?;
    {
        let mut objects = transaction.open_table(OBJECTS)?;
        for (key, bytes) in rows {
            match bytes {
                Some(bytes) => drop(objects.insert(&**key, bytes.as_slice())?),
                None => drop(objects.remove(&**key)?),
            }
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(REVISION, revision)?;
        meta.insert(REVISION_CHECK, !revision)?;
    }
    transaction.commit()?;
    Ok(())
}

/// The rows by which the database differs from `objects`; values that are damaged stay as they are.
pub(super) fn differences(
    database: &Database,
    sealing: &Sealing,
    objects: &BTreeMap<Arc<str>, Entry>,
    damaged: &[String],
) -> Result<Rows, String> {
    let (found, _, _) = read(database).map_err(|error| error.to_string())?;
    let mut same: BTreeSet<String> = BTreeSet::new();
    let mut rows = Rows::new();
    for (key, bytes) in found {
        let revision = decode(sealing, &key, &bytes)
            .ok()
            .map(|value| stamped(&value));
        match objects.get(key.as_str()) {
            Some(entry) if revision == Some(entry.revision) => drop(same.insert(key)),
            None if !damaged.contains(&key) => rows.push((Arc::from(key), None)),
            _ => {}
        }
    }
    for (key, entry) in objects.iter().filter(|(key, _)| !same.contains(&***key)) {
        let bytes = encode(sealing, key, &entry.value).map_err(|error| error.to_string())?;
        rows.push((key.clone(), Some(bytes)));
    }
    Ok(rows)
}

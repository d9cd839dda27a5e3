//! Reads a snapshot's archive, which may come from anybody.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use serde::Deserialize;
use tar::{Entries, Entry, EntryType};

use super::check;
use super::{
    ArchiveError, DIGESTS, DataDigest, HEAD, Head, MAX_TEXT_BYTES, Meter, PIECE_BYTES, VERSION,
    Watch, shown,
};
use crate::cluster::snapshot::{FileFact, Manifest};

/// Memory that a packed stream may ask for, as a power of two; what we write asks for 2 MiB.
const WINDOW_LOG_MAX: u32 = 27;
/// What may follow the last entry: tar's own padding.
const MAX_REST_BYTES: u64 = 1 << 20;

type Unpacker = zstd::Decoder<'static, BufReader<File>>;

/// Something wrong with an archive.
fn wrong(path: &Path, what: impl Into<String>) -> ArchiveError {
    ArchiveError::Format {
        path: path.to_owned(),
        what: what.into(),
    }
}

fn damaged(path: &Path) -> impl Fn(io::Error) -> ArchiveError {
    move |error| {
        wrong(
            path,
            format!("it is damaged, or no snapshot archive: {error}"),
        )
    }
}

fn open(path: &Path) -> Result<tar::Archive<Unpacker>, ArchiveError> {
    let failed = |source| ArchiveError::Io {
        what: format!("read `{}`", path.display()),
        source,
    };
    let facts = fs::metadata(path).map_err(failed)?;
    if !facts.is_file() {
        return Err(wrong(path, "it is no file"));
    }
    let mut unpacker = zstd::Decoder::new(File::open(path).map_err(failed)?).map_err(failed)?;
    unpacker.window_log_max(WINDOW_LOG_MAX).map_err(failed)?;
    Ok(tar::Archive::new(unpacker))
}

/// Reads what an archive says of itself, its first kilobytes. Blocks.
///
/// # Errors
/// When it is no archive of a snapshot, or one that could not be unpacked: all that is wrong with it.
pub fn inspect(path: &Path) -> Result<Manifest, ArchiveError> {
    let mut archive = open(path)?;
    let mut entries = archive.entries().map_err(damaged(path))?.raw(true);
    Ok(read_head(path, &mut entries)?.0)
}

/// Unpacks an archive into the empty directory `into`. Blocks.
///
/// # Errors
/// When it is not what [`inspect`] saw, is torn, or a digest does not match. What was unpacked is of no use then.
pub fn unpack(
    path: &Path,
    seen: &Manifest,
    into: &Path,
    watch: &Watch,
) -> Result<(), ArchiveError> {
    let unpacked = unpack_entries(path, seen, into, watch);
    if watch.is_interrupted() {
        return Err(ArchiveError::Interrupted);
    }
    unpacked
}

fn unpack_entries(
    path: &Path,
    seen: &Manifest,
    into: &Path,
    watch: &Watch,
) -> Result<(), ArchiveError> {
    let mut archive = open(path)?;
    let mut entries = archive.entries().map_err(damaged(path))?.raw(true);
    let (manifest, head_digest) = read_head(path, &mut entries)?;
    if manifest != *seen {
        return Err(wrong(path, "somebody changed it meanwhile"));
    }
    let mut due: BTreeMap<&str, &FileFact> = manifest
        .files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    let mut found = BTreeMap::from([(HEAD.to_owned(), head_digest)]);
    let mut told: Option<BTreeMap<String, String>> = None;
    let mut meter = Meter::new(watch, &manifest);
    for entry in entries {
        let mut entry = entry.map_err(damaged(path))?;
        let name = plain_name(path, &entry)?;
        if told.is_some() {
            let what = format!("{} comes after its digests", shown(&name));
            return Err(wrong(path, what));
        }
        if name == DIGESTS {
            let text = read_text(path, &mut entry)?;
            let digests = serde_json::from_slice(&text)
                .map_err(|error| wrong(path, format!("its digests cannot be read: {error}")))?;
            told = Some(digests);
            continue;
        }
        let Some(fact) = due.remove(name.as_str()) else {
            let what = format!("{} is twice in it, or not in its manifest", shown(&name));
            return Err(wrong(path, what));
        };
        let digest = write_file(path, &mut entry, fact, into, &mut meter)?;
        found.insert(name, digest);
    }
    if !due.is_empty() {
        let names: Vec<&str> = due.into_keys().collect();
        let what = format!("it is torn: it lacks {}", names.join(", "));
        return Err(wrong(path, what));
    }
    let told = told.ok_or_else(|| wrong(path, "it is torn: it lacks its digests"))?;
    compare(path, &found, &told)?;
    // The packer's own checksum comes last.
    let mut rest = archive.into_inner().take(MAX_REST_BYTES + 1);
    let rest = io::copy(&mut rest, &mut io::sink()).map_err(damaged(path))?;
    if rest > MAX_REST_BYTES {
        return Err(wrong(path, "something follows its end"));
    }
    Ok(())
}

/// Every digest that does not match, at once.
fn compare(
    path: &Path,
    found: &BTreeMap<String, String>,
    told: &BTreeMap<String, String>,
) -> Result<(), ArchiveError> {
    let differs = |name: &&String| found.get(*name) != told.get(*name);
    let mut names: Vec<String> = found
        .keys()
        .filter(differs)
        .map(|name| shown(name))
        .collect();
    let unknown = told.keys().filter(|name| !found.contains_key(*name));
    names.extend(unknown.map(|name| shown(name)));
    if names.is_empty() {
        return Ok(());
    }
    let what = format!(
        "it is damaged: not what its digests say: {}",
        names.join(", ")
    );
    Err(wrong(path, what))
}

fn read_head<R: Read>(
    path: &Path,
    entries: &mut Entries<'_, R>,
) -> Result<(Manifest, String), ArchiveError> {
    #[derive(Deserialize)]
    struct Version {
        flightcage_snapshot: u32,
    }
    let first = entries.next().transpose().map_err(damaged(path))?;
    let Some(mut entry) = first else {
        return Err(wrong(path, "it is empty"));
    };
    if plain_name(path, &entry)? != HEAD {
        return Err(wrong(path, format!("it does not begin with `{HEAD}`")));
    }
    let text = read_text(path, &mut entry)?;
    let unreadable =
        |error: serde_json::Error| wrong(path, format!("its `{HEAD}` cannot be read: {error}"));
    let version: Version = serde_json::from_slice(&text).map_err(unreadable)?;
    if version.flightcage_snapshot != VERSION {
        let what = format!(
            "its format is version {}, this flightcage reads {VERSION}",
            version.flightcage_snapshot
        );
        return Err(wrong(path, what));
    }
    let head: Head = serde_json::from_slice(&text).map_err(unreadable)?;
    let problems = check::problems(&head.manifest);
    if !problems.is_empty() {
        return Err(wrong(path, problems.join("; ")));
    }
    Ok((head.manifest, DataDigest::of(&text)))
}

/// The name of a plain file. Links, devices, folders and long names are none that we write.
fn plain_name<R: Read>(path: &Path, entry: &Entry<'_, R>) -> Result<String, ArchiveError> {
    let bytes = entry.path_bytes();
    let kind = entry.header().entry_type();
    if kind != EntryType::Regular {
        let name = shown(&String::from_utf8_lossy(&bytes));
        let what = format!("{name} is no plain file, and nothing else is taken");
        return Err(wrong(path, what));
    }
    String::from_utf8(bytes.into_owned())
        .map_err(|_| wrong(path, "the name of one of its files is not UTF-8"))
}

fn read_text<R: Read>(path: &Path, entry: &mut Entry<'_, R>) -> Result<Vec<u8>, ArchiveError> {
    let bytes = entry.size();
    if bytes > MAX_TEXT_BYTES {
        let what = format!("one of its texts is larger than {MAX_TEXT_BYTES} bytes");
        return Err(wrong(path, what));
    }
    let mut text = Vec::new();
    entry.read_to_end(&mut text).map_err(damaged(path))?;
    if text.len() as u64 != bytes {
        return Err(wrong(path, "it is torn: one of its texts ends early"));
    }
    Ok(text)
}

/// Writes one file, with holes where it is zero. Returns its digest.
fn write_file<R: Read>(
    path: &Path,
    entry: &mut Entry<'_, R>,
    fact: &FileFact,
    into: &Path,
    meter: &mut Meter<'_>,
) -> Result<String, ArchiveError> {
    if entry.size() != fact.bytes {
        let what = format!(
            "`{}` has {} bytes instead of {}",
            fact.path,
            entry.size(),
            fact.bytes
        );
        return Err(wrong(path, what));
    }
    let target = into.join(&fact.path);
    let failed = |source| ArchiveError::Io {
        what: format!("write `{}`", target.display()),
        source,
    };
    let file = create(&target, fact.bytes).map_err(failed)?;
    let mut digest = DataDigest::new(fact.bytes);
    let mut piece = vec![0; PIECE_BYTES];
    let (mut at, mut data_bytes) = (0, 0);
    while at < fact.bytes {
        let count = fill(entry, &mut piece).map_err(damaged(path))?;
        if count == 0 {
            return Err(wrong(
                path,
                format!("it is torn: `{}` ends early", fact.path),
            ));
        }
        if digest.take(at, &piece[..count]) {
            data_bytes += count as u64;
            if data_bytes > fact.data_bytes {
                let what = format!("`{}` holds more than its manifest says", fact.path);
                return Err(wrong(path, what));
            }
            file.write_all_at(&piece[..count], at).map_err(failed)?;
        }
        at += count as u64;
        meter.add(count).map_err(failed)?;
    }
    Ok(digest.finish())
}

/// A new file of this length that only we can read, all of it a hole, and the directories above it.
fn create(target: &Path, bytes: u64) -> io::Result<File> {
    if let Some(folder) = target.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)?;
    file.set_len(bytes)?;
    Ok(file)
}

/// Reads until the buffer is full or the entry ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

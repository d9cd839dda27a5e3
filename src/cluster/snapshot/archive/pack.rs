//! Writes a snapshot's archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use super::{ArchiveError, DIGESTS, DataDigest, HEAD, Head, Meter, PIECE_BYTES, VERSION, Watch};
use crate::cluster::snapshot::Manifest;

/// zstd's own default: a machine's memory shrinks to a third.
const LEVEL: i32 = 3;
/// What is not yet whole is called so, beside its place.
const UNFINISHED: &str = ".flightcage-export-";

/// Packs the snapshot in `directory`, which was verified, into the new file `target`. Blocks. Returns how long the file is.
///
/// # Errors
/// When `target` exists, or something cannot be read or written. Nothing is left then.
pub fn pack(
    directory: &Path,
    manifest: &Manifest,
    target: &Path,
    watch: &Watch,
) -> Result<u64, ArchiveError> {
    if target.symlink_metadata().is_ok() {
        return Err(ArchiveError::Exists(target.to_owned()));
    }
    let folder = target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let failed = |source: io::Error| {
        if watch.is_interrupted() {
            return ArchiveError::Interrupted;
        }
        ArchiveError::Io {
            what: format!("write `{}`", target.display()),
            source,
        }
    };
    // Only its owner can read what this makes.
    let file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder)
        .map_err(failed)?;
    let file = write_all(directory, manifest, file, watch).map_err(failed)?;
    let bytes = file.as_file().metadata().map_err(failed)?.len();
    match file.persist_noclobber(target) {
        Ok(_) => Ok(bytes),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
            Err(ArchiveError::Exists(target.to_owned()))
        }
        Err(error) => Err(failed(error.error)),
    }
}

fn write_all(
    directory: &Path,
    manifest: &Manifest,
    file: NamedTempFile,
    watch: &Watch,
) -> io::Result<NamedTempFile> {
    let mut packer = zstd::Encoder::new(file, LEVEL)?;
    packer.include_checksum(true)?;
    let mut archive = tar::Builder::new(packer);
    let head = serde_json::to_vec_pretty(&Head {
        flightcage_snapshot: VERSION,
        made_by: format!("flightcage {}", env!("CARGO_PKG_VERSION")),
        manifest: manifest.clone(),
    })?;
    let mut digests = BTreeMap::new();
    append_text(&mut archive, HEAD, &head)?;
    digests.insert(HEAD, DataDigest::of(&head));
    let mut meter = Meter::new(watch, manifest);
    for fact in &manifest.files {
        let mut pieces = Pieces {
            file: File::open(directory.join(&fact.path))?,
            bytes: fact.bytes,
            at: 0,
            piece: Vec::new(),
            used: 0,
            digest: DataDigest::new(fact.bytes),
            meter: &mut meter,
        };
        archive.append_data(&mut header(fact.bytes), &fact.path, &mut pieces)?;
        digests.insert(&fact.path, pieces.digest.finish());
    }
    append_text(&mut archive, DIGESTS, &serde_json::to_vec_pretty(&digests)?)?;
    let file = archive.into_inner()?.finish()?;
    file.as_file().sync_all()?;
    Ok(file)
}

pub(super) fn header(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(0o600);
    header
}

fn append_text<W: Write>(archive: &mut tar::Builder<W>, name: &str, text: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(text.len() as u64), name, text)
}

/// A file's contents, exactly as many as were promised. Holes are not read.
struct Pieces<'a, 'w> {
    file: File,
    bytes: u64,
    at: u64,
    piece: Vec<u8>,
    used: usize,
    digest: DataDigest,
    meter: &'a mut Meter<'w>,
}

impl Pieces<'_, '_> {
    /// The next piece; an empty one at the end.
    fn advance(&mut self) -> io::Result<()> {
        let length = usize::try_from(self.bytes - self.at)
            .unwrap_or(PIECE_BYTES)
            .min(PIECE_BYTES);
        self.piece.resize(length, 0);
        self.used = 0;
        if length == 0 {
            return Ok(());
        }
        let end = self.at + length as u64;
        if next_data(&self.file, self.at)? < end {
            self.file.read_exact_at(&mut self.piece, self.at)?;
        } else {
            self.piece.fill(0);
        }
        self.digest.take(self.at, &self.piece);
        self.at = end;
        self.meter.add(length)
    }
}

impl Read for Pieces<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            self.advance()?;
        }
        let left = &self.piece[self.used..];
        let count = buffer.len().min(left.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.used += count;
        Ok(count)
    }
}

/// Where the next data at or after `at` are; a file system without holes has them everywhere.
fn next_data(file: &File, at: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(u64::MAX),
        Err(Errno::INVAL) => Ok(at),
        Err(error) => Err(error.into()),
    }
}

//! One file that carries a snapshot to another machine.
//!
//! ```text
//! zstd ( tar ( archive.json          the format's version, and the snapshot's manifest with its fingerprint
//!              cluster/… machines/…  the files that the manifest names, each once; holes are zeroes
//!              digests.json ) )      the SHA-256 of everything before
//! ```
//! Invariants: the file is 0600, since it holds the cluster's keys; it appears under its name when it is whole. Nothing of an archive is
//! taken by its word: names come from a list that is made of the specification, only plain files count, no size but the manifest's, every
//! digest is compared, and whatever is wrong leaves nothing. That says that an archive is what somebody has packed, not who it was: a
//! snapshot is a running cluster, and is to come from whom one trusts.

mod check;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Difference, Manifest, SnapshotError};
use crate::model::definition::hexadecimal;

pub use pack::pack;
pub use unpack::{inspect, unpack};

/// The version of what is written.
const VERSION: u32 = 1;
/// The first entry.
const HEAD: &str = "archive.json";
/// The last entry.
const DIGESTS: &str = "digests.json";
/// Read and written at a time. Pieces of this size that hold only zeroes become holes, as they are to the manifest.
const PIECE_BYTES: usize = 1 << 20;
/// Largest text, and largest file of a cluster's identity.
const MAX_TEXT_BYTES: u64 = 4 << 20;

static ZEROES: [u8; PIECE_BYTES] = [0; PIECE_BYTES];

/// Why a snapshot could not be exported or imported.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is not what can be imported.
    #[error("`{}` cannot be imported: {what}", path.display())]
    Format {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There is something in its place.
    #[error("`{}` exists already, and is not overwritten; name another file", .0.display())]
    Exists(PathBuf),
    /// It belongs to a cluster of another name.
    #[error(
        "`{}` is a snapshot of cluster `{cluster}`, and holds the keys of that; import it with `--name {cluster}`",
        path.display()
    )]
    OtherCluster {
        /// The archive.
        path: PathBuf,
        /// The cluster's name.
        cluster: String,
    },
    /// An automatic snapshot is found by what it is made from, not by its name.
    #[error("`{0}` is the name of an automatic snapshot; give it one of its own with `--as NAME`")]
    NameNeeded(String),
    /// The host is not one that it runs on.
    #[error("the snapshot does not run on this host, and nothing was imported:{}", listed(.0))]
    Mismatch(Vec<String>),
    /// The user had enough.
    #[error("interrupted; nothing is left of it")]
    Interrupted,
    /// A file or directory.
    #[error("{what}")]
    Io {
        /// A lower-case fragment.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The shelf refused.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl ArchiveError {
    /// Whether the input is wrong, rather than that something of ours failed.
    #[must_use]
    pub fn is_invalid(&self) -> bool {
        match self {
            Self::Format { .. }
            | Self::Exists(_)
            | Self::OtherCluster { .. }
            | Self::NameNeeded(_)
            | Self::Snapshot(
                SnapshotError::Name(_)
                | SnapshotError::Missing { .. }
                | SnapshotError::Exists { .. },
            ) => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Mismatch(_) | Self::Interrupted | Self::Snapshot(_) => false,
        }
    }
}

fn listed(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// A difference in words. What an archive says is shown without whatever would act on a terminal.
#[must_use]
pub fn in_words(difference: &Difference) -> String {
    format!(
        "{}: it was made with {}, here is {}",
        shown(&difference.part),
        shown(&difference.saved),
        shown(&difference.here)
    )
}

/// A text of somebody else's, harmless and short.
fn shown(text: &str) -> String {
    const LONGEST: usize = 90;
    let cut = if text.chars().nth(LONGEST).is_some() {
        "…"
    } else {
        ""
    };
    let start: String = text.chars().take(LONGEST).collect();
    format!("`{}{cut}`", start.escape_debug())
}

/// What is told while an archive is packed or unpacked, and what ends it early.
pub struct Watch {
    tell: Box<dyn Fn(u64) + Send + Sync>,
    interrupted: Arc<AtomicBool>,
}

impl Watch {
    /// `tell` gets the per cent that are done, each once. When `interrupted` is set, the work ends soon and leaves nothing.
    pub fn new(tell: impl Fn(u64) + Send + Sync + 'static, interrupted: Arc<AtomicBool>) -> Self {
        Self {
            tell: Box::new(tell),
            interrupted,
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}

/// How much of it is done.
struct Meter<'a> {
    watch: &'a Watch,
    done: u64,
    total: u64,
    told: u64,
}

impl<'a> Meter<'a> {
    fn new(watch: &'a Watch, manifest: &Manifest) -> Self {
        Self {
            watch,
            done: 0,
            total: manifest.files.iter().map(|file| file.bytes).sum(),
            told: 0,
        }
    }

    fn add(&mut self, bytes: usize) -> io::Result<()> {
        if self.watch.is_interrupted() {
            return Err(io::Error::other("interrupted"));
        }
        self.done += bytes as u64;
        let percent = self.done.saturating_mul(100) / self.total.max(1);
        if percent > self.told {
            self.told = percent;
            (self.watch.tell)(percent);
        }
        Ok(())
    }
}

/// The first entry.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    flightcage_snapshot: u32,
    made_by: String,
    manifest: Manifest,
}

/// The SHA-256 of a file: of its length, and of every piece that holds more than zeroes, with its place before it.
struct DataDigest(Sha256);

impl DataDigest {
    fn new(bytes: u64) -> Self {
        let mut hash = Sha256::new();
        hash.update(bytes.to_le_bytes());
        Self(hash)
    }

    /// Takes the next piece. Returns whether it holds more than zeroes.
    fn take(&mut self, at: u64, piece: &[u8]) -> bool {
        if *piece == ZEROES[..piece.len()] {
            return false;
        }
        self.0.update(at.to_le_bytes());
        self.0.update(piece);
        true
    }

    fn finish(self) -> String {
        hexadecimal(&self.0.finalize())
    }

    /// Of a text in memory.
    fn of(text: &[u8]) -> String {
        let mut digest = Self::new(text.len() as u64);
        let mut at = 0;
        for piece in text.chunks(PIECE_BYTES) {
            digest.take(at, piece);
            at += piece.len() as u64;
        }
        digest.finish()
    }
}

/// The SHA-256 of a file as `sha256sum` gives it.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of(path: &std::path::Path) -> io::Result<String> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            count => hash.update(&piece[..count]),
        }
    }
}

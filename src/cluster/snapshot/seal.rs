//! What tells that a snapshot's files were not touched since they were last read whole: reading gigabytes again before each restore
//! would take longer than the restore.
//!
//! A seal holds every file's length and time of change, and the host's boot: what was written shortly before a crash may be lost although
//! the file's metadata is there. A seal that does not hold proves nothing; the checksums then decide.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cluster::home::write_private;

/// Beside the manifest, which does not list it.
const FILE: &str = "seal.json";
/// The kernel's name for this boot (proc(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A file as its metadata tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    changed_s: i64,
    changed_ns: i64,
}

/// See the module's text. Two are equal when nothing was touched in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    boot: String,
    files: BTreeMap<String, Stamp>,
}

impl Seal {
    /// Takes it of the snapshot in `directory`. Take it before the files are read: what changes meanwhile breaks it. `None`: this host does
    /// not tell its boots apart, or a file is missing.
    pub(super) fn take<'a>(
        directory: &Path,
        files: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let boot = fs::read_to_string(BOOT_ID).ok()?;
        let stamp = |path: &str| {
            let facts = fs::metadata(directory.join(path)).ok()?;
            Some((
                path.to_owned(),
                Stamp {
                    bytes: facts.len(),
                    changed_s: facts.mtime(),
                    changed_ns: facts.mtime_nsec(),
                },
            ))
        };
        Some(Self {
            boot: boot.trim().to_owned(),
            files: files.into_iter().map(stamp).collect::<Option<_>>()?,
        })
    }

    /// The one that was written last, if it can be read.
    pub(super) fn read(directory: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(directory.join(FILE)).ok()?).ok()
    }

    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        write_private(&directory.join(FILE), &serde_json::to_vec_pretty(self)?)
    }

    /// Makes the next reader look at every byte.
    pub(super) fn destroy(directory: &Path) {
        // One that is not there does the same.
        let _ = fs::remove_file(directory.join(FILE));
    }
}

//! Snapshots of a whole cluster on the host's disk: what one holds, and when one may be restored.
//!
//! ```text
//! $FLIGHTCAGE_HOME/snapshots/<cluster>/<snapshot>/
//!   manifest.json  manifest.sum      what it was made from, and every file with its length and checksum
//!   seal.json                        how the files looked when they were last read whole; it saves reading them again
//!   used                             when it was last restored, by its own time of change
//!   cluster/{pki,ssh}/  ports.json   the cluster's identity
//!   machines/<node>/                 memory, disk, machine.json
//! ```
//! A snapshot holds its cluster's keys: directories are 0700, and it belongs to one cluster name. It is written under a temporary
//! name and renamed when it is whole; one that is torn, or made from something else, is refused with the reason.
//! *Automatic* ones are pristine: `up` makes them of a cluster that has just booted, finds them by their [`Fingerprint`], and keeps
//! few. *Named* ones are a user's: restored only by name, removed only by the user.

pub mod archive;
mod fingerprint;
mod room;
mod seal;
mod shelf;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use fingerprint::{Difference, Fingerprint, Ingredients};
pub use room::{Kept, MAX_AUTOMATIC_BYTES, surplus};
pub use shelf::{Draft, Shelf};

use crate::machines::provider::Acceleration;
use crate::model::cluster::ClusterSpec;

/// The version of what is written.
pub(super) const FORMAT: u32 = 1;
/// Automatic snapshots are called so, followed by the start of their fingerprint.
const AUTOMATIC: &str = "auto-";
/// Longest name.
const MAX_NAME: usize = 40;

/// Why a snapshot cannot be saved, found or restored.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The name is none.
    #[error(
        "`{0}` is no name of a snapshot: lower-case letters, digits and `-`, at most {MAX_NAME}, not beginning with `{AUTOMATIC}`"
    )]
    Name(String),
    /// There is none of that name.
    #[error(
        "cluster `{cluster}` has no snapshot `{name}`; `flightcage snapshot list --name {cluster}` shows what there is"
    )]
    Missing {
        /// The cluster.
        cluster: String,
        /// The snapshot.
        name: String,
    },
    /// The name is taken.
    #[error(
        "cluster `{cluster}` has a snapshot `{name}` already; `flightcage snapshot rm --name {cluster} {name}` removes it"
    )]
    Exists {
        /// The cluster.
        cluster: String,
        /// The snapshot.
        name: String,
    },
    /// It must not be restored.
    #[error("snapshot `{name}` is refused: {reason}")]
    Refused {
        /// The snapshot.
        name: String,
        /// Why.
        reason: String,
    },
    /// The disk is too full.
    #[error("a snapshot needs up to {needed_mib} MiB in `{}`, {free_mib} MiB are free; remove some by `flightcage snapshot rm`", directory.display())]
    NoRoom {
        /// MiB that it may take.
        needed_mib: u64,
        /// MiB that are free.
        free_mib: u64,
        /// Where.
        directory: PathBuf,
    },
    /// The cluster cannot be saved as it is.
    #[error("the cluster cannot be saved: {0}")]
    Unfit(String),
    /// A file or directory.
    #[error("{what}")]
    Io {
        /// A lower-case fragment.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Whose a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Made by `up` of a cluster that had just booted.
    Automatic,
    /// A user's.
    Named,
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub version: u32,
    /// The snapshot's name, which its directory bears.
    pub name: String,
    /// Whose it is.
    pub kind: Kind,
    /// When it was complete.
    pub created: jiff::Timestamp,
    /// What the cluster was made from.
    pub spec: ClusterSpec,
    /// How its machines execute code.
    pub acceleration: Acceleration,
    /// Everything that a restore depends on.
    pub fingerprint: Fingerprint,
    /// Its files, by their path below the snapshot.
    pub files: Vec<FileFact>,
}

impl Manifest {
    /// What it takes on the disk, at most.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.data_bytes).sum()
    }
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFact {
    /// Below the snapshot's directory.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// What of it is no hole.
    pub data_bytes: u64,
    /// CRC-32 of its data; holes count as nothing.
    pub crc32: u32,
}

/// Whether a user may call a snapshot so.
///
/// # Errors
/// [`SnapshotError::Name`].
pub fn check_name(name: &str) -> Result<(), SnapshotError> {
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let ends = name.starts_with('-') || name.ends_with('-');
    if name.is_empty() || name.len() > MAX_NAME || !letters || ends || name.starts_with(AUTOMATIC) {
        return Err(SnapshotError::Name(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for right in ["a", "flappy-ready", "2"] {
            assert!(check_name(right).is_ok(), "{right}");
        }
        let long = "x".repeat(41);
        for wrong in [
            "",
            "-a",
            "a-",
            "../x",
            "A",
            "auto-1",
            "a b",
            ".part-1",
            long.as_str(),
        ] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
    }
}

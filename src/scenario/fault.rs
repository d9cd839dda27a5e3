//! The fault seam, and the journal that undoes faults however a run ends.
//!
//! A fault is written to the journal before it acts, healed by whichever comes first (its end, the run's end, cancellation, the
//! next start's [`undo`]), and only then struck from the journal.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::injection::Injection;
use super::spec::Capability;
use crate::machines::journal::Sighting;
use crate::transport::BoxStream;

/// So many characters of a fault's place stand in the name of its file.
const PLACE_MAX: usize = 40;

/// Why a fault did not take effect or could not be healed.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct FaultError {
    /// A lower-case fragment that names the node and what was seen.
    pub what: String,
    /// The cause, if there is one.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// A change that was seen to have happened.
#[derive(Debug, Clone)]
pub struct Effect {
    /// When it took effect, measured on this host's monotonic clock.
    pub at: Instant,
    /// Whether the effect itself was observed (no process, packets that do not pass), not only the request acknowledged.
    pub verified: bool,
    /// What was measured, in words.
    pub measured: String,
}

impl Effect {
    /// A change that was seen just now.
    #[must_use]
    pub fn now(verified: bool, measured: impl Into<String>) -> Self {
        Self {
            at: Instant::now(),
            verified,
            measured: measured.into(),
        }
    }
}

/// Breaks machines, links, disks and clocks on purpose. The runner calls it; `cli` implements it over the daemon, a fake in tests.
///
/// Both verbs return when their effect was verified, are idempotent, and may be cancelled: the journal then undoes what may have
/// been done. Healing needs nothing but the injection, so that another process can do it.
pub trait Faults: Send + Sync + 'static {
    /// What this target can do.
    fn capabilities(&self) -> BTreeSet<Capability>;
    /// Lets a fault act. One that acts already is fine.
    fn begin(&self, injection: &Injection) -> BoxFuture<'_, Result<Effect, FaultError>>;
    /// Ends a fault. One that does not act any more is fine; one whose end is not seen is an error: it is tried again, and stays in
    /// the journal.
    fn heal(&self, injection: &Injection) -> BoxFuture<'_, Result<Effect, FaultError>>;
    /// Heals whatever acts, whoever began it: rules are removed, machines of the cluster run.
    fn heal_all(&self) -> BoxFuture<'_, Result<(), FaultError>>;
    /// Troubles seen in the machines from this time of the host's clock on. A target that cannot look into its machines sees none.
    fn troubles(&self, since: SystemTime) -> BoxFuture<'_, Vec<Sighting>> {
        let _ = since;
        Box::pin(async { Vec::new() })
    }
    /// What the machines wrote to their consoles and journals since the run began. A target that cannot look into its machines has none.
    fn machine_logs(&self, begun: SystemTime) -> BoxFuture<'_, Vec<MachineLog>> {
        let _ = begun;
        Box::pin(async { Vec::new() })
    }
}

/// What a machine wrote outside of the cluster's API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineLog {
    /// The machine.
    pub node: String,
    /// What wrote it, for instance `console` or `flightcage-agent`.
    pub name: String,
    /// The text, with times from the start of the run where there are any.
    pub text: String,
}

/// How the prober connects to a Service: through its own path, never through the host's ingress.
pub trait DialService: Send + Sync + 'static {
    /// Connects to a port of a Service, named `namespace/name`. `NotFound`: there is no such Service or port. Dropping the future
    /// abandons the attempt. Other errors keep the peer's answer, as [`crate::transport::Dial`] says.
    fn dial(&self, service: &str, port: u16) -> BoxFuture<'_, io::Result<BoxStream>>;
}

/// The journal of one cluster's faults: one JSON file a fault in a folder.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// The journal in `folder`, which is made when the first fault is written.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Writes an entry durably and returns its file.
    pub fn write(&self, entry: &Injection) -> io::Result<PathBuf> {
        std::fs::create_dir_all(&self.folder)?;
        // Systems limit the names of files, and the step tells entries apart.
        let place = entry.place.to_string();
        let place: String = place
            .chars()
            .take(PLACE_MAX)
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let path = self.folder.join(format!("{}-{place}.json", entry.step));
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        serde_json::to_writer(&mut file, entry)?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        std::fs::File::open(&self.folder)?.sync_all()?;
        Ok(path)
    }

    /// Strikes a healed fault. An absent file is fine.
    pub fn strike(&self, file: &Path) -> io::Result<()> {
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What is still to be undone, in the order of the files' names.
    pub fn entries(&self) -> io::Result<Vec<(PathBuf, Injection)>> {
        let folder = match std::fs::read_dir(&self.folder) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut entries = Vec::new();
        for file in folder {
            let path = file?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                entries.push((
                    path.clone(),
                    serde_json::from_slice(&std::fs::read(&path)?)?,
                ));
            }
        }
        entries.sort_by(|a: &(PathBuf, _), b| a.0.cmp(&b.0));
        Ok(entries)
    }
}

/// Why [`undo`] left something.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// The journal cannot be read or changed.
    #[error("journal of faults `{}`", folder.display())]
    Journal {
        /// Its folder.
        folder: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A fault could not be healed; it stays in the journal.
    #[error("heal {injection}")]
    Heal {
        /// What was done.
        injection: Box<Injection>,
        /// The cause.
        #[source]
        source: FaultError,
    },
}

/// Heals everything that the journal in `folder` says may still act, and returns what it healed. Called by `undo`, and at the start
/// of every run. All entries are tried; the first failure is returned.
pub async fn undo(folder: &Path, faults: &dyn Faults) -> Result<Vec<Injection>, UndoError> {
    let journal = Journal::new(folder);
    let broken = |source| UndoError::Journal {
        folder: folder.to_owned(),
        source,
    };
    let mut healed = Vec::new();
    let mut failed = None;
    for (file, entry) in journal.entries().map_err(broken)? {
        match faults.heal(&entry).await {
            Ok(_) => {
                journal.strike(&file).map_err(broken)?;
                healed.push(entry);
            }
            Err(source) => {
                failed.get_or_insert(UndoError::Heal {
                    injection: Box::new(entry),
                    source,
                });
            }
        }
    }
    failed.map_or(Ok(healed), Err)
}

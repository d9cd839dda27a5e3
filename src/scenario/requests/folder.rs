//! The folder of one run: what is kept while it goes on, beside the report that is written at its end.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::FILE_NAME;
use crate::scenario::evidence;

/// The scenario's file as it was run.
pub const SCENARIO_FILE: &str = "scenario.toml";

/// Why a run cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("keep the run in `{}`", folder.display())]
pub struct KeepError {
    /// Its folder.
    pub folder: PathBuf,
    /// The cause.
    #[source]
    pub source: io::Error,
}

/// Makes the folder, puts the scenario there, and takes away the requests and the evidence of an earlier run.
pub fn prepare(folder: Option<&Path>, scenario: &str) -> Result<(), KeepError> {
    let Some(folder) = folder else { return Ok(()) };
    let prepared = || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(SCENARIO_FILE), scenario)?;
        absent_is_fine(std::fs::remove_file(folder.join(FILE_NAME)))?;
        absent_is_fine(std::fs::remove_dir_all(folder.join(evidence::FOLDER)))
    };
    prepared().map_err(|source| KeepError {
        folder: folder.to_owned(),
        source,
    })
}

fn absent_is_fine(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The file of requests, empty; one without a name where nothing is to be kept.
pub fn create(folder: Option<&Path>) -> Result<File, KeepError> {
    let created = match folder {
        Some(folder) => OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(folder.join(FILE_NAME)),
        None => tempfile::tempfile(),
    };
    created.map_err(|source| KeepError {
        folder: folder.unwrap_or(&std::env::temp_dir()).to_owned(),
        source,
    })
}

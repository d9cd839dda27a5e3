//! `run`, `plan`, `lint`, `undo`: scenario files and their verdicts.

use std::path::Path;

use super::failure::Failure;
use super::terminal::complain;
use crate::cluster::file::{self, ClusterFileError};
use crate::model::cluster::ClusterSpec;
use crate::model::diagnostic::Refusal;
use crate::model::names::ClusterName;

/// Reads a cluster file; all its problems are printed.
pub(super) fn read_cluster_file(path: &Path, name: &ClusterName) -> Result<ClusterSpec, Failure> {
    file::read(path, name).map_err(|error| match error {
        ClusterFileError::Read { .. } => Failure::from(error).invalid(),
        ClusterFileError::Refused(refusal) => refused(&refusal),
    })
}

/// Prints every problem of a file as `file:line:column: what`, and its hint.
pub(super) fn refused(refusal: &Refusal) -> Failure {
    for problem in refusal.problems() {
        complain(&problem.to_string());
        if let Some(help) = &problem.help {
            complain(&format!("  hint: {help}"));
        }
    }
    Failure::new(refusal.to_string()).invalid()
}

//! `snapshot export|import`: a snapshot's way to another machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;

use super::File;
use super::cluster::{interrupted, open_home};
use super::failure::Failure;
use super::terminal::{Live, say};
use crate::cluster::life::{self, Import, LifeError};
use crate::cluster::snapshot::SnapshotError;
use crate::model::names::ClusterName;

/// What `snapshot export --help` teaches.
pub(super) const EXPORT_HELP: &str = "\
The file (tar, zstd) holds memory, disks, keys and ports, what they were made from, and a digest of each: whoever has it has the cluster,
with every Secret in its memory. It is readable by you alone, and does not appear before it is whole. The box's files are not in it.

  flightcage snapshot save ready
  flightcage snapshot export ready ready.fcs
  scp ready.fcs other: ; ssh other flightcage snapshot import ready.fcs";

/// What `snapshot import --help` teaches.
pub(super) const IMPORT_HELP: &str = "\
A saved memory runs on the QEMU, the acceleration, the processor and the box that it was saved on, and on nothing else. What differs here
is told before anything is unpacked. Every file is checked against its digest; an archive that is torn, or holds anything that a snapshot
does not have, is refused and leaves nothing. The digests do not tell who made it: a snapshot is a running cluster, import what you trust.

A snapshot belongs to its cluster's name (--name), whose keys it holds. `flightcage snapshot restore NAME` brings it up afterwards.";

/// Arguments of `snapshot export`.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// Which one; `flightcage snapshot list` shows them.
    snapshot: String,
    /// The file to write; it must not exist.
    #[arg(value_name = "FILE")]
    file: File,
}

impl Export {
    pub(super) async fn run(self, name: &ClusterName) -> Result<(), Failure> {
        let paths = open_home()?.cluster(name);
        let live = Live::new();
        let stop = Arc::new(AtomicBool::new(false));
        let report = live.reporter();
        let exporting =
            life::export_snapshot(&paths, &self.snapshot, &self.file, stop.clone(), &report);
        let exported = to_its_end(exporting, &stop).await;
        live.finish();
        let exported = exported.map_err(explain)?;
        say(&format!("{}  {}", exported.sha256, self.file.display()));
        Ok(())
    }
}

/// Arguments of `snapshot import`.
#[derive(Debug, Args)]
pub(super) struct ImportFile {
    /// The file that `snapshot export` wrote.
    #[arg(value_name = "FILE")]
    file: File,
    /// What the snapshot is called here: lower-case letters, digits and `-`; without it, as it was called there.
    #[arg(long = "as", value_name = "NAME")]
    called: Option<String>,
    /// Refuse a file with another SHA-256, which `snapshot export` has printed.
    #[arg(long, value_name = "DIGEST")]
    sha256: Option<String>,
    /// Import it even if it does not run on this host as it is now.
    #[arg(long)]
    anyway: bool,
}

impl ImportFile {
    pub(super) async fn run(self, name: &ClusterName) -> Result<(), Failure> {
        let home = open_home()?;
        let live = Live::new();
        let stop = Arc::new(AtomicBool::new(false));
        let report = live.reporter();
        let import = Import {
            file: self.file,
            name: self.called,
            sha256: self.sha256,
            anyway: self.anyway,
        };
        let importing = life::import_snapshot(&home, name, import, stop.clone(), &report);
        let imported = to_its_end(importing, &stop).await;
        live.finish();
        say(&imported.map_err(explain)?.name);
        Ok(())
    }
}

/// Ctrl-C and SIGTERM end the work early; what was begun is then removed.
pub(super) async fn to_its_end<T>(work: impl Future<Output = T>, stop: &AtomicBool) -> T {
    let mut work = std::pin::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = interrupted() => stop.store(true, Ordering::SeqCst),
    }
    work.await
}

/// A wrong file or name is wrong input; one that does not fit this host is told how to be taken all the same.
fn explain(error: LifeError) -> Failure {
    use crate::cluster::snapshot::archive::ArchiveError;
    let is_invalid = match &error {
        LifeError::Archive(error) => error.is_invalid(),
        LifeError::Snapshot(error) => matches!(
            error,
            SnapshotError::Name(_) | SnapshotError::Missing { .. } | SnapshotError::Exists { .. }
        ),
        _ => false,
    };
    let is_mismatch = matches!(error, LifeError::Archive(ArchiveError::Mismatch(_)));
    let failure = Failure::from(error);
    match (is_invalid, is_mismatch) {
        (true, _) => failure.invalid(),
        (false, true) => failure.hint(
            "`--anyway` imports it for a host that will match; `snapshot restore` asks again",
        ),
        (false, false) => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::snapshot::archive::ArchiveError;

    #[test]
    fn wrong_files_and_names_are_wrong_input_and_a_foreign_host_is_not() {
        let check = |error: LifeError, expected: bool| {
            let said = error.to_string();
            assert_eq!(explain(error).is_invalid(), expected, "{said}");
        };
        let io = |kind: std::io::ErrorKind| ArchiveError::Io {
            what: "read `x`".into(),
            source: kind.into(),
        };
        let format = ArchiveError::Format {
            path: "x".into(),
            what: "it is empty".into(),
        };
        check(format.into(), true);
        check(ArchiveError::Exists("x".into()).into(), true);
        check(ArchiveError::NameNeeded("auto-1".into()).into(), true);
        check(io(std::io::ErrorKind::NotFound).into(), true);
        check(SnapshotError::Name("A".into()).into(), true);
        check(io(std::io::ErrorKind::StorageFull).into(), false);
        check(ArchiveError::Mismatch(Vec::new()).into(), false);
        check(ArchiveError::Interrupted.into(), false);
        check(LifeError::Busy("x".into()), false);
    }
}

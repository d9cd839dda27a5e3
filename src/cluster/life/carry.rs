//! A snapshot's way to another machine, and its arrival there.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::snapshots::{fingerprint, verify};
use super::{LifeError, Parts, Progress, Reporter, lock_life, part, shelf};
use crate::cluster::home::{ClusterPaths, Home};
use crate::cluster::snapshot::archive::{self, ArchiveError, Watch};
use crate::cluster::snapshot::{self, Kind, Manifest, Shelf, SnapshotError};
use crate::machines::boxes::{self, BoxDefinition};
use crate::machines::{acceleration, qemu};
use crate::model::names::ClusterName;

/// What came of an export.
#[derive(Debug, Clone)]
pub struct Exported {
    /// How long the file is.
    pub bytes: u64,
    /// Its SHA-256, as `sha256sum` gives it.
    pub sha256: String,
    /// What it holds.
    pub manifest: Manifest,
}

/// Packs a snapshot into a new file that only its owner can read. When `stop` is set, it ends early.
///
/// # Errors
/// When there is no such snapshot, it is torn, or the file exists or cannot be written. No file is left then.
pub async fn export_snapshot(
    paths: &ClusterPaths,
    name: &str,
    file: &Path,
    stop: Arc<AtomicBool>,
    report: &Reporter,
) -> Result<Exported, LifeError> {
    let _life = lock_life(paths)?;
    let shelf = shelf(paths);
    let manifest = shelf.read(name)?;
    report(Progress::Step(format!("checking snapshot `{name}`")));
    verify(&shelf, &manifest).await?;
    report(Progress::Step(format!(
        "packing {} MiB into `{}`",
        manifest.bytes() >> 20,
        file.display()
    )));
    let watch = watch(report, "packed", stop);
    let (directory, target, packed) = (shelf.path(name), file.to_owned(), manifest.clone());
    let packing = tokio::task::spawn_blocking(move || {
        let bytes = archive::pack(&directory, &packed, &target, &watch)?;
        let sha256 = archive::sha256_of(&target).map_err(|source| ArchiveError::Io {
            what: format!("read `{}`", target.display()),
            source,
        })?;
        Ok::<_, ArchiveError>((bytes, sha256))
    });
    let (bytes, sha256) = packing.await.map_err(part("pack a snapshot"))??;
    Ok(Exported {
        bytes,
        sha256,
        manifest,
    })
}

/// What is to be imported, and how.
#[derive(Debug, Clone)]
pub struct Import {
    /// The archive.
    pub file: PathBuf,
    /// What the snapshot is to be called here; as it was called there by default.
    pub name: Option<String>,
    /// The SHA-256 that the file must have.
    pub sha256: Option<String>,
    /// Whether one that does not run on this host is taken all the same.
    pub anyway: bool,
}

/// Unpacks an archive into the cluster's snapshots, as a named one. When `stop` is set, it ends early.
///
/// # Errors
/// When the archive is wrong in any way, belongs to another cluster, does not run on this host, or does not fit on the disk. Nothing
/// of it is left then.
pub async fn import_snapshot(
    home: &Home,
    cluster: &ClusterName,
    import: Import,
    stop: Arc<AtomicBool>,
    report: &Reporter,
) -> Result<Manifest, LifeError> {
    let paths = home.cluster(cluster);
    let _life = lock_life(&paths)?;
    let shelf = shelf(&paths);
    let manifest = look(&import).await?;
    let name = name_here(&import, &manifest, cluster)?;
    if shelf.path(&name).exists() {
        let cluster = cluster.to_string();
        return Err(SnapshotError::Exists { cluster, name }.into());
    }
    report(Progress::Step(
        "comparing this host with the one that it was made on".into(),
    ));
    compare(home, &paths, &manifest, import.anyway, report).await?;
    admit(&shelf, &manifest)?;
    report(Progress::Step(format!(
        "unpacking {} MiB",
        manifest.bytes() >> 20
    )));
    let draft = shelf.begin()?;
    let watch = watch(report, "unpacked", stop);
    let (into, seen) = (draft.directory().to_owned(), manifest.clone());
    let unpacking =
        tokio::task::spawn_blocking(move || archive::unpack(&import.file, &seen, &into, &watch));
    let unpacked = match unpacking.await {
        Ok(unpacked) => unpacked.map_err(LifeError::from),
        Err(broken) => Err(part("unpack a snapshot")(broken)),
    };
    if let Err(error) = unpacked {
        shelf.discard(draft);
        // The shelf goes, too, if there is nothing else on it.
        shelf.sweep()?;
        return Err(error);
    }
    let manifest = Manifest {
        name,
        kind: Kind::Named,
        ..manifest
    };
    let published = tokio::task::spawn_blocking(move || shelf.publish(draft, manifest)).await;
    Ok(published.map_err(part("write a snapshot"))??)
}

/// What the archive says of itself, if it is the one that was meant.
async fn look(import: &Import) -> Result<Manifest, LifeError> {
    let (file, wanted) = (import.file.clone(), import.sha256.clone());
    let looking = tokio::task::spawn_blocking(move || {
        let manifest = archive::inspect(&file)?;
        let Some(wanted) = wanted else {
            return Ok(manifest);
        };
        let found = archive::sha256_of(&file).map_err(|source| ArchiveError::Io {
            what: format!("read `{}`", file.display()),
            source,
        })?;
        if found.eq_ignore_ascii_case(wanted.trim()) {
            return Ok(manifest);
        }
        let what = format!("its SHA-256 is {found}, and not the one that was given");
        Err(ArchiveError::Format { path: file, what })
    });
    Ok(looking.await.map_err(part("read a snapshot's archive"))??)
}

/// What it is called here.
fn name_here(
    import: &Import,
    manifest: &Manifest,
    cluster: &ClusterName,
) -> Result<String, ArchiveError> {
    if manifest.spec.name != *cluster {
        return Err(ArchiveError::OtherCluster {
            path: import.file.clone(),
            cluster: manifest.spec.name.to_string(),
        });
    }
    let name = import.name.as_ref().unwrap_or(&manifest.name);
    match snapshot::check_name(name) {
        Ok(()) => Ok(name.clone()),
        Err(_) if import.name.is_none() && manifest.kind == Kind::Automatic => {
            Err(ArchiveError::NameNeeded(manifest.name.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells before gigabytes are unpacked what of this host is not as it has to be. Refuses unless the user wants it anyway.
async fn compare(
    home: &Home,
    paths: &ClusterPaths,
    manifest: &Manifest,
    anyway: bool,
    report: &Reporter,
) -> Result<(), LifeError> {
    let (fatal, others) = mismatches(home, paths, manifest).await?;
    for other in others {
        report(Progress::Step(format!(
            "{other}: what the snapshot holds stays as it was"
        )));
    }
    if fatal.is_empty() {
        return Ok(());
    }
    if anyway {
        for mismatch in fatal {
            report(Progress::Step(format!(
                "{mismatch}: it is imported, but not restored while this is so"
            )));
        }
        return Ok(());
    }
    Err(ArchiveError::Mismatch(fatal).into())
}

/// What keeps the memory from running here, and what else differs. Builds nothing.
async fn mismatches(
    home: &Home,
    paths: &ClusterPaths,
    manifest: &Manifest,
) -> Result<(Vec<String>, Vec<String>), LifeError> {
    let spec = &manifest.spec;
    let proof = match acceleration::prove(&home.cache()).await {
        Ok(proof) => proof,
        Err(error) => {
            let why = crate::cluster::chain(&error);
            let what = format!("this host runs no machines yet: {why}; `flightcage doctor --fix`");
            return Ok((vec![what], Vec::new()));
        }
    };
    let cached = BoxDefinition::load(&spec.box_name)
        .ok()
        .and_then(|definition| boxes::cached(&definition, &home.boxes()));
    let Some(box_files) = cached else {
        let what = format!(
            "this host has no box `{}` yet, and a memory runs on exactly its own: copy the other host's cache/boxes, or build it",
            spec.box_name.escape_debug()
        );
        return Ok((vec![what], Vec::new()));
    };
    let parts = Parts {
        acceleration: Some(proof.acceleration),
        box_files,
    };
    let here = fingerprint(home, paths, spec, &parts).await?;
    let (fatal, others): (Vec<_>, Vec<_>) = manifest
        .fingerprint
        .differences(&here)
        .into_iter()
        .partition(|difference| difference.is_fatal);
    let in_words = |all: Vec<snapshot::Difference>| all.iter().map(archive::in_words).collect();
    Ok((in_words(fatal), in_words(others)))
}

/// Refuses to fill the disk.
fn admit(shelf: &Shelf, manifest: &Manifest) -> Result<(), SnapshotError> {
    let needed = manifest.bytes();
    match qemu::free_disk(shelf.directory()) {
        Some(free) if free < needed => Err(SnapshotError::NoRoom {
            needed_mib: needed >> 20,
            free_mib: free >> 20,
            directory: shelf.directory().to_owned(),
        }),
        _ => Ok(()),
    }
}

fn watch(report: &Reporter, done: &'static str, stop: Arc<AtomicBool>) -> Watch {
    let report = report.clone();
    Watch::new(
        move |percent| report(Progress::Detail(format!("{percent} % {done}"))),
        stop,
    )
}

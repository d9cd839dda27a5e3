//! One cluster's snapshots on the disk: written whole or not at all, read with suspicion.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::room::Kept;
use super::seal::Seal;
use super::{FORMAT, FileFact, Fingerprint, Kind, Manifest, SnapshotError};
use crate::cluster::home::{private_directory, write_private};
use crate::model::names::ClusterName;

/// What is not yet whole is called so.
const PART: &str = ".part-";
/// Its time of change is when the snapshot was last restored.
const USED: &str = "used";
/// Read at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The snapshots of one cluster.
#[derive(Debug, Clone)]
pub struct Shelf {
    cluster: ClusterName,
    directory: PathBuf,
}

/// A snapshot's name, and what is known of it.
pub(crate) type Listed = (String, Result<Manifest, SnapshotError>);

/// A snapshot that is being written. One that is dropped is removed by [`Shelf::sweep`].
#[derive(Debug)]
pub struct Draft {
    directory: PathBuf,
}

impl Draft {
    /// Where it is written.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> SnapshotError {
    let what = what.into();
    move |source| SnapshotError::Io { what, source }
}

impl Shelf {
    /// The shelf in `directory`, which need not exist.
    #[must_use]
    pub fn new(cluster: ClusterName, directory: PathBuf) -> Self {
        Self { cluster, directory }
    }

    /// Where the snapshots lie.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a snapshot lies, or would.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// All snapshots, oldest first: the readable ones, and why the others are not. Names of things that are no snapshot are not listed.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, SnapshotError> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(io_error(format!("read `{}`", self.directory.display())))?,
        };
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut found: Vec<_> = names
            .filter(|name| !name.starts_with('.'))
            .map(|name| (name.clone(), self.read(&name)))
            .collect();
        found.sort_by_key(|(name, manifest)| {
            (
                manifest.as_ref().ok().map(|manifest| manifest.created),
                name.clone(),
            )
        });
        Ok(found)
    }

    /// Reads what a snapshot says of itself. Its big files are not looked at, see [`Shelf::verify`].
    ///
    /// # Errors
    /// When there is none, or it is torn or foreign.
    pub fn read(&self, name: &str) -> Result<Manifest, SnapshotError> {
        let refuse = |reason: String| SnapshotError::Refused {
            name: name.to_owned(),
            reason,
        };
        let directory = self.path(name);
        if !directory.is_dir() {
            return Err(SnapshotError::Missing {
                cluster: self.cluster.to_string(),
                name: name.to_owned(),
            });
        }
        let read = |file: &str| {
            fs::read(directory.join(file))
                .map_err(|error| refuse(format!("it is torn: {file}: {error}")))
        };
        let (manifest, sum) = (read("manifest.json")?, read("manifest.sum")?);
        if sum != digest(&manifest).as_bytes() {
            return Err(refuse(
                "it is torn: manifest.json does not match its checksum".to_owned(),
            ));
        }
        let manifest: Manifest = serde_json::from_slice(&manifest)
            .map_err(|error| refuse(format!("another version of flightcage wrote it: {error}")))?;
        if manifest.version != FORMAT {
            return Err(refuse(format!(
                "its format is version {}, this flightcage reads {FORMAT}",
                manifest.version
            )));
        }
        if manifest.spec.name != self.cluster {
            return Err(refuse(format!(
                "it is foreign: it belongs to cluster `{}`",
                manifest.spec.name
            )));
        }
        if manifest.name != name {
            return Err(refuse(format!(
                "it is foreign: it calls itself `{}`",
                manifest.name
            )));
        }
        Ok(manifest)
    }

    /// The newest automatic snapshot of this fingerprint; without one, why those that are there will not do.
    ///
    /// # Errors
    /// When the shelf cannot be read.
    pub fn find(
        &self,
        wanted: &Fingerprint,
    ) -> Result<Result<Manifest, Vec<SnapshotError>>, SnapshotError> {
        let mut refused = Vec::new();
        for (name, manifest) in self.list()?.into_iter().rev() {
            match manifest {
                Ok(manifest) if manifest.kind == Kind::Named => {}
                Ok(manifest) => match manifest.fingerprint.difference(wanted) {
                    None => return Ok(Ok(manifest)),
                    Some(parts) => {
                        refused.push(SnapshotError::Refused {
                            name,
                            reason: format!("it is stale: it was made from another {parts}"),
                        });
                    }
                },
                Err(error) => refused.push(error),
            }
        }
        Ok(Err(refused))
    }

    /// Compares every file of a snapshot with the manifest. Reads them, which takes its time, unless the snapshot's seal holds.
    ///
    /// # Errors
    /// When a file is missing, or is not what was written.
    pub fn verify(&self, manifest: &Manifest) -> Result<(), SnapshotError> {
        let directory = self.path(&manifest.name);
        let refuse = |reason: String| SnapshotError::Refused {
            name: manifest.name.clone(),
            reason,
        };
        // The lengths first: they tell most damage at once.
        for file in &manifest.files {
            let bytes = fs::metadata(directory.join(&file.path))
                .map_err(|error| refuse(format!("it is torn: {}: {error}", file.path)))?
                .len();
            if bytes != file.bytes {
                return Err(refuse(format!(
                    "it is torn: {} has {bytes} bytes instead of {}",
                    file.path, file.bytes
                )));
            }
        }
        let seal = Seal::take(
            &directory,
            manifest.files.iter().map(|file| file.path.as_str()),
        );
        if seal.is_some() && seal == Seal::read(&directory) {
            return Ok(());
        }
        std::thread::scope(|scope| {
            let checks: Vec<_> = manifest
                .files
                .iter()
                .map(|file| (file, scope.spawn(|| fact(&directory, &file.path))))
                .collect();
            for (file, check) in checks {
                let now = check.join().expect("reading does not panic");
                let now =
                    now.map_err(|error| refuse(format!("it is torn: {}: {error}", file.path)))?;
                if now.crc32 != file.crc32 {
                    return Err(refuse(format!(
                        "it is torn: {} is not what was written",
                        file.path
                    )));
                }
            }
            Ok(())
        })?;
        write_seal(seal, &directory);
        Ok(())
    }

    /// Makes the next [`Shelf::verify`] read every file of a snapshot.
    pub fn doubt(&self, name: &str) {
        Seal::destroy(&self.path(name));
    }

    /// Begins a snapshot. Call it with the cluster's life lock held, as everything that changes the shelf.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn begin(&self) -> Result<Draft, SnapshotError> {
        self.sweep()?;
        let directory = self.directory.join(format!("{PART}{}", std::process::id()));
        let make = || {
            private_directory(self.directory.parent().unwrap_or(Path::new("/")))?;
            private_directory(&self.directory)?;
            private_directory(&directory)
        };
        make().map_err(io_error(format!("make `{}`", directory.display())))?;
        Ok(Draft { directory })
    }

    /// Makes a written draft a snapshot, in place of an automatic one of the same name. `files` of the manifest are filled in.
    ///
    /// # Errors
    /// When a file cannot be read or written. The draft is gone then.
    pub fn publish(&self, draft: Draft, mut manifest: Manifest) -> Result<Manifest, SnapshotError> {
        let target = self.path(&manifest.name);
        let write = || -> io::Result<Manifest> {
            let mut paths = Vec::new();
            files_below(&draft.directory, Path::new(""), &mut paths)?;
            let seal = Seal::take(&draft.directory, paths.iter().map(String::as_str));
            manifest.files = std::thread::scope(|scope| {
                let facts: Vec<_> = paths
                    .iter()
                    .map(|path| scope.spawn(|| fact(&draft.directory, path)))
                    .collect();
                facts
                    .into_iter()
                    .map(|fact| fact.join().expect("reading does not panic"))
                    .collect::<io::Result<_>>()
            })?;
            let text = serde_json::to_vec_pretty(&manifest)?;
            write_private(&draft.directory.join("manifest.json"), &text)?;
            write_private(
                &draft.directory.join("manifest.sum"),
                digest(&text).as_bytes(),
            )?;
            remove_directory(&target)?;
            fs::rename(&draft.directory, &target)?;
            write_seal(seal, &target);
            Ok(manifest)
        };
        let written = write();
        if written.is_err() {
            let _ = fs::remove_dir_all(&draft.directory);
        }
        written.map_err(io_error(format!("write snapshot `{}`", target.display())))
    }

    /// Removes a draft that came to nothing.
    pub fn discard(&self, draft: Draft) {
        // What cannot be removed now is swept later.
        let _ = fs::remove_dir_all(draft.directory);
    }

    /// Removes a snapshot, readable or not. An absent one is an error: the user named it.
    ///
    /// # Errors
    /// When there is none or it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), SnapshotError> {
        let directory = self.path(name);
        if name.starts_with('.') || name.contains('/') || !directory.is_dir() {
            return Err(SnapshotError::Missing {
                cluster: self.cluster.to_string(),
                name: name.to_owned(),
            });
        }
        // Half a removal must not look like a snapshot.
        let _ = fs::remove_file(directory.join("manifest.sum"));
        remove_directory(&directory)
            .map_err(io_error(format!("remove `{}`", directory.display())))?;
        // The shelf goes with the last of them; one that is not empty stays.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }

    /// Removes all but the newest `keep` automatic snapshots, and those that cannot be read.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn prune(&self, keep: usize) -> Result<(), SnapshotError> {
        let old: Vec<String> = self
            .list()?
            .into_iter()
            .filter(is_automatic)
            .map(|(name, _)| name)
            .collect();
        for name in &old[..old.len().saturating_sub(keep)] {
            self.remove(name)?;
        }
        Ok(())
    }

    /// The automatic snapshots, those that cannot be read too, with what they take on the disk.
    ///
    /// # Errors
    /// When the shelf cannot be read.
    pub fn automatic(&self) -> Result<Vec<Kept>, SnapshotError> {
        let kept = |name: String, manifest: Option<Manifest>| {
            let directory = self.path(&name);
            let restored = fs::metadata(directory.join(USED))
                .and_then(|facts| facts.modified())
                .ok();
            let restored = restored.and_then(|time| Timestamp::try_from(time).ok());
            let used = manifest
                .map(|manifest| manifest.created)
                .max(restored)
                .unwrap_or(Timestamp::MIN);
            Kept {
                cluster: self.cluster.clone(),
                bytes: disk_bytes(&directory),
                name,
                used,
            }
        };
        let automatic = self.list()?.into_iter().filter(is_automatic);
        Ok(automatic
            .map(|(name, manifest)| kept(name, manifest.ok()))
            .collect())
    }

    /// Remembers that a snapshot was of use now.
    pub fn mark_used(&self, name: &str) {
        if let Err(error) = write_private(&self.path(name).join(USED), b"") {
            tracing::debug!(%error, name, "that a snapshot was used is not remembered");
        }
    }

    /// Removes what an interrupted writer left. Call it with the cluster's life lock held.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn sweep(&self) -> Result<(), SnapshotError> {
        let Ok(entries) = fs::read_dir(&self.directory) else {
            return Ok(());
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PART))
        {
            remove_directory(&entry.path())
                .map_err(io_error(format!("remove `{}`", entry.path().display())))?;
        }
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }
}

fn is_automatic((name, manifest): &Listed) -> bool {
    name.starts_with(super::AUTOMATIC)
        || manifest
            .as_ref()
            .is_ok_and(|manifest| manifest.kind == Kind::Automatic)
}

/// What the files below a directory take on the disk. One that vanishes takes nothing.
fn disk_bytes(directory: &Path) -> u64 {
    let mut paths = Vec::new();
    let _ = files_below(directory, Path::new(""), &mut paths);
    paths
        .iter()
        .filter_map(|path| Some(fs::metadata(directory.join(path)).ok()?.blocks() * 512))
        .sum()
}

/// Without a seal a snapshot is as good, only slower to restore.
fn write_seal(seal: Option<Seal>, directory: &Path) {
    if let Some(seal) = seal
        && let Err(error) = seal.write(directory)
    {
        tracing::warn!(%error, directory = %directory.display(), "the snapshot cannot be sealed");
    }
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn files_below(root: &Path, below: &Path, paths: &mut Vec<String>) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(root.join(below))?.collect::<io::Result<_>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files_below(root, &path, paths)?;
        } else {
            paths.push(
                path.to_str()
                    .ok_or_else(|| io::Error::other("a file's name is not UTF-8"))?
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// Length and checksum. Holes are skipped, and so are pieces that hold only zeroes: a copy may have filled a hole.
fn fact(root: &Path, path: &str) -> io::Result<FileFact> {
    let mut file = File::open(root.join(path))?;
    let bytes = file.metadata()?.len();
    let mut hasher = crc32fast::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    let (mut at, mut data_bytes) = (0, 0);
    while at < bytes {
        match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => at = data - data % PIECE_BYTES as u64,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        }
        seek(&file, SeekFrom::Start(at))?;
        let count = read_full(&mut file, &mut piece)?;
        if count == 0 {
            break;
        }
        if piece[..count].iter().any(|byte| *byte != 0) {
            hasher.update(&at.to_le_bytes());
            hasher.update(&piece[..count]);
            data_bytes += count as u64;
        }
        at += count as u64;
    }
    Ok(FileFact {
        path: path.to_owned(),
        bytes,
        data_bytes,
        crc32: hasher.finalize(),
    })
}

fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::snapshot::Ingredients;
    use crate::machines::provider::Acceleration;
    use crate::model::cluster::ClusterSpec;
    use std::os::unix::fs::FileExt;
    use std::time::SystemTime;

    struct Case {
        _directory: tempfile::TempDir,
        shelf: Shelf,
        spec: ClusterSpec,
    }

    impl Case {
        fn new() -> Self {
            let directory = tempfile::tempdir().expect("a temporary directory can be made");
            let spec = ClusterSpec::with_workers("test".parse().expect("a name"), 1);
            let shelf = Shelf::new(spec.name.clone(), directory.path().join("snapshots/test"));
            Self {
                _directory: directory,
                shelf,
                spec,
            }
        }

        fn fingerprint(&self, binary: &str) -> Fingerprint {
            Fingerprint::new(&Ingredients {
                box_content: "b",
                images: "i",
                binary,
                spec: &self.spec,
                qemu: "7.2",
                acceleration: Acceleration::Tcg,
                processor: "p",
                arguments: "a",
            })
        }

        fn save(&self, name: &str, kind: Kind, binary: &str, second: i64) -> Manifest {
            let draft = self.shelf.begin().expect("it can be begun");
            let machine = draft.directory().join("machines/w1");
            fs::create_dir_all(&machine).expect("it is ours");
            fs::write(machine.join("memory"), vec![7; 3 << 20]).expect("it is ours");
            let disk = File::create(machine.join("disk.raw")).expect("it is ours");
            disk.set_len(1 << 30).expect("sparse files are possible");
            disk.write_all_at(b"data", 500 << 20).expect("it is ours");
            let manifest = Manifest {
                version: FORMAT,
                name: name.to_owned(),
                kind,
                created: jiff::Timestamp::from_second(second).expect("a time"),
                spec: self.spec.clone(),
                acceleration: Acceleration::Tcg,
                fingerprint: self.fingerprint(binary),
                files: Vec::new(),
            };
            self.shelf
                .publish(draft, manifest)
                .expect("it can be published")
        }

        fn names(&self) -> Vec<String> {
            self.shelf
                .list()
                .expect("it can be read")
                .into_iter()
                .map(|(name, _)| name)
                .collect()
        }
    }

    #[test]
    fn the_newest_that_matches_is_found_and_named_ones_never() {
        let case = Case::new();
        assert!(
            matches!(case.shelf.find(&case.fingerprint("f")), Ok(Err(reasons)) if reasons.is_empty())
        );
        case.save("mine", Kind::Named, "f", 9);
        case.save("auto-1", Kind::Automatic, "f", 1);
        case.save("auto-2", Kind::Automatic, "f", 2);
        case.save("auto-3", Kind::Automatic, "g", 3);
        let found = case
            .shelf
            .find(&case.fingerprint("f"))
            .expect("it can be read")
            .expect("one matches");
        assert_eq!(found.name, "auto-2");
        let reasons = case
            .shelf
            .find(&case.fingerprint("h"))
            .expect("it can be read")
            .expect_err("none matches");
        assert_eq!(reasons.len(), 3);
        assert_eq!(
            reasons[0].to_string(),
            "snapshot `auto-3` is refused: it is stale: it was made from another binary"
        );
    }

    #[test]
    fn damage_is_told() {
        let case = Case::new();
        let manifest = case.save("auto-1", Kind::Automatic, "f", 1);
        case.shelf.verify(&manifest).expect("it is whole");
        let check = |expected: &str| {
            let error = case
                .shelf
                .read("auto-1")
                .and_then(|manifest| case.shelf.verify(&manifest))
                .expect_err("it is torn");
            assert!(error.to_string().contains(expected), "{error}");
        };
        let directory = case.shelf.path("auto-1");
        let memory = File::options()
            .write(true)
            .open(directory.join("machines/w1/memory"))
            .expect("it is ours");
        memory.write_all_at(b"x", 2_000_000).expect("it is ours");
        // A file's time of change counts in ticks of the kernel's clock: within one nothing would be seen.
        memory
            .set_modified(SystemTime::UNIX_EPOCH)
            .expect("it is ours");
        check("machines/w1/memory is not what was written");
        memory.set_len(100).expect("it is ours");
        check("machines/w1/memory has 100 bytes instead of 3145728");
        let text = fs::read_to_string(directory.join("manifest.json")).expect("it is there");
        fs::write(
            directory.join("manifest.json"),
            text.replace("auto-1", "auto-9"),
        )
        .expect("it is ours");
        check("manifest.json does not match its checksum");
        fs::remove_file(directory.join("manifest.sum")).expect("it is there");
        check("manifest.sum: No such file");
        let reasons = case
            .shelf
            .find(&case.fingerprint("f"))
            .expect("the shelf can be read")
            .expect_err("it is torn");
        assert_eq!(reasons.len(), 1);
    }

    #[test]
    fn a_snapshot_is_as_old_as_its_last_use() {
        let case = Case::new();
        case.save("auto-1", Kind::Automatic, "f", 1);
        case.save("auto-2", Kind::Automatic, "f", 2);
        case.save("mine", Kind::Named, "f", 3);
        fs::create_dir(case.shelf.path("auto-0")).expect("it is ours");
        case.shelf.mark_used("auto-1");
        let mut kept = case.shelf.automatic().expect("it can be read");
        kept.sort_by_key(|one| one.used);
        assert_eq!(
            kept.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(),
            ["auto-0", "auto-2", "auto-1"]
        );
        // Holes take nothing: the disk of 1 GiB holds four bytes.
        assert!((3 << 20..8 << 20).contains(&kept[1].bytes), "{kept:?}");
    }

    #[test]
    fn files_are_read_again_unless_the_seal_holds() {
        let case = Case::new();
        let manifest = case.save("auto-1", Kind::Automatic, "f", 1);
        let directory = case.shelf.path("auto-1");
        let memory = File::options()
            .write(true)
            .open(directory.join("machines/w1/memory"))
            .expect("it is ours");
        let changed = memory
            .metadata()
            .and_then(|facts| facts.modified())
            .expect("it is ours");
        // Damage that no metadata show: only whoever reads it sees it.
        memory.write_all_at(b"x", 2_000_000).expect("it is ours");
        memory.set_modified(changed).expect("it is ours");
        let is_whole = || case.shelf.verify(&manifest).is_ok();
        assert!(
            is_whole(),
            "nothing was touched as far as is known, and nothing is read"
        );
        let seal = fs::read_to_string(directory.join("seal.json")).expect("it is there");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("it is there");
        fs::write(
            directory.join("seal.json"),
            seal.replace(boot.trim(), "an earlier boot"),
        )
        .expect("it is ours");
        assert!(!is_whole(), "the host has booted since");
        fs::write(directory.join("seal.json"), &seal).expect("it is ours");
        assert!(is_whole());
        case.shelf.doubt("auto-1");
        assert!(!is_whole(), "somebody doubts it");
        memory.write_all_at(&[7], 2_000_000).expect("it is ours");
        assert!(is_whole(), "it was read and is what was written");
        assert!(
            directory.join("seal.json").exists(),
            "the next one need not read it"
        );
    }

    #[test]
    fn a_foreign_one_is_refused() {
        let case = Case::new();
        case.save("auto-1", Kind::Automatic, "f", 1);
        let other = Shelf::new(
            "other".parse().expect("a name"),
            case.shelf.directory().to_owned(),
        );
        let error = other.read("auto-1").expect_err("it is foreign");
        assert_eq!(
            error.to_string(),
            "snapshot `auto-1` is refused: it is foreign: it belongs to cluster `test`"
        );
    }

    #[test]
    fn few_automatic_ones_are_kept_and_leftovers_swept() {
        let case = Case::new();
        for (second, name) in ["auto-1", "auto-2", "auto-3"].into_iter().enumerate() {
            case.save(
                name,
                Kind::Automatic,
                "f",
                i64::try_from(second).expect("few"),
            );
        }
        case.save("mine", Kind::Named, "f", 0);
        case.shelf.prune(1).expect("they can be removed");
        assert_eq!(case.names(), ["mine", "auto-3"]);
        let draft = case.shelf.begin().expect("it can be begun");
        let left = draft.directory().to_owned();
        assert!(left.exists());
        case.shelf.sweep().expect("it can be removed");
        assert!(!left.exists());
        case.shelf.remove("mine").expect("it is there");
        case.shelf.remove("auto-3").expect("it is there");
        assert!(!case.shelf.directory().exists());
        assert!(matches!(
            case.shelf.remove("mine"),
            Err(SnapshotError::Missing { .. })
        ));
        assert!(matches!(
            case.shelf.remove("../x"),
            Err(SnapshotError::Missing { .. })
        ));
    }
}

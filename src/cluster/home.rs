//! Where things live on the host.
//!
//! ```text
//! $FLIGHTCAGE_HOME/                  default: $XDG_DATA_HOME/flightcage
//!   cache/{boxes,images,scratch}/    by content; shared by all clusters
//!   clusters/<name>/                 one cluster, mode 0700; gone after `down`
//!     cluster.json  daemon.log  kubeconfig  pki/  ssh/  machines/<node>/  journal/  run -> <runtime>
//!   snapshots/<name>/<snapshot>/     saved clusters, mode 0700; they outlive `down`
//! <runtime>/                         sockets, in a directory short enough for the 104 bytes of a socket path
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use sha2::{Digest, Sha256};

use crate::model::names::{ClusterName, NodeName};

/// A link in a cluster's directory to the directory of its sockets.
const RUNTIME_LINK: &str = "run";
/// A socket's path has at most 107 bytes; the longest cluster and socket names below the runtime directory take the rest.
const RUNTIME_BYTES_MAX: usize = 40;

/// The directory that holds everything Flightcage keeps.
#[derive(Debug, Clone)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// `$FLIGHTCAGE_HOME`, or the XDG data directory.
    ///
    /// # Errors
    /// When neither the variable nor `HOME` is set, or the directory cannot be made.
    pub fn open() -> io::Result<Self> {
        let root = match std::env::var_os("FLIGHTCAGE_HOME") {
            Some(home) if !home.is_empty() => std::path::absolute(PathBuf::from(home))?,
            _ => etcetera::choose_base_strategy()
                .map_err(|_| io::Error::other("neither FLIGHTCAGE_HOME nor HOME is set"))?
                .data_dir()
                .join("flightcage"),
        };
        Self::at(root)
    }

    /// A home at this absolute path. Links are resolved, so that one home has one name however it is reached.
    ///
    /// # Errors
    /// When the directory cannot be made, or belongs to somebody else.
    pub fn at(root: PathBuf) -> io::Result<Self> {
        // Without `/` at its end, or the link itself is not looked at.
        let root: PathBuf = root.components().collect();
        private_directory(&root)?;
        let root = fs::canonicalize(root)?;
        Ok(Self { root })
    }

    /// Cache of built boxes.
    pub fn boxes(&self) -> PathBuf {
        self.root.join("cache/boxes")
    }

    /// Store of OCI images.
    pub fn images(&self) -> PathBuf {
        self.root.join("cache/images")
    }

    /// Snapshots of all clusters; they outlive `down`.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Half-made things; may be emptied at any time.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("cache/scratch")
    }

    /// Facts about this host that hold until it reboots.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// The directory of all clusters.
    pub fn clusters(&self) -> PathBuf {
        self.root.join("clusters")
    }

    /// Locked while what the host has free is compared with what a cluster needs, until its machines hold it.
    pub fn admission_lock(&self) -> PathBuf {
        self.clusters().join(".admission.lock")
    }

    /// The paths of one cluster. Makes nothing.
    pub fn cluster(&self, name: &ClusterName) -> ClusterPaths {
        let root = self.clusters().join(name.as_str());
        // Where they were made counts: a login shell and a job of cron have different runtime directories.
        let made = fs::read_link(root.join(RUNTIME_LINK)).ok();
        let runtime = made.unwrap_or_else(|| runtime_base().join(format!("{}-{name}", self.tag())));
        ClusterPaths {
            name: name.clone(),
            root,
            runtime,
        }
    }

    /// Tells the runtime directories of this home from another's.
    fn tag(&self) -> String {
        let digest = Sha256::digest(self.root.as_os_str().as_encoded_bytes());
        digest
            .iter()
            .take(4)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Names of the clusters of which anything exists, sorted: a directory, sockets, or only a lock that a killed command left.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn cluster_names(&self) -> io::Result<Vec<ClusterName>> {
        let prefix = format!("{}-", self.tag());
        let lock = |name: &str| {
            name.strip_prefix('.')?
                .strip_suffix(".lock")?
                .rsplit_once('.')
                .map(|(name, _)| name.to_owned())
        };
        let clusters = names_in(&self.clusters())?
            .into_iter()
            .filter_map(|name| lock(&name).unwrap_or(name).parse().ok());
        let runtimes = names_in(&runtime_base())?
            .into_iter()
            .filter_map(|name| name.strip_prefix(&prefix)?.parse().ok());
        Ok(clusters
            .chain(runtimes)
            .collect::<std::collections::BTreeSet<ClusterName>>()
            .into_iter()
            .collect())
    }
}

/// What a directory holds; nothing if it is absent.
fn names_in(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect())
}

/// `$XDG_RUNTIME_DIR/flightcage`, or `/tmp/flightcage-<uid>` when there is none or sockets below it would have too long a path.
fn runtime_base() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory)
            if !directory.is_empty()
                && directory.len() <= RUNTIME_BYTES_MAX
                && Path::new(&directory).is_dir() =>
        {
            PathBuf::from(directory).join("flightcage")
        }
        _ => PathBuf::from(format!(
            "/tmp/flightcage-{}",
            rustix::process::getuid().as_raw()
        )),
    }
}

/// Where one cluster's files are.
#[derive(Debug, Clone)]
pub struct ClusterPaths {
    name: ClusterName,
    root: PathBuf,
    runtime: PathBuf,
}

impl ClusterPaths {
    /// The cluster's name.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The cluster's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Directory of its sockets.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// Its snapshots. Outside the cluster's directory: they outlive it.
    pub fn snapshots(&self) -> PathBuf {
        self.home().join("snapshots").join(self.name.as_str())
    }

    /// The directory that holds everything, `$FLIGHTCAGE_HOME`.
    pub fn home(&self) -> &Path {
        self.root
            .ancestors()
            .nth(2)
            .expect("a cluster's directory is below the home's `clusters`")
    }

    /// The specification it was made from.
    pub fn spec(&self) -> PathBuf {
        self.root.join("cluster.json")
    }

    /// Present once the cluster was ready for the first time: a cluster without it is half-made.
    pub fn complete(&self) -> PathBuf {
        self.root.join("complete")
    }

    /// Ports that were handed out once and never move.
    pub fn ports(&self) -> PathBuf {
        self.root.join("ports.json")
    }

    /// The daemon's log.
    pub fn daemon_log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// Locked by the daemon for as long as it lives. Outside the cluster's directory, so that `down` can remove that.
    pub fn daemon_lock(&self) -> PathBuf {
        self.lock("daemon")
    }

    /// Locked by whoever brings the cluster up or down.
    pub fn life_lock(&self) -> PathBuf {
        self.lock("life")
    }

    fn lock(&self, what: &str) -> PathBuf {
        let clusters = self
            .root
            .parent()
            .expect("a cluster's directory is below `clusters`");
        clusters.join(format!(".{}.{what}.lock", self.name))
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// SSH keys.
    pub fn ssh(&self) -> PathBuf {
        self.root.join("ssh")
    }

    /// The private key that opens every machine.
    pub fn ssh_key(&self) -> PathBuf {
        self.ssh().join("id_ed25519")
    }

    /// A machine's SSH host key: private part, and `.pub` beside it.
    pub fn ssh_host_key(&self, node: &NodeName) -> PathBuf {
        self.ssh().join(format!("host_{node}"))
    }

    /// The kubeconfig that any client on the host can use.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// Faults that are not yet healed.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// The daemon's control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.runtime.join("control.sock")
    }

    /// The daemon's dial socket: raw connections into the cluster.
    pub fn dial_socket(&self) -> PathBuf {
        self.runtime.join("dial.sock")
    }

    /// Makes the directories, with mode 0700.
    ///
    /// # Errors
    /// When they cannot be made, or the runtime directory belongs to somebody else.
    pub fn make(&self) -> io::Result<()> {
        for directory in [
            &self.root,
            &self.pki(),
            &self.ssh(),
            &self.journal(),
            &self.root.join("machines"),
        ] {
            private_directory(directory)?;
        }
        private_directory(
            self.runtime
                .parent()
                .expect("the runtime directory has a parent"),
        )?;
        match std::os::unix::fs::symlink(&self.runtime, self.root.join(RUNTIME_LINK)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        private_directory(&self.runtime)
    }

    /// What is left of the cluster from here on is half-made: whoever is killed while removing it leaves nothing to be trusted.
    ///
    /// # Errors
    /// When the mark cannot be removed.
    pub fn mark_incomplete(&self) -> io::Result<()> {
        match fs::remove_file(self.complete()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the lock files of a cluster that is gone; locks on them keep holding.
    pub fn remove_locks(&self) {
        for lock in [self.daemon_lock(), self.life_lock()] {
            // Another command that takes the lock now makes the file anew.
            let _ = fs::remove_file(lock);
        }
    }

    /// Removes the cluster's directories. Absent ones are fine.
    ///
    /// # Errors
    /// When something in them cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        self.mark_incomplete()?;
        for directory in [&self.runtime, &self.root] {
            match fs::remove_dir_all(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Makes a directory that only its owner can enter, also behind a link of this user, and refuses one of another user (`/tmp` is
/// everybody's).
///
/// # Errors
/// When it cannot be made or belongs to another user, or when the path goes through a link that leads nowhere: nothing is made behind
/// such a link.
pub fn private_directory(path: &Path) -> io::Result<()> {
    for ancestor in path.ancestors().collect::<Vec<_>>().into_iter().rev() {
        passable(ancestor, ancestor == path)?;
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    let owner = fs::metadata(path)?.uid();
    if owner != rustix::process::getuid().as_raw() {
        return Err(io::Error::other(format!(
            "`{}` belongs to another user (uid {owner}): name a folder of your own",
            path.display()
        )));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Whether a path may go through `part`: absent, a directory, or a link of this user (above the last part also of root) to one.
fn passable(part: &Path, is_last: bool) -> io::Result<()> {
    let shown = part.display();
    let metadata = match fs::symlink_metadata(part) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if metadata.is_symlink() {
        let (owner, own) = (metadata.uid(), rustix::process::getuid().as_raw());
        if owner != own && (is_last || owner != 0) {
            return Err(io::Error::other(format!(
                "`{shown}` is a link of another user (uid {owner}): name a folder of your own"
            )));
        }
        let target = fs::read_link(part)?;
        return match fs::metadata(part) {
            Ok(behind) if behind.is_dir() => Ok(()),
            Ok(_) => Err(io::Error::other(format!(
                "`{shown}` is a link to `{}`, which is not a folder: point it at one",
                target.display()
            ))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(io::Error::other(format!(
                    "`{shown}` is a link to `{}`, which does not exist: make that folder (is its disk mounted?), or change the link",
                    target.display()
                )))
            }
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("`{shown}` is a link to `{}`: {error}", target.display()),
            )),
        };
    }
    if metadata.is_dir() {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "`{shown}` is a file, not a folder: name another path"
        )))
    }
}

/// Locks a file for as long as the returned handle lives; `None` when another process holds it.
///
/// # Errors
/// When the file cannot be made.
pub fn try_lock(path: &Path) -> io::Result<Option<fs::File>> {
    loop {
        let file = fs::File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        // `down` removes the lock file; a lock on the removed one locks nothing.
        match fs::symlink_metadata(path) {
            Ok(now) if now.ino() == file.metadata()?.ino() => return Ok(Some(file)),
            _ => {}
        }
    }
}

/// Writes a file that only its owner can read; a reader sees the old contents or the new, never a part.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let directory = path
        .parent()
        .ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(contents)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o600))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_home_may_be_a_link_and_is_one_home_by_either_name() {
        let top = tempfile::tempdir().expect("a folder");
        let real = top.path().join("on the big disk, with späces");
        fs::create_dir(&real).expect("made");
        symlink(&real, top.path().join("link")).expect("made");
        symlink(top.path().join("link"), top.path().join("link-to-link")).expect("made");
        let tag = Home::at(real.clone()).expect("its own").tag();
        for name in ["link", "link/", "link-to-link"] {
            let home = Home::at(top.path().join(name)).expect("a link of ours");
            assert_eq!(
                (home.tag(), &home.root),
                (tag.clone(), &fs::canonicalize(&real).expect("there"))
            );
        }
        let inside = Home::at(top.path().join("link/a/b")).expect("made");
        assert!(
            inside
                .root
                .starts_with(fs::canonicalize(&real).expect("there"))
        );
        let mode = fs::metadata(&real).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn what_is_no_folder_is_refused_with_its_target_and_nothing_is_made() {
        let top = tempfile::tempdir().expect("a folder");
        let nowhere = top.path().join("nowhere");
        symlink(&nowhere, top.path().join("dangling")).expect("made");
        fs::write(top.path().join("file"), "").expect("made");
        symlink(top.path().join("file"), top.path().join("to-file")).expect("made");
        symlink(top.path().join("round"), top.path().join("round")).expect("made");
        for (name, said) in [
            ("dangling", "nowhere`, which does not exist"),
            ("dangling/inside", "nowhere`, which does not exist"),
            ("file", "is a file, not a folder"),
            ("file/inside", "is a file, not a folder"),
            ("to-file", "which is not a folder"),
            ("round", "round`: "),
        ] {
            let error = Home::at(top.path().join(name)).expect_err(name).to_string();
            assert!(error.contains(said), "{name}: {error}");
            assert!(!error.contains("remove"), "{name}: {error}");
        }
        assert!(!nowhere.exists());
    }
}

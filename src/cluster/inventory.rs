//! Everything of ours that exists on this host, found by looking and not by remembering, and clearing what is dead.
//!
//! ```text
//! up          a daemon holds the cluster
//! changing    a command brings it up or down now
//! stopped     no daemon; its disks and keys are whole: `up` boots it again
//! dead        anything else that a killed command left: `prune`, `up` and `down` clear it
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::daemon::{ClusterRecord, read_json};
use super::home::{ClusterPaths, Home, try_lock};
use super::life::{self, LifeError};
use crate::machines::qemu::{self, Swept};
use crate::model::names::ClusterName;
use crate::shell::debian;

/// A file of a half-received blob that nobody has written to for so long is nobody's.
const ABANDONED: std::time::Duration = std::time::Duration::from_mins(10);

/// What a cluster is, as far as its locks and files tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A daemon holds it.
    Up,
    /// A command brings it up or down now.
    Changing,
    /// Whole, without processes.
    Stopped,
    /// Left by something that was killed.
    Dead,
}

/// One cluster.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its name.
    pub name: ClusterName,
    /// What it is.
    pub state: State,
    /// Its daemon's process.
    pub daemon: Option<u32>,
    /// Its machines' processes.
    pub machines: Vec<Swept>,
    /// How many machines it was made with; 0 when that is not known any more.
    pub wanted_machines: usize,
    /// Bytes that its files take on disk.
    pub disk_bytes: u64,
    /// What of it belongs to nothing that lives.
    pub orphans: Vec<String>,
}

/// A cache that all clusters share.
#[derive(Debug, Clone, Serialize)]
pub struct Cache {
    /// What it holds.
    pub name: String,
    /// Where.
    pub path: PathBuf,
    /// Bytes that it takes on disk.
    pub disk_bytes: u64,
}

/// Everything there is.
#[derive(Debug, Clone, Serialize)]
pub struct Inventory {
    /// Clusters, by name.
    pub clusters: Vec<Entry>,
    /// Caches.
    pub caches: Vec<Cache>,
    /// Unfinished work in the caches that nobody does any more.
    pub abandoned: Vec<PathBuf>,
}

/// Looks at everything. Changes nothing.
///
/// # Errors
/// When a directory or `/proc` cannot be read.
pub fn look(home: &Home) -> Result<Inventory, LifeError> {
    let fail = |source| LifeError::Io {
        what: "look at what exists".into(),
        source,
    };
    let mut clusters = Vec::new();
    for name in home.cluster_names().map_err(fail)? {
        clusters.push(entry(&home.cluster(&name))?);
    }
    let mut caches = Vec::new();
    for name in children(&home.cache()).map_err(fail)? {
        let path = home.cache().join(&name);
        if path.is_dir() {
            caches.push(Cache {
                name,
                disk_bytes: disk_bytes(&path),
                path,
            });
        }
    }
    let snapshots = home.snapshots();
    if snapshots.is_dir() {
        caches.push(Cache {
            name: "snapshots".into(),
            disk_bytes: disk_bytes(&snapshots),
            path: snapshots,
        });
    }
    let abandoned = abandoned(home).map_err(fail)?;
    Ok(Inventory {
        clusters,
        caches,
        abandoned,
    })
}

/// The process of the daemon that holds a cluster, or held it last.
#[must_use]
pub fn daemon(paths: &ClusterPaths) -> Option<u32> {
    fs::read_to_string(paths.daemon_lock())
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn entry(paths: &ClusterPaths) -> Result<Entry, LifeError> {
    let fail = |source| LifeError::Io {
        what: format!("look at cluster `{}`", paths.name()),
        source,
    };
    let machines = qemu::processes(paths.root())
        .map_err(|error| fail(io::Error::other(super::chain(&error))))?;
    let facts = Facts {
        changing: is_locked(&paths.life_lock()).map_err(fail)?,
        held: is_locked(&paths.daemon_lock()).map_err(fail)?,
        whole: paths.complete().exists() && paths.spec().exists(),
        machines: machines.len(),
        sockets: paths.runtime().exists(),
    };
    let record: Option<ClusterRecord> = read_json(&paths.spec()).ok();
    Ok(Entry {
        name: paths.name().clone(),
        state: facts.state(),
        daemon: daemon(paths).filter(|_| facts.held),
        orphans: facts.orphans(),
        machines,
        wanted_machines: record.map_or(0, |record| record.spec.machines.len()),
        disk_bytes: disk_bytes(paths.root()),
    })
}

/// What a cluster's state is judged by.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    changing: bool,
    held: bool,
    whole: bool,
    machines: usize,
    sockets: bool,
}

impl Facts {
    fn state(self) -> State {
        match self {
            Self { changing: true, .. } => State::Changing,
            Self { held: true, .. } => State::Up,
            Self {
                whole: true,
                machines: 0,
                ..
            } => State::Stopped,
            _ => State::Dead,
        }
    }

    fn orphans(self) -> Vec<String> {
        if self.held || self.changing {
            return Vec::new();
        }
        let mut orphans = Vec::new();
        if self.machines > 0 {
            orphans.push(format!("{} machines without a daemon", self.machines));
        }
        if self.sockets {
            orphans.push("sockets that nobody serves".into());
        }
        if !self.whole {
            orphans.push("a half-made cluster or a lock".into());
        }
        orphans
    }
}

/// Whether a process holds the lock. A lock that does not exist is not made.
fn is_locked(path: &Path) -> io::Result<bool> {
    Ok(path.exists() && try_lock(path)?.is_none())
}

/// What killed builders and pulls left in the caches.
fn abandoned(home: &Home) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in [home.boxes(), home.scratch()] {
        // A builder holds this lock; what is unfinished is then its own.
        if is_locked(&directory.join("lock"))? {
            continue;
        }
        let unfinished = children(&directory)?
            .into_iter()
            .filter(|name| name.starts_with(debian::UNFINISHED));
        found.extend(unfinished.map(|name| directory.join(name)));
    }
    let partial = home.images().join("partial");
    let is_old = |path: &PathBuf| {
        let age = path
            .metadata()
            .and_then(|metadata| metadata.modified())
            .map(|time| time.elapsed().unwrap_or_default());
        age.is_ok_and(|age| age > ABANDONED)
    };
    found.extend(
        children(&partial)?
            .into_iter()
            .map(|name| partial.join(name))
            .filter(is_old),
    );
    Ok(found)
}

/// Names in a directory, sorted; none if it is absent.
fn children(directory: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Bytes on disk of everything below a path: sparse files count with what they hold. What vanishes meanwhile counts as nothing.
fn disk_bytes(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    own + children(path)
        .unwrap_or_default()
        .iter()
        .map(|name| disk_bytes(&path.join(name)))
        .sum::<u64>()
}

/// What [`prune`] is to clear beside what is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Dead clusters and abandoned work.
    Dead,
    /// Also clusters that are stopped, and every cache: the next `up` builds boxes and images anew.
    All,
}

/// What [`prune`] would clear, as lines for people, each with its size in bytes.
pub fn prunable(inventory: &Inventory, reach: Reach) -> Vec<(String, u64)> {
    let clusters = inventory
        .clusters
        .iter()
        .filter(|entry| is_prunable(entry, reach));
    let mut lines: Vec<_> = clusters
        .map(|entry| (format!("cluster {}", entry.name), entry.disk_bytes))
        .collect();
    if reach == Reach::All {
        lines.extend(
            inventory
                .caches
                .iter()
                .map(|cache| (format!("cache {}", cache.path.display()), cache.disk_bytes)),
        );
    } else {
        lines.extend(
            inventory
                .abandoned
                .iter()
                .map(|path| (path.display().to_string(), disk_bytes(path))),
        );
    }
    lines
}

fn is_prunable(entry: &Entry, reach: Reach) -> bool {
    entry.state == State::Dead || entry.state == State::Stopped && reach == Reach::All
}

/// Clears what [`prunable`] names. What lives is not touched: a cluster that is up, a cache that a cluster uses or a builder fills.
///
/// # Errors
/// When something cannot be removed; or with [`Reach::All`] while a cluster is up, whose machines read the cached box.
pub async fn prune(home: &Home, inventory: &Inventory, reach: Reach) -> Result<(), LifeError> {
    let living = |entry: &&Entry| matches!(entry.state, State::Up | State::Changing);
    if reach == Reach::All
        && let Some(entry) = inventory.clusters.iter().find(living)
    {
        return Err(LifeError::InUse(entry.name.to_string()));
    }
    for entry in inventory
        .clusters
        .iter()
        .filter(|entry| is_prunable(entry, reach))
    {
        life::down(&home.cluster(&entry.name)).await?;
    }
    let fail = |what: &Path| {
        let what = format!("clear `{}`", what.display());
        move |source: Box<dyn std::error::Error + Send + Sync>| LifeError::Part { what, source }
    };
    for directory in [home.boxes(), home.scratch()]
        .into_iter()
        .filter(|directory| directory.exists())
    {
        // Taking the lock clears what is unfinished.
        debian::DirectoryLock::try_take(&directory)
            .map_err(|error| fail(&directory)(error.into()))?;
    }
    for path in inventory.abandoned.iter().filter(|path| path.is_file()) {
        fs::remove_file(path).map_err(|error| fail(path)(error.into()))?;
    }
    if reach == Reach::All {
        for cache in &inventory.caches {
            fs::remove_dir_all(&cache.path).map_err(|error| fail(&cache.path)(error.into()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_state_follows_from_locks_and_files() {
        let check = |facts: Facts, state, orphans: usize| {
            assert_eq!(
                (facts.state(), facts.orphans().len()),
                (state, orphans),
                "{facts:?}"
            );
        };
        check(
            Facts {
                held: true,
                whole: true,
                machines: 3,
                sockets: true,
                changing: false,
            },
            State::Up,
            0,
        );
        check(
            Facts {
                held: true,
                changing: true,
                machines: 1,
                ..Facts::default()
            },
            State::Changing,
            0,
        );
        check(
            Facts {
                whole: true,
                ..Facts::default()
            },
            State::Stopped,
            0,
        );
        check(
            Facts {
                whole: true,
                machines: 1,
                sockets: true,
                ..Facts::default()
            },
            State::Dead,
            2,
        );
        check(
            Facts {
                whole: true,
                sockets: true,
                ..Facts::default()
            },
            State::Stopped,
            1,
        );
        check(Facts::default(), State::Dead, 1);
    }

    #[tokio::test]
    async fn dead_clusters_and_abandoned_builds_are_found_and_cleared() {
        // Another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let home = Home::at(directory.path().to_owned()).expect("it is ours");
        for name in ["dead", "stopped", "lives"] {
            home.cluster(&name.parse().expect("a name"))
                .make()
                .expect("they can be made");
        }
        let stopped = home.cluster(&"stopped".parse().expect("a name"));
        for file in [stopped.spec(), stopped.complete()] {
            fs::write(file, "{}").expect("it can be written");
        }
        let lives = home.cluster(&"lives".parse().expect("a name"));
        let held = try_lock(&lives.daemon_lock())
            .expect("it can be made")
            .expect("it is free");
        fs::write(home.clusters().join(".locked.life.lock"), "").expect("it can be written");
        let unfinished = home.boxes().join("building-x");
        fs::create_dir_all(&unfinished).expect("it can be made");

        let found = look(&home).expect("it can be read");
        let states: Vec<_> = found
            .clusters
            .iter()
            .map(|entry| (entry.name.as_str(), entry.state))
            .collect();
        let expected = [
            ("dead", State::Dead),
            ("lives", State::Up),
            ("locked", State::Dead),
            ("stopped", State::Stopped),
        ];
        assert_eq!(states, expected);
        assert_eq!(found.abandoned, std::slice::from_ref(&unfinished));
        assert!(
            matches!(prune(&home, &found, Reach::All).await, Err(LifeError::InUse(name)) if name == "lives")
        );
        assert!(
            unfinished.exists() && stopped.root().exists(),
            "nothing was changed"
        );

        prune(&home, &found, Reach::Dead)
            .await
            .expect("it can be cleared");
        let left: Vec<_> = home
            .cluster_names()
            .expect("it can be read")
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            (left, unfinished.exists()),
            (vec!["lives".to_owned(), "stopped".to_owned()], false)
        );

        drop(held);
        prune(&home, &look(&home).expect("it can be read"), Reach::All)
            .await
            .expect("it can be cleared");
        assert!(home.cluster_names().expect("it can be read").is_empty());
        assert_eq!(
            children(&home.cache()).expect("it can be read"),
            Vec::<String>::new()
        );
    }
}

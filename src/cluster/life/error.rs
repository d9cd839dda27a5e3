//! Why a cluster did not come up or go down.

use std::io;

use crate::cluster::client::DaemonClientError;
use crate::cluster::install::InstallError;
use crate::cluster::pki::PkiError;
use crate::cluster::snapshot::SnapshotError;
use crate::cluster::snapshot::archive::ArchiveError;
use crate::kubernetes::client::ClientError;
use crate::machines::provider::Problem;

/// Why a cluster did not come up or go down.
#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    /// Another command changes this cluster now.
    #[error("another flightcage command is bringing cluster `{0}` up or down; wait for it to end")]
    Busy(String),
    /// A `run`, `with` or `demo` holds it for itself.
    #[error(
        "cluster `{0}` belongs to a `flightcage run`, `with` or `demo` that is going on; wait for its end, or choose another --name"
    )]
    Owned(String),
    /// Its machines stand still.
    #[error("cluster `{0}` is paused; `flightcage resume --name {0}` lets it go on")]
    Paused(String),
    /// It goes on, but not every clock is right.
    #[error(
        "cluster `{name}` goes on, but not every clock is right; `flightcage resume --name {name}` sets them again:\n  {}",
        problems.join("\n  ")
    )]
    Unsettled {
        /// The cluster.
        name: String,
        /// One a clock.
        problems: Vec<String>,
    },
    /// Machines read the box from the cache.
    #[error("cluster `{0}` is up and uses the caches; `flightcage down --name {0}` first")]
    InUse(String),
    /// The cluster is up, but made from something else.
    #[error("cluster `{0}` exists with another specification; `flightcage down --name {0}` first")]
    OtherSpecification(String),
    /// What is to be made and to go again must not take a cluster's place.
    #[error("cluster `{0}` exists already; `flightcage down --name {0}` first")]
    Exists(String),
    /// The host cannot hold the cluster.
    #[error("this host is not able to hold the cluster:{}", list(.0))]
    Host(Vec<Problem>),
    /// The daemon did not start.
    #[error("start the daemon of cluster `{name}`; the end of its log:\n{log}")]
    DaemonStart {
        /// The cluster.
        name: String,
        /// The log's end.
        log: String,
    },
    /// A time-out, with what was last seen.
    #[error("waited {seconds} s for {what}; last seen: {seen}")]
    TimedOut {
        /// How long.
        seconds: u64,
        /// For what.
        what: String,
        /// The last that was seen.
        seen: String,
    },
    /// A file or directory.
    #[error("{what}")]
    Io {
        /// A lower-case fragment.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The daemon refused.
    #[error(transparent)]
    Daemon(#[from] DaemonClientError),
    /// Installing a machine.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot's way to another machine.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The Kubernetes API.
    #[error("ask the cluster's API")]
    Api(#[from] ClientError),
    /// The box, the images, SSH keys or the acceleration proof.
    #[error("{what}")]
    Part {
        /// A lower-case fragment.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n  {}\n    mend: {}", problem.what, problem.mend))
        .collect()
}

pub(super) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> LifeError {
    let what = what.into();
    move |source| LifeError::Io { what, source }
}

pub(super) fn part<E: std::error::Error + Send + Sync + 'static>(
    what: impl Into<String>,
) -> impl FnOnce(E) -> LifeError {
    let what = what.into();
    move |source| LifeError::Part {
        what,
        source: Box::new(source),
    }
}

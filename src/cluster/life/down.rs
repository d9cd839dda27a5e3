//! The end of a cluster, and of whatever an interrupted command left of one.

use std::time::Duration;

use tokio::time::timeout;

use super::error::{LifeError, io_error, part};
use super::{end_of, lock_life, shelf};
use crate::cluster::client::DaemonClient;
use crate::cluster::daemon::{ClusterRecord, read_json};
use crate::cluster::home::{ClusterPaths, try_lock};
use crate::cluster::uninstall;
use crate::machines::{qemu, vagrant};
use crate::model::cluster::ProviderKind;

/// Longest that a daemon may take to end its machines.
const DOWN_DEADLINE: Duration = Duration::from_secs(30);
/// The same where Vagrant has to be asked, which takes seconds for each machine.
const VAGRANT_DOWN_DEADLINE: Duration = Duration::from_mins(3);
/// Longest that a killed daemon may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// As [`DOWN_DEADLINE`], where it has to leave machines that are not ours.
const LEAVE_DEADLINE: Duration = Duration::from_mins(2);

/// What of a cluster stays on disk when its processes are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remains {
    /// Nothing.
    Nothing,
    /// Disks, keys and ports: it can be brought up again.
    Cluster,
}

impl Remains {
    pub(super) fn of(complete: bool) -> Self {
        if complete {
            Self::Cluster
        } else {
            Self::Nothing
        }
    }
}

/// Takes a cluster down and removes it. An absent one is fine; whatever state it is in, nothing of it is left.
///
/// # Errors
/// When another command works on it, or a file cannot be removed.
pub async fn down(paths: &ClusterPaths) -> Result<(), LifeError> {
    let clusters = paths.root().parent().expect("clusters live in a directory");
    if !clusters.exists() {
        return Ok(());
    }
    let _life = lock_life(paths)?;
    let daemon = DaemonClient::new(paths.clone())?;
    clear(paths, &daemon, Remains::Nothing).await?;
    // Only now: its daemon may have been saving.
    Ok(shelf(paths).sweep()?)
}

/// Resolves when no daemon holds the cluster. A lock that cannot be looked at is not known to be free.
pub(super) async fn lock_is_free(paths: &ClusterPaths) {
    while !matches!(try_lock(&paths.daemon_lock()), Ok(Some(_))) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Kills the daemon that the lock's file names. Its machines die with it.
fn kill_daemon(paths: &ClusterPaths) {
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    let recorded = || {
        std::fs::read_to_string(paths.daemon_lock())
            .ok()?
            .trim()
            .parse::<i32>()
            .ok()
    };
    let Some(pid) = recorded().and_then(Pid::from_raw) else {
        return;
    };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    // The lock is held, so its writer lives and the id is its own; the name is looked at all the same.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
    if words.contains(&b"daemon".as_slice()) && words.contains(&paths.name().as_str().as_bytes()) {
        // Gone already is as good.
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}

/// Ends every process of a cluster, and removes what is not to remain.
pub(super) async fn clear(
    paths: &ClusterPaths,
    daemon: &DaemonClient,
    remains: Remains,
) -> Result<(), LifeError> {
    // A daemon that does not answer is dead or about to be: the lock tells.
    let _ = daemon.down(remains == Remains::Nothing).await;
    let leaves = read_json::<ClusterRecord>(&paths.spec())
        .is_ok_and(|record| record.spec.provider == ProviderKind::Hosts);
    let deadline = match () {
        () if leaves => LEAVE_DEADLINE,
        () if vagrant::is_used(paths.root()) => VAGRANT_DOWN_DEADLINE,
        () => DOWN_DEADLINE,
    };
    if timeout(deadline, lock_is_free(paths)).await.is_err() {
        tracing::warn!(cluster = %paths.name(), "its daemon does not end: killing it");
        kill_daemon(paths);
        if timeout(KILL_DEADLINE, lock_is_free(paths)).await.is_err() {
            return Err(LifeError::TimedOut {
                seconds: (deadline + KILL_DEADLINE).as_secs(),
                what: format!("the daemon of cluster `{}` to end", paths.name()),
                seen: end_of(&paths.daemon_log()),
            });
        }
    }
    for swept in qemu::sweep(paths.root())
        .await
        .map_err(part("clear left-over machines"))?
    {
        tracing::info!(swept.pid, swept.node, "left by a daemon that died");
    }
    if remains == Remains::Nothing {
        vagrant::sweep(paths.root())
            .await
            .map_err(part("destroy the machines that Vagrant made"))?;
        // Nothing to read: the daemon has done it, or nothing was begun.
        if let Ok(record) = read_json::<ClusterRecord>(&paths.spec()) {
            uninstall::uninstall_all(&record.spec, paths).await?;
        }
        paths
            .remove()
            .map_err(io_error("remove the cluster's directories"))?;
    }
    Ok(())
}

//! Starting a cluster's daemon, and its right to make machines on this host.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use super::{LifeError, Lifetime, end_of, io_error};
use crate::cluster::client::DaemonClient;
use crate::cluster::home::{ClusterPaths, Home, try_lock};

/// Longest that a daemon may take to answer after its start.
const DAEMON_START: Duration = Duration::from_secs(15);
/// Longest that other clusters may take to start their machines.
const ADMISSION_DEADLINE: Duration = Duration::from_mins(2);

/// A daemon that we have started, and the end of the pipe that ends it.
pub(super) struct Daemon {
    pub(super) owner: Option<(ChildStdin, Child)>,
    pub(super) client: DaemonClient,
}

/// A daemon that may make its machines now: the host holds them.
pub(super) struct Admitted {
    pub(super) daemon: Daemon,
    pub(super) admission: File,
}

/// Starts the daemon of a recorded cluster, once the host is able to hold its machines.
pub(super) async fn admitted_daemon(
    home: &Home,
    paths: &ClusterPaths,
    lifetime: Lifetime,
) -> Result<Admitted, LifeError> {
    let owner = start_daemon(paths, lifetime)?;
    let client = DaemonClient::new(paths.clone())?;
    wait_for_daemon(paths, &client).await?;
    let admission = admission(home).await?;
    let problems = client.preflight().await?;
    if !problems.is_empty() {
        return Err(LifeError::Host(problems));
    }
    Ok(Admitted {
        daemon: Daemon { owner, client },
        admission,
    })
}

fn start_daemon(
    paths: &ClusterPaths,
    lifetime: Lifetime,
) -> Result<Option<(ChildStdin, Child)>, LifeError> {
    let fail = || io_error("start the daemon");
    let log = File::options()
        .create(true)
        .append(true)
        .open(paths.daemon_log())
        .map_err(fail())?;
    let ownership = match lifetime {
        Lifetime::Owned => "--owned",
        Lifetime::UntilDown => "--begun",
    };
    let mut command = Command::new("/proc/self/exe");
    command.args(["daemon", "--name", paths.name().as_str(), ownership]);
    // A group of its own: Ctrl-C at the terminal is for the command, which then decides about the cluster.
    command
        .process_group(0)
        .current_dir("/")
        .stdin(Stdio::piped());
    command.stdout(log.try_clone().map_err(fail())?).stderr(log);
    let mut child = command.spawn().map_err(fail())?;
    Ok(child.stdin.take().map(|pipe| (pipe, child)))
}

async fn wait_for_daemon(paths: &ClusterPaths, daemon: &DaemonClient) -> Result<(), LifeError> {
    let deadline = Instant::now() + DAEMON_START;
    while daemon.status().await.is_err() {
        // The daemon takes its lock first and drops it when it dies.
        if Instant::now() > deadline {
            return Err(LifeError::DaemonStart {
                name: paths.name().to_string(),
                log: end_of(&paths.daemon_log()),
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The right to compare what the host has free with what is needed. Held until the machines exist, whose memory counts from then on:
/// two clusters that come up at once are not both admitted to the same memory.
async fn admission(home: &Home) -> Result<File, LifeError> {
    let deadline = Instant::now() + ADMISSION_DEADLINE;
    loop {
        if let Some(lock) = try_lock(&home.admission_lock())
            .map_err(io_error("lock the admission to the host's memory"))?
        {
            return Ok(lock);
        }
        if Instant::now() > deadline {
            return Err(LifeError::TimedOut {
                seconds: ADMISSION_DEADLINE.as_secs(),
                what: "another cluster's machines to start".into(),
                seen: format!("`{}` is locked", home.admission_lock().display()),
            });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! Machines alone, without an orchestrator that anybody waits for: what a cluster's coming up is measured against.
//!
//! They are made as [`super::up`] makes them, and are gone when the call returns.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Daemon, InstallError, LifeError, Lifetime, Parts, Progress, Remains, Reporter, begin, clear,
    create_machines, lock_life,
};
use super::{log_in, prepare, snapshots};
use crate::cluster::client::DaemonClient;
use crate::cluster::home::{ClusterPaths, Home};
use crate::cluster::snapshot::SnapshotError;
use crate::model::cluster::ClusterSpec;
use crate::model::names::NodeName;
use crate::shell::ssh::SshError;

/// What a machine that lets us in is asked to run.
const PROOF: &str = "true";

/// Boots all machines of a cluster together. Returns how long each took from the order to make them to an SSH login that has run `true`.
///
/// # Errors
/// When there is a cluster of this name, or a machine does not boot. Nothing is left then.
pub async fn bare_boots(
    home: &Home,
    spec: &ClusterSpec,
    report: &Reporter,
) -> Result<Vec<(NodeName, Duration)>, LifeError> {
    let paths = home.cluster(&spec.name);
    let _life = lock_life(&paths)?;
    let parts = prepare_absent(home, &paths, spec, report).await?;
    let booted = boot_all(home, &paths, spec, &parts, report).await;
    clear(&paths, &DaemonClient::new(paths.clone())?, Remains::Nothing).await?;
    booted
}

async fn boot_all(
    home: &Home,
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    parts: &Parts,
    report: &Reporter,
) -> Result<Vec<(NodeName, Duration)>, LifeError> {
    let admitted = begin(home, paths, spec, parts, Lifetime::Owned, report).await?;
    let begun = Instant::now();
    let Daemon { owner, client } =
        create_machines(admitted, paths, spec, &parts.box_files, report).await?;
    let logins = spec.machines.iter().map(async |machine| {
        let ssh = log_in(&client, &machine.name, report).await?;
        let failed = |source: SshError| InstallError::Ssh {
            node: machine.name.to_string(),
            source,
        };
        ssh.run(PROOF, None)
            .await
            .map_err(failed)?
            .check(PROOF)
            .map_err(|error| failed(error.into()))?;
        let took = begun.elapsed();
        report(Progress::Node(
            machine.name.clone(),
            format!("logged in after {:.1} s", took.as_secs_f64()),
        ));
        Ok::<_, LifeError>((machine.name.clone(), took))
    });
    let booted = futures::future::try_join_all(logins).await;
    // Its end ends the daemon.
    drop(owner);
    booted
}

/// Loads the memories of the cluster's automatic snapshot, all machines together, and waits for nothing that runs in them. Returns the
/// longest that one QEMU took to start and to load; the copy of the disks before that does not count.
///
/// # Errors
/// When there is a cluster of this name or no such snapshot, or it cannot be loaded. Nothing of the cluster is left then.
pub async fn bare_load(
    home: &Home,
    spec: &ClusterSpec,
    report: &Reporter,
) -> Result<Duration, LifeError> {
    let paths = home.cluster(&spec.name);
    let _life = lock_life(&paths)?;
    let parts = prepare_absent(home, &paths, spec, report).await?;
    let fingerprint = snapshots::fingerprint(home, &paths, spec, &parts).await?;
    let found = snapshots::shelf(&paths).find(&fingerprint)?;
    let missing = |mut refused: Vec<SnapshotError>| {
        let none = || SnapshotError::Missing {
            cluster: paths.name().to_string(),
            name: fingerprint.automatic_name(),
        };
        refused.pop().unwrap_or_else(none)
    };
    let manifest = found.map_err(missing)?;
    let loaded = snapshots::load(home, &paths, &parts, &manifest, Lifetime::Owned).await;
    clear(&paths, &DaemonClient::new(paths.clone())?, Remains::Nothing).await?;
    Ok(Duration::from_millis(loaded?.1.loaded_ms))
}

/// Finds or builds what the machines are made from. Refuses to take a cluster's place, but clears what is left of one.
async fn prepare_absent(
    home: &Home,
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    report: &Reporter,
) -> Result<Parts, LifeError> {
    if paths.complete().exists() {
        return Err(LifeError::Exists(paths.name().to_string()));
    }
    clear(paths, &DaemonClient::new(paths.clone())?, Remains::Nothing).await?;
    prepare(home, spec, report).await
}

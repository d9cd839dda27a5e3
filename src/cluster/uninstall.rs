//! Takes everything of ours off a machine that is not ours, over SSH. What is done there: [`super::machine::leave`].

use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::home::ClusterPaths;
use super::install::InstallError;
use crate::machines::hosts;
use crate::model::cluster::ClusterSpec;
use crate::model::names::ClusterName;
use crate::shell::quote;
use crate::shell::ssh::{Ssh, SshTarget};

/// Longest that a machine which is to be left may take to let us in.
const REACH_LIMIT: Duration = Duration::from_secs(20);
/// Longest that leaving may take: pods are killed, not asked.
const LEAVE_LIMIT: Duration = Duration::from_secs(90);

/// What tells this cluster from others on a machine: its name, and whose certificates it has.
///
/// `None` before it has any: then nothing was installed anywhere.
#[must_use]
pub fn identity(name: &ClusterName, pki: &Path) -> Option<String> {
    let authority = std::fs::read(pki.join("ca.crt")).ok()?;
    let digest = Sha256::digest(&authority);
    let tag: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some(format!("{name}-{tag}"))
}

/// Any of our binaries that is whole does it; where none is, the upload was cut off, and nothing else has come.
fn command(identity: &str) -> String {
    let identity = quote(identity);
    let script = format!(
        "for binary in $(ls -t /var/lib/flightcage/bin/flightcage-* 2>/dev/null); do \
           \"$binary\" --version >/dev/null 2>&1 || continue; exec \"$binary\" machine leave --cluster {identity}; \
         done; \
         [ ! -f /var/lib/flightcage/before.json ] || {{ echo 'its flightcage binary is gone' >&2; exit 1; }}; \
         rm -rf /var/lib/flightcage/bin; rmdir /var/lib/flightcage 2>/dev/null; true"
    );
    format!("sudo -n sh -c {}", quote(&script))
}

/// Uninstalls from one machine. One that has nothing of this cluster is fine.
///
/// # Errors
/// When it cannot be reached, or something on it cannot be removed.
pub async fn uninstall(node: &str, target: &SshTarget, identity: &str) -> Result<(), InstallError> {
    let failed = |source| InstallError::Ssh {
        node: node.to_owned(),
        source,
    };
    let ssh = Ssh::connect(target, REACH_LIMIT).await.map_err(failed)?;
    let output = ssh
        .run_within(&command(identity), None, LEAVE_LIMIT)
        .await
        .map_err(failed)?;
    if output.success() {
        return Ok(());
    }
    let stderr = crate::shell::tail(&output.stderr);
    Err(InstallError::Command {
        node: node.to_owned(),
        command: "flightcage machine leave".into(),
        stderr,
    })
}

/// Uninstalls from all machines of a cluster that are not ours, side by side. Other providers' machines are destroyed instead.
///
/// # Errors
/// The first machine's error; all are tried.
pub async fn uninstall_all(spec: &ClusterSpec, paths: &ClusterPaths) -> Result<(), InstallError> {
    let Some(identity) = identity(&spec.name, &paths.pki()) else {
        return Ok(());
    };
    let hosts = spec
        .machines
        .iter()
        .filter_map(|machine| Some((&machine.name, hosts::target(machine.host.as_ref()?))));
    let left = hosts.map(|(node, target)| {
        let identity = &identity;
        async move { uninstall(node.as_str(), &target, identity).await }
    });
    futures::future::join_all(left).await.into_iter().collect()
}

//! Pods whose processes are killed by the kernel, not by whoever runs them.

use std::fs;
use std::time::Duration;

use procfs::process::Process;
use tokio::time::Instant;

use super::order::{Order, Seen};
use super::pod_groups::{containers, of_pod, of_pods};
use super::process;
use super::systemd::{fault_unit, is_active, start_service, stop_service};
use super::{MachineError, failed};

/// Pause between two kills of what came back.
const AGAIN: Duration = Duration::from_millis(100);
/// What the unit that kills them again is named after.
const WHAT: &str = "pod-kill";

/// Kills the processes of these pods' containers, and returns when they are gone.
pub(super) async fn kill(pods: &[String], again_s: u64, name: &str) -> Result<Seen, MachineError> {
    let unit = fault_unit(WHAT, name)?;
    if again_s > 0 && is_active(&unit) {
        let measured = "they are being killed already".to_owned();
        return Ok(Seen::new(true, measured, Instant::now()));
    }
    let mut killed: Vec<Process> = Vec::new();
    let mut groups = Vec::new();
    for uid in pods {
        let found = containers(&of_pod(uid)?)?;
        let before = killed.len();
        for container in &found {
            killed.extend(process::in_group(container).unwrap_or_default());
        }
        if killed.len() == before {
            return Err(failed(format!(
                "pod `{uid}` has no process on this machine"
            )));
        }
        groups.extend(found);
    }
    if again_s > 0 {
        let pods = pods.to_vec();
        start_service(&unit, again_s, &[], &Order::KeepKilling { pods })?;
    }
    let since = Instant::now();
    for container in &groups {
        let killed = fs::write(container.join("cgroup.kill"), "1");
        // One that ended by itself meanwhile has taken its group with it.
        if let Err(error) = killed
            && container.exists()
        {
            return Err(failed(format!("kill `{}`: {error}", container.display())));
        }
    }
    let left = process::wait_gone(&killed).await;
    let took_ms = since.elapsed().as_millis();
    let kept = again_s == 0 || is_active(&unit);
    let again = match (again_s, kept) {
        (0, _) => "",
        (_, true) => ", and what comes back is killed again",
        (_, false) => ", but what comes back is not killed again",
    };
    let all = killed.len();
    let measured = if left == 0 {
        format!("all {all} processes are gone after {took_ms} ms{again}")
    } else {
        format!("{left} of {all} processes still run after {took_ms} ms")
    };
    Ok(Seen::new(left == 0 && kept, measured, since))
}

/// Kills whatever these pods' containers start. It does not return.
pub(super) async fn keep_killing(pods: &[String]) -> Result<Seen, MachineError> {
    let pods = of_pods(pods)?;
    loop {
        for pod in &pods {
            // A pod that is replaced takes its groups with it.
            for container in containers(pod).unwrap_or_default() {
                let _ = fs::write(container.join("cgroup.kill"), "1");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Lets the pods come back.
pub(super) fn stop_killing(name: &str) -> Result<Seen, MachineError> {
    let unit = fault_unit(WHAT, name)?;
    stop_service(&unit);
    let acts = is_active(&unit);
    let measured = if acts {
        "what comes back is still killed"
    } else {
        "nothing kills them any more"
    };
    Ok(Seen::new(!acts, measured.to_owned(), Instant::now()))
}

//! Containers whose memory limit is hit: it is lowered to nothing, the kernel kills what it cannot take back, and it is put back.
//!
//! The kernel does that while the limit is written. Whatever it was before is put back at once, and by a timer if we are not there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use procfs::process::Process;
use tokio::time::Instant;

use super::order::{Order, Seen};
use super::pod_groups::{containers, of_pod, of_pods};
use super::process;
use super::systemd::{
    fault_unit, is_active, start_deadline, start_service, stop_deadline, stop_service,
};
use super::{CGROUP, MachineError, doing, failed};

/// Pause between two looks at what came back: long enough for a container to have begun.
const AGAIN: Duration = Duration::from_millis(500);
/// What the unit that exhausts them again is named after, and the timer that puts limits back.
const WHAT: &str = "container-oom";
const WHAT_LIMITS: &str = "container-limit";
/// Limits are put back by a timer after this, if nobody has.
const PUT_BACK_S: u64 = 15;

/// A container's group, and the limit that it had.
type Limit = (PathBuf, String);

/// Lets these pods' containers hit their memory limits, and returns when the kernel has killed for it.
pub(super) async fn exhaust(
    pods: &[String],
    again_s: u64,
    name: &str,
) -> Result<Seen, MachineError> {
    let unit = fault_unit(WHAT, name)?;
    if again_s > 0 && is_active(&unit) {
        let measured = "their limits are being hit already".to_owned();
        return Ok(Seen::new(true, measured, Instant::now()));
    }
    let groups = of_pods(pods)?;
    let mut limits: Vec<Limit> = Vec::new();
    let mut hit: Vec<Process> = Vec::new();
    for (group, uid) in groups.iter().zip(pods) {
        let before = hit.len();
        for container in containers(group)? {
            let limit = limit_of(&container)?;
            hit.extend(process::in_group(&container).unwrap_or_default());
            limits.push((container, limit));
        }
        if hit.len() == before {
            return Err(failed(format!(
                "pod `{uid}` has no process on this machine"
            )));
        }
    }
    let before = groups
        .iter()
        .map(|group| oom_kills(group))
        .collect::<Result<Vec<u64>, _>>()?;
    let limits_unit = fault_unit(WHAT_LIMITS, name)?;
    let put_back_order = Order::PutLimitsBack {
        limits: limits.clone(),
    };
    start_deadline(&limits_unit, PUT_BACK_S, &put_back_order)?;
    if again_s > 0 {
        let pods = pods.to_vec();
        start_service(&unit, again_s, &[], &Order::KeepExhausting { pods })?;
    }
    let since = Instant::now();
    let lowered = limits.iter().try_for_each(|(group, _)| lower(group));
    let put_back = put_limits_back(&limits);
    lowered?;
    put_back?;
    stop_deadline(&limits_unit);
    let left = process::wait_gone(&hit).await;
    let mut killed = 0;
    let mut untouched = 0;
    for (group, before) in groups.iter().zip(before) {
        // A pod that is gone by now was replaced, and can no longer be asked.
        let risen = oom_kills(group).map_or(0, |after| after.saturating_sub(before));
        killed += risen;
        untouched += usize::from(risen == 0);
    }
    let kept = again_s == 0 || is_active(&unit);
    let again = match (again_s, kept) {
        (0, _) => "",
        (_, true) => ", and what comes back hits its limit again",
        (_, false) => ", but what comes back is left alone",
    };
    let measured = format!(
        "the kernel counts {killed} killed for their memory limit, {left} of {} processes still run{again}",
        hit.len()
    );
    Ok(Seen::new(
        untouched == 0 && left == 0 && kept,
        measured,
        since,
    ))
}

/// Lets whatever these pods' containers start hit its limit. It does not return.
pub(super) async fn keep_exhausting(pods: &[String]) -> Result<Seen, MachineError> {
    let pods = of_pods(pods)?;
    loop {
        tokio::time::sleep(AGAIN).await;
        for pod in &pods {
            // A pod that is replaced takes its groups with it.
            for container in containers(pod).unwrap_or_default() {
                let Ok(limit) = limit_of(&container) else {
                    continue;
                };
                let _ = lower(&container);
                let _ = put_limits_back(&[(container, limit)]);
            }
        }
    }
}

/// Lets the pods come back.
pub(super) fn stop_exhausting(pods: &[String], name: &str) -> Result<Seen, MachineError> {
    let unit = fault_unit(WHAT, name)?;
    stop_service(&unit);
    let acts = is_active(&unit);
    let mut at_nothing = 0;
    for pod in of_pods(pods)? {
        let containers = containers(&pod).unwrap_or_default();
        let limits = containers.iter().filter_map(|one| limit_of(one).ok());
        at_nothing += limits.filter(|limit| limit == "0").count();
    }
    let measured = match (acts, at_nothing) {
        (true, _) => "what comes back still hits its limit".to_owned(),
        (false, 0) => "nothing lowers their limits any more".to_owned(),
        (false, count) => format!("{count} containers may still use no memory"),
    };
    Ok(Seen::new(
        !acts && at_nothing == 0,
        measured,
        Instant::now(),
    ))
}

/// Puts limits back. A container that is gone needs none.
pub(super) fn put_limits_back(limits: &[Limit]) -> Result<(), MachineError> {
    for (group, limit) in limits {
        require_ours(group)?;
        let file = group.join("memory.max");
        let written = fs::write(&file, limit);
        if group.exists() {
            written.map_err(doing(format!("write `{}`", file.display())))?;
        }
    }
    Ok(())
}

/// The same, as an order.
pub(super) fn put_back(limits: &[Limit]) -> Result<Seen, MachineError> {
    put_limits_back(limits)?;
    let measured = format!("{} limits are put back", limits.len());
    Ok(Seen::new(true, measured, Instant::now()))
}

/// Lowers a limit to nothing. It returns when the kernel has done what follows.
fn lower(group: &Path) -> Result<(), MachineError> {
    let file = group.join("memory.max");
    let written = fs::write(&file, "0");
    // One whose container ended meanwhile is gone with it.
    if group.exists() {
        written.map_err(doing(format!("write `{}`", file.display())))?;
    }
    Ok(())
}

fn limit_of(group: &Path) -> Result<String, MachineError> {
    let file = group.join("memory.max");
    let text = fs::read_to_string(&file).map_err(doing(format!("read `{}`", file.display())))?;
    Ok(text.trim().to_owned())
}

/// An order names groups by their paths: they must be pods'.
fn require_ours(group: &Path) -> Result<(), MachineError> {
    let pod = group.strip_prefix(CGROUP).ok().and_then(Path::parent);
    let uid = pod
        .and_then(Path::to_str)
        .and_then(|pod| pod.strip_prefix("pod"));
    match uid {
        Some(uid) if of_pod(uid).is_ok() && group.file_name().is_some() => Ok(()),
        _ => Err(failed(format!(
            "`{}` is not a container's group",
            group.display()
        ))),
    }
}

/// What the kernel counts as killed for a memory limit in a pod's containers, those that are gone included.
fn oom_kills(pod: &Path) -> Result<u64, MachineError> {
    let file = pod.join("memory.events");
    let text = fs::read_to_string(&file).map_err(doing(format!("read `{}`", file.display())))?;
    kills_in(&text).ok_or_else(|| failed(format!("`{}` counts no kills", file.display())))
}

fn kills_in(events: &str) -> Option<u64> {
    let line = events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_told_from_other_events() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(kills_in(events), Some(2));
        assert_eq!(kills_in("oom 3\noom_group_kill 1\n"), None);
        let pod = tempfile::tempdir().unwrap();
        assert!(oom_kills(pod.path()).is_err());
        fs::write(pod.path().join("memory.events"), events).unwrap();
        assert_eq!(oom_kills(pod.path()).unwrap(), 2);
    }

    #[test]
    fn only_containers_of_pods_have_their_limits_changed() {
        let group = |path: &str| Path::new(CGROUP).join(path);
        assert!(require_ours(&group("pod0a-1/web")).is_ok());
        for wrong in [
            "helpers/a",
            "pod0a-1",
            "pod0a/..",
            "pod../a",
            "pod0a/../x/y",
        ] {
            assert!(require_ours(&group(wrong)).is_err(), "{wrong}");
        }
        assert!(require_ours(Path::new("/sys/fs/cgroup/system.slice/a")).is_err());
        assert!(put_limits_back(&[("/etc".into(), "0".into())]).is_err());
    }

    #[test]
    fn a_limit_is_read_lowered_and_put_back() {
        let group = tempfile::tempdir().unwrap();
        let file = group.path().join("memory.max");
        fs::write(&file, "max\n").unwrap();
        assert_eq!(limit_of(group.path()).unwrap(), "max");
        lower(group.path()).unwrap();
        assert_eq!(limit_of(group.path()).unwrap(), "0");
        let gone = group.path().join("gone");
        lower(&gone).unwrap();
        assert!(limit_of(&gone).is_err());
    }
}

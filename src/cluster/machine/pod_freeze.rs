//! Pods that stand still: the kernel freezes all of their processes, and does not tell them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::fault::set_frozen;
use super::order::{Order, Seen};
use super::pod_groups::of_pods;
use super::process;
use super::systemd::{fault_unit, start_deadline, stop_deadline};
use super::{MachineError, doing, failed};

/// What the timer that thaws them is named after.
const WHAT: &str = "pod-freeze";
/// How long it is watched that they use no processor.
const WATCH: Duration = Duration::from_millis(200);

/// Freezes these pods for at most `hold_s`, and returns when the kernel has and they use no processor any more.
pub(super) async fn freeze(pods: &[String], hold_s: u64, name: &str) -> Result<Seen, MachineError> {
    let groups = of_pods(pods)?;
    let mut processes = 0;
    for (group, uid) in groups.iter().zip(pods) {
        let found = process::in_group(group).unwrap_or_default().len();
        if found == 0 {
            return Err(failed(format!(
                "pod `{uid}` has no process on this machine"
            )));
        }
        processes += found;
    }
    let thaw_order = Order::ThawPods {
        pods: pods.to_vec(),
        name: name.to_owned(),
    };
    start_deadline(&fault_unit(WHAT, name)?, hold_s, &thaw_order)?;
    for group in &groups {
        if let Err(error) = set_frozen(group, true).await {
            // The error is what matters; the timer thaws what this cannot.
            let _ = thaw(pods, name).await;
            return Err(error);
        }
    }
    let since = Instant::now();
    let before_us = used_us(&groups)?;
    tokio::time::sleep(WATCH).await;
    let used_us = used_us(&groups)?.saturating_sub(before_us);
    let measured = format!(
        "{processes} processes are frozen and used {used_us} µs of the processor in {} ms",
        since.elapsed().as_millis()
    );
    Ok(Seen::new(used_us == 0, measured, since))
}

/// Lets these pods go on. One that is gone is fine.
pub(super) async fn thaw(pods: &[String], name: &str) -> Result<Seen, MachineError> {
    let mut thawed = 0;
    for group in of_pods(pods)? {
        match set_frozen(&group, false).await {
            Ok(()) => thawed += 1,
            Err(_) if !group.exists() => {}
            Err(error) => return Err(error),
        }
    }
    stop_deadline(&fault_unit(WHAT, name)?);
    let gone = pods.len() - thawed;
    let measured = match gone {
        0 => format!("{thawed} pods are thawed"),
        gone => format!("{thawed} pods are thawed, {gone} are gone"),
    };
    Ok(Seen::new(true, measured, Instant::now()))
}

/// Processor time that these groups have used.
fn used_us(groups: &[PathBuf]) -> Result<u64, MachineError> {
    groups.iter().map(|group| usage_us(group)).sum()
}

/// Processor time that a control group has used.
pub(super) fn usage_us(group: &Path) -> Result<u64, MachineError> {
    let file = group.join("cpu.stat");
    let text = fs::read_to_string(&file).map_err(doing(format!("read `{}`", file.display())))?;
    usage_in(&text).ok_or_else(|| failed(format!("`{}` tells no usage", file.display())))
}

fn usage_in(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usage_is_that_of_all_groups() {
        let text = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(usage_in(text), Some(1500));
        assert_eq!(usage_in("user_usec 1000\n"), None);
        let group = tempfile::tempdir().unwrap();
        fs::write(group.path().join("cpu.stat"), text).unwrap();
        let groups = [group.path().to_owned(), group.path().to_owned()];
        assert_eq!(used_us(&groups).unwrap(), 3000);
        assert!(used_us(&[group.path().join("gone")]).is_err());
    }
}

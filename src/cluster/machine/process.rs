//! Processes of a machine. Each is held by its folder of `/proc`, so that a later one of the same number is not taken for it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use procfs::process::Process;

use super::{MachineError, doing};

/// Pause between two looks whether processes are gone.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How often that is looked at.
const LOOKS: u32 = 500;

/// The process of this number, if it runs. One that nobody has waited for yet does not.
pub(super) fn running(pid: i32) -> Option<Process> {
    Process::new(pid).ok().filter(Process::is_alive)
}

/// The processes in a control group and in all groups below it.
pub(super) fn in_group(group: &Path) -> Result<Vec<Process>, MachineError> {
    let what = || doing(format!("list the processes of `{}`", group.display()));
    let listed = fs::read_to_string(group.join("cgroup.procs")).map_err(what())?;
    let pids = listed.lines().filter_map(|line| line.trim().parse().ok());
    let mut processes: Vec<Process> = pids.filter_map(running).collect();
    for entry in fs::read_dir(group).map_err(what())? {
        let entry = entry.map_err(what())?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // A container's group may go while it is looked at.
            processes.extend(in_group(&entry.path()).unwrap_or_default());
        }
    }
    Ok(processes)
}

/// Waits until they are gone and returns how many are not.
pub(super) async fn wait_gone(processes: &[Process]) -> usize {
    let alive = || processes.iter().filter(|one| one.is_alive()).count();
    let mut left = alive();
    for _ in 0..LOOKS {
        if left == 0 {
            break;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
        left = alive();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_nested_groups_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("container/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        fs::write(folder.path().join("container/cgroup.procs"), "\n").unwrap();
        fs::write(inner.join("cgroup.procs"), std::process::id().to_string()).unwrap();
        assert_eq!(in_group(folder.path()).unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_process_that_was_killed_is_gone_before_anybody_has_waited_for_it() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let processes = [running(i32::try_from(child.id()).unwrap()).unwrap()];
        child.kill().unwrap();
        assert_eq!(wait_gone(&processes).await, 0);
        child.wait().unwrap();
        assert_eq!(wait_gone(&processes).await, 0);
    }
}

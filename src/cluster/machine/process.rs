//! Processes of a machine, told from later ones of the same number.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{MachineError, doing};

/// Pause between two looks whether processes are gone.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How often that is looked at.
const LOOKS: u32 = 500;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    start: String,
}

impl Process {
    /// The one that has this number now.
    pub(super) fn find(pid: i32) -> Option<Self> {
        let (_, start) = state_and_start(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Some(Self { pid, start })
    }

    /// Whether it runs no more. One that nobody has waited for yet is gone too.
    pub(super) fn is_gone(&self) -> bool {
        let now = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        match now.ok().as_deref().and_then(state_and_start) {
            Some((state, start)) => start != self.start || matches!(state, 'Z' | 'X'),
            None => true,
        }
    }
}

/// State and start of a line of `/proc/<pid>/stat`. The name before them may hold anything.
fn state_and_start(stat: &str) -> Option<(char, String)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.to_owned()))
}

/// The processes in a control group and in all groups below it.
pub(super) fn in_group(group: &Path) -> Result<Vec<Process>, MachineError> {
    let what = || doing(format!("list the processes of `{}`", group.display()));
    let listed = fs::read_to_string(group.join("cgroup.procs")).map_err(what())?;
    let pids = listed.lines().filter_map(|line| line.trim().parse().ok());
    let mut processes: Vec<Process> = pids.filter_map(Process::find).collect();
    for entry in fs::read_dir(group).map_err(what())? {
        let entry = entry.map_err(what())?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // A container's group may go while it is looked at.
            processes.extend(in_group(&entry.path()).unwrap_or_default());
        }
    }
    Ok(processes)
}

/// Waits until they are gone and returns those that are not.
pub(super) async fn wait_gone(processes: &[Process]) -> Vec<&Process> {
    let mut left: Vec<&Process> = processes.iter().collect();
    for _ in 0..LOOKS {
        left.retain(|process| !process.is_gone());
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "41 (a) b) S 1 41 41 0 -1 4194560 1 0 0 0 3 4 0 0 20 0 1 0 98765 1 2";
        assert_eq!(state_and_start(stat), Some(('S', "98765".to_owned())));
        assert_eq!(state_and_start("41 (a"), None);
    }

    #[test]
    fn this_process_runs_and_one_that_began_at_another_time_is_gone() {
        let own = i32::try_from(std::process::id()).unwrap();
        let process = Process::find(own).unwrap();
        assert!(!process.is_gone());
        let other = Process {
            start: "1".to_owned(),
            ..process
        };
        assert!(other.is_gone());
    }

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
}

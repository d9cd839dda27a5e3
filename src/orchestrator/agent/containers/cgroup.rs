//! Control groups (v2 only) of containers and of their helpers, in a tree of their own outside the agent's unit.
//!
//! `/flightcage/helpers` holds the helpers, `/flightcage/pod<uid>/<container>` the containers. libcontainer makes the latter
//! and enables the controllers on the way down.

use std::fs;
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";

/// Moves this process out of the agent's unit, so that stopping that does not end it.
pub(crate) fn join_helpers() {
    let group = Path::new(ROOT).join("flightcage/helpers");
    if let Err(error) = fs::create_dir_all(&group).and_then(|()| fs::write(group.join("cgroup.procs"), b"0")) {
        tracing::warn!("join cgroup `{}`: {error}", group.display());
    }
}

/// Controllers that this machine offers to containers.
pub(crate) fn controllers() -> Vec<String> {
    fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))
        .map(|text| text.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default()
}

/// Whether the kernel killed something in this group for its memory limit.
pub(crate) fn was_oom_killed(group: &Path) -> bool {
    fs::read_to_string(Path::new(ROOT).join(group).join("memory.events")).is_ok_and(|events| oom_kills(&events) > 0)
}

fn oom_kills(events: &str) -> u64 {
    events.lines().filter_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok()).sum()
}

/// Kills whatever is in the group.
pub(crate) fn kill(group: &Path) {
    let _ = fs::write(Path::new(ROOT).join(group).join("cgroup.kill"), b"1");
}

/// Removes the group and the groups below it. Fails silently while processes of it are still dying: removal is tried again
/// with the pod's.
pub(crate) fn remove(group: &Path) {
    let group = Path::new(ROOT).join(group);
    let mut below = vec![group];
    let mut number = 0;
    while let Some(directory) = below.get(number) {
        let children: Vec<_> = fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        below.extend(children);
        number += 1;
    }
    for directory in below.iter().rev() {
        let _ = fs::remove_dir(directory);
    }
}

/// Whether the group is still there.
pub(crate) fn exists(group: &Path) -> bool {
    Path::new(ROOT).join(group).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kills_are_counted_apart_from_ooms() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(oom_kills("oom 3\noom_kill 0\n"), 0);
    }
}

//! Control groups (v2 only) of containers and of their helpers, in a tree of their own outside the agent's unit.
//!
//! `/flightcage/helpers` holds the helpers, `/flightcage/starting` those that are setting something up, and
//! `/flightcage/pod<uid>/<container>` the containers. libcontainer makes the latter and enables the controllers on the way down.
//!
//! Weights (`cpu.weight`, 1 to 10,000, shares among neighbours that want to run) keep a machine with one processor serving while it
//! starts something: what serves comes before what starts.

use std::fs;
use std::io;
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";
const TREE: &str = "flightcage";
const HELPERS: &str = "flightcage/helpers";
const STARTING: &str = "flightcage/starting";
/// Of the whole tree beside the machine's services, which have 100.
const TREE_WEIGHT: u32 = 1000;
/// Of what is set up and of a pod that does not serve yet, beside pods that do.
const STARTING_WEIGHT: u32 = 15;
/// The kernel's own default: of helpers and of pods that serve.
const SERVING_WEIGHT: u32 = 100;

/// A pod's share of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// It is coming up: what others leave.
    Starting,
    /// It serves: as much as any other.
    Serving,
}

/// Makes the tree and sets its weights. A kernel without the controller shares as it likes.
pub(crate) fn prepare() {
    let weigh_all = || {
        for group in [TREE, HELPERS, STARTING] {
            fs::create_dir_all(Path::new(ROOT).join(group))?;
        }
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+cpu")?;
        fs::write(
            Path::new(ROOT).join(TREE).join("cgroup.subtree_control"),
            "+cpu",
        )?;
        weigh(TREE, TREE_WEIGHT)?;
        weigh(STARTING, STARTING_WEIGHT)
    };
    if let Err(error) = weigh_all() {
        tracing::warn!("weigh cgroup `{TREE}`: {error}");
    }
}

/// Gives a pod's group its share, making the group if it is not there.
pub(crate) fn give(pod: &Path, share: Share) {
    let weight = match share {
        Share::Starting => STARTING_WEIGHT,
        Share::Serving => SERVING_WEIGHT,
    };
    let given = fs::create_dir_all(Path::new(ROOT).join(pod)).and_then(|()| weigh(pod, weight));
    if let Err(error) = given {
        tracing::warn!("weigh cgroup `{}`: {error}", pod.display());
    }
}

fn weigh(group: impl AsRef<Path>, weight: u32) -> io::Result<()> {
    fs::write(
        Path::new(ROOT).join(group).join("cpu.weight"),
        weight.to_string(),
    )
}

/// Moves this process out of the agent's unit, so that stopping that does not end it.
pub(crate) fn join_helpers() {
    join(HELPERS);
}

/// Moves this process to what has the least share.
pub(crate) fn join_starting() {
    join(STARTING);
}

fn join(group: &str) {
    let group = Path::new(ROOT).join(group);
    if let Err(error) =
        fs::create_dir_all(&group).and_then(|()| fs::write(group.join("cgroup.procs"), b"0"))
    {
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
    fs::read_to_string(Path::new(ROOT).join(group).join("memory.events"))
        .is_ok_and(|events| oom_kills(&events) > 0)
}

fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())
        .sum()
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
        assert_eq!(
            oom_kills("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"),
            2
        );
        assert_eq!(oom_kills("oom 3\noom_kill 0\n"), 0);
    }
}

//! The control groups of pods, and of their containers, on a machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CGROUP, MachineError, doing, failed};

/// The control group of a pod.
pub(super) fn of_pod(uid: &str) -> Result<PathBuf, MachineError> {
    // The uid becomes a part of a path.
    if uid.is_empty() || !uid.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
        return Err(failed(format!("`{uid}` is not a pod's uid")));
    }
    Ok(Path::new(CGROUP).join(format!("pod{uid}")))
}

/// The control groups of pods.
pub(super) fn of_pods(uids: &[String]) -> Result<Vec<PathBuf>, MachineError> {
    uids.iter().map(|uid| of_pod(uid)).collect()
}

/// The control groups of a pod's containers.
pub(super) fn containers(pod: &Path) -> Result<Vec<PathBuf>, MachineError> {
    let what = || doing(format!("list the containers in `{}`", pod.display()));
    let mut containers = Vec::new();
    for entry in fs::read_dir(pod).map_err(what())? {
        let entry = entry.map_err(what())?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            containers.push(entry.path());
        }
    }
    Ok(containers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_cannot_leave_our_groups() {
        assert_eq!(
            of_pod("0a1b-2c").unwrap(),
            Path::new(CGROUP).join("pod0a1b-2c")
        );
        for wrong in ["", "../..", "a/b", "a b"] {
            assert!(of_pod(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_containers_are_the_folders_of_the_pod() {
        let pod = tempfile::tempdir().unwrap();
        fs::create_dir(pod.path().join("c0")).unwrap();
        fs::write(pod.path().join("cgroup.procs"), "").unwrap();
        assert_eq!(containers(pod.path()).unwrap(), [pod.path().join("c0")]);
        assert!(containers(&pod.path().join("gone")).is_err());
    }
}

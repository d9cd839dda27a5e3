//! How a machine was before it became a node: noted once, before anything of it is changed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    CGROUP_ROOT, CLUSTER_FILE, CONFIG_DIR, DATA_DIR, MachineError, RUN_DIR, UNIT_DIR, doing, failed,
};

/// Kernel modules that pods, their network and its faults load. Others come and go without us.
pub(super) const MODULES: [&str; 19] = [
    "veth",
    "br_netfilter",
    "bridge",
    "stp",
    "llc",
    "overlay",
    "sch_netem",
    "sch_prio",
    "sch_ingress",
    "cls_u32",
    "cls_flower",
    "act_gact",
    "cls_bpf",
    "act_mirred",
    "ifb",
    "vxlan",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "inet_diag",
];
/// Sysctls that the agent sets.
pub(super) const SYSCTLS: [&str; 1] = ["/proc/sys/net/ipv4/ip_forward"];

/// The note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Before {
    /// Paths of ours that existed: they and what is in them is not ours.
    pub(super) paths: BTreeSet<PathBuf>,
    /// Mount points below our folders.
    pub(super) mounts: BTreeSet<PathBuf>,
    /// Of [`MODULES`], those that were loaded.
    pub(super) modules: BTreeSet<String>,
    /// Values of [`SYSCTLS`].
    pub(super) sysctls: Vec<(String, String)>,
    /// Controllers that the root control group gave to its children.
    pub(super) controllers: BTreeSet<String>,
}

/// The note's file. Not in [`CONFIG_DIR`], so that it goes last.
pub(super) fn file() -> PathBuf {
    Path::new(DATA_DIR).join("before.json")
}

/// Notes how the machine is, and that it belongs to `cluster` now. A note that is there already stays.
///
/// # Errors
/// When the machine belongs to another cluster, or the note cannot be written.
pub fn arrive(cluster: &str) -> Result<(), MachineError> {
    match owner().map_err(doing(format!("read `{CLUSTER_FILE}`")))? {
        Some(owner) if owner == cluster => return Ok(()),
        Some(owner) => {
            let binary = fs::read_link("/proc/self/exe")
                .map(|path| path.display().to_string())
                .unwrap_or_default();
            return Err(failed(format!(
                "it belongs to cluster `{owner}`; `sudo {binary} machine leave` there removes that"
            )));
        }
        None => {}
    }
    if !file().exists() {
        let note = serde_json::to_vec_pretty(&observe()).expect("a note is plain data");
        write(&file(), &note)?;
    }
    fs::create_dir_all(CONFIG_DIR).map_err(doing(format!("make `{CONFIG_DIR}`")))?;
    write(Path::new(CLUSTER_FILE), cluster.as_bytes())
}

/// The cluster that this machine belongs to.
pub(super) fn owner() -> io::Result<Option<String>> {
    match fs::read_to_string(CLUSTER_FILE) {
        Ok(owner) => Ok(Some(owner.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A reader sees all of it or nothing.
fn write(path: &Path, contents: &[u8]) -> Result<(), MachineError> {
    let part = path.with_extension("part");
    let written = fs::write(&part, contents).and_then(|()| fs::rename(&part, path));
    written.map_err(doing(format!("write `{}`", path.display())))
}

fn observe() -> Before {
    let mut paths = BTreeSet::new();
    for folder in [CONFIG_DIR, DATA_DIR, RUN_DIR] {
        below(Path::new(folder), &mut paths);
    }
    // Our own binary has come first.
    let binaries = Path::new(DATA_DIR).join("bin");
    paths.retain(|path| !path.starts_with(&binaries));
    let wants = Path::new(UNIT_DIR).join("multi-user.target.wants");
    if wants.exists() {
        paths.insert(wants);
    }
    let only_binaries = fs::read_dir(DATA_DIR)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(|e| e.path() == binaries)));
    if only_binaries && !mounts().contains(Path::new(DATA_DIR)) {
        paths.remove(Path::new(DATA_DIR));
    }
    Before {
        paths,
        mounts: mounts(),
        modules: modules(),
        sysctls: sysctls(),
        controllers: controllers(),
    }
}

/// A folder and its direct entries: nothing of ours goes into a folder that somebody else has made there.
fn below(folder: &Path, paths: &mut BTreeSet<PathBuf>) {
    if folder.exists() {
        paths.insert(folder.to_owned());
        paths.extend(
            fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path()),
        );
    }
}

/// Mount points below our folders, and these folders themselves.
pub(super) fn mounts() -> BTreeSet<PathBuf> {
    mounts_in(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

fn mounts_in(mountinfo: &str) -> BTreeSet<PathBuf> {
    let point = |line: &str| {
        line.split(' ')
            .nth(4)
            .map(|point| PathBuf::from(point.replace("\\040", " ")))
    };
    let ours = |point: &PathBuf| {
        [DATA_DIR, RUN_DIR]
            .iter()
            .any(|folder| point.starts_with(folder))
    };
    mountinfo.lines().filter_map(point).filter(ours).collect()
}

/// Those of [`MODULES`] that are loaded.
pub(super) fn modules() -> BTreeSet<String> {
    MODULES
        .iter()
        .filter(|module| Path::new("/sys/module").join(module).exists())
        .map(|module| (*module).to_owned())
        .collect()
}

fn sysctls() -> Vec<(String, String)> {
    let read = |path: &&str| {
        Some((
            (*path).to_owned(),
            fs::read_to_string(path).ok()?.trim().to_owned(),
        ))
    };
    SYSCTLS.iter().filter_map(read).collect()
}

/// What the root control group gives to its children.
pub(super) fn controllers() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(CGROUP_ROOT).join("cgroup.subtree_control"))
        .unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_below_our_folders_are_found() {
        let info = "22 1 0:21 / /proc rw - proc proc rw\n\
                    30 1 254:16 /data /var/lib/flightcage rw - ext4 /dev/vdb rw\n\
                    31 1 0:40 / /run/flightcage/netns/a\\040b rw - nsfs nsfs rw\n\
                    32 1 0:40 / /run/flightcage2 rw - tmpfs x rw\n";
        let found: Vec<String> = mounts_in(info)
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        assert_eq!(found, ["/run/flightcage/netns/a b", "/var/lib/flightcage"]);
    }
}

//! What stands in the way of QEMU machines on this host.

use std::path::Path;

use crate::machines::provider::{Acceleration, Problem};
use crate::model::cluster::MachineSpec;
use crate::shell::local::Command;

/// The oldest QEMU we take: the first with `-netdev stream`.
pub const MINIMUM_VERSION: (u32, u32) = (7, 2);
/// What QEMU itself needs beside a guest's memory, in bytes: devices, translated code, stacks.
const OVERHEAD_BYTES: u64 = 120 << 20;
/// What a machine's sparse disk holds when images are pulled and pods run, in bytes.
const DISK_USE_BYTES: u64 = 1 << 30;

/// The version of QEMU on this host, or `None` without one.
pub async fn version() -> Option<(u32, u32)> {
    let output = Command::new(super::QEMU).arg("--version").output().await.ok()?;
    parse_version(&output.text())
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) async fn problems(machines: &[MachineSpec], state_dir: &Path, acceleration: Acceleration) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(version_problem(version().await));
    let memory = machines.iter().map(|machine| machine.memory_bytes + OVERHEAD_BYTES).sum();
    problems.extend(available_memory().and_then(|free| memory_problem(memory, free)));
    let disk = machines.iter().map(|machine| machine.disk_bytes.min(DISK_USE_BYTES)).sum();
    problems.extend(free_disk(state_dir).and_then(|free| disk_problem(disk, free, state_dir)));
    if acceleration == Acceleration::Kvm && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_err() {
        problems.push(problem(
            "/dev/kvm cannot be opened",
            "sudo usermod -aG kvm \"$USER\", and log in again; or set FLIGHTCAGE_ACCEL=tcg",
        ));
    }
    problems
}

fn version_problem(version: Option<(u32, u32)>) -> Option<Problem> {
    let mend = "sudo apt-get install --no-install-recommends qemu-system-x86";
    match version {
        None => Some(problem("qemu-system-x86_64 is not installed", mend)),
        Some((major, minor)) if (major, minor) < MINIMUM_VERSION => {
            Some(problem(&format!("QEMU {major}.{minor} is too old: 7.2 is the oldest that can join the fabric"), mend))
        }
        Some(_) => None,
    }
}

fn memory_problem(needed: u64, free: u64) -> Option<Problem> {
    (needed > free).then(|| {
        let what = format!("the machines need {} MiB of memory, {} MiB are available", needed >> 20, free >> 20);
        problem(&what, "end other programs, or ask for fewer or smaller machines in the cluster file")
    })
}

fn disk_problem(needed: u64, free: u64, directory: &Path) -> Option<Problem> {
    (needed > free).then(|| {
        let what =
            format!("the machines' disks need {} MiB in {}, {} MiB are free", needed >> 20, directory.display(), free >> 20);
        problem(&what, "free some space, or set FLIGHTCAGE_HOME to a directory on a larger disk")
    })
}

/// Memory that could be used without swapping, in bytes (proc(5), `MemAvailable`).
pub(crate) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Free bytes where `directory` is, or will be.
pub(crate) fn free_disk(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let state = rustix::fs::statvfs(existing).ok()?;
    Some(state.f_bavail * state.f_frsize)
}

fn problem(what: &str, mend: &str) -> Problem {
    Problem { what: what.to_owned(), mend: mend.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_judged() {
        let version = parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright");
        assert_eq!(version, Some((7, 2)));
        assert_eq!(version_problem(version), None);
        assert_eq!(version_problem(Some((10, 0))), None);
        assert!(version_problem(Some((6, 2))).is_some());
        assert!(version_problem(parse_version("nonsense")).is_some());
    }

    #[test]
    fn too_little_memory_or_disk_is_a_problem() {
        assert_eq!(memory_problem(1 << 30, 1 << 30), None);
        let problem = memory_problem(3 << 30, 1 << 30).expect("it is too little");
        assert_eq!(problem.what, "the machines need 3072 MiB of memory, 1024 MiB are available");
        assert!(disk_problem(2, 1, Path::new("/x")).is_some());
    }
}

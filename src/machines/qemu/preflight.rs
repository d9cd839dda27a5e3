//! What stands in the way of QEMU machines on this host.

use std::path::Path;

use super::directory::{self, MachineDirectory};
use crate::machines::provider::{Acceleration, Problem};
use crate::model::cluster::MachineSpec;
use crate::shell::local::Command;

/// The oldest QEMU we take: the first with `-netdev stream`.
pub const MINIMUM_VERSION: (u32, u32) = (7, 2);
/// What QEMU itself needs beside a guest's memory, in bytes: devices, translated code, stacks.
const OVERHEAD_BYTES: u64 = 120 << 20;
/// Files that the daemon keeps open for itself and for connections into the cluster, and for each machine.
const FILES: u64 = 256;
const FILES_PER_MACHINE: u64 = 64;
/// What a machine's sparse disk holds when images are pulled and pods run, in bytes.
const DISK_USE_BYTES: u64 = 1 << 30;

/// The version of QEMU on this host, or `None` without one.
pub async fn version() -> Option<(u32, u32)> {
    parse_version(&version_text().await?)
}

/// QEMU's own words for its version and who built it, or `None` without one.
pub async fn version_text() -> Option<String> {
    let output = Command::new(super::QEMU)
        .arg("--version")
        .output()
        .await
        .ok()?;
    Some(output.text().lines().next()?.to_owned())
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text
        .split_once("version ")?
        .1
        .split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) async fn problems(
    machines: &[MachineSpec],
    state_dir: &Path,
    acceleration: Acceleration,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(version_problem(version().await));
    let memory = machines
        .iter()
        .map(|machine| machine.memory_bytes + OVERHEAD_BYTES)
        .sum();
    problems.extend(
        available_memory().and_then(|free| memory_problem(memory, free, promised_memory())),
    );
    let disk = machines
        .iter()
        .map(|machine| machine.disk_bytes.min(DISK_USE_BYTES))
        .sum();
    problems.extend(
        free_disk(state_dir)
            .and_then(|free| disk_problem(disk, free, promised_disk(state_dir), state_dir)),
    );
    problems.extend(files_problem(
        machines.len() as u64,
        rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
    ));
    if acceleration == Acceleration::Kvm
        && std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
    {
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
        Some((major, minor)) if (major, minor) < MINIMUM_VERSION => Some(problem(
            &format!("QEMU {major}.{minor} is too old: 7.2 is the oldest that can join the fabric"),
            mend,
        )),
        Some(_) => None,
    }
}

/// `promised` is what machines that run already may still take of what is free now.
fn memory_problem(needed: u64, free: u64, promised: u64) -> Option<Problem> {
    (needed > free.saturating_sub(promised)).then(|| {
        let promised = promise(promised, "machines that run");
        let what = format!(
            "the machines need {} MiB of memory, {} MiB are available{promised}",
            needed >> 20,
            free >> 20
        );
        problem(
            &what,
            "end other programs, or ask for fewer or smaller machines in the cluster file",
        )
    })
}

fn files_problem(machines: u64, limit: Option<u64>) -> Option<Problem> {
    let needed = FILES + machines * FILES_PER_MACHINE;
    limit.filter(|limit| *limit < needed).map(|limit| {
        let what = format!("the daemon needs {needed} open files, the limit is {limit}");
        problem(
            &what,
            &format!("ulimit -n {needed}, or raise `nofile` in /etc/security/limits.conf"),
        )
    })
}

/// Memory that the QEMU processes of this host may still take, in bytes: a guest's memory counts as used only once the guest has
/// touched it.
fn promised_memory() -> u64 {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let promise = |entry: std::fs::DirEntry| {
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let granted = guest_memory(&command)? + OVERHEAD_BYTES;
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?
            .trim()
            .strip_suffix("kB")?
            .trim();
        Some(granted.saturating_sub(resident.parse::<u64>().ok()? << 10))
    };
    processes.flatten().filter_map(promise).sum()
}

/// The memory that a QEMU of ours gives its guest, from its arguments, each ended by a zero byte.
fn guest_memory(command: &[u8]) -> Option<u64> {
    let mut words = command
        .split(|byte| *byte == 0)
        .map(String::from_utf8_lossy);
    words.next().filter(|program| {
        program
            .rsplit('/')
            .next()
            .is_some_and(|name| name.starts_with("qemu-system-"))
    })?;
    words.find(|word| word == "-m")?;
    let mebibytes: u64 = words.next()?.trim_end_matches('M').parse().ok()?;
    Some(mebibytes << 20)
}

/// What the sparse disks of the clusters beside this one may still take, in bytes.
fn promised_disk(state_dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = |directory: &Path| {
        std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
    };
    let clusters = state_dir
        .parent()
        .into_iter()
        .flat_map(entries)
        .filter(|cluster| cluster != state_dir);
    let machines = clusters.flat_map(|cluster| {
        let nodes = directory::nodes(&cluster).unwrap_or_default();
        nodes
            .into_iter()
            .map(move |node| MachineDirectory::new(&cluster, &node))
    });
    let promise = |machine: MachineDirectory| {
        let request = machine.record().ok()?.request;
        let disk = machine.disk(&request.box_files.boot).metadata().ok()?;
        // A layer's file is as long as what it holds: how much it may hold is in the record.
        Some(
            request
                .spec
                .disk_bytes
                .min(DISK_USE_BYTES)
                .saturating_sub(disk.blocks() * 512),
        )
    };
    machines.filter_map(promise).sum()
}

fn disk_problem(needed: u64, free: u64, promised: u64, directory: &Path) -> Option<Problem> {
    (needed > free.saturating_sub(promised)).then(|| {
        let (needed, free, promised) = (
            needed >> 20,
            free >> 20,
            promise(promised, "other clusters"),
        );
        let what = format!(
            "the machines' disks need {needed} MiB in {}, {free} MiB are free{promised}",
            directory.display()
        );
        problem(
            &what,
            "free some space, or set FLIGHTCAGE_HOME to a directory on a larger disk",
        )
    })
}

fn promise(promised: u64, to: &str) -> String {
    if promised > 0 {
        format!(", of which {} MiB are promised to {to}", promised >> 20)
    } else {
        String::new()
    }
}

/// Memory that could be used without swapping, in bytes (proc(5), `MemAvailable`).
pub(crate) fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Free bytes where `directory` is, or will be.
pub(crate) fn free_disk(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|path| path.exists())?;
    let state = rustix::fs::statvfs(existing).ok()?;
    Some(state.f_bavail * state.f_frsize)
}

fn problem(what: &str, mend: &str) -> Problem {
    Problem {
        what: what.to_owned(),
        mend: mend.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_judged() {
        let version = parse_version(
            "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright",
        );
        assert_eq!(version, Some((7, 2)));
        assert_eq!(version_problem(version), None);
        assert_eq!(version_problem(Some((10, 0))), None);
        assert!(version_problem(Some((6, 2))).is_some());
        assert!(version_problem(parse_version("nonsense")).is_some());
    }

    #[test]
    fn a_guests_memory_is_read_from_its_arguments() {
        let check = |words: &[&str], expected| {
            assert_eq!(
                guest_memory(words.join("\0").as_bytes()),
                expected,
                "{words:?}"
            )
        };
        check(
            &[
                "/usr/bin/qemu-system-x86_64",
                "-name",
                "w1",
                "-m",
                "512M",
                "-smp",
                "1",
            ],
            Some(512 << 20),
        );
        check(&["qemu-system-x86_64", "-m", "16"], Some(16 << 20));
        check(&["qemu-system-x86_64", "-m", "size=1G"], None);
        check(&["vim", "-m", "512M"], None);
        check(&[], None);
    }

    #[test]
    fn too_little_memory_or_disk_is_a_problem() {
        assert_eq!(memory_problem(1 << 30, 1 << 30, 0), None);
        let problem = memory_problem(3 << 30, 1 << 30, 0).expect("it is too little");
        assert_eq!(
            problem.what,
            "the machines need 3072 MiB of memory, 1024 MiB are available"
        );
        let problem = memory_problem(1 << 30, 3 << 29, 1 << 30).expect("it is promised already");
        assert!(problem.what.ends_with(
            "1536 MiB are available, of which 1024 MiB are promised to machines that run"
        ));
        assert_eq!(files_problem(3, Some(1024)), None);
        assert_eq!(files_problem(3, None), None);
        assert!(files_problem(3, Some(256)).is_some());
        assert!(disk_problem(2, 1, 0, Path::new("/x")).is_some());
    }
}

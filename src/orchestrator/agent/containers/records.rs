//! What the runtime remembers on disk, and where: sandboxes, containers, their states.
//!
//! Invariant: every file is replaced by rename, so a reader sees the old or the new one, never half of one. A state belongs
//! to one boot of the machine (`boot_id`): after a reboot nothing that ran runs, whatever the files say.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::runtime::{ContainerSpec, Image, SandboxSpec};
use crate::model::json;

/// Where everything is: `data` survives a reboot, `run` (a tmpfs) does not.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) data: PathBuf,
    pub(crate) run: PathBuf,
}

impl Layout {
    pub(crate) fn pods(&self) -> PathBuf {
        self.data.join("pods")
    }
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }
    pub(crate) fn container(&self, uid: &str, name: &str, restart_count: u32) -> PathBuf {
        self.pod(uid)
            .join("containers")
            .join(format!("{name}_{restart_count}"))
    }
    pub(crate) fn netns(&self, uid: &str) -> PathBuf {
        self.run.join("netns").join(uid)
    }
    /// Helpers drop a file here at every change; the agent watches it.
    pub(crate) fn events(&self) -> PathBuf {
        self.run.join("events")
    }
    /// libcontainer's own state.
    pub(crate) fn oci(&self) -> PathBuf {
        self.run.join("oci")
    }
}

/// `pods/<uid>/sandbox.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) pod_uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hostname: String,
    pub(crate) resolv_conf: String,
    pub(crate) host_network: bool,
    pub(crate) address: Ipv4Addr,
    /// The boot in which its network was made.
    pub(crate) boot_id: String,
}

impl SandboxRecord {
    pub(crate) fn new(spec: &SandboxSpec, address: Ipv4Addr, boot_id: String) -> Self {
        Self {
            pod_uid: spec.pod_uid.clone(),
            namespace: spec.namespace.clone(),
            name: spec.name.clone(),
            hostname: spec.hostname.clone(),
            resolv_conf: spec.resolv_conf.clone(),
            host_network: spec.host_network,
            address,
            boot_id,
        }
    }
}

/// `run.json` of a container instance: all that its helper must know, and what the agent needs to recognise it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    pub(crate) id: String,
    pub(crate) pod_uid: String,
    pub(crate) name: String,
    pub(crate) restart_count: u32,
    pub(crate) image_digest: String,
    pub(crate) image_reference: String,
    pub(crate) stop_signal: i32,
    pub(crate) log: PathBuf,
    /// Relative to the cgroup root.
    pub(crate) cgroup: PathBuf,
    /// libcontainer's state root.
    pub(crate) oci_root: PathBuf,
    pub(crate) events: PathBuf,
    pub(crate) boot_id: String,
    /// Whether it has a standard input, whether that ends with the first who was attached to it, and whether it has a terminal.
    #[serde(default)]
    pub(crate) stdin: bool,
    #[serde(default)]
    pub(crate) stdin_once: bool,
    #[serde(default)]
    pub(crate) tty: bool,
}

impl RunRecord {
    pub(crate) fn new(
        layout: &Layout,
        spec: &ContainerSpec,
        id: String,
        stop_signal: i32,
        boot_id: String,
    ) -> Self {
        let log = layout
            .pod(&spec.pod_uid)
            .join("logs")
            .join(&spec.name)
            .join(format!("{}.log", spec.restart_count));
        Self {
            cgroup: pod_cgroup(&spec.pod_uid).join(&id),
            id,
            pod_uid: spec.pod_uid.clone(),
            name: spec.name.clone(),
            restart_count: spec.restart_count,
            image_digest: spec.image.digest.clone(),
            image_reference: spec.image.reference.clone(),
            stop_signal,
            log,
            oci_root: layout.oci(),
            events: layout.events(),
            boot_id,
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
        }
    }

    pub(crate) fn image(&self) -> Image {
        Image {
            digest: self.image_digest.clone(),
            reference: self.image_reference.clone(),
        }
    }
}

/// A pod's cgroup, relative to the cgroup root and outside the agent's own unit.
pub(crate) fn pod_cgroup(uid: &str) -> PathBuf {
    PathBuf::from("flightcage").join(format!("pod{uid}"))
}

/// A process, safe against reuse of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// Clock ticks since boot, field 22 of `/proc/<pid>/stat`.
    pub(crate) start_ticks: u64,
}

impl Process {
    /// The process that has this number now.
    pub(crate) fn find(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start_ticks: start_ticks(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?,
        })
    }

    /// Whether it still exists and is no zombie.
    pub(crate) fn is_alive(self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|stat| start_ticks(&stat) == Some(self.start_ticks) && !is_zombie(&stat))
    }

    /// A handle that stays with this very process.
    pub(crate) fn open(self) -> Option<rustix::fd::OwnedFd> {
        let pid = rustix::process::Pid::from_raw(self.pid)?;
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()?;
        self.is_alive().then_some(handle)
    }

    /// Tells it, if it is still there.
    pub(crate) fn signal(self, signal: rustix::process::Signal) {
        if let Some(handle) = self.open() {
            let _ = rustix::process::pidfd_send_signal(handle, signal);
        }
    }

    /// Tells it by number, real-time signals too, which the C library keeps from safe programs: the shell sends those.
    pub(crate) async fn signal_number(self, number: i32) {
        if let Some(named) = rustix::process::Signal::from_named_raw(number) {
            return self.signal(named);
        }
        let Some(_handle) = self.open() else { return };
        let sent = tokio::process::Command::new("/bin/sh")
            .args(["-c", "kill -\"$1\" \"$2\"", "sh"])
            .args([number.to_string(), self.pid.to_string()])
            .stdin(std::process::Stdio::null())
            .status()
            .await;
        if !sent.as_ref().is_ok_and(std::process::ExitStatus::success) {
            tracing::warn!(
                number,
                pid = self.pid,
                ?sent,
                "the stop signal could not be sent"
            );
        }
    }
}

fn start_ticks(stat: &str) -> Option<u64> {
    // The command in parentheses may hold anything; field 3 follows its last `)`.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

fn is_zombie(stat: &str) -> bool {
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| matches!(rest.split_whitespace().next(), Some("Z" | "X")))
}

/// `state.json` of a container instance, written by its helper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum StateRecord {
    /// Its init runs, the helper watches it.
    Running {
        helper: Process,
        init: Process,
        started_at_ms: i64,
    },
    /// Its init ended.
    Exited {
        exit_code: i32,
        oom_killed: bool,
        started_at_ms: i64,
        finished_at_ms: i64,
    },
}

impl StateRecord {
    pub(crate) fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

/// Writes `value` as JSON beside `path` and renames it into place.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let bytes = json::to_vec(value)?;
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}

/// Reads what [`write`] wrote; `None` when it is absent or not whole (a machine may lose power).
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    json::from_slice(&fs::read(path).ok()?).ok()
}

/// Identifies this boot of the machine.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_line_with_a_nasty_command_is_read() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";
        assert_eq!(start_ticks(stat), Some(987_654));
        assert!(!is_zombie(stat));
        assert!(is_zombie("42 (x)) Z 1 42"));
    }

    #[test]
    fn own_process_is_alive_and_another_start_is_not() {
        let own = Process::find(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(
            !Process {
                start_ticks: own.start_ticks + 1,
                ..own
            }
            .is_alive()
        );
    }

    #[test]
    fn half_written_record_reads_as_absent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        write(
            &path,
            &StateRecord::Exited {
                exit_code: 3,
                oom_killed: false,
                started_at_ms: 1,
                finished_at_ms: 2,
            },
        )
        .unwrap();
        assert!(matches!(
            read::<StateRecord>(&path),
            Some(StateRecord::Exited { exit_code: 3, .. })
        ));
        fs::write(&path, b"{\"Exi").unwrap();
        assert!(read::<StateRecord>(&path).is_none());
    }
}

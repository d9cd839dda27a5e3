//! The provider seam: whatever can make machines.
//!
//! Called by `cluster` in this order: `preflight`, then `create` for each machine, `power` at any time, `destroy` last. The truth
//! about what exists comes from `list`, never from memory. A cancelled `create` may leave a half-made machine, which `list`
//! shows and `destroy` removes.

use std::net::SocketAddr;
use std::path::PathBuf;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::model::cluster::MachineSpec;
use crate::model::names::NodeName;
use crate::shell::ssh::SshTarget;

/// Something that stands in the way of making machines, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong: a lower-case fragment.
    pub what: String,
    /// The command, or the sentence, that mends it.
    pub mend: String,
}

/// How a machine executes its guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceleration {
    /// Hardware, proven to execute guest code on this host since it booted.
    Kvm,
    /// QEMU's own translator: works everywhere, an order of magnitude slower.
    Tcg,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// Its process runs.
    On,
    /// No process.
    Off,
    /// Its process is stopped by SIGSTOP: its clock will jump when it is thawed.
    Frozen,
}

/// What to do to a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerAction {
    /// Pull the plug: no shutdown, nothing flushed.
    PowerOff,
    /// Start it again with the disk it has.
    PowerOn,
    /// The reset button.
    Reset,
    /// SIGSTOP its process.
    Freeze,
    /// SIGCONT its process.
    Thaw,
}

/// How a machine's disk is to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFault {
    /// It is slow.
    Throttle {
        /// Reads and writes together, in bytes a second.
        bytes_per_second: Option<u64>,
        /// Reads and writes together, a second.
        operations_per_second: Option<u64>,
    },
    /// It answers with I/O errors.
    Error {
        /// Reads fail.
        reads: bool,
        /// Writes fail.
        writes: bool,
    },
}

impl std::fmt::Display for DiskFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Throttle {
                bytes_per_second,
                operations_per_second,
            } => {
                let bytes = bytes_per_second
                    .map(|bytes| format!("{}/s", bytesize::ByteSize::b(bytes).display().iec()));
                let operations =
                    operations_per_second.map(|operations| format!("{operations} operations/s"));
                f.write_str(
                    &bytes
                        .into_iter()
                        .chain(operations)
                        .collect::<Vec<_>>()
                        .join(", "),
                )
            }
            Self::Error {
                reads: true,
                writes: true,
            } => f.write_str("reads and writes fail"),
            Self::Error { reads: true, .. } => f.write_str("reads fail"),
            Self::Error { .. } => f.write_str("writes fail"),
        }
    }
}

/// What a change of a disk did, as measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEffect {
    /// Whether it was seen.
    pub verified: bool,
    /// What was measured, in words.
    pub measured: String,
}

/// A machine as the provider finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub name: NodeName,
    /// Whether it runs.
    pub power: Power,
    /// Where its SSH server is reached from the host, once known.
    pub ssh: Option<SocketAddr>,
    /// Process id of its hypervisor while it runs.
    pub pid: Option<u32>,
}

/// What a provider needs to make one machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MachineRequest {
    /// Size and role.
    pub spec: MachineSpec,
    /// Its position in the cluster: addresses and MAC follow from it.
    pub index: usize,
    /// The files of its box.
    pub box_files: BoxFiles,
    /// The Ignition configuration of its first boot, a JSON text.
    pub ignition: String,
    /// The fabric's socket for its cluster NIC.
    pub fabric_socket: PathBuf,
}

/// The files of a built box; empty where the provider's machines come with their own system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxFiles {
    /// Hash of what it is made from, in hexadecimal.
    pub hash: String,
    /// Hash of what came of it, in hexadecimal: the same definition built again may give other files.
    #[serde(default)]
    pub content: String,
    /// The fw_cfg file in which its Ignition looks for its configuration.
    pub fw_cfg: String,
    /// What a machine starts from.
    pub boot: BoxBoot,
}

/// What a machine of a box starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BoxBoot {
    /// Nothing of ours: it is there and runs.
    #[default]
    Existing,
    /// The hypervisor loads the kernel; the root is shared, the machine's own disk begins blank.
    Kernel(KernelBoot),
    /// The firmware boots a disk: the machine's own is a layer over the box's image.
    Disk(DiskImage),
}

/// A kernel and what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelBoot {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The read-only root file system.
    pub root: PathBuf,
    /// Kernel command line, without the console.
    pub arguments: String,
}

/// A disk that boots itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// The file, which is never written.
    pub path: PathBuf,
    /// Its format.
    pub format: DiskFormat,
    /// Bytes that a machine sees.
    pub virtual_size: u64,
}

/// A disk image's format, as QEMU calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// QEMU's own.
    Qcow2,
    /// The disk's bytes.
    Raw,
}

impl DiskFormat {
    /// QEMU's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// Why a provider could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The machine ended, stayed silent or panicked while it booted.
    #[error("boot node `{node}`: {what}\nthe end of its console:\n{console}")]
    Boot {
        /// Which machine.
        node: NodeName,
        /// What was seen.
        what: String,
        /// The console's last lines.
        console: String,
    },
    /// The hypervisor does not take what was saved of a machine: it will not take it next time either.
    #[error("restore node `{node}`: its saved memory was not accepted {what}")]
    MemoryRefused {
        /// Which machine.
        node: NodeName,
        /// What the hypervisor said.
        what: String,
    },
    /// There is no machine of that name.
    #[error("node `{0}` does not exist")]
    UnknownNode(NodeName),
    /// A command or system call failed; `what` names the thing and the action.
    #[error("{what}")]
    Failed {
        /// A lower-case fragment.
        what: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a machine's clock was found to be, and is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockFact {
    /// Which machine.
    pub node: NodeName,
    /// How far its clock was behind the host's before it was set, in milliseconds; negative when it was ahead.
    pub behind_ms: i64,
    /// The largest error its clock can have now, in microseconds.
    pub bound_us: u64,
}

/// What came of a save or a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The machines' clocks, of those that run.
    pub clocks: Vec<ClockFact>,
    /// From the order until every machine ran again, in milliseconds.
    pub running_ms: u64,
    /// Of a restore: the longest that one of the machines took from its start until its memory was loaded, in milliseconds.
    pub loaded_ms: u64,
    /// What went wrong without harm to what was saved, or to what runs now.
    pub problems: Vec<String>,
}

/// Saves and restores all machines of a cluster together, memory and disks. Machines run privately on copies: nothing they do
/// reaches a saved state. Both calls go on to their end only if they are polled to it; a cancelled `save` may leave machines stopped.
pub trait Snapshots: Send + Sync {
    /// Stops all machines together, writes a folder for each below `into`, and lets them run on whatever happened, their clocks
    /// right; one that cannot be set is told. A machine that is off is saved as such; one that is frozen or whose disk fails is refused.
    fn save(&self, into: PathBuf) -> BoxFuture<'_, Result<Restored, ProviderError>>;
    /// Makes machines from the folders below `from`, which a `save` of the same machines wrote. Nothing runs before everything is loaded;
    /// clocks are right when it returns. After an error nothing of them runs.
    fn restore(
        &self,
        from: PathBuf,
        requests: Vec<MachineRequest>,
    ) -> BoxFuture<'_, Result<Restored, ProviderError>>;
}

/// What came of an order to stand still, or to go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandstillChange {
    /// Whether anything was done: `false` when it was so already.
    pub changed: bool,
    /// The clocks that were put right, of machines that go on.
    pub clocks: Vec<ClockFact>,
    /// Clocks that could not be put right: the machines run all the same, and another order to go on tries again.
    pub problems: Vec<String>,
}

/// Lets all machines of a cluster stand still together and go on together, in memory. No time passes inside of a machine that stands
/// still: what counts its own time does not run out. Its wall clock is behind afterwards, and is put right. Both calls are idempotent,
/// and go on to their end only if they are polled to it; a cancelled one may leave some of the machines stopped.
pub trait Standstill: Send + Sync {
    /// Whether the machines were told to stand still, and not yet to go on.
    fn is_paused(&self) -> bool;
    /// Stops all machines that run, or none of them: after an error all run. One that is off stays off; one that is frozen is refused.
    /// Until they go on, no power but off, no disk and no save is changed or made.
    fn pause(&self) -> BoxFuture<'_, Result<StandstillChange, ProviderError>>;
    /// Lets them go on. After an error they count as stopped, and the order can be repeated.
    fn resume(&self) -> BoxFuture<'_, Result<StandstillChange, ProviderError>>;
}

/// Makes and breaks machines. See the module's text for who calls what and when.
pub trait Provider: Send + Sync + 'static {
    /// The provider's name in files and reports: `qemu`, `vagrant`, `hosts`.
    fn name(&self) -> &'static str;
    /// Every problem at once, each with what mends it. Changes nothing.
    fn preflight(&self, machines: &[MachineSpec]) -> BoxFuture<'_, Vec<Problem>>;
    /// Makes and starts a machine and returns when its process runs; idempotent: an existing disk is kept.
    fn create(&self, request: MachineRequest) -> BoxFuture<'_, Result<Machine, ProviderError>>;
    /// Resolves when the machine accepts SSH connections; fails at once when it exits or its console stays silent.
    fn wait_for_boot(&self, node: &NodeName) -> BoxFuture<'_, Result<SocketAddr, ProviderError>>;
    /// All machines of this cluster that exist, rediscovered.
    fn list(&self) -> BoxFuture<'_, Result<Vec<Machine>, ProviderError>>;
    /// Changes a machine's power and returns when the change is verified. A state it is already in is fine.
    fn power(
        &self,
        node: &NodeName,
        action: PowerAction,
    ) -> BoxFuture<'_, Result<(), ProviderError>>;
    /// Makes a machine's disk fail in this way and no other, or work as it should, and returns when that is verified. A provider
    /// that cannot says so.
    fn disk(
        &self,
        node: &NodeName,
        fault: Option<DiskFault>,
    ) -> BoxFuture<'_, Result<DiskEffect, ProviderError>> {
        let what = format!("change the disk of node `{node}`");
        Box::pin(async move {
            if fault.is_none() {
                return Ok(DiskEffect {
                    verified: true,
                    measured: "it was never changed".into(),
                });
            }
            Err(ProviderError::Failed {
                what,
                source: "this provider has no hold of its machines' disks".into(),
            })
        })
    }
    /// Removes a machine, its process and its disk. An absent one is fine.
    fn destroy(&self, node: &NodeName) -> BoxFuture<'_, Result<(), ProviderError>>;
    /// Removes all machines of the cluster at once, where that is quicker than one after the other; `None`: it is not.
    fn destroy_all(&self) -> BoxFuture<'_, Option<Result<(), ProviderError>>> {
        Box::pin(async { None })
    }
    /// How the machine is logged in to; `None`: as the box's user with the cluster's own key, at the address of `wait_for_boot`.
    fn login(&self, _node: &NodeName) -> BoxFuture<'_, Result<Option<SshTarget>, ProviderError>> {
        Box::pin(async { Ok(None) })
    }
    /// Whether machines live on when the daemon ends: then its end leaves their power alone.
    fn machines_outlive_daemon(&self) -> bool {
        false
    }
    /// The file that the machine's console is written to.
    fn console(&self, node: &NodeName) -> PathBuf;
    /// The file that the machine's journal is written to as it grows, if the machine has a port for it.
    fn journal(&self, node: &NodeName) -> Option<PathBuf> {
        let _ = node;
        None
    }

    /// Snapshots with memory, where the provider has them.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// A standstill of all machines, where the provider has a hold of their processors.
    fn standstill(&self) -> Option<&dyn Standstill> {
        None
    }
}

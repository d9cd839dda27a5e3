//! What our binary does on a machine, started over SSH: on one that is not ours it notes how the machine was, puts it back, and breaks
//! its network for a while; on any it carries out an [`Order`] of a scenario's faults.
//!
//! Runs as root on the machine, started over SSH by [`super::uninstall`], [`super::install`] and the daemon. Everything is idempotent.

pub mod before;
mod container_oom;
pub mod fault;
pub mod leave;
mod node_cpu;
mod node_memory;
mod order;
mod pod_freeze;
mod pod_groups;
mod pod_kill;
mod process;
mod role_kill;
mod silence;
mod systemd;

pub use node_memory::Amount;
pub use order::{Order, Seen};
pub use role_kill::Role;
pub use silence::Served;

/// Where the roles keep their configuration.
const CONFIG_DIR: &str = "/etc/flightcage";
/// Images, containers, the binary.
const DATA_DIR: &str = "/var/lib/flightcage";
/// What does not survive a reboot.
const RUN_DIR: &str = "/run/flightcage";
/// systemd's own folder of units.
const UNIT_DIR: &str = "/etc/systemd/system";
/// The control groups of pods and of their helpers.
const CGROUP: &str = "/sys/fs/cgroup/flightcage";
/// The root of all control groups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// Which cluster a machine belongs to.
const CLUSTER_FILE: &str = "/etc/flightcage/cluster";

/// Why something could not be done on the machine.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct MachineError {
    /// A lower-case fragment that names the thing.
    pub what: String,
}

fn failed(what: impl Into<String>) -> MachineError {
    MachineError { what: what.into() }
}

/// Adds what was being done.
fn doing<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> MachineError {
    move |error| failed(format!("{what}: {error}"))
}

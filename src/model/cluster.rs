//! What a cluster is made of, as a cluster file or a scenario's `[cluster]` table says it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::addresses;
use super::image_policy::ImagePolicy;
use super::names::{ClusterName, NodeName};
use super::vagrant::{Hypervisor, VagrantSpec};

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs the control plane; tainted `node-role.kubernetes.io/control-plane:NoSchedule`.
    Controller,
    /// Runs pods.
    Worker,
}

/// What makes a cluster's machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// QEMU processes of our own, joined by the fabric.
    #[default]
    Qemu,
    /// The real `vagrant`.
    Vagrant,
    /// Machines that somebody else made, reached by SSH.
    Hosts,
}

impl ProviderKind {
    /// Its name in files, reports and `status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Vagrant => "vagrant",
            Self::Hosts => "hosts",
        }
    }

    /// Whether the machines' network is our fabric. Without it the host speaks with the cluster through SSH.
    #[must_use]
    pub fn has_fabric(self) -> bool {
        self == Self::Qemu
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a machine that somebody else made is reached, and how its power is switched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// The login on the machine itself.
    pub login: HostLogin,
    /// A machine in between, when this host cannot connect to it directly.
    pub jump: Option<HostLogin>,
    /// The command on this host that takes the machine's power away; empty: its power cannot be switched.
    pub power_off: Vec<String>,
    /// The command on this host that gives it back.
    pub power_on: Vec<String>,
}

/// One SSH login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLogin {
    /// The SSH server.
    pub ssh: SocketAddr,
    /// The remote user, with `sudo` without a password unless it is root.
    pub user: String,
    /// Our private key, a file in OpenSSH's format.
    pub key: PathBuf,
    /// The server's public key, `ssh-ed25519 AAAA…`: known beforehand, never learnt.
    pub host_key: String,
}

/// A whole cluster: what `up` makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// The cluster's name.
    pub name: ClusterName,
    /// What makes its machines.
    #[serde(default)]
    pub provider: ProviderKind,
    /// Name of the box (file stem in `boxes/`).
    pub box_name: String,
    /// The machines, controllers first. A machine's position is its index, from which its addresses follow.
    pub machines: Vec<MachineSpec>,
    /// How Vagrant is to make them, for [`ProviderKind::Vagrant`].
    #[serde(default)]
    pub vagrant: Option<VagrantSpec>,
    /// Registries that the mirror may ask for images it does not hold, for instance `quay.io`. Empty: none.
    pub upstream_registries: Vec<String>,
    /// With more than so many per cent of the workers silent, nothing is evicted.
    #[serde(default = "eviction_brake_percent")]
    pub eviction_brake_percent: u8,
    /// Whether objects are taken that ask for protection which nobody here enforces.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_unenforced: bool,
    /// Whether ServiceAccounts' tokens open connections, and pods get them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tokens: bool,
    /// Which images may run.
    #[serde(default, skip_serializing_if = "ImagePolicy::is_empty")]
    pub images: ImagePolicy,
}

/// Half of the workers: the larger part of a parted network is never replaced.
fn eviction_brake_percent() -> u8 {
    50
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Its name, host name and Node name.
    pub name: NodeName,
    /// Its role.
    pub role: Role,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// Virtual CPUs. Two by default, emulated or not: when one worker is lost, the other one can use both of a small host's.
    pub cpus: u32,
    /// Size of its sparse disk in bytes.
    pub disk_bytes: u64,
    /// Node labels beyond the automatic ones.
    pub labels: BTreeMap<String, String>,
    /// Its address as the other machines see it; `None`: the one that follows from its position.
    #[serde(default)]
    pub address: Option<Ipv4Addr>,
    /// How it is reached, for [`ProviderKind::Hosts`].
    #[serde(default)]
    pub host: Option<HostSpec>,
    /// Node taints beyond a controller's, each as `key=value:Effect`.
    #[serde(default)]
    pub taints: Vec<String>,
    /// Words for its kernel's command line, after the box's.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// Ignition configurations merged into its own, each a JSON text.
    #[serde(default)]
    pub ignition: Vec<String>,
}

impl ClusterSpec {
    /// The default cluster: `c1`, and workers `w1` to `wN`, 512 MiB and 4 GiB each.
    #[must_use]
    pub fn with_workers(name: ClusterName, workers: usize) -> Self {
        let machine = |name: String, role| MachineSpec {
            name: name.parse().expect("c1 and wN are valid names"),
            role,
            memory_bytes: 512 << 20,
            cpus: 2,
            disk_bytes: 4 << 30,
            labels: BTreeMap::new(),
            address: None,
            host: None,
            taints: Vec::new(),
            kernel_arguments: Vec::new(),
            ignition: Vec::new(),
        };
        let mut machines = vec![machine("c1".into(), Role::Controller)];
        machines.extend((1..=workers).map(|n| machine(format!("w{n}"), Role::Worker)));
        Self {
            name,
            provider: ProviderKind::default(),
            box_name: "flightcage-os".into(),
            machines,
            vagrant: None,
            upstream_registries: Vec::new(),
            eviction_brake_percent: eviction_brake_percent(),
            accept_unenforced: false,
            tokens: false,
            images: ImagePolicy::default(),
        }
    }

    /// Whether the machines are QEMU's, started here: then the host's acceleration matters.
    #[must_use]
    pub fn uses_qemu(&self) -> bool {
        match self.provider {
            ProviderKind::Qemu => true,
            ProviderKind::Vagrant => self
                .vagrant
                .as_ref()
                .is_none_or(|vagrant| vagrant.hypervisor == Hypervisor::Libvirt),
            ProviderKind::Hosts => false,
        }
    }

    /// Whether the machines boot a box of ours, and not a system that somebody else made.
    #[must_use]
    pub fn uses_own_box(&self) -> bool {
        match self.provider {
            ProviderKind::Qemu => true,
            ProviderKind::Vagrant => self
                .vagrant
                .as_ref()
                .is_none_or(|vagrant| vagrant.vagrant_box.is_none()),
            ProviderKind::Hosts => false,
        }
    }

    /// A machine's index, or `None` if the cluster has no machine of this name.
    #[must_use]
    pub fn index_of(&self, node: &NodeName) -> Option<usize> {
        self.machines
            .iter()
            .position(|machine| machine.name == *node)
    }

    /// The address of the machine at `index` as the other machines see it.
    #[must_use]
    pub fn address(&self, index: usize) -> Ipv4Addr {
        self.machines
            .get(index)
            .and_then(|machine| machine.address)
            .unwrap_or_else(|| addresses::node_address(index))
    }
}

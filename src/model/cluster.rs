//! What a cluster is made of, as a cluster file or a scenario's `[cluster]` table says it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::addresses;
use super::names::{ClusterName, NodeName};

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs the control plane; tainted `node-role.kubernetes.io/control-plane:NoSchedule`.
    Controller,
    /// Runs pods.
    Worker,
}

/// A whole cluster: what `up` makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// The cluster's name.
    pub name: ClusterName,
    /// Name of the box (file stem in `boxes/`).
    pub box_name: String,
    /// The machines, controllers first. A machine's position is its index, from which its addresses follow.
    pub machines: Vec<MachineSpec>,
    /// Registries that the mirror may ask for images it does not hold, for instance `quay.io`. Empty: none.
    pub upstream_registries: Vec<String>,
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
    /// Virtual CPUs; `None`: 1 under TCG, 2 with KVM.
    pub cpus: Option<u32>,
    /// Size of its sparse disk in bytes.
    pub disk_bytes: u64,
    /// Node labels beyond the automatic ones.
    pub labels: BTreeMap<String, String>,
}

impl ClusterSpec {
    /// The default cluster: `c1`, and workers `w1` to `wN`, 512 MiB and 4 GiB each.
    #[must_use]
    pub fn with_workers(name: ClusterName, workers: usize) -> Self {
        let machine = |name: String, role| MachineSpec {
            name: name.parse().expect("c1 and wN are valid names"),
            role,
            memory_bytes: 512 << 20,
            cpus: None,
            disk_bytes: 4 << 30,
            labels: BTreeMap::new(),
        };
        let mut machines = vec![machine("c1".into(), Role::Controller)];
        machines.extend((1..=workers).map(|n| machine(format!("w{n}"), Role::Worker)));
        Self { name, box_name: "flightcage-os".into(), machines, upstream_registries: Vec::new() }
    }

    /// A machine's index, or `None` if the cluster has no machine of this name.
    #[must_use]
    pub fn index_of(&self, node: &NodeName) -> Option<usize> {
        self.machines.iter().position(|machine| machine.name == *node)
    }

    /// The fabric address of the machine at `index`.
    #[must_use]
    pub fn address(&self, index: usize) -> Ipv4Addr {
        addresses::node_address(index)
    }
}

//! What a cluster file says of Vagrant: the `[cluster.vagrant]` table.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Which of Vagrant's own providers makes the machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hypervisor {
    /// The plugin vagrant-libvirt: QEMU and KVM through libvirtd.
    #[default]
    Libvirt,
    /// Oracle's VirtualBox.
    VirtualBox,
}

impl Hypervisor {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Libvirt, Self::VirtualBox];

    /// Its name in a Vagrantfile and in a cluster file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Libvirt => "libvirt",
            Self::VirtualBox => "virtualbox",
        }
    }

    /// The /24 that its machines are put in when the cluster file names none: the fabric's own, or the only range that VirtualBox
    /// lets a host-only network have unless its administrator wrote `/etc/vbox/networks.conf`.
    #[must_use]
    pub fn default_network(self) -> Ipv4Addr {
        match self {
            Self::Libvirt => Ipv4Addr::new(10, 77, 0, 0),
            Self::VirtualBox => Ipv4Addr::new(192, 168, 56, 0),
        }
    }
}

impl fmt::Display for Hypervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A value of a provider's setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// A string.
    Text(String),
    /// An integer.
    Number(i64),
    /// `true` or `false`.
    Flag(bool),
}

/// A box that Vagrant knows or can fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VagrantBox {
    /// Its name, for instance `debian/bookworm64`.
    pub name: String,
    /// Its version; `None`: the newest that is there.
    pub version: Option<String>,
    /// Where it is fetched from if it is not there; `None`: Vagrant's catalogue.
    pub url: Option<String>,
}

/// How Vagrant is to make the machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VagrantSpec {
    /// Vagrant's provider.
    pub hypervisor: Hypervisor,
    /// The box; `None`: the cluster's own box, packaged for Vagrant.
    pub vagrant_box: Option<VagrantBox>,
    /// Settings of the provider, as in its block of a Vagrantfile; they win over Flightcage's own.
    pub settings: BTreeMap<String, Setting>,
}

//! The first boot's configuration, rendered as Ignition 3.3.0 (what Debian's Ignition 2.14 takes, and CoreOS and Flatcar too).
//!
//! It makes a machine's identity: host name, the key `core` is reached with, the host key it shows, its addresses. Addresses are
//! written to `/etc/flightcage/network`, one line a network card (`mac name address/prefix [gateway]`), which the initramfs of
//! `flightcage-os` applies at every boot before systemd starts.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use base64::Engine as _;
use serde::Serialize;

/// QEMU's user network hands this address to its first guest; port forwards go to it.
pub const SSH_ADDRESS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 0, 2, 15), 24);
/// The network card in the cluster's fabric.
pub const CLUSTER_LINK: &str = "cluster0";
/// The network card of the SSH path, which faults do not cut.
pub const SSH_LINK: &str = "ssh0";

/// What makes one machine different from the others of its box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstBoot {
    /// Host name.
    pub hostname: String,
    /// Public keys that user `core` is reached with, as in an `authorized_keys` file.
    pub authorized_keys: Vec<String>,
    /// The machine's ed25519 host key in OpenSSH's private format (PEM).
    pub host_key_private: String,
    /// The same key's public line, `ssh-ed25519 AAAA…`.
    pub host_key_public: String,
    /// The network cards. Usually [`NetworkCard::cluster`] and [`NetworkCard::ssh`].
    pub network: Vec<NetworkCard>,
    /// Lines for `/etc/hosts` beyond the loopback's: the cluster's machines.
    pub hosts: Vec<(Ipv4Addr, String)>,
}

/// A network card: found by its hardware address, given a name and an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkCard {
    /// Hardware address, `52:54:00:…`.
    pub mac: String,
    /// Name of the link in the guest.
    pub name: String,
    /// Its static address.
    pub address: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// Where its default route goes, if it has one.
    pub gateway: Option<Ipv4Addr>,
}

impl NetworkCard {
    /// The card in the fabric, named [`CLUSTER_LINK`]. It has no default route: nothing lies beyond the fabric.
    #[must_use]
    pub fn cluster(mac: &str, address: Ipv4Addr) -> Self {
        let prefix = crate::model::addresses::NODE_PREFIX;
        Self { mac: mac.to_owned(), name: CLUSTER_LINK.to_owned(), address, prefix, gateway: None }
    }

    /// The card of the SSH path, named [`SSH_LINK`].
    #[must_use]
    pub fn ssh(mac: &str) -> Self {
        let (address, prefix) = SSH_ADDRESS;
        Self { mac: mac.to_owned(), name: SSH_LINK.to_owned(), address, prefix, gateway: None }
    }
}

/// Kernel settings of a node: it forwards between its pods and the fabric, and replies may come back another way.
const SYSCTLS: &str = "\
net.ipv4.ip_forward = 1
net.ipv4.conf.all.rp_filter = 0
net.ipv4.conf.default.rp_filter = 0
net.ipv4.ip_nonlocal_bind = 1
net.ipv4.tcp_tw_reuse = 1
net.ipv4.ip_local_port_range = 20000 60999
net.core.somaxconn = 1024
net.ipv4.neigh.default.gc_thresh3 = 4096
net.ipv6.conf.all.disable_ipv6 = 1
net.ipv6.conf.default.disable_ipv6 = 1
fs.inotify.max_user_instances = 1024
vm.swappiness = 0
vm.overcommit_memory = 1
vm.panic_on_oom = 0
kernel.panic = 1
kernel.panic_on_oops = 1
";

/// Renders the configuration as JSON. It holds the machine's private host key: keep the file at mode 0600.
///
/// # Panics
/// Never: the structures below always serialise.
#[must_use]
pub fn render(first_boot: &FirstBoot) -> String {
    let mut hosts = String::from("127.0.0.1 localhost\n");
    for (address, name) in &first_boot.hosts {
        writeln!(hosts, "{address} {name}").expect("writing to a String");
    }
    if !first_boot.hosts.iter().any(|(_, name)| *name == first_boot.hostname) {
        // sudo asks for the machine's own name.
        writeln!(hosts, "127.0.1.1 {}", first_boot.hostname).expect("writing to a String");
    }
    let mut network = String::new();
    for card in &first_boot.network {
        let gateway = card.gateway.map(|gateway| format!(" {gateway}")).unwrap_or_default();
        let mac = card.mac.to_ascii_lowercase();
        writeln!(network, "{mac} {} {}/{}{gateway}", card.name, card.address, card.prefix).expect("writing to a String");
    }
    let line = |text: &str| format!("{}\n", text.trim_end());
    let keys: String = first_boot.authorized_keys.iter().map(|key| line(key)).collect();
    let config = Config {
        ignition: Version { version: "3.3.0" },
        storage: Storage {
            files: vec![
                File::new("/etc/hostname", 0o644, &line(&first_boot.hostname)),
                File::new("/etc/hosts", 0o644, &hosts),
                File::new("/etc/ssh/ssh_host_ed25519_key", 0o600, &line(&first_boot.host_key_private)),
                File::new("/etc/ssh/ssh_host_ed25519_key.pub", 0o644, &line(&first_boot.host_key_public)),
                File { user: Some(CORE), group: Some(CORE), ..File::new("/home/core/.ssh/authorized_keys", 0o600, &keys) },
                File::new("/etc/sysctl.d/90-flightcage.conf", 0o644, SYSCTLS),
                File::new("/etc/flightcage/network", 0o644, &network),
            ],
        },
    };
    serde_json::to_string_pretty(&config).expect("plain structures serialise")
}

#[derive(Serialize)]
struct Config {
    ignition: Version,
    storage: Storage,
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

#[derive(Serialize)]
struct Storage {
    files: Vec<File>,
}

#[derive(Serialize)]
struct File {
    path: &'static str,
    mode: u32,
    overwrite: bool,
    contents: Contents,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Owner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Owner>,
}

#[derive(Serialize)]
struct Contents {
    source: String,
}

#[derive(Serialize, Clone, Copy)]
struct Owner {
    id: u32,
}

/// User and group `core` of the boxes this project builds.
const CORE: Owner = Owner { id: 1000 };

impl File {
    fn new(path: &'static str, mode: u32, text: &str) -> Self {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        let contents = Contents { source: format!("data:;base64,{encoded}") };
        Self { path, mode, overwrite: true, contents, user: None, group: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn example() -> FirstBoot {
        FirstBoot {
            hostname: "w1".into(),
            authorized_keys: vec!["ssh-ed25519 AAAA client".into()],
            host_key_private: "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n".into(),
            host_key_public: "ssh-ed25519 BBBB".into(),
            network: vec![
                NetworkCard::cluster("52:54:00:AB:00:01", Ipv4Addr::new(10, 77, 0, 12)),
                NetworkCard::ssh("52:54:00:ab:01:01"),
            ],
            hosts: vec![(Ipv4Addr::new(10, 77, 0, 11), "c1".into()), (Ipv4Addr::new(10, 77, 0, 12), "w1".into())],
        }
    }

    fn file(json: &str, path: &str) -> String {
        let config: serde_json::Value = serde_json::from_str(json).unwrap();
        let files = config["storage"]["files"].as_array().unwrap();
        let file = files.iter().find(|file| file["path"] == path).unwrap_or_else(|| panic!("no file {path}"));
        let source = file["contents"]["source"].as_str().unwrap();
        let data = base64::engine::general_purpose::STANDARD.decode(source.strip_prefix("data:;base64,").unwrap()).unwrap();
        String::from_utf8(data).unwrap()
    }

    #[test]
    fn holds_the_identity() {
        let json = render(&example());
        assert_eq!(file(&json, "/etc/hostname"), "w1\n");
        assert_eq!(file(&json, "/etc/hosts"), "127.0.0.1 localhost\n10.77.0.11 c1\n10.77.0.12 w1\n");
        assert_eq!(
            file(&json, "/etc/flightcage/network"),
            "52:54:00:ab:00:01 cluster0 10.77.0.12/24\n52:54:00:ab:01:01 ssh0 10.0.2.15/24\n"
        );
        assert_eq!(file(&json, "/home/core/.ssh/authorized_keys"), "ssh-ed25519 AAAA client\n");
        let config: serde_json::Value = serde_json::from_str(&json).unwrap();
        let files = config["storage"]["files"].as_array().unwrap();
        let key = files.iter().find(|file| file["path"] == "/etc/ssh/ssh_host_ed25519_key").unwrap();
        assert_eq!(key["mode"], 0o600);
    }

    /// The real validator judges, where it is installed (`apt install ignition`).
    #[test]
    fn the_real_validator_accepts_it() {
        let mut given = tempfile::NamedTempFile::new().unwrap();
        given.write_all(render(&example()).as_bytes()).unwrap();
        match std::process::Command::new("ignition-validate").arg(given.path()).output() {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success() && !said.contains("warning"), "{said}");
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        }
    }
}

//! The first boot's configuration, rendered as Ignition 3: in the version, and for the network service, that the box takes.
//!
//! It makes a machine's identity: host name, the key `core` is reached with, the host key it shows, its addresses. Our own box reads
//! `/etc/flightcage/network`, one line a network card (`mac name address/prefix [gateway]`), which its initramfs applies at every boot
//! before systemd starts; the published boxes are told in systemd-networkd's or NetworkManager's files.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use base64::Engine as _;
use serde_json::{Value, json};

use super::fragment::{self, FragmentError};
use super::{FirstBootChannel, NetworkStyle};

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
    /// Words for the kernel's command line, where the hypervisor does not hand them over.
    pub kernel_arguments: Vec<String>,
    /// Configurations of the user's, merged into this one.
    pub fragments: Vec<String>,
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
        Self {
            mac: mac.to_owned(),
            name: CLUSTER_LINK.to_owned(),
            address,
            prefix,
            gateway: None,
        }
    }

    /// The card of the SSH path, named [`SSH_LINK`].
    #[must_use]
    pub fn ssh(mac: &str) -> Self {
        let (address, prefix) = SSH_ADDRESS;
        Self {
            mac: mac.to_owned(),
            name: SSH_LINK.to_owned(),
            address,
            prefix,
            gateway: None,
        }
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

/// Where the network's configuration of our own box lies.
const NETWORK_FILE: &str = "/etc/flightcage/network";

/// Renders the configuration as JSON, for a box that is configured through `channel`. It holds the machine's private host key: keep
/// the file at mode 0600.
///
/// # Errors
/// When a fragment cannot be merged.
pub fn render(first_boot: &FirstBoot, channel: &FirstBootChannel) -> Result<String, FragmentError> {
    let mut hosts = String::from("127.0.0.1 localhost\n");
    for (address, name) in &first_boot.hosts {
        writeln!(hosts, "{address} {name}").expect("writing to a String");
    }
    if !first_boot
        .hosts
        .iter()
        .any(|(_, name)| *name == first_boot.hostname)
    {
        // sudo asks for the machine's own name.
        writeln!(hosts, "127.0.1.1 {}", first_boot.hostname).expect("writing to a String");
    }
    let line = |text: &str| format!("{}\n", text.trim_end());
    let mut files = vec![
        file("/etc/hostname", 0o644, &line(&first_boot.hostname)),
        file("/etc/hosts", 0o644, &hosts),
        file(
            "/etc/ssh/ssh_host_ed25519_key",
            0o600,
            &line(&first_boot.host_key_private),
        ),
        file(
            "/etc/ssh/ssh_host_ed25519_key.pub",
            0o644,
            &line(&first_boot.host_key_public),
        ),
        file("/etc/sysctl.d/90-flightcage.conf", 0o644, SYSCTLS),
    ];
    files.extend(network_files(&first_boot.network, channel.network));
    files.extend(
        channel
            .files
            .iter()
            .map(|extra| file(&extra.path, extra.mode, &extra.content)),
    );
    let mut config = json!({ "ignition": { "version": channel.version } });
    if channel.network == NetworkStyle::Flightcage {
        // Our box has no program that adds users, and needs none: `core` is there.
        let keys: String = first_boot
            .authorized_keys
            .iter()
            .map(|key| line(key))
            .collect();
        let mut keys = file("/home/core/.ssh/authorized_keys", 0o600, &keys);
        keys["user"] = json!({ "id": CORE_ID });
        keys["group"] = json!({ "id": CORE_ID });
        files.push(keys);
    } else {
        let keys: Vec<&str> = first_boot
            .authorized_keys
            .iter()
            .map(|key| key.trim_end())
            .collect();
        config["passwd"] = json!({ "users": [{ "name": "core", "sshAuthorizedKeys": keys }] });
    }
    if !channel.mask.is_empty() {
        let units: Vec<Value> = channel
            .mask
            .iter()
            .map(|unit| json!({ "name": unit, "mask": true }))
            .collect();
        config["systemd"] = json!({ "units": units });
    }
    if !first_boot.kernel_arguments.is_empty() && channel.network != NetworkStyle::Flightcage {
        config["kernelArguments"] = json!({ "shouldExist": first_boot.kernel_arguments });
    }
    config["storage"] = json!({ "files": files });
    for fragment in &first_boot.fragments {
        config = fragment::merge(config, fragment)?;
    }
    Ok(serde_json::to_string_pretty(&config).expect("a JSON value serialises"))
}

/// A file of the configuration, which replaces what the box has.
fn file(path: &str, mode: u32, text: &str) -> Value {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    json!({ "path": path, "mode": mode, "overwrite": true, "contents": { "source": format!("data:;base64,{encoded}") } })
}

/// What names the cards and gives them their addresses.
fn network_files(cards: &[NetworkCard], style: NetworkStyle) -> Vec<Value> {
    let mac = |card: &NetworkCard| card.mac.to_ascii_lowercase();
    match style {
        NetworkStyle::Flightcage => {
            let mut network = String::new();
            for card in cards {
                let gateway = card.gateway.map(|gateway| format!(" {gateway}")).unwrap_or_default();
                writeln!(network, "{} {} {}/{}{gateway}", mac(card), card.name, card.address, card.prefix)
                    .expect("writing to a String");
            }
            vec![file(NETWORK_FILE, 0o644, &network)]
        }
        NetworkStyle::Networkd => cards
            .iter()
            .flat_map(|card| {
                let (name, mac) = (&card.name, mac(card));
                let gateway = card.gateway.map(|gateway| format!("Gateway={gateway}\n")).unwrap_or_default();
                let address = format!("{}/{}", card.address, card.prefix);
                let link = format!("[Match]\nMACAddress={mac}\n\n[Link]\nName={name}\n");
                let network = format!(
                    "[Match]\nMACAddress={mac}\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nAddress={address}\n{gateway}\
                     LinkLocalAddressing=no\nIPv6AcceptRA=no\nLLDP=no\n"
                );
                [
                    file(&format!("/etc/systemd/network/10-{name}.link"), 0o644, &link),
                    file(&format!("/etc/systemd/network/10-{name}.network"), 0o644, &network),
                ]
            })
            .collect(),
        NetworkStyle::NetworkManager => cards
            .iter()
            .flat_map(|card| {
                let (name, mac) = (&card.name, mac(card));
                let gateway = card.gateway.map(|gateway| format!("gateway={gateway}\n")).unwrap_or_default();
                let address = format!("{}/{}", card.address, card.prefix);
                let link = format!("[Match]\nMACAddress={mac}\n\n[Link]\nName={name}\n");
                let connection = format!(
                    "[connection]\nid={name}\ntype=ethernet\nautoconnect=true\n\n[ethernet]\nmac-address={mac}\n\n\
                     [ipv4]\nmethod=manual\naddress1={address}\n{gateway}\n[ipv6]\nmethod=disabled\n"
                );
                // NetworkManager ignores a connection that others may read.
                [
                    file(&format!("/etc/systemd/network/10-{name}.link"), 0o644, &link),
                    file(&format!("/etc/NetworkManager/system-connections/{name}.nmconnection"), 0o600, &connection),
                ]
            })
            .collect(),
    }
}

/// User and group `core` of the box this project builds.
const CORE_ID: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::super::BoxDefinition;
    use super::*;
    use std::io::Write as _;

    fn example() -> FirstBoot {
        FirstBoot {
            hostname: "w1".into(),
            authorized_keys: vec!["ssh-ed25519 AAAA client".into()],
            host_key_private:
                "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n-----END OPENSSH PRIVATE KEY-----\n".into(),
            host_key_public: "ssh-ed25519 BBBB".into(),
            network: vec![
                NetworkCard::cluster("52:54:00:AB:00:01", Ipv4Addr::new(10, 77, 0, 12)),
                NetworkCard::ssh("52:54:00:ab:01:01"),
            ],
            hosts: vec![
                (Ipv4Addr::new(10, 77, 0, 11), "c1".into()),
                (Ipv4Addr::new(10, 77, 0, 12), "w1".into()),
            ],
            kernel_arguments: vec!["loglevel=7".into()],
            fragments: Vec::new(),
        }
    }

    fn rendered(first_boot: &FirstBoot, box_name: &str) -> String {
        render(
            first_boot,
            &BoxDefinition::load(box_name).unwrap().first_boot,
        )
        .unwrap()
    }

    fn file(json: &str, path: &str) -> String {
        let config: serde_json::Value = serde_json::from_str(json).unwrap();
        let files = config["storage"]["files"].as_array().unwrap();
        let file = files
            .iter()
            .find(|file| file["path"] == path)
            .unwrap_or_else(|| panic!("no file {path}"));
        let source = file["contents"]["source"].as_str().unwrap();
        let data = base64::engine::general_purpose::STANDARD
            .decode(source.strip_prefix("data:;base64,").unwrap())
            .unwrap();
        String::from_utf8(data).unwrap()
    }

    #[test]
    fn holds_the_identity() {
        let json = rendered(&example(), "flightcage-os");
        assert_eq!(file(&json, "/etc/hostname"), "w1\n");
        assert_eq!(
            file(&json, "/etc/hosts"),
            "127.0.0.1 localhost\n10.77.0.11 c1\n10.77.0.12 w1\n"
        );
        assert_eq!(
            file(&json, "/etc/flightcage/network"),
            "52:54:00:ab:00:01 cluster0 10.77.0.12/24\n52:54:00:ab:01:01 ssh0 10.0.2.15/24\n"
        );
        assert_eq!(
            file(&json, "/home/core/.ssh/authorized_keys"),
            "ssh-ed25519 AAAA client\n"
        );
        let config: serde_json::Value = serde_json::from_str(&json).unwrap();
        let files = config["storage"]["files"].as_array().unwrap();
        let key = files
            .iter()
            .find(|file| file["path"] == "/etc/ssh/ssh_host_ed25519_key")
            .unwrap();
        assert_eq!(key["mode"], 0o600);
    }

    #[test]
    fn coreos_boxes_get_the_same_identity_in_their_own_way() {
        let json = rendered(&example(), "flatcar");
        assert!(
            file(&json, "/etc/systemd/network/10-cluster0.network")
                .contains("Address=10.77.0.12/24\n")
        );
        assert_eq!(
            file(&json, "/etc/systemd/network/10-cluster0.link"),
            "[Match]\nMACAddress=52:54:00:ab:00:01\n\n[Link]\nName=cluster0\n"
        );
        let config: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            config["passwd"]["users"][0]["sshAuthorizedKeys"],
            json!(["ssh-ed25519 AAAA client"])
        );
        assert_eq!(
            config["systemd"]["units"][0],
            json!({ "name": "update-engine.service", "mask": true })
        );
        assert_eq!(
            config["kernelArguments"]["shouldExist"],
            json!(["loglevel=7"])
        );

        let json = rendered(&example(), "fedora-coreos");
        assert!(
            file(
                &json,
                "/etc/NetworkManager/system-connections/ssh0.nmconnection"
            )
            .contains("address1=10.0.2.15/24\n")
        );
        assert!(file(&json, "/etc/selinux/config").contains("SELINUX=permissive"));
        assert_eq!(file(&json, "/etc/hostname"), "w1\n");
    }

    /// The real validator judges, where it is installed (`apt install ignition`).
    #[test]
    fn the_real_validator_accepts_it() {
        let mut merged = example();
        merged.fragments.push(
            r#"{"ignition":{"version":"3.0.0"},"storage":{"files":[{"path":"/etc/x","contents":{"source":"data:,x"}}]},
            "systemd":{"units":[{"name":"x.service","enabled":true,"contents":"[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"}]}}"#
                .to_owned(),
        );
        let boxes = BoxDefinition::builtin_names();
        let configurations = boxes
            .iter()
            .flat_map(|name| [rendered(&example(), name), rendered(&merged, name)]);
        for configuration in configurations {
            let mut given = tempfile::NamedTempFile::new().unwrap();
            given.write_all(configuration.as_bytes()).unwrap();
            match std::process::Command::new("ignition-validate")
                .arg(given.path())
                .output()
            {
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stderr).into_owned()
                        + &String::from_utf8_lossy(&output.stdout);
                    assert!(
                        output.status.success() && !said.contains("warning"),
                        "{said}"
                    );
                }
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
            }
        }
    }
}

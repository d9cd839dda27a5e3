//! The inventory of `provider = "hosts"`: machines that exist, and how to log in to them.
//!
//! ```toml
//! [cluster]
//! provider = "hosts"
//! [cluster.login]                        # what hosts have in common; each may have its own
//! user = "admin"                         # with sudo without a password
//! key = "id_ed25519"                     # private key; relative to this file
//! jump = { ssh = "198.51.100.1", host_key = "ssh-ed25519 AAAA…" }
//! [[cluster.host]]                       # the first is the controller
//! name = "c1"
//! address = "10.0.0.11"                  # as the other machines see it
//! ssh = "203.0.113.7:2222"               # as this host sees it; without it: `address`, port 22
//! host_key = "ssh-ed25519 AAAA…"         # `ssh-keyscan -t ed25519`, compared by you: it is never learnt
//! power_off = ["virsh", "destroy", "c1"] # commands on this host; without them its power is not switched
//! power_on = ["virsh", "start", "c1"]
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::model::addresses::MAX_NODES;
use crate::model::cluster::{HostLogin, HostSpec, MachineSpec, Role};
use crate::model::names::NodeName;
use crate::model::reader::{Table, Value};
use crate::shell::keys;

const SSH_PORT: u16 = 22;
const LOGIN_KEYS: [&str; 3] = ["user", "key", "host_key"];

/// What hosts have in common.
#[derive(Default)]
struct Common {
    user: Option<String>,
    key: Option<PathBuf>,
    jump: Option<HostLogin>,
}

/// Reads `[cluster.login]` and `[[cluster.host]]`. Problems are on the table's list; `defaults` gives a machine's other fields.
pub(super) fn machines(table: &Table<'_, '_>, defaults: &MachineSpec) -> Vec<MachineSpec> {
    let common = table
        .get("login")
        .and_then(|value| value.table())
        .map(|login| common(&login))
        .unwrap_or_default();
    let Some(value) = table.require("host") else {
        return Vec::new();
    };
    let hosts = value.array().unwrap_or_default();
    if hosts.is_empty() || hosts.len() > MAX_NODES {
        value.problem(
            format!("a cluster of hosts has 1 to {MAX_NODES} of them"),
            None,
        );
        return Vec::new();
    }
    let mut seen = Seen::default();
    let mut machines = Vec::new();
    for (index, value) in hosts.iter().enumerate() {
        if let Some(machine) = host(value, index, &common, defaults, &mut seen) {
            machines.push(machine);
        }
    }
    machines
}

/// What no two hosts share.
#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    addresses: BTreeSet<Ipv4Addr>,
    logins: BTreeSet<SocketAddr>,
}

fn common(table: &Table<'_, '_>) -> Common {
    table.allow(&["user", "key", "jump"]);
    let mut common = Common {
        user: user(table),
        key: key(table),
        jump: None,
    };
    common.jump = jump(table, &common);
    common
}

fn host(
    value: &Value<'_, '_>,
    index: usize,
    common: &Common,
    defaults: &MachineSpec,
    seen: &mut Seen,
) -> Option<MachineSpec> {
    let table = value.table()?;
    table.allow(&[
        "name",
        "address",
        "ssh",
        "user",
        "key",
        "host_key",
        "jump",
        "power_off",
        "power_on",
        "labels",
    ]);
    let name = table.require("name").and_then(|value| {
        let text = value.string()?;
        let name = text.parse::<NodeName>();
        match name {
            Ok(name) if seen.names.insert(text.to_owned()) => return Some(name),
            Ok(_) => value.problem(format!("two hosts are named `{text}`"), None),
            Err(_) => value.problem(
                format!("`{text}` is not a node's name"),
                Some("a name such as `w1`".into()),
            ),
        }
        None
    });
    let address = table.require("address").and_then(|value| {
        let text = value.string()?;
        match text.parse::<Ipv4Addr>() {
            Ok(address) if address.is_loopback() || address.is_unspecified() => {
                value.problem(
                    format!("`{address}` is not an address that other machines can reach"),
                    None,
                );
            }
            Ok(address) if seen.addresses.insert(address) => return Some(address),
            Ok(address) => value.problem(format!("two hosts have the address {address}"), None),
            Err(_) => value.problem(
                format!("`{text}` is not an IPv4 address"),
                Some("an address such as \"10.0.0.11\"".into()),
            ),
        }
        None
    });
    let login = login(&table, common, address);
    if let (Some(login), Some(value)) = (&login, table.get("ssh"))
        && !seen.logins.insert(login.ssh)
    {
        value.problem(format!("two hosts have the SSH server {}", login.ssh), None);
    }
    let jump = jump(&table, common).or_else(|| common.jump.clone());
    let (power_off, power_on) = (command(&table, "power_off"), command(&table, "power_on"));
    if power_off.is_empty() != power_on.is_empty() {
        let given = table.get("power_off").or_else(|| table.get("power_on"));
        if let Some(given) = given {
            given.problem("`power_off` and `power_on` go together", None);
        }
    }
    let mut labels = defaults.labels.clone();
    for (key, _, value) in table
        .get("labels")
        .and_then(|value| value.table())
        .map(|table| table.entries())
        .unwrap_or_default()
    {
        if let Some(text) = value.string() {
            labels.insert(key.to_owned(), text.to_owned());
        }
    }
    Some(MachineSpec {
        name: name?,
        role: if index == 0 {
            Role::Controller
        } else {
            Role::Worker
        },
        labels,
        address: Some(address?),
        host: Some(HostSpec {
            login: login?,
            jump,
            power_off,
            power_on,
        }),
        ..defaults.clone()
    })
}

/// A login's own keys, and what is common for the others.
fn login(table: &Table<'_, '_>, common: &Common, address: Option<Ipv4Addr>) -> Option<HostLogin> {
    let ssh = match table.get("ssh") {
        Some(value) => server(&value),
        None => address.map(|address| SocketAddr::from((address, SSH_PORT))),
    };
    let user = user(table).or_else(|| common.user.clone());
    let key = key(table).or_else(|| common.key.clone());
    for (name, missing) in [("user", user.is_none()), ("key", key.is_none())] {
        if missing && table.get(name).is_none() {
            table.problem_at_start(
                format!("`{name}` is missing"),
                Some("here, or in [cluster.login]".into()),
            );
        }
    }
    let host_key = table.require("host_key").and_then(|value| {
        let text = value.string()?;
        if keys::public_blob(text).is_some() {
            return Some(
                text.split_whitespace()
                    .take(2)
                    .collect::<Vec<_>>()
                    .join(" "),
            );
        }
        value.problem(
            "not an ed25519 host key",
            Some("a line `ssh-ed25519 AAAA…`, as in /etc/ssh/ssh_host_ed25519_key.pub".into()),
        );
        None
    });
    Some(HostLogin {
        ssh: ssh?,
        user: user?,
        key: key?,
        host_key: host_key?,
    })
}

fn jump(table: &Table<'_, '_>, common: &Common) -> Option<HostLogin> {
    let jump = table.get("jump")?.table()?;
    jump.allow(&[&["ssh"], LOGIN_KEYS.as_slice()].concat());
    jump.require("ssh")?;
    login(&jump, common, None)
}

/// `ADDRESS` or `ADDRESS:PORT`. Names are not resolved: the binary is static.
fn server(value: &Value<'_, '_>) -> Option<SocketAddr> {
    let text = value.string()?;
    let address = text.parse::<SocketAddr>().ok();
    let address =
        address.or_else(|| Some(SocketAddr::from((text.parse::<IpAddr>().ok()?, SSH_PORT))));
    if address.is_none_or(|address| address.port() == 0) {
        value.problem(
            format!("`{text}` is not an address"),
            Some("an IP address, or \"ADDRESS:PORT\"".into()),
        );
        return None;
    }
    address
}

fn user(table: &Table<'_, '_>) -> Option<String> {
    let value = table.get("user")?;
    let text = value.string()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.starts_with('-') || !text.chars().all(allowed) {
        value.problem(format!("`{text}` is not a user's name"), None);
        return None;
    }
    Some(text.to_owned())
}

/// A path: below the home directory with `~/`, otherwise relative to the file.
fn key(table: &Table<'_, '_>) -> Option<PathBuf> {
    let value = table.get("key")?;
    let text = value.string()?;
    if text.is_empty() {
        value.problem("`key` is empty", Some("the path of a private key".into()));
        return None;
    }
    if let (Some(below), Some(home)) = (text.strip_prefix("~/"), std::env::var_os("HOME")) {
        return Some(PathBuf::from(home).join(below));
    }
    let folder = Path::new(table.file()).parent().unwrap_or(Path::new(""));
    let path = folder.join(text);
    Some(std::path::absolute(&path).unwrap_or(path))
}

fn command(table: &Table<'_, '_>, name: &str) -> Vec<String> {
    let Some(value) = table.get(name) else {
        return Vec::new();
    };
    let words = value.array().unwrap_or_default();
    if words.is_empty() {
        value.problem(
            format!("`{name}` is not a command"),
            Some("a list: [\"virsh\", \"destroy\", \"w1\"]".into()),
        );
    }
    words
        .iter()
        .filter_map(|word| word.string().map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::cluster::file::parse;
    use crate::model::cluster::{ClusterSpec, ProviderKind, Role};

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBJ9aa8mGGwLMwKAOtvOgaYNLlRlyNOMsy9Bs0Ar1BvF";

    fn check(text: &str) -> Result<ClusterSpec, Vec<String>> {
        let text = text.replace("KEY", KEY);
        parse("/inventory/rack.toml", &text, &"test".parse().unwrap()).map_err(|refusal| {
            refusal
                .problems()
                .iter()
                .map(|problem| problem.to_string().split_off(21))
                .collect()
        })
    }

    #[test]
    fn an_inventory_is_a_cluster() {
        let spec = check(
            "[cluster]\nprovider = \"hosts\"\n[cluster.login]\nuser = \"admin\"\nkey = \"id\"\n\
             jump = { ssh = \"198.51.100.1\", user = \"gate\", host_key = \"KEY comment\" }\n\
             [[cluster.host]]\nname = \"a\"\naddress = \"10.0.0.11\"\nhost_key = \"KEY\"\n\
             [[cluster.host]]\nname = \"b\"\naddress = \"10.0.0.12\"\nssh = \"127.0.0.1:2222\"\nuser = \"root\"\nhost_key = \"KEY\"\n\
             power_off = [\"off\", \"b\"]\npower_on = [\"on\"]\n",
        )
        .unwrap();
        assert_eq!(spec.provider, ProviderKind::Hosts);
        let roles: Vec<_> = spec
            .machines
            .iter()
            .map(|machine| (machine.name.as_str(), machine.role))
            .collect();
        assert_eq!(roles, [("a", Role::Controller), ("b", Role::Worker)]);
        let hosts: Vec<_> = spec
            .machines
            .iter()
            .map(|machine| machine.host.clone().unwrap())
            .collect();
        assert_eq!(
            (hosts[0].login.ssh.to_string(), hosts[0].login.user.as_str()),
            ("10.0.0.11:22".into(), "admin")
        );
        assert_eq!(hosts[0].login.key.to_str(), Some("/inventory/id"));
        assert_eq!(
            hosts[0]
                .jump
                .as_ref()
                .map(|jump| (jump.user.as_str(), jump.host_key.as_str())),
            Some(("gate", KEY))
        );
        assert_eq!(
            (hosts[1].login.ssh.to_string(), hosts[1].login.user.as_str()),
            ("127.0.0.1:2222".into(), "root")
        );
        assert_eq!(hosts[1].power_off, ["off", "b"]);
        assert_eq!(spec.address(1), std::net::Ipv4Addr::new(10, 0, 0, 12));
    }

    #[test]
    fn every_problem_of_an_inventory_is_told_with_its_place() {
        let problems = check(
            "[cluster]\nprovider = \"hosts\"\nworkers = 2\n\
             [[cluster.host]]\nname = \"a\"\naddress = \"10.0.0\"\nhost_key = \"ssh-rsa AAAA\"\nuser = \"x\"\n\
             [[cluster.host]]\nname = \"a\"\naddress = \"127.0.0.1\"\nssh = \"rack.example\"\nhots_key = \"KEY\"\nuser = \"-oX\"\nkey = \"k\"\n\
             power_off = [\"off\"]\n",
        )
        .unwrap_err();
        assert_eq!(
            problems,
            [
                "3:1: `workers` is not for machines that exist",
                "4:1: `key` is missing",
                "6:11: `10.0.0` is not an IPv4 address",
                "7:12: not an ed25519 host key",
                "9:1: `host_key` is missing",
                "10:8: two hosts are named `a`",
                "11:11: `127.0.0.1` is not an address that other machines can reach",
                "12:7: `rack.example` is not an address",
                "13:1: unknown key `hots_key`",
                "14:8: `-oX` is not a user's name",
                "16:13: `power_off` and `power_on` go together",
            ]
        );
    }
}

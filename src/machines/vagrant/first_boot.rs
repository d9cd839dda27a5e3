//! What a machine of our own box needs beyond its Ignition configuration when Vagrant makes it: an address on the management
//! network by DHCP, since Vagrant finds a machine by its lease, and a key exchange that Vagrant's own SSH can do.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::machines::boxes::ignition::SSH_LINK;

const UNIT: &str = "flightcage-dhcp.service";
const SCRIPT: &str = "/etc/flightcage/dhcp";
/// Added to the box's SSH server. Vagrant speaks through Ruby's net-ssh, which does curve25519, all that the box offers, only with a gem
/// that Debian has not packaged (net-ssh 7.0.1, `transport/kex/curve25519_sha256_loader.rb`); Vagrant then waits in silence.
const SSHD_DROP_IN: &str = "/etc/systemd/system/flightcage-sshd.service.d/vagrant.conf";
/// Everything between the host and the cluster goes through this server: it gets the processor beside our units, not after them
/// (`cluster/units`).
const SSHD: &str = "[Service]\nSlice=-.slice\nCPUWeight=1000\n\
    ExecStart=\nExecStart=/usr/sbin/sshd -D -o KexAlgorithms=curve25519-sha256,ecdh-sha2-nistp256\n";

/// The configuration with a DHCP client on the management network's card, and what Vagrant's SSH needs. It stays a secret.
///
/// # Errors
/// When the configuration is not JSON.
pub(super) fn for_vagrant(ignition: &str) -> serde_json::Result<String> {
    let mut config: Value = serde_json::from_str(ignition)?;
    let unit = format!(
        "[Unit]\nDescription=DHCP client of the management network\n\n[Service]\n\
         ExecStart=/bin/busybox udhcpc -f -i {SSH_LINK} -t 20 -T 1 -A 1 -s {SCRIPT}\nRestart=always\nRestartSec=1\n"
    );
    // Only the address: the cluster has no route out, and no name server.
    let script = "#!/bin/sh\ncase \"$1\" in\n\
        deconfig) ip address flush dev \"$interface\"; ip link set \"$interface\" up ;;\n\
        bound | renew) ip address replace \"$ip/$mask\" dev \"$interface\" ;;\nesac\n";
    push(
        &mut config,
        "files",
        file(&format!("/etc/systemd/system/{UNIT}"), 0o644, &unit),
    );
    push(&mut config, "files", file(SCRIPT, 0o755, script));
    push(&mut config, "files", file(SSHD_DROP_IN, 0o644, SSHD));
    let wanted = format!("/etc/systemd/system/multi-user.target.wants/{UNIT}");
    push(
        &mut config,
        "links",
        json!({ "path": wanted, "target": format!("/etc/systemd/system/{UNIT}"), "overwrite": true }),
    );
    serde_json::to_string_pretty(&config)
}

fn push(config: &mut Value, list: &str, entry: Value) {
    match &mut config["storage"][list] {
        Value::Array(entries) => entries.push(entry),
        absent => *absent = json!([entry]),
    }
}

fn file(path: &str, mode: u32, text: &str) -> Value {
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    json!({ "path": path, "mode": mode, "overwrite": true, "contents": { "source": format!("data:;base64,{encoded}") } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_stays() {
        let given = r#"{"ignition":{"version":"3.3.0"},"storage":{"files":[{"path":"/etc/hostname","mode":420}]}}"#;
        let config: Value =
            serde_json::from_str(&for_vagrant(given).expect("it is JSON")).expect("so is this");
        let paths: Vec<&str> = config["storage"]["files"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|file| file["path"].as_str())
            .collect();
        assert_eq!(
            paths,
            [
                "/etc/hostname",
                "/etc/systemd/system/flightcage-dhcp.service",
                "/etc/flightcage/dhcp",
                "/etc/systemd/system/flightcage-sshd.service.d/vagrant.conf"
            ]
        );
        assert_eq!(
            config["storage"]["links"][0]["path"],
            "/etc/systemd/system/multi-user.target.wants/flightcage-dhcp.service"
        );
        assert_eq!(config["ignition"]["version"], "3.3.0");
    }
}

//! `provider = "hosts"` on real machines: booted with our box by the qemu provider of this process, joined by its fabric, and then
//! forgotten: flightcage gets an inventory of SSH ports and addresses, and does the rest. `tests/run` runs it; it takes minutes.
//!
//! Needs a host that `flightcage doctor` calls able. `FLIGHTCAGE_HOME` should be a directory of the tests' own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use flightcage::cluster::home::Home;
use flightcage::cluster::life;
use flightcage::machines::boxes::FirstBootChannel;
use flightcage::machines::boxes::ignition::{FirstBoot, NetworkCard, render};
use flightcage::machines::fabric::{Fabric, FabricConfig};
use flightcage::machines::provider::{Acceleration, MachineRequest, PowerAction, Provider};
use flightcage::machines::qemu::{QemuConfig, QemuProvider};
use flightcage::model::addresses::{mac_text, node_address, node_mac, ssh_mac};
use flightcage::model::cluster::ClusterSpec;
use flightcage::model::names::NodeName;
use flightcage::shell::keys::{SshKeyPair, generate_ed25519};
use flightcage::shell::ssh::{Ssh, SshTarget};

const NAME: &str = "rack";
const LIMIT: Duration = Duration::from_mins(3);

/// Machines with SSH, addresses in a network of their own, and switches for their power. Nothing of flightcage runs on them.
struct Rack {
    directory: tempfile::TempDir,
    provider: Arc<QemuProvider>,
    targets: Vec<(NodeName, SshTarget)>,
    _fabric: Fabric,
}

impl Rack {
    async fn boot() -> Self {
        let home = Home::open().expect("FLIGHTCAGE_HOME can be opened");
        let box_files = life::build_artefacts(
            &home,
            "flightcage-os",
            &(Arc::new(|_| ()) as life::Reporter),
        )
        .await
        .expect("the box");
        let directory = tempfile::Builder::new()
            .prefix("fc-rack")
            .tempdir_in("/tmp")
            .expect("a temporary directory can be made");
        let spec = ClusterSpec::with_workers(NAME.parse().expect("a name"), 2);
        let nodes: Vec<NodeName> = spec
            .machines
            .iter()
            .map(|machine| machine.name.clone())
            .collect();
        let addresses = (0..nodes.len()).map(node_address).collect();
        let fabric = Fabric::start(FabricConfig {
            socket_dir: directory.path().to_owned(),
            nodes: nodes.clone(),
            addresses,
        })
        .await;
        let fabric = fabric.expect("the fabric starts");
        let provider = QemuProvider::new(QemuConfig {
            cluster: spec.name.clone(),
            state_dir: directory.path().to_owned(),
            runtime_dir: directory.path().to_owned(),
            acceleration: Acceleration::Tcg,
            wrapper: env!("CARGO_BIN_EXE_flightcage").into(),
        });
        let provider = Arc::new(provider.expect("a thread can be started"));
        let user = generate_ed25519("operator");
        let key = directory.path().join("operator");
        private(&key, user.private_openssh_pem.as_bytes());
        let mut booting = Vec::new();
        for (index, machine) in spec.machines.iter().enumerate() {
            let host = generate_ed25519("host");
            let request = MachineRequest {
                spec: machine.clone(),
                index,
                box_files: box_files.clone(),
                ignition: first_boot(index, machine.name.as_str(), &user, &host),
                fabric_socket: fabric.socket(&machine.name),
            };
            let (provider, node, key) = (provider.clone(), machine.name.clone(), key.clone());
            booting.push(async move {
                provider.create(request).await.expect("QEMU starts");
                let address = provider.wait_for_boot(&node).await.expect("it boots");
                let target = SshTarget {
                    address,
                    user: "core".into(),
                    private_key: key,
                    host_key: host.public_openssh,
                    jump: None,
                };
                Ssh::connect(&target, LIMIT).await.expect("it lets us in");
                (node, target)
            });
        }
        let targets = futures::future::join_all(booting).await;
        let rack = Self {
            directory,
            provider,
            targets,
            _fabric: fabric,
        };
        rack.write_inventory();
        rack.serve_switches();
        rack
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn inventory(&self) -> String {
        self.path("rack.toml").display().to_string()
    }

    fn write_inventory(&self) {
        let mut text = String::from(
            "[cluster]\nprovider = \"hosts\"\n[cluster.login]\nuser = \"core\"\nkey = \"operator\"\n",
        );
        let gate = &self.targets[0].1;
        for (index, (node, target)) in self.targets.iter().enumerate() {
            // The last one is reached through the first, as behind a gate.
            let (ssh, jump) = if index == 2 {
                let jump = format!(
                    "jump = {{ ssh = \"{}\", host_key = \"{}\" }}\n",
                    gate.address,
                    gate.host_key.trim()
                );
                (format!("{}:22", node_address(index)), jump)
            } else {
                (target.address.to_string(), String::new())
            };
            writeln!(
                text,
                "[[cluster.host]]\nname = \"{node}\"\naddress = \"{}\"\nssh = \"{ssh}\"\nhost_key = \"{}\"\n{jump}\
                 power_off = [\"sh\", \"{switch}\", \"off\", \"{node}\"]\npower_on = [\"sh\", \"{switch}\", \"on\", \"{node}\"]",
                node_address(index),
                target.host_key.trim(),
                switch = self.path("switch.sh").display(),
            )
            .expect("writing to a String");
        }
        std::fs::write(self.path("rack.toml"), text).expect("it can be written");
        // A rack's power switch: leaves an order and waits until it was carried out.
        let switch = "set -e\norder=\"$(dirname \"$0\")/order-$2-$1\"\n: > \"$order\"\n\
                      for _ in $(seq 600); do [ -e \"$order\" ] || exit 0; sleep 0.1; done\necho 'nobody at the switch' >&2\nexit 1\n";
        std::fs::write(self.path("switch.sh"), switch).expect("it can be written");
    }

    /// Carries out the orders of `switch.sh`.
    fn serve_switches(&self) {
        let (directory, provider) = (self.directory.path().to_owned(), self.provider.clone());
        let nodes: Vec<NodeName> = self.targets.iter().map(|(node, _)| node.clone()).collect();
        tokio::spawn(async move {
            loop {
                for node in &nodes {
                    for (word, action) in
                        [("off", PowerAction::PowerOff), ("on", PowerAction::PowerOn)]
                    {
                        let order = directory.join(format!("order-{node}-{word}"));
                        if order.exists() {
                            provider
                                .power(node, action)
                                .await
                                .expect("its power is switched");
                            std::fs::remove_file(order).expect("the order was there");
                        }
                    }
                }
                // Orders come as files from another process: there is no event.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }

    async fn run(&self, node: &str, command: &str) -> String {
        let (_, target) = self
            .targets
            .iter()
            .find(|(name, _)| name.as_str() == node)
            .expect("a node of the rack");
        let ssh = Ssh::connect(target, LIMIT).await.expect("it lets us in");
        let output = ssh.run(command, None).await.expect("it runs");
        assert!(
            output.success(),
            "`{command}` on {node}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.text()
    }

    /// Everything about a machine that an installation could leave behind, a line each.
    async fn state(&self, node: &str) -> Vec<String> {
        let text = self.run(node, STATE).await;
        text.lines().map(str::to_owned).collect()
    }

    async fn destroy(self) {
        for (node, _) in &self.targets {
            self.provider.destroy(node).await.expect("it goes");
        }
    }
}

/// Waits until systemd has started everything: the SSH server lets us in earlier.
const BOOTED: &str = "for _ in $(seq 300); do case $(sudo systemctl is-system-running) in running | degraded) exit 0 ;; esac; sleep 0.2; \
                      done; sudo systemctl list-jobs >&2; exit 1";

/// Files (but for logs and what the kernel and systemd make up), accounts, mounts, links, addresses, routes, rules, queueing disciplines,
/// sysctls, modules, control groups, units, timers, processes with a binary, listening sockets.
const STATE: &str = r#"sudo sh -c '
LC_ALL=C
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log -o -path /run/log -o -path /run/systemd -o -path /run/sudo \
     -o -path /var/lib/systemd -o -path /var/lib/sudo \) -prune -o -printf "file %p %y %m %U %s\n" | grep -v " d [0-9]* [0-9]* [0-9]*$" | sort
find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/log -o -path /run/log -o -path /run/systemd -o -path /run/sudo \
     -o -path /var/lib/systemd -o -path /var/lib/sudo \) -prune -o -type d -printf "directory %p %m %U\n" | sort
find /var/lib/flightcage /run -xdev -path /run/log -prune -o -path /run/systemd -prune -o -printf "run %p %y %m\n" 2>/dev/null | sort
find /run/systemd/system /run/systemd/transient /etc/systemd ! -type d -printf "unit-file %p\n" 2>/dev/null | sort
md5sum /etc/passwd /etc/group /etc/shadow /etc/hosts
sed "s/^[0-9]* [0-9]* [^ ]* /mount /" /proc/self/mountinfo | grep -v nsfs.net: | sort
ip -o link | sed "s/^[0-9]*: /link /; s/qlen .*//" | sort
ip -o -4 address | sed "s/^[0-9]*: /address /" | sort
ip route show table all | sed "s/^/route /" | sort
ip rule | sed "s/^/rule /"
tc qdisc | sed "s/^/qdisc /"
for name in net.ipv4.ip_forward net.ipv4.conf.all.rp_filter; do echo "sysctl $name $(cat /proc/sys/$(echo $name | tr . /))"; done
sed "s/ .*//; s/^/module /" /proc/modules | sort
find /sys/fs/cgroup -type d -printf "cgroup %p\n" | grep -v -e session -e user.slice | sort
echo "controllers $(cat /sys/fs/cgroup/cgroup.subtree_control)"
systemctl list-units --all --plain --no-legend "flightcage*" | sed "s/ .*//; s/^/unit /" | sort
systemctl list-units --all --plain --no-legend "*.timer" | sed "s/ .*//; s/^/timer /" | sort
ls -l /proc/[0-9]*/exe 2>/dev/null | sed -n "s/.*-> /process /p" | grep -v -E "^process /(usr/)?s?bin/" | sort | uniq
ip netns list | sed "s/^/netns /"
awk "FNR > 1 && \$4 == \"0A\" { print \"listening\", \$2 }" /proc/net/tcp /proc/net/tcp6 2>/dev/null | sort
'"#;

fn private(path: &Path, contents: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, contents).expect("it can be written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
}

fn first_boot(index: usize, name: &str, user: &SshKeyPair, host: &SshKeyPair) -> String {
    let first_boot = FirstBoot {
        hostname: format!("rack-{name}"),
        authorized_keys: vec![user.public_openssh.clone()],
        host_key_private: host.private_openssh_pem.clone(),
        host_key_public: host.public_openssh.clone(),
        network: vec![
            NetworkCard::cluster(&mac_text(node_mac(index)), node_address(index)),
            NetworkCard::ssh(&mac_text(ssh_mac(index))),
        ],
        hosts: Vec::new(),
        kernel_arguments: Vec::new(),
        fragments: Vec::new(),
    };
    render(&first_boot, &FirstBootChannel::flightcage()).expect("there is no fragment")
}

async fn flightcage(arguments: &[&str]) -> Output {
    let arguments: Vec<String> = arguments
        .iter()
        .map(|argument| (*argument).to_owned())
        .collect();
    let run = move || {
        let binary = std::env::var_os("FLIGHTCAGE_TEST_BINARY")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_flightcage").into());
        let command = Command::new(binary)
            .args(["--name", NAME])
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        command.expect("the binary runs")
    };
    tokio::task::spawn_blocking(run)
        .await
        .expect("nobody panics")
}

/// Runs a command that must end with `code`, and returns its output.
async fn ends(code: i32, arguments: &[&str]) -> String {
    let begun = tokio::time::Instant::now();
    let output = flightcage(arguments).await;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let line = arguments.join(" ");
    eprintln!(
        "`flightcage {line}`: {} after {:?}",
        output.status,
        begun.elapsed()
    );
    assert_eq!(
        output.status.code(),
        Some(code),
        "`flightcage {line}`:\n{stderr}\n{stdout}"
    );
    format!("{stdout}{stderr}")
}

fn assert_same(node: &str, before: &[String], after: &[String]) {
    let more: Vec<&String> = after.iter().filter(|line| !before.contains(line)).collect();
    let less: Vec<&String> = before.iter().filter(|line| !after.contains(line)).collect();
    assert!(
        more.is_empty() && less.is_empty(),
        "{node} is not as it was.\nleft behind: {more:#?}\nmissing: {less:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_are_not_ours_carry_a_cluster_and_are_left_as_they_were() {
    let rack = Rack::boot().await;
    let inventory = rack.inventory();
    let nodes = ["c1", "w1", "w2"];
    let mut before = Vec::new();
    for node in nodes {
        rack.run(node, BOOTED).await;
        before.push(rack.state(node).await);
    }

    // A port that is somebody else's is told before anything is changed.
    rack.run(
        "w1",
        "sudo systemd-run --quiet --unit=squatter busybox nc -ll -p 5000 -e true",
    )
    .await;
    let refused = ends(1, &["up", "-f", &inventory]).await;
    assert!(
        refused.contains("node `w1`: port 5000, which the registry mirror needs, is taken"),
        "{refused}"
    );
    rack.run("w1", "sudo systemctl stop squatter").await;
    assert_same("w1", &before[1], &rack.state("w1").await);

    ends(0, &["up", "-f", &inventory]).await;
    let status = ends(0, &["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(
        (status["provider"].as_str(), status["accel"].as_str()),
        (Some("hosts"), Some("none"))
    );
    assert!(
        status["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.iter().all(|node| node["ready"] == true)),
        "{status}"
    );
    assert_eq!(
        ends(0, &["ssh", "w2", "--", "hostname"]).await.trim(),
        "rack-w2"
    );
    // A second `up` finds it.
    ends(0, &["up", "-f", &inventory]).await;

    let report = rack.path("report");
    let report_argument = report.display().to_string();
    let [rack_scenario, clock_scenario] = [
        "tests/fixtures/hosts/rack.toml",
        "tests/fixtures/hosts/clock.toml",
    ];
    let skipped = ends(5, &["run", "--cluster", &inventory, clock_scenario]).await;
    assert!(skipped.contains("clock.step"), "{skipped}");
    ends(
        0,
        &[
            "run",
            "--cluster",
            &inventory,
            "--report",
            &report_argument,
            rack_scenario,
        ],
    )
    .await;
    let text =
        std::fs::read_to_string(report.join("rack/report.json")).expect("a report was written");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(report["target"]["provider"], "hosts");
    let verified = report["faults"]
        .as_array()
        .is_some_and(|faults| faults.iter().all(|fault| fault["verified"] == true));
    assert!(verified, "{}", report["faults"]);

    ends(0, &["down"]).await;
    for (node, before) in nodes.iter().zip(&before) {
        assert_same(node, before, &rack.state(node).await);
    }
    ends(0, &["down"]).await;
    rack.destroy().await;
}

/// Not a test: a rack to try things on by hand. Its inventory's path is in the file that `FLIGHTCAGE_RACK` names; it goes when that goes.
#[tokio::test(flavor = "multi_thread")]
async fn rack_by_hand() {
    let Some(file) = std::env::var_os("FLIGHTCAGE_RACK").map(PathBuf::from) else {
        return;
    };
    let rack = Rack::boot().await;
    std::fs::write(&file, rack.inventory()).expect("it can be written");
    while file.exists() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    rack.destroy().await;
}

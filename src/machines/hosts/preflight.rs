//! Is a host able to be a node? Asked over SSH, all questions in one command, all hosts at once.
//!
//! Changes nothing on the host. [`judge`] is pure: it turns what a host said into problems.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::{REACH_LIMIT, target};
use crate::machines::provider::Problem;
use crate::model::addresses;
use crate::model::cluster::{MachineSpec, Role};
use crate::shell::ssh::{Ssh, SshTarget};

/// Memory that our processes and a few pods need.
const MEMORY_KIB_MIN: u64 = 200 << 10;
/// Disk that the binary and the images of the example stack need.
const DISK_KIB_MIN: u64 = 600 << 10;
/// The kernel modules of containers and their network.
const MODULES: [&str; 3] = ["overlay", "bridge", "veth"];

/// Prints `key=value` lines. POSIX shell and what every distribution with systemd has; as the SSH user.
const QUESTIONS: &str = r#"
LC_ALL=C; export LC_ALL
say() { printf '%s=%s\n' "$1" "$2"; }
say arch "$(uname -m)"
say systemd "$(systemctl --version 2>/dev/null | head -n 1)"
[ -d /run/systemd/system ] && say booted yes
[ -f /sys/fs/cgroup/cgroup.controllers ] && say cgroup "$(cat /sys/fs/cgroup/cgroup.controllers)"
if [ "$(id -u)" = 0 ]; then say sudo yes; elif sudo -n true 2>/dev/null; then say sudo yes; fi
say memory "$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)"
directory=/var/lib; [ -d /var/lib/flightcage ] && directory=/var/lib/flightcage
say disk "$(df -Pk "$directory" | awk 'NR == 2 { print $4 }')"
say filesystem "$(stat -f -c %T "$directory")"
for module in overlay bridge veth; do
  if [ -d "/sys/module/$module" ] || grep -qw "$module" /proc/filesystems || modprobe -n "$module" 2>/dev/null || /sbin/modprobe -n "$module" 2>/dev/null; then say "module_$module" yes; fi
done
for tool in tar zstd systemctl; do command -v "$tool" >/dev/null && say "tool_$tool" yes; done
say addresses "$(awk '/32 host LOCAL/ { print address } { address = $2 }' /proc/net/fib_trie | sort -u | tr '\n' ' ')"
say boot_id "$(cat /proc/sys/kernel/random/boot_id)"
say routes "$(awk 'NR > 1 { print $1 ":" $2 ":" $3 ":" $8 }' /proc/net/route | tr '\n' ' ')"
say listening "$(awk 'FNR > 1 && $4 == "0A" { print $2 }' /proc/net/tcp /proc/net/tcp6 2>/dev/null | sed 's/.*://' | sort -u | tr '\n' ' ')"
[ -f /etc/flightcage/cluster ] && say cluster "$(cat /etc/flightcage/cluster)"
ls /etc/systemd/system/flightcage-agent.service >/dev/null 2>&1 && say agent yes
ls -d /sys/class/net/fc0 >/dev/null 2>&1 && say bridge yes
true
"#;

/// Everything that stands in the way, of every machine.
pub(super) async fn problems(machines: &[MachineSpec], identity: Option<&str>) -> Vec<Problem> {
    let asked = machines
        .iter()
        .filter_map(|machine| Some((machine, machine.host.as_ref()?)))
        .map(|(machine, host)| async move {
            let target = target(host);
            match ask(&target).await {
                Ok(facts) => {
                    let mut problems = judge(machine, &facts, machines);
                    problems.extend(foreign(machine, &facts, identity));
                    problems
                }
                Err(what) => vec![Problem {
                    what: format!("node `{}`: {what}", machine.name),
                    mend: format!(
                        "ssh -p {} {}@{} true",
                        target.address.port(),
                        target.user,
                        target.address.ip()
                    ),
                }],
            }
        });
    join_all(asked).await.concat()
}

async fn ask(target: &SshTarget) -> Result<BTreeMap<String, String>, String> {
    let text = |error: crate::shell::ssh::SshError| error.to_string();
    let ssh = Ssh::connect(target, REACH_LIMIT).await.map_err(text)?;
    let output = ssh
        .run("sh -s", Some(QUESTIONS.as_bytes().to_vec()))
        .await
        .map_err(text)?;
    Ok(facts(&output.text()))
}

fn facts(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// What of a host's answers stands in the way of `machine`.
fn judge(
    machine: &MachineSpec,
    facts: &BTreeMap<String, String>,
    machines: &[MachineSpec],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut problem = |what: String, mend: &str| {
        problems.push(Problem {
            what: format!("node `{}`: {what}", machine.name),
            mend: mend.to_owned(),
        });
    };
    let has = |key: &str| facts.get(key).is_some_and(|value| !value.is_empty());
    let number = |key: &str| facts.get(key).and_then(|value| value.parse::<u64>().ok());
    let words = |key: &str| {
        facts
            .get(key)
            .map(|value| value.split_whitespace().collect::<Vec<_>>())
            .unwrap_or_default()
    };

    let architecture = facts.get("arch").map_or("unknown", String::as_str);
    if architecture != std::env::consts::ARCH {
        problem(
            format!(
                "it is a {architecture} machine, and this binary is for {}",
                std::env::consts::ARCH
            ),
            "run a flightcage that was built for the machine's architecture",
        );
    }
    if !has("booted") {
        problem(
            "systemd is not its init".into(),
            "use a distribution that boots with systemd",
        );
    }
    if !has("cgroup") {
        problem(
            "control groups are not version 2".into(),
            "boot it with systemd.unified_cgroup_hierarchy=1",
        );
    }
    for controller in ["cpu", "memory", "pids"] {
        if has("cgroup") && !words("cgroup").contains(&controller) {
            problem(
                format!("its kernel has no cgroup controller `{controller}`"),
                "enable the controller on its kernel command line",
            );
        }
    }
    if !has("sudo") {
        problem(
            "its user may not use sudo without a password".into(),
            "add `USER ALL=(ALL) NOPASSWD:ALL` to /etc/sudoers.d",
        );
    }
    for tool in ["tar", "zstd"] {
        if !has(&format!("tool_{tool}")) {
            problem(
                format!("it has no `{tool}`"),
                &format!("sudo apt-get install {tool}, or the like"),
            );
        }
    }
    for module in MODULES {
        if !has(&format!("module_{module}")) {
            problem(
                format!("its kernel has no `{module}`"),
                &format!("sudo modprobe {module}"),
            );
        }
    }
    if number("memory").is_none_or(|kib| kib < MEMORY_KIB_MIN) {
        let free = number("memory").unwrap_or_default() >> 10;
        problem(
            format!("it has {free} MiB of free memory"),
            &format!("free at least {} MiB", MEMORY_KIB_MIN >> 10),
        );
    }
    if number("disk").is_none_or(|kib| kib < DISK_KIB_MIN) {
        let free = number("disk").unwrap_or_default() >> 10;
        problem(
            format!("it has {free} MiB of free disk in /var/lib"),
            &format!("free at least {} MiB", DISK_KIB_MIN >> 10),
        );
    }
    if facts
        .get("filesystem")
        .is_some_and(|kind| kind == "overlayfs")
    {
        problem(
            "its /var/lib is an overlay, on which containers cannot stand".into(),
            "mount a disk on /var/lib/flightcage",
        );
    }
    if let Some(address) = machine.address
        && !words("addresses").contains(&address.to_string().as_str())
    {
        let own = words("addresses").join(", ");
        problem(
            format!("{address} is not its address (it has {own})"),
            "correct `address` in the cluster file",
        );
    }
    let installed = has("agent");
    if !installed {
        clashes(machine, facts, &mut problem);
    }
    unreachable(machine, facts, machines, &mut problem);
    problems
}

/// Another cluster that the machine belongs to.
fn foreign(
    machine: &MachineSpec,
    facts: &BTreeMap<String, String>,
    identity: Option<&str>,
) -> Option<Problem> {
    let owner = facts
        .get("cluster")
        .filter(|owner| identity != Some(owner.as_str()))?;
    Some(Problem {
        what: format!("node `{}`: it belongs to another cluster, `{owner}`", machine.name),
        mend: "`flightcage down` of that cluster; if its state is lost: sudo $(ls -t /var/lib/flightcage/bin/flightcage-* | head -n 1) \
               machine leave, on the machine"
            .into(),
    })
}

/// What of ours is somebody else's there.
fn clashes(
    machine: &MachineSpec,
    facts: &BTreeMap<String, String>,
    problem: &mut impl FnMut(String, &str),
) {
    let words = |key: &str| {
        facts
            .get(key)
            .map(|value| value.split_whitespace().collect::<Vec<_>>())
            .unwrap_or_default()
    };
    let mut ports = vec![(addresses::REGISTRY_PORT, "the registry mirror")];
    if machine.role == Role::Controller {
        ports.push((addresses::API_PORT, "the API server"));
    }
    for (port, what) in ports {
        if words("listening").contains(&format!("{port:04X}").as_str()) {
            problem(
                format!("port {port}, which {what} needs, is taken"),
                &format!("sudo ss -tlnp 'sport = :{port}'"),
            );
        }
    }
    if facts.contains_key("bridge") {
        problem(
            "it has a network device `fc0` that no agent of ours owns".into(),
            "sudo ip link delete fc0",
        );
    }
    for route in words("routes")
        .iter()
        .filter_map(|route| Route::parse(route))
    {
        if route.mask != 0
            && [78, 79]
                .iter()
                .any(|net| route.overlaps((10 << 24) | (net << 16), 0xffff_0000))
            && !route.is_wide()
        {
            problem(
                format!(
                    "it has a route into the network of pods or Services ({})",
                    route.text()
                ),
                "move that network; pods are in 10.78.0.0/16, Services in 10.79.0.0/16",
            );
        }
    }
}

/// Machines of the cluster that are not on a network of this one: pods are routed, not tunnelled.
fn unreachable(
    machine: &MachineSpec,
    facts: &BTreeMap<String, String>,
    machines: &[MachineSpec],
    problem: &mut impl FnMut(String, &str),
) {
    let routes = facts.get("routes").map(String::as_str).unwrap_or_default();
    let routes: Vec<Route> = routes.split_whitespace().filter_map(Route::parse).collect();
    for other in machines.iter().filter(|other| other.name != machine.name) {
        let Some(address) = other.address else {
            continue;
        };
        let best = routes
            .iter()
            .filter(|route| route.covers(address.to_bits()))
            .max_by_key(|route| route.mask);
        match best {
            None => problem(
                format!("it has no route to {address} of node `{}`", other.name),
                "connect the two machines",
            ),
            Some(route) if route.gateway != 0 => problem(
                format!(
                    "{address} of node `{}` is behind a router; pods are routed between machines of one network only",
                    other.name
                ),
                "give the machines addresses in one Ethernet network",
            ),
            Some(_) => {}
        }
    }
}

/// A line of `/proc/net/route`, in host byte order.
struct Route {
    network: u32,
    gateway: u32,
    mask: u32,
}

impl Route {
    /// Parses `interface:destination:gateway:mask`, as the kernel prints them: little-endian hexadecimal.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text
            .rsplit(':')
            .map(|field| u32::from_str_radix(field, 16).ok().map(u32::swap_bytes));
        let (mask, gateway, network) = (fields.next()??, fields.next()??, fields.next()??);
        Some(Self {
            network,
            gateway,
            mask,
        })
    }

    fn covers(&self, address: u32) -> bool {
        address & self.mask == self.network
    }

    fn overlaps(&self, network: u32, mask: u32) -> bool {
        let both = self.mask & mask;
        self.network & both == network & both
    }

    /// Wider than 10.78.0.0/15: ours are more specific and win.
    fn is_wide(&self) -> bool {
        self.mask.count_ones() < 15
    }

    fn text(&self) -> String {
        format!(
            "{}/{}",
            std::net::Ipv4Addr::from_bits(self.network),
            self.mask.count_ones()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cluster::ClusterSpec;

    const ABLE: &str = "arch=x86_64\nsystemd=systemd 252\nbooted=yes\ncgroup=cpuset cpu io memory pids\nsudo=yes\nmemory=900000\n\
        disk=9000000\nfilesystem=ext2/ext3\nmodule_overlay=yes\nmodule_bridge=yes\nmodule_veth=yes\ntool_tar=yes\ntool_zstd=yes\n\
        addresses=10.0.2.15 10.77.0.11 127.0.0.1 \nroutes=eth0:00004D0A:00000000:00FFFFFF eth1:00000000:0202000A:00000000 \n\
        listening=0016 ";

    fn check(changes: &[(&str, &str)]) -> Vec<String> {
        let mut machines = ClusterSpec::with_workers("test".parse().unwrap(), 1).machines;
        machines[0].address = Some([10, 77, 0, 11].into());
        machines[1].address = Some([10, 77, 0, 12].into());
        let mut facts = facts(ABLE);
        facts.insert("arch".into(), std::env::consts::ARCH.into());
        for (key, value) in changes {
            facts.insert((*key).to_owned(), (*value).to_owned());
        }
        judge(&machines[0], &facts, &machines)
            .into_iter()
            .map(|problem| problem.what)
            .collect()
    }

    #[test]
    fn an_able_host_has_no_problem() {
        assert_eq!(check(&[]), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_told() {
        let problems = check(&[
            ("sudo", ""),
            ("module_overlay", ""),
            ("memory", "1024"),
            ("cgroup", "cpu pids"),
        ]);
        assert_eq!(
            problems,
            [
                "node `c1`: its kernel has no cgroup controller `memory`",
                "node `c1`: its user may not use sudo without a password",
                "node `c1`: its kernel has no `overlay`",
                "node `c1`: it has 1 MiB of free memory"
            ]
        );
    }

    #[test]
    fn a_port_a_route_and_a_bridge_of_somebody_else_clash_unless_we_are_installed() {
        let taken = [
            ("listening", "1388 192B "),
            ("bridge", "yes"),
            (
                "routes",
                "eth0:00004D0A:00000000:00FFFFFF x:00024E0A:00000000:00FFFFFF ",
            ),
        ];
        assert_eq!(check(&taken).len(), 4);
        assert!(
            check(&taken)[3].contains("10.78.2.0/24"),
            "{:?}",
            check(&taken)
        );
        let mut ours = taken.to_vec();
        ours.push(("agent", "yes"));
        assert_eq!(check(&ours), Vec::<String>::new());
    }

    #[test]
    fn machines_must_be_on_one_network() {
        let routed = check(&[("routes", "eth1:00000000:0202000A:00000000 ")]);
        assert!(routed[0].contains("behind a router"), "{routed:?}");
        assert!(check(&[("routes", "")])[0].contains("no route"));
    }
}

//! The OCI runtime configuration of a container: the image's wishes, the pod's, and Docker's defaults, in one `config.json`.
//!
//! Seccomp is not applied (youki would need the C library libseccomp), and devices are limited by capabilities only.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::runtime::ContainerSpec;
use super::layer;
use super::records::{RunRecord, SandboxRecord};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Processes that one container may have.
const MAX_PIDS: i64 = 1024;
/// Longest `/etc/passwd` or `/etc/group` that is read from an image.
const ACCOUNTS_BYTES: u64 = 1024 * 1024;

/// Open files that a process of a container may have, and may ask for.
const SOFT_OPEN_FILES: u64 = 65_536;
const HARD_OPEN_FILES: u64 = 1_048_576;

/// Docker's default capabilities (moby `oci/caps/defaults.go`).
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];
/// What a privileged container has on top.
const MORE_CAPABILITIES: [&str; 24] = [
    "CAP_DAC_READ_SEARCH",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_LEASE",
    "CAP_AUDIT_CONTROL",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
];

/// What an image says about its containers, and its layers, lowest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) layers: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) user: String,
    pub(crate) stop_signal: String,
    /// Whether a directory on top of the layers fills their gaps.
    #[serde(default)]
    pub(crate) filled: bool,
}

/// Where the pieces of a container are.
pub(crate) struct Places<'a> {
    /// The mounted root file system.
    pub(crate) root: &'a Path,
    /// The pod's own `/etc` files.
    pub(crate) etc: &'a Path,
    /// The pod's network namespace; `None`: the node's.
    pub(crate) netns: Option<&'a Path>,
    /// Controllers that the machine has.
    pub(crate) controllers: &'a [String],
}

/// The runtime configuration of one container.
pub(crate) fn config(
    image: &ImageRecord,
    sandbox: &SandboxRecord,
    spec: &ContainerSpec,
    run: &RunRecord,
    places: &Places<'_>,
) -> Result<Value, String> {
    let arguments = arguments(image, &spec.command, &spec.args);
    if arguments.is_empty() {
        return Err("no command specified".to_owned());
    }
    let mut account = account(places.root, &image.user, spec.run_as)?;
    for group in &spec.groups {
        if !account.groups.contains(group) {
            account.groups.push(*group);
        }
    }
    let capabilities = capabilities(spec)?;
    // As with Docker, another user than root holds none of them until it runs something that grants them.
    let held = if account.uid == 0 {
        capabilities.clone()
    } else {
        Vec::new()
    };
    // A control group namespace too: from the machine's own, mounting the hierarchy would set the mount options of the whole machine's.
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "mount"}),
        json!({"type": "ipc"}),
        json!({"type": "cgroup"}),
    ];
    if let Some(netns) = places.netns {
        namespaces.push(json!({"type": "network", "path": netns}));
        namespaces.push(json!({"type": "uts"}));
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": Path::new("/").join(&run.cgroup),
        "resources": resources(spec, places.controllers),
        "rootfsPropagation": "private",
    });
    if !spec.sysctls.is_empty() {
        let all: BTreeMap<&String, &String> = spec
            .sysctls
            .iter()
            .map(|(name, value)| (name, value))
            .collect();
        linux["sysctl"] = json!(all);
    }
    if !spec.privileged {
        linux["maskedPaths"] = json!([
            "/proc/acpi",
            "/proc/asound",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
            "/proc/timer_stats",
            "/proc/sched_debug",
            "/proc/scsi",
            "/sys/firmware",
            "/sys/devices/virtual/powercap"
        ]);
        linux["readonlyPaths"] = json!([
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger"
        ]);
    }
    // No more than this process may have itself: raising it needs a capability that the agent may lack.
    let own_limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let open_files = own_limit.unwrap_or(HARD_OPEN_FILES).min(HARD_OPEN_FILES);
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": spec.tty,
            "user": {"uid": account.uid, "gid": account.gid, "additionalGids": account.groups},
            "args": arguments,
            "env": environment(image, spec, sandbox, &account),
            "cwd": working_dir(image, spec),
            "capabilities": {"bounding": capabilities, "effective": held, "permitted": held, "inheritable": [], "ambient": []},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": open_files.min(SOFT_OPEN_FILES), "hard": open_files}],
            "noNewPrivileges": spec.no_new_privileges && !spec.privileged,
            "oomScoreAdj": spec.oom_score_adjust,
        },
        "root": {"path": places.root, "readonly": spec.read_only_root},
        "mounts": mounts(spec, places),
        "linux": linux,
    });
    if spec.tty
        && let Some(variables) = config["process"]["env"].as_array_mut()
    {
        // As containerd does; what the container itself says goes before it.
        variables.insert(0, json!("TERM=xterm"));
    }
    if places.netns.is_some() {
        config["hostname"] = json!(sandbox.hostname);
    }
    Ok(config)
}

/// The capabilities of a container. Source: containerd's `internal/cri/server/container_create_linux.go`.
fn capabilities(spec: &ContainerSpec) -> Result<Vec<&'static str>, String> {
    let every = || CAPABILITIES.into_iter().chain(MORE_CAPABILITIES);
    if spec.privileged {
        return Ok(every().collect());
    }
    let known = |name: &str| {
        let upper = name.to_ascii_uppercase();
        let wanted = upper.strip_prefix("CAP_").unwrap_or(&upper);
        every()
            .find(|known| &known["CAP_".len()..] == wanted)
            .ok_or_else(|| format!("there is no capability `{name}`"))
    };
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let mut held: Vec<&'static str> = CAPABILITIES.to_vec();
    if spec.capabilities_added.iter().any(is_all) {
        held = every().collect();
    }
    if spec.capabilities_dropped.iter().any(is_all) {
        held.clear();
    }
    for name in spec.capabilities_added.iter().filter(|name| !is_all(name)) {
        let capability = known(name)?;
        if !held.contains(&capability) {
            held.push(capability);
        }
    }
    for name in spec
        .capabilities_dropped
        .iter()
        .filter(|name| !is_all(name))
    {
        let capability = known(name)?;
        held.retain(|held| *held != capability);
    }
    Ok(held)
}

/// Where a container's process starts.
pub(crate) fn working_dir<'a>(image: &'a ImageRecord, spec: &'a ContainerSpec) -> &'a str {
    match spec.working_dir.as_deref().unwrap_or(&image.working_dir) {
        directory if directory.starts_with('/') => directory,
        _ => "/",
    }
}

/// Kubernetes' table of `command` and `args` against the image's own: a `command` also discards the image's `CMD`.
fn arguments(image: &ImageRecord, command: &[String], args: &[String]) -> Vec<String> {
    let (entrypoint, rest): (&[String], &[String]) = match (command.is_empty(), args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, args),
        (false, _) => (command, args),
    };
    [entrypoint, rest].concat()
}

fn environment(
    image: &ImageRecord,
    spec: &ContainerSpec,
    sandbox: &SandboxRecord,
    account: &Account,
) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let defaults = [
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOSTNAME".to_owned(), sandbox.hostname.clone()),
        ("HOME".to_owned(), account.home.clone()),
    ];
    let of_image = image
        .env
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()));
    for (key, value) in defaults
        .into_iter()
        .chain(of_image)
        .chain(spec.env.iter().cloned())
    {
        if values.insert(key.clone(), value).is_none() {
            order.push(key);
        }
    }
    order
        .into_iter()
        .filter_map(|key| values.remove(&key).map(|value| format!("{key}={value}")))
        .collect()
}

fn resources(spec: &ContainerSpec, controllers: &[String]) -> Value {
    let has = |name: &str| controllers.iter().any(|controller| controller == name);
    let mut resources = json!({});
    if has("pids") {
        resources["pids"] = json!({"limit": MAX_PIDS});
    }
    if let Some(limit) = spec.memory_limit_bytes.filter(|_| has("memory")) {
        // Without swap, so that the limit is one; whole groups die, so that no container lives on without a part of itself (the kubelet's way).
        resources["memory"] = json!({"limit": limit});
        resources["unified"] = json!({"memory.oom.group": "1"});
    }
    if has("cpu") {
        let mut cpu = json!({});
        if let Some(millis) = spec.cpu_limit_millis {
            // The kernel takes no less than 1 ms a period.
            cpu["period"] = json!(100_000);
            cpu["quota"] = json!((millis * 100).max(1000));
        }
        if let Some(millis) = spec.cpu_request_millis {
            cpu["shares"] = json!((millis * 1024 / 1000).max(2));
        }
        resources["cpu"] = cpu;
    }
    resources
}

fn mounts(spec: &ContainerSpec, places: &Places<'_>) -> Vec<Value> {
    let sys = if spec.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", sys]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", sys]}),
    ];
    for file in ["hosts", "hostname", "resolv.conf"] {
        let target = Path::new("/etc").join(file);
        if spec.mounts.iter().all(|mount| mount.target != target) {
            mounts.push(
                json!({"destination": target, "type": "bind", "source": places.etc.join(file),
                               "options": ["bind", "rw"]}),
            );
        }
    }
    for mount in &spec.mounts {
        let access = if mount.read_only { "ro" } else { "rw" };
        mounts.push(
            json!({"destination": mount.target, "type": "bind", "source": mount.source,
                           "options": ["rbind", "rprivate", access]}),
        );
    }
    mounts
}

/// Whom a container runs as.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    home: String,
}

/// Looks a user up in the container's own files, as Docker does: never in the node's, and never through NSS.
fn account(root: &Path, user: &str, run_as: Option<(u32, u32)>) -> Result<Account, String> {
    let passwd = layer::read_in_root(root, "etc/passwd", ACCOUNTS_BYTES).unwrap_or_default();
    let group = layer::read_in_root(root, "etc/group", ACCOUNTS_BYTES).unwrap_or_default();
    match run_as {
        Some((uid, gid)) => find_account(&passwd, &group, &format!("{uid}:{gid}")),
        None => find_account(&passwd, &group, user),
    }
}

fn find_account(passwd: &str, group: &str, wanted: &str) -> Result<Account, String> {
    let (user, wanted_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entries = || {
        passwd
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|fields| fields.len() >= 6)
    };
    let entry = entries()
        .find(|fields| fields[0] == user)
        .or_else(|| entries().find(|fields| fields[2] == user));
    let uid = match &entry {
        Some(fields) => fields[2]
            .parse()
            .map_err(|_| format!("user `{user}` has no number in the image's /etc/passwd"))?,
        None => user
            .parse()
            .map_err(|_| format!("user `{user}` is not in the image's /etc/passwd"))?,
    };
    let lines = || {
        group
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .filter(|fields| fields.len() >= 3)
    };
    let gid = match wanted_group {
        Some(name) => lines()
            .find(|fields| fields[0] == name)
            .and_then(|fields| fields[2].parse().ok())
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("group `{name}` is not in the image's /etc/group"))?,
        None => entry
            .as_ref()
            .and_then(|fields| fields[3].parse().ok())
            .unwrap_or(0),
    };
    let groups = match (&entry, wanted_group) {
        (Some(entry), None) => lines()
            .filter(|fields| {
                fields
                    .get(3)
                    .is_some_and(|members| members.split(',').any(|member| member == entry[0]))
            })
            .filter_map(|fields| fields[2].parse().ok())
            .filter(|number| *number != gid)
            .collect(),
        _ => Vec::new(),
    };
    let home = entry
        .map_or(
            "/",
            |fields| if fields[5].is_empty() { "/" } else { fields[5] },
        )
        .to_owned();
    Ok(Account {
        uid,
        gid,
        groups,
        home,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33:www:/var/www:/bin/false\nodd:x:7:8::\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nadm:x:4:www,root\nextra:x:50:www\n";

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let account = |uid, gid, groups: &[u32], home: &str| Account {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        };
        for (wanted, expected) in [
            ("", Ok(account(0, 0, &[4], "/root"))),
            ("www", Ok(account(33, 33, &[4, 50], "/var/www"))),
            ("33", Ok(account(33, 33, &[4, 50], "/var/www"))),
            ("www:extra", Ok(account(33, 50, &[], "/var/www"))),
            ("1000", Ok(account(1000, 0, &[], "/"))),
            ("1000:2000", Ok(account(1000, 2000, &[], "/"))),
            (
                "nobody",
                Err("user `nobody` is not in the image's /etc/passwd".to_owned()),
            ),
            (
                "www:nogroup",
                Err("group `nogroup` is not in the image's /etc/group".to_owned()),
            ),
        ] {
            assert_eq!(find_account(PASSWD, GROUP, wanted), expected, "{wanted}");
        }
    }

    #[test]
    fn command_and_args_follow_kubernetes_table() {
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let image = ImageRecord {
            entrypoint: words("/ep"),
            cmd: words("a b"),
            ..ImageRecord::default()
        };
        for (command, args, expected) in [
            ("", "", "/ep a b"),
            ("/c x", "", "/c x"),
            ("", "y z", "/ep y z"),
            ("/c", "y", "/c y"),
        ] {
            assert_eq!(
                arguments(&image, &words(command), &words(args)),
                words(expected),
                "{command} | {args}"
            );
        }
    }
}

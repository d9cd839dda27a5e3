//! Puts a machine back as it was before it became a node.
//!
//! ```text
//! faults healed ─► units gone ─► pods and helpers killed ─► mounts ─► links, routes, rules ─► sysctls, modules ─► files, the note last
//! ```
//! Interrupted anywhere, it can be started again. What the note says was there before is left alone. The journal's lines stay, as they
//! do for any service that was removed.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::ready;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{IpVersion, RouteMessageBuilder};
use rustix::mount::{UnmountFlags, unmount};

use super::before::{self, Before, MODULES};
use super::{
    CGROUP, CGROUP_ROOT, CLUSTER_FILE, CONFIG_DIR, DATA_DIR, MachineError, RUN_DIR, UNIT_DIR,
    doing, failed, fault, systemd,
};
use crate::model::addresses;

const UNITS: [&str; 3] = [
    "flightcage-agent.service",
    "flightcage-proxy.service",
    "flightcage-server.service",
];
/// The bridge of pods, and how the nodes' ends of pods' links are named.
const BRIDGE: &str = "fc0";
const POD_LINKS: &str = "fcv";
/// How often a control group's end is waited for, and how long between.
const LOOKS: u32 = 100;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Removes everything of ours. With `cluster`, only if the machine belongs to that one; a machine that belongs to none is fine.
///
/// # Errors
/// With everything that could not be removed.
pub async fn leave(cluster: Option<&str>) -> Result<(), MachineError> {
    let owner = before::owner().map_err(doing(format!("read `{CLUSTER_FILE}`")))?;
    if let (Some(cluster), Some(owner)) = (cluster, &owner)
        && cluster != owner
    {
        // Somebody else's: nothing of it is ours to remove.
        return Ok(());
    }
    let note: Option<Before> = fs::read(before::file())
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(before) = note else {
        // Nothing was begun after the binary had come.
        return remove_tree(&Path::new(DATA_DIR).join("bin"), None).map(|()| {
            let _ = fs::remove_dir(DATA_DIR);
        });
    };
    let steps = [
        fault::heal_everything().await,
        remove_units(),
        kill_pods().await,
        unmount_all(&before),
        remove_network().await,
        restore(&before),
        remove_tree(Path::new(CONFIG_DIR), Some(&before)),
        remove_tree(Path::new(RUN_DIR), Some(&before)),
    ];
    let problems: Vec<String> = steps
        .into_iter()
        .filter_map(Result::err)
        .map(|error| error.what)
        .collect();
    if !problems.is_empty() {
        return Err(failed(problems.join("; ")));
    }
    // With the note: from here on nothing is left to try again.
    remove_tree(Path::new(DATA_DIR), Some(&before))
}

fn systemctl(arguments: &[&str]) -> Result<(), MachineError> {
    let what = format!("systemctl {}", arguments.join(" "));
    let output = Command::new("systemctl")
        .args(arguments)
        .output()
        .map_err(doing(&what))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(format!(
            "{what}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )))
    }
}

fn remove_units() -> Result<(), MachineError> {
    let present: Vec<&str> = UNITS
        .into_iter()
        .filter(|unit| Path::new(UNIT_DIR).join(unit).exists())
        .collect();
    if present.is_empty() {
        return Ok(());
    }
    systemctl(&[&["disable", "--now", "--quiet"], present.as_slice()].concat())?;
    for unit in &present {
        remove(&Path::new(UNIT_DIR).join(unit))?;
    }
    systemctl(&["daemon-reload"])?;
    // A unit that failed once is remembered until it is reset; one that did not is no error.
    let _ = systemctl(&[&["reset-failed"], present.as_slice()].concat());
    Ok(())
}

/// Kills everything in our control groups and removes them.
async fn kill_pods() -> Result<(), MachineError> {
    let root = Path::new(CGROUP);
    if !root.exists() {
        return Ok(());
    }
    let _ = fs::write(root.join("cgroup.freeze"), b"0");
    fs::write(root.join("cgroup.kill"), b"1").map_err(doing("kill the pods"))?;
    for _ in 0..LOOKS {
        if remove_groups(root).is_ok() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    remove_groups(root).map_err(doing(format!("remove control group `{CGROUP}`")))
}

/// Removes a control group and those below it, the deepest first.
fn remove_groups(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Unmounts what was mounted since, the deepest and the last first.
fn unmount_all(before: &Before) -> Result<(), MachineError> {
    loop {
        let now = before::mounts();
        let Some(point) = now.difference(&before.mounts).last() else {
            return Ok(());
        };
        unmount(point, UnmountFlags::DETACH)
            .map_err(doing(format!("unmount `{}`", point.display())))?;
    }
}

async fn remove_network() -> Result<(), MachineError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(doing("open netlink"))?;
    let connection = tokio::spawn(connection);
    let removed = async {
        let mut links = handle.link().get().execute();
        let mut ours = Vec::new();
        while let Some(link) = links.try_next().await? {
            let name = link
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name.clone()),
                    _ => None,
                });
            if name.is_some_and(|name| name == BRIDGE || name.starts_with(POD_LINKS)) {
                ours.push(link.header.index);
            }
        }
        for index in ours {
            // Its namespace's end may have taken it away.
            let _ = handle.link().del(index).execute().await;
        }
        let mut routes = handle
            .route()
            .get(RouteMessageBuilder::<Ipv4Addr>::new().build())
            .execute();
        let mut stale = Vec::new();
        while let Some(route) = routes.try_next().await? {
            if is_ours(&route) {
                stale.push(route);
            }
        }
        for route in stale {
            handle.route().del(route).execute().await?;
        }
        let rules = handle.rule().get(IpVersion::V4).execute();
        // A kernel without routing rules says so instead of listing none.
        let rules: Vec<RuleMessage> = rules
            .try_filter(|rule| ready(is_fence(rule)))
            .try_collect()
            .await
            .unwrap_or_default();
        for rule in rules {
            handle.rule().del(rule).execute().await?;
        }
        Ok::<(), rtnetlink::Error>(())
    };
    let removed = removed.await;
    connection.abort();
    removed.map_err(doing("remove links and routes"))
}

/// Routes to other nodes' pods, and the local route of the service network. Preflight has refused machines with such routes of their own.
fn is_ours(route: &RouteMessage) -> bool {
    let destination = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
            _ => None,
        });
    let pods = addresses::pod_network(0).0.octets();
    destination.is_some_and(|destination| {
        let length = route.header.destination_prefix_length;
        (length == addresses::SERVICE_PREFIX && destination == addresses::SERVICE_NETWORK)
            || (length == 24 && destination.octets()[..2] == pods[..2])
    })
}

/// The rule by which an agent whose lease has lapsed refuses what comes for its pods (`agent/containers/network.rs`).
fn is_fence(rule: &RuleMessage) -> bool {
    let destination = rule
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Destination(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
    let (pods, length) = addresses::pod_network(0);
    rule.header.action == RuleAction::Prohibit
        && rule.header.dst_len == length
        && destination.is_some_and(|destination| destination.octets()[..2] == pods.octets()[..2])
}

fn restore(before: &Before) -> Result<(), MachineError> {
    for (path, value) in &before.sysctls {
        fs::write(path, value).map_err(doing(format!("restore `{path}`")))?;
    }
    for controller in before::controllers().difference(&before.controllers) {
        // One that somebody else uses by now stays.
        let _ = fs::write(
            Path::new(CGROUP_ROOT).join("cgroup.subtree_control"),
            format!("-{controller}"),
        );
    }
    // systemd's folder of links, made for ours: it goes only when it is empty.
    let wants = Path::new(UNIT_DIR).join("multi-user.target.wants");
    if !before.paths.contains(&wants) {
        let _ = fs::remove_dir(wants);
    }
    // In the order of the list: users before what they use. One that somebody else uses by now stays.
    let now = before::modules();
    for module in MODULES
        .iter()
        .filter(|module| now.contains(**module) && !before.modules.contains(**module))
    {
        let _ = Command::new("modprobe")
            .args(["--remove", "--quiet", module])
            .env("PATH", systemd::PATH)
            .output();
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), MachineError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed(format!("remove `{}`: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

/// Removes a folder of ours, but for what was there before.
fn remove_tree(folder: &Path, before: Option<&Before>) -> Result<(), MachineError> {
    let kept = |path: &Path| before.is_some_and(|before| before.paths.contains(path));
    let entries: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    // The note goes last: until then the rest can be tried again.
    let note = before::file();
    for entry in entries
        .iter()
        .filter(|entry| **entry != note)
        .chain(entries.iter().filter(|entry| **entry == note))
    {
        if !kept(entry) {
            remove(entry)?;
        }
    }
    if kept(folder) || !folder.exists() {
        return Ok(());
    }
    fs::remove_dir(folder).map_err(doing(format!("remove `{}`", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_told_from_other_peoples_rules() {
        let rule = |address: [u8; 4], length, action| {
            let mut rule = RuleMessage::default();
            rule.header.dst_len = length;
            rule.header.action = action;
            rule.attributes = vec![
                RuleAttribute::Priority(100),
                RuleAttribute::Destination(IpAddr::from(address)),
            ];
            is_fence(&rule)
        };
        assert!(rule([10, 78, 2, 0], 24, RuleAction::Prohibit));
        assert!(!rule([10, 78, 2, 0], 24, RuleAction::ToTable));
        assert!(!rule([10, 78, 0, 0], 16, RuleAction::Prohibit));
        assert!(!rule([10, 80, 2, 0], 24, RuleAction::Prohibit));
        assert!(!is_fence(&RuleMessage::default()));
    }
}

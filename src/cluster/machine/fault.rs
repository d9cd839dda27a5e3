//! Faults on a machine whose kernel is not ours: rules on what its network devices send and receive, and its units and pods frozen.
//!
//! Every fault holds its own deadline on the machine, a transient systemd timer that heals it, started *before* the fault acts: a host
//! that loses the machine, or dies, leaves nothing broken for longer. Whoever wants a fault to last tells it again before then.
//!
//! Dropping happens in `tc` on the device, silently, as a cable that is cut drops: a firewall rule or a blackhole route would tell local
//! senders at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::systemd::{start_timer, stop_timers, timers, tool};
use super::{CGROUP, CGROUP_ROOT, MachineError, RUN_DIR, doing, failed, silence, systemd};

/// Our place among a device's filters.
const PRIORITY: &str = "7700";
/// Our queueing discipline.
const HANDLE: &str = "7700:";
/// Different links that one device shapes: the most bands of `prio`, without the first, which is for everything else.
const SHAPED_MAX: usize = 15;
/// `tcpmux`, which nobody has served for decades.
const PROBE_PORT: u16 = 1;
/// Between two probes.
const PROBE_GAP: Duration = Duration::from_millis(4);
/// Units that a freeze stops.
const FROZEN_UNITS: [&str; 3] = ["flightcage-agent", "flightcage-proxy", "flightcage-server"];

/// What a machine's links are to do, in place of whatever they did before. No rules: everything passes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkOrders {
    /// They heal themselves after this.
    pub hold_s: u64,
    /// In order.
    pub rules: Vec<LinkOrder>,
}

/// What happens to packets to or from one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkOrder {
    /// The peer's own address: it decides the device.
    pub peer: Ipv4Addr,
    /// The networks behind it, `10.78.1.0/24`.
    pub networks: Vec<String>,
    /// Which way.
    pub direction: Direction,
    /// What happens to them.
    pub effect: Effect,
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From this machine to the peer.
    Out,
    /// From the peer to this machine.
    In,
}

/// What happens to packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// They vanish.
    Cut,
    /// The words of `tc qdisc … netem`; outward only.
    Shape(Vec<String>),
}

/// What acts now, so that it can be found again by another process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Acting {
    timers: BTreeSet<String>,
    /// What was ordered.
    rules: Vec<LinkOrder>,
    /// Devices, and whether their `clsact` and root queueing discipline are ours.
    devices: BTreeMap<String, Touched>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Touched {
    clsact: bool,
    root: bool,
}

fn state_file() -> PathBuf {
    Path::new(RUN_DIR).join("links.json")
}

fn read_state() -> Acting {
    fs::read(state_file())
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn write_state(state: &Acting) -> Result<(), MachineError> {
    let what = || doing(format!("write `{}`", state_file().display()));
    fs::create_dir_all(RUN_DIR).map_err(what())?;
    fs::write(state_file(), serde_json::to_vec(state).expect("plain data")).map_err(what())
}

/// Lets the links do what is ordered, and nothing else. `client`: the address from which we are spoken to, which must not be cut off.
///
/// # Errors
/// When a device has a queueing discipline of its own, a tool fails, or the orders would cut us off. Then nothing acts.
pub fn set_links(orders: &LinkOrders, client: Option<IpAddr>) -> Result<(), MachineError> {
    for order in &orders.rules {
        if let Some(IpAddr::V4(client)) = client
            && order
                .networks
                .iter()
                .any(|network| contains(network, client))
        {
            return Err(failed(format!(
                "the rule for {} would cut off {client}, from where we speak with the machine",
                order.peer
            )));
        }
    }
    if orders.rules.is_empty() {
        return heal_links();
    }
    let mut state = read_state();
    let old_timers = std::mem::take(&mut state.timers);
    state
        .timers
        .insert(start_timer("links", orders.hold_s, "heal-links")?);
    if state.rules == orders.rules {
        // Told again, so that it lasts: nothing passes in between.
        write_state(&state)?;
        stop_timers(&old_timers);
        return Ok(());
    }
    state.rules.clone_from(&orders.rules);
    let result = apply(orders, &mut state);
    stop_timers(&old_timers);
    if result.is_err() {
        // The error is what matters; the timer heals what this cannot.
        let _ = heal_links();
    }
    result
}

fn apply(orders: &LinkOrders, state: &mut Acting) -> Result<(), MachineError> {
    let mut by_device: BTreeMap<String, Vec<&LinkOrder>> = BTreeMap::new();
    for order in &orders.rules {
        by_device
            .entry(device_to(order.peer)?)
            .or_default()
            .push(order);
    }
    for device in state
        .devices
        .keys()
        .filter(|device| !by_device.contains_key(*device))
        .cloned()
        .collect::<Vec<_>>()
    {
        clear(&device, state.devices[&device])?;
        state.devices.remove(&device);
    }
    for (device, orders) in by_device {
        let mut touched = state.devices.get(&device).copied().unwrap_or_default();
        let qdiscs = tool(&["tc", "qdisc", "show", "dev", &device])?;
        if !touched.clsact && !qdiscs.contains("qdisc clsact") {
            touched.clsact = true;
        }
        let shaped: Vec<&LinkOrder> = orders
            .iter()
            .copied()
            .filter(|order| matches!(order.effect, Effect::Shape(_)))
            .collect();
        if !shaped.is_empty() && !touched.root {
            if let Some(own) = own_root(&qdiscs) {
                return Err(failed(format!(
                    "device `{device}` has the queueing discipline `{own}`, which we do not replace"
                )));
            }
            touched.root = true;
        }
        // Known before it is done: whoever comes after us undoes it.
        state.devices.insert(device.clone(), touched);
        write_state(state)?;
        let cuts = orders
            .iter()
            .copied()
            .filter(|order| order.effect == Effect::Cut);
        cut(&device, cuts)?;
        shape(&device, &shaped, touched)?;
    }
    write_state(state)
}

fn cut<'a>(device: &str, orders: impl Iterator<Item = &'a LinkOrder>) -> Result<(), MachineError> {
    if !tool(&["tc", "qdisc", "show", "dev", device])?.contains("qdisc clsact") {
        tool(&["tc", "qdisc", "add", "dev", device, "clsact"])?;
    }
    for side in ["egress", "ingress"] {
        // None there is no error to us, but one to `tc`.
        let _ = tool(&["tc", "filter", "del", "dev", device, side, "pref", PRIORITY]);
    }
    for order in orders {
        let (side, end) = match order.direction {
            Direction::Out => ("egress", "dst"),
            Direction::In => ("ingress", "src"),
        };
        for network in &order.networks {
            let filter = [
                "tc", "filter", "add", "dev", device, side, "pref", PRIORITY, "protocol", "ip",
                "u32",
            ];
            tool(
                &[
                    &filter[..],
                    &["match", "ip", end, network, "action", "drop"],
                ]
                .concat(),
            )?;
        }
    }
    Ok(())
}

fn shape(device: &str, orders: &[&LinkOrder], touched: Touched) -> Result<(), MachineError> {
    if touched.root {
        let _ = tool(&[
            "tc", "qdisc", "del", "dev", device, "root", "handle", HANDLE,
        ]);
    }
    if orders.is_empty() {
        return Ok(());
    }
    if orders.len() > SHAPED_MAX {
        return Err(failed(format!(
            "device `{device}` can shape {SHAPED_MAX} links, not {}",
            orders.len()
        )));
    }
    // Everything else goes through the first band, untouched.
    let bands = (orders.len() + 1).max(2).to_string();
    let prio = [
        "tc", "qdisc", "add", "dev", device, "root", "handle", HANDLE, "prio", "bands", &bands,
        "priomap",
    ];
    tool(&[&prio[..], &["0"; 16]].concat())?;
    for (index, order) in orders.iter().enumerate() {
        let Effect::Shape(words) = &order.effect else {
            continue;
        };
        let class = format!("{HANDLE}{:x}", index + 2);
        let mut netem = vec![
            "tc", "qdisc", "add", "dev", device, "parent", &class, "netem", "limit", "10000",
        ];
        netem.extend(words.iter().map(String::as_str));
        tool(&netem)?;
        for network in &order.networks {
            let filter = [
                "tc", "filter", "add", "dev", device, "parent", HANDLE, "pref", PRIORITY,
                "protocol", "ip", "u32",
            ];
            tool(
                &[
                    &filter[..],
                    &["match", "ip", "dst", network, "flowid", &class],
                ]
                .concat(),
            )?;
        }
    }
    Ok(())
}

/// A device's queueing discipline that somebody has chosen: one with a handle. Neither the kernel's defaults nor ours have one of those.
fn own_root(qdiscs: &str) -> Option<String> {
    qdiscs
        .lines()
        .find(|line| line.contains(" root") && !line.contains(" 0: ") && !line.contains(HANDLE))
        .map(|line| line.trim().to_owned())
}

/// The device on which packets to `peer` leave.
fn device_to(peer: Ipv4Addr) -> Result<String, MachineError> {
    let route = tool(&["ip", "-o", "route", "get", &peer.to_string()])?;
    let mut words = route.split_whitespace();
    let device = words.find(|word| *word == "dev").and_then(|_| words.next());
    device
        .map(str::to_owned)
        .ok_or_else(|| failed(format!("no device leads to {peer}: `{}`", route.trim())))
}

fn clear(device: &str, touched: Touched) -> Result<(), MachineError> {
    if !Path::new("/sys/class/net").join(device).exists() {
        return Ok(());
    }
    for side in ["egress", "ingress"] {
        let _ = tool(&["tc", "filter", "del", "dev", device, side, "pref", PRIORITY]);
    }
    let qdiscs = tool(&["tc", "qdisc", "show", "dev", device])?;
    // A service that is silenced meanwhile has filters of its own there, and takes it away with them.
    if touched.clsact && qdiscs.contains("qdisc clsact") && !silence::acts() {
        tool(&["tc", "qdisc", "del", "dev", device, "clsact"])?;
    }
    if touched.root && qdiscs.contains(HANDLE) {
        tool(&["tc", "qdisc", "del", "dev", device, "root"])?;
    }
    Ok(())
}

/// Lets everything pass again.
///
/// # Errors
/// When a tool fails; the timer tries again.
pub fn heal_links() -> Result<(), MachineError> {
    let state = read_state();
    for (device, touched) in &state.devices {
        clear(device, *touched)?;
    }
    match fs::remove_file(state_file()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed(format!(
                "remove `{}`: {error}",
                state_file().display()
            )));
        }
        _ => {}
    }
    stop_timers(&state.timers);
    Ok(())
}

/// Round trips to a peer, measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundTrips {
    /// Attempts.
    pub sent: u32,
    /// How long each that was answered took, in milliseconds.
    pub answered_ms: Vec<f64>,
}

/// Knocks at a port of `peer` where nobody listens, `count` times: its kernel answers that at once, and needs nothing of ours for it.
pub async fn probe(peer: Ipv4Addr, count: u32, limit: Duration) -> RoundTrips {
    let mut attempts = JoinSet::new();
    for number in 0..count {
        attempts.spawn(async move {
            tokio::time::sleep(PROBE_GAP * number).await;
            let begun = Instant::now();
            // A refusal is the answer; a SYN that is lost is sent again after a second, which is no answer any more.
            let answered = timeout(limit, TcpStream::connect((peer, PROBE_PORT))).await;
            let refused = |result: &io::Result<_>| match result {
                Ok(_) => true,
                Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
            };
            answered
                .is_ok_and(|result| refused(&result))
                .then(|| begun.elapsed().as_secs_f64() * 1000.0)
        });
    }
    let answered_ms = attempts.join_all().await.into_iter().flatten().collect();
    RoundTrips {
        sent: count,
        answered_ms,
    }
}

/// Freezes our units and all pods, for at most `hold_s`. The kernel, and with it what it accepts for them, goes on.
///
/// # Errors
/// When a control group cannot be frozen; then nothing is.
pub async fn freeze(hold_s: u64) -> Result<(), MachineError> {
    start_timer("freeze", hold_s, "thaw")?;
    for group in groups() {
        if let Err(error) = set_frozen(&group, true).await {
            let _ = thaw().await;
            return Err(error);
        }
    }
    Ok(())
}

/// Lets everything that was frozen go on.
///
/// # Errors
/// When a control group cannot be thawed; the timer tries again.
pub async fn thaw() -> Result<(), MachineError> {
    for group in groups() {
        set_frozen(&group, false).await?;
    }
    stop_timers(&timers("freeze"));
    Ok(())
}

/// Control groups of units that run, and of the pods.
fn groups() -> Vec<PathBuf> {
    let unit = |unit: &str| Path::new(CGROUP_ROOT).join(format!("{unit}.service"));
    FROZEN_UNITS
        .into_iter()
        .map(unit)
        .chain([PathBuf::from(CGROUP)])
        .filter(|group| group.exists())
        .collect()
}

/// Freezes or thaws a control group, and returns when the kernel says that it has.
pub(super) async fn set_frozen(group: &Path, frozen: bool) -> Result<(), MachineError> {
    let what = || {
        format!(
            "{} `{}`",
            if frozen { "freeze" } else { "thaw" },
            group.display()
        )
    };
    fs::write(group.join("cgroup.freeze"), if frozen { "1" } else { "0" })
        .map_err(doing(what()))?;
    let wanted = format!("frozen {}", u8::from(frozen));
    for _ in 0..100 {
        let events = fs::read_to_string(group.join("cgroup.events")).map_err(doing(what()))?;
        if events.lines().any(|line| line == wanted) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(failed(format!(
        "{}: the kernel did not do it within 5 s",
        what()
    )))
}

/// Ends every fault of ours on this machine.
///
/// # Errors
/// When one cannot be healed.
pub async fn heal_everything() -> Result<(), MachineError> {
    heal_links()?;
    thaw().await?;
    stop_timers(&timers("links"));
    silence::hear_all()?;
    systemd::stop_all_faults();
    Ok(())
}

/// Whether `10.78.1.0/24` holds an address.
fn contains(network: &str, address: Ipv4Addr) -> bool {
    let (base, length) = network.split_once('/').unwrap_or((network, "32"));
    let (Ok(base), Ok(length)) = (base.parse::<Ipv4Addr>(), length.parse::<u32>()) else {
        return false;
    };
    let mask = u32::MAX
        .checked_shl(32_u32.saturating_sub(length))
        .unwrap_or(0);
    base.to_bits() & mask == address.to_bits() & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queueing_discipline_that_somebody_chose_is_told_from_defaults() {
        assert_eq!(
            own_root("qdisc noqueue 0: root refcnt 2 \nqdisc clsact ffff: parent ffff:fff1 \n"),
            None
        );
        assert_eq!(own_root("qdisc prio 7700: root refcnt 2 bands 2\n"), None);
        assert_eq!(
            own_root("qdisc htb 1: root refcnt 2 r2q 10\n").as_deref(),
            Some("qdisc htb 1: root refcnt 2 r2q 10")
        );
    }

    #[test]
    fn orders_that_would_cut_us_off_are_refused() {
        let order = LinkOrder {
            peer: Ipv4Addr::new(10, 0, 0, 5),
            networks: vec!["10.0.0.5/32".into(), "10.78.1.0/24".into()],
            direction: Direction::Out,
            effect: Effect::Cut,
        };
        let orders = LinkOrders {
            hold_s: 60,
            rules: vec![order],
        };
        let error = set_links(&orders, Some(IpAddr::from([10, 0, 0, 5])))
            .unwrap_err()
            .to_string();
        assert!(error.contains("would cut off 10.0.0.5"), "{error}");
    }
}

//! A service of the cluster that a machine gets no answer from any more: what the machine and its pods send to it is dropped.
//!
//! `tc` drops it on the devices on which it passes, silently, as in [`super::fault`]. The filters are told by their place among a
//! device's own, and a timer removes them without us. Two steps cannot silence one service of a machine at the same time.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::order::{Order, Seen};
use super::process;
use super::systemd::{fault_unit, start_deadline, stop_deadline, tool};
use super::{CGROUP, CONFIG_DIR, MachineError, doing, failed};
use crate::model::addresses::DNS_SERVICE;

/// The bridge that pods' questions come in by.
const BRIDGE: &str = "fc0";
/// Where DNS is asked.
const DNS_PORT: u16 = 53;
/// How long the mirror may take to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long a question to DNS waits for its answer, and how often it is asked.
const ANSWER_LIMIT: Duration = Duration::from_millis(400);
const QUESTIONS: u32 = 3;
/// How often it is looked whether a service answers again, and the pause between.
const LOOKS: u32 = 20;
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Marks our question among answers.
const QUESTION_ID: [u8; 2] = [0xFC, 0x53];
/// A name that every cluster has.
const QUESTION_NAME: &str = "kubernetes.default.svc.cluster.local";

/// What a machine asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Served {
    /// The registry mirror.
    Registry,
    /// The cluster's DNS.
    Dns,
}

/// A device, and which way the questions pass on it.
type Passage = (String, &'static str);

impl Served {
    const ALL: [Self; 2] = [Self::Registry, Self::Dns];

    /// What its timer is named after.
    fn what(self) -> &'static str {
        match self {
            Self::Registry => "registry-down",
            Self::Dns => "dns-fail",
        }
    }

    /// Our filter's place among a device's.
    fn preference(self) -> &'static str {
        match self {
            Self::Registry => "7701",
            Self::Dns => "7702",
        }
    }

    fn address(self) -> Result<SocketAddrV4, MachineError> {
        match self {
            Self::Dns => Ok(SocketAddrV4::new(DNS_SERVICE, DNS_PORT)),
            Self::Registry => {
                let file = Path::new(CONFIG_DIR).join("agent.toml");
                let what = || doing(format!("read `{}`", file.display()));
                let text = fs::read_to_string(&file).map_err(what())?;
                registry_in(&text)
                    .ok_or_else(|| failed(format!("`{}` names no registry", file.display())))
            }
        }
    }

    /// Where its questions pass.
    fn passages(self, address: Ipv4Addr) -> Result<Vec<Passage>, MachineError> {
        Ok(match self {
            Self::Registry => vec![(device_to(address)?, "egress")],
            Self::Dns => {
                // The machine's own questions, and those of its pods.
                let mut passages = vec![("lo".to_owned(), "egress")];
                if Path::new("/sys/class/net").join(BRIDGE).exists() {
                    passages.push((BRIDGE.to_owned(), "ingress"));
                }
                passages
            }
        })
    }
}

/// Silences a service for at most `hold_s`, and returns when a question there gets no answer.
pub(super) async fn silence(
    service: Served,
    hold_s: u64,
    name: &str,
) -> Result<Seen, MachineError> {
    let unit = fault_unit(service.what(), name)?;
    let address = service.address()?;
    let acting = timers(service);
    if acting.iter().any(|acts| *acts != unit) {
        let what = service.what();
        return Err(failed(format!(
            "another step's {what} acts on this machine"
        )));
    }
    if acting.is_empty() {
        let before = ask(service, address).await?;
        if !before.all_answered() {
            return Err(failed(format!(
                "{address} does not answer before anything is done: {before}"
            )));
        }
    }
    let hear_order = Order::Hear {
        service,
        name: name.to_owned(),
    };
    start_deadline(&unit, hold_s, &hear_order)?;
    let dropped = service
        .passages(*address.ip())
        .and_then(|passages| drop_all(service, address, &passages));
    if let Err(error) = dropped {
        // The error is what matters; the timer removes what this cannot.
        let _ = remove(service, address);
        stop_deadline(&unit);
        return Err(error);
    }
    let since = Instant::now();
    let asked = ask(service, address).await?;
    Ok(Seen::new(
        asked.answered == 0,
        format!("{address}: {asked}"),
        since,
    ))
}

/// Lets a service be heard again, and returns when it answers.
pub(super) async fn hear(service: Served, name: &str) -> Result<Seen, MachineError> {
    let unit = fault_unit(service.what(), name)?;
    let acting = timers(service);
    if !acting.is_empty() && !acting.contains(&unit) {
        let measured = "another step's fault acts on it, and is left".to_owned();
        return Ok(Seen::new(true, measured, Instant::now()));
    }
    let address = service.address()?;
    remove(service, address)?;
    stop_deadline(&unit);
    let mut asked = ask(service, address).await?;
    for _ in 0..LOOKS {
        if asked.all_answered() {
            break;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
        asked = ask(service, address).await?;
    }
    Ok(Seen::new(
        asked.all_answered(),
        format!("{address}: {asked}"),
        Instant::now(),
    ))
}

/// Lets everything be heard again, whoever silenced it.
pub(super) fn hear_all() -> Result<(), MachineError> {
    for service in Served::ALL {
        let acting = timers(service);
        if acting.is_empty() {
            continue;
        }
        remove(service, service.address()?)?;
        acting.iter().for_each(|unit| stop_deadline(unit));
    }
    Ok(())
}

/// Whether any service is silenced here.
pub(super) fn acts() -> bool {
    Served::ALL
        .into_iter()
        .any(|service| !timers(service).is_empty())
}

/// The units whose timers wait to let a service be heard again.
fn timers(service: Served) -> Vec<String> {
    let pattern = format!("flightcage-fault_{}_*.timer", service.what());
    let listed = tool(&[
        "systemctl",
        "list-units",
        "--plain",
        "--no-legend",
        &pattern,
    ]);
    let listed = listed.unwrap_or_default();
    let names = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    names
        .filter_map(|name| name.strip_suffix(".timer"))
        .map(str::to_owned)
        .collect()
}

fn drop_all(
    service: Served,
    address: SocketAddrV4,
    passages: &[Passage],
) -> Result<(), MachineError> {
    let to = format!("{}/32", address.ip());
    let port = address.port().to_string();
    for (device, side) in passages {
        if !has_clsact(device)? {
            tool(&["tc", "qdisc", "add", "dev", device, "clsact"])?;
        }
        remove_filter(service, device, side);
        // Ports stand at the same place for TCP and UDP.
        tool(&[
            "tc",
            "filter",
            "add",
            "dev",
            device,
            side,
            "pref",
            service.preference(),
            "protocol",
            "ip",
            "u32",
            "match",
            "ip",
            "dst",
            &to,
            "match",
            "ip",
            "dport",
            &port,
            "0xffff",
            "action",
            "drop",
        ])?;
    }
    Ok(())
}

fn remove(service: Served, address: SocketAddrV4) -> Result<(), MachineError> {
    for (device, side) in service.passages(*address.ip())? {
        if !has_clsact(&device)? {
            continue;
        }
        remove_filter(service, &device, side);
        let filters = |side| tool(&["tc", "filter", "show", "dev", &device, side]);
        if filters("ingress")?.trim().is_empty() && filters("egress")?.trim().is_empty() {
            tool(&["tc", "qdisc", "del", "dev", &device, "clsact"])?;
        }
    }
    Ok(())
}

fn remove_filter(service: Served, device: &str, side: &str) {
    let place = service.preference();
    // None there is no error to us, but one to `tc`.
    let _ = tool(&["tc", "filter", "del", "dev", device, side, "pref", place]);
}

fn has_clsact(device: &str) -> Result<bool, MachineError> {
    Ok(tool(&["tc", "qdisc", "show", "dev", device])?.contains("qdisc clsact"))
}

/// The device on which packets to an address leave.
fn device_to(address: Ipv4Addr) -> Result<String, MachineError> {
    let route = tool(&["ip", "-o", "route", "get", &address.to_string()])?;
    let mut words = route.split_whitespace();
    let device = words.find(|word| *word == "dev").and_then(|_| words.next());
    device
        .map(str::to_owned)
        .ok_or_else(|| failed(format!("no device leads to {address}: `{}`", route.trim())))
}

fn registry_in(config: &str) -> Option<SocketAddrV4> {
    let config: toml::Table = toml::from_str(config).ok()?;
    let url = config.get("registry")?.as_str()?;
    url.strip_prefix("https://")?.parse().ok()
}

/// What came of asking from the machine, and from a pod where one runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    questions: u32,
    answered: u32,
}

impl Asked {
    fn all_answered(self) -> bool {
        self.answered == self.questions
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} questions", self.answered, self.questions)?;
        f.write_str(" were answered")
    }
}

async fn ask(service: Served, address: SocketAddrV4) -> Result<Asked, MachineError> {
    if service == Served::Registry {
        let connected = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        return Ok(Asked {
            questions: 1,
            answered: u32::from(matches!(connected, Ok(Ok(_)))),
        });
    }
    let mut asked = Asked {
        questions: 0,
        answered: 0,
    };
    for namespace in [None].into_iter().chain(pod_namespace().map(Some)) {
        let answered = ask_in_thread(namespace, address).map_err(doing("ask the cluster's DNS"))?;
        asked.questions += 1;
        asked.answered += u32::from(answered);
    }
    Ok(asked)
}

/// The network namespace of a pod that runs here, if one does that has its own.
fn pod_namespace() -> Option<PathBuf> {
    let own = fs::read_link("/proc/self/ns/net").ok()?;
    let groups = fs::read_dir(CGROUP).ok()?.flatten();
    let pods = groups.filter(|entry| entry.file_name().to_string_lossy().starts_with("pod"));
    pods.flat_map(|pod| process::in_group(&pod.path()).unwrap_or_default())
        .map(|process| PathBuf::from(format!("/proc/{}/ns/net", process.pid)))
        .find(|path| fs::read_link(path).is_ok_and(|namespace| namespace != own))
}

/// In a thread of its own, which ends with it: a thread that has entered a namespace serves nobody else.
fn ask_in_thread(namespace: Option<PathBuf>, address: SocketAddrV4) -> io::Result<bool> {
    let asking = move || -> io::Result<bool> {
        if let Some(path) = namespace {
            let namespace = fs::File::open(path)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        ask_dns(address)
    };
    let thread = std::thread::Builder::new()
        .name("ask".to_owned())
        .spawn(asking)?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that asked panicked")))
}

/// Whether DNS answers with the address of a name that is there.
fn ask_dns(address: SocketAddrV4) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let question = question(QUESTION_NAME);
    for _ in 0..QUESTIONS {
        // Nobody who listens is no answer either, and is told to the next call.
        if socket.send(&question).is_err() {
            continue;
        }
        let mut answer = [0_u8; 512];
        if let Ok(count) = socket.recv(&mut answer)
            && is_answer(&answer[..count])
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A question for the IPv4 address of a name (RFC 1035, section 4).
fn question(name: &str) -> Vec<u8> {
    let mut bytes = QUESTION_ID.to_vec();
    // Recursion is wished; one question, nothing else.
    bytes.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend(label.as_bytes());
    }
    // The root; type A; class IN.
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// An answer to our question, without an error and with at least one record.
fn is_answer(bytes: &[u8]) -> bool {
    let [
        id_high,
        id_low,
        flags,
        code,
        _,
        _,
        answers_high,
        answers_low,
        ..,
    ] = bytes
    else {
        return false;
    };
    [*id_high, *id_low] == QUESTION_ID
        && flags & 0x80 != 0
        && code & 0x0F == 0
        && (*answers_high, *answers_low) != (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_that_of_the_agents_configuration() {
        let told = registry_in("node = \"w1\"\nregistry = \"https://10.77.0.1:5000\"\n");
        assert_eq!(told, Some("10.77.0.1:5000".parse().unwrap()));
        assert_eq!(registry_in("node = \"w1\"\n"), None);
        assert_eq!(registry_in("registry = \"https://mirror:5000\"\n"), None);
    }

    #[test]
    fn an_answer_is_ours_right_and_not_empty() {
        let asked = question("a.bc");
        assert_eq!(asked[12..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
        assert!(!is_answer(&asked), "a question is no answer");
        let answer = |flags: [u8; 2], count: u8| {
            let mut bytes = QUESTION_ID.to_vec();
            bytes.extend(flags);
            bytes.extend([0, 1, 0, count, 0, 0, 0, 0]);
            bytes
        };
        assert!(is_answer(&answer([0x85, 0x80], 1)));
        assert!(!is_answer(&answer([0x85, 0x80], 0)), "no record");
        assert!(!is_answer(&answer([0x85, 0x82], 1)), "SERVFAIL");
        let mut other = answer([0x85, 0x80], 1);
        other[0] = 0;
        assert!(!is_answer(&other), "the answer to another question");
        assert!(!is_answer(&[]));
    }

    /// A server that answers the second question only, and one that never does.
    #[test]
    fn silence_is_told_from_an_answer_that_comes_late() {
        let serve = |answers: bool| {
            let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = server.local_addr().unwrap();
            let std::net::SocketAddr::V4(address) = address else {
                panic!("bound to IPv4");
            };
            let serving = std::thread::spawn(move || {
                let mut bytes = [0_u8; 512];
                for number in 0..2 {
                    let (count, from) = server.recv_from(&mut bytes).unwrap();
                    if answers && number == 1 {
                        bytes[2] |= 0x80;
                        bytes[7] = 1;
                        server.send_to(&bytes[..count], from).unwrap();
                    }
                }
            });
            let answered = ask_in_thread(None, address).unwrap();
            serving.join().unwrap();
            answered
        };
        assert!(serve(true));
        assert!(!serve(false));
    }
}

//! What is seen of a cluster at one moment, as the page is told: plain data, made of what the daemon and the API say by pure functions.
//! The browser writes all of it as text, never as HTML.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde::Serialize;

use crate::balancer::EndpointView;
use crate::cli::board::clock;
use crate::cluster::daemon::{LinkState, Served};
use crate::machines::provider::{Machine, Power};
use crate::model::cluster::{MachineSpec, Role};

/// So many pods, and so many endpoints, are shown; the rest is counted.
pub(super) const ROWS_MAX: usize = 300;

/// Everything that is shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Facts {
    /// One a machine, in the order of the cluster file.
    pub(super) machines: Vec<MachineFacts>,
    /// By node and name.
    pub(super) pods: Vec<PodFacts>,
    /// Directed links on which something acts.
    pub(super) links: Vec<LinkFacts>,
    /// What the host's load balancer knows.
    pub(super) endpoints: Vec<EndpointFacts>,
    /// What a scenario's journal says may still act, and troubles seen in machines.
    pub(super) notes: Vec<String>,
    /// What could not be looked at, and what is not shown.
    pub(super) gaps: Vec<String>,
}

/// A machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct MachineFacts {
    pub(super) name: String,
    pub(super) role: &'static str,
    /// `on`, `off`, `frozen`.
    pub(super) power: &'static str,
    /// What the API says of its node.
    pub(super) ready: &'static str,
    /// How long its process runs, its share of the host's processors, its memory; empty where that is not known.
    pub(super) process: String,
    /// The console's last lines.
    pub(super) console: Vec<String>,
}

/// A pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct PodFacts {
    /// Empty while it has none.
    pub(super) node: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) state: String,
    /// Ready containers of all.
    pub(super) ready: String,
    pub(super) restarts: i32,
    /// Whether nothing is wrong with it.
    pub(super) good: bool,
}

/// A directed link on which rules act.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct LinkFacts {
    pub(super) from: String,
    pub(super) to: String,
    /// The rules, each with its tag.
    pub(super) rules: String,
    /// What the rules dropped so far, where that is counted.
    pub(super) counted: String,
    /// Whether nothing passes.
    pub(super) cut: bool,
}

/// An endpoint of a Service port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct EndpointFacts {
    pub(super) service: String,
    /// Where this host reaches the Service; empty if it does not.
    pub(super) host: String,
    pub(super) endpoint: String,
    pub(super) node: String,
    /// What the balancer thinks of it.
    pub(super) state: &'static str,
    pub(super) open: usize,
    pub(super) waiting: usize,
    pub(super) tried: u64,
    pub(super) failed: u64,
    /// Whether new connections go to it first.
    pub(super) good: bool,
}

/// What this host's kernel says of a machine's process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Usage {
    /// Since it was started.
    pub(super) age: Duration,
    /// Of one processor, since the last look.
    pub(super) processors: Option<f64>,
    /// In the host's memory.
    pub(super) memory_bytes: u64,
}

/// What is known of a machine's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NodeReady {
    /// The API does not answer.
    Unknown,
    /// It has no such node.
    Absent,
    Ready,
    NotReady,
}

impl MachineFacts {
    pub(super) fn new(
        spec: &MachineSpec,
        found: Option<&Machine>,
        ready: NodeReady,
        usage: Option<Usage>,
        console: Vec<String>,
    ) -> Self {
        Self {
            name: spec.name.to_string(),
            role: match spec.role {
                Role::Controller => "controller",
                Role::Worker => "worker",
            },
            power: match found.map_or(Power::Off, |found| found.power) {
                Power::On => "on",
                Power::Off => "off",
                Power::Frozen => "frozen",
            },
            ready: match ready {
                NodeReady::Unknown => "the API does not answer",
                NodeReady::Absent => "no node of the API",
                NodeReady::Ready => "Ready",
                NodeReady::NotReady => "not Ready",
            },
            process: usage.map(in_words).unwrap_or_default(),
            console,
        }
    }
}

fn in_words(usage: Usage) -> String {
    let mebibytes = usage.memory_bytes >> 20;
    let age = clock(usage.age);
    match usage.processors {
        Some(processors) => {
            format!("runs {age} · {processors:.2} processors · {mebibytes} MiB")
        }
        None => format!("runs {age} · {mebibytes} MiB"),
    }
}

impl PodFacts {
    pub(super) fn new(pod: &Pod) -> Self {
        let containers: &[ContainerStatus] = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default();
        let wanted = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
        let ready = containers.iter().filter(|one| one.ready).count();
        let state = state(pod, containers);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        Self {
            node: node.unwrap_or_default(),
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            good: state == "Succeeded" || state == "Running" && ready == wanted,
            state,
            ready: format!("{ready}/{wanted}"),
            restarts: containers.iter().map(|one| one.restart_count).sum(),
        }
    }
}

/// What `kubectl get pods` would say of it.
fn state(pod: &Pod, containers: &[ContainerStatus]) -> String {
    if pod.metadata.deletion_timestamp.is_some() {
        return "Terminating".to_owned();
    }
    let reason = |one: &ContainerStatus| {
        let state = one.state.as_ref()?;
        let waiting = state.waiting.as_ref().and_then(|of| of.reason.clone());
        waiting.or_else(|| state.terminated.as_ref().and_then(|of| of.reason.clone()))
    };
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.clone());
    match phase.as_deref() {
        Some("Succeeded") => "Succeeded".to_owned(),
        _ => containers
            .iter()
            .find_map(reason)
            .or_else(|| status.and_then(|status| status.reason.clone()))
            .or(phase)
            .unwrap_or_else(|| "Pending".to_owned()),
    }
}

impl LinkFacts {
    /// A link on which something acts; a perfect one is none.
    pub(super) fn new(link: &LinkState) -> Option<Self> {
        if link.rules.is_empty() {
            return None;
        }
        let rules = link
            .rules
            .iter()
            .map(|(tag, rule)| format!("{rule} [{tag}]"));
        let counted = link.counters.map(|counters| {
            let dropped = counters.dropped_by_rule + counters.dropped_by_rate;
            format!("{} passed, {dropped} dropped", counters.passed)
        });
        Some(Self {
            from: link.from.to_string(),
            to: link.to.to_string(),
            rules: rules.collect::<Vec<_>>().join(" + "),
            counted: counted.unwrap_or_default(),
            cut: link.rules.iter().any(|(_, rule)| rule.cut),
        })
    }
}

impl EndpointFacts {
    pub(super) fn new(view: &EndpointView, served: &[Served]) -> Self {
        let state = match view {
            EndpointView { in_set: false, .. } => "has left: only what is open goes on",
            EndpointView {
                confirmed: false, ..
            } => "never accepted yet",
            EndpointView {
                penalised: true, ..
            } => "avoided: it refused, or it or its node was silent",
            EndpointView {
                unanswering: true, ..
            } => "avoided: it left a client without an answer",
            _ => "good",
        };
        let host = served_at(view, served);
        Self {
            service: format!("{}/{}:{}", view.namespace, view.service, view.port),
            host: host.map(|host| host.to_string()).unwrap_or_default(),
            endpoint: view.address.to_string(),
            node: view.node.clone().unwrap_or_default(),
            state,
            open: view.open,
            waiting: view.waiting,
            tried: view.tried,
            failed: view.failed,
            good: state == "good",
        }
    }
}

fn served_at(view: &EndpointView, served: &[Served]) -> Option<SocketAddr> {
    let service = served
        .iter()
        .find(|one| one.namespace == view.namespace && one.name == view.service)?;
    let port = service.ports.iter().find(|port| port.port == view.port)?;
    Some(port.host)
}

/// At most [`ROWS_MAX`] rows; what was left out is said.
pub(super) fn shorten<T>(rows: &mut Vec<T>, what: &str, gaps: &mut Vec<String>) {
    let more = rows.len().saturating_sub(ROWS_MAX);
    if more > 0 {
        rows.truncate(ROWS_MAX);
        gaps.push(format!("{more} more {what} are not shown"));
    }
}

/// The last lines of a console as plain text: without what steers a terminal.
pub(super) fn last_lines(console: &str, most: usize) -> Vec<String> {
    let lines: Vec<String> = console
        .split(['\n', '\r'])
        .map(plain)
        .filter(|line| !line.trim().is_empty())
        .collect();
    let first = lines.len().saturating_sub(most);
    lines.into_iter().skip(first).collect()
}

/// A line without escape sequences (ECMA-48: ESC, `[`, parameters, one final byte; or ESC and one byte) and control characters.
fn plain(line: &str) -> String {
    const COLUMNS_MAX: usize = 200;
    let mut out = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                if characters.next() == Some('[') {
                    // Up to and with the final byte.
                    let _ = characters.find(|one| ('\u{40}'..='\u{7e}').contains(one));
                }
            }
            '\t' => out.push(' '),
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out.chars().take(COLUMNS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{
        Container, ContainerState, ContainerStateWaiting, PodSpec, PodStatus,
    };
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::machines::fabric::{LinkRule, Port};
    use crate::model::cluster::ClusterSpec;

    fn pod(phase: &str, status: ContainerStatus) -> Pod {
        Pod {
            metadata: ObjectMeta {
                namespace: Some("default".to_owned()),
                name: Some("web-1".to_owned()),
                uid: Some("u".to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(PodSpec {
                node_name: Some("w1".to_owned()),
                containers: vec![Container::default()],
                ..PodSpec::default()
            }),
            status: Some(PodStatus {
                phase: Some(phase.to_owned()),
                container_statuses: Some(vec![status]),
                ..PodStatus::default()
            }),
        }
    }

    #[test]
    fn a_pod_is_told_as_kubectl_tells_it() {
        let running = ContainerStatus {
            ready: true,
            restart_count: 2,
            ..ContainerStatus::default()
        };
        let good = PodFacts::new(&pod("Running", running.clone()));
        assert_eq!(
            (good.state.as_str(), good.ready.as_str(), good.restarts),
            ("Running", "1/1", 2)
        );
        assert!(good.good && good.node == "w1" && good.uid == "u");

        let waiting = ContainerStatus {
            state: Some(ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some("CrashLoopBackOff".to_owned()),
                    ..ContainerStateWaiting::default()
                }),
                ..ContainerState::default()
            }),
            ..ContainerStatus::default()
        };
        let broken = PodFacts::new(&pod("Running", waiting));
        assert_eq!(broken.state, "CrashLoopBackOff");
        assert!(!broken.good);
        assert!(PodFacts::new(&pod("Succeeded", ContainerStatus::default())).good);
        let nothing = PodFacts::new(&Pod::default());
        assert_eq!(
            (nothing.state.as_str(), nothing.node.as_str()),
            ("Pending", "")
        );
    }

    #[test]
    fn a_machine_that_is_not_found_is_off() {
        let spec = ClusterSpec::with_workers("test".parse().unwrap(), 1);
        let facts = MachineFacts::new(&spec.machines[0], None, NodeReady::Unknown, None, vec![]);
        assert_eq!(
            (facts.role, facts.power, facts.process.as_str()),
            ("controller", "off", "")
        );
        let usage = Usage {
            age: Duration::from_secs(65),
            processors: Some(0.5),
            memory_bytes: 300 << 20,
        };
        let facts = MachineFacts::new(
            &spec.machines[1],
            None,
            NodeReady::Ready,
            Some(usage),
            vec![],
        );
        assert_eq!(facts.process, "runs 1:05 · 0.50 processors · 300 MiB");
    }

    #[test]
    fn only_links_with_rules_are_told() {
        let link = |rules| LinkState {
            from: "w1".parse::<Port>().unwrap(),
            to: "host".parse::<Port>().unwrap(),
            rules,
            counters: None,
        };
        assert_eq!(LinkFacts::new(&link(vec![])), None);
        let slow = LinkRule {
            delay: Duration::from_millis(50),
            ..LinkRule::default()
        };
        let rules = vec![
            ("by-hand".to_owned(), LinkRule::cut()),
            ("step".to_owned(), slow),
        ];
        let facts = LinkFacts::new(&link(rules)).unwrap();
        assert_eq!(facts.rules, "cut [by-hand] + delay 50 ms [step]");
        assert!(facts.cut && facts.from == "w1" && facts.to == "host");
    }

    #[test]
    fn an_endpoint_is_told_with_why_it_is_avoided() {
        let view = EndpointView {
            namespace: "default".to_owned(),
            service: "web".to_owned(),
            port: 443,
            address: SocketAddr::from(([10, 0, 0, 1], 8443)),
            node: Some("w1".to_owned()),
            in_set: true,
            confirmed: true,
            penalised: false,
            unanswering: false,
            waiting: 1,
            open: 2,
            tried: 10,
            failed: 3,
        };
        let served = Served {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            ports: vec![crate::cluster::daemon::ServedPort {
                name: String::new(),
                port: 443,
                host: SocketAddr::from(([127, 0, 0, 1], 40443)),
            }],
        };
        let good = EndpointFacts::new(&view, &[served]);
        assert!(good.good);
        assert_eq!(
            (good.service.as_str(), good.host.as_str()),
            ("default/web:443", "127.0.0.1:40443")
        );
        let silent = EndpointView {
            penalised: true,
            ..view.clone()
        };
        assert!(EndpointFacts::new(&silent, &[]).state.contains("silent"));
        let left = EndpointView {
            in_set: false,
            ..view
        };
        assert!(EndpointFacts::new(&left, &[]).state.contains("has left"));
    }

    #[test]
    fn a_console_is_plain_text() {
        let console =
            "old\n\u{1b}[0;32m  OK  \u{1b}[0m\tStarted <b>x</b>\u{7}\r\n\n\u{1b}cw1 login: ";
        assert_eq!(
            last_lines(console, 2),
            ["  OK   Started <b>x</b>", "w1 login: "]
        );
        assert!(last_lines("", 3).is_empty());
        assert!(last_lines("\u{1b}", 3).is_empty() && last_lines("\u{1b}[1", 3).is_empty());
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let (mut rows, mut gaps) = (vec![0; ROWS_MAX + 2], Vec::new());
        shorten(&mut rows, "pods", &mut gaps);
        assert_eq!(rows.len(), ROWS_MAX);
        assert_eq!(gaps, ["2 more pods are not shown"]);
        shorten(&mut rows, "pods", &mut gaps);
        assert_eq!(gaps.len(), 1);
    }
}

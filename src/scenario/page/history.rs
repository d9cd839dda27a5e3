//! What the API showed of pods, nodes and Services, put together from the report's events; and what the faults did to machines.

use std::collections::{BTreeMap, BTreeSet};

use crate::scenario::report::{FaultReport, Report};

/// A state from one time to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Stay {
    /// When it began.
    pub from_ms: f64,
    /// When the next began; the end of the run if none did.
    pub to_ms: f64,
    /// Its name, for instance `running`.
    pub state: String,
}

/// One pod.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its controller, `kind/name`, if that is known.
    pub owner: Option<String>,
    /// The node on which it was placed, if that is known.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its states, in order.
    pub stays: Vec<Stay>,
    /// When a container was started again.
    pub restarts_ms: Vec<f64>,
}

impl Pod {
    /// Its state at a time.
    #[must_use]
    pub fn at(&self, ms: f64) -> Option<&str> {
        at(&self.stays, ms)
    }
}

/// One machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What the API said: `ready` or `not_ready`.
    pub seen: Vec<Stay>,
    /// What faults did to it: `off`, `frozen`, `cut off` or the fault's kind. What is not told is `on`.
    pub truth: Vec<Stay>,
}

impl Node {
    /// What the API said at a time.
    #[must_use]
    pub fn seen_at(&self, ms: f64) -> Option<&str> {
        at(&self.seen, ms)
    }

    /// What a fault did to it at a time.
    #[must_use]
    pub fn truth_at(&self, ms: f64) -> Option<&str> {
        at(&self.truth, ms)
    }
}

/// The endpoints of one Service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// From when on it had which addresses.
    pub changes: Vec<(f64, BTreeSet<String>)>,
}

impl Service {
    /// Its addresses at a time.
    #[must_use]
    pub fn at(&self, ms: f64) -> Option<&BTreeSet<String>> {
        self.changes
            .iter()
            .rev()
            .find(|(from_ms, _)| *from_ms <= ms)
            .map(|(_, addresses)| addresses)
    }
}

/// Everything that was seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// Pods, those of one controller together, in the order in which they came.
    pub pods: Vec<Pod>,
    /// Nodes by name.
    pub nodes: Vec<Node>,
    /// Services by name.
    pub services: Vec<Service>,
}

impl History {
    /// Reads a report's events and faults; states that last end at `end_ms`.
    #[must_use]
    pub fn of(report: &Report, end_ms: f64) -> Self {
        let mut pods: Vec<Pod> = Vec::new();
        let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
        let mut services: BTreeMap<&str, Service> = BTreeMap::new();
        for event in &report.events {
            let at_ms = whole(event.at_ms);
            let Some((of, what)) = event.kind.split_once('.') else {
                continue;
            };
            let (name, detail) = event
                .object
                .split_once(' ')
                .unwrap_or((event.object.as_str(), ""));
            match of {
                "node" => {
                    let node = nodes.entry(name).or_default();
                    change(&mut node.seen, at_ms, what);
                }
                "endpoint" => {
                    let service = services.entry(name).or_default();
                    let mut now = service
                        .changes
                        .last()
                        .map(|(_, now)| now.clone())
                        .unwrap_or_default();
                    if what == "removed" {
                        now.remove(detail);
                    } else {
                        now.insert(detail.to_owned());
                    }
                    match service.changes.last_mut() {
                        Some((same_ms, addresses)) if *same_ms >= at_ms => *addresses = now,
                        _ => service.changes.push((at_ms, now)),
                    }
                }
                "pod" => {
                    let known = pods.iter().position(|pod| pod.name == name);
                    let place = known.unwrap_or_else(|| {
                        pods.push(Pod {
                            name: name.to_owned(),
                            ..Pod::default()
                        });
                        pods.len() - 1
                    });
                    let pod = &mut pods[place];
                    match what {
                        "placed" => pod.node = Some(detail.to_owned()),
                        "owned" => pod.owner = Some(detail.to_owned()),
                        "address" => pod.addresses.push(detail.to_owned()),
                        "restarted" => pod.restarts_ms.push(at_ms),
                        state => change(&mut pod.stays, at_ms, state),
                    }
                }
                _ => {}
            }
        }
        for fault in &report.faults {
            for machine in machines(fault, &nodes) {
                let node = nodes.entry(machine).or_default();
                node.truth.push(truth(fault, end_ms));
            }
        }
        for pod in &mut pods {
            close(&mut pod.stays, end_ms);
            pod.stays.retain(|stay| stay.state != "deleted");
        }
        let nodes = nodes.into_iter().map(|(name, mut node)| {
            close(&mut node.seen, end_ms);
            name.clone_into(&mut node.name);
            node
        });
        let services = services.into_iter().map(|(name, mut service)| {
            name.clone_into(&mut service.name);
            service
        });
        let mut history = Self {
            nodes: nodes.collect(),
            services: services.collect(),
            pods,
        };
        // A stable sort: pods of one controller stay in the order in which they came.
        history.pods.sort_by_key(|pod| group(pod));
        history
    }

    /// The pod that had an address, or has that name.
    #[must_use]
    pub fn pod(&self, endpoint: &str) -> Option<&Pod> {
        self.pods
            .iter()
            .find(|pod| pod.name == endpoint || pod.addresses.iter().any(|one| one == endpoint))
    }

    /// A machine.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// What a pod belongs to: its controller, or its name without the part that was made up for it.
#[must_use]
pub fn group(pod: &Pod) -> String {
    match &pod.owner {
        Some(owner) => owner.clone(),
        None => pod
            .name
            .rsplit_once('-')
            .map_or(pod.name.as_str(), |(stem, _)| stem)
            .to_owned(),
    }
}

/// Milliseconds of a report, to reckon with.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "times of a run")]
pub fn whole(ms: u64) -> f64 {
    ms as f64
}

fn at(stays: &[Stay], ms: f64) -> Option<&str> {
    stays
        .iter()
        .rev()
        .find(|stay| stay.from_ms <= ms && ms < stay.to_ms)
        .map(|stay| stay.state.as_str())
}

fn change(stays: &mut Vec<Stay>, at_ms: f64, state: &str) {
    close(stays, at_ms);
    if stays.last().is_some_and(|last| last.state == state) {
        return;
    }
    stays.push(Stay {
        from_ms: at_ms,
        to_ms: f64::INFINITY,
        state: state.to_owned(),
    });
}

/// Ends what lasts.
fn close(stays: &mut [Stay], at_ms: f64) {
    if let Some(last) = stays.last_mut() {
        last.to_ms = last.to_ms.min(at_ms).max(last.from_ms);
    }
}

/// The machines at a fault's place: its target, or those that the names of links begin and end with.
fn machines<'a>(fault: &'a FaultReport, nodes: &BTreeMap<&str, Node>) -> Vec<&'a str> {
    let words = fault
        .target
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.'));
    let mut named: Vec<&str> = words
        .map(|word| word.trim_matches('-'))
        .filter(|word| nodes.contains_key(word))
        .collect();
    named.dedup();
    if named.is_empty() && fault.kind.starts_with("node.") {
        named.push(&fault.target);
    }
    named
}

fn truth(fault: &FaultReport, end_ms: f64) -> Stay {
    let state = match fault.kind.as_str() {
        "node.power_off" => "off",
        "node.freeze" => "frozen",
        "node.reset" => "reset",
        "net.cut" | "net.partition" => "cut off",
        other => other,
    };
    let from_ms = whole(fault.onset_ms.unwrap_or(fault.requested_ms));
    Stay {
        from_ms,
        to_ms: fault.healed_ms.map_or(end_ms, whole).max(from_ms),
        state: state.to_owned(),
    }
}

//! Reads `fault = { kind = …, target = …, for = … }`; the settings of each kind are read where the fault is.

use std::collections::BTreeMap;
use std::time::Duration;

use super::against::Nodes;
use super::{positive, word};
use crate::model::link::{Links, Port};
use crate::model::names::{InvalidName, NodeName};
use crate::model::reader::{Table, Value, suggestion};
use crate::scenario::faults::{FAULTS, FaultType, Lasts, Strikes, fault_named};
use crate::scenario::injection::Fault;
use crate::scenario::spec::{Action, Count, NodesMeant, PodsMeant, Target};

/// Keys that every kind has.
const COMMON: [&str; 3] = ["kind", "target", "for"];

pub(super) fn fault(table: &Table<'_, '_>, nodes: &Nodes) -> Option<Action> {
    let kind = table.require("kind").and_then(|value| kind(&value));
    let target = table
        .require("target")
        .and_then(|value| value.table())
        .and_then(|table| target(&table, kind, nodes));
    let once = kind.is_some_and(|kind| kind.lasts == Lasts::OnceOrFor);
    let duration = if once && table.get("for").is_none() {
        Some(Duration::ZERO)
    } else {
        table.require("for").and_then(|value| positive(&value))
    };
    let action = match kind {
        Some(kind) => {
            table.allow(&[&COMMON[..], kind.settings].concat());
            (kind.read)(table)
        }
        None => {
            // What no kind has is wrong whatever was meant.
            table.allow(&every_key());
            None
        }
    };
    Some(Action::Fault {
        fault: Fault {
            kind: kind?,
            action: action?,
        },
        target: target?,
        duration: duration?,
    })
}

fn kind(value: &Value<'_, '_>) -> Option<&'static FaultType> {
    let text = value.string()?;
    let found = fault_named(text);
    if found.is_none() {
        let names: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
        value.problem(
            format!("unknown fault kind `{text}`"),
            suggestion(text, &names),
        );
    }
    found
}

/// The keys that one kind or another has.
fn every_key() -> Vec<&'static str> {
    let mut keys = COMMON.to_vec();
    for key in FAULTS.iter().flat_map(|fault| fault.settings) {
        if !keys.contains(key) {
            keys.push(*key);
        }
    }
    keys
}

fn target(
    table: &Table<'_, '_>,
    kind: Option<&'static FaultType>,
    nodes: &Nodes,
) -> Option<Target> {
    const NODE: [&str; 2] = ["node", "node_running_most_of"];
    const LINK: [&str; 5] = ["node", "node_running_most_of", "from", "to", "between"];
    const MACHINES: [&str; 4] = ["node", "node_running_most_of", "nodes", "count"];
    const PODS: [&str; 3] = ["pod", "labels", "count"];
    const ANY: [&str; 10] = [
        "node",
        "node_running_most_of",
        "from",
        "to",
        "between",
        "groups",
        "nodes",
        "pod",
        "labels",
        "count",
    ];
    let strikes = kind.map(|kind| kind.strikes);
    let known: &[&str] = match strikes {
        None => &ANY,
        Some(Strikes::Groups) => &["groups"],
        Some(Strikes::Node) => &NODE,
        Some(Strikes::Machines) => &MACHINES,
        Some(Strikes::Links) => &LINK,
        Some(Strikes::Pods) => &PODS,
    };
    table.allow(known);
    let name = |value: Value<'_, '_>| port(&value, nodes);
    if strikes == Some(Strikes::Groups) || kind.is_none() && table.get("groups").is_some() {
        return groups(&table.require("groups")?, nodes);
    }
    let has_pods = table.get("pod").is_some() || table.get("labels").is_some();
    if strikes == Some(Strikes::Pods) || kind.is_none() && has_pods {
        return pods(table);
    }
    let has_one = NODE.iter().any(|key| table.get(key).is_some());
    if table.get("nodes").is_some() || strikes == Some(Strikes::Machines) && !has_one {
        return machines(table);
    }
    if let Some(count) = table
        .get("count")
        .filter(|_| strikes == Some(Strikes::Machines))
    {
        count.problem("`count` is of `nodes`; a machine is one", None);
    }
    match (
        table.get("node"),
        table.get("node_running_most_of"),
        table.get("from"),
        table.get("to"),
        table.get("between"),
    ) {
        (Some(value), None, None, None, None) => node(&value, nodes).map(Target::Node),
        (None, Some(name), None, None, None) => name
            .string()
            .map(|name| Target::NodeRunningMostOf(name.to_owned())),
        (None, None, Some(from), Some(to), None) => {
            let (from, to) = (name(from), name(to));
            Some(Target::Links(Links::Between {
                from: Some(from?),
                to: Some(to?),
                both_directions: false,
            }))
        }
        (None, None, None, None, Some(ends)) => {
            let ports: Vec<Port> = ends
                .array()?
                .iter()
                .filter_map(|value| port(value, nodes))
                .collect();
            let [from, to] = &ports[..] else {
                ends.problem(
                    "name two machines",
                    Some("such as `between = [\"w1\", \"w2\"]`".into()),
                );
                return None;
            };
            Some(Target::Links(Links::Between {
                from: Some(from.clone()),
                to: Some(to.clone()),
                both_directions: true,
            }))
        }
        _ => {
            let help = match strikes {
                Some(Strikes::Node | Strikes::Machines) => "`node` or `node_running_most_of`",
                _ => "`node`, `node_running_most_of`, `from` and `to`, or `between`",
            };
            table.problem("name one target", Some(help.into()));
            None
        }
    }
}

/// The name of a machine.
pub(in crate::scenario) fn node(value: &Value<'_, '_>, nodes: &Nodes) -> Option<NodeName> {
    let parsed: Result<NodeName, InvalidName> = value.string()?.parse();
    let node = parsed
        .map_err(|error| value.problem(error.to_string(), None))
        .ok()?;
    nodes.check(value, &node, &[]);
    Some(node)
}

fn port(value: &Value<'_, '_>, nodes: &Nodes) -> Option<Port> {
    let parsed: Result<Port, InvalidName> = value.string()?.parse();
    let port = parsed
        .map_err(|error| value.problem(error.to_string(), None))
        .ok()?;
    if let Port::Node(node) = &port {
        nodes.check(value, node, &["host"]);
    }
    Some(port)
}

fn groups(value: &Value<'_, '_>, nodes: &Nodes) -> Option<Target> {
    let members = |group: &Value<'_, '_>| -> Vec<Port> {
        group
            .array()
            .unwrap_or_default()
            .iter()
            .filter_map(|value| port(value, nodes))
            .collect()
    };
    let groups: Vec<Vec<Port>> = value.array()?.iter().map(members).collect();
    let mut named: Vec<&Port> = groups.iter().flatten().collect();
    named.sort();
    if named.windows(2).any(|pair| pair[0] == pair[1]) {
        value.problem("a machine is in two groups", None);
    }
    if groups.len() < 2 || groups.iter().any(Vec::is_empty) {
        value.problem(
            "a partition has two groups or more",
            Some("such as `groups = [[\"c1\", \"w1\"], [\"w2\"]]`".into()),
        );
        return None;
    }
    Some(Target::Links(Links::Groups(groups)))
}

/// `nodes = "…"`, with `count`.
fn machines(table: &Table<'_, '_>) -> Option<Target> {
    let count = table
        .get("count")
        .map_or(Some(Count::One), |value| word(&value, "count", &Count::ALL));
    let Some(value) = table.get("nodes") else {
        let help = "`node`, `node_running_most_of`, or `nodes = \"workers\"` with `count`";
        table.problem("name one target", Some(help.into()));
        return None;
    };
    for key in ["node", "node_running_most_of"] {
        if let Some(other) = table.get(key) {
            other.problem(format!("`nodes` and `{key}` exclude each other"), None);
        }
    }
    let meant = word(&value, "role", &NodesMeant::ALL);
    Some(Target::Nodes {
        meant: meant?,
        count: count?,
    })
}

/// `pod = "…"` or `labels = { … }`, with `count`.
fn pods(table: &Table<'_, '_>) -> Option<Target> {
    let count = table
        .get("count")
        .map_or(Some(Count::One), |value| word(&value, "count", &Count::ALL));
    let meant = match (table.get("pod"), table.get("labels")) {
        (Some(value), None) => prefix(&value).map(PodsMeant::Prefix),
        (None, Some(value)) => labels(&value).map(PodsMeant::Labels),
        _ => {
            let help =
                "`pod = \"web\"`, the beginning of their names, or `labels = { app = \"web\" }`";
            table.problem("name pods in one way", Some(help.into()));
            None
        }
    };
    Some(Target::Pods {
        meant: meant?,
        count: count?,
    })
}

fn prefix(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    let right = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.');
    if text.is_empty() || !text.bytes().all(right) {
        let help = Some("a workload's name, such as `pod = \"web\"`".to_owned());
        value.problem(format!("no pod's name begins with `{text}`"), help);
        return None;
    }
    Some(text.to_owned())
}

fn labels(value: &Value<'_, '_>) -> Option<BTreeMap<String, String>> {
    let entries = value.table()?.entries();
    if entries.is_empty() {
        let help = Some("such as `labels = { app = \"web\" }`".to_owned());
        value.problem("no labels are named", help);
        return None;
    }
    let read: Vec<Option<(String, String)>> = entries
        .into_iter()
        .map(|(key, _, value)| Some((key.to_owned(), value.string()?.to_owned())))
        .collect();
    read.into_iter().collect()
}

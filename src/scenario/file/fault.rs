//! Reads `fault = { kind = …, target = …, for = … }` and the settings of each kind.

use std::time::Duration;

use super::against::Nodes;
use super::{positive, share, word};
use crate::machines::provider::DiskFault;
use crate::model::link::{LinkRule, Links, Port};
use crate::model::names::{InvalidName, NodeName};
use crate::model::reader::{Table, Value};
use crate::model::units::{parse_bit_rate, parse_duration, parse_size};
use crate::scenario::injection::{Fault, FaultKind, Settings};
use crate::scenario::spec::{Action, Target};

/// Farthest that a clock may be stepped.
const MAX_STEP: Duration = Duration::from_hours(24 * 365);
/// Keys that every kind has.
const COMMON: [&str; 3] = ["kind", "target", "for"];
/// Keys that one kind or another has besides.
const SETTINGS: [&str; 8] = [
    "delay",
    "jitter",
    "loss",
    "duplicate",
    "reorder",
    "rate",
    "operations",
    "by",
];

pub(super) fn fault(table: &Table<'_, '_>, nodes: &Nodes) -> Option<Action> {
    let kind = table
        .require("kind")
        .and_then(|value| word(&value, "fault kind", &FaultKind::ALL));
    let target = table
        .require("target")
        .and_then(|value| value.table())
        .and_then(|table| target(&table, kind, nodes));
    let duration = table.require("for").and_then(|value| positive(&value));
    let settings = match kind {
        Some(kind) => settings(table, kind),
        None => {
            // What no kind has is wrong whatever was meant.
            table.allow(&[&COMMON[..], &SETTINGS].concat());
            None
        }
    };
    Some(Action::Fault {
        fault: Fault {
            kind: kind?,
            settings: settings?,
        },
        target: target?,
        duration: duration?,
    })
}

fn target(table: &Table<'_, '_>, kind: Option<FaultKind>, nodes: &Nodes) -> Option<Target> {
    const NODE: [&str; 2] = ["node", "node_running_most_of"];
    const LINK: [&str; 5] = ["node", "node_running_most_of", "from", "to", "between"];
    const ANY: [&str; 6] = [
        "node",
        "node_running_most_of",
        "from",
        "to",
        "between",
        "groups",
    ];
    let known: &[&str] = match kind {
        None => &ANY,
        Some(FaultKind::Partition) => &["groups"],
        Some(kind) if !kind.strikes_links() => &NODE,
        Some(_) => &LINK,
    };
    table.allow(known);
    let name = |value: Value<'_, '_>| port(&value, nodes);
    if kind == Some(FaultKind::Partition) || kind.is_none() && table.get("groups").is_some() {
        return groups(&table.require("groups")?, nodes);
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
            let help = if known.len() == NODE.len() {
                "`node` or `node_running_most_of`"
            } else {
                "`node`, `node_running_most_of`, `from` and `to`, or `between`"
            };
            table.problem("name one target", Some(help.into()));
            None
        }
    }
}

fn node(value: &Value<'_, '_>, nodes: &Nodes) -> Option<NodeName> {
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

fn settings(table: &Table<'_, '_>, kind: FaultKind) -> Option<Settings> {
    let allow = |more: &[&str]| table.allow(&[&COMMON, more].concat());
    match kind {
        FaultKind::Cut | FaultKind::Partition => {
            allow(&[]);
            Some(Settings::Link(LinkRule::cut()))
        }
        FaultKind::Delay => {
            allow(&["delay", "jitter"]);
            if table.require("delay").is_none() {
                // The jitter is looked at all the same.
                let _ = table.get("jitter").map(|value| value.duration());
                return None;
            }
            link_rule(table)
        }
        FaultKind::Shape => {
            allow(&["delay", "jitter", "loss", "duplicate", "reorder", "rate"]);
            link_rule(table)
        }
        FaultKind::DiskThrottle => {
            allow(&["rate", "operations"]);
            let bytes_per_second = table
                .get("rate")
                .map(|value| value.parsed("a rate such as \"1MiB/s\"", parse_byte_rate));
            let operations_per_second = table.get("operations").map(|value| value.rate());
            if bytes_per_second.is_none() && operations_per_second.is_none() {
                table.problem(
                    "say how slow",
                    Some("`rate = \"1MiB/s\"`, `operations = \"50/s\"` or both".into()),
                );
                return None;
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a positive number of operations"
            )]
            let operations = operations_per_second.map(|rate| rate.map(|rate| rate.ceil() as u64));
            Some(Settings::Disk(DiskFault::Throttle {
                bytes_per_second: transpose(bytes_per_second)?,
                operations_per_second: transpose(operations)?,
            }))
        }
        FaultKind::DiskError => {
            allow(&["operations"]);
            let both = (
                "all",
                DiskFault::Error {
                    reads: true,
                    writes: true,
                },
            );
            let one = [
                (
                    "reads",
                    DiskFault::Error {
                        reads: true,
                        writes: false,
                    },
                ),
                (
                    "writes",
                    DiskFault::Error {
                        reads: false,
                        writes: true,
                    },
                ),
            ];
            let fault = table.get("operations").map_or(Some(both.1), |value| {
                word(&value, "kind of operations", &[both, one[0], one[1]])
            });
            fault.map(Settings::Disk)
        }
        FaultKind::ClockStep => {
            allow(&["by"]);
            let by = table
                .require("by")?
                .parsed("a signed duration such as \"+30s\" or \"-2m\"", parse_step);
            by.map(Settings::ClockBy)
        }
        FaultKind::PowerOff | FaultKind::Freeze | FaultKind::Reset | FaultKind::DiskFull => {
            allow(&[]);
            Some(Settings::Plain)
        }
    }
}

/// `None` inside: it was written and is wrong, which is a problem already.
#[expect(clippy::option_option, reason = "absent and wrong differ")]
fn transpose<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

fn link_rule(table: &Table<'_, '_>) -> Option<Settings> {
    let duration = |key: &str| {
        table
            .get(key)
            .map_or(Some(Duration::ZERO), |value| value.duration())
    };
    let chance = |key: &str| table.get(key).map_or(Some(0.0), |value| share(&value));
    let rate = transpose(
        table
            .get("rate")
            .map(|value| value.parsed("a rate such as \"1mbit/s\"", parse_bit_rate)),
    );
    let (delay, jitter) = (duration("delay"), duration("jitter"));
    let (loss, duplicate, reorder) = (chance("loss"), chance("duplicate"), chance("reorder"));
    let rule = LinkRule {
        cut: false,
        delay: delay?,
        jitter: jitter?,
        loss: loss?,
        duplicate: duplicate?,
        reorder: reorder?,
        rate: rate?,
    };
    if rule == LinkRule::default() {
        table.problem(
            "the fault does nothing to its links",
            Some("`delay = \"50ms\"`, `loss = \"1%\"` and others".into()),
        );
        return None;
    }
    match rule.validate() {
        Ok(()) => Some(Settings::Link(rule)),
        Err(error) => {
            table.problem(error.to_string(), None);
            None
        }
    }
}

fn parse_byte_rate(text: &str) -> Result<u64, crate::model::units::InvalidQuantity> {
    let refuse = || crate::model::units::InvalidQuantity {
        text: text.to_owned(),
        wanted: "a rate such as `1MiB/s`",
    };
    let size = text.trim().strip_suffix("/s").ok_or_else(refuse)?;
    parse_size(size)
        .ok()
        .filter(|bytes| *bytes > 0)
        .ok_or_else(refuse)
}

/// Milliseconds of `+30s` or `-2m`.
fn parse_step(text: &str) -> Result<i64, crate::model::units::InvalidQuantity> {
    let refuse = || crate::model::units::InvalidQuantity {
        text: text.to_owned(),
        wanted: "a step with its sign and unit, such as `+30s` or `-2m`, at most a year",
    };
    let (sign, rest) = match text.trim().split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(refuse()),
    };
    let step = parse_duration(rest).map_err(|_| refuse())?;
    let ms = i64::try_from(step.as_millis()).map_err(|_| refuse())?;
    if step <= MAX_STEP && ms > 0 {
        Ok(sign * ms)
    } else {
        Err(refuse())
    }
}

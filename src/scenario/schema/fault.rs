//! `fault = { kind, target, for }` with the settings of each kind: one alternative for each line of the list of faults.

use serde_json::{Value as Json, json};

use super::super::faults::{FAULTS, FaultType, Lasts, Strikes};
use super::super::nodes_meant::NodesMeant;
use super::super::random;
use super::super::spec::Count;
use super::shapes::{closed, map, named, text, variable, words};

pub(super) fn fault() -> Json {
    let mut kinds: Vec<Json> = FAULTS.iter().map(|fault| kind(fault)).collect();
    kinds.push(random_fault(&kinds));
    // Which kind a variable stands for is not known before it is read.
    kinds.push(json!({ "properties": { "kind": variable() }, "required": ["kind"] }));
    json!({ "type": "object", "oneOf": kinds })
}

/// One that is drawn: of whole faults, none of which is drawn itself.
fn random_fault(kinds: &[Json]) -> Json {
    let weight = json!({ "type": "integer", "minimum": 1, "maximum": random::WEIGHT_MAX });
    let one = json!({ "type": "object", "oneOf": kinds });
    let choice = closed(&[("weight", weight), ("fault", one)], &["fault"]);
    let times = json!({ "type": "integer", "minimum": 1, "maximum": random::TIMES_MAX });
    let properties = [
        ("kind", json!({ "const": random::KIND })),
        (
            "from",
            json!({ "type": "array", "items": choice, "minItems": 1 }),
        ),
        ("times", times),
        ("pause", named("duration")),
    ];
    closed(&properties, &["kind", "from", "times"])
}

fn kind(fault: &FaultType) -> Json {
    let mut properties = vec![
        ("kind", json!({ "const": fault.name })),
        ("target", target(fault.strikes)),
        ("for", named("positive")),
    ];
    for key in fault.settings {
        properties.push((*key, setting(fault.name, key)));
    }
    let mut required = vec!["kind", "target"];
    if fault.lasts == Lasts::For {
        required.push("for");
    }
    let mut table = closed(&properties, &required);
    if let Some((key, alternatives)) = at_least(fault) {
        table[key] = alternatives;
    }
    table
}

/// Which settings a kind cannot do without.
fn at_least(fault: &FaultType) -> Option<(&'static str, Json)> {
    let each: Vec<Json> = fault
        .settings
        .iter()
        .map(|key| json!({ "required": [key] }))
        .collect();
    match fault.name {
        "net.delay" => Some(("anyOf", json!([{ "required": ["delay"] }]))),
        "clock.step" => Some(("anyOf", json!([{ "required": ["by"] }]))),
        "node.cpu" => Some(("anyOf", json!([{ "required": ["share"] }]))),
        "net.shape" | "disk.throttle" => Some(("anyOf", json!(each))),
        "node.memory" => Some(("oneOf", json!(each))),
        _ => None,
    }
}

fn setting(kind: &str, key: &str) -> Json {
    match (kind, key) {
        ("net.delay" | "net.shape", "delay" | "jitter") => named("duration"),
        ("net.shape", "loss" | "duplicate" | "reorder") => named("share"),
        ("net.shape", "rate") => named("bit_rate"),
        ("disk.throttle", "rate") => named("byte_rate"),
        ("disk.throttle", "operations") => named("rate"),
        ("disk.error", "operations") => words(&["all", "reads", "writes"]),
        ("clock.step", "by") => named("signed"),
        ("node.cpu" | "node.memory", "share") => named("share"),
        ("node.memory", "size") => named("size"),
        _ => json!(true),
    }
}

fn count() -> Json {
    words(&Count::ALL.map(|(name, _)| name))
}

fn target(strikes: Strikes) -> Json {
    let one = |key: &str, value: Json| closed(&[(key, value)], &[key]);
    let node = [one("node", text()), one("node_running_most_of", text())];
    let links = [
        closed(&[("from", text()), ("to", text())], &["from", "to"]),
        one(
            "between",
            json!({ "type": "array", "items": text(), "minItems": 2, "maxItems": 2 }),
        ),
    ];
    match strikes {
        Strikes::Node => json!({ "oneOf": node }),
        Strikes::Machines => {
            let roles = words(&NodesMeant::ALL.map(|(name, _)| name));
            let some = closed(&[("nodes", roles), ("count", count())], &["nodes"]);
            let [named, busiest] = node;
            json!({ "oneOf": [named, busiest, some] })
        }
        Strikes::Links => {
            let all = [node, links].concat();
            json!({ "oneOf": all })
        }
        Strikes::Groups => {
            let group = json!({ "type": "array", "items": text(), "minItems": 1 });
            one(
                "groups",
                json!({ "type": "array", "items": group, "minItems": 2 }),
            )
        }
        Strikes::Pods => {
            let prefix = json!({ "type": "string", "minLength": 1 });
            let mut labels = map(&json!(true), &text());
            labels["minProperties"] = json!(1);
            json!({ "oneOf": [
                closed(&[("pod", prefix), ("count", count())], &["pod"]),
                closed(&[("labels", labels), ("count", count())], &["labels"]),
            ] })
        }
    }
}

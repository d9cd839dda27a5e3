//! One row a machine: what the API saw above, what was true below. Their distance is the time of detection.

use crate::scenario::page::history::Node;
use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::svg::{Drawing, Span, duration};

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let nodes = run.history.nodes.iter().enumerate();
    nodes.map(|(index, node)| lane(run, index, node)).collect()
}

fn lane(run: &StoredRun, index: usize, node: &Node) -> Lane {
    let mut drawing = Drawing::default();
    let mut bar = |class: &str, from_ms: f64, to_ms: f64, y: f64, told: &str, label: &str| {
        let span = Span {
            class,
            from_ms,
            to_ms,
            y,
            height: 9.0,
            told,
            label,
        };
        drawing.span(&run.axis, &span);
    };
    for stay in &node.seen {
        let (class, word) = match stay.state.as_str() {
            "ready" => ("ready", "Ready"),
            "deleted" => ("none", "deleted"),
            _ => ("unready", "not Ready"),
        };
        let told = format!(
            "{}: the API says {word} from {} to {} ({})",
            node.name,
            duration(stay.from_ms),
            duration(stay.to_ms),
            duration(stay.to_ms - stay.from_ms)
        );
        bar(
            class,
            stay.from_ms,
            stay.to_ms,
            2.0,
            &told,
            if class == "ready" { "" } else { word },
        );
    }
    let mut on_ms = run.axis.from_ms;
    for stay in &node.truth {
        bar(
            "power",
            on_ms,
            stay.from_ms,
            12.0,
            &format!("{}: on", node.name),
            "",
        );
        let told = format!(
            "{}: {} from {} to {} ({}), as measured",
            node.name,
            stay.state,
            duration(stay.from_ms),
            duration(stay.to_ms),
            duration(stay.to_ms - stay.from_ms)
        );
        bar("away", stay.from_ms, stay.to_ms, 12.0, &told, &stay.state);
        on_ms = stay.to_ms;
    }
    bar(
        "power",
        on_ms,
        run.axis.to_ms,
        12.0,
        &format!("{}: on", node.name),
        "",
    );
    let detection = detection(node);
    Lane {
        id: format!("lane-node-{index}"),
        group: "nodes",
        label: node.name.clone(),
        total: detection.map_or_else(
            || "api / power".to_owned(),
            |ms| format!("seen after {}", duration(ms)),
        ),
        height: 24,
        body: drawing.body,
        spoken: spoken(node, detection),
        stream: None,
    }
}

/// From when the machine was struck until the API said so.
pub(in crate::scenario::page) fn detection(node: &Node) -> Option<f64> {
    let struck = node.truth.first()?;
    let seen = node
        .seen
        .iter()
        .find(|stay| stay.state == "not_ready" && stay.from_ms >= struck.from_ms)?;
    Some(seen.from_ms - struck.from_ms)
}

fn spoken(node: &Node, detection: Option<f64>) -> String {
    let truth: Vec<String> = node
        .truth
        .iter()
        .map(|stay| {
            format!(
                "{} from {} to {}",
                stay.state,
                duration(stay.from_ms),
                duration(stay.to_ms)
            )
        })
        .collect();
    let truth = if truth.is_empty() {
        "on all the time".to_owned()
    } else {
        truth.join(", ")
    };
    let seen = detection
        .map(|ms| format!("; the API said not Ready after {}", duration(ms)))
        .unwrap_or_default();
    format!("machine {}: {truth}{seen}", node.name)
}

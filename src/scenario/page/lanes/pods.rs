//! One row a pod, those of one controller together.

use crate::scenario::page::history::{Pod, group};
use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::svg::{Drawing, Span, duration, shape};

/// So many rows; what is beyond is counted in a last one.
const ROWS_MAX: usize = 200;

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let pods = &run.history.pods;
    let shown = pods.iter().take(ROWS_MAX).enumerate();
    let mut lanes: Vec<Lane> = shown.map(|(index, pod)| lane(run, index, pod)).collect();
    if pods.len() > ROWS_MAX {
        let more = format!("and {} more pods", pods.len() - ROWS_MAX);
        lanes.push(Lane {
            id: "lane-pods-more".to_owned(),
            group: "pods",
            label: more.clone(),
            total: String::new(),
            height: 16,
            body: String::new(),
            spoken: more,
            stream: None,
        });
    }
    lanes
}

fn lane(run: &StoredRun, index: usize, pod: &Pod) -> Lane {
    let node = pod.node.as_deref().unwrap_or("");
    let mut drawing = Drawing::default();
    let mut labelled = false;
    for stay in &pod.stays {
        let class = match stay.state.as_str() {
            "running" => "ready",
            "terminating" => "draining",
            "not_ready" => "unready",
            "failed" => "none",
            "succeeded" => "done",
            _ => "pending",
        };
        let told = format!(
            "{}{}: {} for {}, from {} to {}",
            pod.name,
            if node.is_empty() {
                String::new()
            } else {
                format!(" on {node}")
            },
            word(&stay.state),
            duration(stay.to_ms - stay.from_ms),
            duration(stay.from_ms),
            duration(stay.to_ms)
        );
        let label = if !labelled && class == "ready" {
            node
        } else {
            ""
        };
        labelled |= !label.is_empty();
        let span = Span {
            class,
            from_ms: stay.from_ms,
            to_ms: stay.to_ms,
            y: 2.0,
            height: 12.0,
            told: &told,
            label,
        };
        drawing.span(&run.axis, &span);
    }
    for at_ms in &pod.restarts_ms {
        let told = format!(
            "{}: a container was started again at {}",
            pod.name,
            duration(*at_ms)
        );
        let span = Span {
            class: "bad",
            from_ms: *at_ms,
            to_ms: *at_ms,
            y: 8.0,
            height: 0.0,
            told: &told,
            label: "",
        };
        drawing.mark(&run.axis, &span, shape("connect_timeout"));
    }
    let ready_ms: f64 = pod
        .stays
        .iter()
        .filter(|stay| stay.state == "running")
        .map(|stay| stay.to_ms - stay.from_ms)
        .sum();
    let states: Vec<String> = pod
        .stays
        .iter()
        .map(|stay| format!("{} from {}", word(&stay.state), duration(stay.from_ms)))
        .collect();
    Lane {
        id: format!("lane-pod-{index}"),
        group: "pods",
        label: pod.name.clone(),
        total: if ready_ms > 0.0 {
            format!("ready {}", duration(ready_ms))
        } else {
            "never ready".to_owned()
        },
        height: 16,
        body: drawing.body,
        spoken: format!("pod {} of {}: {}", pod.name, group(pod), states.join(", ")),
        stream: None,
    }
}

/// A pod's state in words.
pub fn word(state: &str) -> &str {
    match state {
        "running" => "ready",
        "terminating" => "draining",
        "not_ready" => "running, not ready",
        other => other,
    }
}

//! What the runner did: deploying, baseline, each step, the hold.

use crate::scenario::page::history::whole;
use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::svg::{Drawing, Span, duration};

const ROW: f64 = 18.0;
/// Steps that overlap stand below each other, in at most this many rows.
const ROWS_MAX: usize = 4;

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let phases = phases(run);
    let mut drawing = Drawing::default();
    let mut ends: Vec<f64> = Vec::new();
    for phase in &phases {
        let free = ends.iter().position(|end| *end <= phase.from_ms + 0.5);
        let row = free.unwrap_or_else(|| {
            if ends.len() < ROWS_MAX {
                ends.push(0.0);
            }
            ends.len() - 1
        });
        ends[row] = ends[row].max(phase.to_ms);
        #[expect(clippy::cast_precision_loss, reason = "a few rows")]
        let y = row as f64 * ROW + 2.0;
        drawing.span(
            &run.axis,
            &Span {
                class: phase.class,
                from_ms: phase.from_ms,
                to_ms: phase.to_ms,
                y,
                height: ROW - 4.0,
                told: &phase.told,
                label: &phase.name,
            },
        );
    }
    let rows = u32::try_from(ends.len().max(1)).unwrap_or(1);
    let names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
    vec![Lane {
        id: "lane-phases".to_owned(),
        group: "run",
        label: "phases".to_owned(),
        total: duration(run.axis.to_ms),
        height: rows * 18 + 2,
        body: drawing.body,
        spoken: format!("phases: {}", names.join(", ")),
        stream: None,
    }]
}

struct Phase {
    class: &'static str,
    name: String,
    from_ms: f64,
    to_ms: f64,
    told: String,
}

fn phases(run: &StoredRun) -> Vec<Phase> {
    let mut phases = Vec::new();
    let mut push = |class, name: &str, from_ms: f64, to_ms: f64, more: &str| {
        if to_ms > from_ms || class == "step" {
            let length = duration(to_ms - from_ms);
            phases.push(Phase {
                class,
                name: name.to_owned(),
                from_ms,
                to_ms,
                told: format!("{name}: {length}, from {}{more}", duration(from_ms)),
            });
        }
    };
    let asked = run
        .requests
        .streams
        .values()
        .filter_map(|s| s.requests.first());
    let load_ms = asked.map(|r| r.intended_ms()).reduce(f64::min);
    let windows: Vec<(f64, f64)> = run
        .report
        .load
        .keys()
        .map(|load| run.window(load))
        .collect();
    let begin_ms = windows.iter().map(|w| w.0).reduce(f64::min);
    let end_ms = windows.iter().map(|w| w.1).reduce(f64::max);
    let steps = &run.report.steps;
    let first_ms = steps.first().map(|step| whole(step.start_ms));
    let load_ms = load_ms.or(begin_ms).or(first_ms).unwrap_or(run.axis.to_ms);
    push("phase", "deploy", 0.0, load_ms, "");
    if let Some(begin_ms) = begin_ms {
        push("phase", "load settles", load_ms, begin_ms, "");
        let until_ms = first_ms.or(end_ms).unwrap_or(begin_ms);
        push("phase", "baseline", begin_ms, until_ms, "");
    }
    for step in steps {
        let more = step
            .failed
            .as_ref()
            .map(|why| format!(": failed: {why}"))
            .unwrap_or_default();
        let class = if step.failed.is_some() {
            "step bad"
        } else {
            "step"
        };
        push(
            class,
            &step.id,
            whole(step.start_ms),
            whole(step.end_ms),
            &more,
        );
    }
    if let (Some(end_ms), Some(last_ms)) = (
        end_ms,
        steps.iter().map(|s| whole(s.end_ms)).reduce(f64::max),
    ) {
        push("phase", "hold", last_ms, end_ms, "");
    }
    phases
}

//! One row a fault: hollow from the request to its onset, solid from the verified onset to the heal, hatched if never verified.

use crate::scenario::page::history::whole;
use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::svg::{Drawing, Span, duration};
use crate::scenario::report::FaultReport;

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let faults = run.report.faults.iter().enumerate();
    faults
        .map(|(index, fault)| lane(run, index, fault))
        .collect()
}

fn lane(run: &StoredRun, index: usize, fault: &FaultReport) -> Lane {
    let requested_ms = whole(fault.requested_ms);
    let onset_ms = fault.onset_ms.map(whole);
    let end_ms = fault.healed_ms.map_or(run.axis.to_ms, whole);
    let told = told(fault);
    let mut drawing = Drawing::default();
    let mut bar = |class: &str, from_ms: f64, to_ms: f64, label: &str| {
        let span = Span {
            class,
            from_ms,
            to_ms,
            y: 2.0,
            height: 14.0,
            told: &told,
            label,
        };
        drawing.span(&run.axis, &span);
    };
    let what = format!("{} {}", fault.kind, fault.target);
    match onset_ms {
        Some(onset_ms) => {
            bar("asked", requested_ms, onset_ms, "");
            let class = if fault.verified {
                "fault"
            } else {
                "fault unseen"
            };
            bar(class, onset_ms, end_ms, &what);
        }
        None => bar("fault unseen", requested_ms, end_ms, &what),
    }
    let total = match onset_ms {
        Some(onset_ms) => duration(end_ms - onset_ms),
        None => "no effect".to_owned(),
    };
    Lane {
        id: format!("lane-fault-{index}"),
        group: "run",
        label: fault.id.clone(),
        total,
        height: 18,
        body: drawing.body,
        spoken: told,
        stream: None,
    }
}

/// A fault in a sentence.
pub fn told(fault: &FaultReport) -> String {
    let onset = match fault.onset_ms {
        Some(ms) if fault.verified => format!("took effect at {} (verified)", duration(whole(ms))),
        Some(ms) => format!("took effect at {} (not verified)", duration(whole(ms))),
        None => "was not seen to take effect".to_owned(),
    };
    let healed = match fault.healed_ms {
        Some(ms) => format!("healed at {}", duration(whole(ms))),
        None => "not healed".to_owned(),
    };
    let measured = fault
        .measured
        .as_ref()
        .map(|measured| format!("; {measured}"))
        .unwrap_or_default();
    format!(
        "fault {}: {} of {}, asked for at {}, {onset}, {healed}{measured}",
        fault.id,
        fault.kind,
        fault.target,
        duration(whole(fault.requested_ms))
    )
}

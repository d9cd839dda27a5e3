//! Our own honesty: what the prober sent late, when it slept, when the host had no processor left. Grey when harmless, amber where it
//! meets an outage or the edge of a fault.

use crate::scenario::page::history::whole;
use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::svg::{Drawing, Span, duration, number};
use crate::scenario::report::StarvedBy;

/// Sent more than this after the intended time is late, unless the period is longer.
const LATE_MS: f64 = 50.0;
/// Late requests closer to each other than this are drawn as one.
const JOIN_MS: f64 = 500.0;
/// What is this close to a fault's onset or heal, or an outage, may have changed what was measured.
const NEAR_MS: f64 = 1000.0;

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let critical = critical(run);
    let watched: f64 = whole(run.report.host.watched_ms);
    let late = late(run);
    let count: usize = late.iter().map(|doubt| doubt.count).sum();
    let pauses: Vec<Doubt> = run
        .report
        .prober
        .pauses
        .iter()
        .map(|pause| {
            Doubt::new(
                whole(pause.from_ms),
                whole(pause.to_ms),
                "the prober slept".to_owned(),
            )
        })
        .collect();
    let slept: f64 = pauses.iter().map(Doubt::length).sum();
    let starved: Vec<Doubt> = run
        .report
        .host
        .starved
        .iter()
        .map(|one| {
            let by = match one.by {
                StarvedBy::Others => "other programs",
                StarvedBy::Cage => "the cage itself",
            };
            let machine = one.machine.as_deref().unwrap_or("a machine");
            Doubt::new(
                whole(one.from_ms),
                whole(one.to_ms),
                format!("{machine} without a processor, because of {by}"),
            )
        })
        .collect();
    let lacked: f64 = starved.iter().map(Doubt::length).sum();
    let of = if watched > 0.0 {
        format!(" of {}", duration(watched))
    } else {
        String::new()
    };
    vec![
        lane(
            run,
            "late",
            "late sends",
            count.to_string(),
            &late,
            &critical,
        ),
        lane(
            run,
            "asleep",
            "prober asleep",
            duration(slept),
            &pauses,
            &critical,
        ),
        lane(
            run,
            "starved",
            "host starved",
            format!("{}{of}", duration(lacked)),
            &starved,
            &critical,
        ),
    ]
}

struct Doubt {
    from_ms: f64,
    to_ms: f64,
    what: String,
    count: usize,
}

impl Doubt {
    fn new(from_ms: f64, to_ms: f64, what: String) -> Self {
        Self {
            from_ms,
            to_ms,
            what,
            count: 1,
        }
    }

    fn length(&self) -> f64 {
        self.to_ms - self.from_ms
    }
}

fn lane(
    run: &StoredRun,
    id: &str,
    label: &str,
    total: String,
    doubts: &[Doubt],
    critical: &[(f64, f64)],
) -> Lane {
    let mut drawing = Drawing::default();
    let mut harmful = 0;
    for doubt in doubts {
        let harms = critical
            .iter()
            .any(|(from_ms, to_ms)| doubt.from_ms < *to_ms && doubt.to_ms > *from_ms);
        harmful += usize::from(harms);
        let told = format!(
            "{}: {}, from {}",
            doubt.what,
            duration(doubt.length()),
            duration(doubt.from_ms)
        );
        let span = Span {
            class: if harms { "harm" } else { "harmless" },
            from_ms: doubt.from_ms,
            to_ms: doubt.to_ms,
            y: 3.0,
            height: 8.0,
            told: &told,
            label: "",
        };
        drawing.span(&run.axis, &span);
    }
    let near = if harmful > 0 {
        format!(", {harmful} of them beside an outage or a fault's edge")
    } else {
        String::new()
    };
    Lane {
        id: format!("lane-{id}"),
        group: "honesty",
        label: label.to_owned(),
        spoken: format!("{label}: {total}{near}"),
        total,
        height: 14,
        body: drawing.body,
        stream: None,
    }
}

fn late(run: &StoredRun) -> Vec<Doubt> {
    let mut late: Vec<(f64, f64)> = Vec::new();
    for ((load, _), stream) in &run.requests.streams {
        let bound_ms = run.period_ms(load).unwrap_or(0.0).max(LATE_MS);
        let requests = stream
            .requests
            .iter()
            .filter(|request| request.delay_ms() > bound_ms);
        late.extend(requests.map(|request| (request.intended_ms(), request.delay_ms())));
    }
    late.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut doubts: Vec<Doubt> = Vec::new();
    for (at_ms, delay_ms) in late {
        match doubts.last_mut() {
            Some(last) if at_ms - last.to_ms < JOIN_MS => {
                last.to_ms = last.to_ms.max(at_ms + delay_ms);
                last.count += 1;
                last.what = format!("{} requests sent late", last.count);
            }
            _ => doubts.push(Doubt::new(
                at_ms,
                at_ms + delay_ms,
                format!("a request sent {} ms late", number(delay_ms.round())),
            )),
        }
    }
    doubts
}

/// Spans in which a lapse of ours may have changed what was measured.
fn critical(run: &StoredRun) -> Vec<(f64, f64)> {
    let edges = run
        .report
        .faults
        .iter()
        .flat_map(|fault| [fault.onset_ms, fault.healed_ms]);
    let mut spans: Vec<(f64, f64)> = edges
        .flatten()
        .map(|ms| (whole(ms) - NEAR_MS, whole(ms) + NEAR_MS))
        .collect();
    for (_, _, figures) in run.streams() {
        spans.extend(
            figures
                .outages
                .iter()
                .map(|outage| (whole(outage.from_ms), whole(outage.to_ms))),
        );
    }
    spans
}

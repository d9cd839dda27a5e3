//! One row a Service: how many endpoints it had, and which came and went.

use crate::scenario::page::history::Service;
use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::svg::{Drawing, Span, duration};

const HEIGHT: f64 = 14.0;

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let services = run.history.services.iter().enumerate();
    services
        .map(|(index, service)| lane(run, index, service))
        .collect()
}

fn lane(run: &StoredRun, index: usize, service: &Service) -> Lane {
    let most = service
        .changes
        .iter()
        .map(|(_, now)| now.len())
        .max()
        .unwrap_or(0);
    let fewest = service
        .changes
        .iter()
        .map(|(_, now)| now.len())
        .skip(1)
        .min()
        .unwrap_or(most);
    let mut drawing = Drawing::default();
    for (place, (from_ms, now)) in service.changes.iter().enumerate() {
        let to_ms = service
            .changes
            .get(place + 1)
            .map_or(run.axis.to_ms, |next| next.0);
        let names: Vec<String> = now.iter().map(|address| named(run, address)).collect();
        let told = format!(
            "{}: {} endpoint{} from {} to {}{}{}",
            service.name,
            now.len(),
            if now.len() == 1 { "" } else { "s" },
            duration(*from_ms),
            duration(to_ms),
            if names.is_empty() { "" } else { ": " },
            names.join(", ")
        );
        #[expect(clippy::cast_precision_loss, reason = "endpoints of a Service")]
        let height = if most == 0 {
            0.0
        } else {
            now.len() as f64 / most as f64 * HEIGHT
        };
        let span = Span {
            class: if now.is_empty() { "none" } else { "ready" },
            from_ms: *from_ms,
            to_ms,
            y: 2.0 + HEIGHT - height.max(2.0),
            height: height.max(2.0),
            told: &told,
            label: &if height > 10.0 {
                now.len().to_string()
            } else {
                String::new()
            },
        };
        drawing.span(&run.axis, &span);
    }
    let last = service.changes.last().map_or(0, |(_, now)| now.len());
    Lane {
        id: format!("lane-service-{index}"),
        group: "services",
        label: service.name.clone(),
        total: if fewest < most {
            format!("{fewest}–{most} endpoints")
        } else {
            format!("{most} endpoints")
        },
        height: 20,
        body: drawing.body,
        spoken: format!(
            "endpoints of {}: {most} at most, {fewest} at least, {last} at the end",
            service.name
        ),
        stream: None,
    }
}

/// An address, and the pod that had it.
fn named(run: &StoredRun, address: &str) -> String {
    match run.history.pod(address) {
        Some(pod) => format!("{address} ({})", pod.name),
        None => address.to_owned(),
    }
}

//! What machines' consoles and journals complained about.

use crate::scenario::page::history::whole;
use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::svg::{Drawing, Span, duration, shape};

/// What the events call it.
const PREFIX: &str = "machine.";
/// So many marks are drawn; all of them stand in the table of events.
const MARKS_MAX: usize = 300;

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let events = run
        .report
        .events
        .iter()
        .filter(|event| event.kind.starts_with(PREFIX));
    let sightings: Vec<_> = events.collect();
    if sightings.is_empty() {
        return Vec::new();
    }
    let mut drawing = Drawing::default();
    for event in sightings.iter().take(MARKS_MAX) {
        let at_ms = whole(event.at_ms);
        let what = event.kind.trim_start_matches(PREFIX);
        let told = format!("{what}, seen at {}: {}", duration(at_ms), event.object);
        let span = Span {
            class: "bad",
            from_ms: at_ms,
            to_ms: at_ms,
            y: 8.0,
            height: 0.0,
            told: &told,
            label: "",
        };
        drawing.mark(&run.axis, &span, shape("tls"));
    }
    vec![Lane {
        id: "lane-trouble".to_owned(),
        group: "nodes",
        label: "trouble".to_owned(),
        total: format!("{} seen", sightings.len()),
        height: 16,
        body: drawing.body,
        spoken: format!("trouble on consoles and in journals: {}", sightings.len()),
        stream: None,
    }]
}

//! Two runs laid over each other on one page: the lanes of each, pair by pair, on one axis whose zero is the first fault's onset.
//!
//! The lanes are those of the page of one run. It stands still: it has no script.

use std::collections::BTreeMap;

use serde::Serialize;
use tera::{Context, Tera};

use super::history::whole;
use super::lane::{Lane, lanes};
use super::lanes::requests::{Scale, classes_seen, rules};
use super::svg::{Axis, duration, number, shape};
use super::{STYLE, StoredRun, sentence, tables};
use crate::scenario::diff::{Difference, conclusion, table_rows};

const NAME: &str = "overlay.html";
const TEMPLATE: &str = include_str!("overlay.html");

/// What the head says of a run.
#[derive(Serialize)]
struct Head {
    letter: &'static str,
    folder: String,
    title: String,
    verdict: &'static str,
    class: String,
    mark: &'static str,
    sentence: String,
    zero: String,
}

/// A lane as it stands on this page.
#[derive(Serialize)]
struct Drawn {
    #[serde(flatten)]
    lane: Lane,
    letter: &'static str,
    /// The first of a pair, or alone.
    begins: bool,
    tints: Vec<(String, String)>,
    rules: Vec<(String, String)>,
}

/// The page of two runs, and of what differs between them.
///
/// # Panics
/// Never: the template is constant, and tests render it.
#[must_use]
pub fn overlay(mut a: StoredRun, mut b: StoredRun, difference: &Difference) -> String {
    let (zero_a, zero_b) = (Zero::of(&a), Zero::of(&b));
    align((&mut a, zero_a.ms), (&mut b, zero_b.ms));
    one_scale(&mut a, &mut b);
    let mut context = Context::new();
    let heads = [
        head("A", &a, &zero_a, difference.a.folder.display().to_string()),
        head("B", &b, &zero_b, difference.b.folder.display().to_string()),
    ];
    context.insert("heads", &heads);
    context.insert("conclusion", &conclusion(difference));
    context.insert("is_worse", &!difference.worse.is_empty());
    context.insert("figures", &table_rows(difference));
    context.insert("tolerance", &number(difference.tolerance * 100.0));
    context.insert("confidence", &number(difference.confidence * 100.0));
    context.insert("ticks", &ticks(&a.axis, zero_a.ms));
    context.insert("lanes", &paired(&a, &b));
    context.insert("classes", &classes(&a, &b));
    context.insert("style", STYLE);
    context.insert("flightcage", env!("CARGO_PKG_VERSION"));
    let mut tera = Tera::default();
    tera.add_raw_template(NAME, TEMPLATE)
        .expect("the template is constant");
    tera.render(NAME, &context)
        .expect("the template is constant, and so is what it is given")
}

/// Where a run's axis has its zero, in milliseconds since its start.
struct Zero {
    ms: f64,
    words: String,
}

impl Zero {
    /// The first fault's onset, else the start of the load, else that of the run.
    fn of(run: &StoredRun) -> Self {
        let onsets = run.report.faults.iter();
        let onsets = onsets.filter_map(|fault| Some((whole(fault.onset_ms?), fault)));
        if let Some((ms, fault)) = onsets.min_by(|one, other| one.0.total_cmp(&other.0)) {
            let at = duration(ms);
            let words = format!("when {} took effect, {at} after its start", fault.id);
            return Self { ms, words };
        }
        let streams = run.requests.streams.values();
        let asked = streams.filter_map(|stream| Some(stream.requests.first()?.intended_ms()));
        match asked.reduce(f64::min) {
            Some(ms) => Self {
                ms,
                words: format!("at its first request, {} after its start", duration(ms)),
            },
            None => Self {
                ms: 0.0,
                words: "at its start".to_owned(),
            },
        }
    }
}

/// Gives both runs axes of one length whose zeroes stand at one place.
fn align((a, zero_a): (&mut StoredRun, f64), (b, zero_b): (&mut StoredRun, f64)) {
    let before = (zero_a - a.axis.from_ms).max(zero_b - b.axis.from_ms);
    let after = (a.axis.to_ms - zero_a).max(b.axis.to_ms - zero_b);
    for (run, zero_ms) in [(a, zero_a), (b, zero_b)] {
        run.axis = Axis {
            from_ms: zero_ms - before,
            to_ms: zero_ms + after,
        };
    }
}

/// Gives the streams that both have one axis of latency: else the same height would mean two things.
fn one_scale(a: &mut StoredRun, b: &mut StoredRun) {
    let loads: Vec<String> = a.report.load.keys().cloned().collect();
    let both = loads
        .into_iter()
        .filter(|load| b.report.load.contains_key(load));
    let common: BTreeMap<String, (Scale, Scale)> = both
        .map(|load| {
            let (of_a, of_b) = (Scale::of(a, &load), Scale::of(b, &load));
            let lowest_ms = of_a.lowest_ms.min(of_b.lowest_ms);
            let highest_ms = of_a.highest_ms.max(of_b.highest_ms);
            let like = |own: Scale| Scale {
                lowest_ms,
                highest_ms,
                ..own
            };
            (load, (like(of_a), like(of_b)))
        })
        .collect();
    for (load, (of_a, of_b)) in common {
        a.scales.insert(load.clone(), of_a);
        b.scales.insert(load, of_b);
    }
}

fn head(letter: &'static str, run: &StoredRun, zero: &Zero, folder: String) -> Head {
    let verdict = run.report.verdict;
    Head {
        letter,
        folder,
        title: run.report.title(),
        verdict: verdict.word(),
        class: verdict.word().to_lowercase(),
        mark: tables::mark(verdict),
        sentence: sentence::of(run),
        zero: zero.words.clone(),
    }
}

/// Group by group; a lane that both runs have stands twice, one below the other.
fn paired(a: &StoredRun, b: &StoredRun) -> Vec<Drawn> {
    let (of_a, mut of_b) = (lanes(a), lanes(b));
    let mut groups: Vec<&'static str> = Vec::new();
    for lane in of_a.iter().chain(&of_b) {
        if !groups.contains(&lane.group) {
            groups.push(lane.group);
        }
    }
    let mut drawn = Vec::new();
    for group in groups {
        for lane in of_a.iter().filter(|lane| lane.group == group) {
            let same = |other: &Lane| other.group == group && other.label == lane.label;
            let place = of_b.iter().position(same);
            drawn.push(draw("A", a, lane.clone(), true));
            if let Some(place) = place {
                drawn.push(draw("B", b, of_b.remove(place), false));
            }
        }
        let (rest, others): (Vec<Lane>, Vec<Lane>) = of_b
            .into_iter()
            .partition(|lane: &Lane| lane.group == group);
        of_b = others;
        drawn.extend(rest.into_iter().map(|lane| draw("B", b, lane, true)));
    }
    drawn
}

fn draw(letter: &'static str, run: &StoredRun, mut lane: Lane, begins: bool) -> Drawn {
    lane.id = format!("{}-{}", letter.to_lowercase(), lane.id);
    lane.spoken = format!("{letter}: {}", lane.spoken);
    let load = lane
        .stream
        .as_deref()
        .and_then(|stream| stream.split_once('.'));
    let rules = load.map(|(load, _)| rules(run, load)).unwrap_or_default();
    Drawn {
        letter,
        begins,
        tints: tables::tints(run),
        rules: rules
            .into_iter()
            .map(|(y, text)| (number(y), text))
            .collect(),
        lane,
    }
}

/// Seconds from the zero.
fn ticks(axis: &Axis, zero_ms: f64) -> Vec<(String, String)> {
    let relative = Axis {
        from_ms: axis.from_ms - zero_ms,
        to_ms: axis.to_ms - zero_ms,
    };
    let tick = |ms: f64| {
        let sign = if ms > 0.0 { "+" } else { "" };
        let text = number(ms / 1000.0).replace('-', "−");
        (relative.percent(ms), format!("{sign}{text} s"))
    };
    relative.ticks(12.0).into_iter().map(tick).collect()
}

/// How requests failed in either run, with the shape of each.
fn classes(a: &StoredRun, b: &StoredRun) -> Vec<(String, &'static str)> {
    let mut names: Vec<&str> = [&a.requests, &b.requests]
        .into_iter()
        .flat_map(classes_seen)
        .collect();
    names.sort_unstable();
    names.dedup();
    let names = names.into_iter();
    names.map(|name| (name.to_owned(), shape(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Plan, write};
    use super::*;
    use crate::scenario::diff::{By, CONFIDENCE, Change, Figure, FigureUnit, Side};
    use crate::scenario::report::Verdict;

    /// B fails more.
    fn difference() -> Difference {
        let side = |folder: &str, verdict| Side {
            folder: folder.into(),
            scenario: "failover".to_owned(),
            seed: 7,
            verdict,
        };
        Difference {
            version: 1,
            a: side("runs/a", Verdict::Pass),
            b: side("runs/b", Verdict::Fail),
            confidence: CONFIDENCE,
            tolerance: 0.1,
            figures: vec![Figure {
                name: "web.new.failed".to_owned(),
                unit: FigureUnit::Share,
                a: Some(0.01),
                b: Some(0.05),
                difference: Some(0.04),
                low: Some(0.03),
                high: Some(0.05),
                by: By::Bootstrap,
                change: Change::Worse,
            }],
            expectations: Vec::new(),
            worse: vec!["web.new.failed: 5 % instead of 1 %".to_owned()],
        }
    }

    fn page(a: &Plan<'_>, b: &Plan<'_>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let read = |name: &str, plan: &Plan<'_>| {
            let run = folder.path().join(name);
            write(&run, plan).unwrap();
            StoredRun::read(&run).unwrap()
        };
        overlay(read("a", a), read("b", b), &difference())
    }

    #[test]
    fn two_runs_stand_on_one_axis_that_begins_with_the_fault() {
        let worse = Plan {
            outage_ms: 9_000,
            verdict: "fail",
            seconds: 150,
            pod: "</script><img/onerror=alert(1)>",
            ..Plan::default()
        };
        let html = page(&Plan::default(), &worse);
        for part in [
            "id=\"a-lane-web-new\"",
            "id=\"b-lane-web-new\"",
            "id=\"a-lane-fault-0\"",
            "id=\"b-lane-fault-0\"",
            "B is worse: web.new.failed",
            "<tr class=\"worse\">",
            "when kill took effect, 60.1 s after its start",
            ">0 s<",
            ">+60 s<",
            ">−40 s<",
        ] {
            assert!(html.contains(part), "{part}");
        }
        // Each lane beside its pair.
        let place = |id: &str| html.find(&format!("id=\"{id}\"")).unwrap();
        assert!(place("a-lane-web-new") < place("b-lane-web-new"));
        assert!(place("b-lane-web-new") < place("a-lane-web-reused"));
        assert!(!html.contains("<img") && !html.contains("<script"));
        assert!(html.contains("default-src 'none'"));
        assert_eq!(html, page(&Plan::default(), &worse), "the same bytes");
    }

    #[test]
    fn the_shorter_run_has_the_same_axis() {
        let folder = tempfile::tempdir().unwrap();
        let run = |name: &str, seconds: u32| {
            let path = folder.path().join(name);
            let plan = Plan {
                seconds,
                ..Plan::default()
            };
            write(&path, &plan).unwrap();
            StoredRun::read(&path).unwrap()
        };
        let (mut a, mut b) = (run("a", 190), run("b", 130));
        align((&mut a, 60_000.0), (&mut b, 10_000.0));
        let (of_a, of_b) = (a.axis, b.axis);
        assert!((of_a.to_ms - of_a.from_ms - (of_b.to_ms - of_b.from_ms)).abs() < 1e-6);
        assert!((of_a.share(60_000.0) - of_b.share(10_000.0)).abs() < 1e-9);
        one_scale(&mut a, &mut b);
        assert_eq!(
            a.scales["web"].lowest_ms.to_bits(),
            b.scales["web"].lowest_ms.to_bits()
        );
    }
}

//! From what is known to the lines that show it: a pure function.

use std::time::Duration;

use super::clock;
use super::state::{Now, State};
use super::text::{columns, cut, inert, pad};
use crate::scenario::live::LiveRun;
use crate::scenario::live::cells::CELLS;
use crate::scenario::live::state::LiveStream;

/// The most lines that are drawn.
pub(super) const LINES_MAX: usize = 12;
/// Streams, machines and faults that have a line of their own.
const STREAMS_MAX: usize = 4;
const MACHINES_MAX: usize = 8;
const FAULTS_MAX: usize = 3;
/// The last lines that were told.
const TOLD_MAX: usize = 3;
/// The names at the left end.
const LABEL_MIN: usize = 9;
const LABEL_MAX: usize = 16;
/// A stream's figures are shortened before it has fewer cells than this.
const CELLS_MIN: usize = 12;

/// How large a terminal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

/// Lines of one kind. Of those that matter least as many are left out as have no room.
struct Part {
    /// The greater, the sooner it is left out.
    rank: u8,
    lines: Vec<String>,
}

/// What is drawn: never more than twelve lines, nor more than fit, each narrower than the terminal.
pub(super) fn lines(state: &State, now: Now, size: Size) -> Vec<String> {
    let width = size.columns.saturating_sub(1).max(1);
    let room = LINES_MAX.min(size.rows.saturating_sub(1)).max(1);
    let mut parts = match &state.run {
        Some(run) => of_run(state, run, now, width),
        None => of_start(state, now),
    };
    while parts.iter().map(|part| part.lines.len()).sum::<usize>() > room {
        let parts = parts.iter_mut().filter(|part| !part.lines.is_empty());
        let Some(least) = parts.max_by_key(|part| part.rank) else {
            break;
        };
        // Of what was told the last matters most; of all else the first.
        if least.rank == TOLD {
            least.lines.remove(0);
        } else {
            least.lines.pop();
        }
    }
    let lines = parts.into_iter().flat_map(|part| part.lines);
    lines.map(|line| cut(line.trim_end(), width)).collect()
}

const HEAD: u8 = 0;
const STREAMS: u8 = 1;
const FAULTS: u8 = 2;
const NODES: u8 = 3;
const WORKLOADS: u8 = 4;
const TOLD: u8 = 5;

fn part(rank: u8, lines: Vec<String>) -> Part {
    Part { rank, lines }
}

/// While the cluster comes up, or goes down.
fn of_start(state: &State, now: Now) -> Vec<Part> {
    let detail = match state.detail.as_str() {
        "" => String::new(),
        detail => format!("  {}", inert(detail)),
    };
    let step = inert(&state.step);
    let head = [
        inert(&state.title),
        clock(now.command),
        format!("{step}{detail}"),
    ];
    let machines = state.machines.iter();
    let mut lines: Vec<String> = machines
        .map(|(name, does)| format!("{} {}", pad(&inert(name), LABEL_MIN), inert(does)))
        .collect();
    fold(&mut lines, MACHINES_MAX, "machines");
    vec![
        part(HEAD, vec![joined(&head)]),
        part(NODES, lines),
        part(TOLD, notes(state)),
    ]
}

fn of_run(state: &State, run: &LiveRun, now: Now, width: usize) -> Vec<Part> {
    let names: Vec<String> = run.streams.iter().map(|one| inert(&one.name())).collect();
    let widest = names.iter().map(|name| columns(name)).max().unwrap_or(0);
    let label = widest.clamp(LABEL_MIN, LABEL_MAX).min((width / 3).max(1));
    let labelled = |name: &str, text: &str| format!("{} {text}", pad(name, label));
    let room = width.saturating_sub(label + 1);
    let cells = cells(&run.streams, now.run_ms, room);
    let mut streams: Vec<String> = names
        .iter()
        .zip(cells)
        .map(|(name, cells)| labelled(name, &cells))
        .collect();
    fold(&mut streams, STREAMS_MAX, "streams");
    let nodes = run.facts.nodes.iter().map(|(name, ready)| {
        let state = if *ready { "ready" } else { "NOT READY" };
        (format!("{} {state}", inert(name)), *ready)
    });
    let workloads = run.facts.workloads.iter().map(|(name, (ready, wanted))| {
        let words = format!("{} {ready}/{wanted}", inert(name));
        (words, ready >= wanted)
    });
    let row = |name: &str, items: Vec<(String, bool)>| -> Vec<String> {
        let items = listed(&items, room);
        items
            .map(|text| labelled(name, &text))
            .into_iter()
            .collect()
    };
    let acting = run.acting(now.run_ms).into_iter().map(|(fault, left_ms)| {
        let left = match left_ms.div_ceil(1000) {
            0 => "healing".to_owned(),
            left => format!("{left} s left"),
        };
        let words = format!("{left}  {}: {} of {}", fault.id, fault.kind, fault.target);
        labelled("fault", &inert(&words))
    });
    let mut faults: Vec<String> = acting.collect();
    fold(&mut faults, FAULTS_MAX, "faults");
    vec![
        part(HEAD, vec![head(state, run, now)]),
        part(STREAMS, streams),
        part(NODES, row("nodes", nodes.collect())),
        part(WORKLOADS, row("workloads", workloads.collect())),
        part(FAULTS, faults),
        part(TOLD, [notes(state), told(run)].concat()),
    ]
}

/// The scenario, the clock, and what the run does.
fn head(state: &State, run: &LiveRun, now: Now) -> String {
    let clock = clock(Duration::from_millis(now.run_ms));
    joined(&[inert(&state.title), clock, inert(&doing(run, now.run_ms))])
}

/// The step that goes on with what it waits for; before the first and after the last, what the run told.
pub(in crate::cli) fn doing(run: &LiveRun, now_ms: u64) -> String {
    let acts = |id: &str| run.acting(now_ms).iter().any(|(fault, _)| fault.id == id);
    let running = run.running();
    // A fault that acts has a line of its own.
    let waits = running.iter().filter(|one| !acts(&one.step.id));
    match waits.max_by_key(|one| one.began_ms).or(running.last()) {
        Some(one) => {
            let left = one.step.within.map_or(String::new(), |within| {
                let taken = now_ms.saturating_sub(one.began_ms) / 1000;
                format!(", {} s left", within.as_secs().saturating_sub(taken))
            });
            let others = match running.len() {
                ..=1 => String::new(),
                several => format!(" (and {} more)", several - 1),
            };
            format!("step {}{left}{others}: {}", one.step.id, one.step.words)
        }
        None => run
            .lines
            .back()
            .map(|(_, text)| text.clone())
            .unwrap_or_default(),
    }
}

fn joined(parts: &[String]) -> String {
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.cloned().collect::<Vec<_>>().join("  ")
}

/// The last minute of each stream, and its figures: the most of both that has room, and all alike.
fn cells(streams: &[LiveStream], now_ms: u64, room: usize) -> Vec<String> {
    let all: Vec<[String; 3]> = streams.iter().map(figures).collect();
    let widest = |style: usize| {
        let widths = all.iter().map(|figures| columns(&figures[style]));
        widths.max().unwrap_or(0)
    };
    let fits = |least: usize| (0..3).find(|style| widest(*style) + least <= room);
    let style = fits(CELLS).or_else(|| fits(CELLS_MIN)).unwrap_or(2);
    let count = CELLS.min(room.saturating_sub(widest(style)));
    let streams = streams.iter().zip(&all);
    streams
        .map(|(stream, figures)| {
            let glyphs = stream.cells.glyphs(now_ms, stream.deadline_ms, count);
            glyphs + &figures[style]
        })
        .collect()
}

/// A stream's figures, in full, short, and as short as can be.
fn figures(stream: &LiveStream) -> [String; 3] {
    let LiveStream { sent, failed, .. } = stream;
    let latency = match stream.cells.percentiles() {
        Some((p50, p99)) => format!("  p50 {}  p99 {}", millis(p50), millis(p99)),
        None => String::new(),
    };
    let failures = format!("  {failed} of {sent} failed");
    let full = format!("{latency}{failures}");
    [full, failures, format!(" {failed}x")]
}

fn millis(ms: f64) -> String {
    if ms < 9_999.5 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.0} s", ms / 1000.0)
    }
}

/// All of them in one line; or, if there are too many, how many are well and which are not.
fn listed(items: &[(String, bool)], room: usize) -> Option<String> {
    if items.is_empty() {
        return None;
    }
    let words: Vec<&str> = items.iter().map(|(words, _)| words.as_str()).collect();
    let all = words.join("  ");
    if columns(&all) <= room {
        return Some(all);
    }
    let bad = items.iter().filter(|(_, well)| !well);
    let bad: Vec<&str> = bad.map(|(words, _)| words.as_str()).collect();
    let well = items.len() - bad.len();
    Some(format!(
        "{well} of {} ready  {}",
        items.len(),
        bad.join("  ")
    ))
}

fn notes(state: &State) -> Vec<String> {
    let notes = state.notes.iter().rev().take(TOLD_MAX).rev();
    notes.map(|note| inert(note)).collect()
}

fn told(run: &LiveRun) -> Vec<String> {
    let last = run.lines.iter().rev().take(TOLD_MAX).rev();
    last.map(|(at, text)| format!("{:>7.1} s  {}", at.as_secs_f64(), inert(text)))
        .collect()
}

/// The first so many lines, the last of which says how many more there are.
fn fold(lines: &mut Vec<String>, most: usize, what: &str) {
    if lines.len() > most {
        let more = lines.len() - (most - 1);
        lines.truncate(most - 1);
        lines.push(format!("… and {more} more {what}"));
    }
}

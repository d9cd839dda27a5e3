//! One lane a stream: recovery, failed requests by class, outages and brown-outs, and below them latency by intended time.
//!
//! What is drawn here stands without scripts and in print: columns from the fastest to the slowest good answer. The page's script
//! draws every request as a dot instead.

use std::fmt::Write as _;

use crate::scenario::page::history::whole;
use crate::scenario::page::lane::Lane;
use crate::scenario::page::run::StoredRun;
use crate::scenario::page::stored::{Request, Stored, Stream};
use crate::scenario::page::svg::{Drawing, Span, duration, number, shape};
use crate::scenario::report::StreamReport;

/// The whole lane.
const HEIGHT: u32 = 112;
/// Where failed requests, outages and latency stand; the script knows these, too.
pub(in crate::scenario::page) const FAILED_Y: f64 = 22.0;
const OUTAGE_Y: f64 = 31.0;
const BROWN_Y: f64 = 38.0;
pub(in crate::scenario::page) const PLOT_Y: f64 = 44.0;
pub(in crate::scenario::page) const PLOT_HEIGHT: f64 = 64.0;
/// Columns of the drawing.
const COLUMNS: usize = 600;
/// A brown-out is made of such windows with less than this share of good answers.
const BROWN_MS: f64 = 250.0;
const BROWN_SHARE: f64 = 0.99;

pub(in crate::scenario::page) fn lanes(run: &StoredRun) -> Vec<Lane> {
    let nothing = Stream::default();
    let lane = |(load, name, figures): (&str, &str, &StreamReport)| {
        let stream = run.requests.stream(load, name).unwrap_or(&nothing);
        lane(run, load, name, figures, stream)
    };
    run.streams().map(lane).collect()
}

fn lane(run: &StoredRun, load: &str, name: &str, figures: &StreamReport, stream: &Stream) -> Lane {
    let title = format!("{load}.{name}");
    let mut drawing = Drawing::default();
    let scale = Scale::of(run, load);
    plot(run, &mut drawing, &scale, stream);
    brown_outs(run, &mut drawing, stream);
    outages(run, &mut drawing, figures);
    drawing.body.push_str("<g class=\"still\">");
    failures(run, &mut drawing, stream);
    drawing.body.push_str("</g>");
    recoveries(run, &mut drawing, figures);
    Lane {
        id: format!("lane-{load}-{name}"),
        group: "load",
        spoken: spoken(&title, figures),
        label: title.clone(),
        total: format!("{} of {} failed", figures.failed, figures.sent),
        height: HEIGHT,
        body: drawing.body,
        stream: Some(title),
    }
}

/// Latency upward, logarithmically.
#[derive(Debug, Clone, Copy)]
pub(in crate::scenario::page) struct Scale {
    pub(in crate::scenario::page) lowest_ms: f64,
    pub(in crate::scenario::page) highest_ms: f64,
    pub(in crate::scenario::page) deadline_ms: Option<f64>,
}

impl Scale {
    pub(in crate::scenario::page) fn of(run: &StoredRun, load: &str) -> Self {
        if let Some(given) = run.scales.get(load) {
            return *given;
        }
        let streams = run
            .requests
            .streams
            .iter()
            .filter(|((of, _), _)| of == load);
        let (mut lowest, mut highest) = (f64::INFINITY, 0.0_f64);
        for request in streams.flat_map(|(_, stream)| &stream.requests) {
            if request.latency_us > 0 {
                lowest = lowest.min(request.latency_ms());
                highest = highest.max(request.latency_ms());
            }
        }
        let deadline_ms = run.deadlines_ms.get(load).copied();
        let highest = deadline_ms.unwrap_or(highest).max(10.0) * 1.25;
        let lowest = lowest.clamp(0.1, 100.0) * 0.7;
        Self {
            lowest_ms: lowest,
            highest_ms: highest,
            deadline_ms,
        }
    }

    /// Pixels below the upper edge of the plot.
    fn y(&self, ms: f64) -> f64 {
        let share = (ms.max(self.lowest_ms) / self.lowest_ms).ln()
            / (self.highest_ms / self.lowest_ms).ln();
        PLOT_HEIGHT * (1.0 - share.clamp(0.0, 1.0))
    }

    fn decades(&self) -> Vec<f64> {
        let mut decades = Vec::new();
        let mut at = 10_f64.powf(self.lowest_ms.log10().ceil());
        while at < self.highest_ms * 0.85 {
            decades.push(at);
            at *= 10.0;
        }
        decades
    }
}

fn plot(run: &StoredRun, drawing: &mut Drawing, scale: &Scale, stream: &Stream) {
    for ms in scale.decades() {
        rule(drawing, "grid", PLOT_Y + scale.y(ms));
    }
    if let Some(deadline_ms) = scale.deadline_ms {
        rule(drawing, "deadline", PLOT_Y + scale.y(deadline_ms));
    }
    let mut columns: Vec<Vec<u32>> = vec![Vec::new(); COLUMNS];
    for request in stream.requests.iter().filter(|request| request.good()) {
        columns[column(run, request)].push(request.latency_us);
    }
    let (mut range, mut middle) = (String::new(), String::new());
    for (index, latencies) in columns.iter_mut().enumerate() {
        if latencies.is_empty() {
            continue;
        }
        latencies.sort_unstable();
        let y = |us: u32| scale.y(f64::from(us) / 1000.0);
        #[expect(clippy::cast_precision_loss, reason = "600 columns")]
        let x = (index as f64 + 0.5) / COLUMNS as f64 * 1000.0;
        let (top, bottom) = (y(latencies[latencies.len() - 1]), y(latencies[0]));
        let _ = write!(range, "M{x:.1} {top:.1}V{:.1}", bottom.max(top + 0.5));
        let _ = write!(middle, "M{x:.1} {:.1}h0", y(latencies[latencies.len() / 2]));
    }
    drawing.body.push_str("<g class=\"still\">");
    drawing.stretched("range", PLOT_Y, PLOT_HEIGHT, &range);
    drawing.stretched("middle", PLOT_Y, PLOT_HEIGHT, &middle);
    drawing.body.push_str("</g>");
}

fn rule(drawing: &mut Drawing, class: &str, y: f64) {
    let y = number(y);
    let _ = write!(
        drawing.body,
        "<line class=\"{class}\" x1=\"0\" x2=\"100%\" y1=\"{y}\" y2=\"{y}\"/>"
    );
}

/// The figures beside the rules, for the left edge of the plot: they stay where they are when the axis moves.
pub(in crate::scenario::page) fn rules(run: &StoredRun, load: &str) -> Vec<(f64, String)> {
    let scale = Scale::of(run, load);
    let mut rules: Vec<(f64, String)> = scale
        .decades()
        .into_iter()
        .map(|ms| (PLOT_Y + scale.y(ms), duration(ms)))
        .collect();
    if let Some(deadline_ms) = scale.deadline_ms {
        let y = PLOT_Y + scale.y(deadline_ms);
        rules.retain(|(other, _)| (other - y).abs() > 9.0);
        rules.push((y, duration(deadline_ms)));
    }
    rules
}

fn column(run: &StoredRun, request: &Request) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "600 columns"
    )]
    let column = (run.axis.share(request.intended_ms()) * COLUMNS as f64) as usize;
    column.min(COLUMNS - 1)
}

/// One shape a class and column.
fn failures(run: &StoredRun, drawing: &mut Drawing, stream: &Stream) {
    let mut groups: Vec<(usize, u8, f64, f64, usize)> = Vec::new();
    for request in stream.requests.iter().filter(|request| !request.good()) {
        let column = column(run, request) / 2;
        let at_ms = request.intended_ms();
        let known = groups
            .iter_mut()
            .rev()
            .take(8)
            .find(|group| group.0 == column && group.1 == request.class);
        match known {
            Some(group) => {
                group.3 = at_ms;
                group.4 += 1;
            }
            None => groups.push((column, request.class, at_ms, at_ms, 1)),
        }
    }
    for (_, class, from_ms, to_ms, count) in groups {
        let name = &run.requests.classes[usize::from(class)];
        let told = if count == 1 {
            format!("{name} at {}", duration(from_ms))
        } else {
            format!(
                "{count} × {name} from {} to {}",
                duration(from_ms),
                duration(to_ms)
            )
        };
        let class = if name == "prober" { "ours" } else { "bad" };
        let span = Span {
            class,
            from_ms,
            to_ms,
            y: FAILED_Y,
            height: 0.0,
            told: &told,
            label: "",
        };
        drawing.mark(&run.axis, &span, shape(name));
    }
}

fn outages(run: &StoredRun, drawing: &mut Drawing, figures: &StreamReport) {
    for outage in &figures.outages {
        let (from_ms, to_ms) = (whole(outage.from_ms), whole(outage.to_ms));
        let length = duration(to_ms - from_ms);
        let told = format!(
            "outage of {length}, from {} to {}",
            duration(from_ms),
            duration(to_ms)
        );
        let span = Span {
            class: "outage",
            from_ms,
            to_ms,
            y: OUTAGE_Y,
            height: 5.0,
            told: &told,
            label: "",
        };
        drawing.span(&run.axis, &span);
        if outage.to_ms - outage.from_ms == figures.longest_outage_ms {
            drawing.text(&run.axis, "length", to_ms, OUTAGE_Y + 6.0, 5.0, &length);
        }
    }
}

fn brown_outs(run: &StoredRun, drawing: &mut Drawing, stream: &Stream) {
    let mut windows: Vec<(f64, usize, usize)> = Vec::new();
    for request in &stream.requests {
        let begin = (request.intended_ms() / BROWN_MS).floor() * BROWN_MS;
        match windows.last_mut() {
            Some((same, good, all)) if (*same - begin).abs() < 1.0 => {
                *good += usize::from(request.good());
                *all += 1;
            }
            _ => windows.push((begin, usize::from(request.good()), 1)),
        }
    }
    let mut spans: Vec<(f64, f64, usize)> = Vec::new();
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    for (begin, good, all) in windows
        .into_iter()
        .filter(|(_, good, all)| (*good as f64) < BROWN_SHARE * *all as f64)
    {
        match spans.last_mut() {
            Some((_, end, bad)) if begin - *end < 1.0 => {
                *end = begin + BROWN_MS;
                *bad += all - good;
            }
            _ => spans.push((begin, begin + BROWN_MS, all - good)),
        }
    }
    for (from_ms, to_ms, bad) in spans {
        let told = format!(
            "degraded for {}, from {}: {bad} failed",
            duration(to_ms - from_ms),
            duration(from_ms)
        );
        let span = Span {
            class: "brown",
            from_ms,
            to_ms,
            y: BROWN_Y,
            height: 3.0,
            told: &told,
            label: "",
        };
        drawing.span(&run.axis, &span);
    }
}

/// From each fault's onset until the stream was good again.
fn recoveries(run: &StoredRun, drawing: &mut Drawing, figures: &StreamReport) {
    for fault in &run.report.faults {
        let Some(onset_ms) = fault.onset_ms.map(whole) else {
            continue;
        };
        match figures.recovery_ms.get(&fault.id) {
            Some(Some(0)) | None => {}
            Some(Some(ms)) => {
                let to_ms = onset_ms + whole(*ms);
                let told = format!(
                    "recovered {} after the onset of {}",
                    duration(whole(*ms)),
                    fault.id
                );
                let span = Span {
                    class: "recovery",
                    from_ms: onset_ms,
                    to_ms,
                    y: 6.0,
                    height: 3.0,
                    told: &told,
                    label: "",
                };
                drawing.span(&run.axis, &span);
                drawing.text(
                    &run.axis,
                    "good",
                    to_ms,
                    11.0,
                    5.0,
                    &format!("good again after {}", duration(whole(*ms))),
                );
            }
            Some(None) => {
                let to_ms = run.axis.to_ms;
                let told = format!("not recovered from {}", fault.id);
                let span = Span {
                    class: "recovery never",
                    from_ms: onset_ms,
                    to_ms,
                    y: 6.0,
                    height: 3.0,
                    told: &told,
                    label: "",
                };
                drawing.span(&run.axis, &span);
            }
        }
    }
}

fn spoken(title: &str, figures: &StreamReport) -> String {
    let outages = match figures.outages.len() {
        0 => "no outage".to_owned(),
        count => {
            let longest = figures
                .outages
                .iter()
                .max_by_key(|outage| outage.to_ms - outage.from_ms);
            let from = longest
                .map(|outage| format!(" from {}", duration(whole(outage.from_ms))))
                .unwrap_or_default();
            let plural = if count == 1 { "outage" } else { "outages" };
            format!(
                "{count} {plural}, the longest {}{from}",
                duration(whole(figures.longest_outage_ms))
            )
        }
    };
    let latency = figures.latency_ms;
    format!(
        "{title}: {} requests, {} failed, {outages}; p50 {}, p99 {}",
        figures.sent,
        figures.failed,
        duration(latency.p50),
        duration(latency.p99)
    )
}

/// How often each class was seen, for the legend.
pub(in crate::scenario::page) fn classes_seen(stored: &Stored) -> Vec<&str> {
    let mut seen = vec![false; stored.classes.len()];
    for stream in stored.streams.values() {
        for request in stream.requests.iter().filter(|request| !request.good()) {
            seen[usize::from(request.class)] = true;
        }
    }
    stored
        .classes
        .iter()
        .zip(seen)
        .filter(|(_, seen)| *seen)
        .map(|(name, _)| name.as_str())
        .collect()
}

//! The report as text for a terminal: reads well without colour.

use std::fmt::Write as _;

use super::report::{Report, State};

/// The whole summary, with a line break at its end.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, report);
    out
}

fn write_all(out: &mut String, report: &Report) -> std::fmt::Result {
    let target = &report.target;
    writeln!(out, "{}  {}", report.verdict.word(), report.title())?;
    writeln!(
        out,
        "  target   {} ({}), {} nodes, seed {}",
        target.provider, target.accel, target.nodes, report.seed
    )?;
    for reason in &report.reasons {
        writeln!(out, "  because  {reason}")?;
    }
    for fault in &report.faults {
        let onset = fault
            .onset_ms
            .map_or("no effect".to_owned(), |ms| format!("from {}", seconds(ms)));
        let healed = fault.healed_ms.map_or(", not healed".to_owned(), |ms| {
            format!(" to {}", seconds(ms))
        });
        let verified = if fault.verified {
            "verified"
        } else {
            "not verified"
        };
        writeln!(
            out,
            "  fault    {}: {} of {}, {onset}{healed}, {verified}",
            fault.id, fault.kind, fault.target
        )?;
    }
    for (name, load) in &report.load {
        for (stream, figures) in &load.streams {
            let share = if figures.sent == 0 {
                0.0
            } else {
                percent(figures.failed, figures.sent)
            };
            write!(
                out,
                "  load     {name}.{stream}: {} sent, {} failed ({share:.2} %), longest outage {} ms",
                figures.sent, figures.failed, figures.longest_outage_ms
            )?;
            let latency = figures.latency_ms;
            writeln!(
                out,
                ", p50 {:.0} p99 {:.0} max {:.0} ms",
                latency.p50, latency.p99, latency.max
            )?;
            if !figures.by_class.is_empty() {
                let classes: Vec<String> = figures
                    .by_class
                    .iter()
                    .map(|(class, count)| format!("{class} {count}"))
                    .collect();
                writeln!(out, "           failed: {}", classes.join(", "))?;
            }
            if !figures.versions.is_empty() {
                let versions: Vec<String> = figures
                    .versions
                    .iter()
                    .map(|(version, count)| format!("{version} {count}"))
                    .collect();
                writeln!(out, "           answered: {}", versions.join(", "))?;
            }
        }
    }
    for row in &report.expectations {
        let mark = match row.state {
            State::Met => "ok      ",
            State::NotMet => "NOT MET ",
            State::Undecided => "UNSURE  ",
            State::Vacuous => "VACUOUS ",
        };
        writeln!(
            out,
            "  {mark} {}: {} (measured {} {})",
            row.name, row.expected, row.measured, row.error
        )?;
    }
    Ok(())
}

fn seconds(ms: u64) -> String {
    format!("{}.{:01} s", ms / 1000, ms % 1000 / 100)
}

fn percent(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    {
        100.0 * part as f64 / whole as f64
    }
}

//! `worst = { window = "10s", failed = "<= 20%" }`: the worst window, so that a longer run dilutes nothing.

use std::time::Duration;

use super::super::judge::watched::{Watched, share};
use super::load_figure::{Estimate, LoadFigure, Unit, read_bound, worst_of};
use super::{Bound, FigureKind};
use crate::model::reader::Value;

pub(super) const WORST: FigureKind = FigureKind {
    key: "worst",
    example: "{ window = \"10s\", failed = \"<= 20%\" }",
    read,
};

fn read(value: &Value<'_, '_>, _: &FigureKind) -> Option<(Box<dyn LoadFigure>, Bound)> {
    let table = value.table()?;
    table.allow(&["window", "failed"]);
    let window = table.require("window").and_then(|value| {
        let window = value.duration()?;
        if window.is_zero() {
            value.problem("must be longer than nothing", None);
            return None;
        }
        Some(window)
    });
    let bound = table
        .require("failed")
        .and_then(|value| read_bound(&value, Unit::Share, "\"<= 20%\""));
    Some((Box::new(Worst { window: window? }), bound?))
}

#[derive(Debug)]
struct Worst {
    window: Duration,
}

impl LoadFigure for Worst {
    fn unit(&self) -> Unit {
        Unit::Share
    }

    fn measure(&self, streams: &[Watched<'_>], limit: f64) -> Option<Estimate> {
        worst_of(streams, |stream| self.of_stream(stream, limit))
    }

    fn shortest(&self) -> Duration {
        self.window
    }
}

impl Worst {
    fn of_stream(&self, stream: &Watched<'_>, limit: f64) -> Option<Estimate> {
        let mut worst: Option<Estimate> = None;
        // Where the first window begins that exceeds the limit, or else the worst one.
        let mut exceeding: Option<usize> = None;
        let mut worst_first = 0;
        for window in stream.windows(self.window.as_secs_f64() * 1000.0) {
            let failed = share(window.bad, window.sent);
            let low = share(window.bad - window.bad_late, window.sent);
            let high = share(window.bad + window.good_late, window.sent);
            if failed > limit {
                exceeding.get_or_insert(window.first);
            }
            let so_far = worst.get_or_insert_with(|| Estimate {
                value: -1.0,
                low: 0.0,
                high: 0.0,
                detail: String::new(),
                decider: None,
            });
            so_far.low = so_far.low.max(low);
            so_far.high = so_far.high.max(high);
            if failed > so_far.value {
                so_far.value = failed;
                so_far.detail = format!(
                    "{} of {} from {:.0} ms on",
                    window.bad, window.sent, window.from_ms
                );
                worst_first = window.first;
            }
        }
        worst.map(|worst| {
            let from = exceeding.unwrap_or(worst_first);
            let bad = stream.all.samples[from..]
                .iter()
                .position(|sample| !sample.good());
            Estimate {
                decider: bad.map(|bad| (stream.stream.to_owned(), from + bad)),
                ..worst
            }
        })
    }
}

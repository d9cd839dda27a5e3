//! `failed`: bad requests of all that were sent.

use super::super::judge::watched::{Watched, share};
use super::load_figure::{Estimate, LoadFigure, Unit, read_bound};
use super::{Bound, FigureKind};
use crate::model::reader::Value;

pub(super) const FAILED: FigureKind = FigureKind {
    key: "failed",
    example: "\"<= 0.5%\"",
    read,
};

fn read(value: &Value<'_, '_>, kind: &FigureKind) -> Option<(Box<dyn LoadFigure>, Bound)> {
    let bound = read_bound(value, Unit::Share, kind.example)?;
    Some((Box::new(Failed), bound))
}

#[derive(Debug)]
struct Failed;

impl LoadFigure for Failed {
    fn unit(&self) -> Unit {
        Unit::Share
    }

    /// All streams count together. Late requests may have been good, or bad.
    fn measure(&self, streams: &[Watched<'_>], limit: f64) -> Option<Estimate> {
        let (mut sent, mut bad, mut least, mut most, mut missing) = (0, 0, 0, 0, 0.0);
        for stream in streams {
            sent += stream.samples.len();
            missing += stream.missing;
            for sample in stream.samples {
                bad += usize::from(!sample.good());
                least += usize::from(!sample.good() && !sample.late());
                most += usize::from(!sample.good() || sample.late());
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
        let low = least as f64 / (sent as f64 + missing);
        (sent > 0).then(|| Estimate {
            value: share(bad, sent),
            low,
            high: share(most, sent),
            detail: format!("{bad} of {sent}"),
            decider: decider(streams, sent, limit),
        })
    }
}

/// The bad request with which the share came to exceed the limit; the first one if it never did.
fn decider(streams: &[Watched<'_>], sent: usize, limit: f64) -> Option<(String, usize)> {
    let mut bad: Vec<(u64, &str, usize)> = Vec::new();
    for stream in streams {
        let failed = stream
            .samples
            .iter()
            .enumerate()
            .filter(|(_, sample)| !sample.good())
            .map(|(index, sample)| (sample.intended_us(), stream.stream, stream.first + index));
        bad.extend(failed);
    }
    bad.sort_unstable();
    let exceeding = (0..bad.len()).find(|count| share(count + 1, sent) > limit);
    bad.get(exceeding.unwrap_or(0))
        .map(|(_, stream, index)| ((*stream).to_owned(), *index))
}

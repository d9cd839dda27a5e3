//! One stream in one span of time: what every figure is measured on.

use super::super::requests::{Sample, StreamSamples};

/// Outages with fewer good requests than this between them are one.
pub const GOOD_RUN_MIN: usize = 3;

/// A span of time in milliseconds since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Its beginning.
    pub from_ms: f64,
    /// Its end, which is not part of it.
    pub to_ms: f64,
}

impl Span {
    /// How long it is.
    #[must_use]
    pub fn length_ms(self) -> f64 {
        (self.to_ms - self.from_ms).max(0.0)
    }

    /// What both have in common; empty if nothing.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        let from_ms = self.from_ms.max(other.from_ms);
        Self {
            from_ms,
            to_ms: self.to_ms.min(other.to_ms).max(from_ms),
        }
    }

    /// Whether both have some time in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.from_ms < other.to_ms && other.from_ms < self.to_ms
    }
}

/// From the first bad request to the next good one that begins a run of good ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outage {
    /// When.
    pub span: Span,
    /// Index of its first bad request in the stream.
    pub first: usize,
}

/// One stream in one span.
#[derive(Debug, Clone)]
pub struct Watched<'a> {
    /// The stream's name.
    pub stream: &'a str,
    /// All of its requests in the counted span.
    pub all: &'a StreamSamples,
    /// Index of the first request of the span.
    pub first: usize,
    /// The requests of the span.
    pub samples: &'a [Sample],
    /// The span.
    pub span: Span,
    /// The counted span.
    pub counted: Span,
    /// Time between two requests, the longest of all stages; with Poisson arrival on average.
    pub period_ms: f64,
    /// By how much an edge may be off: the longest time in which nothing was sent.
    pub edge_ms: f64,
    /// No more requests than one in this time were due, by which what is missing is reckoned.
    pub shortest_ms: f64,
    /// How long a request may take.
    pub deadline_us: u64,
    /// When the prober itself was asleep, within the span.
    pub pauses: Vec<Span>,
    /// Requests that the span would hold beside these had the load not ended before it.
    pub missing: f64,
}

impl<'a> Watched<'a> {
    /// The requests of a stream intended within `span`.
    #[must_use]
    pub fn part(&self, span: Span) -> Self {
        let (first, samples) = slice(self.all, span);
        let pauses = self.pauses.iter().map(|pause| pause.within(span));
        Self {
            first,
            samples,
            span,
            missing: 0.0,
            pauses: pauses.filter(|pause| pause.length_ms() > 0.0).collect(),
            ..self.clone()
        }
    }

    /// So many requests were due at most in a time that was not watched.
    #[must_use]
    pub fn due_in(&self, length_ms: f64) -> f64 {
        most_due(length_ms, self.shortest_ms)
    }

    /// Failed requests.
    #[must_use]
    pub fn bad(&self) -> usize {
        self.samples.iter().filter(|sample| !sample.good()).count()
    }

    /// The sum of the prober's pauses.
    #[must_use]
    pub fn paused_ms(&self) -> f64 {
        let lengths = self.pauses.iter().map(|pause| pause.length_ms());
        lengths.fold(0.0, |sum, length| sum + length)
    }

    /// The longest of them.
    #[must_use]
    pub fn longest_pause_ms(&self) -> f64 {
        self.pauses
            .iter()
            .map(|pause| pause.length_ms())
            .fold(0.0, f64::max)
    }

    /// The stream's outages, each as far as it lies in the span.
    #[must_use]
    pub fn outages(&self) -> Vec<Outage> {
        let found = outages(&self.all.samples, self.counted.to_ms);
        let clipped = found.into_iter().map(|outage| Outage {
            span: outage.span.within(self.span),
            ..outage
        });
        clipped
            .filter(|outage| outage.span.length_ms() > 0.0)
            .collect()
    }

    /// Windows of this length that begin at an intended time and lie in the span, in order.
    pub fn windows(&self, length_ms: f64) -> impl Iterator<Item = Window> + '_ {
        Windows {
            samples: self.samples,
            first: self.first,
            start: 0,
            end: 0,
            sums: Sums::default(),
            length_ms,
            to_ms: self.span.to_ms,
        }
    }
}

/// So many requests are due at most in a time, if it is one in `shortest_ms`; none if that is not known.
#[must_use]
pub fn most_due(length_ms: f64, shortest_ms: f64) -> f64 {
    if shortest_ms > 0.0 {
        (length_ms.max(0.0) / shortest_ms).ceil()
    } else {
        0.0
    }
}

/// The longest time between two requests that follow each other.
#[must_use]
pub fn longest_gap_ms(samples: &[Sample]) -> f64 {
    let gaps = samples
        .windows(2)
        .map(|pair| pair[1].intended_ms() - pair[0].intended_ms());
    gaps.fold(0.0, f64::max)
}

/// Index of the first request within `span`, and all of them.
#[must_use]
pub fn slice(stream: &StreamSamples, span: Span) -> (usize, &[Sample]) {
    let samples = &stream.samples;
    let first = samples.partition_point(|sample| sample.intended_ms() < span.from_ms);
    let end = samples.partition_point(|sample| sample.intended_ms() < span.to_ms);
    (first, &samples[first..end.max(first)])
}

/// The outages of a stream; one that no run of good requests ends goes on until `end_ms`.
#[must_use]
pub fn outages(samples: &[Sample], end_ms: f64) -> Vec<Outage> {
    let mut found = Vec::new();
    let mut open: Option<(f64, usize)> = None;
    let mut good_run: Option<(f64, usize)> = None;
    for (index, sample) in samples.iter().enumerate() {
        if !sample.good() {
            open.get_or_insert((sample.intended_ms(), index));
            good_run = None;
            continue;
        }
        let Some((from_ms, first)) = open else {
            continue;
        };
        let (to_ms, length) = good_run.map_or((sample.intended_ms(), 1), |(at, run)| (at, run + 1));
        good_run = Some((to_ms, length));
        if length >= GOOD_RUN_MIN {
            found.push(Outage {
                span: Span { from_ms, to_ms },
                first,
            });
            (open, good_run) = (None, None);
        }
    }
    found.extend(open.map(|(from_ms, first)| Outage {
        span: Span {
            from_ms,
            to_ms: end_ms.max(from_ms),
        },
        first,
    }));
    found
}

/// The requests of a window, counted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// When it begins.
    pub from_ms: f64,
    /// Index of its first request in the stream.
    pub first: usize,
    /// How many it holds,
    pub sent: usize,
    /// how many of these failed,
    pub bad: usize,
    /// how many of the failed ones were sent late,
    pub bad_late: usize,
    /// and how many of the good ones.
    pub good_late: usize,
}

#[derive(Default)]
struct Sums {
    bad: usize,
    bad_late: usize,
    good_late: usize,
}

impl Sums {
    fn add(&mut self, sample: &Sample) {
        self.bad += usize::from(!sample.good());
        self.bad_late += usize::from(!sample.good() && sample.late());
        self.good_late += usize::from(sample.good() && sample.late());
    }

    fn remove(&mut self, sample: &Sample) {
        self.bad -= usize::from(!sample.good());
        self.bad_late -= usize::from(!sample.good() && sample.late());
        self.good_late -= usize::from(sample.good() && sample.late());
    }
}

struct Windows<'a> {
    samples: &'a [Sample],
    first: usize,
    start: usize,
    end: usize,
    sums: Sums,
    length_ms: f64,
    to_ms: f64,
}

impl Iterator for Windows<'_> {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        let from_ms = self.samples.get(self.start)?.intended_ms();
        let to_ms = from_ms + self.length_ms;
        if to_ms > self.to_ms {
            return None;
        }
        while let Some(sample) = self
            .samples
            .get(self.end)
            .filter(|sample| sample.intended_ms() < to_ms)
        {
            self.sums.add(sample);
            self.end += 1;
        }
        let window = Window {
            from_ms,
            first: self.first + self.start,
            sent: self.end - self.start,
            bad: self.sums.bad,
            bad_late: self.sums.bad_late,
            good_late: self.sums.good_late,
        };
        self.sums.remove(&self.samples[self.start]);
        self.start += 1;
        Some(window)
    }
}

/// `part` of `whole`; 0 if there is nothing.
#[must_use]
pub fn share(part: usize, whole: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests")]
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_watched_held_so_many_requests_at_most() {
        let close = |count: f64, wanted: f64| (count - wanted).abs() < 1e-9;
        assert!(close(most_due(1000.0, 20.0), 50.0));
        assert!(close(most_due(1001.0, 20.0), 51.0));
        assert!(close(most_due(-5.0, 20.0), 0.0));
        assert!(close(most_due(1000.0, 0.0), 0.0), "the rate is not known");
        let at = [0.0, 10.0, 95.0, 100.0];
        let samples: Vec<Sample> = at.map(|at| Sample::made(at, true, false)).to_vec();
        assert!(close(longest_gap_ms(&samples), 85.0));
        assert!(close(longest_gap_ms(&samples[..1]), 0.0));
    }
}

//! The last minute of a stream, second by second: one glyph each, that reads without colour.

use std::collections::VecDeque;

use crate::scenario::load::Record;

/// How many seconds are kept.
pub const CELLS: usize = 60;
/// Requests of a second whose latency is kept for the percentiles.
const LATENCIES_MAX: usize = 512;
/// Percentiles are of so many seconds.
const RECENT: usize = 10;
const SLICE_MS: f64 = 1000.0;

/// One second.
#[derive(Debug, Clone, Default, PartialEq)]
struct Slice {
    number: u64,
    sent: u32,
    failed: u32,
    late: u32,
    slowest_ms: f64,
    latencies_ms: Vec<f64>,
}

/// What a stream did lately.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cells {
    slices: VecDeque<Slice>,
}

impl Cells {
    /// Counts a request in the second in which it should have been sent.
    pub fn add(&mut self, record: &Record) {
        let number = slice_of(record.intended_ms);
        let Some(slice) = self.slice(number) else {
            return;
        };
        slice.sent += 1;
        slice.failed += u32::from(!record.good());
        slice.late += u32::from(record.late());
        slice.slowest_ms = slice.slowest_ms.max(record.latency_ms());
        if slice.latencies_ms.len() < LATENCIES_MAX {
            slice.latencies_ms.push(record.latency_ms());
        }
    }

    /// The slice of that number; none if it is too old.
    fn slice(&mut self, number: u64) -> Option<&mut Slice> {
        let place = self.slices.iter().rposition(|one| one.number <= number);
        let place = match place {
            Some(place) if self.slices[place].number == number => place,
            Some(place) => self.insert(place + 1, number),
            None if self.slices.len() < CELLS => self.insert(0, number),
            None => return None,
        };
        if self.slices.len() > CELLS {
            self.slices.pop_front();
            return self.slices.get_mut(place - 1);
        }
        self.slices.get_mut(place)
    }

    fn insert(&mut self, place: usize, number: u64) -> usize {
        let slice = Slice {
            number,
            ..Slice::default()
        };
        self.slices.insert(place, slice);
        place
    }

    /// One glyph a second up to `now_ms`, oldest first: ` ` nothing sent, `·` good, `▂▄▆█` the slowest answer took more than a tenth, a
    /// quarter, half, three quarters of the deadline, `?` sent late by the prober, `x` some failed, `X` all failed.
    #[must_use]
    pub fn glyphs(&self, now_ms: u64, deadline_ms: f64, count: usize) -> String {
        let newest = now_ms / 1000;
        let first = (newest + 1).saturating_sub(count as u64);
        let mut glyphs = " ".repeat(count - usize::try_from(newest + 1 - first).unwrap_or(count));
        for number in first..=newest {
            let slice = self.slices.iter().find(|slice| slice.number == number);
            glyphs.push(slice.map_or(' ', |slice| glyph(slice, deadline_ms)));
        }
        glyphs
    }

    /// Median and 99th percentile of the last seconds, in milliseconds; none if nothing was sent.
    #[must_use]
    pub fn percentiles(&self) -> Option<(f64, f64)> {
        let recent = self.slices.iter().rev().take(RECENT);
        let mut latencies: Vec<f64> = recent
            .flat_map(|slice| slice.latencies_ms.iter().copied())
            .collect();
        latencies.sort_by(f64::total_cmp);
        let last = latencies.len().checked_sub(1)?;
        Some((latencies[last / 2], latencies[last * 99 / 100]))
    }
}

fn slice_of(ms: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive times of a run"
    )]
    {
        (ms.max(0.0) / SLICE_MS) as u64
    }
}

fn glyph(slice: &Slice, deadline_ms: f64) -> char {
    let share = slice.slowest_ms / deadline_ms.max(1.0);
    match slice {
        Slice { sent: 0, .. } => ' ',
        Slice { sent, failed, .. } if failed == sent => 'X',
        Slice { failed: 1.., .. } => 'x',
        Slice { late: 1.., .. } => '?',
        _ if share > 0.75 => '█',
        _ if share > 0.5 => '▆',
        _ if share > 0.25 => '▄',
        _ if share > 0.1 => '▂',
        _ => '·',
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::scenario::load::Class;
    use crate::scenario::spec::StreamKind;

    /// A request of a stream `new`.
    pub(crate) fn record(intended_ms: f64, took_ms: f64, class: Class) -> Record {
        Record {
            stream: StreamKind::New,
            intended_ms,
            sent_ms: intended_ms,
            connected_ms: None,
            first_byte_ms: None,
            end_ms: intended_ms + took_ms,
            connection: None,
            status: None,
            version: None,
            endpoint: None,
            class,
        }
    }

    #[test]
    fn each_second_has_the_worst_that_happened_in_it() {
        let mut cells = Cells::default();
        let mut late = record(9_100.0, 60.0, Class::Ok);
        late.sent_ms += 55.0;
        for one in [
            record(1_000.0, 10.0, Class::Ok),
            record(1_500.0, 20.0, Class::Ok),
            record(2_000.0, 150.0, Class::Ok),
            record(3_000.0, 300.0, Class::Ok),
            record(4_000.0, 600.0, Class::Ok),
            record(5_000.0, 900.0, Class::Ok),
            record(7_000.0, 10.0, Class::Ok),
            record(7_500.0, 1.0, Class::Refused),
            record(8_000.0, 1.0, Class::Refused),
            late,
            // Over later than its successors.
            record(6_900.0, 990.0, Class::Ok),
        ] {
            cells.add(&one);
        }
        assert_eq!(cells.glyphs(10_400, 1000.0, 12), "  ·▂▄▆██xX? ");
        assert_eq!(cells.glyphs(10_400, 1000.0, 4), "xX? ");
        assert_eq!(Cells::default().percentiles(), None);
    }

    #[test]
    fn only_the_last_minute_is_kept() {
        let mut cells = Cells::default();
        for second in 0..100 {
            cells.add(&record(f64::from(second) * 1000.0, 5.0, Class::Ok));
        }
        assert_eq!(cells.slices.len(), CELLS);
        cells.add(&record(1_000.0, 5.0, Class::Refused));
        assert_eq!(cells.slices.len(), CELLS, "too old");
        assert_eq!(cells.glyphs(99_000, 1000.0, CELLS), "·".repeat(CELLS));
        assert_eq!(cells.percentiles(), Some((5.0, 5.0)));
    }
}

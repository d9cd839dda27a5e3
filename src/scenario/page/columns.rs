//! Requests as the page's script reads them: columns, deflated, in base64.
//!
//! For each stream one after another: intended times (LEB128 of the differences, in units of 10 µs), latencies (logarithms: low bytes,
//! then high bytes), classes (four bits) with lateness (one), versions, endpoints and connections (LEB128; connections as zigzag
//! differences), and, when some requests are left out, indices (LEB128 of the differences).

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde::Serialize;

use super::lanes::requests::{FAILED_Y, PLOT_HEIGHT, PLOT_Y, Scale};
use super::run::StoredRun;
use super::stored::{Request, Stream};
use super::svg::shape;

/// Up to so many requests are all in the page.
const REQUESTS_MAX: usize = 1_000_000;
/// Two latencies of one step differ by this factor at most.
const LATENCY_STEP: f64 = 1.004;
/// Unit of a time.
const UNIT_US: u64 = 10;
/// The bit of a late request.
const LATE: u8 = 0x10;
/// Late is what was sent more than this after the intended time, unless the period is longer.
const LATE_MS: f64 = 50.0;

/// What the script has to know to read the columns.
#[derive(Debug, Serialize)]
pub struct Directory<'a> {
    /// The axis, in milliseconds.
    pub from: f64,
    /// Its end.
    pub to: f64,
    /// Names of classes; the first is `ok`.
    pub classes: &'a [String],
    /// Their shapes, around (0, 0).
    pub shapes: Vec<&'static str>,
    /// Where failed requests stand within a lane.
    pub failed_y: f64,
    /// Names of versions; the first is none.
    pub versions: &'a [String],
    /// Names of pods; the first is none.
    pub endpoints: &'a [String],
    /// Factor between two latencies.
    pub step: f64,
    /// Where a plot begins within its lane.
    pub plot_y: f64,
    /// Its height.
    pub plot_height: f64,
    /// The streams, in order.
    pub streams: Vec<StreamEntry>,
}

/// One stream.
#[derive(Debug, Serialize)]
pub struct StreamEntry {
    /// `web.new`.
    pub name: String,
    /// Of its lane.
    pub lane: String,
    /// How many requests are in the columns.
    pub count: usize,
    /// How many there were.
    pub of: usize,
    /// Of the good and quick ones, one in this many is there.
    pub one_in: usize,
    /// Lower end of the latency axis.
    pub lowest: f64,
    /// Upper end.
    pub highest: f64,
    /// The deadline, if it is known.
    pub deadline: Option<f64>,
}

/// The columns of a run, and how to read them.
///
/// # Panics
/// Never: writing to memory does not fail.
#[must_use]
pub fn pack(run: &StoredRun) -> (Directory<'_>, String) {
    pack_at_most(run, REQUESTS_MAX)
}

fn pack_at_most(run: &StoredRun, most: usize) -> (Directory<'_>, String) {
    let stored = &run.requests;
    let one_in = stored.len().div_ceil(most).max(1);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
    let mut streams = Vec::new();
    for ((load, name), stream) in &stored.streams {
        let kept = kept(stream, one_in);
        let late_ms = run.period_ms(load).unwrap_or(0.0).max(LATE_MS);
        encoder
            .write_all(&columns(stream, &kept, late_ms, one_in > 1))
            .expect("writing to memory does not fail");
        let scale = Scale::of(run, load);
        streams.push(StreamEntry {
            name: format!("{load}.{name}"),
            lane: format!("lane-{load}-{name}"),
            count: kept.len(),
            of: stream.requests.len(),
            one_in,
            lowest: scale.lowest_ms,
            highest: scale.highest_ms,
            deadline: scale.deadline_ms,
        });
    }
    let packed = encoder.finish().expect("writing to memory does not fail");
    let directory = Directory {
        from: run.axis.from_ms,
        to: run.axis.to_ms,
        classes: &stored.classes,
        shapes: stored.classes.iter().map(|class| shape(class)).collect(),
        failed_y: FAILED_Y,
        versions: &stored.versions,
        endpoints: &stored.endpoints,
        step: LATENCY_STEP,
        plot_y: PLOT_Y,
        plot_height: PLOT_HEIGHT,
        streams,
    };
    (directory, STANDARD.encode(packed))
}

/// Indices of the requests that are in the page: every failed one, every slow one, and of the others one in `one_in`.
fn kept(stream: &Stream, one_in: usize) -> Vec<usize> {
    if one_in == 1 {
        return (0..stream.requests.len()).collect();
    }
    let mut latencies: Vec<u32> = stream
        .requests
        .iter()
        .map(|request| request.latency_us)
        .collect();
    let place = latencies.len().saturating_sub(1) * 99 / 100;
    let slow_us = if latencies.is_empty() {
        0
    } else {
        *latencies.select_nth_unstable(place).1
    };
    let shown = |(index, request): &(usize, &Request)| {
        !request.good() || request.latency_us > slow_us || index % one_in == 0
    };
    stream
        .requests
        .iter()
        .enumerate()
        .filter(shown)
        .map(|(index, _)| index)
        .collect()
}

fn columns(stream: &Stream, kept: &[usize], late_ms: f64, with_indices: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(kept.len() * 7);
    let requests = || kept.iter().map(|&index| &stream.requests[index]);
    let mut before = 0;
    for request in requests() {
        let at = request.intended_us / UNIT_US;
        leb128(&mut out, at - before);
        before = at;
    }
    let steps: Vec<u16> = requests().map(latency_step).collect();
    out.extend(steps.iter().map(|step| step.to_le_bytes()[0]));
    out.extend(steps.iter().map(|step| step.to_le_bytes()[1]));
    out.extend(requests().map(|request| {
        (request.class & 0x0f)
            | if request.delay_ms() > late_ms {
                LATE
            } else {
                0
            }
    }));
    out.extend(requests().map(|request| request.version));
    requests().for_each(|request| leb128(&mut out, u64::from(request.endpoint)));
    let mut before = 0;
    for request in requests() {
        let now = i64::from(request.connection);
        let difference = now - before;
        #[expect(clippy::cast_sign_loss, reason = "zigzag: what was negative is odd")]
        leb128(&mut out, ((difference << 1) ^ (difference >> 63)) as u64);
        before = now;
    }
    if with_indices {
        let mut before = 0;
        for &index in kept {
            leb128(&mut out, (index - before) as u64);
            before = index;
        }
    }
    out
}

fn latency_step(request: &Request) -> u16 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 5554 steps for 2^32 µs"
    )]
    {
        ((1.0 + f64::from(request.latency_us) / 10.0).ln() / LATENCY_STEP.ln()).round() as u16
    }
}

fn leb128(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::scenario::page::fixture::{Plan, write};

    fn run() -> StoredRun {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &Plan::default()).unwrap();
        StoredRun::read(folder.path()).unwrap()
    }

    #[test]
    fn what_is_packed_can_be_read() {
        let run = run();
        let (directory, text) = pack(&run);
        let mut bytes = Vec::new();
        flate2::read::ZlibDecoder::new(STANDARD.decode(text).unwrap().as_slice())
            .read_to_end(&mut bytes)
            .unwrap();
        let first = run.requests.stream("web", "new").unwrap().requests[0];
        assert_eq!(directory.streams[0].name, "web.new");
        assert_eq!(directory.streams[0].count, directory.streams[0].of);
        // The first intended time, in two or three bytes of seven bits.
        let (mut at, mut shift, mut place) = (0_u64, 0, 0);
        loop {
            at |= u64::from(bytes[place] & 0x7f) << shift;
            shift += 7;
            place += 1;
            if bytes[place - 1] < 0x80 {
                break;
            }
        }
        assert_eq!(at, first.intended_us / UNIT_US);
    }

    #[test]
    fn of_too_many_requests_no_failed_one_is_left_out() {
        let run = run();
        let (directory, _) = pack_at_most(&run, 1_000);
        for entry in &directory.streams {
            assert_eq!(entry.one_in, 5);
            assert!(
                entry.count > entry.of / 5 && entry.count < entry.of / 3,
                "{entry:?}"
            );
        }
        let stream = run.requests.stream("web", "new").unwrap();
        let kept = kept(stream, 5);
        let failed = stream
            .requests
            .iter()
            .enumerate()
            .filter(|(_, request)| !request.good());
        assert!(
            failed
                .map(|(index, _)| index)
                .all(|index| kept.contains(&index))
        );
    }
}

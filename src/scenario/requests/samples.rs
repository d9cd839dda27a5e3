//! The requests of a run as the judge holds them: few bytes each, by load and stream, in the order of their intended times.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;

use super::RequestsError;
use super::format::{Reader, Row};
use crate::scenario::report::{FAILURES_SHOWN, FailureReport, rounded};

/// What one request costs.
pub const SAMPLE_BYTES: usize = size_of::<Sample>();
/// The class of a good answer.
const OK: u8 = 0;
/// Bit of the class byte that says that the prober sent it late.
const LATE: u8 = 0x80;
/// Most different classes; others count as the last.
const CLASSES_MAX: usize = 0x7f;

/// One request. Packed, since there may be ten million of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    intended: [u8; 5],
    latency: [u8; 4],
    endpoint: [u8; 2],
    class: u8,
    version: u8,
}

impl Sample {
    /// When it should have been sent, in microseconds since the start of the run.
    #[must_use]
    pub fn intended_us(&self) -> u64 {
        let [a, b, c, d, e] = self.intended;
        u64::from_le_bytes([a, b, c, d, e, 0, 0, 0])
    }

    /// The same in milliseconds.
    #[must_use]
    pub fn intended_ms(&self) -> f64 {
        as_millis(self.intended_us())
    }

    /// From the intended time to its end, in microseconds.
    #[must_use]
    pub fn latency_us(&self) -> u64 {
        u64::from(u32::from_le_bytes(self.latency))
    }

    /// Whether the answer was good.
    #[must_use]
    pub fn good(&self) -> bool {
        self.class & !LATE == OK
    }

    /// Whether the prober sent it so late that it left a hole in what was watched.
    #[must_use]
    pub fn late(&self) -> bool {
        self.class & LATE != 0
    }

    /// Its class, an index of [`Requests::classes`].
    #[must_use]
    pub fn class(&self) -> usize {
        usize::from(self.class & !LATE)
    }

    /// The version that answered, an index of [`Requests::versions`]; 0 is none.
    #[must_use]
    pub fn version(&self) -> usize {
        usize::from(self.version)
    }

    /// The pod that answered, an index of [`Requests::endpoints`]; 0 is none.
    #[must_use]
    pub fn endpoint(&self) -> usize {
        usize::from(u16::from_le_bytes(self.endpoint))
    }
}

#[cfg(test)]
impl Sample {
    /// A request that took 5 ms, good or refused.
    pub(crate) fn made(intended_ms: f64, good: bool, late: bool) -> Self {
        let [a, b, c, d, e, ..] = super::format::micros(intended_ms).to_le_bytes();
        Self {
            intended: [a, b, c, d, e],
            latency: 5_000_u32.to_le_bytes(),
            endpoint: [0; 2],
            class: u8::from(!good) | if late { LATE } else { 0 },
            version: 0,
        }
    }

    /// The same request, which failed.
    pub(crate) fn failed(self) -> Self {
        Self {
            class: self.class | 1,
            ..self
        }
    }
}

#[cfg(test)]
impl Requests {
    /// The requests of one load.
    pub(crate) fn made(load: &str, streams: Vec<(&str, Vec<Sample>)>) -> Self {
        let streams = streams.into_iter().map(|(name, samples)| {
            let stream = StreamSamples {
                samples,
                ..StreamSamples::default()
            };
            (name.to_owned(), stream)
        });
        Self {
            loads: BTreeMap::from([(load.to_owned(), streams.collect())]),
            classes: Names(vec!["ok".to_owned(), "refused".to_owned()]),
            ..Self::default()
        }
    }
}

/// Microseconds as milliseconds.
#[must_use]
pub fn as_millis(us: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "far less than 2^52 microseconds"
    )]
    {
        us as f64 / 1000.0
    }
}

/// The requests of one stream.
#[derive(Debug, Clone, Default)]
pub struct StreamSamples {
    /// Those of the counted span, by intended time.
    pub samples: Vec<Sample>,
    /// How many the stream sent before the counted span.
    pub before: u64,
    /// The first [`FAILURES_SHOWN`] failed ones, with how far each got.
    pub failures: Vec<FailureReport>,
}

impl StreamSamples {
    /// The number of a request in the stream, from 1: its line among those of the stream.
    #[must_use]
    pub fn number(&self, index: usize) -> u64 {
        self.before + index as u64 + 1
    }

    fn order(&mut self) {
        if !self.samples.is_sorted_by_key(|sample| sample.intended_us()) {
            self.samples.sort_by_key(Sample::intended_us);
        }
        self.keep_first_failures();
    }

    fn keep_first_failures(&mut self) {
        self.failures.sort_by_key(|failure| failure.intended_ms);
        self.failures.truncate(FAILURES_SHOWN);
    }
}

/// What of a load is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wanted {
    /// Requests intended from this time on, in milliseconds,
    pub from_ms: f64,
    /// and before this one.
    pub to_ms: f64,
    /// Sent later than this after the intended time is late.
    pub late_ms: f64,
}

/// Names that occur often, each kept once.
#[derive(Debug, Clone, Default)]
struct Names(Vec<String>);

impl Names {
    fn index(&mut self, name: &str, most: usize) -> usize {
        if let Some(index) = self.0.iter().position(|known| known == name) {
            return index;
        }
        if self.0.len() > most {
            return most;
        }
        self.0.push(name.to_owned());
        self.0.len() - 1
    }
}

/// All requests of a run.
#[derive(Debug, Clone)]
pub struct Requests {
    /// By load and stream.
    pub loads: BTreeMap<String, BTreeMap<String, StreamSamples>>,
    classes: Names,
    versions: Names,
    endpoints: Names,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            loads: BTreeMap::new(),
            classes: Names(vec!["ok".to_owned()]),
            versions: Names(vec![String::new()]),
            endpoints: Names(vec![String::new()]),
        }
    }
}

impl Requests {
    /// Reads a compressed file; `wanted` says what counts of a load.
    ///
    /// # Errors
    /// When it cannot be read or a line is wrong.
    pub fn read(file: impl Read, wanted: &dyn Fn(&str) -> Wanted) -> Result<Self, RequestsError> {
        Self::read_text(
            BufReader::with_capacity(1 << 16, MultiGzDecoder::new(BufReader::new(file))),
            wanted,
        )
    }

    /// Reads the text of such a file.
    ///
    /// # Errors
    /// When it cannot be read or a line is wrong.
    pub fn read_text(
        text: impl BufRead,
        wanted: &dyn Fn(&str) -> Wanted,
    ) -> Result<Self, RequestsError> {
        let mut requests = Self::default();
        let Some(mut reader) = Reader::new(text)? else {
            return Ok(requests);
        };
        // Few: looked through one after another for every request.
        let mut streams: Vec<Reading> = Vec::new();
        while let Some(row) = reader.next_row()? {
            let is_its = |stream: &Reading| stream.name == row.stream && stream.load == row.load;
            let index = streams.iter().position(is_its).unwrap_or_else(|| {
                streams.push(Reading::new(&row, wanted(row.load)));
                streams.len() - 1
            });
            requests.add(&row, &mut streams[index]);
        }
        for mut stream in streams {
            stream.samples.order();
            let of_load = requests.loads.entry(stream.load).or_default();
            of_load.insert(stream.name, stream.samples);
        }
        Ok(requests)
    }

    fn add(&mut self, row: &Row<'_>, reading: &mut Reading) {
        let intended_ms = as_millis(row.intended_us);
        let Reading {
            wanted,
            samples: stream,
            ..
        } = reading;
        if intended_ms >= wanted.to_ms {
            return;
        }
        let class = self.classes.index(row.class, CLASSES_MAX - 1);
        let version = self.versions.index(row.version, usize::from(u8::MAX));
        let endpoint = self.endpoints.index(row.endpoint, usize::from(u16::MAX));
        if intended_ms < wanted.from_ms {
            stream.before += 1;
            return;
        }
        let end_us = row.end_us.or(row.sent_us).unwrap_or(row.intended_us);
        let late = row
            .sent_us
            .is_some_and(|sent| as_millis(sent.saturating_sub(row.intended_us)) > wanted.late_ms);
        let latency = u32::try_from(end_us.saturating_sub(row.intended_us)).unwrap_or(u32::MAX);
        let [a, b, c, d, e, ..] = row.intended_us.to_le_bytes();
        if class != usize::from(OK) {
            stream.failures.push(failure(row, end_us));
            if stream.failures.len() >= 2 * FAILURES_SHOWN {
                stream.keep_first_failures();
            }
        }
        if stream.samples.len() == stream.samples.capacity() {
            // Doubling would hold half as much again for nothing.
            stream
                .samples
                .reserve_exact((stream.samples.len() / 8).max(1024));
        }
        stream.samples.push(Sample {
            intended: [a, b, c, d, e],
            latency: latency.to_le_bytes(),
            endpoint: u16::try_from(endpoint).unwrap_or(0).to_le_bytes(),
            class: u8::try_from(class).unwrap_or(1) | if late { LATE } else { 0 },
            version: u8::try_from(version).unwrap_or(u8::MAX),
        });
    }

    /// The name of a class.
    #[must_use]
    pub fn class(&self, sample: &Sample) -> &str {
        &self.classes.0[sample.class()]
    }

    /// The version that answered.
    #[must_use]
    pub fn version(&self, sample: &Sample) -> Option<&str> {
        self.versions
            .0
            .get(sample.version())
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }

    /// The pod that answered.
    #[must_use]
    pub fn endpoint(&self, sample: &Sample) -> Option<&str> {
        self.endpoints
            .0
            .get(sample.endpoint())
            .map(String::as_str)
            .filter(|name| !name.is_empty())
    }
}

/// A stream while it is read.
struct Reading {
    load: String,
    name: String,
    wanted: Wanted,
    samples: StreamSamples,
}

impl Reading {
    fn new(row: &Row<'_>, wanted: Wanted) -> Self {
        Self {
            load: row.load.to_owned(),
            name: row.stream.to_owned(),
            wanted,
            samples: StreamSamples::default(),
        }
    }
}

fn failure(row: &Row<'_>, end_us: u64) -> FailureReport {
    let whole = |us: u64| rounded(as_millis(us));
    FailureReport {
        intended_ms: whole(row.intended_us),
        connected_ms: row.connected_us.map(whole),
        first_byte_ms: row.first_byte_us.map(whole),
        end_ms: whole(end_us),
        connection: row.connection.parse().ok(),
        class: row.class.to_owned(),
    }
}

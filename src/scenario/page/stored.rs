//! The requests of a run as the page needs them: every one, in 24 bytes.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use flate2::read::MultiGzDecoder;

use crate::scenario::load::Record;
use crate::scenario::requests::RequestsError;
use crate::scenario::requests::format::{Reader, Row, micros};

/// Classes are told apart up to this many; a class beyond is counted as the last.
const CLASSES_MAX: usize = 16;
/// Versions likewise.
const VERSIONS_MAX: usize = 255;
/// Endpoints likewise.
const ENDPOINTS_MAX: usize = 65_535;
/// Of so many failed requests of a stream everything is kept.
pub const FAILURES_KEPT: usize = 2_000;

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// When it should have been sent, in microseconds since the start of the run.
    pub intended_us: u64,
    /// How much later it was sent.
    pub delay_us: u32,
    /// From the intended time to its end.
    pub latency_us: u32,
    /// Number of its connection, 0 if there was none.
    pub connection: u32,
    /// The pod that answered, an index of [`Stored::endpoints`]; 0 is none.
    pub endpoint: u16,
    /// How it ended, an index of [`Stored::classes`]; 0 is `ok`.
    pub class: u8,
    /// The version that answered, an index of [`Stored::versions`]; 0 is none.
    pub version: u8,
}

impl Request {
    /// Whether the answer was good.
    #[must_use]
    pub fn good(&self) -> bool {
        self.class == 0
    }

    /// When it should have been sent.
    #[must_use]
    pub fn intended_ms(&self) -> f64 {
        millis(self.intended_us)
    }

    /// From then to its end.
    #[must_use]
    pub fn latency_ms(&self) -> f64 {
        f64::from(self.latency_us) / 1000.0
    }

    /// How much later it was sent.
    #[must_use]
    pub fn delay_ms(&self) -> f64 {
        f64::from(self.delay_us) / 1000.0
    }
}

/// Microseconds as milliseconds.
#[must_use]
pub fn millis(us: u64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "far less than 2^52 microseconds"
    )]
    {
        us as f64 / 1000.0
    }
}

/// A failed request, with how far it got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its place among the requests of its stream, from 0.
    pub index: usize,
    /// When its connection was up.
    pub connected_us: Option<u64>,
    /// When an answer began.
    pub first_byte_us: Option<u64>,
    /// Status of the answer.
    pub status: Option<u16>,
}

/// The requests of one stream, by intended time.
#[derive(Debug, Clone, Default)]
pub struct Stream {
    /// All of them.
    pub requests: Vec<Request>,
    /// The first [`FAILURES_KEPT`] failed ones.
    pub failed: Vec<Failed>,
}

/// All requests of a run.
#[derive(Debug, Clone)]
pub struct Stored {
    /// By load and stream.
    pub streams: BTreeMap<(String, String), Stream>,
    /// Names of classes; the first is `ok`.
    pub classes: Vec<String>,
    /// Names of versions; the first is none.
    pub versions: Vec<String>,
    /// Names of pods; the first is none.
    pub endpoints: Vec<String>,
}

impl Default for Stored {
    fn default() -> Self {
        Self {
            streams: BTreeMap::new(),
            classes: vec!["ok".to_owned()],
            versions: vec![String::new()],
            endpoints: vec![String::new()],
        }
    }
}

impl Stored {
    /// Reads `requests.csv.gz`.
    ///
    /// # Errors
    /// When it cannot be read or a line is wrong.
    pub fn read(file: impl Read) -> Result<Self, RequestsError> {
        let text = MultiGzDecoder::new(BufReader::with_capacity(1 << 16, file));
        Self::read_text(BufReader::with_capacity(1 << 16, text))
    }

    fn read_text(text: impl BufRead) -> Result<Self, RequestsError> {
        let mut stored = Self::default();
        let Some(mut reader) = Reader::new(text)? else {
            return Ok(stored);
        };
        while let Some(row) = reader.next_row()? {
            stored.add(&row);
        }
        stored.order();
        Ok(stored)
    }

    fn add(&mut self, row: &Row<'_>) {
        let class = index(&mut self.classes, row.class, CLASSES_MAX);
        let version = index(&mut self.versions, row.version, VERSIONS_MAX);
        let endpoint = index(&mut self.endpoints, row.endpoint, ENDPOINTS_MAX);
        let known = self
            .streams
            .iter_mut()
            .find(|((load, stream), _)| load == row.load && stream == row.stream);
        let stream = match known {
            Some((_, stream)) => stream,
            None => self
                .streams
                .entry((row.load.to_owned(), row.stream.to_owned()))
                .or_default(),
        };
        let since = |us: Option<u64>| {
            let us = us
                .unwrap_or(row.intended_us)
                .saturating_sub(row.intended_us);
            u32::try_from(us).unwrap_or(u32::MAX)
        };
        let request = Request {
            intended_us: row.intended_us,
            delay_us: since(row.sent_us),
            latency_us: since(row.end_us.or(row.sent_us)),
            connection: row.connection.parse().unwrap_or(0),
            endpoint: u16::try_from(endpoint).unwrap_or(u16::MAX),
            class: u8::try_from(class).unwrap_or(u8::MAX),
            version: u8::try_from(version).unwrap_or(u8::MAX),
        };
        if !request.good() && stream.failed.len() < FAILURES_KEPT {
            stream.failed.push(Failed {
                index: stream.requests.len(),
                connected_us: row.connected_us,
                first_byte_us: row.first_byte_us,
                status: row.status.parse().ok(),
            });
        }
        stream.requests.push(request);
    }

    /// Adds a request of a run that goes on.
    pub fn keep(&mut self, load: &str, record: &Record) {
        let status = record.status.map(|status| status.to_string());
        let connection = record.connection.map(|number| number.to_string());
        self.add(&Row {
            load,
            stream: record.stream.name(),
            intended_us: micros(record.intended_ms),
            sent_us: Some(micros(record.sent_ms)),
            connected_us: record.connected_ms.map(micros),
            first_byte_us: record.first_byte_ms.map(micros),
            end_us: Some(micros(record.end_ms)),
            class: record.class.name(),
            status: status.as_deref().unwrap_or_default(),
            version: record.version.as_deref().unwrap_or_default(),
            connection: connection.as_deref().unwrap_or_default(),
            endpoint: record.endpoint.as_deref().unwrap_or_default(),
        });
    }

    /// Orders every stream by intended time.
    pub fn order(&mut self) {
        self.streams.values_mut().for_each(Stream::order);
    }

    /// Forgets the older half of each stream's good requests, and of all if few are good. Returns how many went.
    pub fn forget_half(&mut self) -> u64 {
        let streams = self.streams.values_mut();
        streams.map(Stream::forget_half).sum()
    }

    /// The requests of a stream.
    #[must_use]
    pub fn stream(&self, load: &str, stream: &str) -> Option<&Stream> {
        self.streams.get(&(load.to_owned(), stream.to_owned()))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams
            .values()
            .map(|stream| stream.requests.len())
            .sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of how a request ended.
    #[must_use]
    pub fn class(&self, request: &Request) -> &str {
        &self.classes[usize::from(request.class)]
    }

    /// The version that answered, if one did.
    #[must_use]
    pub fn version(&self, request: &Request) -> Option<&str> {
        let name = self.versions[usize::from(request.version)].as_str();
        (!name.is_empty()).then_some(name)
    }

    /// The pod that answered, if that is known.
    #[must_use]
    pub fn endpoint(&self, request: &Request) -> Option<&str> {
        let name = self.endpoints[usize::from(request.endpoint)].as_str();
        (!name.is_empty()).then_some(name)
    }
}

impl Stream {
    /// Other writers of this format may not have ordered the file.
    fn order(&mut self) {
        if self
            .requests
            .is_sorted_by_key(|request| request.intended_us)
        {
            return;
        }
        let mut order: Vec<usize> = (0..self.requests.len()).collect();
        order.sort_by_key(|&index| self.requests[index].intended_us);
        let mut place = vec![0; order.len()];
        for (new, &old) in order.iter().enumerate() {
            place[old] = new;
        }
        self.requests.sort_by_key(|request| request.intended_us);
        for failed in &mut self.failed {
            failed.index = place[failed.index];
        }
        self.failed.sort_by_key(|failed| failed.index);
    }

    fn forget_half(&mut self) -> u64 {
        let before = self.requests.len();
        let good = before - self.failures();
        let all = good < before / 4;
        let mut left = if all { before } else { good }.div_ceil(2);
        // By old place: the new one, if it stays.
        let mut places: Vec<Option<usize>> = Vec::with_capacity(before);
        let mut kept = 0;
        self.requests.retain(|request| {
            let goes = left > 0 && (all || request.good());
            left -= usize::from(goes);
            places.push((!goes).then_some(kept));
            kept += usize::from(!goes);
            !goes
        });
        self.failed.retain_mut(|failed| {
            let place = places[failed.index];
            failed.index = place.unwrap_or_default();
            place.is_some()
        });
        (before - self.requests.len()) as u64
    }

    /// How many failed.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.requests
            .iter()
            .filter(|request| !request.good())
            .count()
    }
}

fn index(names: &mut Vec<String>, name: &str, most: usize) -> usize {
    if let Some(index) = names.iter().position(|known| known == name) {
        return index;
    }
    if names.len() >= most {
        return most - 1;
    }
    names.push(name.to_owned());
    names.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "load,stream,intended_ms,sent_ms,connected_ms,first_byte_ms,end_ms,class,status,version,connection,endpoint\n";

    #[test]
    fn everything_of_a_request_is_kept_in_the_order_of_the_intended_times() {
        let text = format!(
            "{HEADER}web,new,20,20.5,21,,25,read_timeout,,,2,\nweb,new,10,10,11,12,13.25,ok,200,v1,1,a\n"
        );
        let stored = Stored::read_text(text.as_bytes()).unwrap();
        let stream = stored.stream("web", "new").unwrap();
        assert_eq!(
            stream.requests[0],
            Request {
                intended_us: 10_000,
                delay_us: 0,
                latency_us: 3_250,
                connection: 1,
                endpoint: 1,
                class: 0,
                version: 1
            }
        );
        assert_eq!(stored.class(&stream.requests[1]), "read_timeout");
        assert_eq!(stored.endpoint(&stream.requests[1]), None);
        assert_eq!(
            stream.failed,
            [Failed {
                index: 1,
                connected_us: Some(21_000),
                first_byte_us: None,
                status: None
            }]
        );
        assert_eq!(stream.failures(), 1);
        assert_eq!(size_of::<Request>(), 24);
    }
}

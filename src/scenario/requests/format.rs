//! The lines of `requests.csv.gz`: RFC 4180, times in milliseconds with three decimals.

use std::io::BufRead;

use super::RequestsError;
use crate::scenario::load::Record;

/// The columns, in their order.
pub const COLUMNS: [&str; 12] = [
    "load",
    "stream",
    "intended_ms",
    "sent_ms",
    "connected_ms",
    "first_byte_ms",
    "end_ms",
    "class",
    "status",
    "version",
    "connection",
    "endpoint",
];

/// A record may have so many fields; what other writers add is not read.
const FIELDS_MAX: usize = 32;
/// Between fields whose quotes are taken away.
const SEPARATOR: u8 = 0x1f;

/// Writes the header line.
pub fn write_header(out: &mut Vec<u8>) {
    out.extend_from_slice(COLUMNS.join(",").as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Writes one request.
pub fn write_line(out: &mut Vec<u8>, load: &str, record: &Record) {
    write_text(out, load);
    out.push(b',');
    write_text(out, record.stream.name());
    let times = [
        Some(record.intended_ms),
        Some(record.sent_ms),
        record.connected_ms,
        record.first_byte_ms,
        Some(record.end_ms),
    ];
    for time in times {
        out.push(b',');
        if let Some(ms) = time {
            write_millis(out, ms);
        }
    }
    out.push(b',');
    out.extend_from_slice(record.class.name().as_bytes());
    out.push(b',');
    if let Some(status) = record.status {
        write_number(out, u64::from(status));
    }
    out.push(b',');
    write_text(out, record.version.as_deref().unwrap_or_default());
    out.push(b',');
    if let Some(connection) = record.connection {
        write_number(out, connection);
    }
    out.push(b',');
    write_text(out, record.endpoint.as_deref().unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

fn write_number(out: &mut Vec<u8>, number: u64) {
    use std::io::Write as _;
    write!(out, "{number}").expect("writing to memory does not fail");
}

fn write_millis(out: &mut Vec<u8>, ms: f64) {
    use std::io::Write as _;
    let micros = micros(ms);
    write!(out, "{}.{:03}", micros / 1000, micros % 1000).expect("writing to memory does not fail");
}

/// Milliseconds as whole microseconds.
#[must_use]
pub fn micros(ms: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive times of a run"
    )]
    {
        (ms.max(0.0) * 1000.0).round() as u64
    }
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    if text.contains([',', '"', '\r', '\n']) {
        out.push(b'"');
        out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
        out.push(b'"');
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}

/// One request as it is read; times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its load.
    pub load: &'a str,
    /// Its stream.
    pub stream: &'a str,
    /// When it should have been sent.
    pub intended_us: u64,
    /// When it was sent.
    pub sent_us: Option<u64>,
    /// When its connection was up.
    pub connected_us: Option<u64>,
    /// When an answer began.
    pub first_byte_us: Option<u64>,
    /// When it was over.
    pub end_us: Option<u64>,
    /// How it ended.
    pub class: &'a str,
    /// Status of the answer.
    pub status: &'a str,
    /// Version that answered.
    pub version: &'a str,
    /// Number of its connection.
    pub connection: &'a str,
    /// The pod that answered.
    pub endpoint: &'a str,
}

/// Reads the lines one after another.
pub struct Reader<R> {
    input: R,
    line: u64,
    text: Vec<u8>,
    unquoted: String,
    /// Whether the record in `text` has quotes.
    quoted: bool,
    /// Where each of [`COLUMNS`] stands.
    places: [usize; COLUMNS.len()],
    /// The last of these.
    highest: usize,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header; `None` if the input is empty.
    pub fn new(input: R) -> Result<Option<Self>, RequestsError> {
        let mut reader = Self {
            input,
            line: 0,
            text: Vec::with_capacity(256),
            unquoted: String::new(),
            quoted: false,
            places: [0; COLUMNS.len()],
            highest: 0,
        };
        if !reader.read_record()? {
            return Ok(None);
        }
        let header = String::from_utf8_lossy(trimmed(&reader.text)).into_owned();
        let names: Vec<&str> = header
            .split(',')
            .map(|name| name.trim_matches('"'))
            .collect();
        for (index, column) in COLUMNS.iter().enumerate() {
            let place = names.iter().position(|name| name == column);
            reader.places[index] =
                place.ok_or_else(|| reader.wrong(format!("there is no column `{column}`")))?;
        }
        reader.highest = reader.places.iter().copied().max().unwrap_or(0);
        if reader.highest >= FIELDS_MAX {
            return Err(reader.wrong(format!("more than {FIELDS_MAX} columns")));
        }
        Ok(Some(reader))
    }

    /// The next request.
    pub fn next_row(&mut self) -> Result<Option<Row<'_>>, RequestsError> {
        if !self.read_record()? {
            return Ok(None);
        }
        let line = self.line;
        let wrong = |what: String| RequestsError::Line { line, what };
        let mut text =
            std::str::from_utf8(trimmed(&self.text)).map_err(|_| wrong("not UTF-8".to_owned()))?;
        let mut fields = [(0, 0); FIELDS_MAX];
        let mut count = 0;
        if self.quoted {
            // Fields are told apart by a character that no text has.
            self.unquoted = unquote(text);
            text = &self.unquoted;
            split(text, SEPARATOR, &mut fields, &mut count);
        } else {
            split(text, b',', &mut fields, &mut count);
        }
        if count <= self.highest {
            return Err(wrong(format!("{count} fields")));
        }
        let field = |column: usize| {
            let (from, to) = fields[self.places[column]];
            &text[from..to]
        };
        let time = |column: usize| -> Result<Option<u64>, RequestsError> {
            let text = field(column);
            match parse_plain_millis(text.as_bytes()) {
                Some(us) => Ok(Some(us)),
                None if text.is_empty() => Ok(None),
                None => parse_millis(text)
                    .map(Some)
                    .ok_or_else(|| wrong(format!("`{text}` is not a time"))),
            }
        };
        let intended_us = time(2)?.ok_or_else(|| wrong("`intended_ms` is empty".to_owned()))?;
        Ok(Some(Row {
            load: field(0),
            stream: field(1),
            intended_us,
            sent_us: time(3)?,
            connected_us: time(4)?,
            first_byte_us: time(5)?,
            end_us: time(6)?,
            class: field(7),
            status: field(8),
            version: field(9),
            connection: field(10),
            endpoint: field(11),
        }))
    }

    /// Reads one record, which spans lines where a quoted field does. Empty lines are skipped.
    fn read_record(&mut self) -> Result<bool, RequestsError> {
        loop {
            self.text.clear();
            self.line += 1;
            if self.input.read_until(b'\n', &mut self.text)? == 0 {
                return Ok(false);
            }
            self.quoted = self.text.contains(&b'"');
            while self.quoted && has_open_quote(&self.text) {
                if self.input.read_until(b'\n', &mut self.text)? == 0 {
                    return Err(self.wrong("a quote is not closed".to_owned()));
                }
            }
            if !trimmed(&self.text).is_empty() {
                return Ok(true);
            }
        }
    }

    fn wrong(&self, what: String) -> RequestsError {
        RequestsError::Line {
            line: self.line,
            what,
        }
    }
}

fn has_open_quote(text: &[u8]) -> bool {
    text.iter().filter(|byte| **byte == b'"').count() % 2 == 1
}

fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Where the fields of a record begin and end; those beyond the table are only counted.
///
/// By indices, not iterators: this is where reading spends its time, and a build without much optimisation calls each iterator's
/// `next` as a function.
fn split(text: &str, separator: u8, fields: &mut [(usize, usize); FIELDS_MAX], count: &mut usize) {
    let bytes = text.as_bytes();
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        if bytes[at] == separator {
            if *count < FIELDS_MAX {
                fields[*count] = (from, at);
            }
            *count += 1;
            from = at + 1;
        }
        at += 1;
    }
    if *count < FIELDS_MAX {
        fields[*count] = (from, at);
    }
    *count += 1;
}

/// The fields without their quotes, separated by U+001F.
fn unquote(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                out.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(char::from(SEPARATOR)),
            other => out.push(other),
        }
    }
    out
}

/// `12.345` in microseconds, as this program writes it: digits, a point, three digits. Anything else is left to [`parse_millis`].
fn parse_plain_millis(text: &[u8]) -> Option<u64> {
    // Neither is long enough to overflow.
    if text.len() < 5 || text.len() > 19 {
        return None;
    }
    let whole = text.len() - 4;
    if text[whole] != b'.' {
        return None;
    }
    let (mut us, mut at) = (0, 0);
    while at < text.len() {
        let digit = text[at].wrapping_sub(b'0');
        if digit <= 9 {
            us = us * 10 + u64::from(digit);
        } else if at != whole {
            return None;
        }
        at += 1;
    }
    Some(us)
}

/// `12.345` in microseconds; more decimals are rounded.
fn parse_millis(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let scale = match decimals.len() {
        0 => 1000,
        1 => 100,
        2 => 10,
        3 => 1,
        _ => 0,
    };
    let fraction = if decimals.is_empty() {
        Ok(0)
    } else {
        decimals.parse::<u64>()
    };
    // A sign would be read as part of a number.
    let plain = scale > 0 && whole.len() <= 15 && !text.contains(['+', '-']);
    match (whole.parse::<u64>(), fraction) {
        (Ok(whole), Ok(fraction)) if plain => Some(whole * 1000 + fraction * scale),
        _ => {
            let ms = text.parse::<f64>().ok();
            ms.filter(|ms| ms.is_finite()).map(micros)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, expected) in [
            ("0.000", 0),
            ("12.345", 12_345),
            ("12", 12_000),
            ("12.5", 12_500),
            ("1.23456", 1_235),
            ("1e3", 1_000_000),
        ] {
            assert_eq!(parse_millis(text), Some(expected), "{text}");
            let plain = parse_plain_millis(text.as_bytes());
            assert!(plain.is_none_or(|us| us == expected), "{text}");
        }
        assert_eq!(parse_plain_millis(b"987654.321"), Some(987_654_321));
        for text in [
            "", "1", ".123", "1.23", "-1.234", "1.2345", "1x.234", "1.2x4",
        ] {
            assert_eq!(parse_plain_millis(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_millis("twelve"), None);
        assert_eq!(parse_millis("1.x"), None);
    }
}

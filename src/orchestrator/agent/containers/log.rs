//! Container logs in the CRI's file format, written by the helper and read by the agent.
//!
//! A line is `2016-10-06T00:17:09.669794202Z stdout F text`; `P` marks a part of a longer one
//! (kubernetes/design-proposals `node/kubelet-cri-logging.md`). The current file and two older ones are kept.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use super::super::runtime::LogQuery;

/// Size at which a file is rotated away.
const ROTATE_BYTES: u64 = 10 * 1024 * 1024;
/// Rotated files kept besides the current one.
const OLD_FILES: u32 = 2;
/// Longest text in one line of the file, as containerd has it.
const LINE_BYTES: usize = 16 * 1024;

/// Writes both streams of a container into one rotated file.
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
    /// Lines that are not in the file yet.
    pending: Vec<u8>,
}

impl Writer {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::with_limit(path, ROTATE_BYTES)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        let file = File::options().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            limit,
            pending: Vec::new(),
        })
    }

    fn line(&mut self, stream: &str, text: &[u8], tag: char) -> io::Result<()> {
        if self.size >= self.limit {
            self.flush()?;
            self.rotate()?;
        }
        let before = self.pending.len();
        write!(
            self.pending,
            "{:.9} {stream} {tag} ",
            jiff::Timestamp::now()
        )?;
        self.pending.extend_from_slice(text);
        self.pending.push(b'\n');
        self.size += (self.pending.len() - before) as u64;
        Ok(())
    }

    /// Lines that could not be written are lost: they do not pile up while a disk is full.
    fn flush(&mut self) -> io::Result<()> {
        let written = self.file.write_all(&self.pending);
        self.pending.clear();
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..OLD_FILES).rev() {
            match fs::rename(older(&self.path, number), older(&self.path, number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, older(&self.path, 1))?;
        self.file = File::options().create(true).append(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn older(path: &Path, number: u32) -> PathBuf {
    path.with_extension(format!("log.{number}"))
}

/// Cuts one stream into lines.
pub(crate) struct Lines {
    stream: &'static str,
    rest: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: &'static str) -> Self {
        Self {
            stream,
            rest: Vec::new(),
        }
    }

    /// Takes what was read from the stream; the lines that it ends are then in the file.
    pub(crate) fn push(&mut self, bytes: &[u8], writer: &mut Writer) -> io::Result<()> {
        self.cut(bytes, writer)?;
        writer.flush()
    }

    fn cut(&mut self, mut bytes: &[u8], writer: &mut Writer) -> io::Result<()> {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.part(&bytes[..end], writer)?;
            let line = std::mem::take(&mut self.rest);
            writer.line(self.stream, &line, 'F')?;
            bytes = &bytes[end + 1..];
        }
        self.part(bytes, writer)
    }

    /// The stream has ended: an unfinished line is written as a part.
    pub(crate) fn finish(&mut self, writer: &mut Writer) -> io::Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        let line = std::mem::take(&mut self.rest);
        writer.line(self.stream, &line, 'P')?;
        writer.flush()
    }

    fn part(&mut self, mut bytes: &[u8], writer: &mut Writer) -> io::Result<()> {
        while self.rest.len() + bytes.len() > LINE_BYTES {
            let (now, later) = bytes.split_at(LINE_BYTES - self.rest.len());
            self.rest.extend_from_slice(now);
            let part = std::mem::take(&mut self.rest);
            writer.line(self.stream, &part, 'P')?;
            bytes = later;
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }
}

/// Reads a log from its oldest file on, then whatever is appended.
pub(crate) struct Reader {
    path: PathBuf,
    timestamps: bool,
    /// Records of before are left out: a time as the file has it, which sorts as text.
    since: Option<String>,
    backlog: VecDeque<Vec<u8>>,
    current: Option<BufReader<File>>,
    /// An unfinished line of the file.
    rest: Vec<u8>,
    /// Whether the next record begins a line of output.
    at_line_start: bool,
}

impl Reader {
    /// Opens the log whose current file is `path`; `tail_lines` counts finished lines.
    pub(crate) fn open(path: &Path, query: &LogQuery) -> io::Result<Self> {
        let mut reader = Self {
            path: path.to_owned(),
            timestamps: query.timestamps,
            since: query.since.map(|since| format!("{since:.9}")),
            backlog: VecDeque::new(),
            current: None,
            rest: Vec::new(),
            at_line_start: true,
        };
        if let Some(wanted) = query.tail_lines {
            reader.skip_to_tail(usize::try_from(wanted).unwrap_or(usize::MAX))?;
        } else {
            reader.backlog = (1..=OLD_FILES)
                .rev()
                .map(|number| older(path, number))
                .filter(|file| file.exists())
                .map(|file| file.into_os_string().into_encoded_bytes())
                .collect();
        }
        Ok(reader)
    }

    /// Positions the current file at its last `wanted` records that end a line. Older files count only when it has none.
    fn skip_to_tail(&mut self, wanted: usize) -> io::Result<()> {
        let Ok(file) = File::open(&self.path) else {
            return Ok(());
        };
        let mut file = BufReader::new(file);
        let mut starts: VecDeque<u64> = VecDeque::new();
        let (mut offset, mut start) = (0u64, 0u64);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = file.read_until(b'\n', &mut line)? as u64;
            if length == 0 {
                break;
            }
            offset += length;
            if record(&line).is_some_and(|(_, tag, _)| tag == b'F') {
                starts.push_back(start);
                if starts.len() > wanted.min(100_000) {
                    starts.pop_front();
                }
                start = offset;
            }
        }
        let position = if wanted == 0 {
            offset
        } else {
            starts.front().copied().unwrap_or(0)
        };
        file.seek(io::SeekFrom::Start(position))?;
        self.current = Some(file);
        Ok(())
    }

    /// The next bytes, `None` when there are none now.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        const CHUNK_BYTES: usize = 32 * 1024;
        let mut out = Vec::new();
        while out.len() < CHUNK_BYTES {
            if self.current.is_none() && !self.advance()? {
                break;
            }
            let Some(file) = self.current.as_mut() else {
                break;
            };
            if file.read_until(b'\n', &mut self.rest)? == 0 {
                if self.backlog.is_empty() && !self.was_rotated() {
                    break;
                }
                self.current = None;
                continue;
            }
            if !self.rest.ends_with(b"\n") {
                continue;
            }
            let line = std::mem::take(&mut self.rest);
            self.append(&line, &mut out);
        }
        Ok((!out.is_empty()).then_some(out))
    }

    fn append(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some((time, tag, text)) = record(line) else {
            return;
        };
        if (self.since.as_ref()).is_some_and(|since| time < since.as_bytes()) {
            return;
        }
        if self.timestamps && self.at_line_start {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(text);
        self.at_line_start = tag == b'F';
        if self.at_line_start {
            out.push(b'\n');
        }
    }

    fn advance(&mut self) -> io::Result<bool> {
        use std::os::unix::ffi::OsStringExt;
        let path = match self.backlog.pop_front() {
            Some(bytes) => PathBuf::from(std::ffi::OsString::from_vec(bytes)),
            None => self.path.clone(),
        };
        match File::open(&path) {
            Ok(file) => self.current = Some(BufReader::new(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    fn was_rotated(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Some(current) = &self.current else {
            return false;
        };
        fs::metadata(&self.path).is_ok_and(|now| {
            current
                .get_ref()
                .metadata()
                .is_ok_and(|own| own.ino() != now.ino())
        })
    }
}

/// The end of a log, as a termination message takes it (`MaxContainerTerminationMessageLogLines` and `…LogLength` of the kubelet).
pub(crate) fn last_lines(path: &Path) -> io::Result<Vec<u8>> {
    const LINES: u64 = 80;
    const BYTES: usize = 2048;
    let query = LogQuery {
        tail_lines: Some(LINES),
        ..LogQuery::default()
    };
    let mut reader = Reader::open(path, &query)?;
    let mut last = Vec::new();
    while let Some(bytes) = reader.next()? {
        last.extend(bytes);
        let beyond = last.len().saturating_sub(BYTES);
        last.drain(..beyond);
    }
    Ok(last)
}

/// Time, tag and text of a record.
fn record(line: &[u8]) -> Option<(&[u8], u8, &[u8])> {
    let line = line.strip_suffix(b"\n")?;
    let mut parts = line.splitn(4, |b| *b == b' ');
    let (time, _stream, tag, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((time, *tag.first()?, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(tail_lines: Option<u64>) -> LogQuery {
        LogQuery {
            follow: false,
            tail_lines,
            since: None,
            limit_bytes: None,
            previous: false,
            timestamps: false,
        }
    }

    fn all(path: &Path, tail: Option<u64>) -> String {
        read(Reader::open(path, &query(tail)).unwrap())
    }

    fn read(mut reader: Reader) -> String {
        let mut out = Vec::new();
        while let Some(bytes) = reader.next().unwrap() {
            out.extend(bytes);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_parts_and_tail_come_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut writer = Writer::open(&path).unwrap();
        let mut lines = Lines::new("stdout");
        lines.push(b"one\ntw", &mut writer).unwrap();
        lines.push(b"o\n", &mut writer).unwrap();
        let long = "x".repeat(LINE_BYTES + 10);
        lines
            .push(format!("{long}\nend").as_bytes(), &mut writer)
            .unwrap();
        lines.finish(&mut writer).unwrap();
        assert_eq!(all(&path, None), format!("one\ntwo\n{long}\nend"));
        assert_eq!(all(&path, Some(1)), format!("{long}\nend"));
        assert_eq!(all(&path, Some(2)), format!("two\n{long}\nend"));
        let raw = fs::read_to_string(&path).unwrap();
        assert_eq!(
            raw.lines().next().unwrap().len(),
            "2016-10-06T00:17:09.669794202Z stdout F one".len()
        );
    }

    #[test]
    fn the_end_of_a_log_is_bounded_in_lines_and_bytes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        assert_eq!(last_lines(&path).unwrap(), b"", "there is none");
        let mut writer = Writer::open(&path).unwrap();
        let mut lines = Lines::new("stderr");
        for number in 0..100 {
            let line = format!("line {number}\n");
            lines.push(line.as_bytes(), &mut writer).unwrap();
        }
        writer.flush().unwrap();
        let text = String::from_utf8(last_lines(&path).unwrap()).unwrap();
        assert!(
            text.starts_with("line 20\n") && text.ends_with("line 99\n"),
            "{text}"
        );
        lines.push(&[b'x'; 3000], &mut writer).unwrap();
        lines.finish(&mut writer).unwrap();
        writer.flush().unwrap();
        assert_eq!(last_lines(&path).unwrap().len(), 2048);
    }

    #[test]
    fn only_lines_since_a_time_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let line = |second: u32, text: &str| {
            format!("2026-11-30T06:00:{second:02}.000000000Z stdout F {text}\n")
        };
        fs::write(older(&path, 1), line(8, "rotated")).unwrap();
        let lines = [line(9, "before"), line(10, "at"), line(11, "after")];
        fs::write(&path, lines.concat()).unwrap();
        let since = |since: &str, tail_lines| {
            let query = LogQuery {
                since: Some(since.parse().unwrap()),
                ..query(tail_lines)
            };
            read(Reader::open(&path, &query).unwrap())
        };
        for (time, tail, expected) in [
            ("2026-11-30T06:00:08Z", None, "rotated\nbefore\nat\nafter\n"),
            ("2026-11-30T06:00:10Z", None, "at\nafter\n"),
            ("2026-11-30T06:00:10.5Z", None, "after\n"),
            ("2026-11-30T07:00:10+01:00", Some(1), "after\n"),
            ("2026-11-30T06:00:10Z", Some(3), "at\nafter\n"),
            ("2026-11-30T06:00:12Z", None, ""),
        ] {
            assert_eq!(since(time, tail), expected, "{time} {tail:?}");
        }
    }

    #[test]
    fn rotation_is_bounded_and_a_reader_follows_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut writer = Writer::with_limit(&path, 120).unwrap();
        let mut lines = Lines::new("stderr");
        lines.push(b"first\n", &mut writer).unwrap();
        let mut reader = Reader::open(&path, &query(None)).unwrap();
        assert_eq!(reader.next().unwrap().as_deref(), Some(&b"first\n"[..]));
        assert_eq!(reader.next().unwrap(), None);
        for number in 0..4 {
            lines
                .push(format!("line {number}\n").as_bytes(), &mut writer)
                .unwrap();
        }
        let rest = reader.next().unwrap().unwrap();
        assert_eq!(rest, b"line 0\nline 1\nline 2\nline 3\n");
        for number in 0..40 {
            lines
                .push(format!("more {number}\n").as_bytes(), &mut writer)
                .unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
    }
}

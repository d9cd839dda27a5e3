//! Writes requests in the order of their intended times while they end in any other.
//!
//! Each stream numbers its requests, and every request that was begun ends. A request is written as soon as no stream can still
//! bring an earlier one: all streams that go on have told their next. What waits is bounded by rate × deadline.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{mpsc, oneshot};

use super::format::{write_header, write_line};
use crate::scenario::load::Record;
use crate::scenario::spec::StreamKind;

/// Requests that may wait for the writer. A request that finds the queue full waits after its end, which is noted already.
const QUEUE: usize = 16_384;
/// Text that is gathered before it is compressed.
const CHUNK_BYTES: usize = 1 << 16;

enum Message {
    Kept {
        source: usize,
        number: u64,
        record: Box<Record>,
    },
    Ended {
        source: usize,
    },
}

/// The file that is being written. Dropping it without [`RequestLog::finish`] leaves what was written so far.
pub struct RequestLog {
    sender: mpsc::Sender<Message>,
    sources: Vec<(String, StreamKind)>,
    written: oneshot::Receiver<io::Result<File>>,
}

/// Where the requests of one load go.
#[derive(Clone)]
pub struct LoadSink {
    load: String,
    sender: mpsc::Sender<Message>,
    sources: Vec<(StreamKind, usize)>,
}

/// Where the requests of one stream go.
#[derive(Clone)]
pub struct StreamSink {
    sender: mpsc::Sender<Message>,
    source: usize,
}

impl RequestLog {
    /// Begins to write to `file`; `sources` are all streams of all loads.
    pub fn start(file: File, sources: Vec<(String, StreamKind)>) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (told, written) = oneshot::channel();
        let names = sources.iter().map(|(load, _)| load.clone()).collect();
        std::thread::Builder::new()
            .name("requests".to_owned())
            .spawn(move || drop(told.send(write(file, receiver, names))))?;
        Ok(Self {
            sender,
            sources,
            written,
        })
    }

    /// Where the requests of this load go.
    #[must_use]
    pub fn sink(&self, load: &str) -> LoadSink {
        let of_load = self
            .sources
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| name == load);
        LoadSink {
            load: load.to_owned(),
            sender: self.sender.clone(),
            sources: of_load.map(|(index, (_, kind))| (*kind, index)).collect(),
        }
    }

    /// Waits until everything is written; all sinks have to be gone. Returns the file.
    pub async fn finish(self) -> io::Result<File> {
        drop(self.sender);
        self.written
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the writer of requests ended early")))
    }
}

impl LoadSink {
    /// The load's name.
    #[must_use]
    pub fn load(&self) -> &str {
        &self.load
    }

    /// Where the requests of this stream go.
    #[must_use]
    pub fn stream(&self, kind: StreamKind) -> Option<StreamSink> {
        let (_, source) = *self.sources.iter().find(|(known, _)| *known == kind)?;
        Some(StreamSink {
            sender: self.sender.clone(),
            source,
        })
    }
}

impl StreamSink {
    /// Keeps a request that has ended; numbers count from 0.
    pub async fn keep(&self, number: u64, record: Record) {
        let message = Message::Kept {
            source: self.source,
            number,
            record: Box::new(record),
        };
        // A writer that failed tells so at the end.
        drop(self.sender.send(message).await);
    }

    /// No request will follow.
    pub async fn end(&self) {
        drop(
            self.sender
                .send(Message::Ended {
                    source: self.source,
                })
                .await,
        );
    }
}

fn write(
    file: File,
    mut receiver: mpsc::Receiver<Message>,
    names: Vec<String>,
) -> io::Result<File> {
    let mut out = GzEncoder::new(BufWriter::new(file), Compression::fast());
    let mut text = Vec::with_capacity(2 * CHUNK_BYTES);
    write_header(&mut text);
    let mut queue = Queue::new(names.len());
    while let Some(message) = receiver.blocking_recv() {
        queue.take(message);
        queue.drain(|source, record| write_line(&mut text, &names[source], record));
        if text.len() >= CHUNK_BYTES {
            out.write_all(&text)?;
            text.clear();
        }
    }
    queue.end_all();
    queue.drain(|source, record| write_line(&mut text, &names[source], record));
    out.write_all(&text)?;
    let mut file = out.finish()?;
    file.flush()?;
    file.into_inner().map_err(io::IntoInnerError::into_error)
}

/// Puts the requests of several streams into one order.
struct Queue {
    sources: Vec<Source>,
}

#[derive(Default)]
struct Source {
    waiting: BTreeMap<u64, Box<Record>>,
    next: u64,
    ended: bool,
}

impl Source {
    /// Its next request, if it has ended; `Err` while it may still come.
    fn head(&self) -> Result<Option<&Record>, ()> {
        match self.waiting.first_key_value() {
            Some((number, record)) if *number == self.next || self.ended => Ok(Some(record)),
            None if self.ended => Ok(None),
            _ => Err(()),
        }
    }
}

impl Queue {
    fn new(sources: usize) -> Self {
        Self {
            sources: std::iter::repeat_with(Source::default)
                .take(sources)
                .collect(),
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Kept {
                source,
                number,
                record,
            } => {
                self.sources[source].waiting.insert(number, record);
            }
            Message::Ended { source } => self.sources[source].ended = true,
        }
    }

    fn end_all(&mut self) {
        for source in &mut self.sources {
            source.ended = true;
        }
    }

    /// Passes on every request that none can come before any more.
    fn drain(&mut self, mut write: impl FnMut(usize, &Record)) {
        loop {
            let mut earliest: Option<(usize, f64)> = None;
            for (index, source) in self.sources.iter().enumerate() {
                match source.head() {
                    Err(()) => return,
                    Ok(None) => {}
                    Ok(Some(record)) => {
                        if earliest.is_none_or(|(_, at)| record.intended_ms < at) {
                            earliest = Some((index, record.intended_ms));
                        }
                    }
                }
            }
            let Some((index, _)) = earliest else { return };
            let source = &mut self.sources[index];
            if let Some((number, record)) = source.waiting.pop_first() {
                source.next = number + 1;
                write(index, &record);
            }
        }
    }
}

//! One SPDY connection: streams that the client opened, each with a bounded queue towards its reader, and one queue of frames to write.
//!
//! The owner runs the driver beside what uses the streams; when it ends, the client is gone. A stream whose reader is slow holds up the
//! whole connection once its queue is full, as it does in Kubernetes' own servers: the protocol's clients keep no windows.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};
use tokio_util::sync::CancellationToken;

use super::frame::{self, Control, HEAD_BYTES, Head, Reset};
use super::headers::{Deflater, Headers, Inflater};
use crate::orchestrator::limits::{
    SPDY_STREAMS, STREAM_PIECE_BYTES, STREAM_PIECES, STREAM_PING_TIME,
};

/// The streams that a client opens, as they come.
pub(in super::super) struct Session {
    opened: mpsc::Receiver<Stream>,
    frames: mpsc::Sender<Outgoing>,
    /// The last stream that was taken.
    last: u32,
}

/// A stream of the client's.
pub(in super::super) struct Stream {
    pub(in super::super) headers: Headers,
    /// What the client sends on it, to its end.
    pub(in super::super) inbox: mpsc::Receiver<Bytes>,
    pub(in super::super) out: Writer,
}

/// The server's half of a stream.
#[derive(Clone)]
pub(in super::super) struct Writer {
    stream: u32,
    frames: mpsc::Sender<Outgoing>,
    /// Cancelled when the client wants nothing more of the stream.
    pub(in super::super) reset: CancellationToken,
    /// Says to the reader whether anybody still writes.
    _held: Arc<()>,
}

impl Writer {
    /// `false` when nobody takes it any more.
    pub(in super::super) async fn send(&self, bytes: Bytes) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() && !self.reset.is_cancelled() {
            let bytes = rest.split_to(rest.len().min(STREAM_PIECE_BYTES));
            let frame = Outgoing::Data {
                stream: self.stream,
                bytes,
                fin: false,
            };
            if self.frames.send(frame).await.is_err() {
                return false;
            }
        }
        !self.reset.is_cancelled()
    }

    /// Nothing more comes.
    pub(in super::super) async fn finish(&self) {
        if self.reset.is_cancelled() {
            return;
        }
        let frame = Outgoing::Data {
            stream: self.stream,
            bytes: Bytes::new(),
            fin: true,
        };
        let _ = self.frames.send(frame).await;
    }
}

/// A frame to write.
enum Outgoing {
    Reply {
        stream: u32,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
    Reset {
        stream: u32,
        why: Reset,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
}

impl Session {
    /// The session of a connection, and what drives it: it ends when the connection does, and says why if that is the client's fault.
    pub(in super::super) fn new<C>(connection: C) -> (Self, impl Future<Output = ()>)
    where
        C: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(connection);
        let (frames, to_write) = mpsc::channel(STREAM_PIECES);
        let (sender, opened) = mpsc::channel(STREAM_PIECES);
        let session = Self {
            opened,
            frames: frames.clone(),
            last: 0,
        };
        let reading = Reader {
            connection: read,
            inflater: Inflater::new(),
            streams: BTreeMap::new(),
            last: 0,
            opened: sender,
            frames,
        };
        let driver = async move {
            let ended = tokio::select! {
                ended = reading.run() => ended,
                ended = write_all(write, to_write) => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a SPDY connection ended");
            }
        };
        (session, driver)
    }

    /// The next stream; `None` when the connection is over.
    pub(in super::super) async fn next(&mut self) -> Option<Stream> {
        let stream = self.opened.recv().await?;
        self.last = stream.out.stream;
        Some(stream)
    }

    /// No more streams are wanted. What was sent before is still written.
    pub(in super::super) async fn go_away(&self) {
        let _ = self.frames.send(Outgoing::GoAway { last: self.last }).await;
    }
}

/// Writes frames, and pings a silent client, whose connection breaks by that if it is gone.
async fn write_all<C: AsyncWrite>(
    mut connection: WriteHalf<C>,
    mut frames: mpsc::Receiver<Outgoing>,
) -> io::Result<()> {
    let mut deflater = Deflater::new();
    let mut pings = interval_at(Instant::now() + STREAM_PING_TIME, STREAM_PING_TIME);
    // A server's are even.
    let mut own: u32 = 0;
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => match frame {
                Some(frame) => frame,
                None => return Ok(()),
            },
            _ = pings.tick() => {
                own = own.wrapping_add(2);
                Outgoing::Ping { id: own }
            }
        };
        let bytes = match frame {
            Outgoing::Reply { stream } => frame::reply(stream, &mut deflater),
            Outgoing::Data { stream, bytes, fin } => frame::data(stream, fin, &bytes),
            Outgoing::Reset { stream, why } => frame::reset(stream, why),
            Outgoing::Ping { id } => frame::ping(id),
            Outgoing::GoAway { last } => frame::go_away(last),
        };
        connection.write_all(&bytes).await?;
        connection.flush().await?;
    }
}

/// An open stream, as its frames find it.
struct Open {
    inbox: Option<mpsc::Sender<Bytes>>,
    reset: CancellationToken,
    writers: Weak<()>,
}

struct Reader<C> {
    connection: ReadHalf<C>,
    inflater: Inflater,
    streams: BTreeMap<u32, Open>,
    last: u32,
    opened: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Outgoing>,
}

impl<C: AsyncRead> Reader<C> {
    /// To the end of the connection.
    async fn run(mut self) -> io::Result<()> {
        loop {
            let mut head = [0; HEAD_BYTES];
            if self.connection.read_exact(&mut head).await.is_err() {
                return Ok(());
            }
            match Head::read(head).map_err(io::Error::other)? {
                Head::Data {
                    stream,
                    fin,
                    length,
                } => self.data(stream, fin, length).await?,
                Head::Control { kind, fin, length } => {
                    let mut payload = vec![0; length];
                    self.connection.read_exact(&mut payload).await?;
                    let control = Control::read(kind, fin, &payload, &mut self.inflater);
                    self.control(control.map_err(io::Error::other)?).await;
                }
            }
        }
    }

    /// Hands on what comes in pieces, however long the frame is.
    async fn data(&mut self, stream: u32, fin: bool, mut length: usize) -> io::Result<()> {
        while length > 0 {
            let mut piece = vec![0; length.min(STREAM_PIECE_BYTES)];
            self.connection.read_exact(&mut piece).await?;
            length -= piece.len();
            let Some(open) = self.streams.get_mut(&stream) else {
                continue;
            };
            let Some(inbox) = &open.inbox else { continue };
            if inbox.send(Bytes::from(piece)).await.is_err() {
                // Its reader wants no more.
                open.inbox = None;
            }
        }
        if fin {
            self.fin(stream);
        }
        Ok(())
    }

    fn fin(&mut self, stream: u32) {
        if let Some(open) = self.streams.get_mut(&stream) {
            open.inbox = None;
        }
    }

    async fn control(&mut self, control: Control) {
        let answer = match control {
            Control::Open {
                stream,
                fin,
                headers,
            } => return self.open(stream, fin, headers).await,
            Control::Reset { stream } => {
                if let Some(open) = self.streams.remove(&stream) {
                    open.reset.cancel();
                }
                return;
            }
            // Odd ones are the client's, and come back as they are.
            Control::Ping { id } if id % 2 == 1 => Outgoing::Ping { id },
            Control::Ping { .. } | Control::GoAway | Control::Other => return,
        };
        let _ = self.frames.send(answer).await;
    }

    async fn open(&mut self, stream: u32, fin: bool, headers: Headers) {
        // Those that both sides have left count no more.
        if self.streams.len() >= SPDY_STREAMS {
            self.streams
                .retain(|_, open| open.inbox.is_some() || open.writers.strong_count() > 0);
        }
        let why = if stream.is_multiple_of(2) || stream <= self.last {
            Some(Reset::InvalidStream)
        } else if self.streams.len() >= SPDY_STREAMS {
            Some(Reset::Refused)
        } else {
            None
        };
        if let Some(why) = why {
            let _ = self.frames.send(Outgoing::Reset { stream, why }).await;
            return;
        }
        self.last = stream;
        let _ = self.frames.send(Outgoing::Reply { stream }).await;
        let (sender, inbox) = mpsc::channel(STREAM_PIECES);
        let held = Arc::new(());
        let open = Open {
            inbox: (!fin).then_some(sender),
            reset: CancellationToken::new(),
            writers: Arc::downgrade(&held),
        };
        let out = Writer {
            stream,
            frames: self.frames.clone(),
            reset: open.reset.clone(),
            _held: held,
        };
        self.streams.insert(stream, open);
        let opened = Stream {
            headers,
            inbox,
            out,
        };
        let _ = self.opened.send(opened).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::DuplexStream;
    use tokio::time::timeout;

    use super::super::frame::client;
    use super::*;

    /// Far longer than this takes; only a hang gets there.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn open(stream: u32, deflater: &mut Deflater) -> Vec<u8> {
        let mut headers = Headers::new();
        headers.insert("streamtype".to_owned(), "data".to_owned());
        client::open(stream, &headers, deflater)
    }

    /// A frame's eight bytes and its payload.
    async fn next_frame(client: &mut DuplexStream) -> ([u8; HEAD_BYTES], Vec<u8>) {
        let mut head = [0; HEAD_BYTES];
        client.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[7]) + 256 * usize::from(head[6])];
        client.read_exact(&mut payload).await.unwrap();
        (head, payload)
    }

    #[tokio::test]
    async fn a_stream_carries_both_ways_and_ends() {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let (mut session, driver) = Session::new(server);
        let client = async move {
            let mut deflater = Deflater::new();
            client.write_all(&open(1, &mut deflater)).await.unwrap();
            client
                .write_all(&frame::data(1, false, b"in"))
                .await
                .unwrap();
            client
                .write_all(&frame::data(1, true, b"put"))
                .await
                .unwrap();
            client.write_all(&frame::ping(7)).await.unwrap();
            assert_eq!(
                next_frame(&mut client).await.0[..4],
                [0x80, 3, 0, 2],
                "reply"
            );
            let mut rest = vec![next_frame(&mut client).await, next_frame(&mut client).await];
            rest.push(next_frame(&mut client).await);
            rest.sort();
            let expected = vec![
                ([0, 0, 0, 1, 0, 0, 0, 6], b"output".to_vec()),
                ([0, 0, 0, 1, 1, 0, 0, 0], Vec::new()),
                ([0x80, 3, 0, 6, 0, 0, 0, 4], vec![0, 0, 0, 7]),
            ];
            assert_eq!(rest, expected);
            client.write_all(&open(3, &mut deflater)).await.unwrap();
            client
                .write_all(&frame::reset(3, Reset::InvalidStream))
                .await
                .unwrap();
            next_frame(&mut client).await;
            client
        };
        let server = async {
            let mut stream = session.next().await.unwrap();
            assert_eq!(stream.headers["streamtype"], "data");
            let mut heard = Vec::new();
            while let Some(bytes) = stream.inbox.recv().await {
                heard.extend(bytes);
            }
            assert_eq!(heard, b"input");
            assert!(stream.out.send(Bytes::from_static(b"output")).await);
            stream.out.finish().await;
            let reset = session.next().await.unwrap();
            reset.out.reset.cancelled().await;
            assert!(!reset.out.send(Bytes::from_static(b"x")).await);
        };
        let both = async { tokio::join!(client, server) };
        tokio::select! {
            done = timeout(PATIENCE, both) => drop(done.expect("done in time")),
            () = driver => panic!("the connection ended"),
        }
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_holds_its_sender_up() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        let (mut session, driver) = Session::new(server);
        let mut deflater = Deflater::new();
        let opening = open(1, &mut deflater);
        let long = frame::data(1, false, &vec![b'x'; 1 << 20]);
        let sending = async {
            client.write_all(&opening).await.unwrap();
            let (mut read, mut write) = tokio::io::split(client);
            let answers = async { while read.read(&mut [0; 256]).await.unwrap() > 0 {} };
            let mut sent = 0;
            tokio::select! {
                () = answers => {}
                () = async {
                    while sent < long.len() {
                        sent += write.write(&long[sent..]).await.unwrap();
                    }
                } => {}
                // The clock is paused: it moves on when nothing else can.
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            sent
        };
        tokio::time::pause();
        let sent = tokio::select! { sent = sending => sent, () = driver => panic!("ended") };
        let held = STREAM_PIECES * STREAM_PIECE_BYTES;
        assert!((held..2 * held).contains(&sent), "{sent} bytes were taken");
        assert!(session.next().await.is_some());
    }

    #[tokio::test]
    async fn too_many_streams_and_wrong_ones_are_refused() {
        let (client, server) = tokio::io::duplex(64 << 10);
        let (mut session, driver) = Session::new(server);
        let (mut read, mut write) = tokio::io::split(client);
        let opening = async {
            let mut deflater = Deflater::new();
            let many = u32::try_from(SPDY_STREAMS).unwrap();
            for number in (0..=many).map(|number| 2 * number + 1).chain([2]) {
                write.write_all(&open(number, &mut deflater)).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let taking = async {
            let mut taken = Vec::new();
            while let Some(stream) = session.next().await {
                taken.push(stream);
            }
        };
        let answers = async {
            let mut resets = Vec::new();
            while resets.len() < 2 {
                let mut head = [0; HEAD_BYTES];
                read.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[7])];
                read.read_exact(&mut payload).await.unwrap();
                if head[3] == 3 {
                    resets.push(payload[7]);
                }
            }
            resets
        };
        tokio::select! {
            resets = timeout(PATIENCE, answers) => assert_eq!(resets.unwrap(), [3, 2]),
            () = opening => {}
            () = taking => panic!("the session ended"),
            () = driver => panic!("the connection ended"),
        }
    }

    #[tokio::test]
    async fn whatever_a_client_sends_ends_the_session_or_not() {
        let mut deflater = Deflater::new();
        let conversation = [
            open(1, &mut deflater),
            frame::data(1, false, b"bytes"),
            open(3, &mut deflater),
            frame::ping(1),
            frame::data(1, true, b""),
            frame::reset(3, Reset::Refused),
            frame::go_away(0),
        ]
        .concat();
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            crate::model::spoiled::spoiled(&[conversation.as_slice()], 1_000, |bytes| {
                runtime.block_on(async {
                    let (client, server) = tokio::io::duplex(128 << 10);
                    let (mut session, driver) = Session::new(server);
                    let (mut read, mut write) = tokio::io::split(client);
                    let sending = async {
                        // The session may end before it has read everything.
                        drop(write.write_all(bytes).await);
                        drop(write.shutdown().await);
                        std::future::pending::<()>().await;
                    };
                    let answers = async {
                        while let Ok(1..) = read.read(&mut [0; 1024]).await {}
                        std::future::pending::<()>().await;
                    };
                    let taking = async {
                        while let Some(mut stream) = session.next().await {
                            tokio::spawn(
                                async move { while stream.inbox.recv().await.is_some() {} },
                            );
                        }
                        std::future::pending::<()>().await;
                    };
                    let all = async {
                        tokio::select! {
                            () = driver => {}
                            () = sending => {}
                            () = taking => {}
                            () = answers => {}
                        }
                    };
                    timeout(PATIENCE, all).await.expect("the session ends");
                });
            });
        })
        .await
        .unwrap();
    }
}

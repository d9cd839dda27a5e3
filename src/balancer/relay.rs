//! Carrying bytes between a client and an endpoint.
//!
//! A connection on which nothing happens holds no buffer: bytes are read into one that all connections of a thread share, and only
//! what the other side does not take at once is kept.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use super::activity::UNANSWERED_AFTER;
use super::{Balancer, ConnectError, Connection, OpenConnection, ServicePortKey};

/// Read at once; what one connection may hold back for a slow reader.
const CHUNK_BYTES: usize = 64 * 1024;

thread_local! {
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into());
}

/// Why a client's connection was reset.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No endpoint took it.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// One side broke.
    #[error("relay broke")]
    Broken(#[source] io::Error),
    /// The endpoint's node was declared dead.
    #[error("the endpoint's node was declared dead")]
    Aborted,
}

/// Copies both ways until both directions have ended; each ends for itself. When the endpoint drains, it ends in an orderly way at
/// the first quiet moment: bytes that the client sends after it never reach the endpoint, so that they can be sent again.
///
/// # Errors
/// When a side breaks or the connection is aborted. The client's side is then to be reset by its owner.
pub async fn relay<C>(client: &mut C, connection: Connection) -> Result<(u64, u64), ForwardError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let Connection { mut stream, open } = connection;
    let (mut there, mut back) = (Direction::default(), Direction::default());
    let mut patience = Patience::default();
    let copy = poll_fn(|cx| {
        let sent = there.poll(cx, client, &mut stream, || {
            open.activity.client_spoke(Instant::now())
        })?;
        let answered = back.poll(cx, &mut stream, client, || {
            if open.activity.endpoint_spoke(Instant::now()) && patience.lost {
                patience.lost = false;
                open.answers();
            }
        })?;
        patience.poll(cx, &open);
        match (sent, answered) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    });
    let ended = tokio::select! {
        biased;
        ended = copy => ended.map_err(ForwardError::Broken),
        () = open.aborted() => Err(ForwardError::Aborted),
        () = open.quiet_drain() => Ok(()),
    };
    patience.at_end(&open);
    ended.map(|()| (there.total, back.total))
}

/// One way of a relay.
#[derive(Default)]
struct Direction {
    /// What the writer did not take yet, and how much of it it took since.
    held: Vec<u8>,
    written: usize,
    ended: bool,
    shut: bool,
    unflushed: bool,
    total: u64,
}

impl Direction {
    /// Ready when the reader has ended and the writer knows it. `spoke` is called when bytes came.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        mut spoke: impl FnMut(),
    ) -> Result<Poll<()>, io::Error>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        match self.advance(cx, reader, writer, &mut spoke) {
            Poll::Ready(Ok(())) => Ok(Poll::Ready(())),
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn advance<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        spoke: &mut impl FnMut(),
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        loop {
            while self.written < self.held.len() {
                let count =
                    ready!(Pin::new(&mut *writer).poll_write(cx, &self.held[self.written..]))?;
                self.took(count)?;
                self.written += count;
            }
            if !self.held.is_empty() {
                self.held = Vec::new();
                self.written = 0;
            }
            if self.ended {
                if !self.shut {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            let read = CHUNK.with_borrow_mut(|chunk| {
                let mut buffer = ReadBuf::new(chunk);
                match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
                let bytes = buffer.filled();
                if bytes.is_empty() {
                    self.ended = true;
                    return Poll::Ready(Ok(()));
                }
                spoke();
                let count = match Pin::new(&mut *writer).poll_write(cx, bytes) {
                    Poll::Ready(Ok(count)) => {
                        self.took(count)?;
                        count
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => 0,
                };
                if count < bytes.len() {
                    self.held = bytes[count..].to_vec();
                }
                Poll::Ready(Ok(()))
            });
            match read {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut *writer).poll_flush(cx))?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn took(&mut self, count: usize) -> io::Result<()> {
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.unflushed = true;
        self.total += count as u64;
        Ok(())
    }
}

/// How long the client waits for an answer.
#[derive(Default)]
struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
    /// The endpoint has been told on.
    lost: bool,
}

impl Patience {
    /// One timer a connection, which is set again only when it has fired.
    fn poll(&mut self, cx: &mut Context<'_>, open: &OpenConnection) {
        while !self.lost {
            let Some(since) = open.activity.waiting_since() else {
                return;
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(since + UNANSWERED_AFTER)));
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.timer = None;
            if since + UNANSWERED_AFTER <= Instant::now() {
                self.lost = true;
                open.unanswered();
            }
        }
    }

    /// A client that went away while it waited has lost its patience no later than this.
    fn at_end(&self, open: &OpenConnection) {
        let waited = open.activity.waiting_since().map(|since| since.elapsed());
        if !self.lost && waited.is_some_and(|waited| waited >= UNANSWERED_AFTER) {
            open.unanswered();
        }
    }
}

/// Serves a client's TCP connection: balances it to an endpoint and relays until it ends. When that fails, at the start or later,
/// the client sees a reset, never an orderly end.
///
/// # Errors
/// When the client was reset, and why.
pub async fn forward(
    mut client: TcpStream,
    balancer: &Balancer,
    key: &ServicePortKey,
) -> Result<(u64, u64), ForwardError> {
    let address = client.peer_addr().ok().map(|peer| peer.ip());
    let relayed = match pin!(balancer.connect_for(key, address)).await {
        Ok(connection) => relay(&mut client, connection).await,
        Err(error) => Err(error.into()),
    };
    if relayed.is_err() {
        // With a zero linger, closing sends a reset. It can only fail on a socket that is gone already.
        drop(client.set_zero_linger());
    }
    relayed
}

//! Copies of frames as they pass, in pcapng (draft-ietf-opsawg-pcapng), which Wireshark and tcpdump open.
//!
//! A capture never slows the switch: what its reader does not take in time is left out, and the statistics block that follows says how much.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use super::Port;
use super::rules::Link;
use super::switch::Switch;

/// Frames that may wait for a capture's reader.
const WAITING_FRAMES: usize = 8192;
/// Captures at a time; more are refused by ending at once.
const MAX_TAPS: usize = 16;

/// Which frames are copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureFilter {
    /// What the port's card sends, rules notwithstanding, and what arrives there.
    Port(Port),
    /// What arrives at the end of this directed link.
    Link(Port, Port),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Filter {
    Port(usize),
    Link(Link),
}

#[derive(Debug)]
struct Tap {
    id: u64,
    filter: Filter,
    frames: mpsc::Sender<(SystemTime, Bytes)>,
    left_out: Arc<AtomicU64>,
}

/// The captures of a switch.
#[derive(Debug, Default)]
pub(super) struct Taps {
    /// How many there are, so that the switch need not take the lock when there are none.
    count: AtomicUsize,
    acting: RwLock<Vec<Tap>>,
    ids: AtomicU64,
}

impl Taps {
    pub(super) fn sent(&self, from: usize, frame: &Bytes) {
        self.copy(
            frame,
            |filter| matches!(filter, Filter::Port(port) if port == from),
        );
    }

    pub(super) fn arrived(&self, link: Link, frame: &Bytes) {
        self.copy(frame, |filter| match filter {
            Filter::Port(port) => port == link.1,
            Filter::Link(wanted) => wanted == link,
        });
    }

    fn copy(&self, frame: &Bytes, wanted: impl Fn(Filter) -> bool) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let taps = self.acting.read().expect("no holder of the taps panics");
        for tap in taps.iter().filter(|tap| wanted(tap.filter)) {
            if tap
                .frames
                .try_send((SystemTime::now(), frame.clone()))
                .is_err()
            {
                tap.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn add(&self, filter: Filter) -> (u64, mpsc::Receiver<(SystemTime, Bytes)>, Arc<AtomicU64>) {
        let (sender, receiver) = mpsc::channel(WAITING_FRAMES);
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let left_out = Arc::new(AtomicU64::new(0));
        let mut taps = self.acting.write().expect("no holder of the taps panics");
        if taps.len() < MAX_TAPS {
            taps.push(Tap {
                id,
                filter,
                frames: sender,
                left_out: Arc::clone(&left_out),
            });
        }
        self.count.store(taps.len(), Ordering::Relaxed);
        (id, receiver, left_out)
    }

    fn remove(&self, id: u64) {
        let mut taps = self.acting.write().expect("no holder of the taps panics");
        taps.retain(|tap| tap.id != id);
        self.count.store(taps.len(), Ordering::Relaxed);
    }
}

/// A capture that runs: a stream of pcapng blocks. It ends after its time; dropped, it ends at once.
#[derive(Debug)]
pub struct Capture {
    switch: Arc<Switch>,
    id: u64,
    frames: mpsc::Receiver<(SystemTime, Bytes)>,
    left_out: Arc<AtomicU64>,
    told_left_out: u64,
    ready: VecDeque<Bytes>,
    end: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Capture {
    pub(super) fn start(
        switch: &Arc<Switch>,
        filter: Filter,
        name: &str,
        lasts: Option<Duration>,
    ) -> Self {
        let (id, frames, left_out) = switch.taps.add(filter);
        let end = lasts.map(|lasts| Box::pin(tokio::time::sleep(lasts)));
        let ready = VecDeque::from([header(name)]);
        Self {
            switch: Arc::clone(switch),
            id,
            frames,
            left_out,
            told_left_out: 0,
            ready,
            end,
            ended: false,
        }
    }

    fn statistics_if_changed(&mut self) -> Option<Bytes> {
        let left_out = self.left_out.load(Ordering::Relaxed);
        (left_out != std::mem::replace(&mut self.told_left_out, left_out))
            .then(|| statistics(SystemTime::now(), left_out))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.switch.taps.remove(self.id);
    }
}

impl Stream for Capture {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(block) = self.ready.pop_front() {
            return Poll::Ready(Some(block));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let mut batch = Vec::new();
        if let Poll::Ready(count) = self.frames.poll_recv_many(cx, &mut batch, 256) {
            let mut blocks = BytesMut::new();
            for (at, frame) in &batch {
                blocks.extend_from_slice(&packet(*at, frame));
            }
            blocks.extend(self.statistics_if_changed().into_iter().flatten());
            self.ended = count == 0;
            return Poll::Ready((count > 0).then(|| blocks.freeze()));
        }
        if self
            .end
            .as_mut()
            .is_some_and(|end| end.as_mut().poll(cx).is_ready())
        {
            self.ended = true;
            return Poll::Ready(self.statistics_if_changed());
        }
        Poll::Pending
    }
}

/// A block: type, length, contents padded to 32 bits, length once more.
fn block(kind: u32, contents: &[u8]) -> Bytes {
    let padded = contents.len().next_multiple_of(4);
    let length = u32::try_from(padded + 12).expect("a frame is at most 64 KiB");
    let mut block = BytesMut::with_capacity(padded + 12);
    block.put_u32_le(kind);
    block.put_u32_le(length);
    block.put_slice(contents);
    block.put_bytes(0, padded - contents.len());
    block.put_u32_le(length);
    block.freeze()
}

fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let mut option = Vec::new();
    option.put_u16_le(code);
    option.put_u16_le(u16::try_from(value.len()).expect("an option is a name or a number"));
    option.put_slice(value);
    option.resize(option.len().next_multiple_of(4), 0);
    option
}

/// The section header (byte order, version 1.0, unknown length) and the description of the one interface: Ethernet, nanoseconds.
fn header(name: &str) -> Bytes {
    let mut section = Vec::new();
    section.put_u32_le(0x1a2b_3c4d);
    section.put_u16_le(1);
    section.put_u16_le(0);
    section.put_u64_le(u64::MAX);
    let mut interface = Vec::new();
    interface.put_u16_le(1);
    interface.put_u16_le(0);
    interface.put_u32_le(0);
    interface.extend(option(2, name.as_bytes()));
    interface.extend(option(9, &[9]));
    interface.extend(option(0, &[]));
    [block(0x0a0d_0d0a, &section), block(1, &interface)]
        .concat()
        .into()
}

fn put_timestamp(block: &mut Vec<u8>, at: SystemTime) {
    let nanos = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of the number"
    )]
    for half in [(nanos >> 32) as u32, nanos as u32] {
        block.put_u32_le(half);
    }
}

fn packet(at: SystemTime, frame: &[u8]) -> Bytes {
    let length = u32::try_from(frame.len()).expect("a frame is at most 64 KiB");
    let mut packet = Vec::with_capacity(frame.len() + 20);
    packet.put_u32_le(0);
    put_timestamp(&mut packet, at);
    packet.put_u32_le(length);
    packet.put_u32_le(length);
    packet.put_slice(frame);
    block(6, &packet)
}

/// Interface statistics: how many frames were left out since the capture began.
fn statistics(at: SystemTime, left_out: u64) -> Bytes {
    let mut contents = Vec::new();
    contents.put_u32_le(0);
    put_timestamp(&mut contents, at);
    contents.extend(option(5, &left_out.to_le_bytes()));
    contents.extend(option(0, &[]));
    block(5, &contents)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machines::fabric::switch::node_port;
    use crate::model::addresses::node_mac;
    use futures::{FutureExt, StreamExt};

    fn frame(to: [u8; 6], from: usize, mark: u8) -> Bytes {
        [&to[..], &node_mac(from), &[mark; 47]].concat().into()
    }

    /// Type and contents of each block; panics on one whose lengths disagree.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let word =
            |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let mut blocks = Vec::new();
        while !bytes.is_empty() {
            let length = word(bytes, 4) as usize;
            assert_eq!(word(bytes, length - 4) as usize, length);
            blocks.push((word(bytes, 0), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        blocks
    }

    fn everything(mut capture: Capture) -> Vec<(u32, Vec<u8>)> {
        let mut bytes = Vec::new();
        while let Some(Some(more)) = capture.next().now_or_never() {
            bytes.extend(more);
        }
        blocks(&bytes)
    }

    #[tokio::test]
    async fn a_port_sees_what_it_sends_once_and_what_arrives_and_a_link_only_its_own() {
        let (switch, _host, _late) = Switch::new(2);
        let _receivers = [switch.attach(node_port(0)), switch.attach(node_port(1))];
        let port = Capture::start(&switch, Filter::Port(node_port(0)), "c1", None);
        let link = Capture::start(
            &switch,
            Filter::Link((node_port(0), node_port(1))),
            "c1 to w1",
            None,
        );
        switch.forward(node_port(0), &frame([0xff; 6], 0, 1));
        switch.forward(node_port(1), &frame(node_mac(0), 1, 2));
        let marks = |blocks: Vec<(u32, Vec<u8>)>| -> Vec<u8> {
            assert_eq!((blocks[0].0, blocks[1].0), (0x0a0d_0d0a, 1));
            blocks[2..]
                .iter()
                .map(|(kind, contents)| if *kind == 6 { contents[20 + 12] } else { 0 })
                .collect()
        };
        assert_eq!(marks(everything(port)), [1, 2]);
        assert_eq!(marks(everything(link)), [1]);
        assert_eq!(
            switch.taps.count.load(Ordering::Relaxed),
            0,
            "a dropped capture is gone"
        );
    }

    #[tokio::test]
    async fn what_the_reader_did_not_take_is_counted() {
        let (switch, _host, _late) = Switch::new(2);
        let capture = Capture::start(&switch, Filter::Port(node_port(0)), "c1", None);
        for _ in 0..WAITING_FRAMES + 3 {
            switch.forward(node_port(0), &frame(node_mac(1), 0, 1));
        }
        let blocks = everything(capture);
        assert_eq!(
            blocks.iter().filter(|(kind, _)| *kind == 6).count(),
            WAITING_FRAMES
        );
        let (_, statistics) = blocks.iter().find(|(kind, _)| *kind == 5).unwrap();
        assert_eq!(statistics[16..24], 3_u64.to_le_bytes());
    }

    #[tokio::test]
    async fn a_capture_ends_after_its_time() {
        let (switch, _host, _late) = Switch::new(1);
        let capture = Capture::start(
            &switch,
            Filter::Port(0),
            "host",
            Some(Duration::from_millis(1)),
        );
        assert_eq!(capture.collect::<Vec<_>>().await.len(), 1, "the header");
    }
}

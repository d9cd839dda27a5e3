//! How fast the fabric is, measured between two synthetic ports: sockets as QEMU opens them, without guests behind them.
//!
//! Run it in a runtime of one thread: then the switch and both ports together have one core, and the figures are a lower bound of what the
//! switch alone does. On a busy host the thread has to wait for its core; Linux tells how long, and that is taken out of the figures, since it
//! says nothing about the fabric.

use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::{Fabric, FabricConfig, FabricError, Layer, LinkRule, Port, ProbePlan};
use crate::model::addresses::node_mac;
use crate::model::names::NodeName;

/// Frames of each throughput measurement, and how many are written at a time.
const FRAMES: usize = 300_000;
const BURST: usize = 32;
/// Frames that may be under way: fewer than a port's queue holds, so that none is dropped.
const WINDOW: usize = 1024;
/// Longest Ethernet frame with the usual MTU, and the shortest.
const LARGE_BYTES: usize = 1514;
const SMALL_BYTES: usize = 60;
/// Round trips of the latency measurement.
const TRIPS: usize = 5_000;
/// Probes through the delay rule, and frames through the loss rule.
const DELAYED_PROBES: u32 = 400;
const LOSSY_FRAMES: usize = 100_000;
/// The seed of the loss rule.
const SEED: u64 = 7;

/// Why the fabric could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A socket failed.
    #[error("measure the fabric")]
    Socket(#[from] io::Error),
    /// The fabric refused a rule.
    #[error(transparent)]
    Fabric(#[from] FabricError),
}

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FabricFigures {
    /// Megabits a second of 1514-byte frames.
    pub large_mbit_per_second: f64,
    /// Frames a second of those.
    pub large_frames_per_second: f64,
    /// Frames a second of 60 bytes.
    pub small_frames_per_second: f64,
    /// The share of the throughput measurements for which the thread had to wait for its core.
    pub waited_for_core: f64,
    /// Half of the round trips through the fabric took at most so much longer, each way, than through a bare socket.
    pub added_latency_p50_ms: f64,
    /// The same of 99 of 100.
    pub added_latency_p99_ms: f64,
    /// Mean delay under a rule of 50 ms with a jitter of 5 ms; waiting for the core is in it.
    pub delay_50_5_mean_ms: f64,
    /// The same of half of the frames.
    pub delay_50_5_p50_ms: f64,
    /// Frames lost of 100 000 under a rule of 1 %, with a fixed seed.
    pub loss_of_1_percent: f64,
}

struct Pair {
    fabric: Fabric,
    first: UnixStream,
    second: UnixStream,
    ports: [Port; 2],
}

/// Measures a fabric of its own with sockets in `directory`.
///
/// # Errors
/// When a socket fails.
pub async fn bench(directory: &std::path::Path) -> Result<FabricFigures, BenchError> {
    let mut pair = connect(directory).await?;
    let (begun, waited_before) = (Instant::now(), waited());
    let large = throughput(&mut pair, LARGE_BYTES).await?;
    let small = throughput(&mut pair, SMALL_BYTES).await?;
    let waited_for_core =
        waited().saturating_sub(waited_before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let mut through = round_trips(&mut pair.first, &mut pair.second).await?;
    let (mut near, mut far) = UnixStream::pair()?;
    let mut bare = round_trips(&mut near, &mut far).await?;
    let added = |quantile: usize, through: &mut Vec<Duration>, bare: &mut Vec<Duration>| {
        through.sort_unstable();
        bare.sort_unstable();
        let at = TRIPS * quantile / 100;
        // Each trip is there and back.
        (through[at].as_secs_f64() - bare[at].as_secs_f64()) * 1000.0 / 2.0
    };
    let p50 = added(50, &mut through, &mut bare);
    let p99 = added(99, &mut through, &mut bare);
    let (delay_mean, delay_p50) = delay(&pair).await?;
    let loss = loss(&mut pair).await?;
    pair.fabric.shutdown().await;
    #[expect(clippy::cast_precision_loss, reason = "frames of 1514 bytes")]
    let large_mbit = large * (LARGE_BYTES * 8) as f64 / 1e6;
    Ok(FabricFigures {
        large_mbit_per_second: large_mbit,
        large_frames_per_second: large,
        small_frames_per_second: small,
        added_latency_p50_ms: p50,
        added_latency_p99_ms: p99,
        waited_for_core,
        delay_50_5_mean_ms: delay_mean,
        delay_50_5_p50_ms: delay_p50,
        loss_of_1_percent: loss,
    })
}

async fn connect(directory: &std::path::Path) -> Result<Pair, BenchError> {
    let names = ["b1", "b2"].map(|name| name.parse::<NodeName>().expect("they are names"));
    let addresses = (0..names.len())
        .map(crate::model::addresses::node_address)
        .collect();
    let fabric = Fabric::start(FabricConfig {
        socket_dir: directory.to_owned(),
        nodes: names.to_vec(),
        addresses,
    })
    .await?;
    let first = UnixStream::connect(fabric.socket(&names[0])).await?;
    let second = UnixStream::connect(fabric.socket(&names[1])).await?;
    while !names.iter().all(|name| fabric.connected(name)) {
        tokio::task::yield_now().await;
    }
    Ok(Pair {
        fabric,
        first,
        second,
        ports: names.map(Port::Node),
    })
}

/// A frame with its length before it, as on the wire, from one of the two ports to the other.
fn wire_frame(from: usize, bytes: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(bytes + 4);
    frame.put_u32(u32::try_from(bytes).expect("a frame is small"));
    frame.put_slice(&node_mac(1 - from));
    frame.put_slice(&node_mac(from));
    frame.put_u16(0x88b5);
    frame.resize(bytes + 4, 0);
    frame
}

/// Frames a second from the first port to the second.
async fn throughput(pair: &mut Pair, bytes: usize) -> io::Result<f64> {
    let burst = wire_frame(0, bytes).repeat(BURST);
    let (first, second) = (&mut pair.first, &mut pair.second);
    let (taken, mut progress) = tokio::sync::watch::channel(0_usize);
    let (begun, waited_before) = (Instant::now(), waited());
    let send = async {
        let mut sent = 0;
        while sent < FRAMES {
            if progress
                .wait_for(|taken| sent + BURST - taken <= WINDOW)
                .await
                .is_err()
            {
                return Err(io::Error::other("the receiver gave up"));
            }
            first.write_all(&burst).await?;
            sent += BURST;
        }
        Ok(sent)
    };
    let receive = async {
        let wanted = FRAMES.next_multiple_of(BURST) * (bytes + 4);
        let (mut received, mut buffer) = (0, vec![0; 256 << 10]);
        while received < wanted {
            match second.read(&mut buffer).await? {
                0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                read => received += read,
            }
            taken.send_replace(received / (bytes + 4));
        }
        Ok(())
    };
    let (sent, received) = tokio::join!(send, receive);
    received?;
    #[expect(clippy::cast_precision_loss, reason = "300 000 frames")]
    let frames = sent? as f64;
    let waiting = waited().saturating_sub(waited_before);
    Ok(frames / begun.elapsed().saturating_sub(waiting).as_secs_f64())
}

/// How long this thread has waited for a core since it began (the second number of Linux's `schedstat`); zero where nobody tells.
fn waited() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(
        told.split_whitespace()
            .nth(1)
            .and_then(|nanos| nanos.parse().ok())
            .unwrap_or(0),
    )
}

/// How long a small frame takes there and back.
async fn round_trips(near: &mut UnixStream, far: &mut UnixStream) -> io::Result<Vec<Duration>> {
    let (ask, answer) = (wire_frame(0, SMALL_BYTES), wire_frame(1, SMALL_BYTES));
    let mut buffer = vec![0; ask.len()];
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let waited_before = waited();
        let begun = Instant::now();
        near.write_all(&ask).await?;
        far.read_exact(&mut buffer).await?;
        far.write_all(&answer).await?;
        near.read_exact(&mut buffer).await?;
        let took = begun.elapsed();
        trips.push(took.saturating_sub(waited().saturating_sub(waited_before)));
    }
    Ok(trips)
}

async fn delay(pair: &Pair) -> Result<(f64, f64), BenchError> {
    let [from, to] = &pair.ports;
    let (delay, jitter) = (Duration::from_millis(50), Duration::from_millis(5));
    let layer = Layer::tagged("bench");
    pair.fabric.set_rule(
        from,
        to,
        LinkRule {
            delay,
            jitter,
            ..LinkRule::default()
        },
        &layer,
    )?;
    let plan = ProbePlan {
        count: DELAYED_PROBES,
        gap: jitter * 2,
        bytes: SMALL_BYTES,
        slowest: delay * 2,
    };
    let measured = pair.fabric.measure(from, to, plan).await?;
    pair.fabric.heal(None, None)?;
    Ok((measured.delay_mean_ms, measured.delay_p50_ms))
}

/// The share of real frames that a rule of 1 % loses.
async fn loss(pair: &mut Pair) -> Result<f64, BenchError> {
    let [from, to] = &pair.ports;
    pair.fabric.set_rule(
        from,
        to,
        LinkRule {
            loss: 0.01,
            ..LinkRule::default()
        },
        &Layer {
            seed: SEED,
            ..Layer::tagged("bench")
        },
    )?;
    let before = pair.fabric.counters(from, to)?;
    let settled = || {
        let now = pair.fabric.counters(from, to)?;
        Ok::<_, BenchError>((
            now.passed + now.dropped_by_rule - before.passed - before.dropped_by_rule,
            now,
        ))
    };
    let burst = wire_frame(0, SMALL_BYTES).repeat(BURST);
    let mut drained = BytesMut::with_capacity(256 << 10);
    for sent in (BURST..=LOSSY_FRAMES).step_by(BURST) {
        pair.first.write_all(&burst).await?;
        while settled()?.0 < sent as u64 {
            drain(&mut pair.second, &mut drained).await?;
        }
    }
    let (frames, after) = settled()?;
    pair.fabric.heal(None, None)?;
    #[expect(clippy::cast_precision_loss, reason = "100 000 frames")]
    let share = (after.dropped_by_rule - before.dropped_by_rule) as f64 / frames as f64;
    Ok(share)
}

/// Takes what has arrived, if anything has, and lets others run.
async fn drain(stream: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> io::Result<()> {
    buffer.clear();
    tokio::select! {
        biased;
        read = stream.read_buf(buffer) => read.map(drop),
        () = tokio::task::yield_now() => Ok(()),
    }
}

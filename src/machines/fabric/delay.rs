//! The delay line: frames of delayed links wait here until they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rules::Link;
use super::switch::Switch;

/// Frames the line holds before the channel in front of it fills.
const LINE_FRAMES: usize = 16_384;

/// A frame that is to be delivered later.
#[derive(Debug)]
pub(super) struct Delayed {
    pub(super) due: Instant,
    pub(super) link: Link,
    pub(super) frame: Bytes,
}

/// Orders by due time, then by arrival, so that a link with a constant delay keeps its order.
type Waiting = Reverse<(Instant, u64, Link, Bytes)>;

/// Delivers delayed frames until cancelled.
pub(super) async fn run(switch: Arc<Switch>, mut arriving: mpsc::Receiver<Delayed>, cancel: CancellationToken) {
    let mut line: BinaryHeap<Waiting> = BinaryHeap::new();
    let mut arrivals = 0_u64;
    loop {
        let due = line.peek().map(|Reverse((due, ..))| *due);
        let next_due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = next_due => {
                if let Some(Reverse((_, _, link, frame))) = line.pop() {
                    switch.deliver(link, frame);
                }
            }
            Some(late) = arriving.recv(), if line.len() < LINE_FRAMES => {
                arrivals += 1;
                line.push(Reverse((late.due, arrivals, late.link, late.frame)));
            }
        }
    }
}

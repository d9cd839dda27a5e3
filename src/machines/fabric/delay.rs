//! The delay line: frames of delayed links wait here until they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::rules::Link;
use super::switch::{Parcel, Switch};

/// Frames the line holds before the channel in front of it fills.
const LINE_FRAMES: usize = 16_384;
/// Frames taken in, or delivered, before the other kind of work gets its turn.
const BATCH_FRAMES: usize = 256;

/// A frame that is to be delivered later.
#[derive(Debug)]
pub(super) struct Delayed {
    pub(super) due: Instant,
    pub(super) link: Link,
    pub(super) parcel: Parcel,
}

/// Ordered by due time, then by arrival, so that a link with a constant delay keeps its order.
struct Waiting(u64, Delayed);

impl Waiting {
    fn order(&self) -> (Instant, u64) {
        (self.1.due, self.0)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}
impl Eq for Waiting {}
impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// Delivers delayed frames until cancelled.
pub(super) async fn run(
    switch: Arc<Switch>,
    mut arriving: mpsc::Receiver<Delayed>,
    cancel: CancellationToken,
) {
    let mut line: BinaryHeap<Reverse<Waiting>> = BinaryHeap::new();
    let mut batch = Vec::with_capacity(BATCH_FRAMES);
    let mut arrivals = 0_u64;
    loop {
        let due = line.peek().map(|Reverse(first)| first.1.due);
        let next_due = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = next_due => {}
            taken = arriving.recv_many(&mut batch, BATCH_FRAMES), if line.len() < LINE_FRAMES => {
                if taken == 0 {
                    return;
                }
                for delayed in batch.drain(..) {
                    arrivals += 1;
                    line.push(Reverse(Waiting(arrivals, delayed)));
                }
            }
        }
        let now = Instant::now();
        for _ in 0..BATCH_FRAMES {
            match line.peek() {
                Some(Reverse(first)) if first.1.due <= now => {}
                _ => break,
            }
            if let Some(Reverse(Waiting(_, delayed))) = line.pop() {
                switch.deliver(delayed.link, delayed.parcel);
            }
        }
    }
}

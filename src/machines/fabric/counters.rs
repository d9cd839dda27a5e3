//! What has passed each directed link, for comparing a fault's requested effect with its measured one.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::rules::Link;

/// Frames of one directed link since the fabric started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Frames handed to the receiver.
    pub passed: u64,
    /// Frames that the link's rule dropped.
    pub dropped_by_rule: u64,
    /// Frames dropped because the receiver's queue was full, or nobody was connected.
    pub dropped_undeliverable: u64,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    Passed,
    DroppedByRule,
    DroppedUndeliverable,
}

/// The counters of every directed link between `ports` ports.
#[derive(Debug)]
pub(super) struct Counters {
    ports: usize,
    cells: Vec<[AtomicU64; 3]>,
}

impl Counters {
    pub(super) fn new(ports: usize) -> Self {
        Self { ports, cells: (0..ports * ports).map(|_| Default::default()).collect() }
    }

    pub(super) fn add(&self, (from, to): Link, count: Count) {
        self.cells[from * self.ports + to][count as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, (from, to): Link) -> LinkCounters {
        let cell = &self.cells[from * self.ports + to];
        let read = |count: Count| cell[count as usize].load(Ordering::Relaxed);
        LinkCounters {
            passed: read(Count::Passed),
            dropped_by_rule: read(Count::DroppedByRule),
            dropped_undeliverable: read(Count::DroppedUndeliverable),
        }
    }
}

//! What has passed each directed link, for comparing a fault's requested effect with its measured one.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::rules::Link;

/// Frames of one directed link since the fabric started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinkCounters {
    /// Frames handed to the receiver.
    pub passed: u64,
    /// Bytes of those.
    pub passed_bytes: u64,
    /// Frames that the link's rule dropped.
    pub dropped_by_rule: u64,
    /// Frames for which the queue of a link with a rate was full.
    pub dropped_by_rate: u64,
    /// Frames dropped because the receiver's queue was full, or nobody was connected.
    pub dropped_undeliverable: u64,
    /// Frames that a rule sent twice.
    pub duplicated: u64,
    /// Frames that a rule held back for others to overtake.
    pub reordered: u64,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    Passed,
    PassedBytes,
    DroppedByRule,
    DroppedByRate,
    DroppedUndeliverable,
    Duplicated,
    Reordered,
}

/// The counters of every directed link between `ports` ports.
#[derive(Debug)]
pub(super) struct Counters {
    ports: usize,
    cells: Vec<[AtomicU64; 7]>,
}

impl Counters {
    pub(super) fn new(ports: usize) -> Self {
        Self {
            ports,
            cells: (0..ports * ports).map(|_| Default::default()).collect(),
        }
    }

    pub(super) fn add(&self, link: Link, count: Count) {
        self.add_many(link, count, 1);
    }

    pub(super) fn add_many(&self, (from, to): Link, count: Count, many: u64) {
        self.cells[from * self.ports + to][count as usize].fetch_add(many, Ordering::Relaxed);
    }

    pub(super) fn read(&self, (from, to): Link) -> LinkCounters {
        let cell = &self.cells[from * self.ports + to];
        let read = |count: Count| cell[count as usize].load(Ordering::Relaxed);
        LinkCounters {
            passed: read(Count::Passed),
            passed_bytes: read(Count::PassedBytes),
            dropped_by_rule: read(Count::DroppedByRule),
            dropped_by_rate: read(Count::DroppedByRate),
            dropped_undeliverable: read(Count::DroppedUndeliverable),
            duplicated: read(Count::Duplicated),
            reordered: read(Count::Reordered),
        }
    }
}

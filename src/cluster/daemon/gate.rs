//! Whether the host's listeners let anybody in.
//!
//! A cluster that its user lets stand still answers nobody. Whoever comes is reset at once, as by a host that refuses; a connection that
//! was let in before stands still with the cluster and goes on with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Open until it is closed. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<AtomicBool>);

impl Gate {
    pub(super) fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn open(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

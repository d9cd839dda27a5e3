//! What the host and a machine say to each other about the machine's clock, on a virtio-serial port: one JSON object a line.
//! The same port carries what else a machine has to do before it is saved and after it was restored.
//!
//! The host asks, the machine answers with its wall clock as it was when the answer was written; the host knows when it asked and
//! when it was answered, so that half of the round trip bounds the error. No network is involved, so no fault reaches it.

use serde::{Deserialize, Serialize};

/// Name of the virtio-serial port.
pub const PORT: &str = "org.flightcage.clock";
/// Longest line either side takes.
pub const MAX_LINE_BYTES: u64 = 256;

/// From the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen by the host; an answer of an earlier question is told by it.
    pub id: u64,
    /// Steps the wall clock by so many nanoseconds before it is read.
    pub step_ns: i64,
    /// Writes what the kernel still holds for the disks, before the clock is read.
    #[serde(default)]
    pub sync: bool,
    /// Randomness from the host, in hexadecimal: whoever is restored from the same memory twice has the same random numbers before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<String>,
}

/// From the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The question's.
    pub id: u64,
    /// The wall clock: nanoseconds since 1970.
    pub wall_ns: i64,
    /// Why what was asked for could not be done, if it could not.
    pub error: Option<String>,
}

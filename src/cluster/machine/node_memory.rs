//! A machine whose memory is taken by a process that holds it.
//!
//! That is a transient unit that ends by itself. What needs memory besides may be killed for it; the unit is not.

use std::time::Duration;

use procfs::{Current as _, Meminfo};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::order::{Order, Seen};
use super::systemd::{fault_unit, is_active, start_service, stop_service};
use super::{MachineError, doing, failed};

/// What the unit is named after.
const WHAT: &str = "node-memory";
/// Of what was asked, this share in thousandths at least must be seen to be taken.
const SEEN_PERMILLE: u64 = 800;
/// What is left of the memory, so that the machine can still be spoken to.
const RESERVE_BYTES: u64 = 48 << 20;
/// How often it is looked whether the memory is taken, and the pause between.
const LOOKS: u32 = 200;
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Beside everything else; who needs memory besides is killed for it, not who took it.
const PROPERTIES: [&str; 2] = ["--property=Slice=-.slice", "--property=OOMScoreAdjust=-900"];

/// How much memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// So many thousandths of all that the machine has.
    Permille(u64),
}

/// Takes memory for so long, and returns when it is taken.
pub(super) async fn take(amount: Amount, for_s: u64, name: &str) -> Result<Seen, MachineError> {
    let unit = fault_unit(WHAT, name)?;
    let before = Memory::now()?;
    let bytes = match amount {
        Amount::Bytes(bytes) => bytes,
        Amount::Permille(permille) => before.total / 1000 * permille,
    };
    if is_active(&unit) {
        let measured = format!(
            "it is taken already; {} MiB are available",
            before.available >> 20
        );
        return Ok(Seen::new(true, measured, Instant::now()));
    }
    before.admit(bytes)?;
    start_service(&unit, for_s, &PROPERTIES, &Order::HoldMemory { bytes })?;
    let wanted = bytes / 1000 * SEEN_PERMILLE;
    let mut now = before;
    for _ in 0..LOOKS {
        now = Memory::now()?;
        if now.fell_since(before) >= wanted {
            break;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    let fell = now.fell_since(before);
    let measured = format!(
        "the available memory fell by {} MiB to {} MiB, {} MiB asked",
        fell >> 20,
        now.available >> 20,
        bytes >> 20
    );
    let seen = fell >= wanted && is_active(&unit);
    Ok(Seen::new(seen, measured, Instant::now()))
}

/// Holds so much memory. It does not return.
pub(super) async fn hold(bytes: u64) -> Result<Seen, MachineError> {
    let bytes = usize::try_from(bytes).map_err(doing("hold memory"))?;
    // Written to, not only asked for: a page of zeros costs nothing.
    let held = std::hint::black_box(vec![0x5A_u8; bytes]);
    std::future::pending::<()>().await;
    Err(failed(format!("{} bytes were held", held.len())))
}

/// Gives the memory back.
pub(super) fn give_back(name: &str) -> Result<Seen, MachineError> {
    let unit = fault_unit(WHAT, name)?;
    stop_service(&unit);
    let left = is_active(&unit);
    let held = if left { ", and it is still held" } else { "" };
    let measured = format!("{} MiB are available{held}", Memory::now()?.available >> 20);
    Ok(Seen::new(!left, measured, Instant::now()))
}

/// A machine's memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
}

impl Memory {
    fn now() -> Result<Self, MachineError> {
        let memory = Meminfo::current().map_err(doing("read /proc/meminfo"))?;
        let available = memory.mem_available;
        Ok(Self {
            total: memory.mem_total,
            available: available
                .ok_or_else(|| failed("/proc/meminfo does not tell what is available"))?,
        })
    }

    fn fell_since(self, before: Self) -> u64 {
        before.available.saturating_sub(self.available)
    }

    fn admit(self, bytes: u64) -> Result<(), MachineError> {
        let most = self.available.saturating_sub(RESERVE_BYTES);
        if bytes <= most {
            return Ok(());
        }
        Err(failed(format!(
            "{} MiB cannot be taken: {} MiB are available, and {} MiB have to be left",
            bytes >> 20,
            self.available >> 20,
            RESERVE_BYTES >> 20
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_not_promised_beyond_what_there_is() {
        let memory = Memory {
            total: 480 << 20,
            available: 256 << 20,
        };
        assert!(memory.admit(208 << 20).is_ok());
        let refused = memory.admit((208 << 20) + 1).unwrap_err().to_string();
        assert_eq!(
            refused,
            "208 MiB cannot be taken: 256 MiB are available, and 48 MiB have to be left"
        );
        let here = Memory::now().unwrap();
        assert!(here.available > 0 && here.total > here.available);
    }
}

//! What the agent knows of its contact with the server, kept for the agent that follows it.
//!
//! One that started without it would think that it was heard when it started, however long its node has been cut off or replaced. It is kept
//! in memory, since it says when by a clock that starts with the machine; and it is written with every answered ping, so it is one small
//! piece in one place.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use super::contact::Kept;
use crate::orchestrator::private_file::make_private_parents;

/// Three times in nanoseconds, the lowest byte first.
const BYTES: usize = 24;

/// The file, on a tmpfs.
pub(super) struct Keeper {
    file: File,
    failed: AtomicBool,
}

impl Keeper {
    /// Opens the file, and reads what the agent before kept, if there was one since the machine started.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<Kept>)> {
        make_private_parents(path)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut bytes = [0; BYTES];
        let kept = file
            .read_exact_at(&mut bytes, 0)
            .ok()
            .and_then(|()| decode(&bytes, Clock::now()));
        Ok((
            Self {
                file,
                failed: AtomicBool::new(false),
            },
            kept,
        ))
    }

    /// Keeps this in place of what was kept before.
    pub(super) fn keep(&self, kept: &Kept) {
        let written = self.file.write_all_at(&encode(kept, Clock::now()), 0);
        let failed = written.is_err();
        // It happens several times a second.
        if let (Err(error), false) = (written, self.failed.swap(failed, Ordering::Relaxed)) {
            tracing::warn!(%error, "keep for the next agent when the server heard this one");
        }
    }
}

/// One moment by both clocks: tokio's, which tells nobody its number, and the one of the machine that it is.
#[derive(Debug, Clone, Copy)]
struct Clock {
    instant: Instant,
    since_boot: Duration,
}

impl Clock {
    fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let (seconds, nanoseconds) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
        let since_boot = Duration::new(seconds.unwrap_or(0), nanoseconds.unwrap_or(0));
        Self {
            instant: Instant::now(),
            since_boot,
        }
    }
}

fn encode(kept: &Kept, clock: Clock) -> [u8; BYTES] {
    let since_boot = |at: Instant| {
        let ahead = at.saturating_duration_since(clock.instant);
        (clock.since_boot + ahead).saturating_sub(clock.instant.saturating_duration_since(at))
    };
    let mut bytes = [0; BYTES];
    for (piece, time) in
        bytes
            .chunks_exact_mut(8)
            .zip([since_boot(kept.heard), kept.late, since_boot(kept.sure)])
    {
        piece.copy_from_slice(
            &u64::try_from(time.as_nanos())
                .unwrap_or(u64::MAX)
                .to_le_bytes(),
        );
    }
    bytes
}

/// `None` when it is none of ours: nobody was heard in the future.
fn decode(bytes: &[u8; BYTES], clock: Clock) -> Option<Kept> {
    let mut times = bytes.chunks_exact(8).map(|piece| {
        piece
            .try_into()
            .map(|piece| Duration::from_nanos(u64::from_le_bytes(piece)))
    });
    let mut next = || times.next()?.ok();
    let (heard, late, sure) = (next()?, next()?, next()?);
    let ago = clock.since_boot.checked_sub(heard)?;
    let heard_at = clock.instant.checked_sub(ago)?;
    let apart = sure.abs_diff(heard);
    let sure_at = if sure > heard {
        heard_at.checked_add(apart)?
    } else {
        heard_at.checked_sub(apart)?
    };
    Some(Kept {
        heard: heard_at,
        late,
        sure: sure_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn the_next_agent_reads_what_was_kept_last() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("flightcage/contact");
        let (keeper, nothing) = Keeper::open(&path).expect("it is ours");
        assert_eq!(nothing, None);
        let now = Instant::now();
        let [first, last] = [now - MS(9), now].map(|heard| Kept {
            heard,
            late: MS(7),
            sure: heard + MS(1250),
        });
        keeper.keep(&first);
        keeper.keep(&last);
        let (_, read) = Keeper::open(&path).expect("it is ours");
        let read = read.expect("something was kept");
        // The two clocks are not read at the same moment.
        let near = |one: Instant, other: Instant| one.max(other) - one.min(other) < MS(1000);
        assert!(
            near(read.heard, last.heard) && near(read.sure, last.sure) && read.late == MS(7),
            "{read:?}"
        );
        assert_eq!(read.sure - read.heard, MS(1250));
    }

    #[test]
    fn what_is_kept_is_of_this_machine() {
        let clock = Clock {
            instant: Instant::now(),
            since_boot: MS(5000),
        };
        for (heard, sure) in [(MS(100), MS(1250)), (MS(4000), MS(1250))] {
            let kept = Kept {
                heard: clock.instant - heard,
                late: MS(3),
                sure: clock.instant - heard + sure,
            };
            assert_eq!(decode(&encode(&kept, clock), clock), Some(kept));
            let replaced = Kept {
                sure: kept.heard - MS(500),
                ..kept
            };
            assert_eq!(decode(&encode(&replaced, clock), clock), Some(replaced));
            // Another start of the machine: it has not lived for so long.
            assert_eq!(
                decode(
                    &encode(&kept, clock),
                    Clock {
                        since_boot: MS(900),
                        ..clock
                    }
                ),
                None
            );
        }
    }
}

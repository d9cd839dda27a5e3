//! Faults that act inside a machine, over SSH: its clock, its file system, and whatever our binary there is ordered to do. Each is
//! idempotent, and what heals it needs no memory.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::client::{DaemonClient, DaemonClientError};
use super::machine::{Order, Seen};
use crate::model::names::NodeName;
use crate::shell::ssh::{Ssh, SshError};

/// How long a machine may take to accept a session.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A clock is right when it is this near; an emulated machine takes tens of milliseconds to run a program.
const CLOCK_TOLERANCE_MS: f64 = 60.0;
/// How often a clock is read for one measurement, and corrected before it is given up.
const CLOCK_READS: u32 = 3;
const CLOCK_TRIES: u32 = 5;
/// Our binary on a machine: the newest, as its user finds it.
const BINARY: &str = "$(ls -t /var/lib/flightcage/bin/flightcage-* | head -n 1)";
/// The file that fills a disk: on the machine's own file system, whatever its root is.
const FILLER: &str = "/var/lib/flightcage/.disk-full";
/// A file system with less than this to give is full.
const FULL_BYTES: u64 = 256 << 10;

/// Why a fault inside a machine could not be begun or healed.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The daemon did not tell where the machine is.
    #[error(transparent)]
    Daemon(#[from] DaemonClientError),
    /// SSH failed.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// A command said something else than it should have.
    #[error("`{command}` on node `{node}` failed: {said}")]
    Command {
        /// Where.
        node: NodeName,
        /// What.
        command: String,
        /// The end of what it said.
        said: String,
    },
}

/// A session as the machine's administrator.
#[derive(Debug, Clone)]
pub struct Guest {
    node: NodeName,
    ssh: Ssh,
}

/// How far a machine's clock is from the host's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClockOffset {
    /// Positive: it is ahead.
    pub offset_ms: f64,
    /// The measurement's own error at most, to either side.
    pub error_ms: f64,
}

impl Guest {
    /// Opens a session.
    ///
    /// # Errors
    /// When the machine is off or does not answer.
    pub async fn connect(daemon: &DaemonClient, node: &NodeName) -> Result<Self, GuestError> {
        let target = daemon.login(node).await?;
        Ok(Self {
            node: node.clone(),
            ssh: Ssh::connect(&target, CONNECT_LIMIT).await?,
        })
    }

    async fn run(&self, command: &str) -> Result<String, GuestError> {
        self.run_with(command, None).await
    }

    async fn run_with(&self, command: &str, stdin: Option<Vec<u8>>) -> Result<String, GuestError> {
        let output = self.ssh.run(command, stdin).await?;
        let failed = |said: &[u8]| GuestError::Command {
            node: self.node.clone(),
            command: command.to_owned(),
            said: crate::shell::tail(said),
        };
        if output.status != 0 {
            return Err(failed(&output.stderr));
        }
        String::from_utf8(output.stdout).map_err(|error| failed(error.as_bytes()))
    }

    async fn number(&self, command: &str) -> Result<u64, GuestError> {
        let said = self.run(command).await?;
        let wrong = |_| GuestError::Command {
            node: self.node.clone(),
            command: command.to_owned(),
            said: said.clone(),
        };
        said.trim().parse().map_err(wrong)
    }

    /// Lets our binary on the machine carry out an order.
    ///
    /// # Errors
    /// When the machine does not answer, or says why it could not.
    pub async fn order(&self, order: &Order) -> Result<Seen, GuestError> {
        let command = format!("sudo -n {BINARY} machine fault");
        let stdin = Some(order.to_text().into_bytes());
        let said = self.run_with(&command, stdin).await?;
        serde_json::from_str(&said).map_err(|_| GuestError::Command {
            node: self.node.clone(),
            command,
            said: crate::shell::tail(said.as_bytes()),
        })
    }

    /// Measures the clock.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub async fn clock(&self) -> Result<ClockOffset, GuestError> {
        let mut best: Option<ClockOffset> = None;
        for _ in 0..CLOCK_READS {
            let (asked, at) = (SystemTime::now(), Instant::now());
            let guest_nanos = self.number("date +%s%N").await?;
            let error_ms = at.elapsed().as_secs_f64() * 1000.0 / 2.0;
            let host_ms = asked
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64()
                * 1000.0
                + error_ms;
            #[expect(
                clippy::cast_precision_loss,
                reason = "tenths of a microsecond are lost"
            )]
            let offset_ms = guest_nanos as f64 / 1e6 - host_ms;
            if best.is_none_or(|best| error_ms < best.error_ms) {
                best = Some(ClockOffset {
                    offset_ms,
                    error_ms,
                });
            }
        }
        Ok(best.expect("it was read"))
    }

    /// Sets the clock `by_ms` ahead of the host's (behind it if negative, right if 0) and returns how far it then is.
    ///
    /// # Errors
    /// When the machine does not answer, or does not let its clock be set.
    pub async fn set_clock(&self, by_ms: i64) -> Result<(ClockOffset, bool), GuestError> {
        #[expect(clippy::cast_precision_loss, reason = "at most a year of milliseconds")]
        let wanted_ms = by_ms as f64;
        let mut seen = self.clock().await?;
        for _ in 0..CLOCK_TRIES {
            let missing_ms = wanted_ms - seen.offset_ms;
            if missing_ms.abs() <= CLOCK_TOLERANCE_MS {
                return Ok((seen, true));
            }
            // Read and set by the machine itself, so that the way there does not count.
            #[expect(
                clippy::cast_possible_truncation,
                reason = "at most a year of nanoseconds"
            )]
            let step = (missing_ms * 1e6) as i64;
            let set = format!(
                "sudo sh -c 'n=$(($(date +%s%N) + {step})); date -u -s @$((n / 1000000000)).$(printf %09d $((n % 1000000000)))'"
            );
            self.run(&set).await?;
            seen = self.clock().await?;
        }
        Ok((
            seen,
            (wanted_ms - seen.offset_ms).abs() <= CLOCK_TOLERANCE_MS + seen.error_ms,
        ))
    }

    /// Fills the machine's file system and returns how many bytes are left, and whether a write then fails for lack of space.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub async fn fill_disk(&self) -> Result<(u64, bool), GuestError> {
        // One block for all that can be had at once, then the crumbs.
        let fill = format!(
            "sudo sh -c 'fallocate -l $(($(df -B1 --output=avail {directory} | tail -n 1))) {FILLER} 2>/dev/null; \
             dd if=/dev/zero of={FILLER} bs=64k oflag=append conv=notrunc 2>/dev/null; sync -f {FILLER}; true'",
            directory = parent(FILLER)
        );
        self.run(&fill).await?;
        let left = self.free().await?;
        let probe = format!(
            "sudo sh -c 'dd if=/dev/zero of={FILLER}.probe bs=1M count=1 2>&1; rm -f {FILLER}.probe'; true"
        );
        let refused = self.run(&probe).await?.contains("No space left");
        Ok((left, refused && left < FULL_BYTES))
    }

    /// Removes what [`Guest::fill_disk`] wrote and returns how many bytes are free.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub async fn empty_disk(&self) -> Result<(u64, bool), GuestError> {
        self.run(&format!("sudo rm -f {FILLER} {FILLER}.probe"))
            .await?;
        let free = self.free().await?;
        Ok((free, free >= FULL_BYTES))
    }

    async fn free(&self) -> Result<u64, GuestError> {
        self.number(&format!(
            "df -B1 --output=avail {} | tail -n 1",
            parent(FILLER)
        ))
        .await
    }

    /// Whether the machine's own file system can be written: the kernel makes it read-only when its journal fails.
    ///
    /// # Errors
    /// When the machine does not answer.
    pub async fn is_writable(&self) -> Result<bool, GuestError> {
        let probe = format!(
            "sudo sh -c 'touch {FILLER}.probe && sync -f {FILLER}.probe && rm {FILLER}.probe' 2>/dev/null; echo $?"
        );
        Ok(self.run(&probe).await?.trim() == "0")
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("/", |(parent, _)| parent)
}

//! Sets a machine's wall clock from the host's, over its clock port, and proves the result.
//!
//! A restored or paused machine goes on with the time at which it was stopped. Each answer of the machine is between our question
//! and our receiving it: the clock's error is known to within half the round trip, and is believed only when that bound is small.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::model::clock::{Answer, Ask, MAX_LINE_BYTES};

/// The largest error that a clock may be left with, its uncertainty included.
pub(super) const TOLERANCE: Duration = Duration::from_millis(10);
/// Longest that a clock may take to be right: an emulated machine that has just been restored translates its code anew, while it
/// works off what it missed.
const LIMIT: Duration = Duration::from_secs(30);
/// Pause after readings that were not good enough: a busy machine is not to be kept busy by questions.
const SETTLE_PAUSE: Duration = Duration::from_millis(100);
/// A machine that is busy answers late; a question is asked again after this.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Longest that a machine may take to write what it holds for its disks.
const SYNC_LIMIT: Duration = Duration::from_secs(30);
/// Questions asked in a row; the quickest answer counts.
const QUESTIONS: usize = 6;
/// An answer that came so soon needs no better one.
const QUICK: Duration = Duration::from_millis(3);

/// What a correction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Correction {
    /// The clock's error before; positive when it was ahead.
    pub(super) before_ns: i64,
    /// Bound of its error now: what was measured and the uncertainty of that.
    pub(super) bound: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ClockError {
    #[error("its clock port failed: {0}")]
    Port(#[from] std::io::Error),
    #[error("its agent does not answer on the clock port; is it running?")]
    Silent,
    #[error("its agent cannot: {0}")]
    Refused(String),
    #[error(
        "its clock could not be brought within {TOLERANCE:?} in {LIMIT:?}; last seen {last_ns} ns off"
    )]
    Restless { last_ns: i64 },
}

/// The host's end of a machine's clock port. QEMU connects to it when it starts; the machine sees the port open for as long as
/// this lives.
#[derive(Debug)]
pub(super) struct ClockPort {
    path: PathBuf,
    listener: UnixListener,
    connection: Option<BufReader<UnixStream>>,
    next_id: u64,
}

impl Drop for ClockPort {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// One answer: how far the clock is ahead of ours, and half the round trip.
#[derive(Debug, Clone, Copy)]
struct Reading {
    ahead_ns: i64,
    doubt: Duration,
}

impl ClockPort {
    /// Listens for the QEMU that is about to start.
    pub(super) fn bind(path: &Path) -> std::io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Ids differ from those that a saved machine may still answer.
        let next_id = u64::from(rand::random::<u32>());
        Ok(Self {
            path: path.to_owned(),
            listener: UnixListener::bind(path)?,
            connection: None,
            next_id,
        })
    }

    /// Sets the machine's clock and returns once it is proven right.
    pub(super) async fn correct(&mut self) -> Result<Correction, ClockError> {
        let deadline = Instant::now() + LIMIT;
        let first = self.read(deadline, 0).await?;
        let mut reading = first;
        loop {
            let bound = bound(reading);
            if bound <= TOLERANCE {
                return Ok(Correction {
                    before_ns: first.ahead_ns,
                    bound,
                });
            }
            if Instant::now() > deadline {
                return Err(ClockError::Restless {
                    last_ns: reading.ahead_ns,
                });
            }
            if reading.ahead_ns.unsigned_abs()
                > u64::try_from(reading.doubt.as_nanos()).unwrap_or(u64::MAX)
            {
                self.ask(deadline, -reading.ahead_ns).await?;
            } else {
                sleep(SETTLE_PAUSE).await;
            }
            reading = self.read(deadline, 0).await?;
        }
    }

    /// Makes the machine write to its disks what its kernel still holds for them.
    pub(super) async fn sync(&mut self) -> Result<(), ClockError> {
        let ask = Ask {
            sync: true,
            ..Ask::default()
        };
        self.exchange(Instant::now() + SYNC_LIMIT, ask, SYNC_LIMIT)
            .await?
            .map(drop)
            .ok_or(ClockError::Silent)
    }

    /// Gives the machine randomness of its own.
    pub(super) async fn seed(&mut self) -> Result<(), ClockError> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            let seed = rand::random::<[u8; 32]>()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            if self
                .exchange(
                    deadline,
                    Ask {
                        seed: Some(seed),
                        ..Ask::default()
                    },
                    ANSWER_LIMIT,
                )
                .await?
                .is_some()
            {
                return Ok(());
            }
        }
        Err(ClockError::Silent)
    }

    /// The best of a few readings.
    async fn read(&mut self, deadline: Instant, step_ns: i64) -> Result<Reading, ClockError> {
        let mut best = self.ask(deadline, step_ns).await?;
        for _ in 1..QUESTIONS {
            if best.doubt < QUICK {
                break;
            }
            let other = self.ask(deadline, 0).await?;
            if other.doubt < best.doubt {
                best = other;
            }
        }
        Ok(best)
    }

    async fn ask(&mut self, deadline: Instant, step_ns: i64) -> Result<Reading, ClockError> {
        while Instant::now() < deadline {
            match self
                .exchange(
                    deadline,
                    Ask {
                        step_ns,
                        ..Ask::default()
                    },
                    ANSWER_LIMIT,
                )
                .await?
            {
                Some(reading) => return Ok(reading),
                // A step may still happen later: it must not be asked for twice. The next reading tells.
                None if step_ns != 0 => {
                    return Ok(Reading {
                        ahead_ns: i64::MAX,
                        doubt: LIMIT,
                    });
                }
                None => {}
            }
        }
        Err(ClockError::Silent)
    }

    /// Asks once; `None`: there was no answer within `limit`. QEMU may take until `deadline` to connect.
    async fn exchange(
        &mut self,
        deadline: Instant,
        ask: Ask,
        limit: Duration,
    ) -> Result<Option<Reading>, ClockError> {
        if self.connection.is_none() {
            let accepted = timeout_at(deadline, self.listener.accept())
                .await
                .map_err(|_| ClockError::Silent)??;
            self.connection = Some(BufReader::new(accepted.0));
        }
        let connection = self.connection.as_mut().expect("it was made above");
        self.next_id += 1;
        let ask = Ask {
            id: self.next_id,
            ..ask
        };
        let text = format!(
            "{}\n",
            serde_json::to_string(&ask).expect("numbers are JSON")
        );
        let asked_ns = wall_ns();
        let asked = Instant::now();
        connection.write_all(text.as_bytes()).await?;
        let Ok(answer) = timeout(limit, answer_to(connection, ask.id)).await else {
            return Ok(None);
        };
        let doubt = asked.elapsed() / 2;
        let answer = answer?;
        if let Some(error) = answer.error {
            return Err(ClockError::Refused(error));
        }
        let middle_ns = asked_ns + i64::try_from(doubt.as_nanos()).unwrap_or(i64::MAX);
        Ok(Some(Reading {
            ahead_ns: answer.wall_ns - middle_ns,
            doubt,
        }))
    }
}

async fn answer_to(connection: &mut BufReader<UnixStream>, id: u64) -> std::io::Result<Answer> {
    loop {
        let mut line = String::new();
        if (&mut *connection)
            .take(MAX_LINE_BYTES)
            .read_line(&mut line)
            .await?
            == 0
        {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        // Half a line that was under way when the machine was saved is no answer.
        match serde_json::from_str::<Answer>(&line) {
            Ok(answer) if answer.id == id => return Ok(answer),
            _ => {}
        }
    }
}

fn bound(reading: Reading) -> Duration {
    Duration::from_nanos(reading.ahead_ns.unsigned_abs()).saturating_add(reading.doubt)
}

fn wall_ns() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose clock is `ahead_ns` ahead, and which first sends the rest of an old answer.
    async fn machine(path: PathBuf, mut ahead_ns: i64) {
        let stream = UnixStream::connect(path).await.expect("it listens");
        let mut stream = BufReader::new(stream);
        stream
            .write_all(b"7,\"error\":null}\n{\"id\":1,\"wall_ns\":5,\"error\":null}\n")
            .await
            .expect("it is read");
        let mut line = String::new();
        while stream
            .read_line(&mut line)
            .await
            .is_ok_and(|count| count > 0)
        {
            let ask: Ask = serde_json::from_str(&line).expect("it is a question");
            ahead_ns += ask.step_ns;
            assert!(
                ask.seed.is_none_or(|seed| seed.len() == 64)
                    && line.len() <= usize::try_from(MAX_LINE_BYTES).expect("it fits")
            );
            let answer = Answer {
                id: ask.id,
                wall_ns: wall_ns() + ahead_ns,
                error: None,
            };
            let text = format!("{}\n", serde_json::to_string(&answer).expect("it is JSON"));
            stream.write_all(text.as_bytes()).await.expect("it is read");
            line.clear();
        }
    }

    #[tokio::test]
    async fn a_clock_is_set_and_proven() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let path = directory.path().join("clock");
        let mut port = ClockPort::bind(&path).expect("it can be bound");
        let machine = tokio::spawn(machine(path.clone(), -3_600_000_000_000));
        let correction = port.correct().await.expect("it is set");
        assert!(correction.bound <= TOLERANCE, "{correction:?}");
        assert!(
            (correction.before_ns + 3_600_000_000_000).abs() < 1_000_000_000,
            "{correction:?}"
        );
        port.sync().await.expect("it answers");
        port.seed().await.expect("it answers");
        let again = port.correct().await.expect("it is right");
        assert!(again.before_ns.abs() < 1_000_000_000, "{again:?}");
        drop(port);
        assert!(!path.exists());
        machine.abort();
    }
}

//! One command on a session: moves its input, output and errors until it ends.

use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, ErrorCode};
use tokio::time::Instant;

use super::session::Live;
use crate::shell::Output;

/// The longest wait before the loop looks at its time limit and whether anyone still wants the result.
const SLICE: Duration = Duration::from_millis(200);
/// Output kept of each stream of a command.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Bytes handed to libssh2 at once: what fits in one SSH packet.
const CHUNK_BYTES: usize = 32_000;
/// Bytes taken from libssh2 at once.
const READ_BYTES: usize = 16 << 10;
/// libssh2's `LIBSSH2_ERROR_EAGAIN`.
const EAGAIN: ErrorCode = ErrorCode::Session(-37);

/// Why an exchange ended without an exit status.
pub(super) enum Stop {
    Late,
    Unwanted,
    Broken(ssh2::Error),
}

/// One command's life on a session.
pub(super) struct Exchange<'a> {
    pub(super) live: &'a Live,
    /// How long it may go on after its last input was taken.
    pub(super) limit: Duration,
    pub(super) deadline: Instant,
    pub(super) unwanted: &'a AtomicBool,
    pub(super) begun: bool,
    pub(super) output: Output,
}

impl Exchange<'_> {
    pub(super) fn run(&mut self, command: &str, stdin: &[u8]) -> Result<i32, Stop> {
        let session = &self.live.session;
        let mut channel = self.repeat(|| session.channel_session())?;
        self.begun = true;
        self.repeat(|| channel.exec(command))?;
        let mut unsent = stdin;
        let mut closed = false;
        loop {
            let mut moved = false;
            if !unsent.is_empty() {
                match channel.write(&unsent[..unsent.len().min(CHUNK_BYTES)]) {
                    Ok(count) => {
                        unsent = &unsent[count..];
                        if count > 0 {
                            // Input that moves is no reason to give up, however slowly.
                            self.deadline = self.deadline.max(Instant::now() + self.limit);
                            moved = true;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => (),
                    // It ended without reading everything: its exit status tells whether that was wrong.
                    Err(_) if channel.eof() => unsent = &[],
                    Err(_) => return Err(self.last_error()),
                }
            } else if !closed {
                closed = done(channel.send_eof())?;
                moved |= closed;
            }
            moved |= self.read(&mut channel, Source::Stdout)?;
            moved |= self.read(&mut channel, Source::Stderr)?;
            if !moved && channel.eof() {
                break;
            }
            if !moved {
                self.wait()?;
            }
        }
        self.repeat(|| channel.close())?;
        self.repeat(|| channel.wait_close())?;
        Ok(exit_code(&channel))
    }

    fn read(&mut self, channel: &mut Channel, source: Source) -> Result<bool, Stop> {
        let mut buffer = [0; READ_BYTES];
        let (result, kept) = match source {
            Source::Stdout => (channel.read(&mut buffer), &mut self.output.stdout),
            Source::Stderr => (channel.stderr().read(&mut buffer), &mut self.output.stderr),
        };
        match result {
            Ok(count) => {
                kept.extend_from_slice(&buffer[..count.min(MAX_OUTPUT_BYTES - kept.len())]);
                Ok(count > 0)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(self.last_error()),
        }
    }

    /// Repeats a call until libssh2 has got through with it.
    fn repeat<T>(&self, mut call: impl FnMut() -> Result<T, ssh2::Error>) -> Result<T, Stop> {
        loop {
            match call() {
                Err(error) if error.code() == EAGAIN => self.wait()?,
                result => return result.map_err(Stop::Broken),
            }
        }
    }

    /// Waits until the socket is ready for what libssh2 wants to do, a slice at most.
    fn wait(&self) -> Result<(), Stop> {
        if self.unwanted.load(Ordering::Relaxed) {
            return Err(Stop::Unwanted);
        }
        let left = self.deadline.duration_since(Instant::now());
        if left.is_zero() {
            return Err(Stop::Late);
        }
        let flags = match self.live.session.block_directions() {
            BlockDirections::Outbound => PollFlags::OUT,
            BlockDirections::Both => PollFlags::IN | PollFlags::OUT,
            BlockDirections::Inbound | BlockDirections::None => PollFlags::IN,
        };
        let timeout = Timespec::try_from(left.min(SLICE)).expect("a slice is short");
        // A signal may cut the wait short; the loop comes back.
        let _ = poll(&mut [PollFd::new(&self.live.socket, flags)], Some(&timeout));
        match self.live.session.keepalive_send() {
            Err(error) if error.code() != EAGAIN => Err(Stop::Broken(error)),
            _ => Ok(()),
        }
    }

    fn last_error(&self) -> Stop {
        Stop::Broken(
            ssh2::Error::last_session_error(&self.live.session)
                .unwrap_or_else(ssh2::Error::unknown),
        )
    }
}

#[derive(Clone, Copy)]
enum Source {
    Stdout,
    Stderr,
}

/// Whether a call is through; `false` when libssh2 wants it repeated.
fn done(result: Result<(), ssh2::Error>) -> Result<bool, Stop> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.code() == EAGAIN => Ok(false),
        Err(error) => Err(Stop::Broken(error)),
    }
}

/// The exit code as a shell reports it.
fn exit_code(channel: &Channel) -> i32 {
    let signal = channel
        .exit_signal()
        .ok()
        .and_then(|signal| signal.exit_signal);
    match signal.as_deref() {
        None => channel.exit_status().unwrap_or(-1),
        Some("INT") => 130,
        Some("ABRT") => 134,
        Some("KILL") => 137,
        Some("SEGV") => 139,
        Some("TERM") => 143,
        Some(_) => -1,
    }
}

//! Commands and files on a machine, over SSH.
//!
//! Invariants: the machine's host key is known beforehand and compared byte by byte, there is no trust on first use; the only
//! authentication is one ed25519 key; a session that failed is never used again, the next command opens a new one.
//!
//! libssh2 blocks, so each command runs on a blocking thread. After the handshake the session is non-blocking and one loop
//! (`exchange`) moves input, output and errors, so that no full window can stop the others and every wait has its limit.

mod exchange;
mod openssh;
mod session;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::exchange::{Exchange, Stop};
pub use self::openssh::{interactive_argv, session_argv};
use self::session::{Attempt, Live, open};
use super::{CommandError, Output, quote, tail};

/// Time limit of a command unless its caller gives another; a machine that shares its processors needs long for a short one.
pub const COMMAND_LIMIT: Duration = Duration::from_mins(2);
/// How long the peer may take to show its banner, at first. QEMU's user network accepts before the guest listens.
const FIRST_BANNER_WAIT: Duration = Duration::from_secs(2);
/// How long at most: under TCG, with all guests booting at once, sshd needs seconds to start its process for a connection.
const LAST_BANNER_WAIT: Duration = Duration::from_secs(15);
/// While it boots, a machine refuses the right key as well (pam_nologin): how long that is put up with.
const DENIED_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two attempts to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Seconds between keepalives of a command that says nothing.
const KEEPALIVE_SECONDS: u32 = 15;

/// Where to connect, and who is on either side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshTarget {
    /// The SSH server.
    pub address: SocketAddr,
    /// The remote user; with another than `root`, [`Ssh::upload`] uses `sudo -n`.
    pub user: String,
    /// Our private key, a file in OpenSSH's format.
    pub private_key: PathBuf,
    /// The server's public key, a line `ssh-ed25519 AAAA…`.
    pub host_key: String,
    /// A machine in between, when this host cannot connect to it directly.
    #[serde(default)]
    pub jump: Option<Box<SshTarget>>,
}

/// Why SSH gave no result.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The server did not let us in within the limit.
    #[error("connect to {address} by SSH: no session within {limit:?}; last seen: {last}")]
    Connect {
        /// The server.
        address: SocketAddr,
        /// The time limit.
        limit: Duration,
        /// What the last attempt saw.
        last: String,
    },
    /// The server is not the one it should be.
    #[error(
        "connect to {address} by SSH: its host key is {seen}, not {expected}; this is another machine"
    )]
    HostKey {
        /// The server.
        address: SocketAddr,
        /// The key that was recorded.
        expected: String,
        /// The key it has.
        seen: String,
    },
    /// Our private key, or the recorded host key, cannot be used.
    #[error("SSH key {0}")]
    Key(String),
    /// The session broke; the next command opens a new one.
    #[error("SSH session with {address}: {what}")]
    Broken {
        /// The server.
        address: SocketAddr,
        /// A lower-case fragment.
        what: String,
    },
    /// The command failed or took too long.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A connection to a machine; one command at a time.
#[derive(Clone)]
pub struct Ssh {
    target: Arc<SshTarget>,
    live: Arc<Mutex<Option<Live>>>,
}

impl std::fmt::Debug for Ssh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ssh")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Ssh {
    /// Connects; tries again, for at most `limit`, while the machine is not ready for it.
    ///
    /// # Errors
    /// At once when the host key is wrong or ours is unusable; otherwise [`SshError::Connect`] when the limit is over.
    pub async fn connect(target: &SshTarget, limit: Duration) -> Result<Self, SshError> {
        let ssh = Self {
            target: Arc::new(target.clone()),
            live: Arc::default(),
        };
        ssh.reconnect(limit).await?;
        Ok(ssh)
    }

    /// Connects if the machine is there now: one attempt. One that is off is told at once or after some seconds, by its kernel's refusal
    /// or silence; one that is only slow is waited for.
    ///
    /// # Errors
    /// When there is no session.
    pub async fn connect_once(target: &SshTarget) -> Result<Self, SshError> {
        let ssh = Self {
            target: Arc::new(target.clone()),
            live: Arc::default(),
        };
        let of = ssh.target.clone();
        let (last, limit) =
            match blocking(move || Ok(open(&of, FIRST_BANNER_WAIT, LAST_BANNER_WAIT))).await? {
                Ok(live) => {
                    *ssh.lock() = Some(live);
                    return Ok(ssh);
                }
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Silent) => (
                    "it accepts connections but shows no banner".to_owned(),
                    LAST_BANNER_WAIT,
                ),
                Err(Attempt::NotYet(what) | Attempt::Denied(what)) => (what, FIRST_BANNER_WAIT),
            };
        Err(SshError::Connect {
            address: target.address,
            limit,
            last,
        })
    }

    /// Where this connection leads.
    #[must_use]
    pub fn target(&self) -> &SshTarget {
        &self.target
    }

    /// Runs `command` in the remote user's shell with `stdin` as its input, for at most [`COMMAND_LIMIT`] after the last of its
    /// input was taken. Any exit status is an `Ok`; see [`Output::check`].
    ///
    /// # Errors
    /// When the session breaks, cannot be opened, or the command takes too long.
    pub async fn run(&self, command: &str, stdin: Option<Vec<u8>>) -> Result<Output, SshError> {
        self.run_within(command, stdin, COMMAND_LIMIT).await
    }

    /// Like [`Ssh::run`] with another time limit. Dropping the future hangs up, which does not end the remote command.
    ///
    /// # Errors
    /// When the session breaks, cannot be opened, or the command takes too long.
    pub async fn run_within(
        &self,
        command: &str,
        stdin: Option<Vec<u8>>,
        limit: Duration,
    ) -> Result<Output, SshError> {
        let deadline = Instant::now() + limit;
        let unwanted = Arc::new(AtomicBool::new(false));
        let _guard = SetOnDrop(Arc::clone(&unwanted));
        let stdin = Arc::new(stdin.unwrap_or_default());
        let mut fresh = false;
        loop {
            if self.lock().is_none() {
                self.reconnect(deadline.duration_since(Instant::now()))
                    .await?;
                fresh = true;
            }
            let (ssh, command, stdin, unwanted) = (
                self.clone(),
                command.to_owned(),
                Arc::clone(&stdin),
                Arc::clone(&unwanted),
            );
            match blocking(move || Ok(ssh.exchange(&command, &stdin, limit, deadline, &unwanted)))
                .await?
            {
                // The machine has restarted since the last command: this one was not sent yet.
                Err(Refusal { begun: false, .. }) if !fresh => (),
                Err(refusal) => return Err(refusal.error),
                Ok(output) => return Ok(output),
            }
        }
    }

    /// Writes a file on the machine, as root, with its directories: complete or not at all.
    ///
    /// # Errors
    /// When the session breaks or the machine cannot write it.
    pub async fn upload(
        &self,
        bytes: Vec<u8>,
        remote_path: &str,
        mode: u32,
    ) -> Result<(), SshError> {
        let command = upload_command(&self.target.user, bytes.len(), remote_path, mode);
        self.run(&command, Some(bytes)).await?.check(&command)?;
        Ok(())
    }

    async fn reconnect(&self, limit: Duration) -> Result<(), SshError> {
        let deadline = Instant::now() + limit;
        let mut banner_wait = FIRST_BANNER_WAIT;
        let mut denied_since = None;
        loop {
            let ssh = self.clone();
            let patience = banner_wait
                .min(deadline.duration_since(Instant::now()))
                .max(Duration::from_millis(1));
            let last = match blocking(move || Ok(open(&ssh.target, patience, patience))).await? {
                Ok(live) => {
                    *self.lock() = Some(live);
                    return Ok(());
                }
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Denied(what)) => {
                    let since = *denied_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > DENIED_LIMIT {
                        return Err(SshError::Connect {
                            address: self.target.address,
                            limit,
                            last: what,
                        });
                    }
                    what
                }
                Err(Attempt::Silent) => {
                    banner_wait = (banner_wait * 2).min(LAST_BANNER_WAIT);
                    format!("it accepts connections but showed no banner for {patience:?}")
                }
                Err(Attempt::NotYet(what)) => what,
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(SshError::Connect {
                    address: self.target.address,
                    limit,
                    last,
                });
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn exchange(
        &self,
        command: &str,
        stdin: &[u8],
        limit: Duration,
        deadline: Instant,
        unwanted: &AtomicBool,
    ) -> Result<Output, Refusal> {
        let broken = |what: String| SshError::Broken {
            address: self.target.address,
            what,
        };
        let mut slot = self.lock();
        // Taken out, and put back only after an orderly end: what failed is never used again.
        let Some(live) = slot.take() else {
            return Err(Refusal {
                begun: false,
                error: broken("another command has just broken it; try again".to_owned()),
            });
        };
        let output = Output {
            status: -1,
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        let mut exchange = Exchange {
            live: &live,
            limit,
            deadline,
            unwanted,
            begun: false,
            output,
        };
        let error = match exchange.run(command, stdin) {
            Ok(status) => {
                exchange.output.status = status;
                let output = exchange.output;
                *slot = Some(live);
                return Ok(output);
            }
            Err(Stop::Late) => {
                let said = if exchange.output.stderr.is_empty() {
                    &exchange.output.stdout
                } else {
                    &exchange.output.stderr
                };
                CommandError::TimedOut {
                    command: command.to_owned(),
                    limit,
                    tail: tail(said),
                }
                .into()
            }
            Err(Stop::Unwanted) => broken("nobody waits for the command any more".to_owned()),
            Err(Stop::Broken(error)) => broken(error.to_string()),
        };
        Err(Refusal {
            begun: exchange.begun || matches!(error, SshError::Command(_)),
            error,
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn upload_command(user: &str, length: usize, path: &str, mode: u32) -> String {
    let sudo = if user == "root" { "" } else { "sudo -n " };
    let part = format!("{path}.part");
    let (path, part) = (quote(path), quote(&part));
    // The length tells an upload that was cut off from a complete one.
    let script = format!(
        "set -e; umask 077; mkdir -p -m 755 \"$(dirname {path})\"; cat >{part}; \
         [ \"$(stat -c %s {part})\" = {length} ] || {{ rm -f {part}; echo 'the upload was cut off' >&2; exit 1; }}; \
         chmod {mode:o} {part}; mv -f {part} {path}"
    );
    format!("{sudo}sh -c {}", quote(&script))
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SshError> + Send + 'static,
) -> Result<T, SshError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A command that gave no output; before it has `begun`, the machine knows nothing of it.
struct Refusal {
    begun: bool,
    error: SshError,
}

//! Commands and files on a machine, over SSH.
//!
//! Invariants: the machine's host key is known beforehand and compared byte by byte, there is no trust on first use; the only
//! authentication is one ed25519 key; a session that failed is never used again, the next command opens a new one.
//!
//! libssh2 blocks, so each command runs on a blocking thread. After the handshake the session is non-blocking and one loop
//! ([`Exchange`]) moves input, output and errors, so that no full window can stop the others and every wait has its limit.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use serde::{Deserialize, Serialize};
use ssh2::{BlockDirections, Channel, ErrorCode, MethodType, Session};
use tokio::time::Instant;

use super::{CommandError, Output, keys, quote, tail};

/// Time limit of a command unless its caller gives another; a machine that shares its processors needs long for a short one.
pub const COMMAND_LIMIT: Duration = Duration::from_mins(2);
/// How long the peer may take to show its banner, at first. QEMU's user network accepts before the guest listens.
const FIRST_BANNER_WAIT: Duration = Duration::from_secs(2);
/// How long at most: under TCG, with all guests booting at once, sshd needs seconds to start its process for a connection.
const LAST_BANNER_WAIT: Duration = Duration::from_secs(15);
/// How long key exchange and authentication may take: seconds under TCG.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
/// While it boots, a machine refuses the right key as well (pam_nologin): how long that is put up with.
const DENIED_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two attempts to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// The longest wait before the loop looks at its time limit and whether anyone still wants the result.
const SLICE: Duration = Duration::from_millis(200);
/// Seconds between keepalives of a command that says nothing.
const KEEPALIVE_SECONDS: u32 = 15;
/// Output kept of each stream of a command.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Bytes handed to libssh2 at once: what fits in one SSH packet.
const CHUNK_BYTES: usize = 32_000;
/// Bytes taken from libssh2 at once.
const READ_BYTES: usize = 16 << 10;
/// libssh2's `LIBSSH2_ERROR_EAGAIN`.
const EAGAIN: ErrorCode = ErrorCode::Session(-37);
/// libssh2's `LIBSSH2_ERROR_AUTHENTICATION_FAILED` and `LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED`.
const DENIED: [ErrorCode; 2] = [ErrorCode::Session(-18), ErrorCode::Session(-19)];
/// The port that an SSH server has unless somebody chose another.
const DEFAULT_PORT: u16 = 22;
/// ChaCha20 first: without hardware AES, as under TCG, it is the quicker one.
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes256-ctr";

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
    #[error("connect to {address} by SSH: its host key is {seen}, not {expected}; this is another machine")]
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
        f.debug_struct("Ssh").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Ssh {
    /// Connects; tries again, for at most `limit`, while the machine is not ready for it.
    ///
    /// # Errors
    /// At once when the host key is wrong or ours is unusable; otherwise [`SshError::Connect`] when the limit is over.
    pub async fn connect(target: &SshTarget, limit: Duration) -> Result<Self, SshError> {
        let ssh = Self { target: Arc::new(target.clone()), live: Arc::default() };
        ssh.reconnect(limit).await?;
        Ok(ssh)
    }

    /// Connects if the machine is there now: one attempt. One that is off is told at once or after some seconds, by its kernel's refusal
    /// or silence; one that is only slow is waited for.
    ///
    /// # Errors
    /// When there is no session.
    pub async fn connect_once(target: &SshTarget) -> Result<Self, SshError> {
        let ssh = Self { target: Arc::new(target.clone()), live: Arc::default() };
        let of = ssh.target.clone();
        let (last, limit) = match blocking(move || Ok(open(&of, FIRST_BANNER_WAIT, LAST_BANNER_WAIT))).await? {
            Ok(live) => {
                *ssh.lock() = Some(live);
                return Ok(ssh);
            }
            Err(Attempt::Final(error)) => return Err(error),
            Err(Attempt::Silent) => ("it accepts connections but shows no banner".to_owned(), LAST_BANNER_WAIT),
            Err(Attempt::NotYet(what) | Attempt::Denied(what)) => (what, FIRST_BANNER_WAIT),
        };
        Err(SshError::Connect { address: target.address, limit, last })
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
    pub async fn run_within(&self, command: &str, stdin: Option<Vec<u8>>, limit: Duration) -> Result<Output, SshError> {
        let deadline = Instant::now() + limit;
        let unwanted = Arc::new(AtomicBool::new(false));
        let _guard = SetOnDrop(Arc::clone(&unwanted));
        let stdin = Arc::new(stdin.unwrap_or_default());
        let mut fresh = false;
        loop {
            if self.lock().is_none() {
                self.reconnect(deadline.duration_since(Instant::now())).await?;
                fresh = true;
            }
            let (ssh, command, stdin, unwanted) = (self.clone(), command.to_owned(), Arc::clone(&stdin), Arc::clone(&unwanted));
            match blocking(move || Ok(ssh.exchange(&command, &stdin, limit, deadline, &unwanted))).await? {
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
    pub async fn upload(&self, bytes: Vec<u8>, remote_path: &str, mode: u32) -> Result<(), SshError> {
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
            let patience = banner_wait.min(deadline.duration_since(Instant::now())).max(Duration::from_millis(1));
            let last = match blocking(move || Ok(open(&ssh.target, patience, patience))).await? {
                Ok(live) => {
                    *self.lock() = Some(live);
                    return Ok(());
                }
                Err(Attempt::Final(error)) => return Err(error),
                Err(Attempt::Denied(what)) => {
                    let since = *denied_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > DENIED_LIMIT {
                        return Err(SshError::Connect { address: self.target.address, limit, last: what });
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
                return Err(SshError::Connect { address: self.target.address, limit, last });
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
        let broken = |what: String| SshError::Broken { address: self.target.address, what };
        let mut slot = self.lock();
        // Taken out, and put back only after an orderly end: what failed is never used again.
        let Some(live) = slot.take() else {
            return Err(Refusal { begun: false, error: broken("another command has just broken it; try again".to_owned()) });
        };
        let output = Output { status: -1, stdout: Vec::new(), stderr: Vec::new() };
        let mut exchange = Exchange { live: &live, limit, deadline, unwanted, begun: false, output };
        let error = match exchange.run(command, stdin) {
            Ok(status) => {
                exchange.output.status = status;
                let output = exchange.output;
                *slot = Some(live);
                return Ok(output);
            }
            Err(Stop::Late) => {
                let said = if exchange.output.stderr.is_empty() { &exchange.output.stdout } else { &exchange.output.stderr };
                CommandError::TimedOut { command: command.to_owned(), limit, tail: tail(said) }.into()
            }
            Err(Stop::Unwanted) => broken("nobody waits for the command any more".to_owned()),
            Err(Stop::Broken(error)) => broken(error.to_string()),
        };
        Err(Refusal { begun: exchange.begun || matches!(error, SshError::Command(_)), error })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The arguments with which the system's `ssh` connects to `target` as strictly as we do, `command` following or a terminal without.
/// Writes the known host key to `known_hosts` first.
///
/// # Errors
/// When `known_hosts` cannot be written.
pub fn interactive_argv(target: &SshTarget, known_hosts: &Path, command: &[String]) -> io::Result<Vec<String>> {
    write_known_hosts(target, known_hosts)?;
    let mut argv = login_argv(target, known_hosts);
    argv.push(format!("{}@{}", target.user, target.address.ip()));
    if !command.is_empty() {
        argv.push("--".to_owned());
        argv.extend_from_slice(command);
    }
    Ok(argv)
}

/// The arguments with which the system's `ssh` runs `command` on `target` for a program: no terminal, no question, and an end soon
/// after the machine's. Writes the known host keys to `known_hosts` first.
///
/// # Errors
/// When `known_hosts` cannot be written.
pub fn session_argv(target: &SshTarget, known_hosts: &Path, command: &str) -> io::Result<Vec<String>> {
    write_known_hosts(target, known_hosts)?;
    let mut argv = login_argv(target, known_hosts);
    for option in ["BatchMode=yes", "ServerAliveCountMax=2", "ConnectTimeout=15"] {
        argv.extend(["-o".to_owned(), option.to_owned()]);
    }
    argv.extend(["-T".to_owned(), format!("{}@{}", target.user, target.address.ip()), "--".to_owned(), command.to_owned()]);
    Ok(argv)
}

/// The host keys of a target and of the machine before it.
fn write_known_hosts(target: &SshTarget, known_hosts: &Path) -> io::Result<()> {
    let lines: String = std::iter::once(target).chain(target.jump.as_deref()).map(known_host).collect();
    std::fs::write(known_hosts, lines)
}

/// A server's line of a known hosts file. As OpenSSH looks it up (`put_host_port` of its misc.c): with brackets and port only where that
/// is not 22.
fn known_host(target: &SshTarget) -> String {
    let key = target.host_key.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    match target.address.port() {
        DEFAULT_PORT => format!("{} {key}\n", target.address.ip()),
        port => format!("[{}]:{port} {key}\n", target.address.ip()),
    }
}

/// Everything but the destination and the command.
fn login_argv(target: &SshTarget, known_hosts: &Path) -> Vec<String> {
    let mut argv: Vec<String> = ["ssh", "-F", "none", "-p"].map(str::to_owned).to_vec();
    argv.push(target.address.port().to_string());
    argv.extend(["-i".to_owned(), target.private_key.display().to_string()]);
    for option in [
        format!("UserKnownHostsFile=\"{}\"", known_hosts.display()),
        "GlobalKnownHostsFile=none".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        "UpdateHostKeys=no".to_owned(),
        "HostKeyAlgorithms=ssh-ed25519".to_owned(),
        "IdentitiesOnly=yes".to_owned(),
        "IdentityAgent=none".to_owned(),
        "PasswordAuthentication=no".to_owned(),
        format!("ServerAliveInterval={KEEPALIVE_SECONDS}"),
        "LogLevel=ERROR".to_owned(),
    ] {
        argv.extend(["-o".to_owned(), option]);
    }
    if let Some(jump) = &target.jump {
        let through = forward_argv(jump, known_hosts, target.address);
        let through = through.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
        argv.extend(["-o".to_owned(), format!("ProxyCommand={through}")]);
    }
    argv
}

/// The command that carries a connection to `to` through `jump` on its standard input and output.
fn forward_argv(jump: &SshTarget, known_hosts: &Path, to: SocketAddr) -> Vec<String> {
    let mut argv = login_argv(jump, known_hosts);
    argv.extend(["-o", "BatchMode=yes", "-W"].map(str::to_owned));
    argv.extend([to.to_string(), format!("{}@{}", jump.user, jump.address.ip())]);
    argv
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, SshError> + Send + 'static) -> Result<T, SshError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A session that has authenticated, and its socket to wait on.
struct Live {
    session: Session,
    socket: OwnedFd,
    _jump: Option<Jump>,
}

/// The system's `ssh`, which carries a session through the machine in between.
struct Jump {
    child: std::process::Child,
    _known_hosts: tempfile::NamedTempFile,
}

impl Jump {
    /// Starts it; the socket is its standard input and output.
    fn start(jump: &SshTarget, target: &SshTarget) -> io::Result<(Self, OwnedFd)> {
        let known_hosts = tempfile::NamedTempFile::new()?;
        write_known_hosts(target, known_hosts.path())?;
        let argv = forward_argv(jump, known_hosts.path(), target.address);
        let (program, arguments) = argv.split_first().expect("an argument vector begins with its program");
        let (near, far) = UnixStream::pair()?;
        let child = std::process::Command::new(program)
            .args(arguments)
            .stdin(OwnedFd::from(far.try_clone()?))
            .stdout(OwnedFd::from(far))
            .stderr(std::process::Stdio::null())
            .spawn()?;
        Ok((Self { child, _known_hosts: known_hosts }, near.into()))
    }
}

impl Drop for Jump {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why an attempt to connect gave no session.
enum Attempt {
    /// Nothing listens, or it hung up: try again.
    NotYet(String),
    /// Accepted, and then silence: try again and wait longer.
    Silent,
    /// The server refuses our key: try again for a while.
    Denied(String),
    /// Trying again would not help.
    Final(SshError),
}

fn open(target: &SshTarget, connect_wait: Duration, banner_wait: Duration) -> Result<Live, Attempt> {
    let not_yet = |what: &str, error: &dyn std::fmt::Display| Attempt::NotYet(format!("{what}: {error}"));
    let expected = keys::public_blob(&target.host_key)
        .ok_or_else(|| Attempt::Final(SshError::Key(format!("`{}` of the machine is no ed25519 public key", target.host_key))))?;
    let private_key = std::fs::read_to_string(&target.private_key).map_err(|error| {
        Attempt::Final(SshError::Key(format!("{} of ours cannot be read: {error}", target.private_key.display())))
    })?;

    let (jump, socket) = match &target.jump {
        Some(jump) => {
            let (jump, socket) = Jump::start(jump, target).map_err(|error| not_yet("start ssh for the jump host", &error))?;
            (Some(jump), socket)
        }
        None => {
            let socket = TcpStream::connect_timeout(&target.address, connect_wait).map_err(|error| not_yet("connect", &error))?;
            socket.set_nodelay(true).map_err(|error| not_yet("set TCP_NODELAY", &error))?;
            (None, OwnedFd::from(socket))
        }
    };
    // The jump host's own login comes first.
    await_banner(&socket, if jump.is_some() { LAST_BANNER_WAIT } else { banner_wait })?;

    let mut session = Session::new().map_err(|error| not_yet("make a session", &error))?;
    session.set_timeout(u32::try_from(HANDSHAKE_LIMIT.as_millis()).expect("30 s are few milliseconds"));
    session.set_tcp_stream(socket.try_clone().map_err(|error| not_yet("clone the socket", &error))?);
    session.method_pref(MethodType::HostKey, keys::ALGORITHM).map_err(|error| not_yet("ask for an ed25519 host key", &error))?;
    for direction in [MethodType::CryptCs, MethodType::CryptSc] {
        session.method_pref(direction, CIPHERS).map_err(|error| not_yet("set ciphers", &error))?;
    }
    session.handshake().map_err(|error| not_yet("handshake", &error))?;

    let seen = session.host_key().map(|(blob, _)| blob.to_vec()).unwrap_or_default();
    if seen != expected {
        let seen = format!("{} {}", keys::ALGORITHM, base64::engine::general_purpose::STANDARD.encode(seen));
        return Err(Attempt::Final(SshError::HostKey { address: target.address, expected: target.host_key.clone(), seen }));
    }
    session.userauth_pubkey_memory(&target.user, None, &private_key, None).map_err(|error| {
        let what = format!("log in as `{}` with key {}: {error}", target.user, target.private_key.display());
        if DENIED.contains(&error.code()) { Attempt::Denied(what) } else { Attempt::NotYet(what) }
    })?;
    session.set_keepalive(true, KEEPALIVE_SECONDS);
    session.set_blocking(false);
    Ok(Live { session, socket, _jump: jump })
}

/// Waits for the first byte of the server's banner and leaves it for libssh2.
fn await_banner(socket: &OwnedFd, limit: Duration) -> Result<(), Attempt> {
    let fail = |error: Errno| Attempt::NotYet(format!("read the banner: {error}"));
    let timeout = Timespec::try_from(limit).expect("a banner's limit is short");
    if poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)).map_err(fail)? == 0 {
        return Err(Attempt::Silent);
    }
    match recv(socket, &mut [0], RecvFlags::PEEK) {
        Ok((0, _)) => Err(Attempt::NotYet("it accepted the connection and closed it".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

/// Why an exchange ended without an exit status.
enum Stop {
    Late,
    Unwanted,
    Broken(ssh2::Error),
}

/// A command that gave no output; before it has `begun`, the machine knows nothing of it.
struct Refusal {
    begun: bool,
    error: SshError,
}

/// One command's life on a session.
struct Exchange<'a> {
    live: &'a Live,
    /// How long it may go on after its last input was taken.
    limit: Duration,
    deadline: Instant,
    unwanted: &'a AtomicBool,
    begun: bool,
    output: Output,
}

impl Exchange<'_> {
    fn run(&mut self, command: &str, stdin: &[u8]) -> Result<i32, Stop> {
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
        Stop::Broken(ssh2::Error::last_session_error(&self.live.session).unwrap_or_else(ssh2::Error::unknown))
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
    let signal = channel.exit_signal().ok().and_then(|signal| signal.exit_signal);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_are_known_under_the_name_that_openssh_looks_up() {
        let known = |address: &str| {
            known_host(&SshTarget {
                address: address.parse().unwrap(),
                user: "core".into(),
                private_key: PathBuf::new(),
                host_key: "ssh-ed25519 AAAA comment\n".into(),
                jump: None,
            })
        };
        assert_eq!(known("10.77.0.13:22"), "10.77.0.13 ssh-ed25519 AAAA\n");
        assert_eq!(known("127.0.0.1:2222"), "[127.0.0.1]:2222 ssh-ed25519 AAAA\n");
        assert_eq!(known("[::1]:2222"), "[::1]:2222 ssh-ed25519 AAAA\n");
    }
}

//! Opens a session: one attempt to connect, to compare the host key and to log in.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use base64::Engine;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use ssh2::{ErrorCode, MethodType, Session};

use super::openssh::Jump;
use super::{KEEPALIVE_SECONDS, LAST_BANNER_WAIT, SshError, SshTarget};
use crate::shell::keys;

/// How long key exchange and authentication may take: seconds under TCG.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
/// libssh2's `LIBSSH2_ERROR_AUTHENTICATION_FAILED` and `LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED`.
const DENIED: [ErrorCode; 2] = [ErrorCode::Session(-18), ErrorCode::Session(-19)];
/// ChaCha20 first: without hardware AES, as under TCG, it is the quicker one.
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes256-gcm@openssh.com,aes128-ctr,aes256-ctr";

/// A session that has authenticated, and its socket to wait on.
pub(super) struct Live {
    pub(super) session: Session,
    pub(super) socket: OwnedFd,
    _jump: Option<Jump>,
}

/// Why an attempt to connect gave no session.
pub(super) enum Attempt {
    /// Nothing listens, or it hung up: try again.
    NotYet(String),
    /// Accepted, and then silence: try again and wait longer.
    Silent,
    /// The server refuses our key: try again for a while.
    Denied(String),
    /// Trying again would not help.
    Final(SshError),
}

pub(super) fn open(
    target: &SshTarget,
    connect_wait: Duration,
    banner_wait: Duration,
) -> Result<Live, Attempt> {
    let not_yet =
        |what: &str, error: &dyn std::fmt::Display| Attempt::NotYet(format!("{what}: {error}"));
    let expected = keys::public_blob(&target.host_key).ok_or_else(|| {
        Attempt::Final(SshError::Key(format!(
            "`{}` of the machine is no ed25519 public key",
            target.host_key
        )))
    })?;
    let private_key = std::fs::read_to_string(&target.private_key).map_err(|error| {
        Attempt::Final(SshError::Key(format!(
            "{} of ours cannot be read: {error}",
            target.private_key.display()
        )))
    })?;

    let (jump, socket) = match &target.jump {
        Some(jump) => {
            let (jump, socket) = Jump::start(jump, target)
                .map_err(|error| not_yet("start ssh for the jump host", &error))?;
            (Some(jump), socket)
        }
        None => {
            let socket = TcpStream::connect_timeout(&target.address, connect_wait)
                .map_err(|error| not_yet("connect", &error))?;
            socket
                .set_nodelay(true)
                .map_err(|error| not_yet("set TCP_NODELAY", &error))?;
            (None, OwnedFd::from(socket))
        }
    };
    // The jump host's own login comes first.
    await_banner(
        &socket,
        if jump.is_some() {
            LAST_BANNER_WAIT
        } else {
            banner_wait
        },
    )?;

    let mut session = Session::new().map_err(|error| not_yet("make a session", &error))?;
    session.set_timeout(
        u32::try_from(HANDSHAKE_LIMIT.as_millis()).expect("30 s are few milliseconds"),
    );
    session.set_tcp_stream(
        socket
            .try_clone()
            .map_err(|error| not_yet("clone the socket", &error))?,
    );
    session
        .method_pref(MethodType::HostKey, keys::ALGORITHM)
        .map_err(|error| not_yet("ask for an ed25519 host key", &error))?;
    for direction in [MethodType::CryptCs, MethodType::CryptSc] {
        session
            .method_pref(direction, CIPHERS)
            .map_err(|error| not_yet("set ciphers", &error))?;
    }
    session
        .handshake()
        .map_err(|error| not_yet("handshake", &error))?;

    let seen = session
        .host_key()
        .map(|(blob, _)| blob.to_vec())
        .unwrap_or_default();
    if seen != expected {
        let seen = format!(
            "{} {}",
            keys::ALGORITHM,
            base64::engine::general_purpose::STANDARD.encode(seen)
        );
        return Err(Attempt::Final(SshError::HostKey {
            address: target.address,
            expected: target.host_key.clone(),
            seen,
        }));
    }
    session
        .userauth_pubkey_memory(&target.user, None, &private_key, None)
        .map_err(|error| {
            let what = format!(
                "log in as `{}` with key {}: {error}",
                target.user,
                target.private_key.display()
            );
            if DENIED.contains(&error.code()) {
                Attempt::Denied(what)
            } else {
                Attempt::NotYet(what)
            }
        })?;
    session.set_keepalive(true, KEEPALIVE_SECONDS);
    session.set_blocking(false);
    Ok(Live {
        session,
        socket,
        _jump: jump,
    })
}

/// Waits for the first byte of the server's banner and leaves it for libssh2.
fn await_banner(socket: &OwnedFd, limit: Duration) -> Result<(), Attempt> {
    let fail = |error: Errno| Attempt::NotYet(format!("read the banner: {error}"));
    let timeout = Timespec::try_from(limit).expect("a banner's limit is short");
    if poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&timeout)).map_err(fail)? == 0 {
        return Err(Attempt::Silent);
    }
    match recv(socket, &mut [0], RecvFlags::PEEK) {
        Ok((0, _)) => Err(Attempt::NotYet(
            "it accepted the connection and closed it".to_owned(),
        )),
        Ok(_) => Ok(()),
        Err(error) => Err(fail(error)),
    }
}

//! The system's `ssh`: for people, for programs, and for the way through a machine in between.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{KEEPALIVE_SECONDS, SshTarget};
use crate::shell::quote;

/// The port that an SSH server has unless somebody chose another.
const DEFAULT_PORT: u16 = 22;

/// The arguments with which the system's `ssh` connects to `target` as strictly as we do, `command` following or a terminal without.
/// Writes the known host key to `known_hosts` first.
///
/// # Errors
/// When `known_hosts` cannot be written.
pub fn interactive_argv(
    target: &SshTarget,
    known_hosts: &Path,
    command: &[String],
) -> io::Result<Vec<String>> {
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
pub fn session_argv(
    target: &SshTarget,
    known_hosts: &Path,
    command: &str,
) -> io::Result<Vec<String>> {
    write_known_hosts(target, known_hosts)?;
    let mut argv = login_argv(target, known_hosts);
    for option in [
        "BatchMode=yes",
        "ServerAliveCountMax=2",
        "ConnectTimeout=15",
    ] {
        argv.extend(["-o".to_owned(), option.to_owned()]);
    }
    argv.extend([
        "-T".to_owned(),
        format!("{}@{}", target.user, target.address.ip()),
        "--".to_owned(),
        command.to_owned(),
    ]);
    Ok(argv)
}

/// The host keys of a target and of the machine before it.
fn write_known_hosts(target: &SshTarget, known_hosts: &Path) -> io::Result<()> {
    let lines: String = std::iter::once(target)
        .chain(target.jump.as_deref())
        .map(known_host)
        .collect();
    // Another `ssh` of the same user may be reading the file.
    let folder = known_hosts.parent().unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(lines.as_bytes())?;
    file.persist(known_hosts)?;
    Ok(())
}

/// A server's line of a known hosts file. As OpenSSH looks it up (`put_host_port` of its misc.c): with brackets and port only where that
/// is not 22.
fn known_host(target: &SshTarget) -> String {
    let key = target
        .host_key
        .split_whitespace()
        .take(2)
        .collect::<Vec<_>>()
        .join(" ");
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
        let through = through
            .iter()
            .map(|word| quote(word))
            .collect::<Vec<_>>()
            .join(" ");
        argv.extend(["-o".to_owned(), format!("ProxyCommand={through}")]);
    }
    argv
}

/// The command that carries a connection to `to` through `jump` on its standard input and output.
fn forward_argv(jump: &SshTarget, known_hosts: &Path, to: SocketAddr) -> Vec<String> {
    let mut argv = login_argv(jump, known_hosts);
    argv.extend(["-o", "BatchMode=yes", "-W"].map(str::to_owned));
    argv.extend([
        to.to_string(),
        format!("{}@{}", jump.user, jump.address.ip()),
    ]);
    argv
}

/// The system's `ssh`, which carries a session through the machine in between.
pub(super) struct Jump {
    child: std::process::Child,
    _known_hosts: tempfile::NamedTempFile,
}

impl Jump {
    /// Starts it; the socket is its standard input and output.
    pub(super) fn start(jump: &SshTarget, target: &SshTarget) -> io::Result<(Self, OwnedFd)> {
        let known_hosts = tempfile::NamedTempFile::new()?;
        write_known_hosts(target, known_hosts.path())?;
        let argv = forward_argv(jump, known_hosts.path(), target.address);
        let (program, arguments) = argv
            .split_first()
            .expect("an argument vector begins with its program");
        let (near, far) = UnixStream::pair()?;
        let child = std::process::Command::new(program)
            .args(arguments)
            .stdin(OwnedFd::from(far.try_clone()?))
            .stdout(OwnedFd::from(far))
            .stderr(std::process::Stdio::null())
            .spawn()?;
        Ok((
            Self {
                child,
                _known_hosts: known_hosts,
            },
            near.into(),
        ))
    }
}

impl Drop for Jump {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

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
        assert_eq!(
            known("127.0.0.1:2222"),
            "[127.0.0.1]:2222 ssh-ed25519 AAAA\n"
        );
        assert_eq!(known("[::1]:2222"), "[::1]:2222 ssh-ed25519 AAAA\n");
    }
}

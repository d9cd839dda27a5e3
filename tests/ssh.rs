//! `shell::ssh` against a real OpenSSH server on loopback (Debian package `openssh-server`).

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flightcage::shell::CommandError;
use flightcage::shell::keys::{SshKeyPair, generate_ed25519};
use flightcage::shell::ssh::{Ssh, SshError, SshTarget, interactive_argv};

const LIMIT: Duration = Duration::from_secs(20);

/// An sshd of our own; it ends with the test.
struct Server {
    child: Child,
    directory: tempfile::TempDir,
    target: SshTarget,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the temporary directory is writable");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("it is ours");
}

fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("loopback has a free port")
}

fn start() -> Server {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let at = |name: &str| directory.path().join(name);
    let (host, user): (SshKeyPair, SshKeyPair) =
        (generate_ed25519("host"), generate_ed25519("user"));
    write(&at("host"), &host.private_openssh_pem);
    write(&at("user"), &user.private_openssh_pem);
    write(&at("authorized"), &user.public_openssh);
    let address = free_address();
    let shown = directory.path().display();
    write(
        &at("config"),
        &format!(
            "ListenAddress {address}\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/authorized\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        ),
    );
    std::fs::create_dir_all("/run/sshd")
        .expect("sshd's directory can be made: run this test as root");
    let child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(at("config"))
        .stderr(Stdio::null())
        .spawn()
        .expect("sshd starts: apt-get install openssh-server");
    let user = Command::new("id")
        .arg("-un")
        .output()
        .expect("id runs")
        .stdout;
    let target = SshTarget {
        address,
        user: String::from_utf8_lossy(&user).trim().to_owned(),
        private_key: at("user"),
        host_key: host.public_openssh,
        jump: None,
    };
    Server {
        child,
        directory,
        target,
    }
}

#[tokio::test]
async fn commands_input_output_and_status() {
    let server = start();
    let ssh = Ssh::connect(&server.target, LIMIT)
        .await
        .expect("it connects");
    let output = ssh
        .run("cat; echo bad >&2; exit 7", Some(b"secret".to_vec()))
        .await
        .expect("it runs");
    assert_eq!(
        (
            output.status,
            output.text().as_str(),
            output.stderr.as_slice()
        ),
        (7, "secret", b"bad\n".as_slice())
    );
    let output = ssh.run("kill -9 $$", None).await.expect("it runs");
    assert_eq!(output.status, 137);

    let big: Vec<u8> = (0_u32..2_000_000).flat_map(u32::to_le_bytes).collect();
    let output = ssh
        .run("tee /dev/stderr", Some(big.clone()))
        .await
        .expect("8 MB go in, and out twice");
    assert!(
        output.stdout == big && output.stderr == big,
        "{} and {} bytes came back",
        output.stdout.len(),
        output.stderr.len()
    );
}

#[tokio::test]
async fn uploads_are_complete_and_have_their_mode() {
    let server = start();
    let ssh = Ssh::connect(&server.target, LIMIT)
        .await
        .expect("it connects");
    let path = server.directory.path().join("a new/directory/it's");
    ssh.upload(b"content".to_vec(), path.to_str().expect("ASCII"), 0o640)
        .await
        .expect("it is written");
    assert_eq!(std::fs::read(&path).expect("it exists"), b"content");
    assert_eq!(
        std::fs::metadata(&path)
            .expect("it exists")
            .permissions()
            .mode()
            & 0o7777,
        0o640
    );
    let error = ssh
        .upload(b"x".to_vec(), "/proc/nowhere/file", 0o600)
        .await
        .expect_err("/proc has no new directories");
    assert!(
        matches!(error, SshError::Command(CommandError::Failed { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_late_command_ends_and_the_next_one_runs() {
    let server = start();
    let ssh = Ssh::connect(&server.target, LIMIT)
        .await
        .expect("it connects");
    let error = ssh
        .run_within("echo begun; exec sleep 60", None, Duration::from_secs(3))
        .await
        .expect_err("it takes too long");
    assert!(
        matches!(&error, SshError::Command(CommandError::TimedOut { tail, .. }) if tail == "begun"),
        "{error:?}"
    );
    assert_eq!(
        ssh.run("echo again", None)
            .await
            .expect("a new session is opened")
            .text(),
        "again"
    );
}

#[tokio::test]
async fn another_host_key_is_refused_at_once() {
    let server = start();
    Ssh::connect(&server.target, LIMIT)
        .await
        .expect("it connects with the right key");
    let mut target = server.target.clone();
    target.host_key = generate_ed25519("other").public_openssh;
    let error = Ssh::connect(&target, LIMIT)
        .await
        .expect_err("the key is another");
    assert!(matches!(error, SshError::HostKey { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_hangs_up_or_says_nothing_is_tried_until_the_limit() {
    let keys = generate_ed25519("user");
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    write(&directory.path().join("user"), &keys.private_openssh_pem);
    // The backlog accepts, nobody answers: what QEMU's user network looks like while the guest boots.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    let address = silent.local_addr().expect("it is bound");
    let target = SshTarget {
        address,
        user: "core".into(),
        private_key: directory.path().join("user"),
        host_key: keys.public_openssh,
        jump: None,
    };
    let error = Ssh::connect(&target, Duration::from_millis(600))
        .await
        .expect_err("it is silent");
    assert!(error.to_string().contains("showed no banner"), "{error}");
    drop(silent);
    let error = Ssh::connect(&target, Duration::from_millis(600))
        .await
        .expect_err("nothing listens");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn the_systems_ssh_accepts_our_keys_and_arguments() {
    let server = start();
    Ssh::connect(&server.target, LIMIT).await.expect("it is up");
    let known_hosts = server.directory.path().join("known hosts");
    let argv = interactive_argv(
        &server.target,
        &known_hosts,
        &["echo".into(), "$((6*7))".into()],
    )
    .expect("it is writable");
    let output = Command::new(&argv[0])
        .args(&argv[1..])
        .stdin(Stdio::null())
        .output()
        .expect("ssh starts");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "42\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

//! A node whose containers are nothing but names: commands run beside the test, and ports are the host's loopback ones.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flightcage::orchestrator::agent;
use flightcage::orchestrator::agent::runtime::{
    ContainerSpec, ContainerState, ContainerStatus, ExecOutput, Image, LogQuery, OpenCommand,
    PullError, PullPolicy, RunningCommand, Runtime, RuntimeError, SandboxSpec, SandboxStatus,
};
use flightcage::orchestrator::config::{AgentConfig, IdentityFiles};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::Authority;

/// What a container has written when somebody attaches to it; then it writes no more.
pub(crate) const OUTPUT: &str = "written while attached\n";

/// Runs the agent of the node `w1` until dropped; its commands run in `root`.
pub(crate) fn start(
    authority: &Authority,
    directory: &Path,
    url: &str,
    root: &Path,
) -> AbortOnDropHandle<()> {
    let (certificate, key) = authority.issue("system:node:w1", "system:nodes");
    std::fs::write(directory.join("node.pem"), certificate).expect("written");
    std::fs::write(directory.join("node.key"), key).expect("written");
    let config = AgentConfig {
        node: "w1".into(),
        address: Ipv4Addr::LOCALHOST,
        server: url.to_owned(),
        registry: String::new(),
        identity: IdentityFiles {
            ca: directory.join("ca.pem"),
            certificate: directory.join("node.pem"),
            key: directory.join("node.key"),
        },
        pod_network: "127.0.0.1/32".into(),
        routes: BTreeMap::new(),
        data_dir: directory.join("node"),
        labels: BTreeMap::new(),
        taints: Vec::new(),
    };
    let runtime = Arc::new(Beside {
        root: root.to_owned(),
        sandboxes: Mutex::default(),
        changed: Notify::new(),
    });
    let volatile = directory.join("run");
    AbortOnDropHandle::new(tokio::spawn(async move {
        let ended = agent::run_with(config, runtime, &volatile).await;
        assert!(ended.is_ok(), "the agent ended: {ended:?}");
    }))
}

struct Beside {
    root: PathBuf,
    sandboxes: Mutex<BTreeMap<String, SandboxStatus>>,
    changed: Notify,
}

fn failed(error: std::io::Error) -> RuntimeError {
    RuntimeError {
        what: error.to_string(),
    }
}

impl Beside {
    /// With pipes, as a container's command has them.
    fn piped(&self, wanted: &OpenCommand) -> std::io::Result<RunningCommand> {
        let mut child = Command::new(&wanted.command[0])
            .args(&wanted.command[1..])
            .current_dir(&self.root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.take().filter(|_| wanted.stdin);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        Ok(RunningCommand {
            stdin: stdin.map(|stdin| Box::new(stdin) as Box<dyn AsyncWrite + Send + Unpin>),
            stdout: Box::new(stdout.expect("it is piped")),
            stderr: stderr.map(|stderr| Box::new(stderr) as Box<dyn AsyncRead + Send + Unpin>),
            resize: None,
            end: Box::pin(async move {
                let status = child.wait().await.map_err(failed)?;
                Ok(status.code().unwrap_or(255))
            }),
        })
    }

    /// With a terminal that it controls.
    fn on_terminal(&self, wanted: &OpenCommand) -> std::io::Result<RunningCommand> {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let slave = std::fs::File::options()
            .read(true)
            .write(true)
            .open(name.to_string_lossy().as_ref())?;
        let mut child = Command::new("setsid")
            .arg("--ctty")
            .args(&wanted.command)
            .current_dir(&self.root)
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave)
            .kill_on_drop(true)
            .spawn()?;
        let file = std::fs::File::from(master);
        let (reader, writer) = (file.try_clone()?, file.try_clone()?);
        let resize = move |columns: u16, rows: u16| {
            let size = rustix::termios::Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&file, size).expect("a terminal has a size");
        };
        Ok(RunningCommand {
            stdin: wanted.stdin.then(|| {
                Box::new(tokio::fs::File::from_std(writer)) as Box<dyn AsyncWrite + Send + Unpin>
            }),
            stdout: Box::new(tokio::fs::File::from_std(reader)),
            stderr: None,
            resize: Some(Box::new(resize)),
            end: Box::pin(async move {
                let status = child.wait().await.map_err(failed)?;
                Ok(status.code().unwrap_or(255))
            }),
        })
    }
}

impl Runtime for Beside {
    async fn pull(&self, reference: &str, _: PullPolicy) -> Result<Image, PullError> {
        Ok(Image {
            digest: "sha256:00".into(),
            reference: reference.to_owned(),
        })
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Ipv4Addr, RuntimeError> {
        let sandbox = SandboxStatus {
            pod_uid: spec.pod_uid.clone(),
            namespace: spec.namespace.clone(),
            name: spec.name.clone(),
            address: Ipv4Addr::LOCALHOST,
            containers: BTreeMap::new(),
        };
        let mut sandboxes = self.sandboxes.lock().expect("no panic");
        sandboxes.entry(spec.pod_uid.clone()).or_insert(sandbox);
        Ok(Ipv4Addr::LOCALHOST)
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<ContainerStatus, RuntimeError> {
        let status = ContainerStatus {
            name: spec.name.clone(),
            id: format!("{}-{}", spec.name, spec.restart_count),
            restart_count: spec.restart_count,
            image: spec.image.clone(),
            state: ContainerState::Running {
                started_at_ms: jiff::Timestamp::now().as_millisecond(),
            },
        };
        let mut sandboxes = self.sandboxes.lock().expect("no panic");
        let sandbox = sandboxes.get_mut(&spec.pod_uid).expect("a sandbox");
        sandbox.containers.insert(spec.name.clone(), status.clone());
        Ok(status)
    }

    async fn stop(&self, uid: &str, container: &str, _: Duration) -> Result<(), RuntimeError> {
        let mut sandboxes = self.sandboxes.lock().expect("no panic");
        let containers = sandboxes
            .get_mut(uid)
            .map(|sandbox| &mut sandbox.containers);
        let status = containers.and_then(|containers| containers.get_mut(container));
        if let Some(status) = status {
            status.state = ContainerState::Exited {
                exit_code: 0,
                oom_killed: false,
                started_at_ms: 0,
                finished_at_ms: 1,
            };
        }
        self.changed.notify_one();
        Ok(())
    }

    async fn remove(&self, uid: &str) -> Result<(), RuntimeError> {
        self.sandboxes.lock().expect("no panic").remove(uid);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let sandboxes = self.sandboxes.lock().expect("no panic");
        Ok(sandboxes.values().cloned().collect())
    }

    async fn fence(&self, _: bool) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn logs(
        &self,
        _: &str,
        _: &str,
        _: LogQuery,
    ) -> Result<mpsc::Receiver<Vec<u8>>, RuntimeError> {
        let (sender, output) = mpsc::channel(1);
        sender.try_send(OUTPUT.as_bytes().to_vec()).expect("room");
        Ok(output)
    }

    async fn exec(
        &self,
        _: &str,
        _: &str,
        _: &[String],
        _: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        Ok(ExecOutput {
            exit_code: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    async fn open(
        &self,
        _: &str,
        _: &str,
        command: OpenCommand,
    ) -> Result<RunningCommand, RuntimeError> {
        let opened = if command.tty {
            self.on_terminal(&command)
        } else {
            self.piped(&command)
        };
        opened.map_err(failed)
    }

    async fn dial(&self, _: &str, port: u16) -> Result<TcpStream, RuntimeError> {
        let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        connection.map_err(failed)
    }
}

//! What the agent's pod logic asks of containers: images, pods' networks, processes, logs.
//!
//! Everything is keyed by pod UID and container name, never by pod name. What runs survives the agent: [`Runtime::open`]
//! finds it again and [`Runtime::list`] shows it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A container image on this node, by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// The reference it was pulled by, normalised: `quay.io/purplebooth/flappy-endpoint:latest`.
    pub reference: String,
}

/// A pod's sandbox: network namespace, address, cgroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The pod's UID.
    pub pod_uid: String,
    /// The pod's namespace and name, for logs and cgroup names only.
    pub namespace: String,
    /// See `namespace`.
    pub name: String,
    /// Host name inside the pod.
    pub hostname: String,
    /// Contents of the pod's `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Use the node's network instead of the pod's own.
    pub host_network: bool,
}

/// A directory or file of the node that a container sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// On the node.
    pub source: PathBuf,
    /// In the container.
    pub target: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// One container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its pod, whose sandbox exists.
    pub pod_uid: String,
    /// Its name in the pod.
    pub name: String,
    /// How often it was restarted: names this instance's log.
    pub restart_count: u32,
    /// The image, already pulled.
    pub image: Image,
    /// Replaces the image's entrypoint when not empty (Kubernetes' `command`).
    pub command: Vec<String>,
    /// Replaces the image's command when not empty (Kubernetes' `args`).
    pub args: Vec<String>,
    /// Environment on top of the image's own, in order; later entries win.
    pub env: Vec<(String, String)>,
    /// Working directory; `None`: the image's.
    pub working_dir: Option<String>,
    /// Volumes.
    pub mounts: Vec<Mount>,
    /// CPU limit in thousandths of a CPU.
    pub cpu_limit_millis: Option<u64>,
    /// CPU request in thousandths of a CPU, for the weight.
    pub cpu_request_millis: Option<u64>,
    /// Memory limit in bytes.
    pub memory_limit_bytes: Option<u64>,
    /// How readily the kernel kills it when memory runs out, -1000 to 1000.
    pub oom_score_adjust: i32,
    /// User and group to run as; `None`: the image's.
    pub run_as: Option<(u32, u32)>,
    /// Drop to a read-only root file system.
    pub read_only_root: bool,
    /// All capabilities and devices.
    pub privileged: bool,
    /// Further groups of its processes.
    pub groups: Vec<u32>,
    /// Capabilities on top of the usual ones, without `CAP_`; `ALL`.
    pub capabilities_added: Vec<String>,
    /// Capabilities that it shall not have, without `CAP_`; `ALL`.
    pub capabilities_dropped: Vec<String>,
    /// No process of it may gain privileges, by a set-user-ID program for instance.
    pub no_new_privileges: bool,
    /// Its signal to stop, in place of the image's.
    pub stop_signal: Option<String>,
    /// Settings of the kernel, in its pod's namespaces.
    pub sysctls: Vec<(String, String)>,
    /// Whether it has a standard input, which waits for whoever attaches; else there is nothing in it.
    pub stdin: bool,
    /// Whether its standard input ends with the first who was attached to it.
    pub stdin_once: bool,
    /// Whether it has a terminal: its standard error is then its standard output.
    pub tty: bool,
}

/// What a container does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Its process runs.
    Running {
        /// When it started, milliseconds since the Unix epoch.
        started_at_ms: i64,
    },
    /// Its process ended.
    Exited {
        /// Exit code; 128 + signal for a signal's death.
        exit_code: i32,
        /// Whether the kernel killed it for its memory limit.
        oom_killed: bool,
        /// When it started, milliseconds since the Unix epoch.
        started_at_ms: i64,
        /// When it ended, milliseconds since the Unix epoch.
        finished_at_ms: i64,
    },
}

/// A container as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Its name in the pod.
    pub name: String,
    /// Identifier of this instance, unique on the node.
    pub id: String,
    /// Which instance.
    pub restart_count: u32,
    /// Its image.
    pub image: Image,
    /// What it does.
    pub state: ContainerState,
}

/// A sandbox as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxStatus {
    /// Its pod.
    pub pod_uid: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// Containers by name: the newest instance of each.
    pub containers: BTreeMap<String, ContainerStatus>,
}

/// Why an image could not be had. Kubernetes' reasons follow from the variant.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The reference is not one: `InvalidImageName`.
    #[error("`{0}` is not an image reference")]
    InvalidName(String),
    /// No registry has it: `ErrImagePull`.
    #[error(
        "image `{0}` was not found in the mirror, and no upstream registry is listed that has it"
    )]
    NotFound(String),
    /// `imagePullPolicy: Never` and it is not here: `ErrImageNeverPull`.
    #[error("image `{0}` is not on this node, and its pull policy is Never")]
    NeverPull(String),
    /// Anything else: `ErrImagePull`.
    #[error("pull image `{image}`: {what}")]
    Failed {
        /// The image.
        image: String,
        /// What went wrong.
        what: String,
    },
}

/// Why the runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct RuntimeError {
    /// A lower-case fragment that names the thing and the action, with the cause.
    pub what: String,
}

/// A user of a registry. Its password is in no message and no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    username: String,
    password: String,
}

impl Login {
    /// A user and a password.
    #[must_use]
    pub fn new(username: String, password: String) -> Self {
        Self { username, password }
    }

    /// The user.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Login").finish_non_exhaustive()
    }
}

/// When an image is pulled: Kubernetes' `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Ask the registry for the digest each time; layers already here are not fetched again.
    Always,
    /// Only when the reference is not here.
    IfNotPresent,
    /// Never.
    Never,
}

/// Which part of a log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Keep sending.
    pub follow: bool,
    /// Last lines only.
    pub tail_lines: Option<u64>,
    /// Only lines from this time on.
    pub since: Option<jiff::Timestamp>,
    /// No more than so many bytes.
    pub limit_bytes: Option<u64>,
    /// The instance before this one.
    pub previous: bool,
    /// RFC 3339 time before each line.
    pub timestamps: bool,
}

/// What a command run in a container gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code.
    pub exit_code: i32,
    /// Its standard output, bounded at 1 MiB.
    pub stdout: Vec<u8>,
    /// Its standard error, bounded at 1 MiB.
    pub stderr: Vec<u8>,
}

/// A command to run with its streams open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCommand {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it has a standard input.
    pub stdin: bool,
    /// Whether it has a terminal: its standard error is then its standard output.
    pub tty: bool,
}

/// A command that runs. Whoever drops it, or only its output, kills it.
pub struct RunningCommand {
    /// Its standard input; closed when dropped.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Its standard output.
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    /// Its standard error.
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Sets the size of its terminal: columns and rows.
    pub resize: Option<Box<dyn Fn(u16, u16) + Send + Sync>>,
    /// Its exit code.
    pub end: Pin<Box<dyn Future<Output = Result<i32, RuntimeError>> + Send>>,
}

/// Containers on this node. Implemented by the real runtime and by a fake in the pod logic's tests.
pub trait Runtime: Send + Sync + 'static {
    /// Makes sure that an image is here, and says which.
    fn pull(
        &self,
        reference: &str,
        policy: PullPolicy,
    ) -> impl Future<Output = Result<Image, PullError>> + Send;
    /// As [`Runtime::pull`], with a login for the image's registry.
    fn pull_with(
        &self,
        reference: &str,
        policy: PullPolicy,
        _login: &Login,
    ) -> impl Future<Output = Result<Image, PullError>> + Send {
        self.pull(reference, policy)
    }
    /// The user that an image which is here runs as: `root`, `33`, `33:33`; empty when it says nothing.
    fn image_user(&self, _image: &Image) -> String {
        String::new()
    }
    /// Makes a pod's sandbox; idempotent. Returns its address.
    fn create_sandbox(
        &self,
        spec: &SandboxSpec,
    ) -> impl Future<Output = Result<Ipv4Addr, RuntimeError>> + Send;
    /// Starts a container and returns once its process runs.
    fn start(
        &self,
        spec: &ContainerSpec,
    ) -> impl Future<Output = Result<ContainerStatus, RuntimeError>> + Send;
    /// The pod serves: from now on it has the processor as others have it, and the next start may begin.
    fn settled(&self, _pod_uid: &str) {}
    /// Sends the image's stop signal, waits up to `grace`, then kills; returns when it has exited. An exited one is fine.
    fn stop(
        &self,
        pod_uid: &str,
        container: &str,
        grace: Duration,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Removes a sandbox with everything in it (killing what runs), logs included. An absent one is fine.
    fn remove(&self, pod_uid: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// All sandboxes, rediscovered from disk and processes.
    fn list(&self) -> impl Future<Output = Result<Vec<SandboxStatus>, RuntimeError>> + Send;
    /// Keeps traffic from other machines away from all pods of this node, or lets it through again. Idempotent; survives the agent, not a
    /// reboot. The node itself still reaches its pods, so that probes go on.
    fn fence(&self, up: bool) -> impl Future<Output = Result<(), RuntimeError>> + Send;
    /// Resolves when some container's state may have changed since the last call. Cancel-safe.
    fn changed(&self) -> impl Future<Output = ()> + Send;
    /// Log bytes, in chunks, until the end (or for ever with `follow`).
    fn logs(
        &self,
        pod_uid: &str,
        container: &str,
        query: LogQuery,
    ) -> impl Future<Output = Result<tokio::sync::mpsc::Receiver<Vec<u8>>, RuntimeError>> + Send;
    /// The end of what an instance has logged: no more than its last 80 lines and 2048 bytes.
    fn last_lines(&self, _pod_uid: &str, _container: &str, _instance: u32) -> String {
        String::new()
    }
    /// Runs a command in a running container, with its user and environment; killed at the time-out.
    fn exec(
        &self,
        pod_uid: &str,
        container: &str,
        command: &[String],
        timeout: Duration,
    ) -> impl Future<Output = Result<ExecOutput, RuntimeError>> + Send;
    /// Runs a command in a running container, as [`Runtime::exec`] does, for as long as its caller holds it.
    fn open(
        &self,
        pod_uid: &str,
        container: &str,
        command: OpenCommand,
    ) -> impl Future<Output = Result<RunningCommand, RuntimeError>> + Send;
    /// Attaches to a running container: what it says from now on, and its standard input. `None` for one that has neither a standard input
    /// nor a terminal: its log has all it says. Dropping the result ends the container's input if it wants that once, and nothing else.
    fn attach(
        &self,
        _pod_uid: &str,
        _container: &str,
        _stdin: bool,
    ) -> impl Future<Output = Result<Option<RunningCommand>, RuntimeError>> + Send {
        async { Ok(None) }
    }
    /// Connects to a port of the pod's loopback address, in the pod's network namespace.
    fn dial(
        &self,
        pod_uid: &str,
        port: u16,
    ) -> impl Future<Output = Result<TcpStream, RuntimeError>> + Send;
}

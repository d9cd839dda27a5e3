//! The node's container runtime: images from the mirror, overlayfs roots, youki's libcontainer, a bridge for the pods.
//!
//! ```text
//!  agent ── RealRuntime ──spawns──► __pod watch (one a container, lives with it) ──► __pod run ──► libcontainer ──► init
//!                 │                        │ parent of init: log file, exit code                (CLONE_PARENT)
//!                 └──── reads ◄── state.json, events/ ◄┘
//! ```
//! Invariants: the agent holds nothing that a restart would lose: all truth is in files and processes. Signals go through
//! process handles whose start time was checked. What was made in another boot of the machine counts as exited (255). What
//! lost its helper is killed and counts as exited (255), since nobody could tell its end. Seccomp is not applied, and device
//! access is limited by capabilities only.

mod attach;
mod attached;
mod bundle;
mod cgroup;
mod exec;
mod files;
mod follow;
mod gaps;
mod helper;
mod instance;
mod layer;
mod log;
mod mirror;
mod network;
mod open;
mod pace;
mod pull;
mod records;
mod sandbox;
mod start;
mod watcher;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::time::Instant;

pub use helper::dispatch;

use super::runtime::{
    ContainerSpec, ContainerStatus, ExecOutput, Image, LogQuery, Login, OpenCommand, PullError,
    PullPolicy, RunningCommand, Runtime, RuntimeError, SandboxSpec, SandboxStatus,
};
use crate::orchestrator::RUN_DIRECTORY;
use crate::orchestrator::config::{AgentConfig, IdentityFiles};
use files::{remove_tree, unmount};
use instance::Instance;
use network::{NodeNetwork, PodNetwork};
use records::{Layout, SandboxRecord, StateRecord};

/// Starting a container may take so long before its helper is given up (an emulated machine takes seconds).
const START_LIMIT: Duration = Duration::from_mins(2);
/// Exit code of what ended unseen.
const UNKNOWN_EXIT: i32 = 255;

/// What the runtime needs to know of its node.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Images, containers and logs live here, on a file system that overlayfs accepts.
    pub data_dir: PathBuf,
    /// What does not survive a reboot lives here, on a tmpfs: `/run/flightcage`.
    pub run_dir: PathBuf,
    /// The registry mirror's URL, by address, for instance `https://10.77.0.1:5000`.
    pub registry_url: String,
    /// With which the mirror is asked.
    pub identity: IdentityFiles,
    /// This node's address.
    pub node_address: Ipv4Addr,
    /// This node's pod network, for instance `10.78.1.0/24`.
    pub pod_network: String,
    /// The other nodes' pod networks and the node address each is behind.
    pub routes: BTreeMap<String, Ipv4Addr>,
    /// The binary that knows the hidden verbs: `/proc/self/exe`, except in tests.
    pub helper: PathBuf,
}

impl From<&AgentConfig> for RuntimeConfig {
    fn from(agent: &AgentConfig) -> Self {
        Self {
            data_dir: agent.data_dir.clone(),
            run_dir: PathBuf::from(RUN_DIRECTORY),
            registry_url: agent.registry.clone(),
            identity: agent.identity.clone(),
            node_address: agent.address,
            pod_network: agent.pod_network.clone(),
            routes: agent.routes.clone(),
            helper: PathBuf::from("/proc/self/exe"),
        }
    }
}

/// The runtime of a real node. Needs root, cgroup v2 and overlayfs.
pub struct RealRuntime {
    layout: Layout,
    helper: PathBuf,
    images: pull::Images,
    node: NodeNetwork,
    node_address: Ipv4Addr,
    pods: PodNetwork,
    boot_id: String,
    controllers: Vec<String>,
    /// Held while addresses are given out and sandboxes made.
    allocation: Mutex<()>,
    pace: pace::Pace,
    changes: watch::Receiver<u64>,
    changed: Arc<Notify>,
    /// Told to look again after a helper was started.
    watcher: watcher::Watcher,
}

impl RealRuntime {
    /// Opens the runtime: makes the node's bridge and routes, finds what an agent before left.
    pub async fn open(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let layout = Layout {
            data: config.data_dir.clone(),
            run: config.run_dir.clone(),
        };
        for directory in [
            layout.pods(),
            layout.run.join("netns"),
            layout.events(),
            layout.oci(),
        ] {
            fs::create_dir_all(&directory)
                .map_err(doing(format!("make `{}`", directory.display())))?;
        }
        let network = |text: &str| {
            PodNetwork::parse(text).ok_or_else(|| failed(format!("`{text}` is not a pod network")))
        };
        let pods = network(&config.pod_network)?;
        let routes = config
            .routes
            .iter()
            .map(|(pods, node)| Ok((network(pods)?, *node)))
            .collect::<Result<Vec<_>, RuntimeError>>()?;
        cgroup::prepare();
        let images = pull::Images::open(&config.data_dir, &config.registry_url, &config.identity)
            .map_err(failed)?;
        let node = NodeNetwork::open(pods, &routes).await.map_err(failed)?;
        let (changed, (sender, changes)) = (Arc::new(Notify::new()), watch::channel(0));
        let watcher = watcher::Watcher::start(layout.clone(), sender, Arc::clone(&changed))
            .map_err(doing("watch the containers"))?;
        Ok(Self {
            layout,
            helper: config.helper,
            images,
            node,
            node_address: config.node_address,
            pods,
            boot_id: records::boot_id(),
            controllers: cgroup::controllers(),
            allocation: Mutex::new(()),
            pace: pace::Pace::new(),
            changes,
            changed,
            watcher,
        })
    }
}

impl Runtime for RealRuntime {
    async fn pull(&self, reference: &str, policy: PullPolicy) -> Result<Image, PullError> {
        self.images.pull(reference, policy, None).await
    }

    async fn pull_with(
        &self,
        reference: &str,
        policy: PullPolicy,
        login: &Login,
    ) -> Result<Image, PullError> {
        self.images.pull(reference, policy, Some(login)).await
    }

    fn image_user(&self, image: &Image) -> String {
        let record = self.images.record(&image.digest);
        record.map(|record| record.user).unwrap_or_default()
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Ipv4Addr, RuntimeError> {
        check_uid(&spec.pod_uid)?;
        self.make_sandbox(spec).await
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<ContainerStatus, RuntimeError> {
        self.start_instance(spec).await.map(Instance::status)
    }

    fn settled(&self, pod_uid: &str) {
        self.pace.settled(pod_uid);
    }

    async fn stop(
        &self,
        pod_uid: &str,
        container: &str,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let Some(instance) = self.newest(pod_uid, container) else {
            return Ok(());
        };
        let StateRecord::Running { init, .. } = instance.state else {
            return Ok(());
        };
        init.signal_number(instance.run.stop_signal).await;
        if self
            .wait_exit(&instance.directory, Instant::now() + grace)
            .await
        {
            return Ok(());
        }
        self.kill(&instance).await
    }

    async fn remove(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        check_uid(pod_uid)?;
        self.pace.settled(pod_uid);
        let directory = self.layout.pod(pod_uid);
        for instance in self.instances(pod_uid) {
            self.kill(&instance).await?;
            self.dismantle(&instance.directory, &instance.run)?;
        }
        // Starts that failed left no state.
        for entry in fs::read_dir(directory.join("containers"))
            .into_iter()
            .flatten()
            .flatten()
        {
            unmount(&entry.path().join("rootfs")).map_err(doing("unmount a container's root"))?;
        }
        self.node
            .detach(&network::link_name(pod_uid))
            .await
            .map_err(failed)?;
        network::remove_namespace(&self.layout.netns(pod_uid))
            .map_err(doing("remove the pod's network"))?;
        cgroup::remove(&records::pod_cgroup(pod_uid));
        if cgroup::exists(&records::pod_cgroup(pod_uid)) {
            tracing::warn!(pod_uid, "the pod's cgroup is still busy");
        }
        remove_tree(&directory)
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let with_containers = |sandbox: SandboxRecord| {
            // Oldest first: the newest instance of each name stays.
            let containers = self
                .instances(&sandbox.pod_uid)
                .into_iter()
                .map(|i| (i.run.name.clone(), i.status()))
                .collect();
            let SandboxRecord {
                pod_uid,
                namespace,
                name,
                address,
                ..
            } = sandbox;
            SandboxStatus {
                pod_uid,
                namespace,
                name,
                address,
                containers,
            }
        };
        Ok(self.sandboxes().into_iter().map(with_containers).collect())
    }

    async fn fence(&self, up: bool) -> Result<(), RuntimeError> {
        self.node
            .fence(self.pods, self.node_address, up)
            .await
            .map_err(failed)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn logs(
        &self,
        pod_uid: &str,
        container: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<Vec<u8>>, RuntimeError> {
        self.read_log(pod_uid, container, &query)
    }

    fn last_lines(&self, pod_uid: &str, container: &str, instance: u32) -> String {
        let mut instances = self.instances(pod_uid).into_iter();
        let found =
            instances.find(|one| one.run.name == container && one.run.restart_count == instance);
        let lines = found.and_then(|one| log::last_lines(&one.run.log).ok());
        String::from_utf8_lossy(&lines.unwrap_or_default()).into_owned()
    }

    async fn exec(
        &self,
        pod_uid: &str,
        container: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        self.run_command(pod_uid, container, command, limit).await
    }

    async fn open(
        &self,
        pod_uid: &str,
        container: &str,
        command: OpenCommand,
    ) -> Result<RunningCommand, RuntimeError> {
        self.open_command(pod_uid, container, command).await
    }

    async fn attach(
        &self,
        pod_uid: &str,
        container: &str,
        stdin: bool,
    ) -> Result<Option<RunningCommand>, RuntimeError> {
        self.attach_to(pod_uid, container, stdin).await
    }

    async fn dial(&self, pod_uid: &str, port: u16) -> Result<TcpStream, RuntimeError> {
        self.dial_pod(pod_uid, port).await
    }
}

/// UIDs become file names.
fn check_uid(uid: &str) -> Result<(), RuntimeError> {
    let fits = !uid.is_empty()
        && uid.len() <= 64
        && uid
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    fits.then_some(())
        .ok_or_else(|| failed(format!("`{uid}` is not a pod UID")))
}

fn failed(what: impl Into<String>) -> RuntimeError {
    RuntimeError { what: what.into() }
}

/// Adds what was being done to an I/O error.
fn doing<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> RuntimeError {
    move |error| failed(format!("{what}: {error}"))
}

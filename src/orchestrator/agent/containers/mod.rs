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

mod bundle;
mod cgroup;
mod helper;
mod layer;
mod log;
mod network;
mod pace;
mod pull;
mod records;
mod watcher;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::sync::{Mutex, Notify, mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

pub use helper::dispatch;

use super::runtime::{
    ContainerSpec, ContainerState, ContainerStatus, ExecOutput, Image, LogQuery, PullError, PullPolicy, Runtime, RuntimeError,
    SandboxSpec, SandboxStatus,
};
use crate::orchestrator::config::{AgentConfig, IdentityFiles};
use helper::VERB;
use network::{NamespaceRequest, NodeNetwork, PodNetwork};
use records::{Layout, RunRecord, SandboxRecord, StateRecord};

/// Starting a container may take so long before its helper is given up (an emulated machine takes seconds).
const START_LIMIT: Duration = Duration::from_mins(2);
/// A killed process may take so long to vanish.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// What `exec` gives back of each stream.
const EXEC_OUTPUT_BYTES: usize = 1024 * 1024;
/// How often a followed log is looked at.
const FOLLOW_PERIOD: Duration = Duration::from_millis(200);
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
            run_dir: PathBuf::from("/run/flightcage"),
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

/// A container instance on disk.
struct Instance {
    directory: PathBuf,
    run: RunRecord,
    state: StateRecord,
}

fn failed(what: impl Into<String>) -> RuntimeError {
    RuntimeError { what: what.into() }
}

/// Adds what was being done to an I/O error.
fn doing<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> RuntimeError {
    move |error| failed(format!("{what}: {error}"))
}

impl RealRuntime {
    /// Opens the runtime: makes the node's bridge and routes, finds what an agent before left.
    pub async fn open(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let layout = Layout { data: config.data_dir.clone(), run: config.run_dir.clone() };
        for directory in [layout.pods(), layout.run.join("netns"), layout.events(), layout.oci()] {
            fs::create_dir_all(&directory).map_err(doing(format!("make `{}`", directory.display())))?;
        }
        let network = |text: &str| PodNetwork::parse(text).ok_or_else(|| failed(format!("`{text}` is not a pod network")));
        let pods = network(&config.pod_network)?;
        let routes =
            config.routes.iter().map(|(pods, node)| Ok((network(pods)?, *node))).collect::<Result<Vec<_>, RuntimeError>>()?;
        cgroup::prepare();
        let images = pull::Images::open(&config.data_dir, &config.registry_url, &config.identity).map_err(failed)?;
        let node = NodeNetwork::open(pods, &routes).await.map_err(failed)?;
        let (changed, (sender, changes)) = (Arc::new(Notify::new()), watch::channel(0));
        let watcher =
            watcher::Watcher::start(layout.clone(), sender, Arc::clone(&changed)).map_err(doing("watch the containers"))?;
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

    fn sandbox(&self, pod_uid: &str) -> Option<SandboxRecord> {
        records::read(&self.layout.pod(pod_uid).join("sandbox.json"))
    }

    fn sandboxes(&self) -> Vec<SandboxRecord> {
        let mut found: Vec<SandboxRecord> = fs::read_dir(self.layout.pods())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| records::read(&entry.path().join("sandbox.json")))
            .collect();
        found.sort_by(|a, b| a.pod_uid.cmp(&b.pod_uid));
        found
    }

    /// All instances of a pod's containers, oldest first, with a state that is true now.
    fn instances(&self, pod_uid: &str) -> Vec<Instance> {
        let mut found: Vec<Instance> = fs::read_dir(self.layout.pod(pod_uid).join("containers"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| self.instance(&entry.path()))
            .collect();
        found.sort_by(|a, b| (&a.run.name, a.run.restart_count).cmp(&(&b.run.name, b.run.restart_count)));
        found
    }

    fn instance(&self, directory: &Path) -> Option<Instance> {
        let run: RunRecord = records::read(&directory.join("run.json"))?;
        let file = directory.join("state.json");
        // No state yet: it is being started, or its start failed.
        let mut state: StateRecord = records::read(&file)?;
        if let StateRecord::Running { helper, init, started_at_ms } = state {
            let same_boot = run.boot_id == self.boot_id;
            if !same_boot || !helper.is_alive() {
                // The helper's last act was to write the state: look again.
                state = records::read(&file)?;
            }
            if matches!(state, StateRecord::Running { .. }) && !(same_boot && helper.is_alive()) {
                if same_boot {
                    signal(init, rustix::process::Signal::KILL);
                    cgroup::kill(&run.cgroup);
                }
                let finished_at_ms = records::now_ms();
                state = StateRecord::Exited { exit_code: UNKNOWN_EXIT, oom_killed: false, started_at_ms, finished_at_ms };
                let _ = records::write(&file, &state);
            }
        }
        Some(Instance { directory: directory.to_owned(), run, state })
    }

    fn newest(&self, pod_uid: &str, container: &str) -> Option<Instance> {
        self.instances(pod_uid).into_iter().rfind(|instance| instance.run.name == container)
    }

    /// Makes the network of a sandbox in this boot, if it is not there.
    async fn ensure_network(&self, record: &SandboxRecord) -> Result<(), RuntimeError> {
        if record.host_network {
            return Ok(());
        }
        let path = self.layout.netns(&record.pod_uid);
        let link = network::link_name(&record.pod_uid);
        if !network::namespace_exists(&path) {
            self.node.detach(&link).await.map_err(failed)?;
            let request = NamespaceRequest::new(self.pods, path, &record.pod_uid, record.address);
            let request = serde_json::to_string(&request).map_err(doing("write the network request"))?;
            self.ask_helper("network", &request).await?;
        }
        self.node.attach(&link).await.map_err(failed)
    }

    /// Runs a short-lived helper; its standard output is its reason for failing.
    async fn ask_helper(&self, verb: &str, argument: &str) -> Result<(), RuntimeError> {
        let output = Command::new(&self.helper)
            .args([VERB, verb, argument])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(START_LIMIT, output)
            .await
            .map_err(|_| failed(format!("helper `{verb}` did not finish in {} s", START_LIMIT.as_secs())))?
            .map_err(doing(format!("start helper `{verb}`")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(format!("helper `{verb}` ({}): {}", output.status, String::from_utf8_lossy(&output.stdout))))
    }

    /// Starts the helper that will live with the container, and waits for its answer.
    async fn start_helper(&self, directory: &Path) -> Result<(), RuntimeError> {
        let mut child = Command::new(&self.helper)
            .arg(VERB)
            .arg("watch")
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .map_err(doing("start the container's helper"))?;
        let mut answer = Vec::new();
        let mut stdout = child.stdout.take().ok_or_else(|| failed("the helper has no output"))?;
        let read = timeout(START_LIMIT, stdout.read_to_end(&mut answer)).await;
        let Ok(read) = read else {
            let _ = child.start_kill();
            let _ = child.wait().await;
            return Err(failed(format!("the container did not start in {} s", START_LIMIT.as_secs())));
        };
        read.map_err(doing("read the helper's answer"))?;
        if !answer.is_empty() || !directory.join("state.json").exists() {
            let status = child.wait().await.map_err(doing("wait for the helper"))?;
            return Err(failed(format!("{} (helper: {status})", String::from_utf8_lossy(&answer))));
        }
        // Reaps it whenever it ends. It outlives this agent otherwise.
        tokio::spawn(async move { child.wait().await });
        self.watcher.look_again();
        Ok(())
    }

    /// Takes away what a container instance holds besides its log and its records.
    fn dismantle(&self, instance: &Path, run: &RunRecord) -> Result<(), RuntimeError> {
        let root = instance.join("rootfs");
        unmount(&root).map_err(doing(format!("unmount `{}`", root.display())))?;
        for part in ["rootfs", "upper", "work"] {
            remove_tree(&instance.join(part))?;
        }
        remove_tree(&self.layout.oci().join(&run.id))?;
        let _ = fs::remove_file(self.layout.events().join(&run.id));
        cgroup::remove(&run.cgroup);
        Ok(())
    }

    /// Forgets older instances of a container: what they hold, and all but the last one's log.
    fn retire_older(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        for older in self.instances(&spec.pod_uid).into_iter().filter(|i| i.run.name == spec.name) {
            if older.run.restart_count == spec.restart_count {
                return Err(failed(format!("container `{}` instance {} exists already", spec.name, spec.restart_count)));
            }
            if let StateRecord::Running { .. } = older.state {
                return Err(failed(format!("container `{}` instance {} still runs", spec.name, older.run.restart_count)));
            }
            self.dismantle(&older.directory, &older.run)?;
            if older.run.restart_count + 1 < spec.restart_count {
                remove_tree(&older.directory)?;
                for number in ["log", "log.1", "log.2"] {
                    let _ = fs::remove_file(older.run.log.with_extension(number));
                }
            }
        }
        Ok(())
    }

    /// Mounts the root and writes the configuration of a new instance.
    fn prepare(&self, spec: &ContainerSpec, sandbox: &SandboxRecord) -> Result<PathBuf, RuntimeError> {
        let directory = self.layout.container(&spec.pod_uid, &spec.name, spec.restart_count);
        let image = self.images.record(&spec.image.digest);
        let image = image.ok_or_else(|| failed(format!("image `{}` is not on this node", spec.image.reference)))?;
        let id = format!("{}-{}-{}", spec.pod_uid, spec.name, spec.restart_count);
        let stop_signal = bundle::signal_number(&image.stop_signal);
        let run = RunRecord::new(&self.layout, spec, id, stop_signal, self.boot_id.clone());
        // A start that failed before left no state, but may have left a mount.
        self.dismantle(&directory, &run)?;
        remove_tree(&directory)?;
        let root = directory.join("rootfs");
        for part in [&root, &directory.join("upper"), &directory.join("work")] {
            fs::create_dir_all(part).map_err(doing(format!("make `{}`", part.display())))?;
        }
        if let Some(parent) = run.log.parent() {
            fs::create_dir_all(parent).map_err(doing(format!("make `{}`", parent.display())))?;
        }
        let layers: Vec<PathBuf> = image.layers.iter().rev().map(|layer| self.images.layer(layer)).collect();
        mount_overlay(&layers, &directory)?;
        let prepared = (|| {
            layer::make_directory_in_root(&root, bundle::working_dir(&image, spec))
                .map_err(doing("make the working directory"))?;
            let netns = self.layout.netns(&spec.pod_uid);
            let etc = self.layout.pod(&spec.pod_uid).join("etc");
            let netns = (!sandbox.host_network).then_some(netns.as_path());
            let places = bundle::Places { root: &root, etc: &etc, netns, controllers: &self.controllers };
            let config = bundle::config(&image, sandbox, spec, &run, &places).map_err(failed)?;
            write_private(&directory.join("config.json"), &config)?;
            records::write(&directory.join("run.json"), &run).map_err(doing("write run.json"))
        })();
        if prepared.is_err() {
            let _ = self.dismantle(&directory, &run);
            let _ = remove_tree(&directory);
        }
        prepared.map(|()| directory)
    }

    /// Waits until an instance has ended.
    async fn wait_exit(&self, directory: &Path, until: Instant) -> bool {
        let mut changes = self.changes.clone();
        loop {
            changes.borrow_and_update();
            if !self.instance(directory).is_some_and(|instance| matches!(instance.state, StateRecord::Running { .. })) {
                return true;
            }
            if timeout_at(until, changes.changed()).await.is_err() {
                return false;
            }
        }
    }

    async fn kill(&self, instance: &Instance) -> Result<(), RuntimeError> {
        if let StateRecord::Running { init, .. } = instance.state {
            signal(init, rustix::process::Signal::KILL);
            cgroup::kill(&instance.run.cgroup);
            if !self.wait_exit(&instance.directory, Instant::now() + KILL_LIMIT).await {
                return Err(failed(format!("container `{}` did not die in {} s", instance.run.name, KILL_LIMIT.as_secs())));
            }
        }
        Ok(())
    }
}

impl Runtime for RealRuntime {
    async fn pull(&self, reference: &str, policy: PullPolicy) -> Result<Image, PullError> {
        self.images.pull(reference, policy).await
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Ipv4Addr, RuntimeError> {
        check_uid(&spec.pod_uid)?;
        let _allocation = self.allocation.lock().await;
        let directory = self.layout.pod(&spec.pod_uid);
        let address = match self.sandbox(&spec.pod_uid) {
            Some(record) => record.address,
            None if spec.host_network => self.node_address,
            None => {
                let last_file = self.layout.data.join("last-address.json");
                let used: BTreeSet<Ipv4Addr> = self.sandboxes().iter().map(|sandbox| sandbox.address).collect();
                let address = self.pods.allocate(&used, records::read(&last_file));
                let address = address.ok_or_else(|| failed("every address of this node's pod network is in use"))?;
                records::write(&last_file, &address).map_err(doing("record the pod's address"))?;
                address
            }
        };
        let record = SandboxRecord::new(spec, address, self.boot_id.clone());
        write_etc(&directory.join("etc"), &record).map_err(doing("write the pod's /etc files"))?;
        records::write(&directory.join("sandbox.json"), &record).map_err(doing("write sandbox.json"))?;
        self.ensure_network(&record).await?;
        Ok(address)
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<ContainerStatus, RuntimeError> {
        let name = &spec.name;
        let sandbox = self.sandbox(&spec.pod_uid);
        let sandbox = sandbox.ok_or_else(|| failed(format!("start container `{name}`: pod {} has no sandbox", spec.pod_uid)))?;
        self.ensure_network(&sandbox).await?;
        self.retire_older(spec)?;
        let begun = self.pace.begin(&spec.pod_uid).await;
        let directory = self.prepare(spec, &sandbox).map_err(|error| failed(format!("start container `{name}`: {error}")))?;
        if let Err(error) = self.start_helper(&directory).await {
            if let Some(run) = records::read::<RunRecord>(&directory.join("run.json")) {
                let _ = self.dismantle(&directory, &run);
            }
            let _ = remove_tree(&directory);
            return Err(failed(format!("start container `{name}`: {error}")));
        }
        let instance = self.instance(&directory).ok_or_else(|| failed(format!("container `{name}` lost its state")))?;
        let state = directory.join("state.json");
        let runs = move || matches!(records::read(&state), Some(StateRecord::Running { .. }));
        tokio::spawn(begun.settle(self.changes.clone(), runs));
        Ok(status(instance))
    }

    fn settled(&self, pod_uid: &str) {
        self.pace.settled(pod_uid);
    }

    async fn stop(&self, pod_uid: &str, container: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Some(instance) = self.newest(pod_uid, container) else { return Ok(()) };
        let StateRecord::Running { init, .. } = instance.state else { return Ok(()) };
        if let Some(stop) = rustix::process::Signal::from_named_raw(instance.run.stop_signal) {
            signal(init, stop);
        }
        if self.wait_exit(&instance.directory, Instant::now() + grace).await {
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
        for entry in fs::read_dir(directory.join("containers")).into_iter().flatten().flatten() {
            unmount(&entry.path().join("rootfs")).map_err(doing("unmount a container's root"))?;
        }
        self.node.detach(&network::link_name(pod_uid)).await.map_err(failed)?;
        network::remove_namespace(&self.layout.netns(pod_uid)).map_err(doing("remove the pod's network"))?;
        cgroup::remove(&records::pod_cgroup(pod_uid));
        if cgroup::exists(&records::pod_cgroup(pod_uid)) {
            tracing::warn!(pod_uid, "the pod's cgroup is still busy");
        }
        remove_tree(&directory)
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let with_containers = |sandbox: SandboxRecord| {
            // Oldest first: the newest instance of each name stays.
            let containers = self.instances(&sandbox.pod_uid).into_iter().map(|i| (i.run.name.clone(), status(i))).collect();
            let SandboxRecord { pod_uid, namespace, name, address, .. } = sandbox;
            SandboxStatus { pod_uid, namespace, name, address, containers }
        };
        Ok(self.sandboxes().into_iter().map(with_containers).collect())
    }

    async fn fence(&self, up: bool) -> Result<(), RuntimeError> {
        self.node.fence(self.pods, self.node_address, up).await.map_err(failed)
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn logs(&self, pod_uid: &str, container: &str, query: LogQuery) -> Result<mpsc::Receiver<Vec<u8>>, RuntimeError> {
        let mut instances = self.instances(pod_uid);
        instances.retain(|instance| instance.run.name == container);
        let wanted = if query.previous { instances.len().checked_sub(2) } else { instances.len().checked_sub(1) };
        let Some(instance) = wanted.map(|at| instances.swap_remove(at)) else {
            let which = if query.previous { "previous instance of container" } else { "container" };
            return Err(failed(format!("{which} `{container}` of pod {pod_uid} was not found")));
        };
        let path = instance.run.log.clone();
        let mut reader = log::Reader::open(&path, query.tail_lines, query.timestamps)
            .map_err(doing(format!("read log `{}`", path.display())))?;
        let state_file = instance.directory.join("state.json");
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            loop {
                // Looked at before reading: what is written before the end is read after it.
                let runs = matches!(records::read(&state_file), Some(StateRecord::Running { .. }));
                while let Ok(Some(bytes)) = reader.next() {
                    if sender.send(bytes).await.is_err() {
                        return;
                    }
                }
                if !query.follow || !runs {
                    return;
                }
                tokio::select! {
                    () = sender.closed() => return,
                    () = tokio::time::sleep(FOLLOW_PERIOD) => {}
                }
            }
        });
        Ok(receiver)
    }

    async fn exec(
        &self,
        pod_uid: &str,
        container: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let instance = self.newest(pod_uid, container);
        let instance = instance.filter(|instance| matches!(instance.state, StateRecord::Running { .. }));
        let instance = instance.ok_or_else(|| failed(format!("container `{container}` of pod {pod_uid} does not run")))?;
        let config: serde_json::Value = records::read(&instance.directory.join("config.json"))
            .ok_or_else(|| failed(format!("container `{container}` lost its configuration")))?;
        let mut process = config["process"].clone();
        process["args"] = serde_json::json!(command);
        let file = instance.directory.join(format!("exec-{}.json", uuid::Uuid::new_v4()));
        write_private(&file, &process)?;
        let result = self.exec_helper(&instance.directory, &file, limit).await;
        let reason = fs::read_to_string(helper::error_file(&file)).ok();
        let _ = fs::remove_file(&file);
        let _ = fs::remove_file(helper::error_file(&file));
        match reason {
            Some(reason) => Err(failed(format!("run a command in container `{container}`: {reason}"))),
            None => result,
        }
    }
}

impl RealRuntime {
    async fn exec_helper(&self, directory: &Path, file: &Path, limit: Duration) -> Result<ExecOutput, RuntimeError> {
        let mut child = Command::new(&self.helper)
            .args([VERB.as_ref(), "exec".as_ref(), directory.as_os_str(), file.as_os_str()])
            .arg(limit.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .spawn()
            .map_err(doing("start the command's helper"))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let all = async { tokio::join!(child.wait(), bounded(stdout), bounded(stderr)) };
        // The helper keeps the limit itself; this is for a child of the command that holds its output open.
        let outcome = timeout(limit + START_LIMIT, all).await;
        let (exit, stdout, stderr) = outcome.map_err(|_| failed("the command's output stayed open after its time-out"))?;
        let exit = exit.map_err(doing("wait for the command's helper"))?;
        Ok(ExecOutput { exit_code: exit.code().unwrap_or(UNKNOWN_EXIT), stdout, stderr })
    }
}

/// Reads to the end, keeping the first [`EXEC_OUTPUT_BYTES`].
async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut buffer = [0u8; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let room = EXEC_OUTPUT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}

fn status(instance: Instance) -> ContainerStatus {
    let state = match instance.state {
        StateRecord::Running { started_at_ms, .. } => ContainerState::Running { started_at_ms },
        StateRecord::Exited { exit_code, oom_killed, started_at_ms, finished_at_ms } => {
            ContainerState::Exited { exit_code, oom_killed, started_at_ms, finished_at_ms }
        }
    };
    let image = instance.run.image();
    ContainerStatus { name: instance.run.name, id: instance.run.id, restart_count: instance.run.restart_count, image, state }
}

fn signal(process: records::Process, signal: rustix::process::Signal) {
    if let Some(handle) = process.open() {
        let _ = rustix::process::pidfd_send_signal(handle, signal);
    }
}

/// UIDs become file names.
fn check_uid(uid: &str) -> Result<(), RuntimeError> {
    let fits = !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    fits.then_some(()).ok_or_else(|| failed(format!("`{uid}` is not a pod UID")))
}

fn mount_overlay(layers: &[PathBuf], directory: &Path) -> Result<(), RuntimeError> {
    let lower: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        directory.join("upper").display(),
        directory.join("work").display()
    );
    let options = std::ffi::CString::new(options).map_err(doing("write the overlay's options"))?;
    rustix::mount::mount("overlay", directory.join("rootfs"), "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(doing(format!("mount the overlay of `{}`", directory.display())))
}

fn unmount(root: &Path) -> io::Result<()> {
    match rustix::mount::unmount(root, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn remove_tree(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(doing(format!("remove `{}`", path.display()))(error)),
        _ => Ok(()),
    }
}

/// Writes JSON that may hold a Secret's value.
fn write_private(path: &Path, value: &serde_json::Value) -> Result<(), RuntimeError> {
    use std::os::unix::fs::OpenOptionsExt;
    let write = || -> io::Result<()> {
        let file = fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        Ok(serde_json::to_writer(io::BufWriter::new(file), value)?)
    };
    write().map_err(doing(format!("write `{}`", path.display())))
}

fn write_etc(directory: &Path, sandbox: &SandboxRecord) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let SandboxRecord { hostname, address, .. } = sandbox;
    fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
    fs::write(directory.join("resolv.conf"), &sandbox.resolv_conf)?;
    fs::write(directory.join("hosts"), format!("127.0.0.1\tlocalhost\n::1\tlocalhost\n{address}\t{hostname}\n"))
}

//! Machines as QEMU processes: children of the process that holds the provider, which is the cluster's daemon.
//!
//! ```text
//!            create            guest's sshd answers
//!  (absent) ────────► On ─────────────────────────► booted
//!      ▲              │ ▲  power off, exit, panic
//!      │ destroy      ▼ │ power on: same disk, same addresses, same SSH port
//!      └───────────── Off            On ◄── freeze, thaw ──► Frozen
//! ```
//! Invariants: what a machine was made from is recorded in its directory and never moves on a restart; a machine dies with its
//! owner, even one killed by SIGKILL ([`process`]); whether it runs is asked of `/proc`, never remembered.

mod clock;
mod command_line;
mod console;
mod directory;
mod disk;
mod preflight;
mod process;
pub(super) mod qcow2;
mod qmp;
mod snapshot;
mod sparse;
mod standstill;
mod yielding;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::provider::{
    Acceleration, BoxBoot, DiskEffect, DiskFault, Machine, MachineRequest, Power, PowerAction,
    Problem, Provider, ProviderError, Snapshots, Standstill,
};
use crate::model::cluster::MachineSpec;
use crate::model::names::{ClusterName, NodeName};
use crate::shell;
use clock::ClockPort;
use command_line::Start;
use console::Console;
use directory::{MachineDirectory, Record};
use process::{Exit, Launch, Spawner};
use qmp::Qmp;
use standstill::Still;
use yielding::Yielding;

pub use preflight::{MINIMUM_VERSION, version, version_text};
pub(crate) use preflight::{available_memory, free_disk};
pub use process::{VM_VERB, exec_vm};

/// The emulator, found on PATH.
pub const QEMU: &str = "qemu-system-x86_64";
/// Longest path of a Unix socket that every platform takes, with its final zero byte.
const MAX_SOCKET_PATH: usize = 104;
/// How long QEMU may take until its monitor answers.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks at a machine that starts or boots.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// What QEMU says before it ends because it cannot take a saved memory (`migration/migration.c`).
const LOAD_FAILED: &str = "load of migration failed";
/// Port of the guest's SSH server.
const GUEST_SSH_PORT: u16 = 22;
/// How long one attempt waits for the SSH server's banner: seconds pass under TCG while all machines boot.
const BANNER_LIMIT: Duration = Duration::from_secs(15);

/// What a provider of QEMU machines needs to know.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// Whose machines these are.
    pub cluster: ClusterName,
    /// The cluster's state directory; machines lie in its `machines/`.
    pub state_dir: PathBuf,
    /// A directory for sockets, 0700, with a short path.
    pub runtime_dir: PathBuf,
    /// How guests execute; see `machines::acceleration`.
    pub acceleration: Acceleration,
    /// Our own binary, which has the verb [`VM_VERB`]; usually `/proc/self/exe`.
    pub wrapper: PathBuf,
}

/// Makes machines with QEMU. Dropping it kills them.
#[derive(Debug)]
pub struct QemuProvider {
    config: QemuConfig,
    spawner: Spawner,
    nodes: std::sync::Mutex<BTreeMap<NodeName, Arc<Mutex<Option<Vm>>>>>,
    yielding: Yielding,
    still: Still,
}

/// A process that this provider has started.
#[derive(Debug, Clone)]
struct Vm {
    pid: u32,
    exit: Exit,
    /// Where this boot begins in the console's file.
    console_from: u64,
    ssh: SocketAddr,
    clock: Arc<Mutex<ClockPort>>,
    /// What its disk was told to do; a restart of the process ends it.
    disk_fault: Option<DiskFault>,
}

impl Vm {
    fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }
}

impl QemuProvider {
    /// A provider for the machines of one cluster. Call it in the tokio runtime that is to own them.
    ///
    /// # Errors
    /// When the thread that starts machines cannot be made.
    pub fn new(config: QemuConfig) -> Result<Self, ProviderError> {
        let spawner = Spawner::start(config.wrapper.clone(), tokio::runtime::Handle::current())
            .map_err(|error| failed("start the thread that starts machines", error))?;
        Ok(Self {
            config,
            spawner,
            nodes: std::sync::Mutex::default(),
            yielding: Yielding::default(),
            still: Still::default(),
        })
    }

    fn slot(&self, node: &NodeName) -> Arc<Mutex<Option<Vm>>> {
        Arc::clone(
            self.nodes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(node.clone())
                .or_default(),
        )
    }

    fn directory(&self, node: &NodeName) -> MachineDirectory {
        MachineDirectory::new(&self.config.state_dir, node)
    }

    fn qmp_socket(&self, node: &NodeName) -> PathBuf {
        self.config.runtime_dir.join(format!("{node}.qmp"))
    }

    fn clock_socket(&self, node: &NodeName) -> PathBuf {
        self.config.runtime_dir.join(format!("{node}.clock"))
    }

    async fn create_machine(&self, request: MachineRequest) -> Result<Machine, ProviderError> {
        let node = request.spec.name.clone();
        let slot = self.slot(&node);
        let mut slot = slot.lock().await;
        self.still.forbid(|| format!("make node `{node}`"))?;
        if let Some(vm) = slot.as_ref().filter(|vm| !vm.has_ended()) {
            return Ok(machine(node, vm));
        }
        for socket in [&self.clock_socket(&node), &request.fabric_socket] {
            check_socket_path(socket)?;
        }
        let record = self
            .directory(&node)
            .prepare(&request)
            .map_err(|error| failed(format!("make the directory of node `{node}`"), error))?;
        let vm = self.start(record, None).await?;
        let made = machine(node, &vm);
        *slot = Some(vm);
        Ok(made)
    }

    /// Starts a machine with what is recorded: on its old SSH port, or on a new one if that is taken. With a saved `memory` it loads
    /// that and stays stopped.
    async fn start(&self, mut record: Record, memory: Option<&Path>) -> Result<Vm, ProviderError> {
        let node = record.request.spec.name.clone();
        let directory = self.directory(&node);
        if let Some(pid) = directory
            .pid()
            .filter(|pid| process::runs_in(*pid, directory.path()))
        {
            process::kill(pid).await.map_err(|error| {
                failed(
                    format!("kill the QEMU that was left over of node `{node}`"),
                    error,
                )
            })?;
        }
        let vm = match record.ssh_port {
            None => self.start_on(&record, 0, memory).await?,
            Some(port) => match self.start_on(&record, port, memory).await {
                Err(ProviderError::Boot { what, .. }) if what.contains("host forwarding rule") => {
                    tracing::warn!(%node, port, "its SSH port is taken; it gets another");
                    self.start_on(&record, 0, memory).await?
                }
                result => result?,
            },
        };
        if record.ssh_port != Some(vm.ssh.port()) {
            record.ssh_port = Some(vm.ssh.port());
            directory
                .save(&record)
                .map_err(|error| failed(format!("record the SSH port of node `{node}`"), error))?;
        }
        Ok(vm)
    }

    async fn start_on(
        &self,
        record: &Record,
        ssh_port: u16,
        memory: Option<&Path>,
    ) -> Result<Vm, ProviderError> {
        let node = &record.request.spec.name;
        let (directory, socket) = (self.directory(node), self.qmp_socket(node));
        // One left by a killed QEMU would be connected to instead of the new one's.
        if let Err(error) = std::fs::remove_file(&socket)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(failed(format!("remove {}", socket.display()), error));
        }
        let console_from = directory.console_length();
        let clock_socket = self.clock_socket(node);
        let clock = ClockPort::bind(&clock_socket)
            .map_err(|error| failed(format!("listen on {}", clock_socket.display()), error))?;
        let mut arguments = command_line::arguments(&Start {
            request: &record.request,
            directory: &directory,
            qmp_socket: &socket,
            clock_socket: &clock_socket,
            ssh_port,
            acceleration: self.config.acceleration,
        });
        let input = memory.map(std::fs::File::open).transpose();
        let input = input
            .map_err(|error| failed(format!("open the saved memory of node `{node}`"), error))?;
        if input.is_some() {
            arguments.extend(command_line::RESTORE_FROM_INPUT.map(str::to_owned));
        }
        tracing::debug!(%node, command = %arguments.iter().map(|word| shell::quote(word)).collect::<Vec<_>>().join(" "), "start QEMU");
        let (pid, exit) = self
            .spawner
            .spawn(Launch {
                program: QEMU.into(),
                arguments,
                log: directory.qemu_log(),
                input,
            })
            .await
            .map_err(|error| failed(format!("start QEMU for node `{node}`"), error))?;
        let ssh = SocketAddr::from((Ipv4Addr::LOCALHOST, ssh_port));
        let vm = Vm {
            pid,
            exit,
            console_from,
            ssh,
            clock: Arc::new(Mutex::new(clock)),
            disk_fault: None,
        };
        directory
            .save_pid(pid)
            .map_err(|error| failed(format!("record the process of node `{node}`"), error))?;
        match self.ask_ssh_port(node, &vm).await {
            Ok(port) => Ok(Vm {
                ssh: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                ..vm
            }),
            Err(error) => {
                // The error is what matters; what cannot be killed now dies with us.
                let _ = process::kill(pid).await;
                Err(error)
            }
        }
    }

    /// Waits until QEMU's monitor answers, and asks it for the port that leads to the guest's SSH server.
    async fn ask_ssh_port(&self, node: &NodeName, vm: &Vm) -> Result<u16, ProviderError> {
        let socket = self.qmp_socket(node);
        let deadline = Instant::now() + START_LIMIT;
        let mut qmp = loop {
            if vm.has_ended() {
                return Err(self.ended(node, vm, "QEMU did not start"));
            }
            match Qmp::connect(&socket).await {
                Ok(qmp) => break qmp,
                Err(error) if Instant::now() > deadline => {
                    return Err(failed(format!("start node `{node}`"), error));
                }
                Err(_) => tokio::time::sleep(LOOK_PAUSE / 4).await,
            }
        };
        let usernet = qmp
            .human("info usernet")
            .await
            .map_err(|error| failed(format!("ask for the SSH port of node `{node}`"), error))?;
        qmp::forwarded_port(&usernet, GUEST_SSH_PORT).ok_or_else(|| {
            failed(
                format!("ask for the SSH port of node `{node}`"),
                std::io::Error::other(usernet),
            )
        })
    }

    async fn boot(&self, node: &NodeName) -> Result<SocketAddr, ProviderError> {
        let vm = self
            .slot(node)
            .lock()
            .await
            .clone()
            .ok_or_else(|| ProviderError::UnknownNode(node.clone()))?;
        let patience = console::patience(self.config.acceleration);
        let limit = boot_limit(self.config.acceleration);
        let mut console = Console::new(self.console(node), vm.console_from);
        let deadline = Instant::now() + limit;
        let mut banner = Box::pin(await_banner(vm.ssh));
        loop {
            if timeout(LOOK_PAUSE, &mut banner).await.is_ok() {
                return Ok(vm.ssh);
            }
            let trouble = console.look(patience);
            if vm.has_ended() {
                return Err(self.ended(node, &vm, "its QEMU ended"));
            }
            let late = || {
                (Instant::now() > deadline)
                    .then(|| format!("its SSH server did not answer within {limit:?}"))
            };
            if let Some(what) = trouble.or_else(late) {
                return Err(ProviderError::Boot {
                    node: node.clone(),
                    what,
                    console: console.end(),
                });
            }
        }
    }

    /// The error for a QEMU that has ended, with what it said itself.
    fn ended(&self, node: &NodeName, vm: &Vm, what: &str) -> ProviderError {
        let said = self.said(node, vm);
        if said.contains(LOAD_FAILED) {
            return ProviderError::MemoryRefused {
                node: node.clone(),
                what: said,
            };
        }
        let mut console = Console::new(self.console(node), vm.console_from);
        console.look(Duration::MAX);
        ProviderError::Boot {
            node: node.clone(),
            what: format!("{what} {said}"),
            console: console.end(),
        }
    }

    /// How a QEMU has ended, and the end of its log.
    fn said(&self, node: &NodeName, vm: &Vm) -> String {
        let said = std::fs::read(self.directory(node).qemu_log()).unwrap_or_default();
        let status = vm
            .exit
            .borrow()
            .map_or_else(|| "still running".to_owned(), |status| status.to_string());
        format!("({status}): {}", shell::tail(&said))
    }

    fn find(&self, node: &NodeName) -> Option<Machine> {
        let directory = self.directory(node);
        let record = directory.record().ok()?;
        let pid = directory
            .pid()
            .filter(|pid| process::runs_in(*pid, directory.path()));
        let power = match pid {
            None => Power::Off,
            Some(pid) if !self.yielding.is(node) && process::is_stopped(pid) => Power::Frozen,
            Some(_) => Power::On,
        };
        let ssh = record
            .ssh_port
            .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Some(Machine {
            name: node.clone(),
            power,
            ssh,
            pid,
        })
    }

    async fn change_power(
        &self,
        node: &NodeName,
        action: PowerAction,
    ) -> Result<(), ProviderError> {
        let slot = self.slot(node);
        let mut slot = slot.lock().await;
        // One that loses its power stands still for good, which is always possible.
        if action != PowerAction::PowerOff {
            self.still
                .forbid(|| format!("change the power of node `{node}`"))?;
        }
        self.yielding.end(node).await;
        let machine = self
            .find(node)
            .ok_or_else(|| ProviderError::UnknownNode(node.clone()))?;
        let what = |doing: &str| format!("{doing} node `{node}`");
        match (action, machine.pid) {
            (PowerAction::PowerOff, None) => Ok(()),
            (PowerAction::PowerOff, Some(pid)) => {
                process::kill(pid)
                    .await
                    .map_err(|error| failed(what("power off"), error))?;
                *slot = None;
                Ok(())
            }
            (PowerAction::PowerOn, Some(_)) => Ok(()),
            (PowerAction::PowerOn, None) => {
                let record = self
                    .directory(node)
                    .record()
                    .map_err(|error| failed(what("power on"), error))?;
                let vm = self.start(record, None).await?;
                self.yield_to_others(node, &vm);
                *slot = Some(vm);
                Ok(())
            }
            (PowerAction::Freeze | PowerAction::Thaw | PowerAction::Reset, None) => Err(failed(
                what("freeze, thaw or reset"),
                std::io::Error::other("it is powered off; power it on first"),
            )),
            (PowerAction::Freeze, Some(pid)) => process::set_stopped(pid, true)
                .await
                .map_err(|error| failed(what("freeze"), error)),
            (PowerAction::Thaw, Some(pid)) => process::set_stopped(pid, false)
                .await
                .map_err(|error| failed(what("thaw"), error)),
            (PowerAction::Reset, Some(_)) if machine.power == Power::Frozen => Err(failed(
                what("reset"),
                std::io::Error::other("it is frozen; thaw it first"),
            )),
            (PowerAction::Reset, Some(_)) => {
                let from = self.directory(node).console_length();
                self.reset(node)
                    .await
                    .map_err(|error| failed(what("reset"), error))?;
                if let Some(vm) = slot.as_mut() {
                    self.yield_to_others(node, vm);
                    vm.console_from = from;
                }
                Ok(())
            }
        }
    }

    /// Lets a machine that boots come behind those that run.
    fn yield_to_others(&self, node: &NodeName, vm: &Vm) {
        let nodes = directory::nodes(&self.config.state_dir).unwrap_or_default();
        let others = nodes.iter().filter(|other| *other != node);
        let others = others.filter_map(|other| self.find(other)?.pid).collect();
        self.yielding.begin(node, vm.pid, vm.exit.clone(), others);
    }

    async fn reset(&self, node: &NodeName) -> Result<(), qmp::QmpError> {
        let mut qmp = Qmp::connect(&self.qmp_socket(node)).await?;
        qmp.execute("system_reset", json!({})).await?;
        qmp.event("RESET").await
    }

    async fn change_disk(
        &self,
        node: &NodeName,
        fault: Option<DiskFault>,
    ) -> Result<DiskEffect, ProviderError> {
        let slot = self.slot(node);
        let mut slot = slot.lock().await;
        self.still
            .forbid(|| format!("change the disk of node `{node}`"))?;
        let machine = self
            .find(node)
            .ok_or_else(|| ProviderError::UnknownNode(node.clone()))?;
        match (machine.power, fault) {
            // A machine that is started again has a disk that works.
            (Power::Off, None) => Ok(DiskEffect {
                verified: true,
                measured: "the machine is off".into(),
            }),
            (Power::On, _) => {
                // What is begun may act even if it is not seen to; what is to end acts until it is seen to have ended.
                if let (Some(vm), Some(_)) = (slot.as_mut(), fault) {
                    vm.disk_fault = fault;
                }
                let apply = async {
                    disk::apply(&mut Qmp::connect(&self.qmp_socket(node)).await?, fault).await
                };
                let effect = apply
                    .await
                    .map_err(|error| failed(format!("change the disk of node `{node}`"), error))?;
                if let (Some(vm), None) = (slot.as_mut(), fault) {
                    vm.disk_fault = None;
                }
                Ok(effect)
            }
            (Power::Off | Power::Frozen, _) => {
                let cause = std::io::Error::other("it does not run; power it on or thaw it first");
                Err(failed(format!("change the disk of node `{node}`"), cause))
            }
        }
    }

    async fn destroy_machine(&self, node: &NodeName) -> Result<(), ProviderError> {
        let slot = self.slot(node);
        let mut slot = slot.lock().await;
        let directory = self.directory(node);
        let recorded = directory
            .pid()
            .filter(|pid| process::runs_in(*pid, directory.path()));
        for pid in slot
            .as_ref()
            .filter(|vm| !vm.has_ended())
            .map(|vm| vm.pid)
            .into_iter()
            .chain(recorded)
        {
            process::kill(pid)
                .await
                .map_err(|error| failed(format!("kill the QEMU of node `{node}`"), error))?;
        }
        *slot = None;
        // QEMU does not remove its socket when it is killed; an absent one is fine.
        let _ = std::fs::remove_file(self.qmp_socket(node));
        directory
            .remove()
            .map_err(|error| failed(format!("remove the directory of node `{node}`"), error))
    }
}

impl Provider for QemuProvider {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn preflight(&self, machines: &[MachineSpec]) -> BoxFuture<'_, Vec<Problem>> {
        let machines = machines.to_vec();
        Box::pin(async move {
            preflight::problems(&machines, &self.config.state_dir, self.config.acceleration).await
        })
    }

    fn create(&self, request: MachineRequest) -> BoxFuture<'_, Result<Machine, ProviderError>> {
        Box::pin(self.create_machine(request))
    }

    fn wait_for_boot(&self, node: &NodeName) -> BoxFuture<'_, Result<SocketAddr, ProviderError>> {
        let node = node.clone();
        Box::pin(async move { self.boot(&node).await })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Machine>, ProviderError>> {
        Box::pin(async move {
            let names = directory::nodes(&self.config.state_dir)
                .map_err(|error| failed("list machines", error))?;
            Ok(names.iter().filter_map(|node| self.find(node)).collect())
        })
    }

    fn power(
        &self,
        node: &NodeName,
        action: PowerAction,
    ) -> BoxFuture<'_, Result<(), ProviderError>> {
        let node = node.clone();
        Box::pin(async move { self.change_power(&node, action).await })
    }

    fn disk(
        &self,
        node: &NodeName,
        fault: Option<DiskFault>,
    ) -> BoxFuture<'_, Result<DiskEffect, ProviderError>> {
        let node = node.clone();
        Box::pin(async move { self.change_disk(&node, fault).await })
    }

    fn destroy(&self, node: &NodeName) -> BoxFuture<'_, Result<(), ProviderError>> {
        let node = node.clone();
        Box::pin(async move { self.destroy_machine(&node).await })
    }

    fn console(&self, node: &NodeName) -> PathBuf {
        self.directory(node).console()
    }

    fn journal(&self, node: &NodeName) -> Option<PathBuf> {
        Some(self.directory(node).journal())
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn standstill(&self) -> Option<&dyn Standstill> {
        Some(self)
    }
}

/// A machine as a saved memory depends on it: QEMU's arguments without the host's paths and ports.
#[must_use]
pub fn machine_definition(mut request: MachineRequest, acceleration: Acceleration) -> String {
    let nowhere = || PathBuf::from("/");
    match &mut request.box_files.boot {
        BoxBoot::Existing => {}
        BoxBoot::Kernel(boot) => {
            (boot.kernel, boot.initramfs, boot.root) = (nowhere(), nowhere(), nowhere())
        }
        BoxBoot::Disk(image) => image.path = nowhere(),
    }
    request.fabric_socket = nowhere();
    let directory = MachineDirectory::new(Path::new("/"), &request.spec.name);
    let (qmp_socket, clock_socket) = (&nowhere(), &nowhere());
    command_line::arguments(&Start {
        request: &request,
        directory: &directory,
        qmp_socket,
        clock_socket,
        ssh_port: 0,
        acceleration,
    })
    .join(" ")
}

/// A process that is or was a machine: what [`processes`] has found or [`sweep`] has killed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    /// The process.
    pub pid: u32,
    /// The machine's name.
    pub node: String,
}

/// Kills exactly the QEMU processes of machines under `state_dir`: what a dead owner may have left. Call it before a new owner starts any.
///
/// # Errors
/// When `/proc` cannot be read or a process survives SIGKILL.
pub async fn sweep(state_dir: &Path) -> Result<Vec<Swept>, ProviderError> {
    let killed = process::sweep(state_dir)
        .await
        .map_err(|error| failed("clear left-over machines", error))?;
    Ok(killed
        .into_iter()
        .map(|(pid, node)| Swept { pid, node })
        .collect())
}

/// The QEMU processes of machines under `state_dir`, whoever started them.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn processes(state_dir: &Path) -> Result<Vec<Swept>, ProviderError> {
    let found = process::find(state_dir).map_err(|error| failed("look for machines", error))?;
    Ok(found
        .into_iter()
        .map(|(pid, node)| Swept { pid, node })
        .collect())
}

/// How long a machine may take to boot at all, while others boot beside it.
fn boot_limit(acceleration: Acceleration) -> Duration {
    match acceleration {
        Acceleration::Kvm => Duration::from_secs(90),
        Acceleration::Tcg => Duration::from_mins(5),
    }
}

/// Resolves when an SSH server shows its banner. QEMU's user network accepts long before the guest does.
async fn await_banner(address: SocketAddr) {
    loop {
        let banner = async {
            let mut start = [0; 4];
            TcpStream::connect(address)
                .await?
                .read_exact(&mut start)
                .await?;
            Ok::<_, std::io::Error>(&start == b"SSH-")
        };
        if matches!(timeout(BANNER_LIMIT, banner).await, Ok(Ok(true))) {
            return;
        }
        tokio::time::sleep(LOOK_PAUSE * 2).await;
    }
}

fn machine(name: NodeName, vm: &Vm) -> Machine {
    Machine {
        name,
        power: Power::On,
        ssh: Some(vm.ssh),
        pid: Some(vm.pid),
    }
}

fn check_socket_path(path: &Path) -> Result<(), ProviderError> {
    let length = path.as_os_str().len();
    if length < MAX_SOCKET_PATH {
        return Ok(());
    }
    let cause = std::io::Error::other(format!(
        "its {length} bytes are too many for a socket; set XDG_RUNTIME_DIR to a shorter path"
    ));
    Err(failed(format!("use {}", path.display()), cause))
}

fn failed(
    what: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ProviderError {
    ProviderError::Failed {
        what: what.into(),
        source: source.into(),
    }
}

//! Machines that the real `vagrant` makes, through libvirt or VirtualBox.
//!
//! ```text
//!   create   wait_for_boot: one `vagrant up` for all       power: virsh, or vagrant halt, up, suspend, resume
//!   (absent) ──────────────────────────────────────► On ◄────────────────────────────────────────────► Off, Frozen
//!      ▲                    vagrant destroy           │
//!      └──────────────────────────────────────────────┘
//! ```
//! Invariants: the cluster's folder `vagrant/` is an ordinary Vagrant folder in which people may use every command of Vagrant's; its
//! Vagrantfile is rendered from `Vagrantfile.tera` before every boot. Machines belong to the hypervisor and outlive the daemon. There
//! is no fabric: the host reaches the machines by SSH, as `vagrant ssh-config` says.
//!
//! Vagrant starts slowly and takes turns with itself, so that all machines are booted by one command; and it has no way to pull a
//! machine's plug, so that libvirt's machines are switched by `virsh`.

mod drive;
mod first_boot;
mod libvirt;
pub mod package;
mod vagrantfile;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use super::provider::{
    BoxBoot, BoxFiles, Machine, MachineRequest, Power, PowerAction, Problem, Provider,
    ProviderError,
};
use crate::model::cluster::{ClusterSpec, MachineSpec};
use crate::model::names::NodeName;
use crate::model::vagrant::{Hypervisor, VagrantSpec};
use crate::shell::local::Command;
use crate::shell::ssh::SshTarget;
use crate::shell::{CommandError, keys};
use drive::{Login, VAGRANT, Vagrant};
use libvirt::Libvirt;
pub use vagrantfile::{Vagrantfile, reserved_settings};

/// The Vagrant folder below a cluster's directory.
const FOLDER: &str = "vagrant";
const MACHINES: &str = "machines";
/// Names in a machine's directory.
const CONSOLE: &str = "console.log";
const IGNITION: &str = "ignition.json";
const HOST_KEY: &str = "ssh_host_ed25519_key.pub";
/// How long the first machine that is waited for waits for the others to be asked for, so that all boot at once.
const GATHERING: Duration = Duration::from_secs(5);
/// Lines of Vagrant's that an error keeps.
const LINES_KEPT: usize = 12;

/// What a provider of Vagrant's machines needs to know.
#[derive(Debug, Clone)]
pub struct VagrantConfig {
    /// The cluster.
    pub spec: ClusterSpec,
    /// How Vagrant is to make it.
    pub vagrant: VagrantSpec,
    /// The cluster's state directory.
    pub state_dir: PathBuf,
    /// The cluster's private SSH key.
    pub private_key: PathBuf,
    /// The machines' public host keys, which our own box takes from its first boot.
    pub host_keys: BTreeMap<NodeName, String>,
    /// Whether guests may use KVM.
    pub kvm: bool,
}

/// Makes machines with Vagrant.
#[derive(Debug)]
pub struct VagrantProvider {
    config: VagrantConfig,
    vagrant: Vagrant,
    libvirt: Option<Libvirt>,
    /// What has been asked for.
    requested: watch::Sender<BTreeMap<NodeName, BoxFiles>>,
    boot: Mutex<Boot>,
    logins: std::sync::Mutex<BTreeMap<NodeName, SshTarget>>,
}

/// What one `vagrant up` after the other has come to.
#[derive(Debug, Default)]
struct Boot {
    up: BTreeSet<NodeName>,
    failed: Option<String>,
}

impl VagrantProvider {
    /// A provider for the machines of one cluster.
    #[must_use]
    pub fn new(config: VagrantConfig) -> Self {
        let vagrant = Vagrant::new(&config.state_dir.join(FOLDER), config.vagrant.hypervisor);
        let libvirt = (config.vagrant.hypervisor == Hypervisor::Libvirt)
            .then(|| Libvirt::of(&config.vagrant));
        Self {
            config,
            vagrant,
            libvirt,
            requested: watch::Sender::default(),
            boot: Mutex::default(),
            logins: std::sync::Mutex::default(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.config.state_dir.join(FOLDER)
    }

    fn directory(&self, node: &NodeName) -> PathBuf {
        self.config.state_dir.join(MACHINES).join(node.as_str())
    }

    fn has_own_box(&self) -> bool {
        self.config.vagrant.vagrant_box.is_none()
    }

    fn prepare(&self, request: &MachineRequest) -> io::Result<()> {
        let directory = self.directory(&request.spec.name);
        private_directory(&directory)?;
        if self.has_own_box() {
            write_private(
                &directory.join(IGNITION),
                &first_boot::for_vagrant(&request.ignition)?,
            )?;
        }
        Ok(())
    }

    /// Boots what has been asked for and is not up, all at once.
    async fn boot(&self) -> Result<(), ProviderError> {
        let all = self.config.spec.machines.len();
        let mut requested = self.requested.subscribe();
        // When some stay away, those that are there boot without them.
        let _ = timeout(
            GATHERING,
            requested.wait_for(|requested| requested.len() == all),
        )
        .await;
        let mut boot = self.boot.lock().await;
        let requested = requested.borrow().clone();
        let missing: Vec<NodeName> = requested
            .keys()
            .filter(|node| !boot.up.contains(*node))
            .cloned()
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(failed) = &boot.failed {
            return Err(self.boot_error(&missing[0], failed.clone()));
        }
        let box_files = requested[&missing[0]].clone();
        let result = self.bring_up(&missing, &box_files).await;
        match &result {
            Ok(()) => boot.up.extend(missing),
            // Machines of one cluster boot together; the others need not try the same again.
            Err(error) => boot.failed = Some(error.to_string()),
        }
        result
    }

    async fn bring_up(
        &self,
        nodes: &[NodeName],
        box_files: &BoxFiles,
    ) -> Result<(), ProviderError> {
        let own_box = own_box_name(&box_files.hash);
        self.write_vagrantfile(&own_box, box_files)
            .map_err(|error| failed("write the Vagrantfile", error))?;
        if self.has_own_box() {
            self.ensure_box(&own_box, box_files).await?;
        }
        let mut said: Vec<String> = Vec::new();
        let brought = self
            .vagrant
            .up(nodes, |line| {
                tracing::info!("vagrant: {line}");
                if said.len() == LINES_KEPT {
                    said.remove(0);
                }
                said.push(line.to_owned());
            })
            .await;
        if let Err(error) = brought {
            let what = match error {
                CommandError::Failed { .. } => format!("`vagrant up` failed:\n{}", said.join("\n")),
                error => error.to_string(),
            };
            return Err(self.boot_error(&nodes[0], what));
        }
        self.learn_logins(nodes).await
    }

    fn write_vagrantfile(&self, own_box: &str, box_files: &BoxFiles) -> io::Result<()> {
        private_directory(&self.folder())?;
        let file = Vagrantfile {
            spec: &self.config.spec,
            vagrant: &self.config.vagrant,
            own_box,
            machines: &self.config.state_dir.join(MACHINES),
            private_key: &self.config.private_key,
            kernel_arguments: match &box_files.boot {
                BoxBoot::Kernel(boot) => &boot.arguments,
                BoxBoot::Existing | BoxBoot::Disk(_) => "",
            },
            kvm: self.config.kvm,
        };
        write_private(
            &self.folder().join("Vagrantfile"),
            &file.render().map_err(io::Error::other)?,
        )
    }

    /// Packages our own box for Vagrant, unless Vagrant has it: its name holds its content's hash.
    async fn ensure_box(&self, name: &str, files: &BoxFiles) -> Result<(), ProviderError> {
        let what = || format!("add box `{name}` to Vagrant's");
        if self
            .vagrant
            .has_box(name)
            .await
            .map_err(|error| failed(what(), error))?
        {
            return Ok(());
        }
        let file = self.folder().join("package.box");
        package::package(files, &file)
            .await
            .map_err(|error| failed(what(), error))?;
        let added = self.vagrant.add_box(name, &file).await;
        let removed = std::fs::remove_file(&file);
        added.map_err(|error| failed(what(), error))?;
        removed.map_err(|error| failed(what(), error))
    }

    /// Asks Vagrant how machines are logged in to, and a machine of a foreign box for its host key, once: its first boot made it.
    async fn learn_logins(&self, nodes: &[NodeName]) -> Result<(), ProviderError> {
        let what = "ask Vagrant how machines are logged in to";
        let found = self
            .vagrant
            .ssh_config(nodes)
            .await
            .map_err(|error| failed(what, error))?;
        for node in nodes {
            let login = found.get(node).ok_or_else(|| {
                failed(
                    what,
                    io::Error::other(format!(
                        "`vagrant ssh-config` says no address, user and key of node `{node}`"
                    )),
                )
            })?;
            let host_key = self.host_key(node).await?;
            let target = ssh_target(login, host_key);
            self.logins
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(node.clone(), target);
        }
        Ok(())
    }

    async fn host_key(&self, node: &NodeName) -> Result<String, ProviderError> {
        if self.has_own_box() {
            let key = self.config.host_keys.get(node).cloned();
            return key.ok_or_else(|| ProviderError::UnknownNode(node.clone()));
        }
        let file = self.directory(node).join(HOST_KEY);
        if let Ok(known) = std::fs::read_to_string(&file) {
            return Ok(known);
        }
        let what = || format!("learn the host key of node `{node}`");
        let said = self
            .vagrant
            .ssh(node, "cat /etc/ssh/ssh_host_ed25519_key.pub")
            .await;
        let said = said.map_err(|error| failed(what(), error))?.text();
        let key = said.lines().find(|line| keys::public_blob(line).is_some());
        let key =
            key.ok_or_else(|| failed(what(), io::Error::other("it has no ed25519 host key")))?;
        write_private(&file, key).map_err(|error| failed(what(), error))?;
        Ok(key.to_owned())
    }

    fn login_of(&self, node: &NodeName) -> Option<SshTarget> {
        self.logins
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(node)
            .cloned()
    }

    async fn switch(&self, node: &NodeName, action: PowerAction) -> Result<(), ProviderError> {
        let id = self
            .vagrant
            .machine_id(node)
            .ok_or_else(|| ProviderError::UnknownNode(node.clone()))?;
        let what = format!("switch the power of node `{node}`");
        if let Some(libvirt) = &self.libvirt {
            return libvirt
                .switch(&id, action)
                .await
                .map_err(|error| failed(what, error));
        }
        let switched = match action {
            PowerAction::PowerOff => self.vagrant.halt(node).await,
            PowerAction::PowerOn => self.vagrant.up(std::slice::from_ref(node), |_| {}).await,
            PowerAction::Reset => match self.vagrant.halt(node).await {
                Ok(()) => self.vagrant.up(std::slice::from_ref(node), |_| {}).await,
                error => error,
            },
            PowerAction::Freeze => self.vagrant.suspend(node).await,
            PowerAction::Thaw => self.vagrant.resume(node).await,
        };
        switched.map_err(|error| failed(what, error))
    }

    async fn states(&self) -> Result<BTreeMap<NodeName, Power>, CommandError> {
        let nodes = self
            .config
            .spec
            .machines
            .iter()
            .map(|machine| &machine.name);
        let mut states = BTreeMap::new();
        if let Some(libvirt) = &self.libvirt {
            for node in nodes {
                if let Some(id) = self.vagrant.machine_id(node)
                    && let Some(power) = libvirt.power(&id).await?
                {
                    states.insert(node.clone(), power);
                }
            }
        } else if self.folder().join("Vagrantfile").exists() {
            let said = self.vagrant.status().await?;
            for node in nodes {
                if let Some(power) = said.get(node.as_str()).and_then(|state| power_of(state)) {
                    states.insert(node.clone(), power);
                }
            }
        }
        Ok(states)
    }

    async fn remove(&self, nodes: &[NodeName]) -> Result<(), ProviderError> {
        let what = "destroy the machines that Vagrant made";
        if self.folder().join("Vagrantfile").exists() {
            self.vagrant
                .destroy(nodes)
                .await
                .map_err(|error| failed(what, error))?;
        }
        for node in nodes {
            match std::fs::remove_dir_all(self.directory(node)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(what, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn boot_error(&self, node: &NodeName, what: String) -> ProviderError {
        let console = std::fs::read(self.console(node)).unwrap_or_default();
        ProviderError::Boot {
            node: node.clone(),
            what,
            console: crate::shell::tail(&console),
        }
    }
}

/// What a box of ours is called among Vagrant's.
#[must_use]
pub fn own_box_name(hash: &str) -> String {
    format!("flightcage-os-{}", hash.get(..12).unwrap_or(hash))
}

/// Whether Vagrant has made machines of the cluster that this directory is of.
#[must_use]
pub fn is_used(state_dir: &Path) -> bool {
    state_dir.join(FOLDER).join(".vagrant/machines").exists()
}

/// Destroys whatever machines a cluster's directory still has of Vagrant's: those of a daemon that died. Fine if there are none.
///
/// # Errors
/// When Vagrant fails; its machines are then still there.
pub async fn sweep(state_dir: &Path) -> Result<(), CommandError> {
    if !is_used(state_dir) {
        return Ok(());
    }
    // Machines that exist remember their provider.
    Vagrant::new(&state_dir.join(FOLDER), Hypervisor::default())
        .destroy(&[])
        .await
}

fn ssh_target(login: &Login, host_key: String) -> SshTarget {
    SshTarget {
        address: login.address,
        user: login.user.clone(),
        private_key: login.key.clone(),
        host_key,
        jump: None,
    }
}

/// A state in Vagrant's words; `None`: there is no machine.
fn power_of(state: &str) -> Option<Power> {
    match state {
        "not_created" => None,
        "running" | "inaccessible" => Some(Power::On),
        "paused" | "saved" | "suspended" => Some(Power::Frozen),
        _ => Some(Power::Off),
    }
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

fn private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())
}

async fn answers(program: &str, argument: &str) -> bool {
    Command::new(program).arg(argument).run().await.is_ok()
}

fn problem(what: impl Into<String>, mend: impl Into<String>) -> Problem {
    Problem {
        what: what.into(),
        mend: mend.into(),
    }
}

impl Provider for VagrantProvider {
    fn name(&self) -> &'static str {
        "vagrant"
    }

    fn preflight(&self, _: &[MachineSpec]) -> BoxFuture<'_, Vec<Problem>> {
        Box::pin(async move {
            let install =
                |packages: &str| format!("sudo apt-get install --no-install-recommends {packages}");
            let mut problems = Vec::new();
            if !answers(VAGRANT, "--version").await {
                let packages = if self.libvirt.is_some() {
                    "vagrant vagrant-libvirt"
                } else {
                    "vagrant"
                };
                problems.push(problem("`vagrant` is not installed", install(packages)));
            }
            if self.has_own_box() && !answers("qemu-img", "--version").await {
                problems.push(problem(
                    "`qemu-img` is not installed; the box is packaged with it",
                    install("qemu-utils"),
                ));
            }
            if let Some(libvirt) = &self.libvirt {
                problems.extend(libvirt.problem().await);
            }
            problems
        })
    }

    fn create(&self, request: MachineRequest) -> BoxFuture<'_, Result<Machine, ProviderError>> {
        Box::pin(async move {
            let node = request.spec.name.clone();
            self.prepare(&request)
                .map_err(|error| failed(format!("make the directory of node `{node}`"), error))?;
            self.requested.send_modify(|requested| {
                requested.insert(node.clone(), request.box_files);
            });
            Ok(Machine {
                name: node,
                power: Power::Off,
                ssh: None,
                pid: None,
            })
        })
    }

    fn wait_for_boot(&self, node: &NodeName) -> BoxFuture<'_, Result<SocketAddr, ProviderError>> {
        let node = node.clone();
        Box::pin(async move {
            self.boot().await?;
            self.login_of(&node)
                .map(|target| target.address)
                .ok_or(ProviderError::UnknownNode(node))
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<Machine>, ProviderError>> {
        Box::pin(async move {
            let states = self
                .states()
                .await
                .map_err(|error| failed("ask for the machines' states", error))?;
            let machine = |(name, power): (NodeName, Power)| {
                let ssh = self.login_of(&name).map(|target| target.address);
                Machine {
                    name,
                    power,
                    ssh,
                    pid: None,
                }
            };
            Ok(states.into_iter().map(machine).collect())
        })
    }

    fn power(
        &self,
        node: &NodeName,
        action: PowerAction,
    ) -> BoxFuture<'_, Result<(), ProviderError>> {
        let node = node.clone();
        Box::pin(async move { self.switch(&node, action).await })
    }

    fn destroy(&self, node: &NodeName) -> BoxFuture<'_, Result<(), ProviderError>> {
        let node = node.clone();
        Box::pin(async move { self.remove(&[node]).await })
    }

    fn destroy_all(&self) -> BoxFuture<'_, Option<Result<(), ProviderError>>> {
        Box::pin(async move {
            let nodes: Vec<NodeName> = self
                .config
                .spec
                .machines
                .iter()
                .map(|machine| machine.name.clone())
                .collect();
            Some(self.remove(&nodes).await)
        })
    }

    fn login(&self, node: &NodeName) -> BoxFuture<'_, Result<Option<SshTarget>, ProviderError>> {
        let node = node.clone();
        Box::pin(async move {
            match self.login_of(&node) {
                Some(target) => Ok(Some(target)),
                None => Err(failed(
                    format!("log in to node `{node}`"),
                    io::Error::other("Vagrant has not booted it yet"),
                )),
            }
        })
    }

    fn machines_outlive_daemon(&self) -> bool {
        true
    }

    fn console(&self, node: &NodeName) -> PathBuf {
        self.directory(node).join(CONSOLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vagrants_states_are_powers() {
        let powers = [
            "not_created",
            "running",
            "saved",
            "paused",
            "poweroff",
            "shutoff",
            "aborted",
        ]
        .map(power_of);
        let (on, off, frozen) = (Some(Power::On), Some(Power::Off), Some(Power::Frozen));
        assert_eq!(powers, [None, on, frozen, frozen, off, off, off]);
    }

    #[test]
    fn a_box_is_named_by_its_content() {
        assert_eq!(
            own_box_name("cbff58b24e8fe8aa83528b7a90398e4d"),
            "flightcage-os-cbff58b24e8f"
        );
        assert_eq!(own_box_name("x"), "flightcage-os-x");
    }
}

//! A cluster's life: up, down, and what an interrupted one left behind.

mod bare;
mod carry;
mod down;
mod error;
mod snapshots;
mod standstill;
mod start;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::timeout;

use super::client::DaemonClient;
use super::daemon::{ClusterRecord, Status, read_json};
use super::home::{ClusterPaths, Home, private_directory, try_lock, write_private};
use super::install::{self, InstallError, MachineState, Payload};
use super::pki;
use crate::images::{self, ImageStore};
use crate::kubernetes::client::{Client, ListParams};
use crate::machines::acceleration;
use crate::machines::boxes::ignition::{self, NetworkCard};
use crate::machines::boxes::{self, BoxDefinition};
use crate::machines::provider::{Acceleration, BoxFiles, MachineRequest, Power, PowerAction};
use crate::model::addresses;
use crate::model::cluster::{ClusterSpec, ProviderKind};
use crate::model::names::NodeName;
use crate::shell::keys;
use crate::shell::ssh::{Ssh, SshTarget};

pub use bare::{bare_boots, bare_load};
pub use carry::{Exported, Import, export_snapshot, import_snapshot};
pub use down::down;
use down::{Remains, clear, lock_is_free};
pub use error::LifeError;
use error::{io_error, part};
use snapshots::Attempt;
pub use snapshots::{
    Boot, KEPT_SNAPSHOTS, SnapshotUse, remove as remove_snapshot, reset, restore, save, shelf,
};
pub use standstill::{pause, resume};
use start::{Admitted, Daemon, admitted_daemon};

/// Longest from a machine's boot to its SSH session.
const SSH_DEADLINE: Duration = Duration::from_mins(3);
/// Longest from the installation to every node Ready.
const READY_DEADLINE: Duration = Duration::from_mins(3);

/// What `up` tells while it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Something about the whole cluster, a box or an image began.
    Step(String),
    /// A part of the step: one line of detail.
    Detail(String),
    /// A machine began its next step.
    Node(NodeName, String),
    /// A machine is Ready.
    NodeReady(NodeName),
}

/// Takes what `up` tells. Called from many tasks; must not block.
pub type Reporter = Arc<dyn Fn(Progress) + Send + Sync>;

/// How long a cluster lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until `down`.
    UntilDown,
    /// As long as the returned [`Cluster`], and no longer than this process.
    Owned,
}

/// A cluster that is up.
pub struct Cluster {
    /// Where its files are.
    pub paths: ClusterPaths,
    /// Its daemon.
    pub daemon: DaemonClient,
    /// Its API, as administrator.
    pub client: Client,
    /// The end of this pipe ends the daemon and the cluster with it.
    owner: Option<(ChildStdin, Child)>,
}

impl Cluster {
    /// Connects to a cluster that is up.
    ///
    /// # Errors
    /// When it is not up, or is paused: nothing in it answers then.
    pub async fn connect(paths: ClusterPaths) -> Result<Self, LifeError> {
        let daemon = DaemonClient::new(paths.clone())?;
        let status = daemon.status().await?;
        if status.paused {
            return Err(LifeError::Paused(paths.name().to_string()));
        }
        let client = admin_client(&paths, &status)?;
        Ok(Self {
            paths,
            daemon,
            client,
            owner: None,
        })
    }

    /// Lets the cluster live on after this process.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn keep(mut self) -> Result<(), LifeError> {
        self.daemon.disown().await?;
        self.owner = None;
        Ok(())
    }

    /// Whether this process brought it up for itself.
    pub fn is_owned(&self) -> bool {
        self.owner.is_some()
    }
}

fn admin_client(paths: &ClusterPaths, status: &Status) -> Result<Client, LifeError> {
    let server = format!("https://127.0.0.1:{}", status.api_port);
    Ok(Client::new(pki::client_config(
        &paths.pki(),
        "admin",
        server,
    )?)?)
}

/// Brings a cluster up, building whatever box and image is missing: from its automatic snapshot, or by a cold boot.
/// A failure removes what this call made.
///
/// # Errors
/// See [`LifeError`]. After an error nothing of a cluster that this call began is left.
pub async fn up(
    home: &Home,
    spec: ClusterSpec,
    boot: impl Into<Boot>,
    report: Reporter,
) -> Result<Cluster, LifeError> {
    let paths = home.cluster(&spec.name);
    let _life = lock_life(&paths)?;
    up_locked(home, &paths, &spec, boot.into(), &report).await
}

/// Nobody else brings the cluster up or down, or changes its snapshots, while this lives. The lock's file goes with a cluster of which
/// nothing is there.
struct LifeLock {
    paths: ClusterPaths,
    _lock: File,
}

impl Drop for LifeLock {
    fn drop(&mut self) {
        // The lock is still held: nobody has begun a cluster meanwhile.
        if !self.paths.root().exists() {
            self.paths.remove_locks();
        }
    }
}

fn lock_life(paths: &ClusterPaths) -> Result<LifeLock, LifeError> {
    private_directory(paths.root().parent().expect("clusters live in a directory"))
        .map_err(io_error("make the clusters' directory"))?;
    let lock = try_lock(&paths.life_lock()).map_err(io_error("lock the cluster"))?;
    let lock = lock.ok_or_else(|| LifeError::Busy(paths.name().to_string()))?;
    Ok(LifeLock {
        paths: paths.clone(),
        _lock: lock,
    })
}

async fn up_locked(
    home: &Home,
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    boot: Boot,
    report: &Reporter,
) -> Result<Cluster, LifeError> {
    let existing: Option<ClusterRecord> = read_json(&paths.spec()).ok();
    let complete = paths.complete().exists();
    if let Some(existing) = &existing
        && complete
        && existing.spec != *spec
    {
        return Err(LifeError::OtherSpecification(paths.name().to_string()));
    }
    let daemon = DaemonClient::new(paths.clone())?;
    if complete && let Some(cluster) = join(paths, &daemon, spec, report).await? {
        return Ok(cluster);
    }
    clear(paths, &daemon, Remains::of(complete)).await?;

    // A cluster that has disks of its own is booted from them: a snapshot would throw away what is on them.
    let snapshots = if complete || !snapshots::possible(spec) {
        SnapshotUse::Ignore
    } else {
        boot.snapshots
    };
    let bringing = bring_up(home, paths, spec, Boot { snapshots, ..boot }, report);
    match bringing.await {
        Ok(cluster) => Ok(cluster),
        Err(error) => {
            report(Progress::Step("taking down what was begun".into()));
            let remains = if complete {
                Remains::Cluster
            } else {
                Remains::Nothing
            };
            if let Err(problem) = clear(paths, &daemon, remains).await {
                tracing::warn!(%problem, "not everything could be taken down");
            }
            Err(error)
        }
    }
}

/// Makes a cluster whose daemon lives whole again: machines that are off are powered on. `None` when its daemon is gone or goes.
async fn join(
    paths: &ClusterPaths,
    daemon: &DaemonClient,
    spec: &ClusterSpec,
    report: &Reporter,
) -> Result<Option<Cluster>, LifeError> {
    let Ok(status) = daemon.status().await else {
        return Ok(None);
    };
    if status.owned {
        return Err(LifeError::Owned(paths.name().to_string()));
    }
    if status.paused {
        return Err(LifeError::Paused(paths.name().to_string()));
    }
    let client = admin_client(paths, &status)?;
    let whole = async {
        for machine in &status.machines {
            let action = match machine.power {
                Power::On => continue,
                Power::Off => PowerAction::PowerOn,
                Power::Frozen => PowerAction::Thaw,
            };
            report(Progress::Node(machine.name.clone(), "powering on".into()));
            daemon.power(&machine.name, action).await?;
        }
        wait_until_ready(&client, &node_names(spec), report).await
    };
    tokio::select! {
        whole = whole => whole?,
        () = lock_is_free(paths) => return Ok(None),
    }
    Ok(Some(Cluster {
        paths: paths.clone(),
        daemon: daemon.clone(),
        client,
        owner: None,
    }))
}

/// What machines are made from.
struct Parts {
    acceleration: Option<Acceleration>,
    box_files: BoxFiles,
}

/// Finds or builds what machines are made from.
async fn prepare(home: &Home, spec: &ClusterSpec, report: &Reporter) -> Result<Parts, LifeError> {
    let acceleration = if spec.uses_qemu() {
        let proof = acceleration::prove(&home.cache())
            .await
            .map_err(part("prove the acceleration"))?;
        report(Progress::Step(format!("acceleration: {}", proof.reason)));
        Some(proof.acceleration)
    } else {
        None
    };
    let box_files = if spec.uses_own_box() {
        build_artefacts(home, &spec.box_name, report).await?
    } else {
        build_images(home, report).await?;
        BoxFiles::default()
    };
    Ok(Parts {
        acceleration,
        box_files,
    })
}

async fn bring_up(
    home: &Home,
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    boot: Boot,
    report: &Reporter,
) -> Result<Cluster, LifeError> {
    let parts = prepare(home, spec, report).await?;
    let SnapshotUse::Keep(keep @ 1..) = boot.snapshots else {
        return boot_cold(home, paths, spec, &parts, boot.lifetime, report).await;
    };
    let fingerprint = snapshots::fingerprint(home, paths, spec, &parts).await?;
    let is_missing =
        match snapshots::from_snapshot(home, paths, &parts, &fingerprint, boot.lifetime, report)
            .await?
        {
            Attempt::Restored(cluster) => return Ok(cluster),
            Attempt::Nothing => true,
            // As good as a new one.
            Attempt::Kept => false,
        };
    let cluster = boot_cold(home, paths, spec, &parts, boot.lifetime, report).await?;
    if is_missing {
        snapshots::save_pristine(&cluster, spec, &parts, fingerprint, keep, report).await;
    }
    Ok(cluster)
}

async fn boot_cold(
    home: &Home,
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    parts: &Parts,
    lifetime: Lifetime,
    report: &Reporter,
) -> Result<Cluster, LifeError> {
    let admitted = begin(home, paths, spec, parts, lifetime, report).await?;
    // What an earlier attempt began is gone by now; hosts are not ours, and may know us.
    let blank = !paths.complete().exists() && spec.provider != ProviderKind::Hosts;
    let payload = Payload::of_running_binary(if blank {
        MachineState::Blank
    } else {
        MachineState::Unknown
    })?;
    let Daemon {
        owner,
        client: daemon,
    } = create_machines(admitted, paths, spec, &parts.box_files, report).await?;
    let machines = (0..spec.machines.len())
        .map(|index| bring_up_machine(paths, spec, index, &daemon, &payload, report));
    futures::future::try_join_all(machines).await?;

    let status = daemon.status().await?;
    let client = admin_client(paths, &status)?;
    wait_until_ready(&client, &node_names(spec), report).await?;
    write_kubeconfig(paths, status.api_port)?;
    finish(
        Cluster {
            paths: paths.clone(),
            daemon,
            client,
            owner,
        },
        lifetime,
    )
    .await
}

/// Begins a cluster whose machines are to boot: all that there is before the first of them.
async fn begin(
    home: &Home,
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    parts: &Parts,
    lifetime: Lifetime,
    report: &Reporter,
) -> Result<Admitted, LifeError> {
    paths
        .make()
        .map_err(io_error("make the cluster's directories"))?;
    pki::ensure(&paths.pki(), spec)?;
    ensure_ssh_keys(paths, spec)?;
    write_record(
        paths,
        &ClusterRecord {
            spec: spec.clone(),
            acceleration: parts.acceleration,
            restored_from: None,
        },
    )?;
    report(Progress::Step(match parts.acceleration {
        Some(acceleration) => format!(
            "booting {} machines ({})",
            spec.machines.len(),
            accel_name(acceleration)
        ),
        None => format!(
            "reaching {} machines ({})",
            spec.machines.len(),
            spec.provider
        ),
    }));
    admitted_daemon(home, paths, lifetime).await
}

fn write_record(paths: &ClusterPaths, record: &ClusterRecord) -> Result<(), LifeError> {
    let record = serde_json::to_vec_pretty(record).expect("a specification is plain data");
    write_private(&paths.spec(), &record).map_err(io_error("write the cluster's specification"))
}

/// Makes all machines at once; they boot then.
async fn create_machines(
    admitted: Admitted,
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    box_files: &BoxFiles,
    report: &Reporter,
) -> Result<Daemon, LifeError> {
    let Admitted { daemon, admission } = admitted;
    let machines = (0..spec.machines.len())
        .map(|index| create_machine(paths, spec, index, &daemon.client, box_files, report));
    futures::future::try_join_all(machines).await?;
    drop(admission);
    Ok(daemon)
}

/// Marks a cluster as one that is up, and lets it live as long as it is to.
async fn finish(mut cluster: Cluster, lifetime: Lifetime) -> Result<Cluster, LifeError> {
    if lifetime == Lifetime::UntilDown {
        // First the daemon, then the mark: killed in between, the next `up` or `down` finds a half-made cluster and clears it.
        cluster.daemon.disown().await?;
        cluster.owner = None;
    }
    write_private(&cluster.paths.complete(), b"")
        .map_err(io_error("mark the cluster as complete"))?;
    Ok(cluster)
}

fn accel_name(acceleration: Acceleration) -> &'static str {
    match acceleration {
        Acceleration::Kvm => "kvm",
        Acceleration::Tcg => "tcg",
    }
}

/// Builds the box and the stack's images, unless the caches have them.
///
/// # Errors
/// When a definition is wrong or a build fails.
pub async fn build_artefacts(
    home: &Home,
    box_name: &str,
    report: &Reporter,
) -> Result<BoxFiles, LifeError> {
    let definition = BoxDefinition::load(box_name)
        .map_err(part(format!("read the definition of box `{box_name}`")))?;
    report(Progress::Step(format!("box {box_name} and images")));
    let detail = detail(report);
    let box_files = boxes::build(&definition, &home.boxes(), &detail)
        .await
        .map_err(part(format!("build the box `{box_name}`")))?;
    build_images(home, report).await?;
    Ok(box_files)
}

fn detail(report: &Reporter) -> impl Fn(&str) + Send + Sync + use<> {
    let report = report.clone();
    move |line: &str| report(Progress::Detail(line.to_owned()))
}

/// Builds the stack's images, unless the cache has them.
///
/// # Errors
/// When a definition is wrong or a build fails.
pub async fn build_images(home: &Home, report: &Reporter) -> Result<(), LifeError> {
    let detail = detail(report);
    let store = ImageStore::open(home.images()).map_err(part("open the image store"))?;
    for image in images::builtin() {
        let built = images::build(&image, &store, &home.scratch(), &detail).await;
        built.map_err(part(format!("build the image `{}`", image.name)))?;
    }
    Ok(())
}

fn ensure_ssh_keys(paths: &ClusterPaths, spec: &ClusterSpec) -> Result<(), LifeError> {
    let keys = std::iter::once(paths.ssh_key()).chain(
        spec.machines
            .iter()
            .map(|machine| paths.ssh_host_key(&machine.name)),
    );
    for path in keys {
        if path.exists() {
            continue;
        }
        let pair = keys::generate_ed25519("flightcage");
        write_private(&path.with_extension("pub"), pair.public_openssh.as_bytes())
            .map_err(io_error("write an SSH key"))?;
        write_private(&path, pair.private_openssh_pem.as_bytes())
            .map_err(io_error("write an SSH key"))?;
    }
    Ok(())
}

/// How a machine that was booted from a box of ours is logged in to.
///
/// # Errors
/// When its recorded host key cannot be read.
pub fn own_login(
    paths: &ClusterPaths,
    node: &NodeName,
    address: SocketAddr,
) -> Result<SshTarget, LifeError> {
    let host_key = read_text(&paths.ssh_host_key(node).with_extension("pub"))?;
    Ok(SshTarget {
        address,
        user: "core".into(),
        private_key: paths.ssh_key(),
        host_key,
        jump: None,
    })
}

fn read_text(path: &std::path::Path) -> Result<String, LifeError> {
    std::fs::read_to_string(path).map_err(io_error(format!("read `{}`", path.display())))
}

/// What the machine at `index` is made from: the same each time, since keys are recorded.
fn machine_request(
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    index: usize,
    box_files: &BoxFiles,
) -> Result<MachineRequest, LifeError> {
    let machine = &spec.machines[index];
    let node = &machine.name;
    let first_boot = ignition::FirstBoot {
        hostname: node.to_string(),
        authorized_keys: vec![read_text(&paths.ssh_key().with_extension("pub"))?],
        host_key_private: read_text(&paths.ssh_host_key(node))?,
        host_key_public: read_text(&paths.ssh_host_key(node).with_extension("pub"))?,
        network: vec![
            NetworkCard::cluster(
                &addresses::mac_text(addresses::node_mac(index)),
                spec.address(index),
            ),
            NetworkCard::ssh(&addresses::mac_text(addresses::ssh_mac(index))),
        ],
        hosts: spec
            .machines
            .iter()
            .enumerate()
            .map(|(index, machine)| (spec.address(index), machine.name.to_string()))
            .collect(),
        kernel_arguments: machine.kernel_arguments.clone(),
        fragments: machine.ignition.clone(),
    };
    let channel = BoxDefinition::load(&spec.box_name)
        .map_err(part(format!(
            "read the definition of box `{}`",
            spec.box_name
        )))?
        .first_boot;
    Ok(MachineRequest {
        spec: machine.clone(),
        index,
        box_files: box_files.clone(),
        ignition: ignition::render(&first_boot, &channel)
            .map_err(part(format!("configure node `{node}`")))?,
        fabric_socket: std::path::PathBuf::new(),
    })
}

async fn create_machine(
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    index: usize,
    daemon: &DaemonClient,
    box_files: &BoxFiles,
    report: &Reporter,
) -> Result<(), LifeError> {
    let machine = &spec.machines[index];
    let node = &machine.name;
    report(Progress::Node(node.clone(), "booting".into()));
    let request = machine_request(paths, spec, index, box_files)?;
    daemon.create(&request).await?;
    Ok(())
}

async fn bring_up_machine(
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    index: usize,
    daemon: &DaemonClient,
    payload: &Payload,
    report: &Reporter,
) -> Result<(), LifeError> {
    let node = &spec.machines[index].name;
    let tell = |what: &str| report(Progress::Node(node.clone(), what.to_owned()));
    let ssh = log_in(daemon, node, report).await?;
    install::install(paths, spec, index, &ssh, payload, tell).await?;
    daemon.installed(node).await?;
    tell("waiting for the node to be Ready");
    Ok(())
}

/// Waits until a machine that boots lets us in.
async fn log_in(
    daemon: &DaemonClient,
    node: &NodeName,
    report: &Reporter,
) -> Result<Ssh, LifeError> {
    daemon.wait_for_boot(node).await?;
    report(Progress::Node(node.clone(), "connecting by SSH".into()));
    let target = daemon.login(node).await?;
    let connected = Ssh::connect(&target, SSH_DEADLINE).await;
    Ok(connected.map_err(|source| InstallError::Ssh {
        node: node.to_string(),
        source,
    })?)
}

/// The last 2 KiB of a text file.
fn end_of(path: &std::path::Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2048)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_default()
}

fn node_names(spec: &ClusterSpec) -> Vec<NodeName> {
    spec.machines
        .iter()
        .map(|machine| machine.name.clone())
        .collect()
}

/// Waits until these machines are Ready nodes.
async fn wait_until_ready(
    client: &Client,
    wanted: &[NodeName],
    report: &Reporter,
) -> Result<(), LifeError> {
    let nodes = client.reflect::<Node>("", ListParams::default());
    let mut changed = nodes.subscribe();
    let mut ready: std::collections::BTreeSet<String> = std::collections::BTreeSet::new();
    let all = async {
        loop {
            for node in changed.borrow_and_update().values() {
                let Some(name) = node.metadata.name.clone() else {
                    continue;
                };
                if is_ready(node)
                    && ready.insert(name.clone())
                    && let Ok(name) = name.parse()
                {
                    report(Progress::NodeReady(name));
                }
            }
            if wanted.iter().all(|name| ready.contains(name.as_str())) {
                return;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    if timeout(READY_DEADLINE, all).await.is_ok() {
        return Ok(());
    }
    let missing: Vec<&str> = wanted
        .iter()
        .map(NodeName::as_str)
        .filter(|name| !ready.contains(*name))
        .collect();
    Err(LifeError::TimedOut {
        seconds: READY_DEADLINE.as_secs(),
        what: "every node to be Ready".into(),
        seen: format!("not Ready: {}", missing.join(", ")),
    })
}

/// Whether a node's condition `Ready` is `True`.
pub fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    })
}

fn write_kubeconfig(paths: &ClusterPaths, api_port: u16) -> Result<(), LifeError> {
    use base64::Engine;
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let pki = paths.pki();
    let name = format!("flightcage-{}", paths.name());
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": name, "cluster": {
            "server": format!("https://127.0.0.1:{api_port}"),
            "certificate-authority-data": encode(pki::read(&pki, "ca.crt")?),
        }}],
        "users": [{ "name": name, "user": {
            "client-certificate-data": encode(pki::read(&pki, "admin.crt")?),
            "client-key-data": encode(pki::read(&pki, "admin.key")?),
        }}],
        "contexts": [{ "name": name, "context": { "cluster": name, "user": name, "namespace": "default" } }],
        "current-context": name,
    });
    // JSON is YAML: every client reads it.
    let text = serde_json::to_vec_pretty(&kubeconfig).expect("a kubeconfig is plain data");
    write_private(&paths.kubeconfig(), &text).map_err(io_error("write the kubeconfig"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_goes_with_a_cluster_that_is_not_there_and_stays_with_one_that_is() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let home = Home::at(directory.path().to_owned()).expect("it is ours");
        let paths = home.cluster(&"test".parse().expect("a name"));
        let life = lock_life(&paths).expect("it is free");
        assert!(matches!(lock_life(&paths), Err(LifeError::Busy(_))));
        assert!(
            paths.life_lock().exists(),
            "one that was refused removes nothing"
        );
        drop(life);
        assert!(home.cluster_names().expect("it can be read").is_empty());
        assert!(
            snapshots::remove(&paths, "none").is_err()
                && home.cluster_names().expect("it can be read").is_empty()
        );
        paths.make().expect("they can be made");
        drop(lock_life(&paths).expect("it is free"));
        assert!(paths.life_lock().exists());
        paths.remove().expect("they are ours");
    }
}

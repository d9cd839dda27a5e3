//! Installs the orchestrator on a machine over SSH: the running binary, configuration, certificates and systemd units.
//!
//! Idempotent and resumable: the binary is named by its content and uploaded only where it is missing; everything else is small
//! and written each time. Nothing secret is ever an argument: files travel on standard input.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::home::ClusterPaths;
use super::pki::{self, PkiError};
use super::uninstall;
use crate::model::addresses;
use crate::model::cluster::{ClusterSpec, MachineSpec, ProviderKind, Role};
use crate::orchestrator::config::{AgentConfig, IdentityFiles, ProxyConfig, ServerConfig};
use crate::shell::ssh::{COMMAND_LIMIT, Ssh, SshError};

/// Where the roles keep their configuration in a machine.
const CONFIG_DIR: &str = "/etc/flightcage";
/// On the machine's own ext4 disk, which overlayfs accepts below a container's root.
const DATA_DIR: &str = "/var/lib/flightcage";
/// Where the packed binary waits in a machine, in memory.
const ARRIVING: &str = "/run/flightcage-arriving.zst";
/// Level 3 packs as fast as the SSH path carries under TCG.
const UPLOAD_LEVEL: i32 = 3;

/// Why a machine could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The running binary could not be read or packed.
    #[error("read the running binary")]
    Binary(#[source] io::Error),
    /// Configuration could not be rendered.
    #[error("render the configuration of node `{node}`: {what}")]
    Render {
        /// Which node.
        node: String,
        /// What went wrong.
        what: String,
    },
    /// A certificate is missing.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// SSH failed.
    #[error("install node `{node}`")]
    Ssh {
        /// Which node.
        node: String,
        /// The cause.
        #[source]
        source: SshError,
    },
    /// A command on the machine failed.
    #[error("install node `{node}`: `{command}` failed: {stderr}")]
    Command {
        /// Which node.
        node: String,
        /// The command.
        command: String,
        /// The end of its error output.
        stderr: String,
    },
}

/// Where the running binary is on a machine that it is installed on.
///
/// # Errors
/// When it cannot be read.
pub fn binary_path() -> io::Result<PathBuf> {
    Ok(path_of(&std::fs::read("/proc/self/exe")?))
}

/// Its name holds the content's hash.
fn path_of(binary: &[u8]) -> PathBuf {
    let digest = Sha256::digest(binary);
    let tag: String = digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    PathBuf::from(format!("{DATA_DIR}/bin/flightcage-{tag}"))
}

/// What is known of the machines before they are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineState {
    /// They have just been made: they have nothing of ours.
    Blank,
    /// They may have been installed before.
    Unknown,
}

/// The running binary, packed once for all machines.
#[derive(Clone)]
pub struct Payload {
    /// Path in the machine; its name holds the content's hash.
    target: PathBuf,
    packed: Arc<Vec<u8>>,
    /// Of the unpacked binary: one whose upload was cut off is smaller.
    size: usize,
    machines: MachineState,
}

impl Payload {
    /// Packs the binary that is running, for machines that are alike.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_running_binary(machines: MachineState) -> Result<Self, InstallError> {
        let pack = || -> io::Result<Self> {
            let binary = std::fs::read("/proc/self/exe")?;
            let target = path_of(&binary);
            let packed = Arc::new(zstd::encode_all(binary.as_slice(), UPLOAD_LEVEL)?);
            Ok(Self {
                target,
                packed,
                size: binary.len(),
                machines,
            })
        };
        pack().map_err(InstallError::Binary)
    }

    /// Bytes that travel to a machine that has no binary yet.
    pub fn compressed_size(&self) -> usize {
        self.packed.len()
    }

    fn told(&self) -> String {
        format!(
            "uploading {} of binary",
            bytesize::ByteSize::b(self.packed.len() as u64)
                .display()
                .iec_short()
        )
    }

    /// The command that makes the binary of what comes on standard input: complete or not at all. The packed one is written to memory
    /// first: in a pipe of several processes each piece of 10 KiB would cost an emulated machine a millisecond for each of them.
    fn receive(&self) -> String {
        let (target, directory) = (
            self.target.display(),
            self.target.parent().unwrap_or(&self.target).display(),
        );
        format!(
            "mkdir -p {directory} && cat >{ARRIVING} && zstd -d -q -f -o {target}.part {ARRIVING} && rm {ARRIVING} && \
             chmod 755 {target}.part && mv -f {target}.part {target}"
        )
    }
}

/// Installs the roles of the machine at `index` and starts them.
///
/// # Errors
/// When SSH or a command on the machine fails.
pub async fn install(
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    index: usize,
    ssh: &Ssh,
    payload: &Payload,
    step: impl Fn(&str),
) -> Result<(), InstallError> {
    let machine = &spec.machines[index];
    let remote = Remote {
        node: machine.name.to_string(),
        ssh,
    };
    let units = units(machine).join(" ");
    let start = format!("systemctl daemon-reload && systemctl restart --no-block {units}");
    let target = payload.target.display();
    if spec.provider == ProviderKind::Hosts {
        let identity = uninstall::identity(&spec.name, &paths.pki())
            .expect("certificates are made before machines are installed");
        remote.arrive(payload, &identity, &step).await?;
    }
    let files = configuration(paths, spec, index, &payload.target)?;
    // Each command costs an emulated machine a second: one for a new machine, and one for one that has the binary.
    if payload.machines == MachineState::Blank {
        step(&payload.told());
        let receive = payload.receive();
        // Units that systemd has never looked for need no reload.
        let install = format!(
            "head -c {} | {EXTRACT} && {receive} && systemctl start --no-block {units}",
            files.len()
        );
        remote
            .run(&install, [files.as_slice(), &payload.packed].concat(), &[0])
            .await?;
    } else {
        step("writing configuration");
        let configure =
            format!("{EXTRACT} || exit 1; test -x {target} || exit {NO_BINARY}; {start}");
        if remote.run(&configure, files, &[0, NO_BINARY]).await? == NO_BINARY {
            step(&payload.told());
            remote
                .run(
                    &format!("{} && {start}", payload.receive()),
                    payload.packed.to_vec(),
                    &[0],
                )
                .await?;
        }
    }
    step("starting services");
    Ok(())
}

/// Unpacks what comes on standard input.
const EXTRACT: &str = "tar --extract --no-same-owner --directory / --file -";
/// Exit code that says that the machine has no such binary yet.
const NO_BINARY: i32 = 100;

/// The machine's units, in the order in which they are started.
fn units(machine: &MachineSpec) -> Vec<&'static str> {
    let server = (machine.role == Role::Controller).then_some("flightcage-server.service");
    server
        .into_iter()
        .chain(["flightcage-proxy.service", "flightcage-agent.service"])
        .collect()
}

struct Remote<'a> {
    node: String,
    ssh: &'a Ssh,
}

impl Remote<'_> {
    /// Brings the binary to a machine that is not ours, and notes how the machine was before anything else of it is changed.
    async fn arrive(
        &self,
        payload: &Payload,
        identity: &str,
        step: &impl Fn(&str),
    ) -> Result<(), InstallError> {
        let target = payload.target.display();
        // An upload that was cut off has left a smaller one.
        let arrive = format!(
            "[ \"$(stat -c %s {target} 2>/dev/null)\" = {} ] || exit {NO_BINARY}; {target} machine arrive {identity}",
            payload.size
        );
        if self.run(&arrive, Vec::new(), &[0, NO_BINARY]).await? == NO_BINARY {
            step(&payload.told());
            let arrive = format!(
                "{} && {target} machine arrive {identity}",
                payload.receive()
            );
            self.run(&arrive, payload.packed.to_vec(), &[0]).await?;
        }
        Ok(())
    }

    /// Runs `commands` as root and returns their exit code, which must be one of `expected`.
    async fn run(
        &self,
        commands: &str,
        stdin: Vec<u8>,
        expected: &[i32],
    ) -> Result<i32, InstallError> {
        // An emulated machine on a busy host takes 128 KiB/s.
        let limit = COMMAND_LIMIT + Duration::from_secs(stdin.len() as u64 >> 17);
        let output = self
            .ssh
            .run_within(&format!("sudo sh -c '{commands}'"), Some(stdin), limit)
            .await;
        let output = output.map_err(|source| InstallError::Ssh {
            node: self.node.clone(),
            source,
        })?;
        if expected.contains(&output.status) {
            return Ok(output.status);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let stderr = stderr
            .lines()
            .rev()
            .take(5)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("; ");
        Err(InstallError::Command {
            node: self.node.clone(),
            command: commands.to_owned(),
            stderr,
        })
    }
}

/// The tar archive of everything but the binary.
fn configuration(
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    index: usize,
    binary: &Path,
) -> Result<Vec<u8>, InstallError> {
    let machine = &spec.machines[index];
    let node = machine.name.as_str();
    let render = |what: String| InstallError::Render {
        node: node.to_owned(),
        what,
    };
    let pki = paths.pki();
    let mut files: Vec<(String, u32, Vec<u8>)> = Vec::new();
    let mut identities = vec![
        ("node", format!("node-{node}")),
        ("proxy", format!("proxy-{node}")),
    ];
    if machine.role == Role::Controller {
        identities.push(("server", "server".to_owned()));
        let key = pki.join("secrets.key");
        let key = std::fs::read(&key).map_err(|source| PkiError::File { path: key, source })?;
        files.push((format!("{CONFIG_DIR}/secrets.key"), 0o600, key));
    }
    files.push((
        format!("{CONFIG_DIR}/ca.crt"),
        0o644,
        pki::read(&pki, "ca.crt")?.into_bytes(),
    ));
    for (target, source) in identities {
        files.push((
            format!("{CONFIG_DIR}/{target}.crt"),
            0o644,
            pki::read(&pki, &format!("{source}.crt"))?.into_bytes(),
        ));
        files.push((
            format!("{CONFIG_DIR}/{target}.key"),
            0o600,
            pki::read(&pki, &format!("{source}.key"))?.into_bytes(),
        ));
    }
    let mut templates = tera::Tera::default();
    let mut context = tera::Context::new();
    context.insert("binary", &binary.display().to_string());
    context.insert("node", node);
    for (role, config, unit) in
        roles(spec, index, machine).map_err(|error| render(error.to_string()))?
    {
        files.push((
            format!("{CONFIG_DIR}/{role}.toml"),
            0o600,
            config.into_bytes(),
        ));
        let name = format!("flightcage-{role}.service");
        templates
            .add_raw_template(&name, unit)
            .map_err(|error| render(error.to_string()))?;
        let unit = templates
            .render(&name, &context)
            .map_err(|error| render(error.to_string()))?;
        files.push((
            format!("/etc/systemd/system/{name}"),
            0o644,
            unit.into_bytes(),
        ));
    }
    let pack = || -> io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, mode, contents) in &files {
            append(&mut archive, Path::new(path), *mode, contents)?;
        }
        for unit in units(machine) {
            enable(&mut archive, unit)?;
        }
        archive.into_inner()
    };
    pack().map_err(|error| render(error.to_string()))
}

/// The role's label of a controller.
const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";

/// The labels that the control plane lets each node set, whatever their prefix: those of the cluster's file, and its role.
fn granted_labels(spec: &ClusterSpec) -> BTreeMap<String, BTreeSet<String>> {
    let of = |machine: &MachineSpec| {
        let role = (machine.role == Role::Controller).then(|| CONTROL_PLANE_LABEL.to_owned());
        let labels: BTreeSet<String> = machine.labels.keys().cloned().chain(role).collect();
        (machine.name.to_string(), labels)
    };
    spec.machines
        .iter()
        .map(of)
        .filter(|(_, labels)| !labels.is_empty())
        .collect()
}

/// Role, its configuration and its unit's template.
fn roles(
    spec: &ClusterSpec,
    index: usize,
    machine: &MachineSpec,
) -> Result<Vec<(&'static str, String, &'static str)>, toml::ser::Error> {
    let server = format!("https://{}:{}", spec.address(0), addresses::API_PORT);
    // Without a fabric the mirror comes to each node's own loopback, through SSH.
    let mirror = if spec.provider.has_fabric() {
        addresses::GATEWAY
    } else {
        Ipv4Addr::LOCALHOST
    };
    let identity = |name: &str| IdentityFiles {
        ca: format!("{CONFIG_DIR}/ca.crt").into(),
        certificate: format!("{CONFIG_DIR}/{name}.crt").into(),
        key: format!("{CONFIG_DIR}/{name}.key").into(),
    };
    let network = |index| {
        let (address, prefix) = addresses::pod_network(index);
        format!("{address}/{prefix}")
    };
    let controller = machine.role == Role::Controller;
    let mut labels = machine.labels.clone();
    if controller {
        labels.insert(CONTROL_PLANE_LABEL.into(), String::new());
    }
    let agent = AgentConfig {
        node: machine.name.to_string(),
        address: spec.address(index),
        server: server.clone(),
        registry: format!("https://{mirror}:{}", addresses::REGISTRY_PORT),
        identity: identity("node"),
        pod_network: network(index),
        routes: (0..spec.machines.len())
            .filter(|&other| other != index)
            .map(|other| (network(other), spec.address(other)))
            .collect::<BTreeMap<_, _>>(),
        data_dir: DATA_DIR.into(),
        labels,
        taints: {
            let automatic = controller.then(|| format!("{CONTROL_PLANE_LABEL}=:NoSchedule"));
            automatic
                .into_iter()
                .chain(machine.taints.clone())
                .collect()
        },
    };
    let proxy = ProxyConfig {
        node: machine.name.to_string(),
        server,
        identity: identity("proxy"),
    };
    let mut roles = vec![
        (
            "agent",
            toml::to_string(&agent)?,
            include_str!("units/agent.service.tera"),
        ),
        (
            "proxy",
            toml::to_string(&proxy)?,
            include_str!("units/proxy.service.tera"),
        ),
    ];
    if controller {
        let server = ServerConfig {
            listen: SocketAddr::from(([0, 0, 0, 0], addresses::API_PORT)),
            address: spec.address(0),
            data_dir: format!("{DATA_DIR}/server").into(),
            identity: identity("server"),
            secrets_key: format!("{CONFIG_DIR}/secrets.key").into(),
            eviction_brake_percent: spec.eviction_brake_percent,
            accept_unenforced: spec.accept_unenforced,
            tokens: spec.tokens,
            images: spec.images.clone(),
            granted_labels: granted_labels(spec),
        };
        roles.push((
            "server",
            toml::to_string(&server)?,
            include_str!("units/server.service.tera"),
        ));
    }
    Ok(roles)
}

/// Appends a file of root's, with the directories above it.
fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &Path,
    mode: u32,
    contents: &[u8],
) -> io::Result<()> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let mut header = tar::Header::new_gnu();
    header.set_size(contents.len() as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_data(&mut header, path, contents)
}

/// Appends the link with which `systemctl enable` would enable a unit.
fn enable<W: Write>(archive: &mut tar::Builder<W>, unit: &str) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    archive.append_link(
        &mut header,
        format!("etc/systemd/system/multi-user.target.wants/{unit}"),
        format!("/etc/systemd/system/{unit}"),
    )
}

//! A cluster's life with snapshots: restored instead of booted, saved once it is pristine, put back between two tests.

use std::path::Path;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::{
    Admitted, Cluster, ClusterRecord, Daemon, LifeError, Lifetime, Parts, Progress, Remains,
    Reporter, admin_client, admitted_daemon, clear, finish, io_error, lock_life, machine_request,
    part, wait_until_ready, write_kubeconfig, write_record,
};
use crate::cluster::client::{DaemonClient, DaemonClientError};
use crate::cluster::daemon::RestoreOrder;
use crate::cluster::home::{ClusterPaths, Home, private_directory, write_private};
use crate::cluster::install;
use crate::cluster::snapshot::{
    self, Fingerprint, Ingredients, Kept, Kind, MAX_AUTOMATIC_BYTES, Manifest, Shelf, SnapshotError,
};
use crate::images::ImageStore;
use crate::kubernetes::client::Client;
use crate::machines::provider::{MachineRequest, Power, Restored};
use crate::machines::qemu;
use crate::model::cluster::{ClusterSpec, ProviderKind};
use crate::model::names::{ClusterName, NodeName};

/// Automatic snapshots of a cluster that are kept unless the user says otherwise.
pub const KEPT_SNAPSHOTS: usize = 1;
/// Longest from the machines' running again to a sign of life of each agent.
const BEAT_DEADLINE: Duration = Duration::from_secs(30);
/// Pause after a failed question for a sign of life: a restored machine that is asked too often does nothing but TLS handshakes.
const BEAT_RETRY: Duration = Duration::from_millis(250);
/// Longest from the last sign of life until the daemon serves the cluster's Services; its reflectors back off for 2 s at most.
const INGRESS_DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two looks at whether it does.
const INGRESS_PAUSE: Duration = Duration::from_millis(50);
/// What a snapshot holds beside memories and disks.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// How a cluster is brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot {
    /// How long it lives.
    pub lifetime: Lifetime,
    /// What is done with automatic snapshots.
    pub snapshots: SnapshotUse,
}

/// What is done with automatic snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotUse {
    /// Restore the one that matches, else save one; keep so many. None: the same as [`SnapshotUse::Ignore`].
    Keep(usize),
    /// Neither restore nor save.
    Ignore,
}

impl From<Lifetime> for Boot {
    fn from(lifetime: Lifetime) -> Self {
        Self {
            lifetime,
            snapshots: SnapshotUse::Keep(KEPT_SNAPSHOTS),
        }
    }
}

/// The snapshots of a cluster.
#[must_use]
pub fn shelf(paths: &ClusterPaths) -> Shelf {
    Shelf::new(paths.name().clone(), paths.snapshots())
}

/// Takes down whatever is there and brings the cluster up pristine: from its automatic snapshot, else by a cold boot.
/// Connections into the old cluster break; ports and keys stay when it is restored. It lives as long as it would have.
///
/// # Errors
/// See [`LifeError`]. After an error nothing of the cluster is left.
pub async fn reset(
    home: &Home,
    cluster: Cluster,
    snapshots: SnapshotUse,
    report: Reporter,
) -> Result<Cluster, LifeError> {
    let lifetime = if cluster.is_owned() {
        Lifetime::Owned
    } else {
        Lifetime::UntilDown
    };
    let boot = Boot {
        lifetime,
        snapshots,
    };
    let spec = cluster.daemon.status().await?.spec;
    let paths = cluster.paths.clone();
    let _life = lock_life(&paths)?;
    clear(&paths, &cluster.daemon, Remains::Nothing).await?;
    drop(cluster);
    super::up_locked(home, &paths, &spec, boot, &report).await
}

/// Saves a running cluster under a user's name.
///
/// # Errors
/// When the name is no name or is taken, the cluster is not up or has a fault in it, or the disk is too full.
pub async fn save(
    home: &Home,
    name: &ClusterName,
    snapshot: &str,
    report: Reporter,
) -> Result<Manifest, LifeError> {
    snapshot::check_name(snapshot)?;
    let paths = home.cluster(name);
    let _life = lock_life(&paths)?;
    let daemon = DaemonClient::new(paths.clone())?;
    let status = daemon.status().await?;
    if !possible(&status.spec) {
        return Err(unfit("only machines of the qemu provider have snapshots"));
    }
    if status.paused {
        return Err(LifeError::Paused(name.to_string()));
    }
    if shelf(&paths).path(snapshot).exists() {
        return Err(SnapshotError::Exists {
            cluster: name.to_string(),
            name: snapshot.to_owned(),
        }
        .into());
    }
    let parts = super::prepare(home, &status.spec, &report).await?;
    let fingerprint = fingerprint(home, &paths, &status.spec, &parts).await?;
    save_as(
        &paths,
        &status.spec,
        &parts,
        fingerprint,
        (Kind::Named, snapshot),
        &daemon,
        &report,
    )
    .await
}

/// Replaces a cluster, if it is up, by what a user's snapshot holds.
///
/// # Errors
/// When there is no such snapshot, or it is refused; nothing has changed then. After another error nothing of the cluster is left.
pub async fn restore(
    home: &Home,
    name: &ClusterName,
    snapshot: &str,
    report: Reporter,
) -> Result<Cluster, LifeError> {
    let paths = home.cluster(name);
    let _life = lock_life(&paths)?;
    let shelf = shelf(&paths);
    let manifest = shelf.read(snapshot)?;
    let parts = super::prepare(home, &manifest.spec, &report).await?;
    let now = fingerprint(home, &paths, &manifest.spec, &parts).await?;
    if let Some(parts) = manifest.fingerprint.fatal_difference(&now) {
        let reason =
            format!("it was made with another {parts}, and a saved memory runs on nothing else");
        return Err(SnapshotError::Refused {
            name: snapshot.to_owned(),
            reason,
        }
        .into());
    }
    if let Some(parts) = manifest.fingerprint.difference(&now) {
        report(Progress::Step(format!(
            "snapshot `{snapshot}` was made from another {parts}: what it holds stays as it was"
        )));
    }
    verify(&shelf, &manifest).await?;
    let daemon = DaemonClient::new(paths.clone())?;
    clear(&paths, &daemon, Remains::Nothing).await?;
    let restored = bring_back(
        home,
        &paths,
        &parts,
        &manifest,
        Lifetime::UntilDown,
        &report,
    )
    .await;
    if restored.is_err() {
        shelf.doubt(snapshot);
        if let Err(problem) = clear(&paths, &daemon, Remains::Nothing).await {
            tracing::warn!(%problem, "not everything could be taken down");
        }
    }
    restored
}

/// Removes a snapshot.
///
/// # Errors
/// When there is none of that name, or another command works on the cluster.
pub fn remove(paths: &ClusterPaths, snapshot: &str) -> Result<(), LifeError> {
    let _life = lock_life(paths)?;
    Ok(shelf(paths).remove(snapshot)?)
}

/// What of the cluster's making decides whether a saved memory fits.
pub(super) async fn fingerprint(
    home: &Home,
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    parts: &Parts,
) -> Result<Fingerprint, LifeError> {
    let acceleration = parts
        .acceleration
        .ok_or_else(|| unfit("only machines of the qemu provider have snapshots"))?;
    let (binary, qemu) = tokio::join!(
        tokio::task::spawn_blocking(install::binary_path),
        qemu::version_text()
    );
    let binary = binary
        .unwrap_or_else(|broken| Err(broken.into()))
        .map_err(io_error("read the running binary"))?;
    let images = ImageStore::open(home.images())
        .and_then(|store| store.tags())
        .map_err(part("read the image store"))?;
    let blank = |index: usize| MachineRequest {
        spec: spec.machines[index].clone(),
        index,
        box_files: parts.box_files.clone(),
        ignition: String::new(),
        fabric_socket: std::path::PathBuf::new(),
    };
    let arguments: Vec<String> = (0..spec.machines.len())
        .map(|index| qemu::machine_definition(blank(index), acceleration))
        .collect();
    // Links of another runtime directory would lead nowhere.
    tracing::debug!(cluster = %paths.name(), "fingerprint");
    Ok(Fingerprint::new(&Ingredients {
        box_content: &parts.box_files.content,
        images: &serde_json::to_string(&images).expect("names and digests are JSON"),
        binary: &binary.display().to_string(),
        spec,
        qemu: qemu.as_deref().unwrap_or_default(),
        acceleration,
        processor: &processor(),
        arguments: &arguments.join("\n"),
    }))
}

/// The host's processor by name, with a digest of what it can do.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.split_once(':'))
            .map(|(_, value)| value.trim())
    };
    let flags = field("flags")
        .or_else(|| field("Features"))
        .unwrap_or_default();
    format!(
        "{} ({:08x})",
        field("model name").unwrap_or(std::env::consts::ARCH),
        crc32fast::hash(flags.as_bytes())
    )
}

/// What came of looking for an automatic snapshot.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub(super) enum Attempt {
    /// The cluster is up.
    Restored(Cluster),
    /// There is none that would do: a cold boot makes one.
    Nothing,
    /// There is one that could not be restored, for a reason that is not its own. It stays; nothing of the cluster is left.
    Kept,
}

/// Whether an error means that the snapshot itself is of no use. Anything else may pass: a slow machine, a full disk, no memory.
fn condemns(error: &LifeError) -> bool {
    matches!(
        error,
        LifeError::Snapshot(SnapshotError::Refused { .. })
            | LifeError::Daemon(DaemonClientError::MemoryRefused(_))
    )
}

/// Restores the automatic snapshot that matches.
pub(super) async fn from_snapshot(
    home: &Home,
    paths: &ClusterPaths,
    parts: &Parts,
    fingerprint: &Fingerprint,
    lifetime: Lifetime,
    report: &Reporter,
) -> Result<Attempt, LifeError> {
    let shelf = shelf(paths);
    shelf.sweep()?;
    let manifest = match shelf.find(fingerprint)? {
        Ok(manifest) => manifest,
        Err(refused) => {
            for error in refused {
                report(Progress::Step(error.to_string()));
            }
            return Ok(Attempt::Nothing);
        }
    };
    let begun = Instant::now();
    let verified = verify(&shelf, &manifest);
    let restored = async {
        verified.await?;
        bring_back(home, paths, parts, &manifest, lifetime, report).await
    };
    match restored.await {
        Ok(cluster) => {
            report(Progress::Step(format!(
                "restored in {:.1} s",
                begun.elapsed().as_secs_f64()
            )));
            shelf.mark_used(&manifest.name);
            Ok(Attempt::Restored(cluster))
        }
        // A cold boot would not fit either.
        Err(error @ LifeError::Host(_)) => Err(error),
        Err(error) => {
            report(Progress::Step(format!(
                "{}; booting cold",
                crate::cluster::chain(&error)
            )));
            clear(paths, &DaemonClient::new(paths.clone())?, Remains::Nothing).await?;
            if !condemns(&error) {
                shelf.doubt(&manifest.name);
                let (cluster, name) = (paths.name(), &manifest.name);
                let hint = format!(
                    "snapshot `{name}` stays; `flightcage snapshot rm --name {cluster} {name}` removes it"
                );
                report(Progress::Step(hint));
                return Ok(Attempt::Kept);
            }
            // It will not do next time either; a cold boot makes another.
            if let Err(error) = shelf.remove(&manifest.name) {
                tracing::warn!(%error, "a snapshot that cannot be restored stays");
            }
            Ok(Attempt::Nothing)
        }
    }
}

/// Saves the cluster that has just become ready. That it cannot be saved is told, and no reason to fail.
pub(super) async fn save_pristine(
    cluster: &Cluster,
    spec: &ClusterSpec,
    parts: &Parts,
    fingerprint: Fingerprint,
    keep: usize,
    report: &Reporter,
) {
    let shelf = shelf(&cluster.paths);
    let name = fingerprint.automatic_name();
    let saved = async {
        // The old ones make room first.
        shelf.prune(keep - 1)?;
        save_as(
            &cluster.paths,
            spec,
            parts,
            fingerprint,
            (Kind::Automatic, &name),
            &cluster.daemon,
            report,
        )
        .await
    };
    if let Err(error) = saved.await {
        report(Progress::Step(format!(
            "no snapshot is kept: {}",
            crate::cluster::chain(&error)
        )));
    } else if let Err(error) = make_room(&cluster.paths, report) {
        report(Progress::Step(format!(
            "old snapshots are kept: {}",
            crate::cluster::chain(&error)
        )));
    }
}

/// Removes the automatic snapshots that were not used for longest, of whatever cluster, until all together take no more than they may.
/// Those of a cluster that another command works on are left to the next time. The life lock of `paths` is held.
fn make_room(paths: &ClusterPaths, report: &Reporter) -> Result<(), LifeError> {
    let home =
        Home::at(paths.home().to_owned()).map_err(io_error("open the home of the clusters"))?;
    let directories =
        std::fs::read_dir(home.snapshots()).map_err(io_error("read the snapshots' directory"))?;
    let names = directories
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<ClusterName>().ok());
    let mut kept = Vec::new();
    for name in names {
        kept.extend(shelf(&home.cluster(&name)).automatic()?);
    }
    for Kept {
        cluster,
        name,
        bytes,
        ..
    } in snapshot::surplus(kept, MAX_AUTOMATIC_BYTES)
    {
        let other = home.cluster(&cluster);
        let _life = match (cluster != *paths.name())
            .then(|| lock_life(&other))
            .transpose()
        {
            Err(LifeError::Busy(_)) => continue,
            lock => lock?,
        };
        shelf(&other).remove(&name)?;
        report(Progress::Detail(format!(
            "snapshot `{name}` of cluster `{cluster}` makes room: {} MiB",
            bytes >> 20
        )));
    }
    Ok(())
}

async fn save_as(
    paths: &ClusterPaths,
    spec: &ClusterSpec,
    parts: &Parts,
    fingerprint: Fingerprint,
    (kind, name): (Kind, &str),
    daemon: &DaemonClient,
    report: &Reporter,
) -> Result<Manifest, LifeError> {
    report(Progress::Step(format!("saving snapshot `{name}`")));
    let begun = Instant::now();
    let acceleration = parts
        .acceleration
        .ok_or_else(|| unfit("only machines of the qemu provider have snapshots"))?;
    let shelf = shelf(paths);
    admit(paths, spec, &shelf)?;
    let draft = shelf.begin()?;
    let written = async {
        copy_identity(paths.root(), &draft.directory().join("cluster"))
            .map_err(io_error("save the cluster's identity"))?;
        Ok::<_, LifeError>(daemon.save(&draft.directory().join("machines")).await?)
    };
    match written.await {
        Ok(saved) => {
            report(Progress::Detail(format!(
                "machines stood still for {} ms",
                saved.running_ms
            )));
            saved
                .problems
                .into_iter()
                .for_each(|problem| report(Progress::Step(problem)));
        }
        Err(error) => {
            shelf.discard(draft);
            return Err(error);
        }
    }
    let manifest = Manifest {
        version: snapshot::FORMAT,
        name: name.to_owned(),
        kind,
        created: jiff::Timestamp::now(),
        spec: spec.clone(),
        acceleration,
        fingerprint,
        files: Vec::new(),
    };
    let published = tokio::task::spawn_blocking(move || shelf.publish(draft, manifest)).await;
    let manifest = published.map_err(part("write a snapshot"))??;
    report(Progress::Step(format!(
        "saved {} MiB in {:.1} s",
        manifest.bytes() >> 20,
        begun.elapsed().as_secs_f64()
    )));
    Ok(manifest)
}

/// Refuses to fill the disk.
fn admit(paths: &ClusterPaths, spec: &ClusterSpec, shelf: &Shelf) -> Result<(), SnapshotError> {
    use std::os::unix::fs::MetadataExt;
    let directories = spec
        .machines
        .iter()
        .map(|machine| paths.root().join("machines").join(machine.name.as_str()));
    let files = directories
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flatten()
        .flatten();
    let disks = files.filter_map(|file| Some(file.metadata().ok()?.blocks() * 512));
    let needed = spec
        .machines
        .iter()
        .map(|machine| machine.memory_bytes)
        .sum::<u64>()
        + disks.sum::<u64>()
        + OVERHEAD_BYTES;
    match qemu::free_disk(shelf.directory()) {
        Some(free) if free < needed => {
            let directory = shelf.directory().to_owned();
            Err(SnapshotError::NoRoom {
                needed_mib: needed >> 20,
                free_mib: free >> 20,
                directory,
            })
        }
        _ => Ok(()),
    }
}

pub(super) async fn verify(shelf: &Shelf, manifest: &Manifest) -> Result<(), LifeError> {
    let (shelf, manifest) = (shelf.clone(), manifest.clone());
    let verified = tokio::task::spawn_blocking(move || shelf.verify(&manifest)).await;
    Ok(verified.map_err(part("verify a snapshot"))??)
}

/// Makes a cluster of a verified snapshot. Where an older one was, nothing may be left.
async fn bring_back(
    home: &Home,
    paths: &ClusterPaths,
    parts: &Parts,
    manifest: &Manifest,
    lifetime: Lifetime,
    report: &Reporter,
) -> Result<Cluster, LifeError> {
    report(Progress::Step(format!(
        "restoring snapshot `{}`",
        manifest.name
    )));
    let (
        Daemon {
            owner,
            client: daemon,
        },
        restored,
    ) = load(home, paths, parts, manifest, lifetime).await?;
    report(Progress::Detail(format!(
        "machines run after {} ms",
        restored.running_ms
    )));
    for clock in &restored.clocks {
        report(Progress::Detail(format!(
            "{}: its clock was {} ms behind",
            clock.node, clock.behind_ms
        )));
    }
    restored
        .problems
        .into_iter()
        .for_each(|problem| report(Progress::Step(problem)));
    let status = daemon.status().await?;
    let client = admin_client(paths, &status)?;
    let running = status
        .machines
        .iter()
        .filter(|machine| machine.power == Power::On);
    let running: Vec<NodeName> = running.map(|machine| machine.name.clone()).collect();
    // One handshake, whose connection then carries the questions for the beats.
    await_answer(&client, "/readyz", "the API server to answer").await?;
    let beats = running.iter().map(|node| await_beat(&client, node));
    futures::future::try_join_all(beats).await?;
    // What was saved says Ready: only after the beats is it of today.
    wait_until_ready(&client, &running, report).await?;
    await_ingress(&daemon).await?;
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

/// Loads the machines of a verified snapshot and lets them run. Where an older cluster was, nothing may be left.
pub(super) async fn load(
    home: &Home,
    paths: &ClusterPaths,
    parts: &Parts,
    manifest: &Manifest,
    lifetime: Lifetime,
) -> Result<(Daemon, Restored), LifeError> {
    let spec = &manifest.spec;
    let from = paths.snapshots().join(&manifest.name);
    paths
        .make()
        .map_err(io_error("make the cluster's directories"))?;
    copy_identity(&from.join("cluster"), paths.root())
        .map_err(io_error("restore the cluster's identity"))?;
    let restored_from = Some(manifest.name.clone());
    write_record(
        paths,
        &ClusterRecord {
            spec: spec.clone(),
            acceleration: parts.acceleration,
            restored_from,
        },
    )?;
    let Admitted { daemon, admission } = admitted_daemon(home, paths, lifetime).await?;
    let requests =
        (0..spec.machines.len()).map(|index| machine_request(paths, spec, index, &parts.box_files));
    let requests = requests.collect::<Result<Vec<_>, _>>()?;
    let restored = daemon
        .client
        .restore(&RestoreOrder {
            from: from.join("machines"),
            requests,
        })
        .await?;
    drop(admission);
    Ok((daemon, restored))
}

/// Waits for a sign of life that the node's agent gives after this call.
pub(super) async fn await_beat(client: &Client, node: &NodeName) -> Result<(), LifeError> {
    await_answer(
        client,
        &format!("/flightcage/v1/nodes/{node}/beat"),
        &format!("a sign of life of node `{node}`"),
    )
    .await
}

/// Asks until there is an answer.
pub(super) async fn await_answer(client: &Client, path: &str, what: &str) -> Result<(), LifeError> {
    let deadline = Instant::now() + BEAT_DEADLINE;
    loop {
        match client.raw(Method::GET, path, None).await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => {
                return Err(LifeError::TimedOut {
                    seconds: BEAT_DEADLINE.as_secs(),
                    what: what.to_owned(),
                    seen: crate::cluster::chain(&error),
                });
            }
            Err(_) => tokio::time::sleep(BEAT_RETRY).await,
        }
    }
}

/// Waits until the daemon serves on the host what the cluster's Services ask for.
async fn await_ingress(daemon: &DaemonClient) -> Result<(), LifeError> {
    let deadline = Instant::now() + INGRESS_DEADLINE;
    while !daemon.status().await?.ingress_synced {
        if Instant::now() > deadline {
            return Err(LifeError::TimedOut {
                seconds: INGRESS_DEADLINE.as_secs(),
                what: "the daemon to read the cluster's Services".into(),
                seen: super::end_of(&daemon.paths().daemon_log()),
            });
        }
        tokio::time::sleep(INGRESS_PAUSE).await;
    }
    Ok(())
}

/// What a cluster is known by: keys, certificates, ports.
fn copy_identity(from: &Path, to: &Path) -> std::io::Result<()> {
    private_directory(to)?;
    for directory in ["pki", "ssh"] {
        private_directory(&to.join(directory))?;
        for entry in std::fs::read_dir(from.join(directory))? {
            let name = entry?.file_name();
            let contents = std::fs::read(from.join(directory).join(&name))?;
            write_private(&to.join(directory).join(&name), &contents)?;
        }
    }
    match std::fs::read(from.join("ports.json")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        contents => write_private(&to.join("ports.json"), &contents?),
    }
}

fn unfit(why: &str) -> LifeError {
    SnapshotError::Unfit(why.to_owned()).into()
}

/// Whether snapshots are possible for machines of this provider at all.
pub(super) fn possible(spec: &ClusterSpec) -> bool {
    spec.provider == ProviderKind::Qemu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_with_a_snapshot_itself_removes_it() {
        let check =
            |error: LifeError, expected: bool| assert_eq!(condemns(&error), expected, "{error}");
        check(
            SnapshotError::Refused {
                name: "auto-1".into(),
                reason: "it is torn".into(),
            }
            .into(),
            true,
        );
        check(
            DaemonClientError::MemoryRefused("w1: its saved memory was not accepted".into()).into(),
            true,
        );
        check(
            DaemonClientError::Refused("set the clock of node `w1`".into()).into(),
            false,
        );
        check(
            DaemonClientError::NotUp {
                name: "test".into(),
            }
            .into(),
            false,
        );
        check(
            SnapshotError::Io {
                what: "read".into(),
                source: std::io::ErrorKind::StorageFull.into(),
            }
            .into(),
            false,
        );
        check(
            LifeError::TimedOut {
                seconds: 30,
                what: "a sign of life".into(),
                seen: "nothing".into(),
            },
            false,
        );
        check(
            LifeError::DaemonStart {
                name: "test".into(),
                log: String::new(),
            },
            false,
        );
        check(LifeError::Host(Vec::new()), false);
    }
}

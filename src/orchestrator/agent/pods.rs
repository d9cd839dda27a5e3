//! All pods of this node: one worker a UID, fed from the API's list and the runtime's.
//!
//! Invariants: nothing is stopped or removed on account of the API before the API has been listed; while it is away, the pods
//! known last go on (fail static). A pod is its UID: a new pod of the same name is another pod. Manifests are kept on disk
//! (mode 0600), so that an agent that starts while the API is away still looks after what runs; after a reboot of the machine
//! they are forgotten, since their pods may have been replaced elsewhere meanwhile.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};

use super::host_ports::{self, HostPorts, Leads, Protocol};
use super::objects::PodApi;
use super::runtime::{ContainerState, Runtime, SandboxStatus};
use super::work::{Context, chain};
use super::worker::{self, Input};
use crate::model::json;
use crate::orchestrator::datagrams::Datagrams;
use crate::orchestrator::private_file::write_private;

/// Pods of this node by UID, or `None` before the API has been listed.
pub(crate) type Wanted = Option<Arc<BTreeMap<String, Arc<Pod>>>>;

/// What runs is looked at this often even when nothing is reported.
const RELIST_INTERVAL: Duration = Duration::from_secs(10);
/// Between attempts to list what runs.
const LIST_RETRY: Duration = Duration::from_millis(500);
/// For a sandbox whose pod nobody knows any more.
const ORPHAN_GRACE: Duration = Duration::from_secs(10);

struct Handle {
    input: watch::Sender<Input>,
    sandbox: watch::Sender<Option<SandboxStatus>>,
}

struct Pods<R, A> {
    context: Arc<Context<R, A>>,
    checkpoint: Checkpoint,
    workers: HashMap<String, Handle>,
    tasks: JoinSet<()>,
    owners: HashMap<Id, String>,
    orphans: HashMap<String, tokio::task::AbortHandle>,
    /// Pods that are wound up here while the API's copy still has them.
    finished: HashSet<String>,
    sandboxes: BTreeMap<String, SandboxStatus>,
    host_ports: HostPorts,
    datagrams: Datagrams,
}

/// Looks after this node's pods until the sender of `wanted` is gone. Dropping the future stops no container.
pub(crate) async fn run<R: Runtime, A: PodApi>(
    context: Arc<Context<R, A>>,
    checkpoint: Checkpoint,
    mut wanted: watch::Receiver<Wanted>,
) {
    let mut pods = Pods {
        checkpoint,
        workers: HashMap::new(),
        tasks: JoinSet::new(),
        owners: HashMap::new(),
        orphans: HashMap::new(),
        finished: HashSet::new(),
        sandboxes: BTreeMap::new(),
        host_ports: HostPorts::new(),
        datagrams: Datagrams::default(),
        context: context.clone(),
    };
    // No worker starts before it is known what runs already.
    while !pods.relist().await {
        tokio::time::sleep(LIST_RETRY).await;
    }
    for pod in pods.checkpoint.load() {
        pods.adopt(pod);
    }
    loop {
        let now = wanted.borrow_and_update().clone();
        pods.reconcile(&now);
        pods.open_host_ports();
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
            () = context.runtime.changed() => pods.news().await,
            () = context.relist.notified() => pods.news().await,
            () = tokio::time::sleep(RELIST_INTERVAL) => pods.news().await,
            Some(ended) = pods.tasks.join_next_with_id(), if !pods.tasks.is_empty() => {
                let id = match &ended {
                    Ok((id, ())) => *id,
                    Err(error) => error.id(),
                };
                let broke = ended.err();
                if let Some(error) = &broke {
                    tracing::error!(%error, "a pod's worker broke, it is started again");
                }
                pods.ended(id, broke.is_none());
                // What the ended worker removed is no orphan.
                pods.news().await;
            }
        }
    }
}

impl<R: Runtime, A: PodApi> Pods<R, A> {
    /// Lists what runs and tells every worker its part.
    async fn relist(&mut self) -> bool {
        match self.context.runtime.list().await {
            Ok(sandboxes) => {
                self.sandboxes = sandboxes
                    .into_iter()
                    .map(|sandbox| (sandbox.pod_uid.clone(), sandbox))
                    .collect();
                for (uid, handle) in &self.workers {
                    let next = self.sandboxes.get(uid);
                    handle.sandbox.send_if_modified(|known| {
                        let changed = known.as_ref() != next;
                        if changed {
                            *known = next.cloned();
                        }
                        changed
                    });
                }
                true
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "containers cannot be listed, trying again");
                false
            }
        }
    }

    /// Lists again; a failure waits for the next occasion.
    async fn news(&mut self) {
        if !self.relist().await {
            tracing::debug!("what runs is as it was known before");
        }
    }

    /// A worker for a pod from the checkpoint.
    fn adopt(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.spawn(
            &uid,
            Input {
                pod: Arc::new(pod),
                gone: false,
            },
        );
    }

    /// One worker for each pod that the API has or that a worker still winds up.
    fn reconcile(&mut self, wanted: &Wanted) {
        let Some(wanted) = wanted else { return };
        for (uid, handle) in &self.workers {
            if !wanted.contains_key(uid) {
                handle
                    .input
                    .send_if_modified(|input| !std::mem::replace(&mut input.gone, true));
            }
        }
        self.finished.retain(|uid| wanted.contains_key(uid));
        for (uid, pod) in wanted.iter() {
            if self.orphans.contains_key(uid) || self.finished.contains(uid) {
                continue;
            }
            if let Some(handle) = self.workers.get(uid) {
                let changed = handle.input.send_if_modified(|input| {
                    let changed = input.gone
                        || input.pod.metadata.resource_version != pod.metadata.resource_version;
                    *input = Input {
                        pod: pod.clone(),
                        gone: false,
                    };
                    changed
                });
                if changed {
                    self.checkpoint.store(uid, pod);
                }
            } else {
                self.checkpoint.store(uid, pod);
                self.spawn(
                    uid,
                    Input {
                        pod: pod.clone(),
                        gone: false,
                    },
                );
            }
        }
        let orphans: Vec<SandboxStatus> = self
            .sandboxes
            .values()
            .filter(|sandbox| {
                let uid = &sandbox.pod_uid;
                !wanted.contains_key(uid)
                    && !self.workers.contains_key(uid)
                    && !self.orphans.contains_key(uid)
            })
            .cloned()
            .collect();
        for sandbox in orphans {
            self.remove_orphan(sandbox);
        }
    }

    /// The ports of this node that its pods ask for, for as long as each has a sandbox.
    fn open_host_ports(&mut self) {
        let asked = |protocol| -> Leads {
            let pods = self.workers.iter().filter_map(|(uid, handle)| {
                let address = self.sandboxes.get(uid)?.address;
                let input = handle.input.borrow();
                Some(host_ports::asked(&input.pod, address, protocol))
            });
            pods.flatten().collect()
        };
        let (tcp, udp) = (asked(Protocol::Tcp), asked(Protocol::Udp));
        self.host_ports.apply(&tcp);
        let node = self.context.host_address;
        self.datagrams.apply(host_ports::datagrams(&udp, node));
    }

    fn spawn(&mut self, uid: &str, input: Input) {
        let (input, input_watch) = watch::channel(input);
        let (sandbox, sandbox_watch) = watch::channel(self.sandboxes.get(uid).cloned());
        let task = self.tasks.spawn(worker::run(
            self.context.clone(),
            input_watch,
            sandbox_watch,
        ));
        self.owners.insert(task.id(), uid.to_owned());
        self.workers
            .insert(uid.to_owned(), Handle { input, sandbox });
    }

    /// Stops and removes a sandbox whose pod the API does not know.
    fn remove_orphan(&mut self, sandbox: SandboxStatus) {
        let context = self.context.clone();
        let uid = sandbox.pod_uid.clone();
        tracing::info!(
            pod = uid,
            namespace = sandbox.namespace,
            name = sandbox.name,
            "the API has no such pod, it is removed"
        );
        let task = self.tasks.spawn(async move {
            let running = sandbox.containers.values().filter(|one| matches!(one.state, ContainerState::Running { .. }));
            let stops = running.map(|container| context.runtime.stop(&sandbox.pod_uid, &container.name, ORPHAN_GRACE));
            for stopped in futures::future::join_all(stops).await {
                if let Err(error) = stopped {
                    tracing::warn!(error = %chain(&error), "an orphan cannot be stopped, it is killed");
                }
            }
            let removed = context.runtime.remove(&sandbox.pod_uid).await;
            let cleaned = context.roots.remove(&sandbox.pod_uid);
            if let Err(error) = removed {
                tracing::warn!(error = %chain(&error), "an orphan cannot be removed, trying again");
                // The next list shows it again.
                tokio::time::sleep(RELIST_INTERVAL).await;
            }
            if let Err(error) = cleaned {
                tracing::warn!(%error, "an orphan's volumes cannot be removed");
            }
        });
        self.owners.insert(task.id(), uid.clone());
        self.orphans.insert(uid, task);
    }

    fn ended(&mut self, id: Id, finished: bool) {
        let Some(uid) = self.owners.remove(&id) else {
            return;
        };
        if self
            .orphans
            .get(&uid)
            .is_some_and(|orphan| orphan.id() == id)
        {
            self.orphans.remove(&uid);
        } else {
            self.workers.remove(&uid);
            if !finished {
                return;
            }
            self.finished.insert(uid.clone());
        }
        self.checkpoint.remove(&uid);
    }
}

/// Manifests of this node's pods on disk.
#[derive(Debug, Clone)]
pub(crate) struct Checkpoint {
    directory: PathBuf,
}

impl Checkpoint {
    /// Opens the checkpoint of this boot; that of another boot is forgotten.
    pub(crate) fn open(directory: &Path, boot_id: &str) -> std::io::Result<Self> {
        let stamp = directory.join("boot-id");
        if std::fs::read_to_string(&stamp).ok().as_deref() != Some(boot_id) {
            match std::fs::remove_dir_all(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            write_private(&stamp, boot_id.as_bytes())?;
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    fn path(&self, uid: &str) -> Option<PathBuf> {
        let safe = !uid.is_empty() && uid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        safe.then(|| self.directory.join(format!("{uid}.json")))
    }

    fn store(&self, uid: &str, pod: &Pod) {
        let Some(path) = self.path(uid) else { return };
        let written = json::to_vec(pod)
            .map_err(std::io::Error::from)
            .and_then(|bytes| write_private(&path, &bytes));
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "the pod's manifest cannot be kept for a time without API");
        }
    }

    fn remove(&self, uid: &str) {
        let Some(path) = self.path(uid) else { return };
        drop(std::fs::remove_file(path));
    }

    fn load(&self) -> Vec<Pod> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else {
            return Vec::new();
        };
        entries
            .filter_map(Result::ok)
            .filter(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "json")
            })
            .filter_map(|entry| json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
            .collect()
    }
}

//! What a worker's tasks do: the slow halves of [`super::decide::Effect`], each a function without shared state.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, Service};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ask::PodProber;
use super::decide::{grace, is_sidecar};
use super::drain::Drains;
use super::events::Recorder;
use super::launch::{self, Launch};
use super::objects::{self, PodApi};
use super::pod_files;
use super::probe::{Action, Prober, http_action};
use super::runtime::{ContainerState, ContainerStatus, Image, Mount, Runtime, SandboxSpec};
use super::termination;
use super::volumes::{self, Roots, Sources};
use crate::orchestrator::private_file::write_private;

/// After preStop a container gets at least so long to stop, as in the kubelet.
const LEAST_STOP_GRACE: Duration = Duration::from_secs(2);
/// No hook runs for longer than this after its container's start.
const POST_START_TIMEOUT: Duration = Duration::from_hours(1);
/// Between attempts to stop a container that the runtime could not stop.
const STOP_RETRY: Duration = Duration::from_secs(1);
/// For so long the Services are waited for before a container starts without their variables.
const SERVICES_WAIT: Duration = Duration::from_secs(5);

/// What all workers share.
pub(crate) struct Context<R, A> {
    /// Containers.
    pub(crate) runtime: Arc<R>,
    /// The API.
    pub(crate) api: Arc<A>,
    /// Where volumes are.
    pub(crate) roots: Roots,
    /// The node's address.
    pub(crate) host_address: Ipv4Addr,
    /// The node's memory.
    pub(crate) node_memory_bytes: u64,
    /// The node's own resolv.conf.
    pub(crate) host_resolv_conf: String,
    /// All Services; `None` until they have been read once.
    pub(crate) services: watch::Receiver<Option<Arc<Vec<Service>>>>,
    /// Pods that drain.
    pub(crate) drains: Drains,
    /// Takes events.
    pub(crate) events: Recorder,
    /// Asks the owner of all workers to list containers again.
    pub(crate) relist: Arc<Notify>,
}

/// Why something failed: Kubernetes' reason and words for people.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// Such as `FailedMount`.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// A pod that is set up.
#[derive(Debug, Clone)]
pub(crate) struct SetUp {
    /// The sandbox's address.
    pub(crate) address: Ipv4Addr,
    /// Where the volumes are.
    pub(crate) volumes: Sources,
}

/// A pod's UID.
pub(crate) fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Makes or refreshes the volumes.
pub(crate) async fn make_volumes<R, A: PodApi>(
    context: &Context<R, A>,
    pod: Arc<Pod>,
) -> Result<Sources, Failure> {
    let mount = |message| Failure {
        reason: "FailedMount",
        message,
    };
    let objects = objects::fetch(&*context.api, &pod, &context.roots)
        .await
        .map_err(mount)?;
    let roots = context.roots.clone();
    let node_memory_bytes = context.node_memory_bytes;
    tokio::task::spawn_blocking(move || {
        let objects = volumes::Objects {
            secrets: &objects.secrets,
            config_maps: &objects.config_maps,
            tokens: &objects.tokens,
            node_memory_bytes,
        };
        volumes::prepare(&pod, &roots, &objects)
    })
    .await
    .map_err(|error| mount(error.to_string()))?
    .map_err(|error| mount(format!("MountVolume.SetUp failed: {}", chain(&error))))
}

/// Makes volumes, sandbox, and the pod's own files.
pub(crate) async fn set_up<R: Runtime, A: PodApi>(
    context: &Context<R, A>,
    pod: Arc<Pod>,
) -> Result<SetUp, Failure> {
    let volumes = make_volumes(context, pod.clone()).await?;
    let metadata = &pod.metadata;
    let spec = SandboxSpec {
        pod_uid: uid(&pod),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        hostname: pod_files::container_hostname(&pod),
        resolv_conf: pod_files::resolv_conf(&pod, &context.host_resolv_conf),
        host_network: pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or(false),
    };
    let sandbox = |message| Failure {
        reason: "FailedCreatePodSandBox",
        message,
    };
    let address = context
        .runtime
        .create_sandbox(&spec)
        .await
        .map_err(|error| sandbox(format!("Failed to create pod sandbox: {}", chain(&error))))?;
    write_pod_files(&pod, &context.roots, address)
        .map_err(|error| sandbox(format!("Failed to write the pod's hosts file: {error}")))?;
    Ok(SetUp { address, volumes })
}

fn write_pod_files(pod: &Pod, roots: &Roots, address: Ipv4Addr) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let files = [
        ("etc-hosts", pod_files::hosts(pod, address)),
        (
            "hostname",
            format!("{}\n", pod_files::container_hostname(pod)),
        ),
    ];
    for (name, contents) in files {
        let path = roots.pod(&uid(pod)).join(name);
        if std::fs::read_to_string(&path).is_ok_and(|known| known == contents) {
            continue;
        }
        write_private(&path, contents.as_bytes())?;
        // Any user of the pod reads them; the directory above is private.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn pod_file_mounts(pod: &Pod, roots: &Roots) -> [Mount; 2] {
    let mount = |name: &str, target: &str| Mount {
        source: roots.pod(&uid(pod)).join(name),
        target: target.into(),
        read_only: false,
    };
    [
        mount("etc-hosts", "/etc/hosts"),
        mount("hostname", "/etc/hostname"),
    ]
}

/// Starts one instance of a container.
pub(crate) async fn start<R: Runtime, A: PodApi>(
    context: &Context<R, A>,
    pod: &Pod,
    container: &Container,
    image: Image,
    instance: u32,
    setup: &SetUp,
) -> Result<ContainerStatus, Failure> {
    let config = |message| Failure {
        reason: "CreateContainerConfigError",
        message,
    };
    let objects = objects::fetch(&*context.api, pod, &context.roots)
        .await
        .map_err(config)?;
    let services = services(context, pod).await;
    let mut files = pod_file_mounts(pod, &context.roots).to_vec();
    let message = termination::mount(pod, container, instance, &context.roots);
    files.extend(message.map_err(|error| config(format!("make the termination log: {error}")))?);
    let spec = launch::container_spec(&Launch {
        pod,
        container,
        instance,
        image_user: &context.runtime.image_user(&image),
        image,
        address: setup.address,
        host_address: context.host_address,
        node_memory_bytes: context.node_memory_bytes,
        objects: &objects,
        services: &services,
        volumes: &setup.volumes,
        files: &files,
    })
    .map_err(|error| config(chain(&error)))?;
    let started = context
        .runtime
        .start(&spec)
        .await
        .map_err(|error| Failure {
            reason: "RunContainerError",
            message: chain(&error),
        })?;
    let lifecycle = container.lifecycle.as_ref();
    if let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) {
        post_start(context, pod, container, hook, setup.address).await?;
    }
    Ok(started)
}

/// Runs the postStart hook. A container whose hook fails is stopped, as in the kubelet, and is started again as its pod says.
async fn post_start<R: Runtime, A>(
    context: &Context<R, A>,
    pod: &Pod,
    container: &Container,
    hook: &LifecycleHandler,
    address: Ipv4Addr,
) -> Result<(), Failure> {
    let prober = PodProber {
        runtime: context.runtime.clone(),
        pod_uid: uid(pod),
    };
    let Err(why) = run_hook(&prober, hook, container, address, POST_START_TIMEOUT).await else {
        return Ok(());
    };
    let message = format!("PostStartHook failed: {why}");
    context.events.record(
        pod,
        Some(&container.name),
        super::events::Severity::Warning,
        "FailedPostStartHook",
        message.clone(),
    );
    let allowed = pod
        .spec
        .as_ref()
        .map_or(LEAST_STOP_GRACE, |spec| grace(None, spec));
    if let Err(error) = context
        .runtime
        .stop(&uid(pod), &container.name, allowed)
        .await
    {
        tracing::warn!(pod = uid(pod), container = container.name, error = %chain(&error), "cannot be stopped after its hook failed");
    }
    context.relist.notify_one();
    Err(Failure {
        reason: "PostStartHookError",
        message,
    })
}

/// The Services whose variables a pod may get.
async fn services<R, A>(context: &Context<R, A>, pod: &Pod) -> Vec<Service> {
    let mut services = context.services.clone();
    let known = tokio::time::timeout(SERVICES_WAIT, services.wait_for(Option::is_some)).await;
    let Ok(Ok(known)) = known else {
        tracing::warn!(
            pod = uid(pod),
            "the Services have not been read yet; the container starts without their variables"
        );
        return Vec::new();
    };
    let namespace = pod.metadata.namespace.as_deref();
    let wanted = |service: &&Service| {
        let own = service.metadata.namespace.as_deref();
        own == namespace
            || own == Some("default") && service.metadata.name.as_deref() == Some("kubernetes")
    };
    known
        .iter()
        .flat_map(|services| services.iter())
        .filter(wanted)
        .cloned()
        .collect()
}

/// Runs the preStop hook, stops a container, and returns what became of it.
pub(crate) async fn stop<R: Runtime, A>(
    context: &Context<R, A>,
    pod: &Pod,
    container: &Container,
    address: Option<Ipv4Addr>,
    deadline: Instant,
) -> Option<ContainerStatus> {
    let uid = uid(pod);
    let hook = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    // Sidecars are stopped with the others: ordering them is not part of this agent.
    if let Some(hook) = hook.filter(|_| !is_sidecar(container) || container.lifecycle.is_some()) {
        let prober = PodProber {
            runtime: context.runtime.clone(),
            pod_uid: uid.clone(),
        };
        let remaining = deadline.saturating_duration_since(Instant::now());
        let ask = run_hook(
            &prober,
            hook,
            container,
            address.unwrap_or(Ipv4Addr::LOCALHOST),
            remaining,
        );
        let answer = tokio::time::timeout(remaining, ask)
            .await
            .unwrap_or_else(|_| Err("it outlasted the grace period".into()));
        if let Err(why) = answer {
            let message = format!("PreStopHook failed: {why}");
            context.events.record(
                pod,
                Some(&container.name),
                super::events::Severity::Warning,
                "FailedPreStopHook",
                message,
            );
        }
    }
    loop {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let grace = if hook.is_some() {
            remaining.max(LEAST_STOP_GRACE)
        } else {
            remaining
        };
        match context.runtime.stop(&uid, &container.name, grace).await {
            Ok(()) => match context.runtime.list().await {
                Ok(sandboxes) => {
                    let found = sandboxes.into_iter().find(|sandbox| sandbox.pod_uid == uid);
                    let status =
                        found.and_then(|mut sandbox| sandbox.containers.remove(&container.name));
                    match status {
                        Some(ContainerStatus {
                            state: ContainerState::Running { .. },
                            ..
                        }) => {
                            tracing::warn!(
                                pod = uid,
                                container = container.name,
                                "still runs after it was stopped, trying again"
                            );
                        }
                        other => return other,
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "containers cannot be listed, trying again")
                }
            },
            Err(error) => {
                tracing::warn!(pod = uid, container = container.name, error = %chain(&error), "cannot be stopped, trying again");
            }
        }
        tokio::time::sleep(STOP_RETRY).await;
    }
}

async fn run_hook<P: Prober>(
    prober: &P,
    hook: &LifecycleHandler,
    container: &Container,
    address: Ipv4Addr,
    timeout: Duration,
) -> Result<(), String> {
    let action = if let Some(exec) = &hook.exec {
        Action::Exec {
            command: exec.command.clone().unwrap_or_default(),
        }
    } else if let Some(get) = &hook.http_get {
        http_action(get, container)
    } else if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(
            u64::try_from(sleep.seconds).unwrap_or(0),
        ))
        .await;
        return Ok(());
    } else {
        Action::Impossible {
            why: "only exec, httpGet and sleep hooks are supported".into(),
        }
    };
    prober.ask(&action, address, &container.name, timeout).await
}

/// Removes a pod's sandbox and volumes.
pub(crate) async fn remove<R: Runtime, A>(
    context: &Context<R, A>,
    pod: &Pod,
) -> Result<(), String> {
    let uid = uid(pod);
    context
        .runtime
        .remove(&uid)
        .await
        .map_err(|error| chain(&error))?;
    let roots = context.roots.clone();
    let removed = tokio::task::spawn_blocking(move || roots.remove(&uid))
        .await
        .map_err(|error| error.to_string())?;
    removed.map_err(|error| format!("remove the pod's volumes: {error}"))
}

//! Pods from manifest to farewell, over a fake runtime and a fake API.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus, Secret};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::drain::Drains;
use super::events::{Happening, Recorder};
use super::objects::{Patched, PodApi};
use super::pods::{self, Checkpoint, Wanted};
use super::runtime::{
    ContainerSpec, ContainerState, ContainerStatus, ExecOutput, Image, LogQuery, OpenCommand,
    PullError, PullPolicy, RunningCommand, Runtime, RuntimeError, SandboxSpec, SandboxStatus,
};
use super::tokens::{self, Token};
use super::volumes::Roots;
use super::work::Context;
use crate::orchestrator::tunnel::FromNode;

/// Far longer than any of these tests takes; only a hang gets there.
const PATIENCE: Duration = Duration::from_secs(30);

/// A runtime without containers, stricter than a real one: what is done out of order panics.
#[derive(Default)]
pub(super) struct FakeRuntime {
    pub(super) sandboxes: Mutex<BTreeMap<String, SandboxStatus>>,
    pub(super) started: Mutex<Vec<ContainerSpec>>,
    log: Arc<Mutex<Vec<String>>>,
    changed: Notify,
}

impl FakeRuntime {
    fn say(&self, what: String) {
        self.log.lock().unwrap().push(what);
    }

    pub(super) fn said(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// A container's process ends.
    pub(super) fn exit(&self, uid: &str, container: &str, exit_code: i32) {
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let status = sandboxes
            .get_mut(uid)
            .unwrap()
            .containers
            .get_mut(container)
            .unwrap();
        if let ContainerState::Running { started_at_ms } = status.state {
            status.state = ContainerState::Exited {
                exit_code,
                oom_killed: false,
                started_at_ms,
                finished_at_ms: started_at_ms + 5,
            };
        }
        self.changed.notify_one();
    }
}

fn status(name: &str, restart_count: u32) -> ContainerStatus {
    ContainerStatus {
        name: name.to_owned(),
        id: format!("{name}-{restart_count}"),
        restart_count,
        image: Image {
            digest: "sha256:00".into(),
            reference: "image:latest".into(),
        },
        state: ContainerState::Running {
            started_at_ms: jiff::Timestamp::now().as_millisecond(),
        },
    }
}

fn sandbox(uid: &str, containers: &[ContainerStatus]) -> SandboxStatus {
    SandboxStatus {
        pod_uid: uid.to_owned(),
        namespace: "default".into(),
        name: "web".into(),
        address: Ipv4Addr::LOCALHOST,
        containers: containers
            .iter()
            .map(|status| (status.name.clone(), status.clone()))
            .collect(),
    }
}

impl Runtime for FakeRuntime {
    async fn pull(&self, reference: &str, _: PullPolicy) -> Result<Image, PullError> {
        self.say(format!("pull {reference}"));
        if reference == "nowhere" {
            return Err(PullError::NotFound(reference.to_owned()));
        }
        Ok(Image {
            digest: "sha256:00".into(),
            reference: format!("{reference}:latest"),
        })
    }

    async fn create_sandbox(&self, spec: &SandboxSpec) -> Result<Ipv4Addr, RuntimeError> {
        self.say(format!("sandbox {}", spec.pod_uid));
        let mut sandboxes = self.sandboxes.lock().unwrap();
        Ok(sandboxes
            .entry(spec.pod_uid.clone())
            .or_insert_with(|| sandbox(&spec.pod_uid, &[]))
            .address)
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<ContainerStatus, RuntimeError> {
        self.say(format!("start {} {}", spec.name, spec.restart_count));
        self.started.lock().unwrap().push(spec.clone());
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let sandbox = sandboxes
            .get_mut(&spec.pod_uid)
            .expect("a container is started in a sandbox");
        let before = sandbox
            .containers
            .insert(spec.name.clone(), status(&spec.name, spec.restart_count));
        assert!(
            !matches!(
                before,
                Some(ContainerStatus {
                    state: ContainerState::Running { .. },
                    ..
                })
            ),
            "it runs already"
        );
        Ok(sandbox.containers[&spec.name].clone())
    }

    async fn stop(&self, pod_uid: &str, container: &str, _: Duration) -> Result<(), RuntimeError> {
        self.say(format!("stop {pod_uid} {container}"));
        self.exit(pod_uid, container, 143);
        Ok(())
    }

    async fn remove(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        self.say(format!("remove {pod_uid}"));
        self.sandboxes.lock().unwrap().remove(pod_uid);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(self.sandboxes.lock().unwrap().values().cloned().collect())
    }

    async fn fence(&self, up: bool) -> Result<(), RuntimeError> {
        self.say(format!("fence {up}"));
        Ok(())
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn logs(
        &self,
        _: &str,
        _: &str,
        _: LogQuery,
    ) -> Result<mpsc::Receiver<Vec<u8>>, RuntimeError> {
        let (send, receive) = mpsc::channel(1);
        send.try_send(b"line\n".to_vec()).unwrap();
        Ok(receive)
    }

    fn last_lines(&self, _: &str, container: &str, instance: u32) -> String {
        format!("{container}.{instance} gives up")
    }

    async fn exec(
        &self,
        _: &str,
        _: &str,
        command: &[String],
        _: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        self.say(format!("exec {}", command.join(" ")));
        let exit_code = i32::from(command[0] == "false");
        Ok(ExecOutput {
            exit_code,
            stdout: Vec::new(),
            stderr: Vec::new(),
        })
    }

    /// The container `d` has an input, and says what it hears.
    async fn attach(
        &self,
        pod_uid: &str,
        container: &str,
        stdin: bool,
    ) -> Result<Option<RunningCommand>, RuntimeError> {
        if container != "d" {
            return Ok(None);
        }
        let command = ["sh", "-c", "cat; exit 3"].map(str::to_owned).to_vec();
        let wanted = OpenCommand {
            command,
            stdin,
            tty: false,
        };
        self.open(pod_uid, container, wanted).await.map(Some)
    }

    /// The command itself, beside the test.
    async fn open(
        &self,
        _: &str,
        _: &str,
        wanted: OpenCommand,
    ) -> Result<RunningCommand, RuntimeError> {
        let failed = |error: std::io::Error| RuntimeError {
            what: error.to_string(),
        };
        let mut child = tokio::process::Command::new(&wanted.command[0])
            .args(&wanted.command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take().filter(|_| wanted.stdin);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let log = self.log.clone();
        let resize = move |columns: u16, rows: u16| {
            log.lock().unwrap().push(format!("size {columns} {rows}"));
        };
        Ok(RunningCommand {
            stdin: stdin.map(|stdin| Box::new(stdin) as Box<dyn AsyncWrite + Send + Unpin>),
            stdout: Box::new(stdout.expect("it is piped")),
            stderr: stderr.map(|stderr| Box::new(stderr) as Box<dyn AsyncRead + Send + Unpin>),
            resize: wanted
                .tty
                .then(|| Box::new(resize) as Box<dyn Fn(u16, u16) + Send + Sync>),
            end: Box::pin(async move {
                let status = child.wait().await.map_err(failed)?;
                Ok(status.code().unwrap_or(255))
            }),
        })
    }

    async fn dial(&self, _: &str, port: u16) -> Result<TcpStream, RuntimeError> {
        let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
        connection.map_err(|error| RuntimeError {
            what: format!("connect to port {port} of the pod: {error}"),
        })
    }
}

/// An API that holds one pod's status, and one Secret unless it is away.
#[derive(Default)]
struct FakeApi {
    status: watch::Sender<Option<PodStatus>>,
    deleted: watch::Sender<bool>,
    secret_missing: std::sync::atomic::AtomicBool,
    /// In base64.
    secret_value: Mutex<Option<String>>,
    watching: Mutex<Vec<Arc<Notify>>>,
}

impl PodApi for FakeApi {
    async fn secret(&self, _: &str, name: &str) -> Result<Option<Secret>, String> {
        if self
            .secret_missing
            .load(std::sync::atomic::Ordering::SeqCst)
        {
            return Ok(None);
        }
        let value = self
            .secret_value
            .lock()
            .unwrap()
            .clone()
            .unwrap_or_else(|| "a2V5".to_owned());
        Ok(Some(
            serde_json::from_value(json!({"metadata":{"name":name},"data":{"tls.key":value}}))
                .unwrap(),
        ))
    }

    async fn config_map(&self, _: &str, _: &str) -> Result<Option<ConfigMap>, String> {
        Ok(None)
    }

    async fn token(&self, _: &Pod, wanted: &tokens::Wanted) -> Result<Token, String> {
        let asked = tokens::now();
        Ok(Token {
            text: "token".to_owned(),
            asked,
            ends: asked + wanted.seconds,
        })
    }

    fn watch_objects(&self, _: &Pod, changed: &Arc<Notify>) -> Vec<AbortOnDropHandle<()>> {
        self.watching.lock().unwrap().push(changed.clone());
        Vec::new()
    }

    async fn patch_status(&self, pod: &Pod, status: &PodStatus) -> Result<Patched, String> {
        self.status.send_replace(Some(status.clone()));
        let mut pod = pod.clone();
        pod.status = Some(status.clone());
        Ok(Patched::Done(Box::new(pod)))
    }

    async fn delete(&self, _: &Pod) -> Result<(), String> {
        self.deleted.send_replace(true);
        Ok(())
    }
}

struct Node {
    runtime: Arc<FakeRuntime>,
    api: Arc<FakeApi>,
    wanted: watch::Sender<Wanted>,
    events: mpsc::Receiver<Happening>,
    directory: Arc<tempfile::TempDir>,
    _agent: AbortOnDropHandle<()>,
}

impl Node {
    fn new() -> Self {
        Self::over(
            Arc::default(),
            Arc::default(),
            Arc::new(tempfile::tempdir().unwrap()),
        )
    }

    fn over(
        runtime: Arc<FakeRuntime>,
        api: Arc<FakeApi>,
        directory: Arc<tempfile::TempDir>,
    ) -> Self {
        let (wanted, wanted_in) = watch::channel(None);
        let (recorder, events) = Recorder::new();
        let (services, services_in) = watch::channel(Some(Arc::default()));
        let drains = Drains::new();
        let roots = Roots {
            durable: directory.path().join("volumes"),
            volatile: directory.path().join("memory"),
        };
        let context = Context {
            runtime: runtime.clone(),
            api: api.clone(),
            roots,
            host_address: Ipv4Addr::new(10, 77, 0, 12),
            node_memory_bytes: 512 << 20,
            host_resolv_conf: String::new(),
            services: services_in,
            drains: drains.clone(),
            events: recorder,
            relist: Arc::default(),
        };
        let checkpoint = Checkpoint::open(&directory.path().join("manifests"), "boot").unwrap();
        let server = drain_everything(drains, runtime.clone());
        let agent = tokio::spawn(async move {
            let _services = services;
            tokio::select! {
                () = pods::run(Arc::new(context), checkpoint, wanted_in) => {}
                () = server => {}
            }
        });
        Self {
            runtime,
            api,
            wanted,
            events,
            directory,
            _agent: AbortOnDropHandle::new(agent),
        }
    }

    fn want(&self, pods: &[Value]) {
        let pods = pods
            .iter()
            .map(|pod| serde_json::from_value::<Pod>(pod.clone()).unwrap());
        self.wanted.send_replace(Some(Arc::new(
            pods.map(|pod| (pod.metadata.uid.clone().unwrap(), Arc::new(pod)))
                .collect(),
        )));
    }

    /// Waits for a status.
    async fn status(&self, what: &str, wanted: impl Fn(&PodStatus) -> bool) -> PodStatus {
        let mut statuses = self.api.status.subscribe();
        let found = tokio::time::timeout(
            PATIENCE,
            statuses.wait_for(|status| status.as_ref().is_some_and(&wanted)),
        )
        .await;
        let Ok(status) = found else {
            panic!(
                "waited for {what}, last seen {:?}",
                self.api.status.borrow()
            )
        };
        status.unwrap().clone().unwrap()
    }

    async fn event(&mut self, reason: &str) -> String {
        let wait = async {
            loop {
                let text = format!("{:?}", self.events.recv().await.expect("the agent runs"));
                if text.contains(&format!("reason: \"{reason}\"")) {
                    return text;
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("waited for event {reason}"))
    }

    async fn gone(&self, uid: &str) {
        let wait = async {
            while self.runtime.sandboxes.lock().unwrap().contains_key(uid) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| panic!("waited for {uid} to be removed"));
    }
}

/// A server in whose cluster nobody balances.
async fn drain_everything(drains: Drains, runtime: Arc<FakeRuntime>) {
    let (mut changes, mut said) = (drains.subscribe(), BTreeMap::new());
    while changes.changed().await.is_ok() {
        for news in drains.news(&mut said) {
            if let FromNode::Drain { pod_uid, .. } = news {
                runtime.say(format!("drain {pod_uid}"));
                drains.drained(&pod_uid, vec![]);
            }
        }
    }
}

fn pod(uid: &str, revision: u32, spec: &Value) -> Value {
    json!({"metadata":{"name":"web","namespace":"default","uid":uid,"resourceVersion":revision.to_string()},"spec":spec})
}

fn is_ready(status: &PodStatus) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn reason(status: &PodStatus) -> Option<&str> {
    status
        .container_statuses
        .as_ref()?
        .first()?
        .state
        .as_ref()?
        .waiting
        .as_ref()?
        .reason
        .as_deref()
}

#[tokio::test]
async fn a_pod_lives_crashes_and_is_deleted() {
    let mut node = Node::new();
    let spec = json!({"terminationGracePeriodSeconds":30,"containers":[{"name":"c","image":"image","env":[{"name":"KEY","valueFrom":{"secretKeyRef":{"name":"s","key":"tls.key"}}}],
        "volumeMounts":[{"name":"v","mountPath":"/certs"}],"lifecycle":{"preStop":{"exec":{"command":["bye"]}}}}],"volumes":[{"name":"v","secret":{"secretName":"s"}}]});
    node.want(&[pod("u1", 1, &spec)]);
    let status = node.status("ready", is_ready).await;
    assert_eq!(
        (status.phase.as_deref(), status.pod_ip.as_deref()),
        (Some("Running"), Some("127.0.0.1"))
    );
    {
        let started = node.runtime.started.lock().unwrap();
        assert!(started[0].env.contains(&("KEY".into(), "key".into())));
        let source = &started[0].mounts[0].source;
        assert_eq!(
            std::fs::read_to_string(source.join("tls.key")).unwrap(),
            "key"
        );
        assert!(
            source.starts_with(node.directory.path().join("memory")),
            "Secrets are kept in memory"
        );
    }
    node.event("Started").await;

    // A changed Secret reaches the running container's volume.
    let key = node.runtime.started.lock().unwrap()[0].mounts[0]
        .source
        .join("tls.key");
    *node.api.secret_value.lock().unwrap() = Some("bmV3".into());
    node.api.watching.lock().unwrap()[0].notify_one();
    let rotated = async {
        while std::fs::read_to_string(&key).unwrap() != "new" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, rotated)
        .await
        .expect("the volume follows the Secret");

    node.runtime.exit("u1", "c", 1);
    let again = |status: &PodStatus| {
        is_ready(status) && status.container_statuses.as_ref().unwrap()[0].restart_count == 1
    };
    let status = node.status("the restart", again).await;
    let last = status.container_statuses.unwrap()[0]
        .last_state
        .clone()
        .unwrap()
        .terminated
        .unwrap();
    assert_eq!(last.exit_code, 1);
    node.runtime.exit("u1", "c", 1);
    node.status("the back-off", |status| {
        reason(status) == Some("CrashLoopBackOff")
    })
    .await;
    node.event("BackOff").await;

    // Its neighbour of the same name is another pod.
    let mut leaving = pod("u1", 9, &spec);
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    node.want(&[leaving, pod("u2", 10, &spec)]);
    node.gone("u1").await;
    node.api
        .deleted
        .subscribe()
        .wait_for(|deleted| *deleted)
        .await
        .unwrap();
    assert!(
        !node.directory.path().join("volumes/u1").exists()
            && !node.directory.path().join("memory/u1").exists()
    );
    node.want(&[pod("u2", 10, &spec)]);
    node.gone("u1").await;
    // Forced out of the API: stopped and removed the same way, preStop first.
    node.status("the second pod", is_ready).await;
    node.want(&[]);
    node.gone("u2").await;
    let said = node.runtime.said();
    let at = |what: &str| {
        said.iter()
            .position(|line| line == what)
            .unwrap_or_else(|| panic!("{what} in {said:?}"))
    };
    assert!(at("drain u2") < at("exec bye"));
    assert!(at("exec bye") < at("stop u2 c") && at("stop u2 c") < at("remove u2"));
}

#[tokio::test]
async fn a_failed_container_without_a_message_shows_the_end_of_its_log_if_asked() {
    let node = Node::new();
    let spec = json!({"restartPolicy":"Never","containers":[
        {"name":"asks","image":"image","terminationMessagePolicy":"FallbackToLogsOnError"},
        {"name":"succeeds","image":"image","terminationMessagePolicy":"FallbackToLogsOnError"},
        {"name":"file","image":"image","terminationMessagePolicy":"File"}]});
    node.want(&[pod("u1", 1, &spec)]);
    node.status("ready", is_ready).await;
    for (name, code) in [("asks", 1), ("succeeds", 0), ("file", 1)] {
        node.runtime.exit("u1", name, code);
    }
    let status = node
        .status("the end", |status| {
            status.phase.as_deref() == Some("Failed")
        })
        .await;
    let messages: Vec<Option<String>> = status
        .container_statuses
        .unwrap()
        .into_iter()
        .map(|container| container.state.unwrap().terminated.unwrap().message)
        .collect();
    assert_eq!(messages, [Some("asks.0 gives up".to_owned()), None, None]);
}

#[tokio::test]
async fn what_cannot_be_had_is_said() {
    let mut node = Node::new();
    node.want(&[pod(
        "u1",
        1,
        &json!({"containers":[{"name":"c","image":"nowhere"}]}),
    )]);
    node.status("the error", |status| reason(status) == Some("ErrImagePull"))
        .await;
    assert!(
        node.event("Failed")
            .await
            .contains("was not found in the mirror")
    );
    node.status("the back-off", |status| {
        reason(status) == Some("ImagePullBackOff")
    })
    .await;

    let node = Node::new();
    node.api
        .secret_missing
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let env = json!([{"name":"A","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]);
    node.want(&[pod(
        "u1",
        1,
        &json!({"containers":[{"name":"c","image":"image","env":env}]}),
    )]);
    let status = node
        .status("the error", |status| {
            reason(status) == Some("CreateContainerConfigError")
        })
        .await;
    let message = status.container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap()
        .waiting
        .unwrap()
        .message
        .unwrap();
    assert_eq!(message, "secret \"s\" not found");
}

#[tokio::test]
async fn init_containers_run_one_after_another() {
    let node = Node::new();
    let spec = json!({"initContainers":[{"name":"a","image":"image"},{"name":"b","image":"image"}],"containers":[{"name":"c","image":"image"}]});
    node.want(&[pod("u1", 1, &spec)]);
    for name in ["a", "b"] {
        let runs = |status: &PodStatus| {
            let all = status.init_container_statuses.as_ref().unwrap();
            all.iter().any(|one| {
                one.name == name
                    && one
                        .state
                        .as_ref()
                        .is_some_and(|state| state.running.is_some())
            })
        };
        let status = node.status(name, runs).await;
        assert_eq!(
            (status.phase.as_deref(), reason(&status)),
            (Some("Pending"), Some("PodInitializing"))
        );
        node.runtime.exit("u1", name, 0);
    }
    node.status("ready", is_ready).await;
    let starts: Vec<String> = node
        .runtime
        .said()
        .into_iter()
        .filter(|line| line.starts_with("start"))
        .collect();
    assert_eq!(starts, ["start a 0", "start b 0", "start c 0"]);
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts_and_readiness_gates() {
    let mut node = Node::new();
    let spec = json!({"containers":[{"name":"c","image":"image","livenessProbe":{"exec":{"command":["false"]},"failureThreshold":1}}]});
    node.want(&[pod("u1", 1, &spec)]);
    node.event("Unhealthy").await;
    assert!(
        node.event("Killing")
            .await
            .contains("failed liveness probe, will be restarted")
    );
    node.status("the restart", |status| {
        status.container_statuses.as_ref().unwrap()[0].restart_count == 1
    })
    .await;

    let node = Node::new();
    let probe = json!({"exec":{"command":["true"]},"initialDelaySeconds":1});
    node.want(&[pod(
        "u1",
        1,
        &json!({"containers":[{"name":"c","image":"image","readinessProbe":probe}]}),
    )]);
    let runs = |status: &PodStatus| status.phase.as_deref() == Some("Running");
    assert!(
        !is_ready(&node.status("running", runs).await),
        "not before its probe has succeeded"
    );
    node.status("readiness", is_ready).await;
}

#[tokio::test]
async fn a_restarted_agent_adopts_what_runs() {
    let spec =
        json!({"terminationGracePeriodSeconds":30,"containers":[{"name":"c","image":"image"}]});
    let runtime = Arc::new(FakeRuntime::default());
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let first = Node::over(runtime.clone(), Arc::default(), directory.clone());
    first.want(&[pod("u1", 1, &spec)]);
    first.status("ready", is_ready).await;
    runtime.exit("u1", "c", 1);
    first
        .status("the restart", |status| {
            is_ready(status) && status.container_statuses.as_ref().unwrap()[0].restart_count == 1
        })
        .await;
    drop(first);
    runtime
        .sandboxes
        .lock()
        .unwrap()
        .insert("orphan".into(), sandbox("orphan", &[status("x", 0)]));
    runtime.log.lock().unwrap().clear();

    // No API: what runs goes on, what dies is restarted, nothing is removed.
    let second = Node::over(runtime.clone(), Arc::default(), directory.clone());
    let adopted = |status: &PodStatus| {
        is_ready(status) && status.container_statuses.as_ref().unwrap()[0].restart_count == 1
    };
    second.status("adoption", adopted).await;
    runtime.exit("u1", "c", 1);
    second
        .status("the restart", |status| {
            is_ready(status) && status.container_statuses.as_ref().unwrap()[0].restart_count == 2
        })
        .await;
    assert_eq!(
        runtime
            .said()
            .iter()
            .filter(|line| line.starts_with("stop") || line.starts_with("remove"))
            .count(),
        0
    );

    // The API is back: it has the pod, not the orphan.
    second.want(&[pod("u1", 1, &spec)]);
    second.gone("orphan").await;
    assert!(runtime.sandboxes.lock().unwrap().contains_key("u1"));
    drop(second);

    // Another boot: the manifests are forgotten until the API says so.
    Checkpoint::open(&directory.path().join("manifests"), "another boot").unwrap();
    assert_eq!(
        std::fs::read_dir(directory.path().join("manifests"))
            .unwrap()
            .count(),
        1
    );
}

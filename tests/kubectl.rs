//! Real clients against the API server: everyday commands of every kubectl that is found, and of Python's `kubernetes`.
//!
//! `kubectl` of PATH, those in FLIGHTCAGE_KUBECTLS (separated by colons), and the Python in FLIGHTCAGE_PYTHON, if it is set. For most
//! commands no node is there: pods stay pending, which is enough for everything but what containers do. For streams there is a real agent
//! whose containers' commands run beside the test.

mod in_process;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use in_process::{Authority, Running, authority, install, kubeconfig, node};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// A command that works: the first minor version of kubectl that has it, its arguments for a shell in the directory of the
/// manifests, and what its output holds. They run in this order, in one cluster.
const COMMANDS: &[(u32, &str, &str)] = &[
    // The cluster, and what it knows.
    (0, "version", "Server Version"),
    (0, "cluster-info", "is running at"),
    (0, "api-versions", "authorization.k8s.io/v1"),
    (0, "api-resources", "replicationcontrollers"),
    (0, "explain pods", "spec"),
    (0, "explain deployment.spec.strategy", "rollingUpdate"),
    (0, "explain pods --recursive", "readinessProbe"),
    (0, "get --raw /readyz", "ok"),
    (0, "get --raw /metrics", "flightcage_panics_total 0"),
    (0, "get --raw /version", "gitVersion"),
    (0, "get --raw /openapi/v2", "io.k8s.api.core.v1.Pod"),
    (0, "get --raw /openapi/v3", "apis/apps/v1"),
    (0, "auth can-i get pods", "yes"),
    (0, "auth can-i --list", "*.*"),
    (26, "auth whoami", "system:masters"),
    // Creation.
    (0, "create namespace ns1", "created"),
    (0, "create configmap cm --from-literal=a=b", "created"),
    (0, "create secret generic s --from-literal=a=b", "created"),
    (0, "create serviceaccount sa1", "created"),
    (
        0,
        "create deployment dep --image=i:1 --replicas=2",
        "created",
    ),
    (0, "create service clusterip svc --tcp=80:80", "created"),
    (0, "create service nodeport svcn --tcp=80:80", "created"),
    (
        0,
        "create service externalname svce --external-name=a.example",
        "created",
    ),
    (0, "run p1 --image=i:1", "created"),
    (0, "create -f node.yaml", "created"),
    (24, "create token sa1 --duration=10m", "eyJ"),
    (
        24,
        "create token default --audience=vault --bound-object-kind=Pod --bound-object-name=p1",
        "eyJ",
    ),
    // Roles, as they are enforced for who is no administrator.
    (
        0,
        "create clusterrolebinding jane --clusterrole=view --user=jane",
        "created",
    ),
    (0, "auth can-i list pods --as=jane", "yes"),
    (0, "auth can-i delete pods --as=jane || true", "no"),
    (0, "get pods --as=jane", "p1"),
    (
        0,
        "delete pod p1 --as=jane || true",
        "cannot delete resource \"pods\"",
    ),
    (
        0,
        "get secrets --as=jane || true",
        "cannot list resource \"secrets\"",
    ),
    (0, "get pods --as=jane --as-group=system:masters", "p1"),
    (0, "get clusterroles", "cluster-admin"),
    // Reading.
    (0, "get all", "deployment.apps/dep"),
    (0, "get pods", "Pending"),
    (0, "get pods -o wide", "NOMINATED NODE"),
    (0, "get deploy dep -o yaml", "maxSurge: 25%"),
    (0, "get deploy dep -o json", "\"replicas\": 2"),
    (0, "get deploy dep -o name", "deployment.apps/dep"),
    (0, "get rs", "DESIRED"),
    (0, "get pods -o jsonpath='{.items[*].metadata.name}'", "p1"),
    (0, "get pods -o custom-columns=N:.metadata.name", "p1"),
    (0, "get pods -l app=dep", "dep-"),
    (0, "get pods --field-selector status.phase=Pending", "p1"),
    (0, "get pods --chunk-size=1", "p1"),
    (0, "get pods --show-labels", "run=p1"),
    (0, "get pods --sort-by=.metadata.name", "p1"),
    (0, "get cm,secret,sa", "serviceaccount/sa1"),
    (0, "get events", ""),
    (23, "events", ""),
    (0, "get nodes -o wide", "n1"),
    (0, "describe deploy dep", "StrategyType:"),
    (0, "describe rs", "Controlled By:"),
    (0, "describe pod p1", "Image:"),
    (0, "describe cm cm", "Data"),
    (0, "describe secret s", "Opaque"),
    (0, "describe svc svc", "Endpoints:"),
    (0, "describe ns ns1", "Active"),
    (0, "describe sa sa1", "sa1"),
    (0, "describe node n1", "Unschedulable:"),
    // Application.
    (0, "apply -f cm.yaml", "created"),
    (0, "apply -f cm.yaml", "unchanged"),
    (0, "apply -f dep.yaml", "created"),
    (0, "apply --dry-run=server -f cm.yaml", "server dry run"),
    (0, "apply --dry-run=client -f cm.yaml", "dry run"),
    (0, "apply view-last-applied cm applied", "a: b"),
    (0, "diff -f cm.yaml", ""),
    (0, "replace -f cm.yaml", "replaced"),
    (0, "apply --server-side -f ssa.yaml", "serverside-applied"),
    (0, "apply --server-side -f ssa.yaml", "serverside-applied"),
    (
        21,
        "get cm ssa -o json --show-managed-fields",
        "\"manager\": \"kubectl\"",
    ),
    (
        0,
        "apply --server-side -f cm.yaml --force-conflicts",
        "serverside-applied",
    ),
    (
        0,
        "apply --server-side --field-manager=other --force-conflicts -f dep.yaml",
        "serverside-applied",
    ),
    // Changes.
    (0, "patch cm cm -p '{\"data\":{\"c\":\"d\"}}'", "patched"),
    (
        0,
        "patch cm cm --type=merge -p '{\"data\":{\"c\":\"e\"}}'",
        "patched",
    ),
    (
        0,
        "patch cm cm --type=json -p '[{\"op\":\"add\",\"path\":\"/data/x\",\"value\":\"y\"}]'",
        "patched",
    ),
    (
        0,
        "patch deploy dep -p '{\"spec\":{\"minReadySeconds\":1}}'",
        "patched",
    ),
    (
        24,
        "patch deploy dep --subresource=scale --type=merge -p '{\"spec\":{\"replicas\":3}}'",
        "patched",
    ),
    (0, "label cm cm x=y", "labeled"),
    (0, "label cm cm x-", "cm"),
    (0, "annotate cm cm x=y", "annotated"),
    (0, "scale deploy dep --replicas=1", "scaled"),
    (0, "expose deploy dep --port=80", "exposed"),
    (0, "set image deploy/dep i=i:2", "image updated"),
    (0, "set env deploy/dep A=B", "env updated"),
    (
        0,
        "set resources deploy/dep --limits=cpu=100m",
        "resource requirements updated",
    ),
    (0, "set selector svc svc app=dep", "selector updated"),
    (
        0,
        "set serviceaccount deploy/dep sa1",
        "serviceaccount updated",
    ),
    (0, "rollout history deploy/dep", "REVISION"),
    (0, "rollout pause deploy/dep", "paused"),
    (0, "rollout resume deploy/dep", "resumed"),
    (0, "rollout restart deploy/dep", "restarted"),
    (0, "rollout undo deploy/dep", "rolled back"),
    (0, "rollout status deploy/dep --watch=false", "Waiting for"),
    (
        23,
        "wait --for=jsonpath='{.metadata.name}'=cm cm/cm",
        "condition met",
    ),
    (0, "cordon n1", "cordoned"),
    (0, "uncordon n1", "uncordoned"),
    (0, "taint node n1 a=b:NoSchedule", "tainted"),
    (0, "drain n1", "drained"),
    // Kinds that a definition defines.
    (0, "create -f crd.yaml", "created"),
    (
        0,
        "wait --for=condition=Established crd/lamps.example.org --timeout=10s",
        "condition met",
    ),
    (0, "get crd", "CREATED AT"),
    (0, "api-resources --api-group=example.org", "lamps"),
    (0, "create -f lamp.yaml", "created"),
    (0, "get lamps", "BULB"),
    (0, "get lp a -o wide", "WATTS"),
    (0, "get lamps.v1.example.org a -o yaml", "watts: 5"),
    (0, "get all", "lamp.example.org/a"),
    (0, "describe lamp a", "led"),
    (0, "explain lamps", "Lamp"),
    (0, "explain lamp.spec", "bulb"),
    (0, "explain lamps --recursive", "watts"),
    (0, "apply -f lamp2.yaml", "created"),
    (0, "apply -f lamp2.yaml", "unchanged"),
    (
        0,
        "apply --server-side --force-conflicts -f lamp.yaml",
        "serverside-applied",
    ),
    (
        0,
        "patch lamp a --type=merge -p '{\"spec\":{\"watts\":7}}'",
        "patched",
    ),
    (
        0,
        "patch lamp a --type=json -p '[{\"op\":\"remove\",\"path\":\"/spec/watts\"}]'",
        "patched",
    ),
    (0, "label lamp a x=y", "labeled"),
    (0, "scale lamp a --replicas=2", "scaled"),
    // Deletion.
    (0, "delete pod p1 --force", "deleted"),
    (0, "delete deploy dep --cascade=orphan", "deleted"),
    (0, "delete deploy dep2 --cascade=foreground", "deleted"),
    (0, "delete rs --all", "deleted"),
    (0, "delete cm cm", "deleted"),
    (0, "delete lamp a", "deleted"),
    (0, "delete crd lamps.example.org", "deleted"),
    (0, "delete cm -l nothing=x", "No resources found"),
    (0, "delete ns ns1", "deleted"),
];

/// Commands that are refused, and what they say.
const REFUSED: &[(u32, &str, &str)] = &[
    (0, "get birds", "doesn't have a resource type"),
    (0, "get pod nobody", "not found"),
    (
        0,
        "apply --server-side --field-manager=third -f conflict.yaml",
        "conflict with \"kubectl\"",
    ),
    (0, "explain pods.spec.wings", "does not exist"),
    (25, "create -f wrong.yaml", "unknown field \"datta\""),
    (0, "diff -f conflict.yaml", "+  a: z"),
    (0, "create -f dark.yaml", "Unsupported value: \"gas\""),
    (0, "patch lamp a -p '{\"spec\":{}}'", "unknown format"),
];

/// Streams: the command, its exit code, and what its output holds. `p` has the containers `c` and `d`.
const STREAMS: &[(&str, i32, &str)] = &[
    ("exec p -c c -- echo hello", 0, "hello"),
    ("exec p -c c -- sh -c 'echo to stderr >&2'", 0, "to stderr"),
    ("exec p -c c -- sh -c 'exit 3'", 3, "exit code 3"),
    ("exec p -c d -- true", 0, ""),
    ("exec -i p -c c -- cat < cm.yaml", 0, "kind: ConfigMap"),
    // Half-closed: `wc` answers when it has read everything.
    ("exec -i p -c c -- wc -c < big", 0, "8000000"),
    ("exec p -c c -- head -c 8000000 big | wc -c", 0, "8000000"),
    // A terminal, from one of `script` to the command's.
    (
        "version --client > /dev/null; script -qec \"stty cols 101 rows 33; $KUBECTL exec -it p -c c -- \
         sh -c 'until stty size | grep -q 33.101; do :; done; echo sized; exit 4'\" /dev/null < /dev/null",
        4,
        "sized",
    ),
    (
        "exec p -c c -- sh -c 'test -t 1 || echo a pipe'",
        0,
        "a pipe",
    ),
    ("cp cm.yaml p:copied -c c", 0, ""),
    ("exec p -c c -- cat copied", 0, "kind: ConfigMap"),
    (
        "cp p:copied back.yaml -c c && cat back.yaml",
        0,
        "kind: ConfigMap",
    ),
    ("attach p -c c", 0, node::OUTPUT),
    ("exec p -c nothing -- true", 1, "container nothing"),
    ("exec nobody -- true", 1, "pods \"nobody\" not found"),
    ("exec p -c c -- /no/such/program", 1, "No such file"),
];

/// Far longer than anything here takes; only a hang gets there.
const PATIENCE: Duration = Duration::from_mins(1);

/// A kind with something of everything.
const CRD: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: lamps.example.org}
spec:
  group: example.org
  scope: Namespaced
  names: {plural: lamps, kind: Lamp, shortNames: [lp], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {name: Bulb, type: string, jsonPath: .spec.bulb}
    - {name: Watts, type: integer, jsonPath: .spec.watts, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [bulb]
            properties: {bulb: {type: string, enum: [led, arc]}, watts: {type: integer, default: 5}, replicas: {type: integer}}
          status: {type: object, properties: {replicas: {type: integer}}}
";

/// Not in braces from the first letter on: older kubectls take that for JSON.
const MANIFESTS: &[(&str, &str)] = &[
    (
        "cm.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {a: b}\n",
    ),
    (
        "ssa.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: b}\n",
    ),
    (
        "conflict.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ssa}\ndata: {a: z}\n",
    ),
    (
        "wrong.yaml",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: wrong}\ndatta: {a: b}\n",
    ),
    (
        "crd.yaml",
        CRD,
    ),
    (
        "lamp.yaml",
        "apiVersion: example.org/v1\nkind: Lamp\nmetadata: {name: a}\nspec: {bulb: led}\n",
    ),
    (
        "lamp2.yaml",
        "apiVersion: example.org/v1\nkind: Lamp\nmetadata: {name: b}\nspec: {bulb: arc}\n",
    ),
    (
        "dark.yaml",
        "apiVersion: example.org/v1\nkind: Lamp\nmetadata: {name: c}\nspec: {bulb: gas}\n",
    ),
    (
        "node.yaml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n",
    ),
    (
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {nodeName: w1,
          containers: [{name: c, image: \"i:1\"}, {name: d, image: \"i:1\"}]}\n",
    ),
    (
        "dep.yaml",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: dep2, labels: {app: dep2}}\nspec: {replicas: 2,
          selector: {matchLabels: {app: dep2}}, template: {metadata: {labels: {app: dep2}},
          spec: {containers: [{name: c, image: \"i:1\"}]}}}\n",
    ),
];

/// A cluster of its own, with a folder of manifests.
struct Cluster {
    directory: tempfile::TempDir,
    authority: Authority,
    server: Running,
    node: Option<AbortOnDropHandle<()>>,
}

impl Cluster {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let authority = authority();
        install(&authority, directory.path());
        let server = Running::start(directory.path()).await;
        kubeconfig(&authority, directory.path(), &server.url);
        for (name, text) in MANIFESTS {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        Self {
            directory,
            authority,
            server,
            node: None,
        }
    }

    /// With a node that runs the pod `p`.
    async fn with_node(kubectl: &Path) -> Self {
        let mut cluster = Self::start().await;
        let path = cluster.directory.path();
        let root = path.join("root");
        std::fs::create_dir(&root).expect("a directory");
        for folder in [path, &root] {
            std::fs::write(folder.join("big"), vec![b'x'; 8_000_000]).expect("written");
        }
        let node = node::start(&cluster.authority, path, &cluster.server.url, &root);
        cluster.node = Some(node);
        for command in [
            "create -f pod.yaml",
            "wait --for=condition=Ready pod/p --timeout=60s",
        ] {
            let output = cluster.run(kubectl, command).await;
            assert!(output.status.success(), "{command}: {}", text(&output));
        }
        cluster
    }

    async fn stop(self) {
        drop(self.node);
        self.server.stop().await;
    }

    /// Runs a command of a shell, to which `kubectl` is this one.
    async fn run(&self, kubectl: &Path, command: &str) -> Output {
        let script = format!(
            "kubectl() {{ '{}' --request-timeout=20s \"$@\"; }}; kubectl {command}",
            kubectl.display()
        );
        Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.directory.path())
            .env("KUBECONFIG", self.directory.path().join("kubeconfig"))
            .env("KUBECTL", kubectl)
            .env("HOME", self.directory.path())
            .output()
            .await
            .expect("a shell")
    }
}

fn text(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    both.concat()
}

/// Every kubectl that is found.
fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let of_path = std::env::split_paths(&path)
        .map(|folder| folder.join("kubectl"))
        .find(|file| file.is_file());
    let named = std::env::var("FLIGHTCAGE_KUBECTLS").unwrap_or_default();
    let named = std::env::split_paths(&named).filter(|file| !file.as_os_str().is_empty());
    of_path.into_iter().chain(named).collect()
}

/// The minor version of a kubectl.
async fn minor(cluster: &Cluster, kubectl: &Path) -> u32 {
    let output = cluster.run(kubectl, "version --client -o json").await;
    let version: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let minor = version["clientVersion"]["minor"]
        .as_str()
        .expect("a minor version");
    minor.trim_end_matches('+').parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn everyday_commands_of_kubectl_work() {
    let found = kubectls();
    assert!(
        !found.is_empty(),
        "no kubectl in PATH or FLIGHTCAGE_KUBECTLS"
    );
    let mut failed = Vec::new();
    for kubectl in found {
        let cluster = Cluster::start().await;
        let minor = minor(&cluster, &kubectl).await;
        let (mut all, mut good) = (0, 0);
        // What is refused is tried while the objects are there.
        let deletions = COMMANDS
            .iter()
            .position(|(_, command, _)| *command == "delete pod p1 --force")
            .expect("deletions");
        let (before, after) = COMMANDS.split_at(deletions);
        for (table, works) in [(before, true), (REFUSED, false), (after, true)] {
            for (_, command, holds) in table.iter().filter(|(since, _, _)| *since <= minor) {
                all += 1;
                let output = cluster.run(&kubectl, command).await;
                let text = text(&output);
                if output.status.success() == works && text.contains(holds) {
                    good += 1;
                } else {
                    failed.push(format!("1.{minor} {command}: {}", text.trim_end()));
                }
            }
        }
        eprintln!("kubectl 1.{minor}: {good} of {all}");
        cluster.stop().await;
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

/// A server on loopback that says everything back, `>` before it.
async fn echo() -> (u16, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let serving = async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = Vec::new();
                // It answers a line, and what a client that half-closes has sent.
                loop {
                    match stream.read_buf(&mut heard).await {
                        Ok(0) => break,
                        Ok(_) if heard.ends_with(b"\n") => break,
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
                heard.insert(0, b'>');
                drop(stream.write_all(&heard).await);
            });
        }
    };
    (port, AbortOnDropHandle::new(tokio::spawn(serving)))
}

/// One `kubectl port-forward` with a port that answers and one that nobody listens on.
async fn forward(cluster: &Cluster, kubectl: &Path, sockets: &str) -> Result<(), String> {
    let (port, _serving) = echo().await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let nobody = closed.local_addr().expect("an address").port();
    drop(closed);
    let mut child = Command::new(kubectl)
        .args(["port-forward", "--address=127.0.0.1", "pod/p"])
        .args([format!(":{port}"), format!(":{nobody}")])
        .env("KUBECONFIG", cluster.directory.path().join("kubeconfig"))
        .env("HOME", cluster.directory.path())
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", sockets)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut told = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut local = Vec::new();
    while local.len() < 2 {
        let line = lines.next_line().await.expect("text");
        let Some(line) = line else {
            let why = told.next_line().await.expect("text").unwrap_or_default();
            return Err(why);
        };
        let port = line.strip_prefix("Forwarding from 127.0.0.1:");
        let port = port.and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok());
        local.extend(port);
    }
    // Several at once, and one that is large.
    let asking = (0..4usize).map(|number| {
        let port = local[0];
        tokio::spawn(async move {
            let question = vec![b'a'; 1 + number * 400_000];
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            stream.write_all(&question).await?;
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer.len() == question.len() + 1)
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        match asked.await.expect("no panic") {
            Ok(true) => {}
            other => return Err(format!("an answer: {other:?}")),
        }
    }
    let mut refused = TcpStream::connect((Ipv4Addr::LOCALHOST, local[1]))
        .await
        .map_err(|error| error.to_string())?;
    let _ = refused.read(&mut [0; 1]).await;
    loop {
        let line = told.next_line().await.expect("text");
        let line = line.ok_or("kubectl did not say that a port is closed")?;
        if line.contains("refused") {
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_kubectl_work() {
    let mut failed = Vec::new();
    for kubectl in kubectls() {
        let cluster = Cluster::with_node(&kubectl).await;
        let minor = minor(&cluster, &kubectl).await;
        let (mut all, mut good) = (0, 0);
        // Newer ones take WebSockets unless they are told not to.
        let ways: &[&str] = if minor >= 31 {
            &["true", "false"]
        } else {
            &["false"]
        };
        for sockets in ways {
            for (command, code, holds) in STREAMS {
                all += 1;
                let exported = format!(
                    "version --client > /dev/null; export KUBECTL_REMOTE_COMMAND_WEBSOCKETS={sockets}; kubectl {command}"
                );
                let output = timeout(PATIENCE, cluster.run(&kubectl, &exported)).await;
                let Ok(output) = output else {
                    failed.push(format!("1.{minor} {sockets} {command}: it hangs"));
                    continue;
                };
                let text = text(&output);
                if output.status.code() == Some(*code) && text.contains(holds) {
                    good += 1;
                } else {
                    let code = output.status.code();
                    failed.push(format!("1.{minor} {sockets} {command}: {code:?} {text}"));
                }
            }
            all += 1;
            match timeout(PATIENCE, forward(&cluster, &kubectl, sockets)).await {
                Ok(Ok(())) => good += 1,
                Ok(Err(why)) => failed.push(format!("1.{minor} {sockets} port-forward: {why}")),
                Err(_) => failed.push(format!("1.{minor} {sockets} port-forward: it hangs")),
            }
        }
        eprintln!("kubectl 1.{minor}: {good} of {all} streams");
        cluster.stop().await;
    }
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_the_python_client_work() {
    let Ok(python) = std::env::var("FLIGHTCAGE_PYTHON") else {
        eprintln!("python: not tried, FLIGHTCAGE_PYTHON is not set");
        return;
    };
    let kubectl = kubectls().into_iter().next().expect("a kubectl");
    let cluster = Cluster::with_node(&kubectl).await;
    let (port, _serving) = echo().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl/streams.py");
    let output = Command::new(python)
        .arg(script)
        .arg(cluster.directory.path().join("kubeconfig"))
        .arg(port.to_string())
        .output();
    let output = timeout(PATIENCE, output).await.expect("it does not hang");
    let output = output.expect("python runs");
    let text = text(&output);
    eprint!("{text}");
    assert!(output.status.success(), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_works() {
    let Ok(python) = std::env::var("FLIGHTCAGE_PYTHON") else {
        eprintln!("python: not tried, FLIGHTCAGE_PYTHON is not set");
        return;
    };
    let cluster = Cluster::start().await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl/client.py");
    let output = Command::new(python)
        .arg(script)
        .arg(cluster.directory.path().join("kubeconfig"))
        .output()
        .await
        .expect("python runs");
    let text = text(&output);
    eprint!("{text}");
    assert!(output.status.success(), "{text}");
    cluster.stop().await;
}

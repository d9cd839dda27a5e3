//! Streams from end to end: a WebSocket client, the real API server, the real agent over a runtime whose commands run beside the test.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use k8s_openapi::api::core::v1::Pod;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::server_tests::{certificates, identity, ready, until};
use super::super::tests::FakeRuntime;
use super::super::tunnel::client_config;
use crate::kubernetes::client::Client;
use crate::orchestrator::api;
use crate::orchestrator::config::{AgentConfig, ServerConfig};
use crate::transport::dialler::Socket;

/// Far longer than this takes; only a hang gets there.
const PATIENCE: Duration = Duration::from_mins(1);

/// A cluster of one node, with the pod `p` of the containers `c` and `d`.
struct Cluster {
    directory: tempfile::TempDir,
    address: std::net::SocketAddr,
    runtime: Arc<FakeRuntime>,
    uid: String,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Cluster {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        certificates(path);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = ServerConfig {
            listen: address,
            address: Ipv4Addr::LOCALHOST,
            data_dir: path.join("store"),
            identity: identity(path, "server"),
            secrets_key: path.join("secrets.key"),
            eviction_brake_percent: 55,
            accept_unenforced: false,
            tokens: false,
            images: crate::model::image_policy::ImagePolicy::default(),
            granted_labels: BTreeMap::new(),
        };
        let config = AgentConfig {
            node: "w1".into(),
            address: Ipv4Addr::LOCALHOST,
            server: format!("https://{address}"),
            registry: String::new(),
            identity: identity(path, "node"),
            pod_network: "127.0.0.1/32".into(),
            routes: BTreeMap::new(),
            data_dir: path.join("data"),
            labels: BTreeMap::new(),
            taints: Vec::new(),
        };
        let runtime = Arc::new(FakeRuntime::default());
        let serving = async move {
            api::serve(server, listener, CancellationToken::new())
                .await
                .unwrap();
        };
        let (volatile, agents) = (path.join("run"), runtime.clone());
        let agent = async move {
            super::super::run_with(config, agents, &volatile)
                .await
                .unwrap();
        };
        let tasks = [
            AbortOnDropHandle::new(tokio::spawn(serving)),
            AbortOnDropHandle::new(tokio::spawn(agent)),
        ];
        let admin = identity(path, "admin");
        let server = format!("https://{address}");
        let client =
            Client::from_identity_files(&server, &admin.ca, &admin.certificate, &admin.key)
                .unwrap();
        let containers =
            json!([{"name": "c", "image": "i"}, {"name": "d", "image": "i", "stdin": true}]);
        for (name, spec) in [
            (
                "p",
                json!({"nodeName": "w1", "restartPolicy": "Never", "containers": containers}),
            ),
            (
                "unbound",
                json!({"nodeSelector": {"no": "node"}, "containers": [containers[0]]}),
            ),
        ] {
            let pod = json!({"metadata": {"name": name}, "spec": spec});
            let pod: Pod = serde_json::from_value(pod).unwrap();
            client.create("default", &pod).await.unwrap();
        }
        let pods = until::<Pod>(&client, "default", "the pod", |pods| {
            pods.values().any(|pod| ready(pod))
        })
        .await;
        let uid = pods.values().find(|pod| ready(pod)).unwrap();
        Self {
            uid: uid.metadata.uid.clone().unwrap(),
            directory,
            address,
            runtime,
            _tasks: tasks,
        }
    }

    /// A WebSocket, or the code and message of the refusal.
    async fn connect(
        &self,
        who: &str,
        path: &str,
        protocol: &str,
    ) -> Result<Socket, (u16, String)> {
        let config = client_config(&identity(self.directory.path(), who)).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let url = format!(
            "wss://{}/api/v1/namespaces/default/pods/{path}",
            self.address
        );
        let mut request = url.into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol.parse().unwrap());
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let code = response.status().as_u16();
                let body = response.body().clone().unwrap_or_default();
                let status: Value = serde_json::from_slice(&body).unwrap_or_default();
                let message = status["message"].as_str().unwrap_or_default();
                Err((code, message.to_owned()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn exec(&self, query: &str) -> Socket {
        let path = format!("p/exec?container=c&{query}");
        self.connect("admin", &path, "v5.channel.k8s.io")
            .await
            .unwrap()
    }
}

async fn send(socket: &mut Socket, bytes: &[u8]) {
    let message = Message::Binary(bytes.to_vec().into());
    socket.send(message).await.unwrap();
}

/// What comes on each channel until the server closes.
async fn all(socket: &mut Socket) -> BTreeMap<u8, Vec<u8>> {
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let collecting = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message {
                let (channel, bytes) = bytes.split_first().unwrap();
                channels.entry(*channel).or_default().extend(bytes);
            }
        }
    };
    timeout(PATIENCE, collecting)
        .await
        .expect("the server closes");
    channels
}

fn status(channels: &BTreeMap<u8, Vec<u8>>) -> Value {
    serde_json::from_slice(&channels[&3]).unwrap()
}

#[tokio::test]
async fn a_command_gets_its_input_and_its_end_is_told() {
    let cluster = Cluster::start().await;
    let mut socket = cluster
        .exec("command=sh&command=-c&command=cat;echo%20bad%20%3E%262;exit%203&stdin=true")
        .await;
    send(&mut socket, b"\0hello ").await;
    send(&mut socket, b"\0world").await;
    send(&mut socket, b"\xff\0").await;
    let told = all(&mut socket).await;
    assert_eq!(told[&1], b"hello world");
    assert_eq!(told[&2], b"bad\n");
    let status = status(&told);
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "3");

    // A program that is not there: told on the error channel or before, never as a success.
    let path = "p/exec?container=c&command=/no/such/program";
    let refused = cluster.connect("admin", path, "v4.channel.k8s.io").await;
    assert_eq!(refused.unwrap_err().0, 400);

    // A terminal has one output, and a size.
    let mut socket = cluster
        .exec("command=cat&stdin=true&tty=true&stderr=true")
        .await;
    send(&mut socket, b"\x04{\"Width\":101,\"Height\":33}\n").await;
    send(&mut socket, b"\0x").await;
    send(&mut socket, b"\xff\0").await;
    let told = all(&mut socket).await;
    assert_eq!(told[&1], b"x");
    assert!(cluster.runtime.said().contains(&"size 101 33".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_streamed_is_refused_in_kubernetes_words() {
    let cluster = Cluster::start().await;
    cluster.runtime.exit(&cluster.uid, "d", 1);
    for (who, path, code, words) in [
        ("admin", "q/exec?command=x", 404, "pods \"q\" not found"),
        (
            "admin",
            "p/exec?command=x",
            400,
            "a container name must be specified for pod p, choose one of: [c d]",
        ),
        (
            "admin",
            "p/exec?command=x&container=e",
            400,
            "container e is not valid for pod p",
        ),
        (
            "admin",
            "p/exec?container=c",
            400,
            "you must specify at least 1 command",
        ),
        (
            "admin",
            "p/exec?command=x&container=d",
            400,
            "container not found (\"d\")",
        ),
        (
            "admin",
            "unbound/exec?command=x",
            400,
            "pod unbound does not have a host assigned",
        ),
        (
            "admin",
            "p/attach?container=c&stdin=true",
            400,
            "no standard input",
        ),
        ("admin", "p/portforward", 400, "ports"),
        ("admin", "q/portforward?ports=80", 404, "not found"),
        (
            "node",
            "p/exec?command=x&container=c",
            403,
            "cannot get resource \"pods/exec\"",
        ),
        ("node", "p/attach?container=c", 403, "pods/attach"),
        ("node", "p/portforward?ports=80", 403, "pods/portforward"),
        ("balancer", "p/exec?command=x&container=c", 403, "pods/exec"),
    ] {
        let refused = cluster.connect(who, path, "v4.channel.k8s.io").await;
        let (found, message) = refused.unwrap_err();
        assert!(
            found == code && message.contains(words),
            "{path}: {found} {message}"
        );
    }
    let path = "p/exec?command=x&container=c";
    let refused = cluster.connect("admin", path, "v9.channel.k8s.io").await;
    assert_eq!(refused.unwrap_err().0, 403);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_command() {
    let cluster = Cluster::start().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // The command holds a connection, whose end is its own. It neither reads nor writes.
    let script = format!("exec+3%3C%3E/dev/tcp/127.0.0.1/{port};exec+sleep+1000");
    let query = format!("command=bash&command=-c&command={script}&stdin=true");
    let mut socket = cluster.exec(&query).await;
    let (mut held, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    send(&mut socket, b"\0not read").await;
    drop(socket);
    let ended = timeout(PATIENCE, held.read(&mut [0; 1])).await.unwrap();
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[tokio::test]
async fn a_sender_that_nobody_reads_is_held_up() {
    let cluster = Cluster::start().await;
    let mut socket = cluster.exec("command=sleep&command=1000&stdin=true").await;
    let piece = Message::Binary([vec![0], vec![b'x'; 64 << 10]].concat().into());
    let mut sent = 0;
    // Everything between holds some; far less than what is offered.
    let offered = 2_000;
    while sent < offered {
        match timeout(Duration::from_secs(2), socket.send(piece.clone())).await {
            Ok(done) => done.unwrap(),
            Err(_) => break,
        }
        sent += 1;
    }
    assert!(sent < offered, "all of {offered} pieces were taken");
    // Another client is not held up by it.
    let mut other = cluster.exec("command=echo&command=free").await;
    assert_eq!(all(&mut other).await[&1], b"free\n");
}

#[tokio::test]
async fn output_is_attached() {
    let cluster = Cluster::start().await;
    let attached = cluster
        .connect("admin", "p/attach?container=c", "v4.channel.k8s.io")
        .await;
    let told = all(&mut attached.unwrap()).await;
    assert_eq!(told[&1], b"line\n");
    assert_eq!(status(&told)["status"], "Success");
}

#[tokio::test]
async fn an_input_is_attached_and_how_its_container_ends_is_not_told() {
    let cluster = Cluster::start().await;
    let path = "p/attach?container=d&stdin=true";
    let attached = cluster.connect("admin", path, "v5.channel.k8s.io").await;
    let mut socket = attached.unwrap();
    send(&mut socket, b"\0hello").await;
    send(&mut socket, b"\xff\0").await;
    let told = all(&mut socket).await;
    assert_eq!(told[&1], b"hello");
    assert_eq!(status(&told)["status"], "Success");
}

#[tokio::test]
async fn ports_are_forwarded_on_channels() {
    let cluster = Cluster::start().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let refused = closed.local_addr().unwrap().port();
    drop(closed);
    let path = format!("p/portforward?ports={port},{refused}");
    let connected = cluster.connect("admin", &path, "v4.channel.k8s.io").await;
    let mut socket = connected.unwrap();
    send(&mut socket, b"\0question").await;
    let (mut pod, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut heard = [0; 8];
    timeout(PATIENCE, pod.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"question");
    pod.write_all(b"answer").await.unwrap();
    // The answer has to come before the connection is reset: the pod reads to the end.
    pod.shutdown().await.unwrap();
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let collecting = async {
        while channels.get(&0).is_none_or(|bytes| bytes.len() < 8)
            || channels.get(&3).is_none_or(|bytes| bytes.len() < 3)
        {
            if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() {
                channels.entry(bytes[0]).or_default().extend(&bytes[1..]);
            }
        }
    };
    timeout(PATIENCE, collecting).await.unwrap();
    let with_port = |port: u16, rest: &[u8]| [&port.to_le_bytes()[..], rest].concat();
    assert_eq!(channels[&0], with_port(port, b"answer"));
    assert_eq!(channels[&1], with_port(port, b""));
    assert_eq!(channels[&2], with_port(refused, b""));
    let why = String::from_utf8_lossy(&channels[&3][2..]).into_owned();
    assert!(why.contains("refused"), "{why}");
}

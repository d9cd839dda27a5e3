//! The proxy as it runs on a node, in a network namespace of its own, so it only runs when asked to:
//! `unshare -rn sh -c 'ip link set lo up; cargo test --lib proxy::tests -- --ignored'`.

use std::net::{Ipv4Addr, SocketAddrV4};

use hickory_server::proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_server::proto::rr::RecordType;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;
use crate::kubernetes::client::ClientConfig;

const WEB: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 79, 0, 20), 80);
const NODE_PORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 30080);

fn service() -> Service {
    serde_json::from_value(json!({
        "metadata": { "namespace": "default", "name": "web" },
        "spec": { "clusterIP": "10.79.0.20", "type": "NodePort",
            "ports": [{ "name": "http", "port": 80, "nodePort": 30080 }] },
    }))
    .unwrap()
}

fn endpoints(ports: &[u16]) -> Endpoints {
    let subsets: Vec<_> = ports
        .iter()
        .map(|port| json!({ "addresses": [{ "ip": "127.0.0.1" }], "ports": [{ "name": "http", "port": port }] }))
        .collect();
    serde_json::from_value(
        json!({ "metadata": { "namespace": "default", "name": "web" }, "subsets": subsets }),
    )
    .unwrap()
}

/// A pod that answers each connection with its port.
async fn pod() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(port.to_string().as_bytes()).await;
        }
    });
    port
}

async fn ask_web() -> io::Result<String> {
    ask(WEB).await
}

async fn ask(addr: SocketAddrV4) -> io::Result<String> {
    let mut answer = String::new();
    TcpStream::connect(addr)
        .await?
        .read_to_string(&mut answer)
        .await?;
    Ok(answer)
}

async fn resolve(name: &str) -> Message {
    let socket = UdpSocket::bind("0.0.0.0:0").await.unwrap();
    let mut question = Message::new(
        7,
        MessageType::Query,
        hickory_server::proto::op::OpCode::Query,
    );
    question.add_query(Query::query(name.parse().unwrap(), RecordType::A));
    socket
        .send_to(
            &question.to_vec().unwrap(),
            (addresses::DNS_SERVICE, dns::PORT),
        )
        .await
        .unwrap();
    let mut answer = [0; 512];
    let (length, from) = socket.recv_from(&mut answer).await.unwrap();
    assert_eq!(from, SocketAddr::from((addresses::DNS_SERVICE, dns::PORT)));
    Message::from_vec(&answer[..length]).unwrap()
}

/// The same question over TCP (RFC 1035, 4.2.2: two bytes of length come first), twice on one connection.
async fn resolve_over_tcp(name: &str) -> Vec<Message> {
    let mut stream = TcpStream::connect((addresses::DNS_SERVICE, dns::PORT))
        .await
        .unwrap();
    let mut question = Message::new(
        7,
        MessageType::Query,
        hickory_server::proto::op::OpCode::Query,
    );
    question.add_query(Query::query(name.parse().unwrap(), RecordType::A));
    let question = question.to_vec().unwrap();
    let mut answers = Vec::new();
    for _ in 0..2 {
        stream
            .write_u16(u16::try_from(question.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&question).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        answers.push(Message::from_vec(&answer).unwrap());
    }
    answers
}

#[tokio::test]
#[ignore = "needs a network namespace of its own: tests/run makes one"]
async fn cluster_ips_and_dns_work_in_a_namespace() {
    route::ensure().await.unwrap();
    route::ensure().await.unwrap();
    let mut proxy = Proxy::new("");
    let dns = SocketAddr::from((addresses::DNS_SERVICE, dns::PORT));
    let _dns = Dns::start(dns, proxy.zone.subscribe()).await.unwrap();
    let (first, second) = (pod().await, pod().await);
    proxy.apply([&service()], [&endpoints(&[first, second])], 1);
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        seen.insert(ask_web().await.unwrap());
    }
    assert_eq!(seen, [first, second].map(|port| port.to_string()).into());

    let answer = resolve("web.default.svc.cluster.local.").await;
    assert_eq!(answer.answers[0].data.to_string(), "10.79.0.20");
    for answer in resolve_over_tcp("web.default.svc.cluster.local.").await {
        assert_eq!(answer.answers[0].data.to_string(), "10.79.0.20");
    }
    assert_eq!(
        resolve("quay.io.").await.metadata.response_code,
        ResponseCode::NXDomain
    );

    // One pod gone, then both, then the Service.
    proxy.apply([&service()], [&endpoints(&[second])], 2);
    for _ in 0..4 {
        assert_eq!(ask_web().await.unwrap(), second.to_string());
        assert_eq!(ask(NODE_PORT).await.unwrap(), second.to_string());
    }
    proxy.apply([&service()], [], 3);
    assert_eq!(
        ask_web().await.unwrap_err().kind(),
        io::ErrorKind::ConnectionReset
    );
    proxy.apply([], [], 4);
    assert!(!proxy.listeners.listens_on(WEB));
    assert!(
        !proxy
            .listeners
            .listens_on(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, NODE_PORT.port()))
    );
    tokio::task::yield_now().await;
    assert_eq!(
        ask_web().await.unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    proxy.apply([&service()], [&endpoints(&[first])], 5);
    assert_eq!(ask_web().await.unwrap(), first.to_string());
}

#[tokio::test]
#[ignore = "needs a network namespace of its own: tests/run makes one"]
async fn a_proxy_that_starts_while_the_api_is_away_goes_by_the_rules_of_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.json");
    let mut service = service();
    let spec = service.spec.as_mut().unwrap();
    spec.cluster_ip = Some("10.79.0.21".to_owned());
    spec.ports = serde_json::from_value(json!([{ "name": "http", "port": 80 }])).unwrap();
    let web = SocketAddrV4::new(Ipv4Addr::new(10, 79, 0, 21), 80);
    let port = pod().await;
    let mut before = Keeper::new(path.clone());
    before.changed(Kept {
        services: vec![Arc::new(service)],
        endpoints: vec![Arc::new(endpoints(&[port]))],
    });
    before.write();

    route::ensure().await.unwrap();
    // The discard port: nobody listens there.
    let nobody = ClientConfig {
        server: "http://127.0.0.1:9".to_owned(),
        ..ClientConfig::default()
    };
    let client = Client::new(nobody).unwrap();
    let mut proxy = Proxy::new("");
    let (mut zone, balancer) = (proxy.zone.subscribe(), proxy.balancer.clone());
    let asked = async {
        zone.wait_for(Option::is_some).await.unwrap();
        let mut answer = String::new();
        TcpStream::connect(web)
            .await
            .unwrap()
            .read_to_string(&mut answer)
            .await
            .unwrap();
        answer
    };
    tokio::select! {
        () = follow(&client, &mut proxy, Keeper::new(path)) => unreachable!("it follows for ever"),
        answer = tokio::time::timeout(Duration::from_secs(20), asked) => assert_eq!(answer.unwrap(), port.to_string()),
    }
    assert_eq!(balancer.report().applied, 0, "no drain may rely on it");
}

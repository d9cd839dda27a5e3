//! Clients that take places and give nothing: an administrator is answered all the same.
//!
//! By hand in the numbers of issue 14, with the times of the administrator's requests:
//! `FLIGHTCAGE_HOSTILE=full cargo test --release --test api_server hostile -- --nocapture`.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::in_process::{Authority, Running, authority, install};
use super::json_of;

/// How many clients of each sort; `full` is what the issue asks for.
const FULL: &str = "FLIGHTCAGE_HOSTILE";
/// Only so that a failure ends: nobody waits for it.
const HANG: Duration = Duration::from_secs(120);

struct Numbers {
    strangers: usize,
    of_worker: usize,
    slow_readers: usize,
    unfinished: usize,
    asked: usize,
}

impl Numbers {
    fn get() -> Self {
        if std::env::var_os(FULL).is_none() {
            // More strangers than handshakes may be under way, more of a worker than one user may have.
            return Self {
                strangers: 300,
                of_worker: 80,
                slow_readers: 6,
                unfinished: 8,
                asked: 10,
            };
        }
        Self {
            strangers: 2_000,
            of_worker: 1_024,
            slow_readers: 100,
            unfinished: 100,
            asked: 300,
        }
    }
}

fn connector(authority: &Authority, (certificate, key): (String, String)) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM");
    roots.add(root).expect("a root");
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a client's certificate");
    TlsConnector::from(Arc::new(config))
}

async fn shake(connector: &TlsConnector, address: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    connector.connect(name, stream).await
}

/// A connection of `connector`'s user that has sent this; `None` if the server closed it first.
async fn saying(
    connector: &TlsConnector,
    address: &str,
    text: &str,
) -> Option<TlsStream<TcpStream>> {
    let mut stream = shake(connector, address).await.ok()?;
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    Some(stream)
}

/// Everything that is held, open until it is dropped.
#[derive(Default)]
struct Held {
    plain: Vec<TcpStream>,
    encrypted: Vec<TlsStream<TcpStream>>,
}

impl Held {
    /// Nobody with a certificate: silent, or with the beginning of a ClientHello.
    async fn strangers(&mut self, address: &str, count: usize) {
        for number in 0..count {
            let mut stream = TcpStream::connect(address).await.expect("accepted");
            if number % 2 == 0 {
                let beginning = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7];
                stream.write_all(&beginning).await.expect("sent");
            }
            self.plain.push(stream);
        }
    }

    async fn saying(&mut self, connector: &TlsConnector, address: &str, text: &str, count: usize) {
        for _ in 0..count {
            self.encrypted
                .extend(saying(connector, address, text).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_is_answered_whatever_clients_hold() {
    let numbers = Numbers::get();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let directory = tempfile::tempdir().expect("a directory");
    let authority = authority();
    install(&authority, directory.path());
    let server = Running::start(directory.path()).await;
    let address = server.url.trim_start_matches("https://").to_owned();
    let admin = || authority.client(Some(authority.issue("admin", "system:masters")));
    let maps = format!("{}/api/v1/namespaces/default/configmaps", server.url);
    for number in 0..8 {
        let map = json!({"metadata": {"name": format!("large-{number}")}, "data": {"k": "v".repeat(500 << 10)}});
        let answer = admin().post(&maps).json(&map).send().await;
        assert_eq!(answer.expect("answered").status().as_u16(), 201);
    }
    let scenario = async {
        let mut held = Held::default();
        held.strangers(&address, numbers.strangers).await;
        let worker = connector(
            &authority,
            authority.issue("system:node:w1", "system:nodes"),
        );
        let reader = connector(&authority, authority.issue("reader", "system:masters"));
        let event = "POST /api/v1/namespaces/default/events HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
            Content-Length: 3000000\r\n\r\n{\"metadata\":";
        held.saying(&worker, &address, event, numbers.unfinished)
            .await;
        for accept in [
            "application/json",
            "application/json;as=Table;v=v1;g=meta.k8s.io",
        ] {
            for path in ["/api/v1/configmaps", "/api/v1/configmaps?watch=1"] {
                let get = format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
                held.saying(&reader, &address, &get, numbers.slow_readers.div_ceil(4))
                    .await;
            }
        }
        held.saying(&worker, &address, "", numbers.of_worker).await;
        let mut times = Vec::new();
        for number in 0..numbers.asked {
            // A new connection each: it needs a handshake and a place.
            let client = admin();
            let begun = std::time::Instant::now();
            let answer = client.get(format!("{maps}/large-0")).send().await;
            let answer = answer.expect("a place was kept").bytes().await;
            assert!(answer.expect("to its end").len() > 500 << 10);
            times.push(begun.elapsed().as_millis());
            if number % 10 == 0 {
                let map = json!({"metadata": {"generateName": "new-"}});
                let created = client.post(&maps).json(&map).send().await;
                assert_eq!(json_of(created.expect("answered")).await.0, 201);
            }
        }
        times.sort_unstable();
        let metrics = admin().get(format!("{}/metrics", server.url)).send().await;
        let metrics = metrics.expect("answered").text().await.expect("text");
        assert!(
            metrics.contains("\nflightcage_panics_total 0\n"),
            "{metrics}"
        );
        drop(held);
        times
    };
    let times = tokio::time::timeout(HANG, scenario).await;
    let times = times.expect("an administrator waits for others");
    if std::env::var_os(FULL).is_some() {
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let peak = status.lines().find(|line| line.starts_with("VmHWM:"));
        println!(
            "get on a new connection: p50 {} ms, p99 {} ms, slowest {} ms; both ends in one process: {}",
            at(50),
            at(99),
            at(100),
            peak.unwrap_or_default()
        );
    }
    server.stop().await;
}

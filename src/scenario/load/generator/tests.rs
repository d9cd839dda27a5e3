//! The generator against a server in memory: what is asserted holds however slow this host is.

use std::io;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::super::trust_only;
use super::*;
use crate::scenario::fault::DialService;
use crate::scenario::spec::{Arrival, Asked, Baseline, Good, Url};
use crate::transport::BoxStream;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Answer(u16),
    Refuse,
    Hang,
    Silent,
    Reset,
}

/// A server that behaves as its mode says.
struct Server {
    mode: Mode,
    acceptor: TlsAcceptor,
}

impl DialService for Server {
    fn dial(&self, service: &str, port: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        assert_eq!((service, port), ("default/web", 443));
        Box::pin(async move {
            let (client, server) = tokio::io::duplex(1 << 16);
            match self.mode {
                Mode::Refuse => return Err(io::ErrorKind::ConnectionRefused.into()),
                Mode::Hang => std::future::pending().await,
                Mode::Reset => drop(server),
                Mode::Silent => {
                    tokio::spawn(async move {
                        sleep(Duration::from_hours(1)).await;
                        drop(server);
                    });
                }
                Mode::Answer(status) => {
                    let acceptor = self.acceptor.clone();
                    tokio::spawn(async move {
                        let Ok(stream) = acceptor.accept(server).await else {
                            return;
                        };
                        let answer = service_fn(move |_| async move {
                            let response = http::Response::builder()
                                .status(status)
                                .header("X-Version", "v1");
                            response.body(Full::new(Bytes::from_static(b"hello")))
                        });
                        drop(
                            hyper::server::conn::http1::Builder::new()
                                .serve_connection(TokioIo::new(stream), answer)
                                .await,
                        );
                    });
                }
            }
            Ok(Box::new(client) as BoxStream)
        })
    }
}

pub(super) fn certificate() -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["web".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    (
        certificate.der().clone(),
        PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    )
}

/// Runs load until `enough` says so of its records; they come back in the order of their intended times.
async fn check(mode: Mode, trusted: bool, enough: impl Fn(&[Record]) -> bool) -> Vec<Record> {
    let (certificate, key) = certificate();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![certificate.clone()], key)
    .unwrap();
    let server = Arc::new(Server {
        mode,
        acceptor: TlsAcceptor::from(Arc::new(config)),
    });
    let url = Url {
        tls: true,
        host: "web".into(),
        namespace: "default".into(),
        port: 443,
        path: "/".into(),
    };
    // Where silence is the answer the deadline is short; elsewhere it must not strike on a busy host.
    let deadline = Duration::from_millis(if matches!(mode, Mode::Hang | Mode::Silent) {
        100
    } else {
        30_000
    });
    let load = Load {
        url: url.clone(),
        rate: 50.0,
        stages: Vec::new(),
        arrival: Arrival::Constant,
        http: HttpVersion::One,
        via: None,
        automatic: None,
        streams: vec![StreamKind::New, StreamKind::Reused],
        deadline,
        asked: Asked::default(),
        good: Good::default(),
        endpoint_header: None,
        version_header: Some("X-Version".into()),
        baseline: Baseline {
            window: Duration::from_secs(1),
            good: 1.0,
            p99: None,
            within: Duration::from_secs(1),
        },
    };
    let tls = trust_only(if trusted {
        vec![certificate]
    } else {
        Vec::new()
    });
    let running = start(
        &load,
        HttpRequest {
            dial: server,
            url,
            tls,
        },
        Instant::now(),
    );
    while !enough(&running.shared.records()) {
        sleep(Duration::from_millis(5)).await;
    }
    running.finish().await
}

async fn classes(mode: Mode, trusted: bool) -> Vec<Class> {
    let records = check(mode, trusted, |records| records.len() >= 6).await;
    let mut classes: Vec<Class> = records.iter().map(|record| record.class).collect();
    classes.dedup();
    classes
}

#[tokio::test]
async fn every_failure_has_its_class() {
    assert_eq!(classes(Mode::Answer(200), true).await, [Class::Ok]);
    assert_eq!(classes(Mode::Answer(503), true).await, [Class::Status]);
    assert_eq!(classes(Mode::Answer(200), false).await, [Class::Tls]);
    assert_eq!(classes(Mode::Refuse, true).await, [Class::Refused]);
    assert_eq!(classes(Mode::Hang, true).await, [Class::ConnectTimeout]);
    assert_eq!(classes(Mode::Silent, true).await, [Class::ReadTimeout]);
    assert_eq!(classes(Mode::Reset, true).await, [Class::Reset]);
}

#[tokio::test]
async fn new_connects_each_time_and_reused_takes_idle_ones() {
    let of = |records: &[Record], stream| -> Vec<u64> {
        records
            .iter()
            .filter(|r| r.stream == stream)
            .map(|r| r.connection.expect("all were answered"))
            .collect()
    };
    let distinct = |numbers: &[u64]| {
        numbers
            .iter()
            .collect::<std::collections::BTreeSet<_>>()
            .len()
    };
    let reuses = |records: &[Record]| {
        let numbers = of(records, StreamKind::Reused);
        distinct(&numbers) < numbers.len()
    };
    let records = check(Mode::Answer(200), true, reuses).await;
    let new = of(&records, StreamKind::New);
    assert_eq!(distinct(&new), new.len());
    assert!(
        records
            .iter()
            .all(|record| record.version.as_deref() == Some("v1"))
    );
}

#[tokio::test]
async fn the_schedule_does_not_wait_for_answers() {
    // Each request lasts for five periods, yet they are intended one period apart.
    let records = check(Mode::Hang, true, |records| records.len() >= 10).await;
    let new: Vec<f64> = records
        .iter()
        .filter(|r| r.stream == StreamKind::New)
        .map(|r| r.intended_ms)
        .collect();
    assert!(
        new.windows(2)
            .all(|pair| (pair[1] - pair[0] - 20.0).abs() < 0.01),
        "{new:?}"
    );
    assert!(records.iter().all(|record| record.latency_ms() >= 100.0));
}

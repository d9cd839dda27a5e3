//! HTTP/2 against servers in memory, under paused time.

use std::io;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::super::trust_only;
use super::tests::certificate;
use super::*;
use crate::scenario::fault::DialService;
use crate::scenario::spec::{Arrival, Asked, Baseline, Good, Url};
use crate::transport::{BoxStream, Stream};

/// How long an answer takes; five requests of a stream are asked meanwhile.
const ANSWERED_AFTER: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Answer,
    /// Each request's stream is reset.
    ResetStream,
    /// Each connection is closed in good order after this time.
    GoAway(Duration),
    /// The server speaks HTTP/1.1.
    Older,
    Close,
    Silent,
}

struct Server {
    mode: Mode,
    /// What it speaks TLS with.
    tls: Option<TlsAcceptor>,
}

impl DialService for Server {
    fn dial(&self, _: &str, _: u16) -> BoxFuture<'_, io::Result<BoxStream>> {
        let (mode, tls) = (self.mode, self.tls.clone());
        Box::pin(async move {
            let (client, server) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                match tls {
                    None => serve(mode, server).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(server).await {
                            serve(mode, stream).await;
                        }
                    }
                }
            });
            Ok(Box::new(client) as BoxStream)
        })
    }
}

async fn serve(mode: Mode, mut stream: impl Stream) {
    match mode {
        Mode::Close => return,
        Mode::Silent => {
            sleep(Duration::from_hours(1)).await;
            return;
        }
        Mode::Older => {
            let mut preface = [0; 24];
            drop(stream.read_exact(&mut preface).await);
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            drop(stream.write_all(answer).await);
            sleep(Duration::from_hours(1)).await;
            return;
        }
        Mode::Answer | Mode::ResetStream | Mode::GoAway(_) => {}
    }
    let answer = service_fn(move |request: http::Request<Incoming>| async move {
        sleep(ANSWERED_AFTER).await;
        if mode == Mode::ResetStream {
            return Err(io::Error::other("no answer"));
        }
        let authority = request.uri().authority().map(ToString::to_string);
        let response = http::Response::builder().header("X-Version", authority.unwrap_or_default());
        let response = response.body(Full::new(Bytes::from_static(b"hello")));
        response.map_err(io::Error::other)
    });
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), answer);
    tokio::pin!(connection);
    if let Mode::GoAway(after) = mode {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = sleep(after) => connection.as_mut().graceful_shutdown(),
        }
    }
    drop(connection.await);
}

/// The records of so much time, by intended time.
async fn check(mode: Mode, streams: &[StreamKind], lasts: Duration) -> Vec<Record> {
    let server = Server { mode, tls: None };
    run(server, streams, trust_only(Vec::new()), lasts).await
}

async fn run(
    server: Server,
    streams: &[StreamKind],
    tls: Arc<rustls::ClientConfig>,
    lasts: Duration,
) -> Vec<Record> {
    let url = Url {
        tls: server.tls.is_some(),
        host: "web".into(),
        namespace: "default".into(),
        port: 80,
        path: "/".into(),
    };
    let load = Load {
        url: url.clone(),
        rate: 50.0,
        stages: Vec::new(),
        arrival: Arrival::Constant,
        automatic: None,
        streams: streams.to_vec(),
        http: HttpVersion::Two,
        via: None,
        deadline: Duration::from_millis(500),
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
    let request = HttpRequest {
        dial: Arc::new(server),
        url,
        tls,
    };
    let running = start(&load, request, Instant::now());
    sleep(lasts).await;
    running.finish().await
}

const REUSED: [StreamKind; 1] = [StreamKind::Reused];

fn connections(records: &[Record]) -> std::collections::BTreeSet<Option<u64>> {
    records.iter().map(|record| record.connection).collect()
}

#[tokio::test(start_paused = true)]
async fn a_reused_stream_asks_several_things_at_a_time_on_one_connection() {
    let records = check(Mode::Answer, &REUSED, Duration::from_secs(1)).await;
    assert!(records.len() >= 40, "{}", records.len());
    assert!(records.iter().all(Record::good), "{records:?}");
    assert_eq!(connections(&records).len(), 1);
    let overlap = records
        .windows(2)
        .all(|pair| pair[1].sent_ms < pair[0].end_ms);
    assert!(overlap, "each was sent before the one before had ended");
    let versions: Vec<Option<&str>> = records
        .iter()
        .map(|record| record.version.as_deref())
        .collect();
    assert!(versions.iter().all(|version| *version == Some("web")));
}

#[tokio::test(start_paused = true)]
async fn a_new_stream_opens_a_connection_for_each_request() {
    let records = check(Mode::Answer, &[StreamKind::New], Duration::from_secs(1)).await;
    assert!(records.iter().all(Record::good), "{records:?}");
    assert_eq!(connections(&records).len(), records.len());
}

#[tokio::test(start_paused = true)]
async fn what_comes_instead_of_an_answer_has_its_class() {
    let classes = |records: &[Record]| {
        let mut classes: Vec<Class> = records.iter().map(|record| record.class).collect();
        classes.dedup();
        classes
    };
    let lasts = Duration::from_millis(700);
    for (mode, class) in [
        (Mode::ResetStream, Class::Reset),
        (Mode::Close, Class::Reset),
        (Mode::Older, Class::Reset),
        (Mode::Silent, Class::ReadTimeout),
    ] {
        let records = check(mode, &REUSED, lasts).await;
        assert_eq!(classes(&records), [class], "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_reset_leaves_the_connection_and_silence_does_not() {
    let lasts = Duration::from_secs(2);
    let reset = check(Mode::ResetStream, &REUSED, lasts).await;
    assert_eq!(connections(&reset).len(), 1);
    let silent = check(Mode::Silent, &REUSED, lasts).await;
    assert!(connections(&silent).len() > 1, "{silent:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_goaway_another_connection_is_opened_and_what_was_under_way_is_answered() {
    let mode = Mode::GoAway(Duration::from_millis(330));
    let records = check(mode, &REUSED, Duration::from_secs(2)).await;
    assert!(connections(&records).len() > 1, "{records:?}");
    let others: Vec<&Record> = records.iter().filter(|record| !record.good()).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// How requests end at a server that agrees on these protocols over TLS.
async fn classes_over_tls(protocols: &[&[u8]]) -> Vec<Class> {
    let (certificate, key) = certificate();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let server = Server {
        mode: Mode::Answer,
        tls: Some(TlsAcceptor::from(Arc::new(config))),
    };
    let trusted = trust_only(vec![certificate]);
    let records = run(server, &REUSED, trusted, Duration::from_millis(300)).await;
    let mut classes: Vec<Class> = records.iter().map(|record| record.class).collect();
    classes.dedup();
    classes
}

#[tokio::test(start_paused = true)]
async fn over_tls_http2_is_agreed_on_or_nothing_is_asked() {
    assert_eq!(classes_over_tls(&[b"h2"]).await, [Class::Ok]);
    assert_eq!(classes_over_tls(&[b"http/1.1"]).await, [Class::Tls]);
    assert_eq!(classes_over_tls(&[]).await, [Class::Tls]);
}

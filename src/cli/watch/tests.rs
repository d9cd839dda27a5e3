use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::cli::board::state::State;
use crate::cli::loopback::{CONNECTIONS_MAX, END_WITHIN};
use crate::scenario::live::state::tests::busy;

/// A page that shows a run.
async fn watch(run: bool) -> (Watch, Shared) {
    let mut state = State::new();
    state.scenario("failover");
    state.has_page = true;
    state.run = run.then(|| busy("failover"));
    let shared: Shared = Arc::new(Mutex::new(state));
    let watch = Watch::start(Arc::clone(&shared), Some(0), "failover").await;
    (
        watch.map_err(|_| "not served").expect("a port is free"),
        shared,
    )
}

/// The host and the path of an address.
fn parts(watch: &Watch) -> (String, String) {
    let rest = watch.address().strip_prefix("http://").expect("it is one");
    let (host, path) = rest.split_once('/').expect("it has a path");
    (host.to_owned(), format!("/{path}"))
}

async fn open(host: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(host).await.expect("it is served");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("it is read");
    stream
}

/// The whole answer to one question.
async fn ask(watch: &Watch, method: &str, path: &str, host: Option<&str>) -> String {
    let (own, _) = parts(watch);
    let named = host.unwrap_or(&own);
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {named}\r\nconnection: close\r\n\r\n");
    let mut stream = open(&own, &request).await;
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer).await;
    read.expect("it answers in text");
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// Listens to what happens, until this was told.
async fn listen_for(watch: &Watch, words: &str) -> TcpStream {
    let (host, path) = parts(watch);
    let request = format!("GET {path}events HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let mut stream = open(&host, &request).await;
    let (mut told, mut bytes) = (String::new(), [0; 4096]);
    while !told.contains(words) {
        let read = stream.read(&mut bytes).await.expect("it goes on");
        assert!(read > 0, "it ended: {told}");
        told.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    stream
}

#[tokio::test]
async fn only_who_knows_the_address_sees_the_page() {
    let (watch, _) = watch(true).await;
    let (own, path) = parts(&watch);
    let port = own.rsplit(':').next().expect("it has one").to_owned();
    assert_eq!(
        path.len(),
        34,
        "a slash, a version-4 UUID without hyphens (122 random bits), and a slash"
    );
    let rebound = format!("evil.example:{port}");
    let (outside, file) = (format!("{path}../etc/passwd"), format!("{path}report.json"));
    for (method, path, host, expected) in [
        ("GET", path.as_str(), None, "200"),
        (
            "GET",
            path.as_str(),
            Some(format!("localhost:{port}")),
            "200",
        ),
        ("GET", path.as_str(), Some(rebound.clone()), "403"),
        ("GET", path.as_str(), Some("127.0.0.1".to_owned()), "403"),
        ("POST", path.as_str(), None, "405"),
        ("OPTIONS", path.as_str(), None, "405"),
        ("GET", "/", None, "404"),
        ("GET", "/favicon.ico", None, "404"),
        ("GET", path.trim_end_matches('/'), None, "404"),
        ("GET", "/00000000000000000000000000000000/", None, "404"),
        ("GET", outside.as_str(), None, "404"),
        ("GET", file.as_str(), None, "404"),
    ] {
        let answer = ask(&watch, method, path, host.as_deref()).await;
        assert_eq!(status(&answer), expected, "{method} {path} {host:?}");
        let head = answer.split("\r\n\r\n").next().unwrap_or_default();
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("access-control"), "{head}");
        assert!(
            head.contains("content-security-policy: default-src 'none'"),
            "{head}"
        );
        assert!(head.contains("frame-ancestors 'none'") && head.contains("no-store"));
    }
}

#[tokio::test]
async fn the_page_shows_the_run_by_now_and_then_its_report() {
    let (watch, shared) = watch(true).await;
    let (_, path) = parts(&watch);
    let start = ask(&watch, "GET", &path, None).await;
    assert!(start.contains("EventSource") && !start.contains("lane-web-new"));
    drop(listen_for(&watch, "node.power_off of w1").await);
    let page = ask(&watch, "GET", &format!("{path}page"), None).await;
    assert!(page.contains("id=\"lane-web-new\"") && page.contains("RUNNING"));
    let again = ask(&watch, "GET", &format!("{path}page"), None).await;
    assert_eq!(
        page.split("\r\n\r\n").nth(1),
        again.split("\r\n\r\n").nth(1),
        "drawn once for all"
    );
    {
        let mut state = shared.lock().expect("nobody panics");
        state.end_run();
        state.report = Some("<p>the report".into());
    }
    let page = ask(&watch, "GET", &format!("{path}page"), None).await;
    assert!(page.ends_with("<p>the report"), "{page}");
    assert!(
        ask(&watch, "GET", &path, None)
            .await
            .contains("EventSource"),
        "another may follow"
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_browsers_that_fetch_it_and_for_no_other() {
    let (alone, _) = watch(false).await;
    let before = tokio::time::Instant::now();
    alone.end().await;
    assert_eq!(before.elapsed(), Duration::ZERO, "nobody looks");

    let (watched, _) = watch(false).await;
    let browser = listen_for(&watched, "\"over\":false").await;
    let (host, path) = parts(&watched);
    let ending = tokio::spawn(watched.end());
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    let mut last = open(&host, &request).await;
    last.read_to_string(&mut answer)
        .await
        .expect("it still answers");
    assert_eq!(status(&answer), "200");
    drop(browser);
    ending.await.expect("it ends");

    let (dead, _) = watch(false).await;
    let _browser = listen_for(&dead, "\"over\":false").await;
    let before = tokio::time::Instant::now();
    dead.end().await;
    assert!(before.elapsed() >= END_WITHIN, "it had its time");
}

#[tokio::test]
async fn connections_are_bounded() {
    let (watch, _) = watch(false).await;
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        held.push(listen_for(&watch, "\"over\":false").await);
    }
    let (host, path) = parts(&watch);
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let mut refused = open(&host, &request).await;
    let mut answer = Vec::new();
    // Closed, or reset since it had asked.
    let read = refused.read_to_end(&mut answer).await;
    assert!(read.map_or(true, |read| read == 0) && answer.is_empty());
    drop(held);
}

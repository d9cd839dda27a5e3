//! The page's server over a cluster that is made up: its facts are set, and its orders are taken here instead of carried out.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::cli::cockpit::facts::{Facts, MachineFacts, PodFacts};

const HOSTILE: &str = "</script><img src=x onerror=alert(1)>";

/// A page of a cluster of three machines and one pod.
struct Fake {
    served: Served,
    state: Shared,
    orders: mpsc::Receiver<Order>,
}

impl Fake {
    async fn start() -> Self {
        let name: ClusterName = "test".parse().unwrap();
        let spec = ClusterSpec::with_workers(name.clone(), 2);
        let state: Shared = Arc::new(Mutex::new(State::new(name.as_str())));
        let facts = Facts {
            machines: vec![MachineFacts {
                name: "w1".to_owned(),
                power: "on",
                console: vec![HOSTILE.to_owned()],
                ..MachineFacts::default()
            }],
            pods: vec![PodFacts {
                namespace: "default".to_owned(),
                name: HOSTILE.to_owned(),
                uid: "u".to_owned(),
                ..PodFacts::default()
            }],
            ..Facts::default()
        };
        lock(&state).take(Ok(facts));
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let site = Site::new(Arc::clone(&state), spec, sender);
        let served = Served::start(site, Some(0), &name).await;
        Self {
            served: served.map_err(|_| "not served").expect("a port is free"),
            state,
            orders,
        }
    }

    /// The host and the path of its address.
    fn parts(&self) -> (String, String) {
        let rest = self.served.address.strip_prefix("http://");
        let (host, path) = rest
            .and_then(|rest| rest.split_once('/'))
            .expect("it is one");
        (host.to_owned(), format!("/{path}"))
    }

    /// The whole answer to a request.
    async fn ask(&self, line: &str, headers: &[(&str, &str)], body: &str) -> String {
        let (own, _) = self.parts();
        let mut request = format!("{line} HTTP/1.1\r\nconnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            request.push_str(&format!("host: {own}\r\n"));
        }
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        let mut stream = TcpStream::connect(&own).await.expect("it is served");
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("it is read");
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        read.expect("it answers");
        String::from_utf8(answer).expect("it answers in text")
    }

    /// An order as the page's own script sends it.
    async fn order(&self, body: &str) -> String {
        let (own, path) = self.parts();
        let origin = format!("http://{own}");
        let headers = [
            ("origin", origin.as_str()),
            ("content-type", "application/json"),
            ("sec-fetch-site", "same-origin"),
        ];
        self.ask(&format!("POST {path}order"), &headers, body).await
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

const HEAL_ALL: &str = r#"{"do":"heal-all"}"#;

#[tokio::test]
async fn only_the_page_itself_gives_orders() {
    let mut fake = Fake::start().await;
    let (own, path) = fake.parts();
    let order = format!("POST {path}order");
    let json = ("content-type", "application/json");
    let origin = format!("http://{own}");
    let origin = ("origin", origin.as_str());
    let port = own.rsplit(':').next().unwrap().to_owned();
    let rebound = format!("evil.example:{port}");
    let rebound_origin = format!("http://{rebound}");
    let at = |method: &str, what: &str| format!("{method} {path}{what}");
    let elsewhere = "POST /00000000000000000000000000000000/order";
    for (line, headers, expected) in [
        (order.as_str(), vec![json], "403"),
        (order.as_str(), vec![json, ("origin", "null")], "403"),
        (
            order.as_str(),
            vec![json, ("origin", "http://evil.example")],
            "403",
        ),
        (
            order.as_str(),
            vec![
                json,
                ("host", rebound.as_str()),
                ("origin", rebound_origin.as_str()),
            ],
            "403",
        ),
        (
            order.as_str(),
            vec![json, origin, ("sec-fetch-site", "cross-site")],
            "403",
        ),
        (order.as_str(), vec![origin], "415"),
        (
            order.as_str(),
            vec![origin, ("content-type", "text/plain")],
            "415",
        ),
        (
            order.as_str(),
            vec![
                origin,
                ("content-type", "application/x-www-form-urlencoded"),
            ],
            "415",
        ),
        (elsewhere, vec![json, origin], "404"),
        ("POST /order", vec![json, origin], "404"),
        (at("GET", "order").as_str(), vec![json, origin], "405"),
        (at("PUT", "order").as_str(), vec![json, origin], "405"),
        (at("OPTIONS", "order").as_str(), vec![json, origin], "405"),
        (at("POST", "").as_str(), vec![json, origin], "405"),
        (at("POST", "events").as_str(), vec![json, origin], "405"),
        (at("POST", "down").as_str(), vec![json, origin], "404"),
    ] {
        let answer = fake.ask(line, &headers, HEAL_ALL).await;
        assert_eq!(status(&answer), expected, "{line} {headers:?}");
        let head = answer.split("\r\n\r\n").next().unwrap_or_default();
        let head = head.to_ascii_lowercase();
        assert!(!head.contains("access-control"), "{head}");
        assert!(head.contains("content-security-policy: default-src 'none'"));
        assert!(head.contains("no-store") && head.contains("nosniff"));
    }
    assert!(fake.orders.try_recv().is_err(), "nothing was ordered");
    assert_eq!(status(&fake.order(HEAL_ALL).await), "202");
    assert_eq!(fake.orders.try_recv(), Ok(Order::HealAll));
}

#[tokio::test]
async fn an_order_is_checked_before_it_is_taken() {
    let mut fake = Fake::start().await;
    let long = format!(
        r#"{{"do":"power","node":"{}"}}"#,
        "w".repeat(ORDER_BYTES_MAX)
    );
    for (body, expected, words) in [
        (
            r#"{"do":"power","node":"w9","action":"reset"}"#,
            "404",
            "there are c1, w1, w2",
        ),
        (
            r#"{"do":"link","from":"w1","to":"w9","cut":true}"#,
            "404",
            "`w9`",
        ),
        (
            r#"{"do":"kill-pod","namespace":"default","name":"web","uid":"u"}"#,
            "404",
            "no such pod",
        ),
        (r#"{"do":"explode"}"#, "400", "cannot be read"),
        (
            r#"{"do":"link","from":"w1","delay":"soon"}"#,
            "400",
            "delay: ",
        ),
        ("", "400", "cannot be read"),
        (long.as_str(), "413", ""),
    ] {
        let answer = fake.order(body).await;
        assert_eq!(status(&answer), expected, "{body}");
        assert!(answer.contains(words), "{answer}");
    }
    assert!(fake.orders.try_recv().is_err(), "nothing was ordered");

    let order = r#"{"do":"power","node":"w1","action":"freeze"}"#;
    assert_eq!(status(&fake.order(order).await), "202");
    let taken = fake.orders.try_recv().expect("it was ordered");
    assert_eq!(taken.to_string(), "freeze w1");
    for _ in 0..ORDERS_MAX {
        assert_eq!(status(&fake.order(order).await), "202");
    }
    let refused = fake.order(order).await;
    assert_eq!(status(&refused), "503", "nobody carries them out");
    assert!(refused.contains("too many orders"));
}

#[tokio::test]
async fn the_page_holds_nothing_that_was_seen_and_events_hold_it_as_text() {
    let fake = Fake::start().await;
    let (own, path) = fake.parts();
    let page = fake.ask(&format!("GET {path}"), &[], "").await;
    assert_eq!(status(&page), "200");
    assert!(page.contains("data-node=\"w1\"") && page.contains("id=\"heal-all\""));
    assert!(!page.contains("<img"));
    for (line, host, expected) in [
        (format!("GET {path}"), "evil.example", "403"),
        ("GET /".to_owned(), own.as_str(), "404"),
        (format!("GET {path}../order"), own.as_str(), "404"),
        (format!("GET {path}events"), "evil.example", "403"),
    ] {
        let answer = fake.ask(&line, &[("host", host)], "").await;
        assert_eq!(status(&answer), expected, "{line} {host}");
    }

    let mut stream = TcpStream::connect(&own).await.expect("it is served");
    let request = format!("GET {path}events HTTP/1.1\r\nhost: {own}\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    sent.expect("it is read");
    let (mut told, mut bytes) = (String::new(), [0; 4096]);
    while !told.contains("\n\n") {
        let read = stream.read(&mut bytes).await.expect("it goes on");
        assert!(read > 0, "it ended: {told}");
        told.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert!(told.contains("text/event-stream"), "{told}");
    assert!(fake.served.browsers.any());
    let event = told.split("data: ").nth(1).expect("it is one");
    let event = event.split("\n\n").next().unwrap_or_default();
    let news: serde_json::Value = serde_json::from_str(event).expect("it is JSON in one line");
    assert_eq!(news["facts"]["pods"][0]["name"], HOSTILE);
    assert_eq!(news["facts"]["machines"][0]["console"][0], HOSTILE);
    assert_eq!(news["over"], false);
    drop(stream);

    lock(&fake.state).take(Err(LookError::Gone));
    let (_, last) = lock(&fake.state).news(None).expect("nothing was told");
    assert!(last.contains("\"over\":true"));
}

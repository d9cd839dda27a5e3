//! The page of a run that goes on, followed by a browser from the machines' boot to the report. The server here is a few lines that
//! answer as `run --watch` does; its own answers are tested beside it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use flightcage::scenario::live::{Begun, Facts, LiveRun, PlannedStep, Seen};
use flightcage::scenario::load::{Class, Record};
use flightcage::scenario::page::live::{live_html, policy};
use flightcage::scenario::page::{StoredRun, html};
use flightcage::scenario::report::TargetFacts;
use flightcage::scenario::spec::StreamKind;
use serde_json::{Value, json};

use super::fixture::{self, Plan};
use super::{Browser, crypto};

const HOSTILE: &str = "</script><img/src=x/onerror=alert(1)>";

/// What the server shows now.
#[derive(Default)]
struct Shown {
    number: u64,
    page: String,
    news: Value,
}

type Site = Arc<(Mutex<Shown>, Condvar)>;

fn show(site: &Site, page: String, mut news: Value) {
    let mut shown = site.0.lock().expect("nobody panics");
    let number = shown.number + 1;
    news["page"] = number.into();
    *shown = Shown { number, page, news };
    site.1.notify_all();
}

fn serve(site: &Site) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has one");
    let site = Arc::clone(site);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let site = Arc::clone(&site);
            // A browser that goes away ends its thread.
            std::thread::spawn(move || answer(stream, &site));
        }
    });
    format!("http://{address}/t/")
}

fn answer(mut stream: TcpStream, site: &Site) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines.map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
    }
    let asked = first.split(' ').nth(1).unwrap_or_default();
    let path = asked.split('?').next().unwrap_or_default();
    let head = |status: &str, kind: &str, number: u64| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-security-policy: {}\r\nx-page: {number}\r\nconnection: close\r\n\r\n",
            policy()
        )
    };
    let (state, changed) = &**site;
    match path {
        "/t/" => {
            let start = live_html(&nothing(), "RUNNING", "");
            stream.write_all((head("200 OK", "text/html; charset=utf-8", 0) + &start).as_bytes())
        }
        "/t/page" => {
            let shown = state.lock().expect("nobody panics");
            let head = head("200 OK", "text/html; charset=utf-8", shown.number);
            stream.write_all((head + &shown.page).as_bytes())
        }
        "/t/events" => {
            stream.write_all(head("200 OK", "text/event-stream", 0).as_bytes())?;
            let mut told = 0;
            loop {
                let mut shown = state.lock().expect("nobody panics");
                while shown.number == told {
                    shown = changed.wait(shown).expect("nobody panics");
                }
                told = shown.number;
                let event = format!("data: {}\n\n", shown.news);
                drop(shown);
                stream.write_all(event.as_bytes())?;
            }
        }
        _ => stream.write_all(head("404 Not Found", "text/plain", 0).as_bytes()),
    }
}

fn target() -> TargetFacts {
    TargetFacts {
        provider: "qemu".to_owned(),
        accel: "tcg".to_owned(),
        nodes: 3,
    }
}

fn begun() -> Begun {
    let second = Duration::from_secs(1);
    Begun {
        epoch: tokio::time::Instant::now(),
        scenario: HOSTILE.to_owned(),
        cell: None,
        seed: 1,
        target: target(),
        text: "flightcage = 1\n[load.web]\ndeadline = \"1s\"\n".to_owned(),
        streams: vec![
            ("web".to_owned(), "new", second),
            ("web".to_owned(), "reused", second),
        ],
        steps: vec![PlannedStep {
            id: "kill".to_owned(),
            words: "node.power_off of w1".to_owned(),
            within: None,
        }],
    }
}

fn nothing() -> StoredRun {
    let run = LiveRun::new(begun(), true);
    run.so_far(0).expect("requests are kept")
}

/// Both streams' requests up to that second, some of which failed.
fn run_until(second: u32) -> StoredRun {
    let mut run = LiveRun::new(begun(), true);
    let web: Arc<str> = "web".into();
    for number in 0..second * 10 {
        for stream in [StreamKind::New, StreamKind::Reused] {
            let intended_ms = f64::from(number) * 100.0;
            let bad = (50..).contains(&number) && number % 2 == 0;
            let record = Record {
                stream,
                intended_ms,
                sent_ms: intended_ms,
                connected_ms: None,
                first_byte_ms: None,
                end_ms: intended_ms + 12.0,
                connection: Some(1),
                status: None,
                version: Some("v1".to_owned()),
                endpoint: None,
                class: if bad { Class::Refused } else { Class::Ok },
            };
            run.take(Seen::Request(Arc::clone(&web), Box::new(record)));
        }
    }
    run.take(Seen::StepBegan {
        id: "kill".to_owned(),
        at_ms: 5_000,
    });
    run.take(Seen::Facts(Box::new(Facts {
        nodes: BTreeMap::from([(HOSTILE.to_owned(), true)]),
        workloads: BTreeMap::new(),
    })));
    let now_ms = u64::from(second) * 1000;
    run.so_far(now_ms).expect("requests are kept")
}

fn report(folder: &Path) -> String {
    fixture::write(folder, &Plan::default()).expect("the run is written");
    html(&StoredRun::read(folder).expect("it is one"))
}

fn news(what: &str, over: bool) -> Value {
    let machine =
        |name: &str| json!({ "name": name, "power": "off", "does": "not begun", "away": false });
    json!({
        "title": HOSTILE, "what": what, "clock": "0:05", "more": "", "told": ["1.0 s  deployed"], "over": over,
        "machines": [machine("c1"), machine("w1"), machine(HOSTILE)],
    })
}

/// Waits until the page has been renewed so often.
async fn renewed(browser: &Browser, times: u32) {
    let script = format!(
        "const done = arguments[0]; const look = () => +document.documentElement.dataset.newer >= {times} ? done(true) : setTimeout(look, 20); look();"
    );
    let asked = json!({ "script": script, "args": [] });
    browser.post("/execute/async", asked).await;
}

#[tokio::test]
async fn a_run_is_followed_from_the_boot_to_its_report() {
    crypto();
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::default();
    let address = serve(&site);
    show(
        &site,
        live_html(&nothing(), "RUNNING", "booting"),
        news("booting", false),
    );
    let browser = Browser::start().await;
    browser.open_at(&address).await;

    renewed(&browser, 1).await;
    let cards =
        "return [...document.querySelectorAll('#live .machine')].map(one => one.textContent)";
    let cards = browser.run(cards).await;
    assert_eq!(cards.as_array().map(Vec::len), Some(3), "{cards}");
    assert_eq!(cards[0], "c1 · offnot begun");
    assert_eq!(
        browser
            .run("return document.querySelector('#live .what').textContent")
            .await,
        "booting"
    );

    show(
        &site,
        live_html(&run_until(10), "RUNNING", "step kill"),
        news("step kill", false),
    );
    renewed(&browser, 2).await;
    let verdict = "return document.querySelector('.verdict').textContent.trim()";
    assert_eq!(browser.run(verdict).await, "▶ RUNNING");
    let rows = "return document.querySelectorAll('#failed tbody tr').length";
    assert_eq!(browser.run(rows).await, 50);
    assert_eq!(
        browser
            .run("return document.querySelectorAll('.lane canvas').length")
            .await,
        2
    );
    let looked_at = browser.press("+").await;
    assert!(
        looked_at
            .as_str()
            .is_some_and(|hash| hash.starts_with("#t=")),
        "{looked_at}"
    );

    show(
        &site,
        live_html(&run_until(20), "RUNNING", "step kill"),
        news("step kill", false),
    );
    renewed(&browser, 3).await;
    assert_eq!(browser.run(rows).await, 150);
    assert_eq!(
        browser.run("return location.hash").await,
        looked_at,
        "what is looked at stays"
    );
    assert_eq!(
        browser
            .run("return document.querySelectorAll('.lane canvas').length")
            .await,
        2
    );

    show(&site, report(folder.path()), news("over", true));
    renewed(&browser, 4).await;
    assert_eq!(browser.run(verdict).await, "● PASS");
    let left = "return [!!document.querySelector('#live'), document.querySelectorAll('#expectations tbody tr').length]";
    assert_eq!(browser.run(left).await, json!([false, 6]));
    let failed = browser.press("n").await;
    assert!(
        failed
            .as_str()
            .is_some_and(|hash| hash.contains("req=web.")),
        "{failed}"
    );

    assert_eq!(
        browser
            .run("return document.querySelectorAll('img').length")
            .await,
        0
    );
    let console = browser.log("browser").await;
    assert!(console.is_empty(), "the console is not empty: {console:?}");
    let asked = browser.requests("http:").await;
    assert!(asked.len() >= 5, "{asked:?}");
    assert!(
        asked.iter().all(|url| url.starts_with(&address)),
        "{asked:?}"
    );
}

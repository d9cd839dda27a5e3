//! The page of a cluster by hand, in a browser: what it shows, and what it orders by keys alone. The server here is a few lines that
//! answer as `watch` does; its own answers, and what it refuses, are tested beside it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use flightcage::model::cluster::ClusterSpec;
use flightcage::scenario::page::cockpit::{cockpit_html, cockpit_policy};
use serde_json::{Value, json};

use super::{Browser, crypto};

const HOSTILE: &str = "</script><img/src=x/onerror=alert(1)>";
/// WebDriver's code of the key.
const ENTER: &str = "\u{e007}";

/// Orders that came, with the origin that the browser told.
type Orders = Arc<Mutex<Vec<(String, Value)>>>;

fn serve(orders: &Orders) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it has one");
    let orders = Arc::clone(orders);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let orders = Arc::clone(&orders);
            // A browser that goes away ends its thread.
            std::thread::spawn(move || answer(stream, &orders));
        }
    });
    format!("http://{address}/t/")
}

fn answer(mut stream: TcpStream, orders: &Orders) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut origin, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "origin" => value.clone_into(&mut origin),
            "content-length" => length = value.parse().unwrap_or(0),
            _ => {}
        }
    }
    let head = |status: &str, kind: &str| {
        format!(
            "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-security-policy: {}\r\nreferrer-policy: same-origin\r\nconnection: close\r\n\r\n",
            cockpit_policy()
        )
    };
    let path = first.split(' ').nth(1).unwrap_or_default();
    match path {
        "/t/" => {
            let spec = ClusterSpec::with_workers("test".parse().expect("it is a name"), 2);
            let page = head("200 OK", "text/html; charset=utf-8") + &cockpit_html(&spec);
            stream.write_all(page.as_bytes())
        }
        "/t/events" => {
            stream.write_all(head("200 OK", "text/event-stream").as_bytes())?;
            stream.write_all(format!("data: {}\n\n", news()).as_bytes())?;
            // Until the browser goes away.
            reader.read_to_end(&mut Vec::new()).map(drop)
        }
        "/t/order" => {
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let order = serde_json::from_slice(&body).expect("an order is JSON");
            orders.lock().expect("nobody panics").push((origin, order));
            stream.write_all(head("202 Accepted", "text/plain").as_bytes())
        }
        _ => stream.write_all(head("404 Not Found", "text/plain").as_bytes()),
    }
}

fn news() -> Value {
    let machine = |name: &str, power: &str| {
        json!({ "name": name, "role": "worker", "power": power, "ready": "Ready", "process": "runs 1:05 · 300 MiB",
            "console": ["booting", HOSTILE] })
    };
    json!({
        "title": "test", "what": "", "clock": "0:05", "under_way": [], "told": [format!("0:01  {HOSTILE}: done")], "over": false,
        "facts": {
            "machines": [machine("c1", "on"), machine("w1", "off"), machine("w2", "on")],
            "links": [{ "from": "w1", "to": "host", "rules": "cut [by-hand]", "counted": "1 passed, 2 dropped", "cut": true }],
            "pods": [{ "node": "w1", "namespace": "default", "name": HOSTILE, "uid": "u", "state": "Running", "ready": "1/1",
                "restarts": 0, "good": true }],
            "endpoints": [{ "service": "default/web:443", "host": "127.0.0.1:40443", "endpoint": "10.0.0.1:8443", "node": "w1",
                "state": "good", "open": 1, "waiting": 0, "tried": 7, "failed": 2, "good": true }],
            "notes": [HOSTILE], "gaps": [HOSTILE],
        },
    })
}

/// Presses a key where the focus is.
async fn press(browser: &Browser, key: &str) {
    let keys = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
    let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": keys }] });
    browser.post("/actions", actions).await;
}

/// Waits until so many orders have come.
async fn ordered(orders: &Orders, count: usize) -> Vec<(String, Value)> {
    for _ in 0..500 {
        let came = orders.lock().expect("nobody panics").clone();
        if came.len() >= count {
            return came;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{count} orders did not come in ten seconds");
}

#[tokio::test]
async fn a_cluster_is_shown_and_broken_by_keys_alone() {
    crypto();
    let orders = Orders::default();
    let address = serve(&orders);
    let browser = Browser::start().await;
    browser.open_at(&address).await;

    let cards = "return [...document.querySelectorAll('.machine')].map(one => [one.dataset.node, one.querySelector('.power').textContent, one.classList.contains('away')])";
    assert_eq!(
        browser.run(cards).await,
        json!([
            ["c1", "on", false],
            ["w1", "off", true],
            ["w2", "on", false]
        ])
    );
    let console = "return document.querySelector('.console').textContent";
    assert_eq!(
        browser.run(console).await,
        json!(format!("booting\n{HOSTILE}"))
    );
    let arrows = "return [...document.querySelectorAll('.ruled text')].map(one => one.textContent)";
    assert_eq!(browser.run(arrows).await, json!(["cut [by-hand]"]));
    let pod = "return document.querySelector('#pods tbody tr').cells[2].textContent";
    assert_eq!(browser.run(pod).await, HOSTILE);
    let images = "return document.querySelectorAll('img').length";
    assert_eq!(browser.run(images).await, 0);
    let wide = "return document.documentElement.scrollWidth <= innerWidth";
    assert_eq!(browser.run(wide).await, true);

    press(&browser, "h").await;
    let focused = "return document.activeElement.id";
    assert_eq!(browser.run(focused).await, "heal-all");
    press(&browser, ENTER).await;
    let came = ordered(&orders, 1).await;
    assert_eq!(came[0].1, json!({ "do": "heal-all" }));
    let own = address.trim_end_matches("/t/");
    assert_eq!(came[0].0, own, "the browser tells the page's own origin");

    browser
        .run("document.querySelector('[data-node=w2] [data-action=freeze]').focus()")
        .await;
    press(&browser, ENTER).await;
    let came = ordered(&orders, 2).await;
    assert_eq!(
        came[1].1,
        json!({ "do": "power", "node": "w2", "action": "freeze" })
    );

    browser
        .run("const form = document.querySelector('#link'); form.elements.namedItem('from').value = 'w1'; form.elements.namedItem('to').value = 'w2'; form.elements.namedItem('delay').value = '50ms'; form.elements.namedItem('delay').focus()")
        .await;
    press(&browser, ENTER).await;
    let came = ordered(&orders, 3).await;
    assert_eq!(
        came[2].1,
        json!({ "do": "link", "from": "w1", "to": "w2", "one_way": false, "lasts": "", "delay": "50ms", "jitter": "", "loss": "",
            "duplicate": "", "reorder": "", "rate": "" })
    );

    let console = browser.log("browser").await;
    assert!(console.is_empty(), "the console is not empty: {console:?}");
    let asked = browser.requests("http:").await;
    assert!(asked.len() >= 4, "{asked:?}");
    assert!(
        asked.iter().all(|url| url.starts_with(&address)),
        "{asked:?}"
    );
}

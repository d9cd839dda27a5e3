//! The report page in a real browser, opened from its file: nothing on its console, no request, keys, links, dark, print.
//! Wants Debian's `chromium` and `chromium-driver`; a few lines of the WebDriver protocol are spoken here.

#[path = "page/cockpit.rs"]
mod cockpit;
#[path = "../src/scenario/page/fixture.rs"]
mod fixture;
#[path = "page/live.rs"]
mod live;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fixture::Plan;
use serde_json::{Value, json};

/// A browser that is driven, and its profile.
struct Browser {
    driver: Child,
    session: String,
    client: reqwest::Client,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts: it is in the package chromium-driver");
        let mut lines = BufReader::new(driver.stdout.take().expect("it is piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let rest = line.split("started successfully on port ").nth(1)?;
                Some(rest.trim_end_matches('.').to_owned())
            })
            .expect("chromedriver says its port");
        // It goes on writing, and must not be stopped by a pipe that nobody reads.
        std::thread::spawn(move || lines.for_each(drop));
        let profile = tempfile::tempdir().expect("a folder for the profile");
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--window-size=1280,1000",
        ];
        let mut arguments: Vec<String> = arguments.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .no_proxy()
            .build()
            .expect("a client");
        let mut browser = Self {
            driver,
            session: format!("http://127.0.0.1:{port}/session"),
            client,
            _profile: profile,
        };
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.post("", capabilities).await;
        let id = session["sessionId"].as_str().expect("a session has an id");
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    fn end_session(&self) -> std::io::Result<()> {
        let url = self.session.strip_prefix("http://").unwrap_or_default();
        let (host, path) = url.split_once('/').unwrap_or_default();
        let mut stream = TcpStream::connect(host)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let asked = format!("DELETE /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes())?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.session);
        let answer = self.client.post(url).json(&body).send().await;
        let answer: Value = answer
            .expect("the driver answers")
            .json()
            .await
            .expect("the driver answers with JSON");
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    async fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": [] }))
            .await
    }

    async fn developer(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.post("/goog/cdp/execute", body).await
    }

    /// Opens a page and waits until its script has unpacked the requests.
    async fn open(&self, file: &Path, anchor: &str) {
        self.open_at(&format!("file://{}{anchor}", file.display()))
            .await;
    }

    async fn open_at(&self, url: &str) {
        // From elsewhere, so that another anchor of the same file is a new page.
        self.post("/url", json!({ "url": "about:blank" })).await;
        self.post("/url", json!({ "url": url })).await;
        let ready = "const done = arguments[0]; const look = () => document.documentElement.dataset.ready ? done(true) : setTimeout(look, 20); look();";
        self.post("/execute/async", json!({ "script": ready, "args": [] }))
            .await;
    }

    async fn press(&self, key: &str) -> Value {
        self.run(&format!(
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {{ key: {}, bubbles: true }})); return location.hash;",
            json!(key)
        ))
        .await
    }

    async fn log(&self, kind: &str) -> Vec<Value> {
        let log = self.post("/se/log", json!({ "type": kind })).await;
        log.as_array().cloned().unwrap_or_default()
    }

    /// Addresses that pages of this scheme asked for, their own among them.
    async fn requests(&self, scheme: &str) -> Vec<String> {
        let mut asked = Vec::new();
        for entry in self.log("performance").await {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap_or("{}"))
                .expect("the log holds JSON");
            let parameters = &message["message"]["params"];
            // The browser's own start page asks for much.
            let ours = parameters["documentURL"]
                .as_str()
                .is_some_and(|url| url.starts_with(scheme));
            if ours && message["message"]["method"] == "Network.requestWillBeSent" {
                let url = &parameters["request"]["url"];
                asked.push(url.as_str().unwrap_or("").to_owned());
            }
        }
        asked
    }
}

impl Drop for Browser {
    /// The browser ends with its session, and not with its driver.
    fn drop(&mut self) {
        let _ = self.end_session();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// What the client of the driver wants to be there, though it speaks plainly. The second test finds it installed.
fn crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The page of a run, made by the command line.
fn page(folder: &Path, plan: &Plan<'_>) -> PathBuf {
    let run = folder.join("failover");
    fixture::write(&run, plan).expect("the run is written");
    let made = Command::new(env!("CARGO_BIN_EXE_flightcage"))
        .arg("report")
        .arg(folder)
        .output()
        .expect("flightcage runs");
    assert!(made.status.success(), "{made:?}");
    assert!(folder.join("index.html").exists());
    run.join("report.html")
}

#[tokio::test]
async fn the_page_works_in_a_browser() {
    crypto();
    let folder = tempfile::tempdir().expect("a folder");
    let hostile = Plan {
        pod: "</script><img/src=x/onerror=alert(1)>",
        ..Plan::default()
    };
    let file = page(folder.path(), &hostile);
    let browser = Browser::start().await;

    browser.open(&file, "").await;
    let drawn = "return [...document.querySelectorAll('canvas')].map(c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return d.some(v => v > 0); });";
    let frame = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()));";
    browser
        .post("/execute/async", json!({ "script": frame, "args": [] }))
        .await;
    assert_eq!(browser.run(drawn).await, json!([true, true]));
    assert_eq!(
        browser
            .run("return document.querySelectorAll('img').length")
            .await,
        json!(0)
    );
    // Nothing is wider than the window.
    let wide = "return document.documentElement.scrollWidth <= innerWidth";
    assert_eq!(browser.run(wide).await, json!(true));

    keys(&browser).await;
    anchors(&browser, &file).await;
    appearance(&browser, &file).await;

    let console = browser.log("browser").await;
    assert!(console.is_empty(), "the console is not empty: {console:?}");
    let own = format!("file://{}", file.display());
    let asked = browser.requests("file:").await;
    let others: Vec<&String> = asked.iter().filter(|url| !url.starts_with(&own)).collect();
    assert!(others.is_empty(), "the page asked for {others:?}");
    assert!(
        !asked.is_empty(),
        "the log of requests is empty: it proves nothing"
    );
}

async fn keys(browser: &Browser) {
    let zoomed = browser.press("+").await;
    assert!(
        zoomed.as_str().is_some_and(|hash| hash.starts_with("#t=")),
        "{zoomed}"
    );
    let moved = browser.press("ArrowRight").await;
    assert_ne!(zoomed, moved, "the arrow did not move");
    let failed = browser.press("n").await;
    assert!(
        failed
            .as_str()
            .is_some_and(|hash| hash.contains("req=web.")),
        "{failed}"
    );
    let next = browser.press("n").await;
    assert_ne!(failed, next);
    assert_eq!(browser.press("p").await, failed);
    assert_eq!(browser.press("0").await, json!(""));
    let outage = browser.press("o").await;
    assert!(
        outage.as_str().is_some_and(|hash| hash.starts_with("#t=")),
        "{outage}"
    );
    browser.press("j").await;
    let here = "return document.querySelector('.lane.here').id";
    assert_eq!(browser.run(here).await, json!("lane-phases"));
    browser.press("?").await;
    let open = "const one = document.querySelector('#keys'); const was = one.open; one.close(); return was";
    assert_eq!(browser.run(open).await, json!(true));
    browser.press("Escape").await;
}

async fn anchors(browser: &Browser, file: &Path) {
    let visible = |id: &str| {
        format!(
            "const box = document.getElementById({}).getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight",
            json!(id)
        )
    };
    browser.open(file, "#t=58-66.5").await;
    assert_eq!(
        browser.run("return location.hash").await,
        json!("#t=58-66.5")
    );
    for id in ["expect=web.new.longest_outage", "fault=kill"] {
        browser.open(file, &format!("#{id}")).await;
        assert_eq!(browser.run(&visible(id)).await, json!(true), "{id}");
    }
    let first = browser
        .run("return document.querySelector('#failed tbody tr').id")
        .await;
    let first = first
        .as_str()
        .expect("a failed request has an anchor")
        .to_owned();
    browser.open(file, &format!("#{first}")).await;
    let lit = "return document.querySelector('tr.here').id";
    assert_eq!(browser.run(lit).await, json!(first));
    browser.open(file, "#pod=flappy-silex-v1-b9d4q").await;
    let lane = "return document.querySelector('.lane.here').dataset.name";
    assert_eq!(browser.run(lane).await, json!("flappy-silex-v1-b9d4q"));
}

async fn appearance(browser: &Browser, file: &Path) {
    let ground = "return getComputedStyle(document.body).backgroundColor";
    browser.open(file, "").await;
    assert_eq!(browser.run(ground).await, json!("rgb(255, 255, 255)"));
    browser.press("d").await;
    assert_eq!(browser.run(ground).await, json!("rgb(20, 24, 28)"));
    let prefer = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    browser
        .developer("Emulation.setEmulatedMedia", prefer)
        .await;
    browser.open(file, "").await;
    assert_eq!(browser.run(ground).await, json!("rgb(20, 24, 28)"));
    let print = json!({ "media": "print" });
    browser.developer("Emulation.setEmulatedMedia", print).await;
    assert_eq!(browser.run(ground).await, json!("rgb(255, 255, 255)"));
    let shown = "const shown = s => getComputedStyle(document.querySelector(s)).display !== 'none'; return [shown('.tools'), shown('canvas'), shown('.still')]";
    assert_eq!(browser.run(shown).await, json!([false, false, true]));
    let paper = json!({ "landscape": true, "printBackground": true, "preferCSSPageSize": true });
    let printed = browser.developer("Page.printToPDF", paper).await;
    assert!(
        printed["data"]
            .as_str()
            .is_some_and(|pdf| pdf.len() > 10_000)
    );
    browser
        .developer("Emulation.setEmulatedMedia", json!({ "media": "" }))
        .await;
}

//! A page that a command serves on this host's loopback: who may ask, how many may, and browsers that listen to what happens.
//!
//! Invariants: whoever knows neither port nor token learns nothing, and neither does a page of another site, whatever name it gives this
//! host; a browser that is slow, dead or one of many costs the command nothing: nothing waits for it.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::Response;
use futures::stream;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue, ORIGIN,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Connections of all browsers together; more are closed at once.
pub(super) const CONNECTIONS_MAX: usize = 32;
/// The longest that a command waits at its end for browsers to fetch what is last.
pub(super) const END_WITHIN: Duration = Duration::from_secs(5);
/// How long a browser may take to ask.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How often what happens is told.
const EVENTS_EVERY: Duration = Duration::from_millis(250);
/// What has not changed is told again after so many times: clocks go on, and a browser that is gone is noticed.
const AGAIN_AFTER: u32 = 4;
/// Ports that are tried when the wanted one is taken, unless it was asked for.
const PORTS_TRIED: u16 = 50;

/// The port that the page of this name always has, so that a browser finds it again.
pub(super) fn usual_port(name: &str) -> u16 {
    let number = crc32fast::hash(name.as_bytes()) % 20_000;
    20_000 + u16::try_from(number).unwrap_or(0)
}

/// Listens on this port if one is named, else on the usual one of the page, or the next that is free.
pub(super) async fn listen(port: Option<u16>, page: &str) -> (u16, io::Result<TcpListener>) {
    let wanted = port.unwrap_or_else(|| usual_port(page));
    let tried = if port.is_some() { 1 } else { PORTS_TRIED };
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in (0..tried).map(|more| wanted.wrapping_add(more)) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return (wanted, Ok(listener)),
            Err(error) => last = error,
        }
    }
    (wanted, Err(last))
}

/// Takes connections for ever; those beyond the limit are closed.
pub(super) async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: they are the command's first.
            sleep(EVENTS_EVERY).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(stream), service);
            // That a browser went away is its own affair.
            drop(served.await);
            drop(place);
        });
    }
}

/// Where a page is, which nobody else can know: a port, and a token in the path.
pub(super) struct Address {
    token: String,
    hosts: [String; 2],
}

impl Address {
    pub(super) fn new(port: u16) -> Self {
        Self {
            token: uuid::Uuid::new_v4().simple().to_string(),
            hosts: [format!("127.0.0.1:{port}"), format!("localhost:{port}")],
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/{}/", self.hosts[0], self.token)
    }

    /// What is asked for, below the token; of whoever does not know that, the code of the refusal.
    pub(super) fn path<'a>(&self, request: &'a Request) -> Result<&'a str, StatusCode> {
        // A name that another site gave to this host is not ours.
        let host = text(request.headers(), HOST);
        if !host.is_some_and(|host| self.hosts.iter().any(|ours| ours == host)) {
            return Err(StatusCode::FORBIDDEN);
        }
        let rest = request.uri().path().strip_prefix('/');
        let (token, what) = rest
            .and_then(|rest| rest.split_once('/'))
            .ok_or(StatusCode::NOT_FOUND)?;
        if same(token, &self.token) {
            Ok(what)
        } else {
            Err(StatusCode::NOT_FOUND)
        }
    }

    /// Whether the page itself asks, as browsers say of what changes something: none of another site's, and none without an origin.
    pub(super) fn is_own_page(&self, headers: &HeaderMap) -> bool {
        let origin = text(headers, ORIGIN).and_then(|origin| origin.strip_prefix("http://"));
        let site = text(headers, HeaderName::from_static("sec-fetch-site"));
        origin.is_some()
            && origin == text(headers, HOST)
            && site.unwrap_or("same-origin") == "same-origin"
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether two texts are the same, in a time that does not tell where they differ.
pub(super) fn same(a: &str, b: &str) -> bool {
    let differing = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differing == 0
}

/// Whatever is answered is for the page that asked, which nobody may frame or keep.
pub(super) fn guard(answer: &mut Response, policy: &str) {
    let headers = answer.headers_mut();
    let fixed = [
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::from_str(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
}

/// Browsers that are told what happens.
#[derive(Default)]
pub(super) struct Browsers {
    count: AtomicUsize,
    changed: Notify,
}

impl Browsers {
    /// Whether anybody looks.
    pub(super) fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) > 0
    }

    /// Resolves when somebody looks.
    pub(super) async fn one_came(&self) {
        self.until(true).await;
    }

    /// Waits until nobody looks any more, for five seconds at most.
    pub(super) async fn all_left(&self) {
        // One that does not fetch what is last has had its time.
        drop(timeout(END_WITHIN, self.until(false)).await);
    }

    async fn until(&self, any: bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.any() == any {
                return;
            }
            changed.await;
        }
    }
}

/// One of them.
pub(super) struct Browser(Arc<Browsers>);

impl Browser {
    pub(super) fn come(browsers: &Arc<Browsers>) -> Self {
        browsers.count.fetch_add(1, Ordering::SeqCst);
        browsers.changed.notify_waiters();
        Self(Arc::clone(browsers))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

/// What happens, for as long as the browser listens. `news` gives the newest with its number, unless that was told already; what a
/// browser was too slow for is not sent later.
pub(super) fn events<N>(browser: Browser, news: N) -> Response
where
    N: Fn(Option<u64>) -> Option<(u64, String)> + Send + 'static,
{
    struct Listener<N> {
        news: N,
        _browser: Browser,
        told: Option<u64>,
    }
    let listener = Listener {
        news,
        _browser: browser,
        told: None,
    };
    let stream = stream::unfold(listener, |mut listener: Listener<N>| async move {
        let mut silent = 0;
        loop {
            let known = listener.told.filter(|_| silent < AGAIN_AFTER);
            if listener.told.is_some() {
                sleep(EVENTS_EVERY).await;
            }
            if let Some((number, json)) = (listener.news)(known) {
                listener.told = Some(number);
                let event = Bytes::from(format!("data: {json}\n\n"));
                return Some((Ok::<_, Infallible>(event), listener));
            }
            silent += 1;
        }
    });
    let mut answer = Response::new(Body::from_stream(stream));
    let kind = HeaderValue::from_static("text/event-stream");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_always_has_the_same_port() {
        assert_eq!(usual_port("failover"), 36255);
        assert_ne!(usual_port("failover"), usual_port("rolling-update"));
        assert!((20_000..40_000).contains(&usual_port("x")));
        assert!(
            same("abc", "abc") && !same("abc", "abd") && !same("abc", "abcd") && !same("", "a")
        );
    }

    #[test]
    fn only_the_page_itself_changes_something() {
        let address = Address::new(4000);
        let asked = |origin: Option<&str>, site: Option<&str>| {
            let mut headers = HeaderMap::new();
            let host = HeaderValue::from_static("127.0.0.1:4000");
            headers.insert(HOST, host);
            for (name, value) in [("origin", origin), ("sec-fetch-site", site)] {
                if let Some(value) = value {
                    let value = HeaderValue::from_str(value).expect("it is plain text");
                    headers.insert(name, value);
                }
            }
            address.is_own_page(&headers)
        };
        let own = Some("http://127.0.0.1:4000");
        assert!(asked(own, Some("same-origin")) && asked(own, None));
        for (origin, site) in [
            (None, None),
            (None, Some("same-origin")),
            (Some("null"), None),
            (Some("http://localhost:4000"), None),
            (Some("http://127.0.0.1:4001"), None),
            (Some("https://127.0.0.1:4000"), None),
            (Some("http://evil.example"), None),
            (own, Some("cross-site")),
            (own, Some("none")),
        ] {
            assert!(!asked(origin, site), "{origin:?} {site:?}");
        }
    }
}

//! `run --watch`: the page of a run that goes on, served on this host's loopback.
//!
//! ```text
//! State ◄── browser: GET /TOKEN/        the page, empty
//!           browser: GET /TOKEN/events  what happens now, at most four times a second, always the newest (server-sent events)
//!           browser: GET /TOKEN/page?N  the page of what is known by now, at most once a second, drawn once for all browsers;
//!                                       nothing, if it is the one of number N
//! ```
//! Invariants: whoever knows neither port nor token learns nothing, and neither does a page of another site, whatever name it gives
//! this host; nothing can be changed from a browser; a browser that is slow, dead or one of many costs the run nothing: nothing waits
//! for it, and while the run goes on nothing is drawn without any.

mod cards;
mod pages;

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State as Extracted};
use axum::response::{IntoResponse, Response};
use futures::stream;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::board::{Shared, lock};
use super::failure::Failure;
use crate::scenario::page::live::policy;
use pages::Pages;

/// Connections of all browsers together; more are closed at once.
const CONNECTIONS_MAX: usize = 32;
/// How long a browser may take to ask.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How often what happens is told.
const EVENTS_EVERY: Duration = Duration::from_millis(250);
/// What has not changed is told again after so many times: clocks go on, and a browser that is gone is noticed.
const AGAIN_AFTER: u32 = 4;
/// The longest that the command waits at its end for browsers to fetch the report.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Ports that are tried when the wanted one is taken, unless it was asked for.
const PORTS_TRIED: u16 = 50;
/// The number of the page that an answer holds.
const PAGE_NUMBER: HeaderName = HeaderName::from_static("x-page");

/// A page that is served. Dropping it ends that at once.
pub(super) struct Watch {
    state: Shared,
    browsers: Arc<Browsers>,
    address: String,
    _serving: AbortOnDropHandle<()>,
}

/// Browsers that are told what happens.
#[derive(Default)]
struct Browsers {
    count: AtomicUsize,
    left: Notify,
}

/// One of them.
struct Browser(Arc<Browsers>);

impl Browser {
    fn come(browsers: &Arc<Browsers>) -> Self {
        browsers.count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(browsers))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::SeqCst);
        self.0.left.notify_waiters();
    }
}

/// What an answer needs.
struct Site {
    token: String,
    hosts: [String; 2],
    pages: Pages,
    browsers: Arc<Browsers>,
}

/// The port that a scenario's page always has, so that a browser finds it again.
fn usual_port(scenario: &str) -> u16 {
    let number = crc32fast::hash(scenario.as_bytes()) % 20_000;
    20_000 + u16::try_from(number).unwrap_or(0)
}

impl Watch {
    /// Serves what `state` shows: on this port if one is named, else on the usual one of the scenario or the next that is free.
    pub(super) async fn start(
        state: Shared,
        port: Option<u16>,
        scenario: &str,
    ) -> Result<Self, Failure> {
        let wanted = port.unwrap_or_else(|| usual_port(scenario));
        let tried = if port.is_some() { 1 } else { PORTS_TRIED };
        let listener = listen(wanted, tried).await.map_err(|error| {
            Failure::new(format!("serve the page on 127.0.0.1:{wanted}"))
                .because(error)
                .hint("`--watch` without a port takes the next that is free")
        })?;
        let port = listener.local_addr().map_err(Failure::from)?.port();
        let browsers = Arc::<Browsers>::default();
        let token = uuid::Uuid::new_v4().simple().to_string();
        let address = format!("http://127.0.0.1:{port}/{token}/");
        let site = Arc::new(Site {
            token,
            hosts: [format!("127.0.0.1:{port}"), format!("localhost:{port}")],
            pages: Pages::new(Arc::clone(&state)),
            browsers: Arc::clone(&browsers),
        });
        let router = Router::new().fallback(answer).with_state(site);
        Ok(Self {
            state,
            browsers,
            address,
            _serving: AbortOnDropHandle::new(tokio::spawn(serve(listener, router))),
        })
    }

    /// Where it is.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Tells browsers that nothing follows, and waits until each has the report, for five seconds at most.
    pub(super) async fn end(self) {
        {
            let mut state = lock(&self.state);
            state.over = true;
            state.changes += 1;
        }
        let all_left = async {
            loop {
                let left = self.browsers.left.notified();
                tokio::pin!(left);
                left.as_mut().enable();
                if self.browsers.count.load(Ordering::SeqCst) == 0 {
                    return;
                }
                left.await;
            }
        };
        // One that does not fetch it has had its time.
        drop(timeout(END_WITHIN, all_left).await);
    }
}

async fn listen(wanted: u16, tried: u16) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in (0..tried).map(|more| wanted.wrapping_add(more)) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Takes connections for ever; those beyond the limit are closed.
async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: they are the run's first.
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

async fn answer(Extracted(site): Extracted<Arc<Site>>, request: Request) -> Response {
    let wanted = site.route(&request);
    let mut answer = match wanted {
        Ok(Wanted::Start) => page(site.pages.start(), None),
        Ok(Wanted::Page) => {
            let (number, html) = site.pages.newest().await;
            let known = request.uri().query().and_then(|known| known.parse().ok());
            if known == Some(number) {
                StatusCode::NO_CONTENT.into_response()
            } else {
                page(html, Some(number))
            }
        }
        Ok(Wanted::Events) => events(&site),
        Err(status) => status.into_response(),
    };
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
    if let Ok(policy) = HeaderValue::from_str(&policy()) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Start,
    Page,
    Events,
}

impl Site {
    fn route(&self, request: &Request) -> Result<Wanted, StatusCode> {
        // A name that another site gave to this host is not ours.
        let host = request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.hosts.iter().any(|ours| ours == host)) {
            return Err(StatusCode::FORBIDDEN);
        }
        let rest = request.uri().path().strip_prefix('/');
        let (token, what) = rest
            .and_then(|rest| rest.split_once('/'))
            .ok_or(StatusCode::NOT_FOUND)?;
        if !same(token, &self.token) {
            return Err(StatusCode::NOT_FOUND);
        }
        let wanted = match what {
            "" => Wanted::Start,
            "page" => Wanted::Page,
            "events" => Wanted::Events,
            _ => return Err(StatusCode::NOT_FOUND),
        };
        if request.method() != Method::GET {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        Ok(wanted)
    }
}

/// Whether two texts are the same, in a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    let differing = a
        .bytes()
        .zip(b.bytes())
        .fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differing == 0
}

fn page(html: Arc<str>, number: Option<u64>) -> Response {
    let mut answer = Response::new(Body::from(html.to_string()));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, html);
    if let Some(number) = number {
        answer.headers_mut().insert(PAGE_NUMBER, number.into());
    }
    answer
}

/// What happens, for as long as the browser listens. Only the newest is told: what it was too slow for is not sent later.
fn events(site: &Arc<Site>) -> Response {
    struct Listener {
        site: Arc<Site>,
        _browser: Browser,
        told: Option<u64>,
    }
    let listener = Listener {
        site: Arc::clone(site),
        _browser: Browser::come(&site.browsers),
        told: None,
    };
    let stream = stream::unfold(listener, |mut listener: Listener| async move {
        let mut silent = 0;
        loop {
            let known = listener.told.filter(|_| silent < AGAIN_AFTER);
            if listener.told.is_some() {
                sleep(EVENTS_EVERY).await;
            }
            if let Some((number, json)) = listener.site.pages.news(known) {
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
mod tests;

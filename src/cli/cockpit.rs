//! `watch`: a cluster by hand in a browser, served on this host's loopback: what is there, and faults.
//!
//! ```text
//! Looker ─► State ─► browser: GET  /TOKEN/        the page
//!                    browser: GET  /TOKEN/events  what is there now, at most four times a second, always the newest
//!                    browser: POST /TOKEN/order   an order, which is checked, taken (202), and told of when it has come to its end
//!                                     │
//!                                     └─► attend: at most eight at a time, by what `node`, `net` and `undo` do
//! ```
//! Invariants: as of `loopback`; an order is taken from the page alone, never from another site's, and not by a link; whoever goes away
//! cancels nothing; the cluster is looked at only while somebody looks; the end of the command heals nothing.

mod facts;
mod look;
mod orders;
mod state;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Extracted};
use axum::response::{IntoResponse, Response};
use clap::Args;
use http::header::{CONTENT_TYPE, HeaderValue, REFERRER_POLICY};
use http::{Method, StatusCode};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::board::lock;
use super::cluster::connect;
use super::failure::Failure;
use super::interruption::Interruption;
use super::loopback::{self, Address, Browser, Browsers};
use super::terminal::{complain, say};
use crate::cluster::life::Cluster;
use crate::model::cluster::ClusterSpec;
use crate::model::names::ClusterName;
use crate::scenario::page::cockpit::{cockpit_html, cockpit_policy};
use look::{LookError, Looker, still_on};
use orders::{Order, Refusal};
use state::{Shared, State, UnderWay};

/// The shortest time between two looks; and looking takes at most this part of the time: one in so many.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_SHARE: u32 = 4;
/// Orders that are carried out at a time, and that wait for that.
const ORDERS_MAX: usize = 8;
/// Bytes of an order, and how long a browser may take to send them.
const ORDER_BYTES_MAX: usize = 4096;
const ORDER_WITHIN: Duration = Duration::from_secs(10);
/// How long orders that are under way are waited for at the end.
const ORDERS_END_WITHIN: Duration = Duration::from_secs(10);

const AFTER_HELP: &str = "\
The page shows each machine (power, whether its node is Ready, its console's last lines), pods by node, the links between machines and
host with the rules that act on them, and what the host's load balancer knows of each endpoint. On it, machines are powered off and on,
reset, frozen and thawed, links cut, shaped and healed, pods killed; `heal all` does what `flightcage undo` does.

  flightcage up                    a cluster
  flightcage watch                 then open the address that is printed
  flightcage watch --port 8080     on a port of your choice
  flightcage undo                  heals what was left broken

Only who has the whole address sees the page: on this host, with the token in the path. Ctrl-C ends the page; the cluster stays as it is,
and the rules that are still on are printed.";

/// Arguments of `watch`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct WatchCommand {
    /// Port of the page; without it, one that is always the cluster's, or the next that is free.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

impl WatchCommand {
    pub(super) async fn run(self, name: ClusterName) -> Result<ExitCode, Failure> {
        let cluster = Arc::new(connect(name.clone()).await?);
        let spec = cluster.daemon.status().await?.spec;
        let interruption = Interruption::watch();
        let state: Shared = Arc::new(Mutex::new(State::new(name.as_str())));
        let (orders, given) = mpsc::channel(ORDERS_MAX);
        let site = Site::new(Arc::clone(&state), spec.clone(), orders);
        let served = Served::start(site, self.port, &name).await?;
        say(&served.address);
        if std::io::stderr().is_terminal() {
            complain(
                "open it in a browser on this host; Ctrl-C ends it and leaves the cluster as it is",
            );
        }

        let soon = Arc::<Notify>::default();
        let stop = CancellationToken::new();
        let attending = tokio::spawn(attend(
            Arc::clone(&cluster),
            Arc::clone(&state),
            given,
            Arc::clone(&soon),
            stop.clone(),
        ));
        let looker = Looker::new(Arc::clone(&cluster), spec);
        let gone = tokio::select! {
            () = keep_looking(looker, &state, &served.browsers, &soon) => true,
            () = interruption.token().cancelled() => false,
        };
        if gone {
            served.browsers.all_left().await;
        }
        stop.cancel();
        // What it could not bring to its end goes on in the daemon, or not: it is looked at below.
        drop(attending.await);
        drop(served);
        if gone {
            return Err(Failure::new(format!("cluster `{name}` is not up any more"))
                .hint(format!("`flightcage up --name {name}` brings it up")));
        }
        tell_what_stays(&cluster).await
    }
}

/// Says what the cluster is left with.
async fn tell_what_stays(cluster: &Cluster) -> Result<ExitCode, Failure> {
    let (links, status) = (
        cluster.daemon.links().await?,
        cluster.daemon.status().await?,
    );
    let left = still_on(&links, &status.machines);
    if left.is_empty() {
        complain("no rule is on, and every machine runs");
    } else {
        complain("still on:");
        left.iter().for_each(|line| complain(&format!("  {line}")));
        let name = cluster.paths.name();
        complain(&format!("`flightcage undo --name {name}` heals them"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Looks while somebody looks at the page, until the cluster is gone.
async fn keep_looking(mut looker: Looker, state: &Shared, browsers: &Browsers, soon: &Notify) {
    loop {
        browsers.one_came().await;
        let begun = Instant::now();
        let seen = looker.look().await;
        let gone = seen == Err(LookError::Gone);
        lock(state).take(seen);
        if gone {
            return;
        }
        let pause = LOOK_EVERY.max(begun.elapsed() * LOOK_SHARE);
        tokio::select! {
            () = sleep(pause) => {}
            () = soon.notified() => {}
        }
    }
}

/// Carries out orders until it is to stop; those under way then have a while to come to their end.
async fn attend(
    cluster: Arc<Cluster>,
    state: Shared,
    mut given: mpsc::Receiver<Order>,
    soon: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut doing = JoinSet::new();
    loop {
        let order = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = doing.join_next(), if !doing.is_empty() => continue,
            order = given.recv(), if doing.len() < ORDERS_MAX => order,
        };
        let Some(order) = order else { break };
        let under_way = UnderWay::begin(&state, order.to_string());
        let (cluster, soon) = (Arc::clone(&cluster), Arc::clone(&soon));
        doing.spawn(async move {
            match order.carry_out(&cluster).await {
                Ok(outcome) => under_way.end(&outcome),
                Err(failure) => under_way.end(&format!("failed: {}", failure.in_one_line())),
            }
            soon.notify_one();
        });
    }
    given.close();
    while let Ok(order) = given.try_recv() {
        complain(&format!("not done any more: {order}"));
    }
    let all_done = async { while doing.join_next().await.is_some() {} };
    if timeout(ORDERS_END_WITHIN, all_done).await.is_err() {
        complain("an order has not come to its end, and is left alone");
    }
}

/// What an answer needs.
struct Site {
    state: Shared,
    spec: ClusterSpec,
    orders: mpsc::Sender<Order>,
    page: String,
}

impl Site {
    fn new(state: Shared, spec: ClusterSpec, orders: mpsc::Sender<Order>) -> Self {
        Self {
            state,
            page: cockpit_html(&spec),
            spec,
            orders,
        }
    }
}

/// A site at its address.
struct Served {
    address: String,
    browsers: Arc<Browsers>,
    _serving: AbortOnDropHandle<()>,
}

/// What the handlers share.
struct Door {
    site: Site,
    address: Address,
    browsers: Arc<Browsers>,
}

impl Served {
    async fn start(site: Site, port: Option<u16>, name: &ClusterName) -> Result<Self, Failure> {
        let (wanted, listener) = loopback::listen(port, &format!("cluster {name}")).await;
        let listener = listener.map_err(|error| {
            Failure::new(format!("serve the page on 127.0.0.1:{wanted}"))
                .because(error)
                .hint("without `--port` it takes the next that is free")
        })?;
        let address = Address::new(listener.local_addr().map_err(Failure::from)?.port());
        let browsers = Arc::<Browsers>::default();
        let url = address.url();
        let door = Arc::new(Door {
            site,
            address,
            browsers: Arc::clone(&browsers),
        });
        let router = Router::new().fallback(answer).with_state(door);
        Ok(Self {
            address: url,
            browsers,
            _serving: AbortOnDropHandle::new(tokio::spawn(loopback::serve(listener, router))),
        })
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Page,
    Events,
    Order,
}

async fn answer(Extracted(door): Extracted<Arc<Door>>, request: Request) -> Response {
    let mut answer = match door.route(&request) {
        Ok(Wanted::Page) => {
            let mut answer = Response::new(Body::from(door.site.page.clone()));
            let html = HeaderValue::from_static("text/html; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, html);
            answer
        }
        Ok(Wanted::Events) => {
            let browser = Browser::come(&door.browsers);
            let state = Arc::clone(&door.site.state);
            loopback::events(browser, move |told| lock(&state).news(told))
        }
        Ok(Wanted::Order) => take_order(&door.site, request).await,
        Err(status) => status.into_response(),
    };
    loopback::guard(&mut answer, &cockpit_policy());
    // Without any, browsers hide the page's own origin from us, too.
    let own = HeaderValue::from_static("same-origin");
    answer.headers_mut().insert(REFERRER_POLICY, own);
    answer
}

impl Door {
    fn route(&self, request: &Request) -> Result<Wanted, StatusCode> {
        let (wanted, method) = match self.address.path(request)? {
            "" => (Wanted::Page, Method::GET),
            "events" => (Wanted::Events, Method::GET),
            "order" => (Wanted::Order, Method::POST),
            _ => return Err(StatusCode::NOT_FOUND),
        };
        if request.method() != method {
            return Err(StatusCode::METHOD_NOT_ALLOWED);
        }
        if wanted == Wanted::Order {
            if !self.address.is_own_page(request.headers()) {
                return Err(StatusCode::FORBIDDEN);
            }
            // A form of another site cannot send this kind.
            let kind = request.headers().get(CONTENT_TYPE);
            if kind.is_none_or(|kind| kind != "application/json") {
                return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            }
        }
        Ok(wanted)
    }
}

/// Checks an order and hands it on. What comes of it is told by events.
async fn take_order(site: &Site, request: Request) -> Response {
    let body = timeout(ORDER_WITHIN, to_bytes(request.into_body(), ORDER_BYTES_MAX)).await;
    let Ok(body) = body else {
        return StatusCode::REQUEST_TIMEOUT.into_response();
    };
    let Ok(body) = body else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let order = {
        let state = lock(&site.state);
        Order::read(&body, &site.spec, &state.facts.pods)
    };
    match order {
        Ok(order) => match site.orders.try_send(order) {
            Ok(()) => StatusCode::ACCEPTED.into_response(),
            Err(_) => {
                let why = "too many orders are under way";
                (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
            }
        },
        Err(Refusal::Wrong(why)) => (StatusCode::BAD_REQUEST, why).into_response(),
        Err(Refusal::Unknown(why)) => (StatusCode::NOT_FOUND, why).into_response(),
    }
}

#[cfg(test)]
mod tests;

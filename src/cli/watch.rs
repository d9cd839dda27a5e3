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

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State as Extracted};
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use tokio_util::task::AbortOnDropHandle;

use super::board::{Shared, lock};
use super::failure::Failure;
use super::loopback::{self, Address, Browser, Browsers};
use crate::scenario::page::live::policy;
use pages::Pages;

/// The number of the page that an answer holds.
const PAGE_NUMBER: HeaderName = HeaderName::from_static("x-page");

/// A page that is served. Dropping it ends that at once.
pub(super) struct Watch {
    state: Shared,
    browsers: Arc<Browsers>,
    address: String,
    _serving: AbortOnDropHandle<()>,
}

/// What an answer needs.
struct Site {
    address: Address,
    pages: Pages,
    browsers: Arc<Browsers>,
}

impl Watch {
    /// Serves what `state` shows: on this port if one is named, else on the usual one of the scenario or the next that is free.
    pub(super) async fn start(
        state: Shared,
        port: Option<u16>,
        scenario: &str,
    ) -> Result<Self, Failure> {
        let (wanted, listener) = loopback::listen(port, scenario).await;
        let listener = listener.map_err(|error| {
            Failure::new(format!("serve the page on 127.0.0.1:{wanted}"))
                .because(error)
                .hint("`--watch` without a port takes the next that is free")
        })?;
        let port = listener.local_addr().map_err(Failure::from)?.port();
        let browsers = Arc::<Browsers>::default();
        let site = Arc::new(Site {
            address: Address::new(port),
            pages: Pages::new(Arc::clone(&state)),
            browsers: Arc::clone(&browsers),
        });
        let address = site.address.url();
        let router = Router::new().fallback(answer).with_state(site);
        Ok(Self {
            state,
            browsers,
            address,
            _serving: AbortOnDropHandle::new(tokio::spawn(loopback::serve(listener, router))),
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
        self.browsers.all_left().await;
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
        Ok(Wanted::Events) => {
            let browser = Browser::come(&site.browsers);
            loopback::events(browser, move |told| site.pages.news(told))
        }
        Err(status) => status.into_response(),
    };
    loopback::guard(&mut answer, &policy());
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
        let what = self.address.path(request)?;
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

fn page(html: Arc<str>, number: Option<u64>) -> Response {
    let mut answer = Response::new(Body::from(html.to_string()));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, html);
    if let Some(number) = number {
        answer.headers_mut().insert(PAGE_NUMBER, number.into());
    }
    answer
}

#[cfg(test)]
mod tests;

//! From HTTP to another protocol: which one a client can speak, and the 101.

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::super::limits::STREAM_MESSAGE_BYTES;
use super::super::status::Status;
use super::Session;

/// The SPDY that clients speak (apimachinery/pkg/util/httpstream/spdy: `HeaderSpdy31`).
const SPDY: &str = "SPDY/3.1";
/// What is spoken on top of it: named by the client, several of them, and answered with one.
static STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Channels with an exit code and a terminal's size.
pub(super) const V4: &str = "v4.channel.k8s.io";
/// And with the end of a channel.
pub(super) const V5: &str = "v5.channel.k8s.io";
/// Forwarded ports on SPDY.
pub(super) const FORWARD: &str = "portforward.k8s.io";
/// The same SPDY in the messages of a WebSocket.
pub(super) const FORWARD_TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";

/// A client that has switched.
pub(super) enum Client {
    /// Speaks WebSocket, and this protocol in it.
    WebSocket(Box<WebSocket>, &'static str),
    /// Speaks SPDY.
    Spdy(TokioIo<Upgraded>),
}

/// A switch that has been agreed on.
pub(super) enum Switch {
    WebSocket(Box<WebSocketUpgrade>, &'static str),
    Spdy(OnUpgrade, &'static str),
}

impl Switch {
    /// To the channels of a command.
    pub(super) async fn to_channels(parts: &mut Parts) -> Result<Self, Status> {
        Self::negotiate(parts, &[V5, V4], V4).await
    }

    /// To connections to ports.
    pub(super) async fn to_forwarding(parts: &mut Parts) -> Result<Self, Status> {
        Self::negotiate(parts, &[FORWARD_TUNNELLED, V4, FORWARD], FORWARD).await
    }

    async fn negotiate(
        parts: &mut Parts,
        in_web_socket: &[&'static str],
        in_spdy: &'static str,
    ) -> Result<Self, Status> {
        let upgrade = parts.headers.get(header::UPGRADE);
        let upgrade = upgrade
            .and_then(|name| name.to_str().ok())
            .unwrap_or_default();
        if upgrade.eq_ignore_ascii_case(SPDY) {
            let offered = words(parts, &STREAM_PROTOCOL);
            if !offered.iter().any(|protocol| protocol == in_spdy) {
                return Err(none_in_common(&offered, &[in_spdy]));
            }
            let switch = parts.extensions.remove::<OnUpgrade>();
            return switch
                .map(|switch| Self::Spdy(switch, in_spdy))
                .ok_or_else(upgrade_required);
        }
        if !upgrade.eq_ignore_ascii_case("websocket") {
            return Err(upgrade_required());
        }
        let offered = words(parts, &header::SEC_WEBSOCKET_PROTOCOL);
        let protocol = in_web_socket
            .iter()
            .copied()
            .find(|known| offered.iter().any(|protocol| protocol == known))
            .ok_or_else(|| none_in_common(&offered, in_web_socket))?;
        let switch = WebSocketUpgrade::from_request_parts(parts, &())
            .await
            .map_err(|rejection| Status::bad_request(rejection.to_string()))?;
        let switch = switch
            .protocols([protocol])
            .max_message_size(STREAM_MESSAGE_BYTES)
            .max_frame_size(STREAM_MESSAGE_BYTES);
        Ok(Self::WebSocket(Box::new(switch), protocol))
    }

    /// Answers, and serves the client when it has switched, until the server stops.
    pub(super) fn run<F>(
        self,
        session: Session,
        serve: impl FnOnce(Client) -> F + Send + 'static,
    ) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let kept = move |client: Client| async move {
            let Session { server, place } = session;
            let served = server.panics.caught(serve(client));
            tokio::select! { _ = served => {}, () = server.cancel.cancelled() => {} }
            drop(place);
        };
        match self {
            Self::WebSocket(switch, protocol) => {
                switch.on_upgrade(move |socket| kept(Client::WebSocket(Box::new(socket), protocol)))
            }
            Self::Spdy(switch, protocol) => {
                tokio::spawn(async move {
                    match switch.await {
                        Ok(upgraded) => kept(Client::Spdy(TokioIo::new(upgraded))).await,
                        Err(error) => tracing::debug!(%error, "a client did not switch to SPDY"),
                    }
                });
                let headers = [
                    (header::CONNECTION, HeaderValue::from_static("Upgrade")),
                    (header::UPGRADE, HeaderValue::from_static(SPDY)),
                    (STREAM_PROTOCOL.clone(), HeaderValue::from_static(protocol)),
                ];
                (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
            }
        }
    }
}

/// The words of a header that may stand several times, and hold several words.
fn words(parts: &Parts, name: &HeaderName) -> Vec<String> {
    parts
        .headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

fn upgrade_required() -> Status {
    Status::bad_request("Upgrade request required")
}

/// The words of `httpstream.Handshake`.
fn none_in_common(offered: &[String], known: &[&str]) -> Status {
    Status::forbidden(format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offered.join(" "),
        known.join(" ")
    ))
}

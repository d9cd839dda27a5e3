//! What only Flightcage has: streams of nodes and balancers, and a node's sign of life.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::super::authorize::Identity;
use super::super::places::Place;
use super::super::status::Status;
use super::super::tunnels::Piece;
use super::super::{balancers, limits};
use super::{Server, json_response};
use crate::orchestrator::tunnel::ToNode;

/// How long a node may take for a sign of life.
const BEAT: Duration = Duration::from_secs(5);

pub(super) async fn tunnel(
    State(server): State<Server>,
    Extension(who): Extension<Identity>,
    Extension(place): Extension<Arc<Place>>,
    Path(name): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if who.node() != Some(name.as_str()) {
        return Status::forbidden(format!(
            "the tunnel of node `{name}` may be opened only by that node, not by `{}`",
            who.user
        ))
        .into_response();
    }
    let upgrade = upgrade.max_message_size(limits::MESSAGE_BYTES);
    upgrade.on_upgrade(move |socket| async move {
        let served = server.tunnels.serve(&name, socket, server.cancel.clone());
        drop(server.panics.caught(served).await);
        drop(place);
    })
}

/// `GET /flightcage/v1/nodes/<name>/streams/<number>`: the node dials back for a client's stream.
pub(super) async fn stream(
    State(server): State<Server>,
    Extension(who): Extension<Identity>,
    Extension(place): Extension<Arc<Place>>,
    Path((name, number)): Path<(String, u64)>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if who.node() != Some(name.as_str()) {
        return Status::forbidden(format!(
            "a stream of node `{name}` may be opened only by that node, not by `{}`",
            who.user
        ))
        .into_response();
    }
    let Some(waiting) = server.tunnels.dialled.take(&name, number) else {
        return Status::no_such_path().into_response();
    };
    let upgrade = upgrade.max_message_size(limits::MESSAGE_BYTES);
    upgrade.on_upgrade(move |socket| async move {
        // Whoever waited may have given up.
        drop(waiting.send((socket, place)));
    })
}

pub(super) async fn balancer(
    State(server): State<Server>,
    Extension(who): Extension<Identity>,
    Extension(place): Extension<Arc<Place>>,
    upgrade: WebSocketUpgrade,
) -> Response {
    if !who.balances() {
        return Status::forbidden(format!(
            "`{}` is neither a service proxy nor a load balancer",
            who.user
        ))
        .into_response();
    }
    let upgrade = upgrade.max_message_size(limits::MESSAGE_BYTES);
    upgrade.on_upgrade(move |socket| async move {
        let served = balancers::serve(&server.barrier, &who.user, socket, server.cancel.clone());
        drop(server.panics.caught(served).await);
        drop(place);
    })
}

/// `GET /flightcage/v1/nodes/<name>/beat`: asks the node's agent for a sign of life, and answers when it has given one after the question.
pub(super) async fn beat(
    State(server): State<Server>,
    Extension(who): Extension<Identity>,
    Path(name): Path<String>,
) -> Result<Response, Status> {
    if !who.is_master() {
        return Err(Status::forbidden(format!(
            "user \"{}\" cannot ask nodes for a beat",
            who.user
        )));
    }
    let mut answer = server
        .tunnels
        .ask(&name, |request| ToNode::Beat { request })?;
    match tokio::time::timeout(BEAT, answer.next()).await {
        Ok(Some(Piece::Done { error: None, .. })) => {
            Ok(json_response(StatusCode::OK, b"{}".to_vec()))
        }
        _ => Err(Status::unavailable(format!(
            "node `{name}` gave no sign of life within {} s",
            BEAT.as_secs()
        ))),
    }
}

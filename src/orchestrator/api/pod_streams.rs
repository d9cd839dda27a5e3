//! `exec`, `attach` and `portforward` of pods: streams between a client and what runs on a node.
//!
//! ```text
//!  kubectl ── WebSocket v4/v5 ──┐                                                  ┌─ command
//!  kubectl ── SPDY/3.1 ─────────┼─ remote, forward ── a connection of its own ── agent ─ output
//!  kubectl ── SPDY in WebSocket ┘   (bounded queues)   (the agent dials back)      └─ port of the pod
//! ```
//! A request is refused with a `Status` as long as nothing is switched; so the node is asked first. What fails later is told on the error
//! stream. Invariants: every queue holds [`limits::STREAM_PIECES`](super::limits::STREAM_PIECES) pieces, then its writer waits, through to
//! the client's own TCP connection; when the client is gone, the node's connection is dropped and the request cancelled, which ends the
//! command; when everything has been said, the client gets a moment to hang up.

mod channels;
mod forward;
mod node;
mod options;
mod ports;
mod remote;
mod spdy;
mod switch;
mod tunnelled;

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::Method;
use serde_json::Value;

use super::authorize::{self, Attempt, Identity};
use super::http::Server;
use super::kinds::{self, Subresource};
use super::places::Place;
use super::status::Status;
use crate::orchestrator::tunnel::Wanted;
use options::Options;
use switch::Switch;

pub(super) use node::Dialled;

/// Which stream of which pod is asked for.
pub(super) struct Asked {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) part: Subresource,
}

/// What a session of a client needs.
struct Session {
    server: Server,
    /// The client's place among the connections, kept as long as the session.
    place: Arc<Place>,
}

/// Answers such a request, with 101 if all is well.
pub(super) async fn answer(
    server: &Server,
    who: &Identity,
    place: Arc<Place>,
    asked: Asked,
    request: Request,
) -> Result<Response, Status> {
    let (parts, _) = request.into_parts();
    let verb = match parts.method {
        Method::GET => "get",
        Method::POST => "create",
        _ => return Err(Status::method_not_allowed()),
    };
    let attempt = Attempt {
        verb,
        kind: &kinds::POD,
        namespace: Some(&asked.namespace),
        name: Some(&asked.pod),
        subresource: Some(asked.part),
        required_node: None,
        required_name: None,
    };
    authorize::authorize(&server.registry, who, &attempt)?;
    let session = Session {
        server: server.clone(),
        place,
    };
    if asked.part == Subresource::PortForward {
        return ports::answer(session, &asked, parts).await;
    }
    remote_answer(session, &asked, parts).await
}

async fn remote_answer(
    session: Session,
    asked: &Asked,
    mut parts: http::request::Parts,
) -> Result<Response, Status> {
    let attach = asked.part == Subresource::Attach;
    let options = Options::parse(&parts.uri, attach)?;
    let found = super::logs::place(
        &session.server,
        Some(&asked.namespace),
        &asked.pod,
        options.container.as_deref(),
    )?;
    if attach && options.stdin && !has_stdin(&session.server, asked, &found.container)? {
        return Err(Status::bad_request(format!(
            "container {} of pod {} has no standard input that could be attached: leave out --stdin, or give it `stdin: true`",
            found.container, asked.pod
        )));
    }
    let switch = Switch::to_channels(&mut parts).await?;
    let wanted = if attach {
        Wanted::Attach {
            pod_uid: found.pod_uid,
            container: found.container,
            stdin: options.stdin,
        }
    } else {
        Wanted::Exec {
            pod_uid: found.pod_uid,
            container: found.container,
            command: options.command.clone(),
            stdin: options.stdin,
            tty: options.tty,
        }
    };
    let node = session.server.tunnels.open(&found.node, wanted).await?;
    Ok(switch.run(session, move |client| remote::serve(client, node, options)))
}

/// Whether a container was made with a standard input.
fn has_stdin(server: &Server, asked: &Asked, container: &str) -> Result<bool, Status> {
    let pod = server
        .registry
        .get(&kinds::POD, Some(&asked.namespace), &asked.pod)?;
    let mut containers = ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| pod.get("spec")?.get(list)?.as_array())
        .flatten();
    let found = containers.find(|one| one.get("name").and_then(Value::as_str) == Some(container));
    Ok(found.is_some_and(|one| one.get("stdin").and_then(Value::as_bool) == Some(true)))
}

//! Logs and commands of a pod's containers, through its node's tunnel.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};

use super::authorize::Identity;
use super::http::{Server, piece_bytes};
use super::kinds;
use super::status::Status;
use super::tunnels::{Answer, Piece};
use crate::orchestrator::tunnel::ToNode;

/// Where a container is.
struct Place {
    node: String,
    pod_uid: String,
    container: String,
}

fn place(
    server: &Server,
    namespace: Option<&str>,
    name: &str,
    container: Option<&str>,
) -> Result<Place, Status> {
    let pod = server.registry.get(&kinds::POD, namespace, name)?;
    let text = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let names: Vec<&str> = ["/spec/initContainers", "/spec/containers"]
        .iter()
        .filter_map(|pointer| pod.pointer(pointer)?.as_array())
        .flatten()
        .filter_map(|one| one.get("name")?.as_str())
        .collect();
    let container = match container.filter(|given| !given.is_empty()) {
        Some(given) if names.contains(&given) => given.to_owned(),
        Some(given) => {
            return Err(Status::bad_request(format!(
                "container {given} is not valid for pod {name}"
            )));
        }
        None if names.len() == 1 => names.concat(),
        None => {
            let message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                names.join(" ")
            );
            return Err(Status::bad_request(message));
        }
    };
    let node = text("/spec/nodeName");
    if node.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    Ok(Place {
        node,
        pod_uid: text("/metadata/uid"),
        container,
    })
}

/// `GET …/pods/<name>/log`.
pub(super) async fn log(
    server: &Server,
    namespace: Option<&str>,
    name: &str,
    query: &BTreeMap<String, String>,
) -> Result<Response, Status> {
    let flag = |key: &str| {
        query
            .get(key)
            .is_some_and(|value| value == "true" || value == "1")
    };
    let place = place(
        server,
        namespace,
        name,
        query.get("container").map(String::as_str),
    )?;
    let tail_lines = match query.get("tailLines") {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|_| Status::bad_request(format!("tailLines `{text}` is not a number")))?,
        ),
    };
    let mut answer = server.tunnels.ask(&place.node, |request| ToNode::Logs {
        request,
        pod_uid: place.pod_uid,
        container: place.container,
        follow: flag("follow"),
        tail_lines,
        previous: flag("previous"),
        timestamps: flag("timestamps"),
    })?;
    // With the first piece in hand a failure can still be told properly; following a silent log must not wait for one.
    let first = if flag("follow") {
        None
    } else {
        Some(answer.next().await)
    };
    if let Some(Some(Piece::Done {
        error: Some(error), ..
    })) = &first
    {
        return Err(Status::bad_request(error.clone()));
    }
    if let Some(None) = first {
        return Err(Status::unavailable(format!(
            "the tunnel of node `{}` broke",
            place.node
        )));
    }
    let cancel = server.cancel.clone();
    let body = futures::stream::unfold((first, answer), move |(first, mut answer)| {
        let cancel = cancel.clone();
        async move {
            let piece = match first {
                Some(piece) => piece,
                None => {
                    tokio::select! { piece = answer.next() => piece, () = cancel.cancelled() => None }
                }
            };
            Some((piece_bytes(piece?)?, (None, answer)))
        }
    });
    Ok((
        StatusCode::OK,
        [(header::CONTENT_TYPE, "text/plain")],
        Body::from_stream(body),
    )
        .into_response())
}

/// `POST /flightcage/v1/namespaces/<ns>/pods/<name>/exec?container=&command=&command=`: one JSON object a line, `{"stream":1,"data":"<base64>"}`
/// and at the end `{"exitCode":0}` or `{"error":"…"}`.
pub(super) async fn exec(
    State(server): State<Server>,
    Extension(who): Extension<Identity>,
    Path((namespace, name)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
) -> Result<Response, Status> {
    if !who.is_master() {
        return Err(Status::forbidden(format!(
            "user \"{}\" cannot run commands in pods",
            who.user
        )));
    }
    let container = query
        .iter()
        .find(|(key, _)| key == "container")
        .map(|(_, value)| value.as_str());
    let command: Vec<String> = query
        .iter()
        .filter(|(key, _)| key == "command")
        .map(|(_, value)| value.clone())
        .collect();
    if command.is_empty() {
        return Err(Status::bad_request(
            "you must specify at least 1 command for the container",
        ));
    }
    let place = place(&server, Some(&namespace), &name, container)?;
    tracing::info!(user = who.user, verb = "exec", namespace, name, "audit");
    let answer = server.tunnels.ask(&place.node, |request| ToNode::Exec {
        request,
        pod_uid: place.pod_uid,
        container: place.container,
        command,
    })?;
    let cancel = server.cancel.clone();
    let body = futures::stream::unfold(Some(answer), move |answer: Option<Answer>| {
        let cancel = cancel.clone();
        async move {
            let mut answer = answer?;
            let piece =
                tokio::select! { piece = answer.next() => piece, () = cancel.cancelled() => None };
            let (line, rest) = match piece {
                Some(Piece::Output { stream, data }) => (
                    json!({"stream": stream, "data": STANDARD.encode(data)}),
                    Some(answer),
                ),
                Some(Piece::Done {
                    error: Some(error), ..
                }) => (json!({"error": error}), None),
                Some(Piece::Done { exit_code, .. }) => (json!({"exitCode": exit_code}), None),
                None => (json!({"error": "the node's tunnel broke"}), None),
            };
            Some((
                Ok::<_, std::io::Error>(Bytes::from(format!("{line}\n"))),
                rest,
            ))
        }
    });
    Ok((
        StatusCode::OK,
        [(header::CONTENT_TYPE, "application/json")],
        Body::from_stream(body),
    )
        .into_response())
}

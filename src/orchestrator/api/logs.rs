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
use super::status::{Cause, Status};
use super::tunnels::{Answer, Piece};
use crate::orchestrator::tunnel::ToNode;

/// Where a container is.
pub(super) struct Place {
    pub(super) node: String,
    pub(super) pod_uid: String,
    pub(super) container: String,
}

/// The node that a pod is on, and the pod's UID.
pub(super) fn host(
    server: &Server,
    namespace: Option<&str>,
    name: &str,
) -> Result<(String, String), Status> {
    let pod = server.registry.get(&kinds::POD, namespace, name)?;
    host_of(&pod, name)
}

fn host_of(pod: &Value, name: &str) -> Result<(String, String), Status> {
    let text = |pointer: &str| {
        pod.pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let node = text("/spec/nodeName");
    if node.is_empty() {
        return Err(Status::bad_request(format!(
            "pod {name} does not have a host assigned"
        )));
    }
    Ok((node, text("/metadata/uid")))
}

pub(super) fn place(
    server: &Server,
    namespace: Option<&str>,
    name: &str,
    container: Option<&str>,
) -> Result<Place, Status> {
    let pod = server.registry.get(&kinds::POD, namespace, name)?;
    let names = |pointer: &str| -> Vec<&str> {
        pod.pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|one| one.get("name")?.as_str())
            .collect()
    };
    let (usual, first) = (names("/spec/containers"), names("/spec/initContainers"));
    let container = match container.filter(|given| !given.is_empty()) {
        Some(given) if usual.contains(&given) || first.contains(&given) => given.to_owned(),
        Some(given) => {
            return Err(Status::bad_request(format!(
                "container {given} is not valid for pod {name}"
            )));
        }
        None if usual.len() == 1 => usual.concat(),
        None => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                usual.join(" ")
            );
            if !first.is_empty() {
                let first = first.join(" ");
                message = format!("{message} or one of the init containers: [{first}]");
            }
            return Err(Status::bad_request(message));
        }
    };
    let (node, pod_uid) = host_of(&pod, name)?;
    Ok(Place {
        node,
        pod_uid,
        container,
    })
}

/// Parameters of a log, Kubernetes' `PodLogOptions`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail_lines: Option<u64>,
    since_seconds: Option<u64>,
    since_time: Option<jiff::Timestamp>,
    limit_bytes: Option<u64>,
}

impl Wanted {
    /// Source: `pkg/apis/core/validation/validation.go`, `ValidatePodLogOptions`; what cannot be read is a bad request.
    fn parse(pod: &str, query: &BTreeMap<String, String>) -> Result<Self, Status> {
        let text = |key: &str| query.get(key).filter(|text| !text.is_empty());
        // As the API machinery reads it: present means true, unless it says otherwise.
        let flag = |key: &str| match query.get(key).map(String::as_str) {
            None | Some("false" | "0" | "f" | "F" | "False" | "FALSE") => Ok(false),
            Some("" | "true" | "1" | "t" | "T" | "True" | "TRUE") => Ok(true),
            Some(other) => Err(Status::bad_request(format!(
                "{key}: `{other}` is neither `true` nor `false`"
            ))),
        };
        let number = |key: &str| match text(key) {
            None => Ok(None),
            Some(text) => text
                .parse::<i64>()
                .map(Some)
                .map_err(|_| Status::bad_request(format!("{key}: `{text}` is not a whole number"))),
        };
        let mut causes = Vec::new();
        let mut at_least = |key: &str, value: Option<i64>, least: i64| {
            let value = value?;
            if value < least {
                let bound = if least == 0 {
                    "greater than or equal to 0"
                } else {
                    "greater than 0"
                };
                let message = format!("Invalid value: {value}: must be {bound}");
                causes.push(cause("FieldValueInvalid", key, message));
            }
            u64::try_from(value).ok()
        };
        let tail_lines = at_least("tailLines", number("tailLines")?, 0);
        let limit_bytes = at_least("limitBytes", number("limitBytes")?, 1);
        let since_seconds = at_least("sinceSeconds", number("sinceSeconds")?, 1);
        let since_time = match text("sinceTime") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                Status::bad_request(format!(
                    "sinceTime: `{text}` is not an RFC 3339 time such as 2026-11-30T06:00:00Z"
                ))
            })?),
        };
        if text("sinceSeconds").is_some() && since_time.is_some() {
            let message =
                "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified";
            causes.push(cause("FieldValueForbidden", "sinceSeconds", message));
        }
        if let Some(stream) = text("stream").filter(|stream| *stream != "All") {
            let message = format!("Unsupported value: \"{stream}\": supported values: \"All\"");
            causes.push(cause("FieldValueNotSupported", "stream", message));
        }
        if !causes.is_empty() {
            return Err(Status::invalid(&kinds::POD, pod, causes));
        }
        Ok(Self {
            follow: flag("follow")?,
            previous: flag("previous")?,
            timestamps: flag("timestamps")?,
            tail_lines,
            since_seconds,
            since_time,
            limit_bytes,
        })
    }
}

fn cause(reason: &'static str, field: &str, message: impl Into<String>) -> Cause {
    Cause {
        reason,
        field: field.to_owned(),
        message: message.into(),
    }
}

/// `GET …/pods/<name>/log`.
pub(super) async fn log(
    server: &Server,
    namespace: Option<&str>,
    name: &str,
    query: &BTreeMap<String, String>,
) -> Result<Response, Status> {
    let wanted = Wanted::parse(name, query)?;
    let place = place(
        server,
        namespace,
        name,
        query.get("container").map(String::as_str),
    )?;
    let follow = wanted.follow;
    let mut answer = server.tunnels.ask(&place.node, |request| ToNode::Logs {
        request,
        pod_uid: place.pod_uid,
        container: place.container,
        follow: wanted.follow,
        tail_lines: wanted.tail_lines,
        since_seconds: wanted.since_seconds,
        since_time: wanted.since_time,
        limit_bytes: wanted.limit_bytes,
        previous: wanted.previous,
        timestamps: wanted.timestamps,
    })?;
    // With the first piece in hand a failure can still be told properly; following a silent log must not wait for one.
    let first = if follow {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Wanted, (u16, String)> {
        let query = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Wanted::parse("talker", &query).map_err(|status| {
            let value = status.to_value();
            let code = value["code"]
                .as_u64()
                .and_then(|code| u16::try_from(code).ok());
            (
                code.unwrap_or_default(),
                value["message"].as_str().unwrap_or_default().to_owned(),
            )
        })
    }

    #[test]
    fn parameters_are_taken() {
        let wanted = parse(
            "follow=true&tailLines=0&sinceSeconds=5&limitBytes=40&timestamps=1&previous=false&stream=All",
        );
        let expected = Wanted {
            follow: true,
            timestamps: true,
            tail_lines: Some(0),
            since_seconds: Some(5),
            limit_bytes: Some(40),
            ..Wanted::default()
        };
        assert_eq!(wanted, Ok(expected));
        let time = parse("sinceTime=2026-11-30T07:00:00+01:00")
            .unwrap()
            .since_time;
        assert_eq!(time, Some("2026-11-30T06:00:00Z".parse().unwrap()));
        assert_eq!(parse("sinceSeconds=&container=c"), Ok(Wanted::default()));
    }

    #[test]
    fn wrong_ones_are_refused_by_name() {
        for (query, code, expected) in [
            (
                "sinceSeconds=0",
                422,
                "sinceSeconds: Invalid value: 0: must be greater than 0",
            ),
            (
                "sinceSeconds=5&sinceTime=2026-01-01T00:00:00Z",
                422,
                "at most one of `sinceTime` or `sinceSeconds`",
            ),
            (
                "limitBytes=0",
                422,
                "limitBytes: Invalid value: 0: must be greater than 0",
            ),
            (
                "tailLines=-1",
                422,
                "tailLines: Invalid value: -1: must be greater than or equal to 0",
            ),
            ("stream=Stderr", 422, "stream: Unsupported value"),
            ("sinceSeconds=-3&limitBytes=-1", 422, "limitBytes"),
            ("limitBytes=none", 400, "limitBytes"),
            ("tailLines=1.5", 400, "tailLines"),
            ("sinceSeconds=10s", 400, "sinceSeconds"),
            ("sinceTime=yesterday", 400, "sinceTime"),
            ("follow=maybe", 400, "follow"),
        ] {
            let (found, message) = parse(query).unwrap_err();
            assert!(
                found == code && message.contains(expected),
                "{query}: {found} {message}"
            );
        }
    }
}

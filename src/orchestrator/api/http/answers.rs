//! Answers: objects in the form that was asked for, warnings beside them, translation to protobuf.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, StatusCode, header};
use serde_json::Value;

use super::super::honoured::{self, NotApplied};
use super::super::kinds::{Kind, Subresource};
use super::super::status::Status;
use super::super::{limits, protobuf};
use super::call::Call;
use super::json_response;

pub(super) fn respond(
    call: &Call,
    kind: &Kind,
    code: StatusCode,
    object: &Value,
    warnings: &[String],
) -> Result<Response, Status> {
    let body = call
        .form()?
        .event_object(kind, object)
        .to_string()
        .into_bytes();
    let mut response = json_response(code, body);
    let mut warnings = warnings.to_vec();
    if [Method::POST, Method::PUT, Method::PATCH].contains(&call.method) {
        warnings.extend((kind.strategy.warnings)(object));
        let deprecation = kind.definition();
        warnings.extend(deprecation.and_then(|definition| definition.deprecation.clone()));
    }
    for warning in bounded(&warnings) {
        if let Ok(value) = format!("299 - {warning:?}").parse() {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
}

/// The warnings about a stored object: those of the request, and one for each field that is set without effect.
pub(super) fn warned(
    kind: &Kind,
    subresource: Option<Subresource>,
    stored: &Value,
    mut warnings: Vec<String>,
) -> Vec<String> {
    if subresource.is_none() {
        let found = honoured::look(kind, stored);
        warnings.extend(found.iter().map(NotApplied::warning));
    }
    warnings
}

/// Warnings as Kubernetes bounds them: clients refuse an answer with too many headers.
fn bounded(warnings: &[String]) -> Vec<String> {
    let mut left = limits::WARNINGS_CHARACTERS;
    let cut = warnings.iter().map_while(|warning| {
        let warning: String = warning.chars().take(limits::WARNING_CHARACTERS).collect();
        left = left.checked_sub(warning.chars().count())?;
        Some(warning)
    });
    cut.take(limits::FIELDS_IN_MESSAGE).collect()
}

/// Answers to a client that takes nothing else are translated at the end; watches and long lists are not.
pub(super) async fn as_protobuf(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let mut pieces = body.into_data_stream();
    let (mut read, mut length) = (Vec::new(), 0);
    while let Some(piece) = pieces.next().await {
        let Ok(piece) = piece else {
            return Status::internal("the answer broke off").into_response();
        };
        length += piece.len();
        read.push(Ok(piece));
        if length > limits::PROTOBUF_BYTES {
            let all = futures::stream::iter(read).chain(pieces);
            return Response::from_parts(parts, Body::from_stream(all));
        }
    }
    let bytes = read.into_iter().flatten().collect::<Vec<Bytes>>().concat();
    let encoded = serde_json::from_slice(&bytes)
        .ok()
        .and_then(|object| protobuf::encode(&object));
    match encoded {
        Some(encoded) => {
            let kind = header::HeaderValue::from_static(protobuf::MEDIA_TYPE);
            parts.headers.insert(header::CONTENT_TYPE, kind);
            Response::from_parts(parts, Body::from(encoded))
        }
        None => Response::from_parts(parts, Body::from(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_bounded_as_kubernetes_bounds_them() {
        let many = bounded(&vec!["é".repeat(1000); 700]);
        assert_eq!((many.len(), many[0].chars().count()), (16, 256));
        assert_eq!(
            bounded(&vec!["short".to_owned(); 700]).len(),
            limits::FIELDS_IN_MESSAGE
        );
    }
}

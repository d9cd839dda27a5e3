//! Requests for the objects of a kind: lists, watches, creation, deletion of many.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::super::authorize::{self, Attempt};
use super::super::kinds::Kind;
use super::super::registry::{DeleteOptions, Propagation, Registry, Run};
use super::super::selectors::Selector;
use super::super::status::Status;
use super::super::watch::{self, Watch};
use super::super::{pieces, rbac, strict};
use super::Server;
use super::answers::{respond, warned};
use super::call::{Call, field_validation, requested_revision};
use crate::orchestrator::store::{Revision, Window};

/// How long a request for a revision that is not there yet waits.
const FUTURE_REVISION: Duration = Duration::from_secs(3);

/// The verb of a request for a kind, and what it selects, if its user may.
pub(super) fn permitted_on_collection(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<(&'static str, Selector), Status> {
    let selector = Selector::parse(
        kind,
        call.parameter("labelSelector"),
        call.parameter("fieldSelector"),
    )?;
    let verb = match call.method {
        Method::GET if call.flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        Method::POST => "create",
        Method::DELETE => "deletecollection",
        _ => return Err(Status::method_not_allowed()),
    };
    let attempt = Attempt {
        verb,
        kind,
        namespace,
        name: None,
        subresource: None,
        required_node: selector.required_field("spec.nodeName"),
        required_name: selector.required_field("metadata.name"),
    };
    authorize::authorize(&server.registry, &call.who, &attempt)?;
    Ok((verb, selector))
}

pub(super) async fn collection(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<String>,
) -> Result<Response, Status> {
    let (verb, selector) = permitted_on_collection(server, call, kind, namespace.as_deref())?;
    match verb {
        "watch" => start_watch(server, call, kind, namespace, selector).await,
        "list" => list(server, call, kind, namespace.as_deref(), &selector).await,
        "create" => {
            let mut body = call.object_of(kind)?;
            let warnings = strict::check(kind, &mut body, field_validation(call)?)?;
            // Owners begin with an apply.
            if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.shift_remove("managedFields");
            }
            authorize::admit_created(&server.registry, &call.who, kind, &body)?;
            // A cluster-wide POST of a namespaced kind names its namespace in the body.
            let own = body
                .pointer("/metadata/namespace")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let namespace = namespace.or(own);
            let place = namespace.as_deref();
            rbac::admit(&server.registry, &call.who, kind, place, &body)?;
            let created = match call.run()? {
                Run::Real => {
                    server
                        .registry
                        .create(kind, namespace.as_deref(), body)
                        .await?
                }
                Run::Dry => {
                    server
                        .registry
                        .create_dry(kind, namespace.as_deref(), body)
                        .await?
                }
            };
            let warnings = warned(kind, None, &created, warnings);
            respond(call, kind, StatusCode::CREATED, &created, &warnings)
        }
        _ => delete_collection(server, call, kind, namespace.as_deref(), &selector).await,
    }
}

/// Waits a moment for a revision from the future, as Kubernetes does.
pub(super) async fn reach(registry: &Registry, wanted: Revision) -> Result<(), Status> {
    let mut changes = registry.subscribe();
    let reached = tokio::time::timeout(
        FUTURE_REVISION,
        changes.wait_for(|revision| *revision >= wanted),
    )
    .await;
    match reached {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Status::timeout(format!(
            "Too large resource version: {wanted}, current: {}",
            registry.revision()
        ))),
    }
}

async fn list(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    selector: &Selector,
) -> Result<Response, Status> {
    let form = call.form()?;
    let number = |name: &str| -> Result<usize, Status> {
        let text = call.parameter(name).unwrap_or("0");
        text.parse()
            .map_err(|_| Status::bad_request(format!("{name} `{text}` is not a number")))
    };
    let limit = Some(number("limit")?).filter(|limit| *limit > 0);
    let (mut at, mut after) = (None, None);
    if let Some(token) = call.parameter("continue").filter(|token| !token.is_empty()) {
        let (revision, key) =
            read_continue(token).ok_or_else(|| Status::bad_request("continue key is not valid"))?;
        if !key.starts_with(&kind.prefix(namespace)) {
            return Err(Status::bad_request("continue key is not valid"));
        }
        (at, after) = (Some(revision), Some(key));
    } else if let Some(revision) = requested_revision(call)? {
        reach(&server.registry, revision).await?;
        if call.parameter("resourceVersionMatch") == Some("Exact") {
            at = Some(revision);
        }
    }
    let window = Window {
        at,
        after: after.as_deref(),
        limit: limit.filter(|_| selector.is_everything()),
    };
    let page = server
        .registry
        .page(kind, namespace, window)
        .map_err(|status| {
            if status.code == 410 && after.is_some() {
                watch::expired_continue()
            } else {
                status
            }
        })?;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    let mut remaining = page.remaining;
    let mut entries = page.entries;
    if !selector.is_everything() {
        entries.retain(|entry| selector.matches(&entry.value));
        if let Some(limit) = limit {
            remaining = entries.len().saturating_sub(limit);
            entries.truncate(limit);
        }
    }
    if remaining > 0
        && let Some(last) = entries.last()
    {
        metadata["continue"] = json!(write_continue(page.revision, &last.key));
        if selector.is_everything() {
            metadata["remainingItemCount"] = json!(remaining);
        }
    }
    let objects: Vec<Arc<Value>> = entries.into_iter().map(|entry| entry.value).collect();
    Ok(pieces::respond(kind, form, metadata, objects))
}

fn write_continue(revision: Revision, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{revision} {key}"))
}

fn read_continue(token: &str) -> Option<(Revision, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (revision, key) = text.split_once(' ')?;
    Some((Revision(revision.parse().ok()?), key.to_owned()))
}

pub(super) async fn start_watch(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<String>,
    selector: Selector,
) -> Result<Response, Status> {
    let form = call.form()?;
    let timeout_seconds = match call.parameter("timeoutSeconds") {
        None | Some("" | "0") => None,
        Some(text) => Some(text.parse().map_err(|_| {
            Status::bad_request(format!("timeoutSeconds `{text}` is not a number"))
        })?),
    };
    let after = requested_revision(call)?;
    let initial = call.flag("sendInitialEvents");
    let matched = call.parameter("resourceVersionMatch").unwrap_or_default();
    if initial && matched != "NotOlderThan" {
        return Err(Status::bad_request(
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    if let Some(after) = after {
        reach(&server.registry, after).await?;
    }
    let bookmarks = call.flag("allowWatchBookmarks");
    let watch = Watch {
        kind,
        namespace,
        selector,
        form,
        after: if initial { None } else { after },
        bookmarks,
        mark_initial_end: initial && bookmarks,
        timeout_seconds,
    };
    let stream = watch::start(watch, server.registry.clone(), server.cancel.clone());
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-cache, private"),
    ];
    Ok((StatusCode::OK, headers, Body::from_stream(stream)).into_response())
}

async fn delete_collection(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    selector: &Selector,
) -> Result<Response, Status> {
    let options = delete_options(call)?;
    let form = call.form()?;
    let (objects, revision) = server.registry.list(kind, namespace);
    let mut deleted = Vec::new();
    for object in objects.iter().filter(|object| selector.matches(object)) {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let name = text("/metadata/name").unwrap_or_default();
        match server
            .registry
            .delete(kind, text("/metadata/namespace"), name, options.clone())
            .await
        {
            Ok(object) => deleted.push(object),
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status),
        }
    }
    let metadata = json!({"resourceVersion": revision.to_string()});
    Ok(pieces::respond(kind, form, metadata, deleted))
}

pub(super) fn delete_options(call: &Call) -> Result<DeleteOptions, Status> {
    let body = if call.body.is_empty() {
        json!({})
    } else {
        call.object()?
    };
    let mut options = DeleteOptions::parse(&body)?;
    if let Some(text) = call.parameter("gracePeriodSeconds") {
        let seconds = text.parse().map_err(|_| {
            Status::bad_request(format!("gracePeriodSeconds `{text}` is not a number"))
        })?;
        options.grace_period_seconds = Some(seconds);
    }
    if let Some(name) = call.parameter("propagationPolicy") {
        options.propagation = Some(Propagation::parse(name)?);
    }
    options.dry_run |= call.run()? == Run::Dry;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_survive_the_journey() {
        let token = write_continue(Revision(7), "/registry/core/pods/default/a");
        assert_eq!(
            read_continue(&token),
            Some((Revision(7), "/registry/core/pods/default/a".to_owned()))
        );
        assert_eq!(read_continue("!"), None);
    }
}

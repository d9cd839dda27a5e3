//! The HTTP face of the registry: verbs, parameters, formats.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::authorize::{self, Attempt, Identity};
use super::barrier::Barrier;
use super::kinds::{self, Kind, Subresource};
use super::panics::Panics;
use super::patch::Patch;
use super::places::{Place, Users};
use super::registry::{DeleteOptions, Registry, Run, scale};
use super::route::{self, Target};
use super::selectors::Selector;
use super::status::Status;
use super::strict::{self, FieldValidation};
use super::tables::Form;
use super::tunnels::{Piece, Tunnels};
use super::watch::{self, Watch};
use super::{balancers, bounds, discovery, health, limits, logs, protobuf};
use crate::orchestrator::store::{Revision, Window};
use crate::orchestrator::tunnel::ToNode;

/// How long a node may take for a sign of life.
const BEAT: Duration = Duration::from_secs(5);
/// How long a request for a revision that is not there yet waits.
const FUTURE_REVISION: Duration = Duration::from_secs(3);

/// What every handler shares.
#[derive(Clone)]
pub struct Server {
    /// The objects.
    pub registry: Arc<Registry>,
    /// The nodes' tunnels.
    pub tunnels: Arc<Tunnels>,
    /// What drains.
    pub barrier: Arc<Barrier>,
    /// Ends watches, logs and tunnels when the server stops.
    pub cancel: CancellationToken,
    /// `host:port` as clients reach it.
    pub address: String,
    /// Panics of handlers.
    pub panics: Panics,
    /// Who is connected.
    pub(super) users: Arc<Users>,
}

/// All routes.
pub fn router(server: Server) -> Router {
    Router::new()
        .route("/flightcage/v1/nodes/{name}/tunnel", get(tunnel))
        .route(crate::balancer::report::PATH, get(balancer))
        .route("/flightcage/v1/nodes/{name}/beat", get(beat))
        .route(
            "/flightcage/v1/namespaces/{namespace}/pods/{name}/exec",
            axum::routing::post(logs::exec),
        )
        .route("/healthz", any(health::ready))
        .route("/readyz", any(health::ready))
        .route("/livez", any(|| async { "ok" }))
        .route("/metrics", get(health::metrics))
        .fallback(handle)
        .with_state(server)
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        json_response(code, self.to_value().to_string().into_bytes())
    }
}

pub(super) fn json_response(code: StatusCode, body: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-cache, private"),
    ];
    (code, headers, body).into_response()
}

async fn tunnel(
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

async fn balancer(
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
async fn beat(
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

/// A request, taken apart.
struct Call {
    who: Identity,
    method: Method,
    headers: HeaderMap,
    query: Vec<(String, String)>,
    body: Bytes,
}

impl Call {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn flag(&self, name: &str) -> bool {
        self.parameter(name)
            .is_some_and(|value| value.is_empty() || value == "1" || value == "true")
    }

    fn run(&self) -> Result<Run, Status> {
        match self.parameter("dryRun") {
            None | Some("") => Ok(Run::Real),
            Some("All") => Ok(Run::Dry),
            Some(other) => Err(Status::bad_request(format!(
                "dryRun `{other}` is not one of All"
            ))),
        }
    }

    fn content_type(&self) -> &str {
        let value = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim()
    }

    fn form(&self) -> Result<Form, Status> {
        let accept = self
            .headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        Form::from_accept(accept).ok_or_else(|| {
            Status::not_acceptable("only the following media types are accepted: application/json, application/json;stream=watch")
        })
    }

    fn object(&self) -> Result<Value, Status> {
        match self.content_type() {
            "" | "application/json" | "*/*" => self.json("body"),
            "application/yaml" => {
                let text = std::str::from_utf8(&self.body)
                    .map_err(|_| Status::bad_request("the body is not UTF-8"))?;
                let object = serde_saphyr::from_str(text).map_err(|error| {
                    // Its own words quote the lines around, a Secret's values among them.
                    let place = error.location().map_or_else(String::new, |place| {
                        format!(": line {}, column {}", place.line(), place.column())
                    });
                    Status::bad_request(format!("the body is not YAML{place}"))
                })?;
                bounds::check_object(&object)?;
                Ok(object)
            }
            protobuf::MEDIA_TYPE => {
                let object = protobuf::decode(&self.body)
                    .map_err(|error| Status::bad_request(error.to_string()))?;
                bounds::check_object(&object)?;
                Ok(object)
            }
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf; not `{other}`"
            ))),
        }
    }

    fn json(&self, what: &str) -> Result<Value, Status> {
        bounds::check_text(&self.body)?;
        serde_json::from_slice(&self.body)
            .map_err(|error| Status::bad_request(format!("the {what} is not JSON: {error}")))
    }
}

/// Answers to a client that takes nothing else are translated at the end; watches are not.
async fn as_protobuf(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = match body.collect().await {
        Ok(bytes) => bytes.to_bytes(),
        Err(_) => return Status::internal("the answer broke off").into_response(),
    };
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

async fn handle(
    State(server): State<Server>,
    Extension(who): Extension<Identity>,
    Extension(place): Extension<Arc<Place>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map(|query| query.0)
        .unwrap_or_default();
    let mut headers = parts.headers;
    let only_protobuf = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(protobuf::only);
    if only_protobuf {
        headers.insert(
            header::ACCEPT,
            header::HeaderValue::from_static("application/json"),
        );
    }
    let call = Call {
        who,
        method: parts.method,
        headers,
        query,
        body: Bytes::new(),
    };
    let translated = only_protobuf && !call.flag("watch") && !path.ends_with("/log");
    let response = if [Method::GET, Method::HEAD].contains(&call.method) {
        let answered = answer(&server, &path, &call).await;
        answered.unwrap_or_else(IntoResponse::into_response)
    } else {
        let (user, verb) = (call.who.user.clone(), call.method.clone());
        let written = write(server, path.clone(), call, body, &place).await;
        let response = written.unwrap_or_else(IntoResponse::into_response);
        tracing::info!(user, verb = %verb, resource = path, code = response.status().as_u16(), "audit");
        response
    };
    if translated {
        as_protobuf(response).await
    } else {
        response
    }
}

/// A request that changes something: whether its user may is asked before its body is read; what takes the processor long is
/// kept from the threads that serve everybody.
async fn write(
    server: Server,
    path: String,
    mut call: Call,
    body: Body,
    place: &Place,
) -> Result<Response, Status> {
    permit(&server, &path, &call)?;
    let announced = call
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let long = announced.is_none_or(|length| length > limits::SMALL_BODY_BYTES)
        && !HttpBody::is_end_stream(&body);
    let long_body = if long {
        Some(place.long_body().await?)
    } else {
        None
    };
    let reading = Limited::new(body, limits::BODY_BYTES).collect();
    call.body = match tokio::time::timeout(limits::BODY_TIME, reading).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => {
            return Err(Status::too_large(
                "the request's body is longer than 3 MiB or broke off",
            ));
        }
        Err(_) => {
            return Err(Status::request_timeout(format!(
                "the request's body did not come within {} s",
                limits::BODY_TIME.as_secs()
            )));
        }
    };
    if !long && call.method != Method::PATCH {
        return answer(&server, &path, &call).await;
    }
    let turn = place.turn().await?;
    let runtime = tokio::runtime::Handle::current();
    let working = tokio::task::spawn_blocking(move || {
        let _kept = (long_body, turn);
        let panics = server.panics.clone();
        runtime.block_on(panics.caught(async move { answer(&server, &path, &call).await }))
    });
    // It is only cancelled when the server stops.
    working
        .await
        .unwrap_or_else(|_| Err(Status::unavailable("the server is stopping")))?
}

/// Refuses what the user may not do whatever the body says.
fn permit(server: &Server, path: &str, call: &Call) -> Result<(), Status> {
    match route::parse(path) {
        None => Err(Status::no_such_path()),
        Some(Target::Collection { kind, namespace }) => {
            permitted_on_collection(server, call, kind, namespace.as_deref()).map(drop)
        }
        Some(Target::Object {
            kind,
            namespace,
            name,
            subresource,
        }) => permitted_on_object(server, call, kind, namespace.as_deref(), &name, subresource)
            .map(drop),
        Some(_) => Err(Status::method_not_allowed()),
    }
}

async fn answer(server: &Server, path: &str, call: &Call) -> Result<Response, Status> {
    if call.method == Method::GET {
        let document = match path {
            "/version" | "/version/" => Some(discovery::version()),
            "/openapi/v2" => return Ok(empty_openapi()),
            _ => None,
        };
        if let Some(document) = document {
            return Ok(json_response(
                StatusCode::OK,
                document.to_string().into_bytes(),
            ));
        }
    }
    let target = route::parse(path).ok_or_else(Status::no_such_path)?;
    let document = match target {
        Target::LegacyVersions => Some(discovery::legacy_versions(&server.address)),
        Target::Groups => Some(discovery::groups()),
        Target::Group(name) => discovery::group(&name),
        Target::Resources { group, version } => discovery::resources(&group, &version),
        Target::Collection { kind, namespace } => {
            return collection(server, call, kind, namespace).await;
        }
        Target::Object {
            kind,
            namespace,
            name,
            subresource,
        } => {
            return object(server, call, kind, namespace.as_deref(), &name, subresource).await;
        }
    };
    let document = document.ok_or_else(Status::no_such_path)?;
    Ok(json_response(
        StatusCode::OK,
        document.to_string().into_bytes(),
    ))
}

/// A protobuf message without fields is zero bytes: clients then do no validation of their own.
fn empty_openapi() -> Response {
    let kind = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    (
        StatusCode::OK,
        [(header::CONTENT_TYPE, kind)],
        Body::empty(),
    )
        .into_response()
}

/// The verb of a request for a kind, and what it selects, if its user may.
fn permitted_on_collection(
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

async fn collection(
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
            let mut body = call.object()?;
            let warnings = strict::check(kind, &mut body, field_validation(call)?)?;
            authorize::admit_created(&server.registry, &call.who, kind, &body)?;
            // A cluster-wide POST of a namespaced kind names its namespace in the body.
            let own = body
                .pointer("/metadata/namespace")
                .and_then(Value::as_str)
                .map(str::to_owned);
            let namespace = namespace.or(own);
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
            respond(call, kind, StatusCode::CREATED, &created, &warnings)
        }
        _ => delete_collection(server, call, kind, namespace.as_deref(), &selector).await,
    }
}

fn field_validation(call: &Call) -> Result<FieldValidation, Status> {
    FieldValidation::parse(call.parameter("fieldValidation").unwrap_or_default())
}

fn respond(
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
    for warning in bounded(warnings) {
        if let Ok(value) = format!("299 - {warning:?}").parse() {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    Ok(response)
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

fn requested_revision(call: &Call) -> Result<Option<Revision>, Status> {
    match call.parameter("resourceVersion") {
        None | Some("" | "0") => Ok(None),
        Some(text) => {
            let number = text.parse().map_err(|_| {
                Status::bad_request(format!("resourceVersion `{text}` is not a number"))
            })?;
            Ok(Some(Revision(number)))
        }
    }
}

/// Waits a moment for a revision from the future, as Kubernetes does.
async fn reach(registry: &Registry, wanted: Revision) -> Result<(), Status> {
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
    if let Form::Table(_) = form {
        // A Table has the objects' metadata only.
        let table = form.list(kind, &objects, &metadata);
        return Ok(json_response(StatusCode::OK, table));
    }
    Ok(in_pieces(ListPieces {
        kind,
        form,
        head: Some(metadata),
        objects: objects.into_iter(),
        first: true,
        over: false,
    }))
}

/// A list as it is sent: a reader that is slow holds one piece, and the objects that the store holds anyway.
struct ListPieces {
    kind: &'static Kind,
    form: Form,
    /// The list's metadata, until the head has been written.
    head: Option<Value>,
    objects: std::vec::IntoIter<Arc<Value>>,
    first: bool,
    over: bool,
}

impl Iterator for ListPieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let mut piece = String::new();
        if let Some(metadata) = self.head.take() {
            let (kind, version) = match self.form {
                Form::Metadata => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
                Form::Object | Form::Table(_) => (self.kind.kind, self.kind.api_version()),
            };
            piece = format!(
                "{{\"kind\":\"{kind}List\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":["
            );
        }
        while piece.len() < limits::PIECE_BYTES {
            let Some(object) = self.objects.next() else {
                piece.push_str("]}");
                self.over = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                piece.push(',');
            }
            piece.push_str(&self.form.event_object(self.kind, &object).to_string());
        }
        Some(Bytes::from(piece))
    }
}

/// A short list has a length; a long one is rendered while it is read.
fn in_pieces(mut pieces: ListPieces) -> Response {
    let first = pieces.next().unwrap_or_default();
    if pieces.over {
        return json_response(StatusCode::OK, first.to_vec());
    }
    let pieces = std::iter::once(first).chain(pieces);
    let stream = futures::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-cache, private"),
    ];
    (StatusCode::OK, headers, Body::from_stream(stream)).into_response()
}

fn write_continue(revision: Revision, key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{revision} {key}"))
}

fn read_continue(token: &str) -> Option<(Revision, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let (revision, key) = text.split_once(' ')?;
    Some((Revision(revision.parse().ok()?), key.to_owned()))
}

async fn start_watch(
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
    Ok(json_response(
        StatusCode::OK,
        call.form()?.list(kind, &deleted, &metadata),
    ))
}

fn delete_options(call: &Call) -> Result<DeleteOptions, Status> {
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
        options.propagation = Some(super::registry::Propagation::parse(name)?);
    }
    options.dry_run |= call.run()? == Run::Dry;
    Ok(options)
}

/// The verb of a request for an object, if its user may.
fn permitted_on_object(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    subresource: Option<Subresource>,
) -> Result<&'static str, Status> {
    let verb = match call.method {
        Method::GET if call.flag("watch") => "watch",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::POST => "create",
        _ => return Err(Status::method_not_allowed()),
    };
    let attempt = Attempt {
        verb,
        kind,
        namespace,
        name: Some(name),
        subresource,
        required_node: None,
        required_name: None,
    };
    authorize::authorize(&server.registry, &call.who, &attempt)?;
    Ok(verb)
}

async fn object(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    subresource: Option<Subresource>,
) -> Result<Response, Status> {
    let selected = format!("metadata.name={name}");
    let verb = permitted_on_object(server, call, kind, namespace, name, subresource)?;
    match (verb, subresource) {
        ("watch", None) => {
            let selector = Selector::parse(kind, None, Some(&selected))?;
            start_watch(server, call, kind, namespace.map(str::to_owned), selector).await
        }
        ("get", None | Some(Subresource::Status)) => {
            if let Some(revision) = requested_revision(call)? {
                reach(&server.registry, revision).await?;
            }
            let found = server.registry.get(kind, namespace, name)?;
            respond(call, kind, StatusCode::OK, &found, &[])
        }
        ("get", Some(Subresource::Log)) => {
            let query: BTreeMap<String, String> = call.query.iter().cloned().collect();
            logs::log(server, namespace, name, &query).await
        }
        ("get", Some(Subresource::Scale)) => {
            let found = server.registry.get(kind, namespace, name)?;
            Ok(json_response(
                StatusCode::OK,
                scale::from_object(kind, &found).to_string().into_bytes(),
            ))
        }
        ("update" | "patch", Some(Subresource::Scale)) => {
            let change = |current: &Value| {
                let present = scale::from_object(kind, current);
                let wanted = if verb == "update" {
                    call.object()?
                } else {
                    read_patch(call)?.apply(kind, &present)?
                };
                scale::apply(current, &wanted)
            };
            let changed = server
                .registry
                .change(kind, namespace, name, None, &change, call.run()?)
                .await?;
            Ok(json_response(
                StatusCode::OK,
                scale::from_object(kind, &changed).to_string().into_bytes(),
            ))
        }
        ("update", None | Some(Subresource::Status)) => {
            let mut body = call.object()?;
            let warnings = strict::check(kind, &mut body, field_validation(call)?)?;
            let change = |current: &Value| {
                let part = (kind, subresource);
                authorize::admit_changed(&server.registry, &call.who, part, current, &body)?;
                Ok(body.clone())
            };
            let stored = server
                .registry
                .change(kind, namespace, name, subresource, &change, call.run()?)
                .await?;
            respond(call, kind, StatusCode::OK, &stored, &warnings)
        }
        ("patch", None | Some(Subresource::Status)) => {
            let patch = read_patch(call)?;
            let validation = field_validation(call)?;
            let change = |current: &Value| {
                let mut patched = patch.apply(kind, current)?;
                strict::check(kind, &mut patched, validation)?;
                let part = (kind, subresource);
                authorize::admit_changed(&server.registry, &call.who, part, current, &patched)?;
                Ok(patched)
            };
            let stored = server
                .registry
                .change(kind, namespace, name, subresource, &change, call.run()?)
                .await?;
            respond(call, kind, StatusCode::OK, &stored, &[])
        }
        ("delete", None) => delete(server, call, kind, namespace, name).await,
        ("create", Some(Subresource::Binding)) => {
            let body = call.object()?;
            let node = body
                .pointer("/target/name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if node.is_empty() {
                return Err(Status::bad_request("target.name: Required value"));
            }
            server
                .registry
                .bind(namespace.unwrap_or_default(), name, node)
                .await?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
            Ok(json_response(
                StatusCode::CREATED,
                done.to_string().into_bytes(),
            ))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

fn read_patch(call: &Call) -> Result<Patch, Status> {
    match call.content_type() {
        "application/json-patch+json" => Ok(Patch::Json(call.json("patch")?)),
        "application/merge-patch+json" => Ok(Patch::Merge(call.json("patch")?)),
        "application/strategic-merge-patch+json" => Ok(Patch::Strategic(call.json("patch")?)),
        other => Err(Status::unsupported_media_type(format!(
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json; not `{other}`"
        ))),
    }
}

async fn delete(
    server: &Server,
    call: &Call,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
) -> Result<Response, Status> {
    let options = delete_options(call)?;
    let left = server
        .registry
        .delete(kind, namespace, name, options)
        .await?;
    if kind.is(&kinds::POD) || left.pointer("/metadata/deletionTimestamp").is_some() {
        return respond(call, kind, StatusCode::OK, &left, &[]);
    }
    let done = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {"name": name, "group": kind.group, "kind": kind.plural, "uid": left.pointer("/metadata/uid")},
    });
    Ok(json_response(StatusCode::OK, done.to_string().into_bytes()))
}

/// Used by the log endpoint's stream: what a piece adds to the body.
pub(super) fn piece_bytes(piece: Piece) -> Option<Result<Bytes, std::io::Error>> {
    match piece {
        Piece::Output { data, .. } => Some(Ok(data)),
        Piece::Done {
            error: Some(error), ..
        } => Some(Err(std::io::Error::other(error))),
        Piece::Done { error: None, .. } => None,
    }
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

    #[test]
    fn warnings_are_bounded_as_kubernetes_bounds_them() {
        let many = bounded(&vec!["é".repeat(1000); 700]);
        assert_eq!((many.len(), many[0].chars().count()), (16, 256));
        assert_eq!(
            bounded(&vec!["short".to_owned(); 700]).len(),
            limits::FIELDS_IN_MESSAGE
        );
    }

    #[test]
    fn a_long_list_is_rendered_piece_by_piece() {
        let object = Arc::new(json!({"metadata": {"name": "x".repeat(20_000)}}));
        let pieces = |count| ListPieces {
            kind: &kinds::CONFIG_MAP,
            form: Form::Object,
            head: Some(json!({"resourceVersion": "7"})),
            objects: vec![object.clone(); count].into_iter(),
            first: true,
            over: false,
        };
        for count in [0, 1, 5] {
            let all: Vec<Bytes> = pieces(count).collect();
            assert_eq!(all.len(), count / 2 + 1);
            let list: Value = serde_json::from_slice(&all.concat()).expect("JSON");
            assert_eq!(list["kind"], json!("ConfigMapList"));
            assert_eq!(list["items"].as_array().map(Vec::len), Some(count));
        }
    }
}

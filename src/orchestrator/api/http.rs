//! The HTTP face of the registry: verbs, parameters, formats.

mod answers;
pub(super) mod call;
mod collections;
mod gate;
mod objects;
mod streams;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Extension, Query, Request, State};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use tokio_util::sync::CancellationToken;

use super::authorize::Identity;
use super::barrier::Barrier;
use super::kinds::{self, Subresource};
use super::panics::Panics;
use super::places::{Place, Users};
use super::pod_streams::{self, Asked};
use super::registry::Registry;
use super::route::{self, Target};
use super::status::Status;
use super::tokens::Tokens;
use super::tunnels::{Piece, Tunnels};
use super::{discovery, health, limits, logs, openapi, protobuf, reviews};
use answers::as_protobuf;
use call::Call;
use collections::{collection, permitted_on_collection};
use objects::{object, permitted_on_object};

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
    /// Tokens of ServiceAccounts.
    pub tokens: Arc<Tokens>,
    /// Who is connected.
    pub(super) users: Arc<Users>,
}

impl Server {
    /// What a path names now.
    fn target(&self, path: &str) -> Option<Target> {
        route::parse(&self.registry.served(), path)
    }

    /// Whether a path names objects that a definition defines: they are never protobuf.
    fn is_custom(&self, path: &str) -> bool {
        match self.target(path) {
            Some(Target::Collection { kind, .. } | Target::Object { kind, .. }) => {
                kind.custom.is_some()
            }
            _ => false,
        }
    }
}

/// All routes.
pub fn router(server: Server) -> Router {
    let gate = middleware::from_fn_with_state(server.clone(), gate::gate);
    Router::new()
        .route("/flightcage/v1/nodes/{name}/tunnel", get(streams::tunnel))
        .route(crate::balancer::report::PATH, get(streams::balancer))
        .route(
            "/flightcage/v1/nodes/{name}/streams/{number}",
            get(streams::stream),
        )
        .route("/flightcage/v1/nodes/{name}/beat", get(streams::beat))
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
        .layer(gate)
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

async fn handle(
    State(server): State<Server>,
    Extension(who): Extension<Identity>,
    Extension(place): Extension<Arc<Place>>,
    request: Request,
) -> Response {
    let path = request.uri().path().to_owned();
    if let Some(asked) = streamed(&server, &path) {
        let verb = request.method().clone();
        let answered = pod_streams::answer(&server, &who, place, asked, request).await;
        let response = answered.unwrap_or_else(IntoResponse::into_response);
        let code = response.status().as_u16();
        tracing::info!(user = who.user, verb = %verb, resource = path, code, "audit");
        return response;
    }
    let (parts, body) = request.into_parts();
    let query = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
        .map(|query| query.0)
        .unwrap_or_default();
    let mut headers = parts.headers;
    let only_protobuf = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(protobuf::only);
    if only_protobuf && server.is_custom(&path) {
        return Status::not_acceptable("only the following media types are accepted: application/json, application/json;stream=watch").into_response();
    }
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

const STREAMS: [Subresource; 3] = [
    Subresource::Exec,
    Subresource::Attach,
    Subresource::PortForward,
];

/// A path of a pod's stream, which is not answered with a body.
fn streamed(server: &Server, path: &str) -> Option<Asked> {
    // Looked at for every request: most say at once that they are none.
    let last = path.rsplit('/').next()?;
    STREAMS.iter().find(|part| part.name() == last)?;
    match server.target(path)? {
        Target::Object {
            kind,
            namespace: Some(namespace),
            name: pod,
            subresource: Some(part),
        } if kind.is(&kinds::POD) && STREAMS.contains(&part) => Some(Asked {
            namespace,
            pod,
            part,
        }),
        _ => None,
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
    match server.target(path) {
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
        Some(Target::Review { review, namespace }) if call.method == Method::POST => {
            reviews::permit(&server.registry, &call.who, review, namespace.as_deref())
        }
        Some(_) => Err(Status::method_not_allowed()),
    }
}

async fn answer(server: &Server, path: &str, call: &Call) -> Result<Response, Status> {
    if call.method == Method::GET {
        if ["/version", "/version/"].contains(&path) {
            let version = discovery::version().to_string();
            return Ok(json_response(StatusCode::OK, version.into_bytes()));
        }
        if let Some(document) = openapi::answer(&server.registry, path, call.accept()).await {
            return document;
        }
    }
    let served = server.registry.served();
    let target = route::parse(&served, path).ok_or_else(Status::no_such_path)?;
    if let Target::LegacyVersions | Target::Groups = target
        && call
            .accept()
            .replace(' ', "")
            .contains(discovery::AGGREGATED)
    {
        let document = discovery::aggregated(&served, target == Target::LegacyVersions).to_string();
        let media = [(header::CONTENT_TYPE, discovery::AGGREGATED)];
        return Ok((StatusCode::OK, media, document).into_response());
    }
    let document = match target {
        Target::LegacyVersions => Some(discovery::legacy_versions(&server.address)),
        Target::Groups => Some(discovery::groups(&served)),
        Target::Group(name) => discovery::group(&served, &name),
        Target::Resources { group, version } => discovery::resources(&served, &group, &version),
        Target::Collection { kind, namespace } => {
            return collection(server, call, kind, namespace).await;
        }
        Target::Review { review, namespace } => {
            if call.method != Method::POST {
                return Err(Status::method_not_allowed());
            }
            let (body, namespace) = (call.object()?, namespace.as_deref());
            let answered = reviews::answer(
                (&server.registry, &server.tokens),
                &call.who,
                review,
                namespace,
                body,
            )?;
            let answered = answered.to_string().into_bytes();
            return Ok(json_response(StatusCode::CREATED, answered));
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

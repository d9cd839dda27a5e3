//! What every request passes before its own handler: on whose behalf it is, and whether its path may be asked for, if that names no
//! resource. Those that do are looked at with what they name.

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::super::authorize::Identity;
use super::super::rbac;
use super::super::route::{self, Target};
use super::super::status::Status;
use super::Server;

pub(super) async fn gate(
    State(server): State<Server>,
    mut request: Request,
    next: Next,
) -> Response {
    match admit(&server, &mut request) {
        Ok(()) => next.run(request).await,
        Err(status) => status.into_response(),
    }
}

fn admit(server: &Server, request: &mut Request) -> Result<(), Status> {
    let who = request.extensions().get::<Identity>();
    let who = who.ok_or_else(Status::unauthorized)?;
    let other = rbac::impersonated(&server.registry, who, request.headers())?;
    if let Some(other) = &other {
        tracing::info!(user = who.user, on_behalf_of = other.user, "audit");
    }
    let whose = other.as_ref().unwrap_or(who);
    if whose.is_person() {
        permit_path(server, whose, request)?;
    }
    if let Some(other) = other {
        request.extensions_mut().insert(other);
    }
    Ok(())
}

fn permit_path(server: &Server, who: &Identity, request: &Request) -> Result<(), Status> {
    let path = request.uri().path();
    if let Some(Target::Collection { .. } | Target::Review { .. } | Target::Object { .. }) =
        route::parse(&server.registry.served(), path)
    {
        return Ok(());
    }
    let verb = request.method().as_str().to_ascii_lowercase();
    let asked = rbac::Attributes {
        verb: &verb,
        path: Some(path),
        ..rbac::Attributes::default()
    };
    if rbac::may(&server.registry, who, &asked) {
        return Ok(());
    }
    Err(Status::forbidden(format!(
        "forbidden: User {:?} cannot {verb} path {path:?}",
        who.user
    )))
}

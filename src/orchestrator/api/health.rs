//! Whether the server can do its work, and what it counts.

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::authorize::Identity;
use super::http::Server;
use super::status::Status;

/// `GET /readyz`, `/healthz`: 500 and why while the store takes no writes.
pub(super) async fn ready(State(server): State<Server>) -> Response {
    match server.registry.condition().failing {
        None => "ok".into_response(),
        Some(why) => {
            let text = format!("[-]store failed: {why}\nreadyz check failed\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

/// `GET /metrics`, for administrators and whom a role lets, in Prometheus' text form.
pub(super) async fn metrics(
    State(server): State<Server>,
    Extension(who): Extension<Identity>,
) -> Result<String, Status> {
    // Whoever roles are for has been looked at by `gate`.
    if !who.is_master() && !who.is_person() {
        return Err(Status::forbidden(format!(
            "user \"{}\" cannot get path \"/metrics\"",
            who.user
        )));
    }
    let store = server.registry.condition();
    let mut text = String::new();
    for (name, kind, help, value) in [
        (
            "flightcage_panics_total",
            "counter",
            "Panics of request handlers and controllers; always 0 unless there is a fault.",
            server.panics.count(),
        ),
        (
            "flightcage_connections",
            "gauge",
            "Connections with a certificate.",
            server.users.connections() as u64,
        ),
        (
            "flightcage_store_writable",
            "gauge",
            "1 while the store takes writes.",
            u64::from(store.failing.is_none()),
        ),
        (
            "flightcage_store_damaged_objects",
            "gauge",
            "Objects that could not be read when the store was opened; the log names them.",
            store.damaged.len() as u64,
        ),
    ] {
        text.push_str(&format!(
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        ));
    }
    Ok(text)
}

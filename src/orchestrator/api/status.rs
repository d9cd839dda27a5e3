//! metav1.Status: how the API says no.

use serde_json::{Value, json};

use super::kinds::Kind;
use super::limits::FIELDS_IN_MESSAGE;

pub use super::kinds::Cause;
use crate::orchestrator::store::StoreError;

/// A refused request, as Kubernetes words it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// `NotFound`, `Conflict`, …
    pub reason: &'static str,
    /// For a person.
    pub message: String,
    /// What it was about.
    pub details: Option<Box<Details>>,
}

/// What a [`Status`] is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Details {
    /// Object's name.
    pub name: String,
    /// API group.
    pub group: String,
    /// Plural, or the kind for `Invalid`.
    pub kind: String,
    /// Wrong fields.
    pub causes: Vec<Cause>,
}

impl Status {
    fn of(code: u16, reason: &'static str, kind: &Kind, name: &str, message: String) -> Self {
        let details = Details {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            causes: Vec::new(),
        };
        Self {
            code,
            reason,
            message,
            details: Some(Box::new(details)),
        }
    }

    fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    /// 404: no such object.
    #[must_use]
    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::of(
            404,
            "NotFound",
            kind,
            name,
            format!("{} \"{name}\" not found", kind.resource()),
        )
    }

    /// 404: no such path.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::plain(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::of(
            409,
            "AlreadyExists",
            kind,
            name,
            format!("{} \"{name}\" already exists", kind.resource()),
        )
    }

    /// 409: somebody else wrote in between.
    #[must_use]
    pub fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            kind.resource()
        );
        Self::of(409, "Conflict", kind, name, message)
    }

    /// 409: fields of an applied object belong to others.
    #[must_use]
    pub fn apply_conflict(kind: &Kind, name: &str, message: String, causes: Vec<Cause>) -> Self {
        let mut status = Self::of(409, "Conflict", kind, name, message);
        if let Some(details) = &mut status.details {
            details.causes = causes;
        }
        status
    }

    /// 409: a stale resourceVersion.
    #[must_use]
    pub fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    /// 422: fields are wrong; `causes` is not empty.
    #[must_use]
    pub fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let list = listed(&causes);
        let message = format!("{} \"{name}\" is invalid: {list}", kind.kind);
        let mut status = Self::of(422, "Invalid", kind, name, message);
        if let Some(details) = &mut status.details {
            kind.kind.clone_into(&mut details.kind);
            details.causes = causes;
            details.causes.truncate(FIELDS_IN_MESSAGE);
        }
        status
    }

    /// 403: the cluster's rules are against these fields; `causes` is not empty.
    #[must_use]
    pub fn not_admitted(kind: &Kind, name: &str, causes: Vec<Cause>) -> Self {
        let list = listed(&causes);
        let message = format!("{} \"{name}\" is forbidden: {list}", kind.resource());
        let mut status = Self::of(403, "Forbidden", kind, name, message);
        if let Some(details) = &mut status.details {
            details.causes = causes;
            details.causes.truncate(FIELDS_IN_MESSAGE);
        }
        status
    }

    /// 400.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// 403.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::plain(403, "Forbidden", message)
    }

    /// 401.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 405.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::plain(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 406: no representation the client accepts.
    #[must_use]
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::plain(406, "NotAcceptable", message)
    }

    /// 415: a body in an unknown format.
    #[must_use]
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::plain(415, "UnsupportedMediaType", message)
    }

    /// 408: the request did not come in time.
    #[must_use]
    pub fn request_timeout(message: impl Into<String>) -> Self {
        Self::plain(408, "Timeout", message)
    }

    /// 413: more than the server takes.
    #[must_use]
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::plain(413, "RequestEntityTooLarge", message)
    }

    /// 410: the history asked for is gone.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// 504: a revision that is not there yet.
    #[must_use]
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::plain(504, "Timeout", message)
    }

    /// 503.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::plain(503, "ServiceUnavailable", message)
    }

    /// 429.
    #[must_use]
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::plain(429, "TooManyRequests", message)
    }

    /// 500.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::plain(500, "InternalError", message)
    }

    /// Whether it is 404.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether it is a conflict of revisions: read again and retry.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// The object as sent to clients.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut value = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            let causes: Vec<Value> = details
                .causes
                .iter()
                .map(|cause| {
                    let mut out = json!({"reason": cause.reason, "message": cause.message});
                    if !cause.field.is_empty() {
                        out["field"] = json!(cause.field);
                    }
                    out
                })
                .collect();
            let mut out = json!({});
            for (field, text) in [
                ("name", &details.name),
                ("kind", &details.kind),
                ("group", &details.group),
            ] {
                if !text.is_empty() {
                    out[field] = json!(text);
                }
            }
            if !causes.is_empty() {
                out["causes"] = Value::Array(causes);
            }
            value["details"] = out;
        }
        value
    }

    /// What a failure of the store means to a client.
    #[must_use]
    pub fn from_store(error: &StoreError, kind: &Kind, name: &str) -> Self {
        match error {
            StoreError::Conflict { current: None, .. } => Self::not_found(kind, name),
            StoreError::Conflict { .. } => Self::modified(kind, name),
            StoreError::Compacted { asked, oldest } => {
                Self::expired(format!("too old resource version: {asked} ({oldest})"))
            }
            StoreError::TooLarge { .. } => Self::too_large(error.to_string()),
            StoreError::Overloaded => Self::too_many_requests(error.to_string()),
            StoreError::Database(_) | StoreError::Closed => Self::unavailable(error.to_string()),
        }
    }
}

/// Wrong fields as a message names them.
fn listed(causes: &[Cause]) -> String {
    let left_out = causes.len().saturating_sub(FIELDS_IN_MESSAGE);
    let mut parts: Vec<String> = causes
        .iter()
        .take(FIELDS_IN_MESSAGE)
        .map(|cause| format!("{}: {}", cause.field, cause.message))
        .collect();
    if left_out > 0 {
        parts.push(format!("{left_out} more wrong fields"));
    }
    if parts.len() == 1 {
        parts.concat()
    } else {
        format!("[{}]", parts.join(", "))
    }
}

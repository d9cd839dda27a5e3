//! What a change says: a patch, or how to delete.

use serde_json::{Value, json};

use super::http::Body;

/// A change to one object.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' strategic merge patch.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
}

impl Patch {
    pub(super) fn body(&self) -> Body {
        match self {
            Self::Merge(value) => Body::new("application/merge-patch+json", value),
            Self::Strategic(value) => Body::new("application/strategic-merge-patch+json", value),
            Self::Json(value) => Body::new("application/json-patch+json", value),
        }
    }
}

/// What happens to the dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// How to delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteParams {
    /// Seconds a pod gets to stop; the pod's own if `None`, at once if 0.
    pub grace_period_seconds: Option<i64>,
    /// The server's default if `None`.
    pub propagation: Option<Propagation>,
    /// Delete only the object with this UID.
    pub uid: Option<String>,
}

impl DeleteParams {
    pub(super) fn body(&self) -> Body {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = json!(format!("{propagation:?}"));
        }
        if let Some(uid) = &self.uid {
            body["preconditions"] = json!({"uid": uid});
        }
        Body::json(&body)
    }
}

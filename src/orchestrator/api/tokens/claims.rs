//! What a token says (`pkg/serviceaccount/claims.go`).

use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claims {
    /// For whom it is.
    pub(super) aud: Vec<String>,
    /// Until when it is good, in seconds.
    pub(super) exp: i64,
    /// When it was issued.
    pub(super) iat: i64,
    /// Who issued it.
    pub(super) iss: String,
    /// Which one it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) jti: Option<String>,
    /// Kubernetes' own.
    #[serde(rename = "kubernetes.io")]
    pub(super) kubernetes: Kubernetes,
    /// From when it is good.
    pub(super) nbf: i64,
    /// Whose it is.
    pub(super) sub: String,
}

/// The objects that it dies with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kubernetes {
    /// Of all but the node.
    pub(super) namespace: String,
    /// Where the pod runs; or what it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<Bound>,
    /// What it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pod: Option<Bound>,
    /// What it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Bound>,
    /// Whose it is.
    pub(super) serviceaccount: Bound,
}

/// One object, and no other of its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    /// Its name.
    pub(super) name: String,
    /// Its UID.
    pub(super) uid: String,
}

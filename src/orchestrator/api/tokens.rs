//! ServiceAccount tokens: issued for an account (`serviceaccounts/token`), shown as `Authorization: Bearer`, looked at by a TokenReview.
//!
//! ```text
//! TokenRequest ► claims ► [`jws`]: signed ► a pod, a person ► Bearer ► verified ► still there? ► identity
//! ```
//! Invariants: a token is as good as the objects that it names. ServiceAccount, and Pod, Secret or Node if it is bound to one, are looked
//! up by UID at every use, so that it dies with them, and a new object of the same name does not revive it. No token is logged.
//! Claims, audiences and times are Kubernetes' own (`pkg/serviceaccount/claims.go`).

mod claims;
mod jws;
mod mount;
mod request;
mod review;

use std::path::Path;

use serde_json::{Value, json};

use super::authorize::Identity;
use super::kinds::{self, Kind};
use super::registry::Registry;
use claims::{Bound, Claims};
use jws::Key;

pub use jws::KeyError;
pub(super) use mount::mount_token;

/// Who issues tokens, and the audience of those that are meant for this API (kubeadm's `--service-account-issuer`).
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// How long a token stays good after the deletion of what it names has begun (`pkg/serviceaccount/claims.go`).
const LEEWAY_SECONDS: i64 = 60;

/// Issues and verifies the tokens of a cluster.
pub struct Tokens {
    key: Key,
}

/// A token that is good.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Good {
    /// Whose.
    pub(super) who: Identity,
    /// UID of the ServiceAccount.
    pub(super) uid: String,
    /// Facts beside, as a TokenReview tells them.
    pub(super) extra: Value,
}

/// A token whose signature is right; whether it is still good is another question.
#[derive(Debug, Clone)]
pub(super) struct Verified(Claims);

impl Tokens {
    /// With the key in this file, which is made with mode 0600 if there is none.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        Key::open(path).map(|key| Self { key })
    }

    /// With a key that nobody keeps.
    pub fn ephemeral() -> Result<Self, KeyError> {
        let document = Key::generate()?;
        Key::from_document(&document).map(|key| Self { key })
    }

    /// A token's claims, if this cluster signed them.
    pub(super) fn verify(&self, token: &str) -> Option<Verified> {
        let payload = self.key.verify(token)?;
        let claims = serde_json::from_slice(&payload).ok()?;
        Some(Verified(claims))
    }

    fn sign(&self, claims: &Claims) -> Option<String> {
        let payload = serde_json::to_vec(claims).ok()?;
        self.key.sign(&payload)
    }
}

impl Verified {
    /// Those of `audiences` that the token is for.
    pub(super) fn audiences(&self, audiences: &[String]) -> Vec<String> {
        let for_it = audiences.iter().filter(|one| self.0.aud.contains(one));
        for_it.cloned().collect()
    }

    /// Whose token it is, if it is good at `now` and everything that it names is still there. The error is for a TokenReview.
    pub(super) fn good(&self, registry: &Registry, now: i64) -> Result<Good, String> {
        let claims = &self.0;
        let own = &claims.kubernetes;
        if claims.iss != ISSUER {
            return Err("the token is of another issuer".to_owned());
        }
        if now >= claims.exp {
            return Err("service account token has expired".to_owned());
        }
        if now < claims.nbf {
            return Err("service account token is not valid yet".to_owned());
        }
        let account = (&kinds::SERVICE_ACCOUNT, &own.serviceaccount);
        is_there(registry, Some(&own.namespace), account, now)?;
        let mut extra = json!({});
        if let Some(id) = &claims.jti {
            extra["authentication.kubernetes.io/credential-id"] = json!([format!("JTI={id}")]);
        }
        for (kind, bound, called) in [
            (&kinds::POD, &own.pod, "pod"),
            (&kinds::SECRET, &own.secret, "secret"),
            (&kinds::NODE, &own.node, "node"),
        ] {
            let Some(bound) = bound else { continue };
            // The node of a pod's token is told, not asked for: it may go before its pods.
            if called != "node" || own.pod.is_none() {
                is_there(registry, Some(&own.namespace), (kind, bound), now)?;
            }
            if called != "secret" {
                extra[format!("authentication.kubernetes.io/{called}-name")] = json!([bound.name]);
                extra[format!("authentication.kubernetes.io/{called}-uid")] = json!([bound.uid]);
            }
        }
        Ok(Good {
            who: identity(&own.namespace, &own.serviceaccount.name),
            uid: own.serviceaccount.uid.clone(),
            extra,
        })
    }
}

/// The user that a ServiceAccount is (`staging/src/k8s.io/apiserver/pkg/authentication/serviceaccount/util.go`).
pub(super) fn identity(namespace: &str, name: &str) -> Identity {
    Identity {
        user: format!("system:serviceaccount:{namespace}:{name}"),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
        ],
    }
}

/// The time of a token's claims.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn is_there(
    registry: &Registry,
    namespace: Option<&str>,
    (kind, bound): (&'static Kind, &Bound),
    now: i64,
) -> Result<(), String> {
    let gone = || format!("{} {} has been deleted", kind.singular(), bound.name);
    let namespace = namespace.filter(|_| kind.namespaced);
    let found = registry
        .get(kind, namespace, &bound.name)
        .map_err(|_| gone())?;
    let text = |pointer: &str| found.pointer(pointer).and_then(Value::as_str);
    if text("/metadata/uid") != Some(bound.uid.as_str()) {
        return Err(gone());
    }
    let leaves = text("/metadata/deletionTimestamp")
        .and_then(|time| time.parse::<jiff::Timestamp>().ok())
        .map(jiff::Timestamp::as_second);
    match leaves {
        Some(leaves) if leaves + LEEWAY_SECONDS < now => Err(gone()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;

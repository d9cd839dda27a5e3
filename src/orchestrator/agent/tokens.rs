//! Tokens of a pod's ServiceAccount, which its projected volumes show: asked for once, kept as long as they are fresh, and renewed in
//! time, as in the kubelet (`pkg/kubelet/token/token_manager.go`).

use std::fmt;

use k8s_openapi::api::core::v1::{Pod, ServiceAccountTokenProjection};
use serde::{Deserialize, Serialize};

/// How long a token is good when its volume does not say.
const DEFAULT_SECONDS: i64 = 3600;
/// A token that is older is renewed, however long it is good.
const OLDEST_SECONDS: i64 = 24 * 60 * 60;

/// A token, and until when it is good.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// The token.
    pub(crate) text: String,
    /// When it was asked for, in seconds.
    pub(crate) asked: i64,
    /// When it ends, in seconds.
    pub(crate) ends: i64,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the token.
        write!(f, "Token {{ asked: {}, ends: {} }}", self.asked, self.ends)
    }
}

impl Token {
    /// Whether it need not be renewed: less than 80 % of its time is over, and it is not a day old.
    pub(crate) fn is_fresh(&self, now: i64) -> bool {
        let renewed = self.ends - (self.ends - self.asked) / 5;
        now < renewed && now < self.asked.saturating_add(OLDEST_SECONDS)
    }

    /// Whether anybody takes it.
    pub(crate) fn is_good(&self, now: i64) -> bool {
        now < self.ends
    }
}

/// A token that a volume shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// For whom; empty for the API server.
    pub(crate) audience: String,
    /// For how long.
    pub(crate) seconds: i64,
}

impl Wanted {
    /// What this part of a volume wants.
    pub(crate) fn of(part: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: part.audience.clone().unwrap_or_default(),
            seconds: part.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        }
    }

    /// Under which its token is kept.
    pub(crate) fn key(&self) -> String {
        format!("{} {}", self.seconds, self.audience)
    }
}

/// Every token that volumes of the pod show.
pub(crate) fn wanted(pod: &Pod) -> Vec<Wanted> {
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    let sources = volumes
        .filter_map(|volume| volume.projected.as_ref()?.sources.as_ref())
        .flatten();
    let mut wanted: Vec<Wanted> = Vec::new();
    for part in sources.filter_map(|source| source.service_account_token.as_ref()) {
        let one = Wanted::of(part);
        if !wanted.contains(&one) {
            wanted.push(one);
        }
    }
    wanted
}

/// The name of the pod's ServiceAccount.
pub(crate) fn account(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    let name = spec.and_then(|spec| spec.service_account_name.as_deref());
    name.filter(|name| !name.is_empty()).unwrap_or("default")
}

/// The time of tokens.
pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_renewed_before_it_ends() {
        let token = Token {
            text: "secret".to_owned(),
            asked: 1000,
            ends: 2000,
        };
        assert!(token.is_fresh(1799) && !token.is_fresh(1800));
        assert!(token.is_good(1999) && !token.is_good(2000));
        assert!(!format!("{token:?}").contains("secret"));
        let long = Token {
            ends: 1000 + 10 * OLDEST_SECONDS,
            ..token
        };
        assert!(long.is_fresh(1000 + OLDEST_SECONDS - 1) && !long.is_fresh(1000 + OLDEST_SECONDS));
    }

    #[test]
    fn what_volumes_show_is_wanted_once() {
        let token =
            |audience: &str| json!({"serviceAccountToken": {"path": "t", "audience": audience}});
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "bird", "containers": [{"name": "c"}], "volumes": [
                {"name": "a", "projected": {"sources": [token("vault"), token("")]}},
                {"name": "b", "projected": {"sources": [token("vault"), {"configMap": {"name": "m"}}]}},
                {"name": "e", "emptyDir": {}}]}}))
        .unwrap();
        let audiences: Vec<String> = wanted(&pod).into_iter().map(|one| one.audience).collect();
        assert_eq!(audiences, ["vault", ""]);
        assert_eq!(account(&pod), "bird");
        assert_eq!(account(&Pod::default()), "default");
    }
}

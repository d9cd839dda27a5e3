//! authentication.k8s.io/v1 TokenReview: is a token good, and whose is it?

use serde_json::{Value, json};

use super::{ISSUER, Tokens};
use crate::orchestrator::api::registry::Registry;

impl Tokens {
    /// The status of a TokenReview with this spec.
    pub(in crate::orchestrator::api) fn review(
        &self,
        registry: &Registry,
        spec: &Value,
        now: i64,
    ) -> Value {
        let token = spec["token"].as_str().unwrap_or_default();
        let list = spec["audiences"].as_array().into_iter().flatten();
        let mut audiences: Vec<String> = list
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect();
        if audiences.is_empty() {
            audiences.push(ISSUER.to_owned());
        }
        let refused = |why: &str| json!({"user": {}, "error": why});
        let Some(verified) = self.verify(token) else {
            return refused("invalid bearer token");
        };
        let common = verified.audiences(&audiences);
        if common.is_empty() {
            return refused("invalid bearer token: token audiences do not match");
        }
        match verified.good(registry, now) {
            Err(why) => refused(&format!("invalid bearer token: {why}")),
            Ok(good) => {
                let mut groups = good.who.groups;
                groups.push("system:authenticated".to_owned());
                json!({
                    "authenticated": true,
                    "user": {
                        "username": good.who.user,
                        "uid": good.uid,
                        "groups": groups,
                        "extra": good.extra,
                    },
                    "audiences": common,
                })
            }
        }
    }
}

//! What a client is told of an object that is stored as it is, although something in it has no effect here.

use serde_json::Value;

/// Everything in an object of this kind has its effect.
pub(in crate::orchestrator::api) fn no_warnings(_: &Value) -> Vec<String> {
    Vec::new()
}

/// The kind is accepted, and has no effect: `why` says what does not happen.
pub(in crate::orchestrator::api) fn not_enforced(kind: &str, why: &str) -> Vec<String> {
    vec![format!(
        "{kind} is accepted, but not enforced by Flightcage: {why}"
    )]
}

//! What Kubernetes' own types say about an object that somebody wrote: every wrong type and unknown field at once, and which fields
//! are used at all.
//!
//! The types of `k8s-openapi` are the only source: they are read with a deserializer that notes what does not fit and goes on
//! ([`walk`]), and listed with one that pretends to have every field ([`trace`]).

mod empty;
mod roots;
mod trace;
mod walk;

pub use trace::{TypeFields, types_of};
pub use walk::{Finding, Found, NO_BASE64, Step};

use serde_json::Value;

/// Everything of `object` that its type knows, does not know or does not take. `None` for a kind without a type here.
#[must_use]
pub fn walk(api_version: &str, kind: &str, object: &Value) -> Option<Vec<Finding>> {
    let root = roots::find(api_version, kind)?;
    Some((root.walk)(object))
}

#[cfg(test)]
mod tests;

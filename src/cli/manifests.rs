//! Manifests are held against the API server's own rules before anything is changed, so that everything it would refuse is told at
//! once.

use serde_json::Value;

use crate::kubernetes::client::ResourceKind;
use crate::kubernetes::manifest::FieldProblem;
use crate::orchestrator::api::{kinds, offline};

/// What the API server would refuse about an object.
pub(super) fn check(kind: &ResourceKind, object: &Value) -> Vec<FieldProblem> {
    let Some(served) = kinds::find(kind.group, kind.version, kind.plural) else { return Vec::new() };
    let causes = offline::check(served, object).into_iter();
    causes.map(|cause| FieldProblem { field: cause.field, problem: cause.message }).collect()
}

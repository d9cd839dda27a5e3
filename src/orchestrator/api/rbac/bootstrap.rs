//! The default roles and bindings are there, and hold at least what they should (`pkg/registry/rbac/reconciliation`).

use futures::future::try_join_all;
use serde_json::{Value, json};

use super::defaults;
use super::policy::aggregates;
use super::rules::{Rule, missing};
use crate::orchestrator::api::kinds::{self, Kind};
use crate::orchestrator::api::registry::Registry;
use crate::orchestrator::api::status::Status;

/// Whoever sets this to `false` on a default object keeps it as it is.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Creates what is missing of the defaults, and gives back what was taken from them. What was added stays.
pub(in crate::orchestrator::api) async fn ensure(registry: &Registry) -> Result<(), Status> {
    // Together, so that they share a commit to the disk.
    let roles = defaults::cluster_roles().into_iter();
    let roles = roles.map(|role| one(registry, &kinds::CLUSTER_ROLE, role, with_rules));
    try_join_all(roles).await?;
    let bindings = defaults::cluster_role_bindings().into_iter();
    let kind = &kinds::CLUSTER_ROLE_BINDING;
    let bindings = bindings.map(|binding| one(registry, kind, binding, with_subjects));
    try_join_all(bindings).await?;
    Ok(())
}

/// The present object with what the default has beyond it; `None` if that is nothing.
type Reconcile = fn(&Value, &Value) -> Option<Value>;

async fn one(
    registry: &Registry,
    kind: &'static Kind,
    wanted: Value,
    reconcile: Reconcile,
) -> Result<(), Status> {
    let name = wanted.pointer("/metadata/name").and_then(Value::as_str);
    let name = name.unwrap_or_default().to_owned();
    let Ok(present) = registry.get(kind, None, &name) else {
        return registry.create(kind, None, wanted).await.map(drop);
    };
    let annotations = present.pointer("/metadata/annotations");
    let kept = annotations.and_then(|all| all.get(AUTOUPDATE));
    if kept.is_some_and(|value| value == "false") {
        return Ok(());
    }
    match reconcile(&present, &wanted) {
        None => Ok(()),
        Some(next) => registry
            .update(kind, None, &name, None, next)
            .await
            .map(drop),
    }
}

fn with_rules(present: &Value, wanted: &Value) -> Option<Value> {
    let mut next = present.clone();
    if aggregates(wanted) {
        if present.get("aggregationRule") == wanted.get("aggregationRule") {
            return None;
        }
        next["aggregationRule"] = wanted["aggregationRule"].clone();
        return Some(next);
    }
    let (mut rules, wanted) = (Rule::read_all(present), Rule::read_all(wanted));
    let lacking = missing(&rules, &wanted);
    if lacking.is_empty() {
        return None;
    }
    rules.extend(lacking);
    let rules: Vec<Value> = rules.iter().map(Rule::write).collect();
    next["rules"] = json!(rules);
    Some(next)
}

fn with_subjects(present: &Value, wanted: &Value) -> Option<Value> {
    let list = |binding: &Value| -> Vec<Value> {
        let subjects = binding.get("subjects").and_then(Value::as_array);
        subjects.cloned().unwrap_or_default()
    };
    let same =
        |one: &Value, other: &Value| one["kind"] == other["kind"] && one["name"] == other["name"];
    let mut subjects = list(present);
    let before = subjects.len();
    for subject in list(wanted) {
        if !subjects.iter().any(|known| same(known, &subject)) {
            subjects.push(subject);
        }
    }
    if subjects.len() == before {
        return None;
    }
    let mut next = present.clone();
    next["subjects"] = json!(subjects);
    Some(next)
}

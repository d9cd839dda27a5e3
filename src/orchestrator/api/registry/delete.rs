//! Deleting: grace periods, finalizers, preconditions, propagation. What follows later (dependents, a namespace's contents) is
//! the controllers' part.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::write::{metadata, now};
use super::{RACE_RETRIES, Registry};
use crate::orchestrator::api::kinds::{Kind, Propagation};
use crate::orchestrator::api::status::Status;
use crate::orchestrator::store::{Expected, StoreError};

/// meta/v1 DeleteOptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds a pod gets to stop; 0 removes it at once. Default: the pod's own.
    pub grace_period_seconds: Option<i64>,
    /// Only if the object has this uid.
    pub uid: Option<String>,
    /// Only if the object has this resourceVersion.
    pub resource_version: Option<String>,
    /// Default: Orphan for ReplicationControllers, Background for all else.
    pub propagation: Option<Propagation>,
    /// Answer, but delete nothing.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Removes a pod at once, as its agent does when its containers have stopped.
    #[must_use]
    pub fn now() -> Self {
        Self {
            grace_period_seconds: Some(0),
            ..Self::default()
        }
    }

    /// From a request's body.
    pub fn parse(body: &Value) -> Result<Self, Status> {
        let text = |pointer: &str| {
            body.pointer(pointer)
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let propagation = match body.get("propagationPolicy").and_then(Value::as_str) {
            None => body
                .get("orphanDependents")
                .and_then(Value::as_bool)
                .map(|orphan| {
                    if orphan {
                        Propagation::Orphan
                    } else {
                        Propagation::Background
                    }
                }),
            Some(name) => Some(Propagation::parse(name)?),
        };
        Ok(Self {
            grace_period_seconds: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            propagation,
            dry_run: body
                .get("dryRun")
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty()),
        })
    }
}

impl Propagation {
    /// From its name in the API.
    pub fn parse(name: &str) -> Result<Self, Status> {
        match name {
            "Orphan" => Ok(Self::Orphan),
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            other => Err(Status::bad_request(format!(
                "propagationPolicy `{other}` is not one of Orphan, Background, Foreground"
            ))),
        }
    }
}

/// What deleting an object means for it now.
#[derive(Debug, PartialEq)]
enum Deletion {
    /// It goes.
    Remove,
    /// It stays, changed so, and goes later.
    Begin(Value),
    /// It is already on its way.
    Nothing,
}

pub(super) async fn delete(
    registry: &Registry,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    options: &DeleteOptions,
) -> Result<Arc<Value>, Status> {
    if kind.strategy.deletion.protected.contains(&name) {
        return Err(Status::forbidden(format!(
            "{} \"{name}\" is forbidden: this {} may not be deleted",
            kind.resource(),
            kind.singular()
        )));
    }
    let entered = if kind.custom.is_some() {
        None
    } else {
        Some(registry.customs.enter(kind).await)
    };
    for _ in 0..RACE_RETRIES {
        let current = registry.entry(kind, namespace, name)?;
        check_preconditions(kind, name, &current.value, options)?;
        let decision = decide(kind, &current.value, options, &now());
        if options.dry_run {
            return Ok(current.value);
        }
        let done = match decision {
            Deletion::Nothing => return Ok(current.value),
            Deletion::Remove => {
                registry
                    .store
                    .delete(&current.key, current.revision, kind.strategy.durability)
                    .await
            }
            Deletion::Begin(next) => {
                registry
                    .store
                    .put(
                        &current.key,
                        next,
                        Expected::At(current.revision),
                        kind.strategy.durability,
                    )
                    .await
            }
        };
        match done {
            Ok(entry) => {
                registry.written(kind);
                drop(entered);
                return Ok(entry.value);
            }
            Err(StoreError::Conflict {
                current: Some(_), ..
            }) => {}
            Err(error) => return Err(Status::from_store(&error, kind, name)),
        }
    }
    Err(Status::modified(kind, name))
}

fn check_preconditions(
    kind: &Kind,
    name: &str,
    current: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    for (what, pointer, wanted) in [
        ("UID", "/metadata/uid", &options.uid),
        (
            "ResourceVersion",
            "/metadata/resourceVersion",
            &options.resource_version,
        ),
    ] {
        let found = current
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default();
        if let Some(wanted) = wanted
            && wanted != found
        {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            );
            return Err(Status::conflict(kind, name, &why));
        }
    }
    Ok(())
}

fn decide(kind: &Kind, current: &Value, options: &DeleteOptions, now: &str) -> Deletion {
    let rule = &kind.strategy.deletion;
    let grace = (rule.grace)(current, options.grace_period_seconds);
    let mut next = current.as_object().cloned().unwrap_or_default();
    let terminating = current.pointer("/metadata/deletionTimestamp").is_some();
    let mut finalizers = finalizers_of(current);
    if !terminating {
        propagate(
            options.propagation.unwrap_or(rule.propagation),
            &mut finalizers,
        );
    }
    let held = !finalizers.is_empty() || (rule.held)(current);
    if grace == 0 && !held {
        return Deletion::Remove;
    }
    let left = current
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64);
    if terminating && left.is_some_and(|left| left <= grace) {
        return Deletion::Nothing;
    }
    begin(kind, &mut next, finalizers, grace, now);
    Deletion::Begin(Value::Object(next))
}

fn begin(
    kind: &Kind,
    next: &mut Map<String, Value>,
    finalizers: Vec<Value>,
    grace: i64,
    now: &str,
) {
    let meta = metadata(next);
    let at: jiff::Timestamp = now.parse().unwrap_or_else(|_| jiff::Timestamp::now());
    let at = at
        .checked_add(jiff::SignedDuration::from_secs(grace))
        .unwrap_or(at);
    meta.insert(
        "deletionTimestamp".to_owned(),
        json!(at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    );
    meta.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    if !finalizers.is_empty() {
        meta.insert("finalizers".to_owned(), Value::Array(finalizers));
    }
    if let Some(generation) = meta.get("generation").and_then(Value::as_i64) {
        meta.insert("generation".to_owned(), json!(generation + 1));
    }
    (kind.strategy.deletion.begin)(next);
}

fn finalizers_of(object: &Value) -> Vec<Value> {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default()
}

/// The garbage collector's finalizers stand for what is to become of the dependents.
fn propagate(propagation: Propagation, finalizers: &mut Vec<Value>) {
    let wanted = match propagation {
        Propagation::Background => None,
        Propagation::Foreground => Some("foregroundDeletion"),
        Propagation::Orphan => Some("orphan"),
    };
    finalizers.retain(|present| {
        !["orphan", "foregroundDeletion"]
            .iter()
            .any(|gc| present.as_str() == Some(gc))
    });
    if let Some(wanted) = wanted {
        finalizers.push(json!(wanted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::kinds;

    const NOW: &str = "2026-11-23T00:00:00Z";

    fn pod(node: &str) -> Value {
        json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}})
    }

    #[test]
    fn a_bound_pod_gets_its_grace_and_an_unbound_one_goes() {
        let Deletion::Begin(next) = decide(&kinds::POD, &pod("w1"), &DeleteOptions::default(), NOW)
        else {
            panic!("a bound pod stays for its grace");
        };
        assert_eq!(
            next["metadata"]["deletionTimestamp"],
            json!("2026-11-23T00:00:30Z")
        );
        assert_eq!(next["metadata"]["deletionGracePeriodSeconds"], json!(30));
        assert_eq!(
            decide(&kinds::POD, &next, &DeleteOptions::default(), NOW),
            Deletion::Nothing
        );
        assert_eq!(
            decide(&kinds::POD, &next, &DeleteOptions::now(), NOW),
            Deletion::Remove
        );
        assert_eq!(
            decide(&kinds::POD, &pod(""), &DeleteOptions::default(), NOW),
            Deletion::Remove
        );
    }

    #[test]
    fn a_replication_controller_orphans_unless_told_otherwise() {
        let rc = json!({"metadata": {"name": "r"}});
        let Deletion::Begin(next) = decide(
            &kinds::REPLICATION_CONTROLLER,
            &rc,
            &DeleteOptions::default(),
            NOW,
        ) else {
            panic!("it waits for its pods to be orphaned");
        };
        assert_eq!(next["metadata"]["finalizers"], json!(["orphan"]));
        let background = DeleteOptions {
            propagation: Some(Propagation::Background),
            ..DeleteOptions::default()
        };
        assert_eq!(
            decide(&kinds::REPLICATION_CONTROLLER, &rc, &background, NOW),
            Deletion::Remove
        );
    }

    #[test]
    fn finalizers_hold_an_object() {
        let held = json!({"metadata": {"name": "c", "finalizers": ["a/b"]}});
        assert!(matches!(
            decide(&kinds::CONFIG_MAP, &held, &DeleteOptions::default(), NOW),
            Deletion::Begin(_)
        ));
    }

    #[test]
    fn options_are_read_from_a_body() {
        let body = json!({"gracePeriodSeconds": 5, "propagationPolicy": "Foreground", "preconditions": {"uid": "u"}});
        let options = DeleteOptions::parse(&body).expect("right");
        assert_eq!(options.grace_period_seconds, Some(5));
        assert_eq!(options.propagation, Some(Propagation::Foreground));
        assert_eq!(options.uid.as_deref(), Some("u"));
        assert!(DeleteOptions::parse(&json!({"propagationPolicy": "Maybe"})).is_err());
    }
}

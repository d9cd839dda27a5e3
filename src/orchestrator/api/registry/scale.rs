//! autoscaling/v1 Scale, as a view of an object with `spec.replicas`.

use serde_json::{Value, json};

use crate::orchestrator::api::kinds::Kind;
use crate::orchestrator::api::status::Status;

/// The Scale of an object.
pub(in crate::orchestrator::api) fn from_object(kind: &Kind, object: &Value) -> Value {
    let get = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": get("/metadata/name"),
            "namespace": get("/metadata/namespace"),
            "uid": get("/metadata/uid"),
            "resourceVersion": get("/metadata/resourceVersion"),
            "creationTimestamp": get("/metadata/creationTimestamp"),
        },
        "spec": {"replicas": object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0)},
        "status": {
            "replicas": object.pointer("/status/replicas").and_then(Value::as_i64).unwrap_or(0),
            "selector": (kind.strategy.selector)(object),
        },
    })
}

/// The object as the Scale wants it.
pub(in crate::orchestrator::api) fn apply(object: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => value
            .as_i64()
            .ok_or_else(|| Status::bad_request("spec.replicas must be a whole number"))?,
    };
    let mut next = object.clone();
    next["spec"]["replicas"] = json!(replicas);
    if let Some(revision) = scale
        .pointer("/metadata/resourceVersion")
        .filter(|revision| revision.is_string())
    {
        next["metadata"]["resourceVersion"] = revision.clone();
    }
    Ok(next)
}

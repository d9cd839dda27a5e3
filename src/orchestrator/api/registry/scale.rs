//! autoscaling/v1 Scale, as a view of an object with `spec.replicas`.

use serde_json::{Value, json};

use crate::orchestrator::api::kinds::Kind;
use crate::orchestrator::api::status::Status;

/// The Scale of an object.
pub(in crate::orchestrator::api) fn from_object(kind: &Kind, object: &Value) -> Value {
    let get = |pointer: &str| object.pointer(pointer).cloned().unwrap_or_default();
    let replicas = |pointer: &str| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let (wanted, present, selector) = match kind.definition() {
        Some(definition) => definition.scale(object),
        None => (
            replicas("/spec/replicas"),
            replicas("/status/replicas"),
            (kind.strategy.selector)(object),
        ),
    };
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
        "spec": {"replicas": wanted},
        "status": {"replicas": present, "selector": selector},
    })
}

fn out_of_range(scale: &Value) -> Status {
    let name = scale.pointer("/metadata/name").and_then(Value::as_str);
    let mut status = Status::bad_request(format!(
        "Scale \"{}\" is invalid: spec.replicas: Invalid value: must be between 0 and {}",
        name.unwrap_or_default(),
        i32::MAX
    ));
    (status.code, status.reason) = (422, "Invalid");
    status
}

/// The object as the Scale wants it.
pub(in crate::orchestrator::api) fn apply(
    kind: &Kind,
    object: &Value,
    scale: &Value,
) -> Result<Value, Status> {
    if !scale.is_object() {
        return Err(Status::bad_request("the body must be a Scale"));
    }
    for (field, wanted) in [("kind", "Scale"), ("apiVersion", "autoscaling/v1")] {
        match scale.get(field) {
            None | Some(Value::Null) => {}
            Some(Value::String(given)) if given.is_empty() || given == wanted => {}
            Some(_) => {
                return Err(Status::bad_request(format!(
                    "{field} in the body must be `{wanted}`"
                )));
            }
        }
    }
    let object_or_absent =
        |value: Option<&Value>| matches!(value, None | Some(Value::Null | Value::Object(_)));
    if !object_or_absent(scale.get("spec")) || !object_or_absent(scale.get("metadata")) {
        return Err(Status::bad_request(
            "spec and metadata of a Scale are objects",
        ));
    }
    // Absent is 0, as in autoscaling/v1; clients read an int32.
    let replicas = match scale.pointer("/spec/replicas") {
        None | Some(Value::Null) => 0,
        Some(value) => {
            let whole = value
                .as_i64()
                .ok_or_else(|| Status::bad_request("spec.replicas must be a whole number"))?;
            i32::try_from(whole)
                .ok()
                .filter(|replicas| *replicas >= 0)
                .ok_or_else(|| out_of_range(scale))?
        }
    };
    let mut next = object.clone();
    match kind.definition() {
        Some(definition) => definition.rescale(&mut next, replicas),
        None => next["spec"]["replicas"] = json!(replicas),
    }
    if let Some(revision) = scale
        .pointer("/metadata/resourceVersion")
        .filter(|revision| revision.is_string())
    {
        next["metadata"]["resourceVersion"] = revision.clone();
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::kinds;

    #[test]
    fn only_a_scale_within_what_clients_read_is_taken() {
        let object = json!({"metadata": {"name": "r"}, "spec": {"replicas": 3}});
        let kind = &kinds::REPLICATION_CONTROLLER;
        let code =
            |scale: Value| apply(kind, &object, &scale).map_or_else(|status| status.code, |_| 200);
        for body in [json!(5), json!("x"), json!([]), json!(null), json!(true)] {
            assert_eq!(code(body), 400);
        }
        assert_eq!(code(json!({"kind": "Pod"})), 400);
        assert_eq!(code(json!({"spec": [1]})), 400);
        assert_eq!(code(json!({"spec": {"replicas": 1.5}})), 400);
        for beyond in [i64::MAX, i64::from(i32::MAX) + 1, -1] {
            assert_eq!(code(json!({"spec": {"replicas": beyond}})), 422);
        }
        let scaled = apply(
            kind,
            &object,
            &json!({"kind": "Scale", "spec": {"replicas": i32::MAX}}),
        );
        assert_eq!(
            scaled.expect("applied")["spec"]["replicas"],
            json!(i32::MAX)
        );
    }
}

//! Unknown fields: refused, warned about or dropped, as `fieldValidation` says.
//!
//! Kubernetes' own types find them: an object is read into its type and written again; what did not come back is unknown.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::custom::Definition;
use super::kinds::Kind;
use super::kinds::parts::causes::clipped;
use super::kinds::parts::decode::through;
use super::limits::FIELDS_IN_MESSAGE;
use super::status::Status;
use super::wrong_type::WrongType;

/// What to do about unknown fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// 400.
    Strict,
    /// Drop them and say so.
    Warn,
    /// Drop them.
    Ignore,
}

impl FieldValidation {
    /// From the request's parameter; empty is Kubernetes' default, Warn.
    pub fn parse(text: &str) -> Result<Self, Status> {
        match text {
            "Strict" => Ok(Self::Strict),
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            other => Err(Status::bad_request(format!(
                "fieldValidation `{other}` is not one of Strict, Warn, Ignore"
            ))),
        }
    }
}

/// Drops unknown fields of `object`, and returns a warning for each if they are wanted. 400 when a field has the wrong type.
pub fn check(
    kind: &Kind,
    object: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, Status> {
    let unknown = drop_unknown_fields(kind, object).map_err(|wrong| {
        Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {}",
            kind.kind,
            kind.version,
            kind.kind,
            wrong.sentence()
        ))
    })?;
    let mut messages: Vec<String> = unknown
        .iter()
        .take(FIELDS_IN_MESSAGE)
        .map(|field| format!("unknown field \"{}\"", clipped(field)))
        .collect();
    if let Some(others @ 1..) = unknown.len().checked_sub(FIELDS_IN_MESSAGE) {
        messages.push(format!("{others} more unknown fields"));
    }
    match validation {
        FieldValidation::Strict if !messages.is_empty() => Err(Status::bad_request(format!(
            "strict decoding error: {}",
            messages.join(", ")
        ))),
        FieldValidation::Warn => Ok(messages),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}

/// Drops unknown fields of `object` and returns their paths, unless a field has the wrong type.
pub(super) fn drop_unknown_fields(
    kind: &Kind,
    object: &mut Value,
) -> Result<Vec<String>, WrongType> {
    if let Some(definition) = kind.definition() {
        return drop_undefined(&definition, object);
    }
    let decode = kind.strategy.decode;
    let typed = decode(object).map_err(|error| WrongType::find(decode, object, &error))?;
    let mut unknown = Vec::new();
    drop_unknown(object, &typed, "", &mut unknown);
    Ok(unknown)
}

/// What every object has, whatever its kind.
#[derive(serde::Deserialize, serde::Serialize)]
struct Bare {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// The same for an object that has no type but its definition's schema.
fn drop_undefined(definition: &Definition, object: &mut Value) -> Result<Vec<String>, WrongType> {
    let decode = through::<Bare>;
    let typed = decode(object).map_err(|error| WrongType::find(decode, object, &error))?;
    let mut unknown = Vec::new();
    if let (Some(metadata), Some(typed)) = (object.get_mut("metadata"), typed.get("metadata")) {
        drop_unknown(metadata, typed, "metadata", &mut unknown);
    }
    unknown.extend(definition.prune(object));
    Ok(unknown)
}

fn drop_unknown(object: &mut Value, typed: &Value, path: &str, unknown: &mut Vec<String>) {
    match (object, typed) {
        (Value::Object(map), Value::Object(known)) => {
            map.retain(|key, value| {
                // An empty or null field may be left out on the way back without being unknown.
                let kept = known.contains_key(key) || is_empty(value);
                if !kept {
                    unknown.push(join(path, key));
                }
                kept
            });
            for (key, value) in map.iter_mut() {
                if let Some(typed) = known.get(key) {
                    drop_unknown(value, typed, &join(path, key), unknown);
                }
            }
        }
        (Value::Array(list), Value::Array(known)) => {
            for (number, (value, typed)) in list.iter_mut().zip(known).enumerate() {
                drop_unknown(value, typed, &format!("{path}[{number}]"), unknown);
            }
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::kinds;

    fn pod() -> Value {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "color": "red"},
            "spec": {"containers": [{"name": "c", "imagee": "x", "resources": {}}], "nodeSelector": null}})
    }

    #[test]
    fn unknown_fields_are_listed_or_dropped() {
        let refused = check(&kinds::POD, &mut pod(), FieldValidation::Strict).expect_err("refused");
        assert_eq!(refused.code, 400);
        assert_eq!(
            refused.message,
            "strict decoding error: unknown field \"metadata.color\", unknown field \"spec.containers[0].imagee\""
        );
        let mut object = pod();
        assert_eq!(
            check(&kinds::POD, &mut object, FieldValidation::Warn)
                .expect("accepted")
                .len(),
            2
        );
        assert_eq!(
            object["spec"]["containers"][0],
            json!({"name": "c", "resources": {}})
        );
    }

    #[test]
    fn a_wrong_type_is_refused_in_every_mode() {
        let mut object = json!({"metadata": {"name": "p"}, "spec": {"containers": "none"}});
        assert_eq!(
            check(&kinds::POD, &mut object, FieldValidation::Ignore)
                .expect_err("refused")
                .code,
            400
        );
        let mut secret = json!({"metadata": {"name": "s"}, "data": {"k": "not base64!"}});
        assert!(check(&kinds::SECRET, &mut secret, FieldValidation::Strict).is_ok());
    }
}

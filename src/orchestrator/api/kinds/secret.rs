//! v1 Secret. Its values are never repeated in a message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, NAME, column, text};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::no_warnings;
use super::parts::{data, names, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy};
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: &[
        NAME,
        column("Type", |secret| json!(text(secret, "/type"))),
        column("Data", data::count),
        AGE,
    ],
    selectable_fields: &["type"],
    selector: selector::none,
    generation: Generation::Absent,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

/// Base64 that is wrong is for validation to name, key by key.
fn decode(object: &Value) -> Result<Value, serde_json::Error> {
    let mut without = object.clone();
    let data = without
        .as_object_mut()
        .and_then(|map| map.shift_remove("data"));
    let mut typed = through::<Secret>(&without)?;
    if let (Some(data), Some(map)) = (data, typed.as_object_mut()) {
        map.insert("data".to_owned(), data);
    }
    Ok(typed)
}

fn defaults(map: &mut Object) {
    set(Some(map), "type", json!("Opaque"));
    for value in child(map, "data")
        .into_iter()
        .flat_map(|data| data.values_mut())
    {
        // Go's decoder passes over line breaks, and Kubernetes stores what it encoded again (encoding/base64, Encoding.Decode).
        if let Some(text) = value.as_str().filter(|text| text.contains(['\r', '\n'])) {
            *value = json!(text.replace(['\r', '\n'], ""));
        }
    }
    let Some(Value::Object(plain)) = map.shift_remove("stringData") else {
        return;
    };
    let data = map.entry("data").or_insert_with(|| json!({}));
    if !data.is_object() {
        *data = json!({});
    }
    for (key, value) in plain {
        let text = value.as_str().unwrap_or_default();
        data[key] = json!(STANDARD.encode(text));
    }
}

/// Docker's configuration is there and is JSON (`ValidateSecret`); what is in it is looked at when it is used.
fn pull_secret(object: &Value, found: &mut Causes) {
    let key = match text(object, "/type") {
        "kubernetes.io/dockerconfigjson" => ".dockerconfigjson",
        "kubernetes.io/dockercfg" => ".dockercfg",
        _ => return,
    };
    let Some(value) = object.get("data").and_then(|data| data.get(key)) else {
        return found.required(format!("data[{key}]"), "");
    };
    let decoded = value.as_str().and_then(|text| STANDARD.decode(text).ok());
    // What is no base64 is told already.
    if decoded.is_some_and(|bytes| serde_json::from_slice::<Object>(&bytes).is_err()) {
        found.invalid(format!("data[{key}]"), value, "must be a JSON object");
    }
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    data::keys(object, "data", found);
    for (key, value) in object
        .get("data")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if value
            .as_str()
            .is_none_or(|text| STANDARD.decode(text).is_err())
        {
            // `validation` has values of Secrets redacted.
            found.invalid(format!("data[{key}]"), value, "must be base64");
        }
    }
    pull_secret(object, found);
    if let Some(old) = old
        && old.get("type") != object.get("type")
    {
        found.invalid(
            "type",
            object.get("type").unwrap_or(&Value::Null),
            "field is immutable",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::{defaults, kinds, validation};

    #[test]
    fn a_pull_secret_has_dockers_configuration() {
        let fields = |data: Value| -> Vec<String> {
            let mut secret = json!({"metadata": {"name": "quay"}, "type": "kubernetes.io/dockerconfigjson", "stringData": data});
            defaults::apply(&kinds::SECRET, &mut secret);
            let causes = validation::check(&kinds::SECRET, &secret, None);
            assert!(
                causes
                    .iter()
                    .all(|cause| !cause.message.contains("Z2VoZWlt"))
            );
            causes.into_iter().map(|cause| cause.field).collect()
        };
        assert_eq!(
            fields(json!({".dockerconfigjson": "{\"auths\": {}}"})),
            [""; 0]
        );
        assert_eq!(fields(json!({"other": "{}"})), ["data[.dockerconfigjson]"]);
        // `geheim`, which is `Z2VoZWlt` in base64.
        assert_eq!(
            fields(json!({".dockerconfigjson": "geheim"})),
            ["data[.dockerconfigjson]"]
        );
    }
}

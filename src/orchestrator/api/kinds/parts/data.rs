//! The keys and the size of a ConfigMap's or a Secret's data.

use serde_json::{Value, json};

use super::causes::Causes;

/// Objects larger than this do not fit etcd either.
const MAX_DATA_BYTES: usize = 1 << 20;

pub(in crate::orchestrator::api) fn keys(object: &Value, field: &str, found: &mut Causes) {
    let mut total = 0;
    for (key, value) in object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        total += value.as_str().map_or(0, str::len);
        let right = !key.is_empty()
            && key.len() <= 253
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if !right || key == "." || key.starts_with("..") {
            found.invalid(
                format!("{field}[{key}]"),
                &Value::from(key.as_str()),
                "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
            );
        }
    }
    if total > MAX_DATA_BYTES {
        found.too_long(field, MAX_DATA_BYTES);
    }
}

/// How many keys an object has.
pub(in crate::orchestrator::api) fn count(object: &Value) -> Value {
    let count = |field: &str| {
        object
            .get(field)
            .and_then(Value::as_object)
            .map_or(0, serde_json::Map::len)
    };
    json!((count("data") + count("binaryData")).to_string())
}

//! What JSON from outside may be: how deep, and how many values.

use serde_json::Value;

use super::limits::{JSON_VALUES, OBJECT_DEPTH};
use super::status::Status;
use crate::orchestrator::measure::measure;

/// 400 for an object that no parser would read back, 413 for one with too many values.
pub fn check_object(object: &Value) -> Result<(), Status> {
    let found = measure(object);
    if found.depth > OBJECT_DEPTH {
        return Err(too_deep());
    }
    if found.values > JSON_VALUES {
        return Err(too_many_values());
    }
    Ok(())
}

pub(super) fn too_deep() -> Status {
    Status::bad_request(format!(
        "the object would be nested more than {OBJECT_DEPTH} levels deep"
    ))
}

fn too_many_values() -> Status {
    Status::too_large(format!("more than {JSON_VALUES} values in one document"))
}

/// 413 for a text of JSON with too many values, found without making any of them.
pub fn check_text(json: &[u8]) -> Result<(), Status> {
    let (mut values, mut quoted, mut escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            // One value follows each of these, or none after the opening of an empty one.
            b',' | b'[' | b'{' if !quoted => values += 1,
            _ => {}
        }
    }
    if values > JSON_VALUES {
        Err(too_many_values())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_and_number_are_found() {
        assert!(check_object(&json!({"a": vec![0; JSON_VALUES]})).is_err());
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        assert!(check_object(&nested(OBJECT_DEPTH)).is_ok());
        assert_eq!(
            check_object(&nested(OBJECT_DEPTH + 1))
                .expect_err("too deep")
                .code,
            400
        );
    }

    #[test]
    fn text_is_counted_without_what_is_quoted() {
        let quoted = format!(
            r#"{{"a": "{}", "b\"": "{}"}}"#,
            ",[{".repeat(100_000),
            r#"\","#.repeat(100_000)
        );
        assert!(check_text(quoted.as_bytes()).is_ok());
        assert_eq!(
            check_text(format!("[{}1]", "1,".repeat(JSON_VALUES)).as_bytes())
                .expect_err("too many")
                .code,
            413
        );
    }
}

//! Numbers and percentages (k8s.io/apimachinery/pkg/apis/meta/v1/validation, apps/validation).

use serde_json::Value;

use super::causes::Causes;

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%', or '93%', regex used for validation is '[0-9]+%')";
const NOT_NEGATIVE: &str = "must be greater than or equal to 0";

/// A whole number of at least 0, or so many per cent, at most 100.
pub(in crate::orchestrator::api) fn count_or_percent(
    value: &Value,
    path: &str,
    found: &mut Causes,
) {
    match value {
        Value::Number(number) if number.as_i64().is_some_and(|number| number >= 0) => {}
        Value::Number(_) => found.invalid(path, value, NOT_NEGATIVE),
        _ => match percent(value) {
            None => found.invalid(path, value, PERCENT),
            Some(percent) if percent > 100 => {
                found.invalid(path, value, "must not be greater than 100%");
            }
            Some(_) => {}
        },
    }
}

fn percent(value: &Value) -> Option<u32> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(u32::MAX))
}

/// Fields of `object` that, if they are there, are at least 0.
pub(in crate::orchestrator::api) fn not_negative(
    object: &Value,
    path: &str,
    fields: &[&str],
    found: &mut Causes,
) {
    for field in fields {
        let value = object.get(*field).filter(|value| !value.is_null());
        if let Some(value) = value.filter(|value| value.as_i64().is_none_or(|number| number < 0)) {
            found.invalid(format!("{path}.{field}"), value, NOT_NEGATIVE);
        }
    }
}

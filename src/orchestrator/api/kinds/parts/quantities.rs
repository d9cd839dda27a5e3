//! Quantities (k8s.io/apimachinery/pkg/api/resource).

use serde_json::Value;

use super::causes::Causes;

/// What is wrong with a quantity.
pub(in crate::orchestrator::api) fn quantity(value: &Value, path: &str, found: &mut Causes) {
    if !is_quantity(value) {
        found.invalid(
            path,
            value,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
    }
}

fn is_quantity(value: &Value) -> bool {
    let text = match value {
        Value::String(text) => text.as_str(),
        Value::Number(_) => return true,
        _ => return false,
    };
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = digits
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(digits.len());
    let (number, suffix) = digits.split_at(end);
    let right =
        number.bytes().any(|byte| byte.is_ascii_digit()) && number.matches('.').count() <= 1;
    let exponent = suffix
        .strip_prefix(['e', 'E'])
        .is_some_and(|power| power.parse::<i32>().is_ok());
    let known = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    right && (known.contains(&suffix) || exponent)
}

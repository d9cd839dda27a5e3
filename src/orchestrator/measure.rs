//! Measures JSON: how deep it is, how many values it has, what it weighs in memory.

use serde_json::Value;

/// What a value takes in memory besides its text.
const VALUE_BYTES: usize = 72;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Measure {
    /// 0 for a plain value, one more for each list or object around it.
    pub(crate) depth: usize,
    /// Values, keys not counted.
    pub(crate) values: usize,
    /// About the memory it takes.
    pub(crate) bytes: usize,
}

/// Measures a value that is not too deep to be walked through, as everything that was parsed or patched is.
#[must_use]
pub(crate) fn measure(value: &Value) -> Measure {
    let mut found = Measure {
        depth: 0,
        values: 1,
        bytes: VALUE_BYTES,
    };
    let mut inside = |child: &Value, key: usize| {
        let child = measure(child);
        found.depth = found.depth.max(child.depth + 1);
        found.values += child.values;
        found.bytes += child.bytes + key;
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| inside(value, key.len())),
        Value::Array(list) => list.iter().for_each(|value| inside(value, 0)),
        Value::String(text) => found.bytes += text.len(),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn depth_number_and_weight_are_found() {
        let found = measure(&json!({"a": [{"b": 1}, "xyz"], "c": null}));
        let bytes = 6 * VALUE_BYTES + 6;
        assert_eq!((found.depth, found.values, found.bytes), (3, 6, bytes));
    }
}

//! A field of a wrong type: where it stands and what was expected there. Never its value, which may be a secret.
//!
//! Kubernetes' types tell of the first value that they cannot read, without its place. The place is found by asking again about less:
//! the object as far as the wrong value gives the same error, and everything before it does not.

use serde_json::{Map, Value};

use super::kinds::parts::causes::clipped;

/// Reads an object into its type and writes it again.
type Decode = fn(&Value) -> Result<Value, serde_json::Error>;

/// How often an object is read again to find a place.
const READS: usize = 64;
/// A larger object is not: it would take long.
const LOCATED_BYTES: usize = 64 << 10;

/// What serde calls what it found, and how we call it.
const FOUND: &[(&str, &str)] = &[
    ("boolean", "a boolean"),
    ("integer", "a number"),
    ("floating point", "a number"),
    ("string", "a string"),
    ("character", "a string"),
    ("null", "null"),
    ("unit value", "null"),
    ("sequence", "a list"),
    ("map", "an object"),
];

/// A field that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WrongType {
    /// `spec.ports[0].port`; empty if it was not found.
    pub(super) field: String,
    /// `expected a string, not a number`.
    pub(super) problem: String,
}

impl WrongType {
    /// What is wrong with `object`, which `decode` refused with `error`.
    pub(super) fn find(decode: Decode, object: &Value, error: &serde_json::Error) -> Self {
        let text = error.to_string();
        Self {
            field: locate(decode, object, &text).unwrap_or_default(),
            problem: describe(&text),
        }
    }

    /// Both in one sentence.
    pub(super) fn sentence(&self) -> String {
        if self.field.is_empty() {
            self.problem.clone()
        } else {
            format!("{}: {}", self.field, self.problem)
        }
    }
}

/// The error without what it quotes. What was expected stands last, in the words of the type.
fn describe(error: &str) -> String {
    if error.starts_with("missing field `") || error.starts_with("duplicate field `") {
        return clipped(error);
    }
    let quoted = ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .find_map(|start| error.strip_prefix(start));
    let Some((found, expected)) = quoted.and_then(|rest| rest.rsplit_once(", expected ")) else {
        return "a value that cannot be read".to_owned();
    };
    let found = FOUND.iter().find(|(start, _)| found.starts_with(start));
    let expected = match expected {
        "i32" | "i64" => "a whole number in its range",
        "a sequence" => "a list",
        "a map" => "an object",
        other => other.strip_prefix("struct ").unwrap_or(other),
    };
    match found {
        Some((_, found)) => format!("expected {}, not {found}", clipped(expected)),
        None => format!("expected {}", clipped(expected)),
    }
}

/// The path of the first value that makes `decode` fail with `error`.
fn locate(decode: Decode, object: &Value, error: &str) -> Option<String> {
    if crate::orchestrator::measure::measure(object).bytes > LOCATED_BYTES {
        return None;
    }
    let mut search = Search {
        decode,
        error,
        object: object.clone(),
        reads: 0,
    };
    let mut path = Vec::new();
    while let Some(step) = search.descend(&path)? {
        path.push(step);
    }
    Some(written(&path))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Element(usize),
}

struct Search<'a> {
    decode: Decode,
    error: &'a str,
    object: Value,
    reads: usize,
}

impl Search<'_> {
    /// The child of the value at `path` that holds the wrong value; `Some(None)` if the value itself is wrong.
    fn descend(&mut self, path: &[Step]) -> Option<Option<Step>> {
        let whole = at(&mut self.object, path)?.clone();
        let children = match &whole {
            Value::Object(map) => map.len(),
            Value::Array(list) => list.len(),
            _ => return Some(None),
        };
        if self.fails_with(path, first(&whole, 0))? {
            return Some(None);
        }
        // With the first `without` children it can be read, with the first `with` it cannot.
        let (mut without, mut with) = (0, children);
        while without + 1 < with {
            let middle = usize::midpoint(without, with);
            if self.fails_with(path, first(&whole, middle))? {
                with = middle;
            } else {
                without = middle;
            }
        }
        *at(&mut self.object, path)? = first(&whole, with);
        Some(match &whole {
            Value::Object(map) => map.keys().nth(without).cloned().map(Step::Key),
            _ => (without < children).then_some(Step::Element(without)),
        })
    }

    /// Whether the object fails in the same way with `value` at `path`. `None` when it was read too often.
    fn fails_with(&mut self, path: &[Step], value: Value) -> Option<bool> {
        self.reads += 1;
        if self.reads > READS {
            return None;
        }
        *at(&mut self.object, path)? = value;
        let read = (self.decode)(&self.object);
        Some(read.is_err_and(|error| error.to_string() == self.error))
    }
}

fn at<'a>(object: &'a mut Value, path: &[Step]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |inner, step| match step {
        Step::Key(key) => inner.get_mut(key.as_str()),
        Step::Element(number) => inner.get_mut(*number),
    })
}

/// The value with its first children only.
fn first(value: &Value, count: usize) -> Value {
    match value {
        Value::Object(map) => {
            let some = map.iter().take(count);
            let some: Map<String, Value> = some.map(|(k, v)| (k.clone(), v.clone())).collect();
            Value::Object(some)
        }
        Value::Array(list) => Value::Array(list[..count].to_vec()),
        other => other.clone(),
    }
}

fn written(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(&clipped(key)),
            Step::Key(key) => {
                text.push('.');
                text.push_str(&clipped(key));
            }
            Step::Element(number) => text.push_str(&format!("[{number}]")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::kinds::{self, Kind};

    fn found(kind: &Kind, object: &Value) -> String {
        let error = (kind.strategy.decode)(object).expect_err("it is of a wrong type");
        WrongType::find(kind.strategy.decode, object, &error).sentence()
    }

    #[test]
    fn the_field_is_named_and_its_value_is_not() {
        let secret = |field: &str, value: Value| {
            found(
                &kinds::SECRET,
                &json!({"metadata": {"name": "s", "labels": {"a": "b"}}, field: value, "immutable": true}),
            )
        };
        assert_eq!(
            secret(
                "stringData",
                json!({"user": "u", "password": 48_151_623, "c": "d"})
            ),
            "stringData.password: expected a string, not a number"
        );
        assert_eq!(
            secret("stringData", json!("geheim, expected geheim")),
            "stringData: expected an object, not a string"
        );
        assert_eq!(
            secret("type", json!(["geheim"])),
            "type: expected a string, not a list"
        );
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "c",
            "env": [{"name": "A", "value": "x"}, {"name": "B", "value": 5.5}], "image": "i"}]}});
        assert_eq!(
            found(&kinds::POD, &pod),
            "spec.containers[1].env[1].value: expected a string, not a number"
        );
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}, {"port": "geheim"}]}});
        assert_eq!(
            found(&kinds::SERVICE, &service),
            "spec.ports[1].port: expected a whole number in its range, not a string"
        );
        assert_eq!(
            found(&kinds::POD, &json!({"metadata": [1]})),
            "metadata: expected ObjectMeta, not a list"
        );
    }

    #[test]
    fn a_large_object_is_told_without_its_place_and_still_without_its_value() {
        let text = "é".repeat(LOCATED_BYTES);
        let object = json!({"metadata": {"name": "s"}, "data": {"a": text}, "immutable": text});
        assert_eq!(
            found(&kinds::SECRET, &object),
            "expected a boolean, not a string"
        );
    }
}

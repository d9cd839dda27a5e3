//! What a schema makes of an object: unknown fields go, defaults come.

use serde_json::{Map, Value};

use super::schema::{Additional, Schema};

/// Fields that every object has, whatever its schema says.
const OF_EVERY_OBJECT: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Where an object stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// It is an object of the API: it has a kind and metadata.
    Yes,
    /// It is a part of one.
    No,
}

/// Takes out what the schema does not know, and notes its path. `metadata` is looked at elsewhere.
pub(super) fn prune(
    schema: &Schema,
    value: &mut Value,
    whole: Whole,
    path: &str,
    unknown: &mut Vec<String>,
) {
    match value {
        Value::Object(map) => prune_object(schema, map, whole, path, unknown),
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (number, value) in list.iter_mut().enumerate() {
                    let path = format!("{path}[{number}]");
                    prune(items, value, whole_if(items), &path, unknown);
                }
            } else if !schema.preserves {
                // A list of what nobody described.
                list.clear();
            }
        }
        _ => {}
    }
}

fn whole_if(schema: &Schema) -> Whole {
    if schema.embedded {
        Whole::Yes
    } else {
        Whole::No
    }
}

fn prune_object(
    schema: &Schema,
    map: &mut Map<String, Value>,
    whole: Whole,
    path: &str,
    unknown: &mut Vec<String>,
) {
    map.retain(|name, value| {
        if whole == Whole::Yes && OF_EVERY_OBJECT.contains(&name.as_str()) {
            return true;
        }
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let inner: &Schema = match (schema.properties.get(name), &schema.additional) {
            (Some(inner), _) => inner,
            (None, Additional::Values(inner)) => inner,
            (None, Additional::Anything) => return true,
            (None, Additional::Nothing) => {
                if !schema.preserves {
                    unknown.push(path);
                }
                return schema.preserves;
            }
        };
        prune(inner, value, whole_if(inner), &path, unknown);
        true
    });
}

/// Fills in what is absent, or null where null is nothing.
pub(super) fn default(schema: &Schema, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, inner) in &schema.properties {
                let absent = match map.get(name) {
                    None => true,
                    Some(Value::Null) => !inner.nullable,
                    Some(_) => false,
                };
                if let Some(default) = inner.default.as_ref().filter(|_| absent) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map.iter_mut() {
                match (schema.properties.get(name), &schema.additional) {
                    (Some(inner), _) => self::default(inner, value),
                    (None, Additional::Values(inner)) => self::default(inner, value),
                    (None, Additional::Nothing | Additional::Anything) => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for value in list {
                    default(items, value);
                }
            }
        }
        _ => {}
    }
}

//! From JSON to protobuf.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::schema::{self, Field, Shape, Type};
use super::wire::{put_bytes, put_fixed, put_number};
use super::{DEPTH, MAGIC};

/// Writes an object or a list in its envelope; `None` if its type is not described.
pub(in crate::orchestrator::api) fn encode(object: &Value) -> Option<Vec<u8>> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    let (api_version, kind) = (text("apiVersion")?, text("kind")?);
    let map = object.as_object()?;
    let mut raw = Vec::new();
    match (
        schema::of_object(api_version, kind),
        kind.strip_suffix("List"),
    ) {
        (Some((_, fields)), _) => message(fields, map, &mut raw, 0),
        (None, Some(item)) => {
            let (_, fields) = schema::of_object(api_version, item)?;
            let metadata = map.get("metadata").and_then(Value::as_object);
            let mut inner = Vec::new();
            if let (Some(metadata), Some(fields)) = (metadata, schema::named("meta.ListMeta")) {
                message(fields, metadata, &mut inner, 1);
            }
            put_bytes(&mut raw, 1, &inner);
            for item in map.get("items").and_then(Value::as_array)? {
                let mut inner = Vec::new();
                message(fields, item.as_object()?, &mut inner, 1);
                put_bytes(&mut raw, 2, &inner);
            }
        }
        (None, None) => return None,
    }
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, &raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    Some(out)
}

/// Writes a message by its name, without an envelope.
pub(in crate::orchestrator::api) fn encode_message(name: &str, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let (Some(fields), Some(map)) = (schema::named(name), value.as_object()) {
        message(fields, map, &mut out, 0);
    }
    out
}

fn message(fields: &[Field], object: &Map<String, Value>, out: &mut Vec<u8>, depth: usize) {
    if depth > DEPTH {
        return;
    }
    for field in fields {
        if let (Type::Message(at), "~") = (field.of, field.name) {
            let mut inner = Vec::new();
            message(schema::message(at), object, &mut inner, depth + 1);
            if !inner.is_empty() {
                put_bytes(out, field.number, &inner);
            }
            continue;
        }
        let Some(value) = object.get(field.name).filter(|value| !value.is_null()) else {
            continue;
        };
        match field.shape {
            Shape::One | Shape::Optional => put(field.of, field.number, value, out, depth),
            Shape::List => {
                for item in value.as_array().into_iter().flatten() {
                    put(field.of, field.number, item, out, depth);
                }
            }
            Shape::Map => {
                for (key, item) in value.as_object().into_iter().flatten() {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    put(field.of, 2, item, &mut entry, depth);
                    put_bytes(out, field.number, &entry);
                }
            }
        }
    }
}

fn put(of: Type, number: u64, value: &Value, out: &mut Vec<u8>, depth: usize) {
    let text = value.as_str().unwrap_or_default();
    let mut inner = Vec::new();
    match of {
        Type::Text => return put_bytes(out, number, text.as_bytes()),
        Type::Integer => {
            let integer = value.as_i64().unwrap_or_default();
            return put_number(out, number, integer.cast_unsigned());
        }
        Type::Boolean => {
            return put_number(out, number, u64::from(value.as_bool().unwrap_or_default()));
        }
        Type::Bytes => inner = STANDARD.decode(text).unwrap_or_default(),
        Type::Quantity if value.is_string() => put_bytes(&mut inner, 1, text.as_bytes()),
        Type::Quantity | Type::Json => put_bytes(&mut inner, 1, value.to_string().as_bytes()),
        Type::Time | Type::MicroTime => {
            if let Ok(at) = text.parse::<Timestamp>() {
                put_number(&mut inner, 1, at.as_second().cast_unsigned());
                let nanoseconds = i64::from(at.subsec_nanosecond());
                put_number(&mut inner, 2, nanoseconds.cast_unsigned());
            }
        }
        Type::IntOrString => {
            put_number(&mut inner, 1, u64::from(value.is_string()));
            let integer = value.as_i64().unwrap_or_default();
            put_number(&mut inner, 2, integer.cast_unsigned());
            put_bytes(&mut inner, 3, text.as_bytes());
        }
        Type::Double => {
            return put_fixed(out, number, value.as_f64().unwrap_or_default());
        }
        Type::SchemaOrBool => {
            put_number(&mut inner, 1, u64::from(*value != Value::Bool(false)));
            if let Some(object) = value.as_object() {
                let fields = schema::named(schema::JSON_SCHEMA).unwrap_or_default();
                let mut schema = Vec::new();
                message(fields, object, &mut schema, depth + 1);
                put_bytes(&mut inner, 2, &schema);
            }
        }
        Type::Texts => {
            for item in value.as_array().into_iter().flatten() {
                put_bytes(&mut inner, 1, item.as_str().unwrap_or_default().as_bytes());
            }
        }
        Type::Message(at) => {
            if let Some(object) = value.as_object() {
                message(schema::message(at), object, &mut inner, depth + 1);
            }
        }
    }
    put_bytes(out, number, &inner);
}

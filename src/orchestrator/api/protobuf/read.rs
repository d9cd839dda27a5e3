//! From protobuf to JSON.

use std::cell::Cell;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::schema::{self, Field, Shape, Type};
use super::wire::{Broken, Reader, Wire};
use super::{DEPTH, MAGIC};
use crate::orchestrator::api::bounds;
use crate::orchestrator::limits::JSON_VALUES;

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::orchestrator::api) enum DecodeError {
    /// No envelope, or a broken message.
    #[error("the body is not protobuf of Kubernetes")]
    Broken,
    /// A type that is not described.
    #[error("the type {kind} of {api_version} is not known in protobuf: send JSON")]
    Unknown {
        /// `apiVersion`.
        api_version: String,
        /// `kind`.
        kind: String,
    },
}

impl From<Broken> for DecodeError {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// Where a message stands: two bytes of it may become a value that takes a hundred.
#[derive(Clone, Copy)]
struct At<'a> {
    depth: usize,
    values_left: &'a Cell<usize>,
}

impl At<'_> {
    /// Inside of a message.
    fn deeper(self) -> Result<Self, Broken> {
        if self.depth >= DEPTH {
            return Err(Broken);
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }

    /// Another value is made.
    fn another(self) -> Result<(), Broken> {
        let left = self.values_left.get().checked_sub(1).ok_or(Broken)?;
        self.values_left.set(left);
        Ok(())
    }
}

/// JSON within protobuf.
fn json_within(raw: &[u8]) -> Result<Value, Broken> {
    bounds::check_text(raw).map_err(|_| Broken)?;
    serde_json::from_slice(raw).map_err(|_| Broken)
}

/// Reads a body: an envelope with an object in it.
pub(in crate::orchestrator::api) fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let mut envelope = Reader(body.strip_prefix(MAGIC).ok_or(DecodeError::Broken)?);
    let (mut meta, mut raw, mut content) = (&[][..], &[][..], "");
    while let Some((field, value)) = envelope.next()? {
        match (field, value) {
            (1, Wire::Bytes(bytes)) => meta = bytes,
            (2, Wire::Bytes(bytes)) => raw = bytes,
            (4, Wire::Bytes(bytes)) => content = text(bytes)?,
            _ => {}
        }
    }
    if content == "application/json" {
        return Ok(json_within(raw)?);
    }
    let (mut api_version, mut kind) = ("", "");
    let mut meta = Reader(meta);
    while let Some((field, value)) = meta.next()? {
        match (field, value) {
            (1, Wire::Bytes(bytes)) => api_version = text(bytes)?,
            (2, Wire::Bytes(bytes)) => kind = text(bytes)?,
            _ => {}
        }
    }
    if kind.is_empty() {
        return Err(DecodeError::Broken);
    }
    let (_, fields) = schema::of_object(api_version, kind).ok_or_else(|| DecodeError::Unknown {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    })?;
    let mut object = Map::new();
    object.insert("kind".to_owned(), json!(kind));
    object.insert("apiVersion".to_owned(), json!(api_version));
    let values_left = Cell::new(JSON_VALUES);
    let at = At {
        depth: 0,
        values_left: &values_left,
    };
    message(fields, raw, &mut object, at)?;
    Ok(Value::Object(object))
}

fn text(bytes: &[u8]) -> Result<&str, Broken> {
    std::str::from_utf8(bytes).map_err(|_| Broken)
}

fn message(
    fields: &[Field],
    bytes: &[u8],
    out: &mut Map<String, Value>,
    at: At<'_>,
) -> Result<(), Broken> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        // A field of a newer release is left out, as Go's decoder does.
        let Some(field) = fields.iter().find(|field| field.number == number) else {
            continue;
        };
        if let (Type::Message(inside), "~", Wire::Bytes(inner)) = (field.of, field.name, wire) {
            message(schema::message(inside), inner, out, at.deeper()?)?;
            continue;
        }
        insert(field, wire, out, at)?;
    }
    Ok(())
}

fn insert(
    field: &Field,
    wire: Wire<'_>,
    out: &mut Map<String, Value>,
    at: At<'_>,
) -> Result<(), Broken> {
    let name = field.name.to_owned();
    match field.shape {
        Shape::One => {
            let value = value(field.of, wire, at)?;
            let zero = match &value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Number(number) => number.as_i64() == Some(0) && field.of == Type::Integer,
                _ => false,
            };
            if !zero {
                out.insert(name, value);
            }
        }
        Shape::Optional => {
            out.insert(name, value(field.of, wire, at)?);
        }
        Shape::List => {
            let list = out.entry(name).or_insert_with(|| json!([]));
            let list = list.as_array_mut().ok_or(Broken)?;
            match (field.of, wire) {
                (Type::Integer, Wire::Bytes(packed)) => {
                    let mut packed = Reader(packed);
                    while !packed.0.is_empty() {
                        at.another()?;
                        list.push(json!(packed.varint()?.cast_signed()));
                    }
                }
                _ => list.push(value(field.of, wire, at)?),
            }
        }
        Shape::Map => {
            let Wire::Bytes(entry) = wire else {
                return Err(Broken);
            };
            let (mut key, mut held) = ("", None);
            let mut entry = Reader(entry);
            while let Some((number, wire)) = entry.next()? {
                match (number, wire) {
                    (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                    (2, wire) => held = Some(value(field.of, wire, at)?),
                    _ => {}
                }
            }
            let map = out.entry(name).or_insert_with(|| json!({}));
            let absent = if field.of == Type::Bytes || field.of == Type::Text {
                json!("")
            } else {
                Value::Null
            };
            map.as_object_mut()
                .ok_or(Broken)?
                .insert(key.to_owned(), held.unwrap_or(absent));
        }
    }
    Ok(())
}

fn value(of: Type, wire: Wire<'_>, at: At<'_>) -> Result<Value, Broken> {
    at.another()?;
    Ok(match (of, wire) {
        (Type::Text, Wire::Bytes(bytes)) => json!(text(bytes)?),
        (Type::Integer, Wire::Number(number)) => json!(number.cast_signed()),
        (Type::Boolean, Wire::Number(number)) => json!(number != 0),
        (Type::Bytes, Wire::Bytes(bytes)) => json!(STANDARD.encode(bytes)),
        (Type::Quantity, Wire::Bytes(bytes)) => first(bytes)?
            .map(|quantity| text(quantity).map(|text| json!(text)))
            .transpose()?
            .unwrap_or(json!("0")),
        (Type::Json, Wire::Bytes(bytes)) => match first(bytes)? {
            Some(raw) => json_within(raw)?,
            None => Value::Null,
        },
        (Type::Time | Type::MicroTime, Wire::Bytes(bytes)) => time(of, bytes)?,
        (Type::IntOrString, Wire::Bytes(bytes)) => int_or_string(bytes)?,
        (Type::Double, Wire::Fixed(bits)) => json!(f64::from_bits(bits)),
        (Type::SchemaOrBool, Wire::Bytes(bytes)) => schema_or_bool(bytes, at)?,
        (Type::Texts, Wire::Bytes(bytes)) => {
            let mut texts = Vec::new();
            let mut reader = Reader(bytes);
            while let Some((_, wire)) = reader.next()? {
                if let Wire::Bytes(bytes) = wire {
                    at.another()?;
                    texts.push(json!(text(bytes)?));
                }
            }
            Value::Array(texts)
        }
        (Type::Message(inside), Wire::Bytes(bytes)) => {
            let mut inner = Map::new();
            message(schema::message(inside), bytes, &mut inner, at.deeper()?)?;
            Value::Object(inner)
        }
        _ => return Err(Broken),
    })
}

/// The bytes of a message's first field.
fn first(bytes: &[u8]) -> Result<Option<&[u8]>, Broken> {
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Bytes(bytes)) = (number, wire) {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// An empty message is no time.
fn time(of: Type, bytes: &[u8]) -> Result<Value, Broken> {
    let (mut seconds, mut nanoseconds) = (None, 0);
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Number(number)) => seconds = Some(number.cast_signed()),
            (2, Wire::Number(number)) => nanoseconds = number.cast_signed(),
            _ => {}
        }
    }
    let Some(seconds) = seconds else {
        return Ok(Value::Null);
    };
    let nanoseconds = i32::try_from(nanoseconds).map_err(|_| Broken)?;
    let at = Timestamp::new(seconds, nanoseconds).map_err(|_| Broken)?;
    let form = if of == Type::MicroTime {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Ok(json!(at.strftime(form).to_string()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Broken> {
    let (mut kind, mut number, mut string) = (0, 0, "");
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.next()? {
        match (field, wire) {
            (1, Wire::Number(value)) => kind = value,
            (2, Wire::Number(value)) => number = value.cast_signed(),
            (3, Wire::Bytes(bytes)) => string = text(bytes)?,
            _ => {}
        }
    }
    Ok(if kind == 0 {
        json!(number)
    } else {
        json!(string)
    })
}

fn schema_or_bool(bytes: &[u8], at: At<'_>) -> Result<Value, Broken> {
    let mut allows = false;
    let mut reader = Reader(bytes);
    while let Some((field, wire)) = reader.next()? {
        match (field, wire) {
            (1, Wire::Number(value)) => allows = value != 0,
            (2, Wire::Bytes(bytes)) => {
                let fields = schema::named(schema::JSON_SCHEMA).unwrap_or_default();
                let mut inner = Map::new();
                message(fields, bytes, &mut inner, at.deeper()?)?;
                return Ok(Value::Object(inner));
            }
            _ => {}
        }
    }
    Ok(json!(allows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::protobuf::wire::put_bytes;

    #[test]
    fn two_bytes_a_value_do_not_become_more_values_than_json_may_have() {
        let body = |finalizers: usize| {
            let (mut meta, mut kind, mut raw, mut envelope) = (vec![], vec![], vec![], vec![]);
            for _ in 0..finalizers {
                put_bytes(&mut meta, 14, b"");
            }
            put_bytes(&mut raw, 1, &meta);
            put_bytes(&mut kind, 1, b"v1");
            put_bytes(&mut kind, 2, b"ConfigMap");
            put_bytes(&mut envelope, 1, &kind);
            put_bytes(&mut envelope, 2, &raw);
            [MAGIC, &envelope].concat()
        };
        let few = decode(&body(1000)).expect("a ConfigMap");
        assert_eq!(
            few["metadata"]["finalizers"].as_array().map(Vec::len),
            Some(1000)
        );
        assert_eq!(decode(&body(JSON_VALUES)), Err(DecodeError::Broken));
    }
}

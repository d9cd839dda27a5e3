//! A document of version 2 as gnostic's protobuf messages (`openapi.*` in `messages.txt`).

use serde_json::{Map, Value, json};

use crate::orchestrator::api::protobuf;

/// The bytes of a document.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let message = json!({
        "swagger": document["swagger"],
        "info": document["info"],
        "paths": {"path": named(&document["paths"], path)},
        "definitions": {"additional_properties": named(&document["definitions"], schema)},
    });
    protobuf::encode_message("openapi.Document", &message)
}

/// A map, as protobuf has it.
fn named(map: &Value, value: fn(&Value) -> Value) -> Value {
    map.as_object()
        .into_iter()
        .flatten()
        .map(|(name, one)| json!({"name": name, "value": value(one)}))
        .collect()
}

/// A vendor's extension: its value is a text of YAML, which JSON is.
fn any(value: &Value) -> Value {
    json!({"yaml": value.to_string()})
}

/// The extensions of something.
fn extensions(of: &Map<String, Value>) -> Value {
    of.iter()
        .filter(|(name, _)| name.starts_with("x-"))
        .map(|(name, value)| json!({"name": name, "value": any(value)}))
        .collect()
}

fn path(path: &Value) -> Value {
    let operations = path.as_object().into_iter().flatten();
    operations
        .map(|(method, one)| (method.clone(), operation(one)))
        .collect::<Map<String, Value>>()
        .into()
}

fn operation(operation: &Value) -> Value {
    let parameters: Value = operation["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(
            |one| json!({"parameter": {"non_body_parameter": {"query_parameter_sub_schema": one}}}),
        )
        .collect();
    let mut message = json!({
        "parameters": parameters,
        "responses": {"response_code": named(&operation["responses"], |one| json!({"response": one}))},
        "vendor_extension": operation.as_object().map(extensions),
    });
    if let Some(consumes) = operation.get("consumes") {
        message["consumes"] = consumes.clone();
    }
    message
}

fn schema(schema: &Value) -> Value {
    let Some(fields) = schema.as_object() else {
        return json!({});
    };
    let mut message = Map::new();
    for (name, value) in fields {
        let (name, value) = match name.as_str() {
            "$ref" => ("_ref", value.clone()),
            "type" => ("type", json!({"value": [value]})),
            "items" => ("items", json!({"schema": [self::schema(value)]})),
            "additionalProperties" => (
                "additional_properties",
                json!({"schema": self::schema(value)}),
            ),
            "properties" => (
                "properties",
                json!({"additional_properties": named(value, self::schema)}),
            ),
            "format" => ("format", value.clone()),
            _ => continue,
        };
        message.insert(name.to_owned(), value);
    }
    message.insert("vendor_extension".to_owned(), extensions(fields));
    Value::Object(message)
}

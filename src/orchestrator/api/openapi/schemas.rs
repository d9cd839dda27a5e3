//! JSON schemas of the kinds and of everything they consist of.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Version;
use crate::orchestrator::api::apply::topology::Topology;
use crate::orchestrator::api::kinds::{self, Kind};
use crate::orchestrator::api::protobuf::schema::{self, Shape, Type};

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Time";
const MICRO_TIME: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime";

/// Schemas by name, of `of` and of what they refer to.
pub(super) fn of_kinds(of: &[&Kind], version: Version) -> Map<String, Value> {
    let mut schemas = Schemas {
        version,
        made: BTreeMap::new(),
        wanted: Vec::new(),
    };
    for kind in of {
        schemas.kind(kind);
    }
    while let Some(message) = schemas.wanted.pop() {
        let name = definition(message);
        if !schemas.made.contains_key(&name) {
            // Before its fields are read: some messages hold themselves.
            schemas.made.insert(name.clone(), Value::Null);
            let properties = schemas.properties(message);
            let made = json!({"type": "object", "properties": properties});
            schemas.made.insert(name, made);
        }
    }
    let plain = schemas.plain();
    schemas.made.into_iter().chain(plain).collect()
}

struct Schemas {
    version: Version,
    made: BTreeMap<String, Value>,
    /// Messages that something refers to.
    wanted: Vec<&'static str>,
}

impl Schemas {
    fn kind(&mut self, kind: &Kind) {
        if let Some(definition) = kind.definition() {
            let schema = self.custom(kind, definition.written.clone());
            self.made.insert(custom_name(kind), schema);
            return;
        }
        let Some((message, _)) = schema::of_object(&kind.api_version(), kind.kind) else {
            // Its fields are not described: it is an object.
            let schema = self.custom(kind, json!({"type": "object"}));
            self.made
                .insert(UNDESCRIBED.replace("KIND", kind.kind), schema);
            return;
        };
        let mut properties = Map::new();
        for field in ["apiVersion", "kind"] {
            properties.insert(field.to_owned(), json!({"type": "string"}));
        }
        properties.extend(self.properties(message));
        self.made.insert(
            definition(message),
            json!({
                "type": "object",
                "properties": properties,
                "x-kubernetes-group-version-kind": [
                    {"group": kind.group, "version": kind.version, "kind": kind.kind}],
            }),
        );
    }

    /// A kind's own schema, with what every object has.
    fn custom(&mut self, kind: &Kind, written: Value) -> Value {
        let mut schema = if written.is_object() {
            written
        } else {
            json!({"type": "object"})
        };
        if self.version == Version::V2 {
            without_junctors(&mut schema);
        }
        if !schema["properties"].is_object() {
            schema["properties"] = json!({});
        }
        for field in ["apiVersion", "kind"] {
            schema["properties"][field] = json!({"type": "string"});
        }
        self.wanted.push(OBJECT_META);
        schema["properties"]["metadata"] = self.reference(&definition(OBJECT_META));
        schema["x-kubernetes-group-version-kind"] =
            json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
        schema
    }

    fn properties(&mut self, message: &'static str) -> Map<String, Value> {
        let mut properties = Map::new();
        for field in schema::named(message).unwrap_or_default() {
            if let (Type::Message(at), "~") = (field.of, field.name) {
                properties.extend(self.properties(schema::name(at)));
                continue;
            }
            let one = self.of_type(field.of);
            let mut property = match field.shape {
                Shape::One | Shape::Optional => one,
                Shape::List => json!({"type": "array", "items": one}),
                Shape::Map => json!({"type": "object", "additionalProperties": one}),
            };
            for (name, value) in merging(message, field.name) {
                property[name] = value;
            }
            properties.insert(field.name.to_owned(), property);
        }
        properties
    }

    fn of_type(&mut self, of: Type) -> Value {
        match of {
            Type::Text => json!({"type": "string"}),
            Type::Integer => json!({"type": "integer"}),
            Type::Boolean => json!({"type": "boolean"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            // Anything. Clients of version 2 hold values against a type that is there; those of version 3 cannot explain a field
            // without one, and let the server validate.
            Type::Json | Type::SchemaOrBool => match self.version {
                Version::V2 => json!({}),
                Version::V3 => json!({"type": "object"}),
            },
            Type::Double => json!({"type": "number"}),
            Type::Texts => json!({"type": "array", "items": {"type": "string"}}),
            Type::Quantity => self.reference(QUANTITY),
            Type::Time => self.reference(TIME),
            Type::MicroTime => self.reference(MICRO_TIME),
            Type::IntOrString => self.reference(INT_OR_STRING),
            Type::Message(at) => {
                let message = schema::name(at);
                self.wanted.push(message);
                self.reference(&definition(message))
            }
        }
    }

    fn reference(&self, name: &str) -> Value {
        let place = match self.version {
            Version::V2 => "definitions",
            Version::V3 => "components/schemas",
        };
        json!({"$ref": format!("#/{place}/{name}")})
    }

    /// Types that are no objects.
    fn plain(&self) -> Vec<(String, Value)> {
        let (quantity, int_or_string) = match self.version {
            Version::V2 => (
                json!({"type": "string"}),
                json!({"type": "string", "format": "int-or-string"}),
            ),
            Version::V3 => (
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            ),
        };
        let time = json!({"type": "string", "format": "date-time"});
        [
            (QUANTITY, quantity),
            (INT_OR_STRING, int_or_string),
            (TIME, time.clone()),
            (MICRO_TIME, time),
        ]
        .map(|(name, schema)| (name.to_owned(), schema))
        .to_vec()
    }
}

/// The metadata of every object.
const OBJECT_META: &str = "meta.ObjectMeta";
/// The name of a kind's schema of which no message is described.
const UNDESCRIBED: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.KIND";

/// The name of a definition's schema: its group from behind, its version and its kind.
fn custom_name(kind: &Kind) -> String {
    let group: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", group.join("."), kind.version, kind.kind)
}

/// Takes out what version 2 does not know.
fn without_junctors(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for word in ["allOf", "anyOf", "not", "nullable", "oneOf"] {
                // A property may be called so: then it is an object.
                if word == "not" || !map.get(word).is_some_and(Value::is_object) {
                    map.shift_remove(word);
                }
            }
            map.values_mut().for_each(without_junctors);
        }
        Value::Array(list) => list.iter_mut().for_each(without_junctors),
        _ => {}
    }
}

/// Fields of a patched object that give way to those of the patch (`patchStrategy: retainKeys` in k8s.io/api).
const RETAIN_KEYS: &[(&str, &str)] = &[
    ("apps.DeploymentSpec", "strategy"),
    ("core.PodSpec", "volumes"),
];

/// How a field is merged by patches and by server-side apply, as extensions: kubectl computes its patches from them.
fn merging(message: &'static str, field: &str) -> Vec<(&'static str, Value)> {
    let mut strategy = Vec::new();
    let mut found = Vec::new();
    match Topology::Message(message).field(field) {
        Topology::Keyed(keys, _) => {
            strategy.push("merge");
            found.push(("x-kubernetes-patch-merge-key", json!(keys[0])));
            found.push(("x-kubernetes-list-type", json!("map")));
            found.push(("x-kubernetes-list-map-keys", json!(keys)));
        }
        Topology::Set => {
            strategy.push("merge");
            found.push(("x-kubernetes-list-type", json!("set")));
        }
        _ => {}
    }
    if RETAIN_KEYS.contains(&(message, field)) {
        strategy.push("retainKeys");
    }
    if !strategy.is_empty() {
        found.push(("x-kubernetes-patch-strategy", json!(strategy.join(","))));
    }
    found
}

/// The name of a message's schema, as Kubernetes has it.
fn definition(message: &str) -> String {
    let (group, name) = message.split_once('.').unwrap_or_default();
    if group == "apiextensions" {
        return UNDESCRIBED.replace("KIND", name);
    }
    if group == "meta" {
        return format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}");
    }
    let version = kinds::ALL
        .iter()
        .find(|kind| kind.group.split('.').next() == Some(group))
        .map_or("v1", |kind| kind.version);
    format!("io.k8s.api.{group}.{version}.{name}")
}

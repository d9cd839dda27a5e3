//! Structural schemas of custom objects (apiextensions-apiserver/pkg/apiserver/schema): read once from their definition, and held
//! against every object. What upstream refuses in one is refused here, in its words; so is what this server could not keep up.
//!
//! A schema comes from outside: its depth is that of an object, its patterns are bounded in number and in what they compile to.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::pattern;
use super::values;
use crate::orchestrator::api::kinds::parts::causes::Causes;
use crate::orchestrator::limits::{PATTERN_BYTES, PATTERN_LARGE_BYTES, PATTERNS, PATTERNS_LARGE};

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Array,
    Boolean,
    Integer,
    Number,
    Object,
    String,
}

/// Every type, by name.
const TYPES: &[(&str, Type)] = &[
    ("array", Type::Array),
    ("boolean", Type::Boolean),
    ("integer", Type::Integer),
    ("number", Type::Number),
    ("object", Type::Object),
    ("string", Type::String),
];

impl Type {
    /// Its name in a schema.
    pub(super) fn name(self) -> &'static str {
        TYPES
            .iter()
            .find(|(_, known)| *known == self)
            .map_or("object", |(name, _)| name)
    }
}

/// What an object may hold besides its properties.
#[derive(Debug, Default)]
pub(super) enum Additional {
    /// Nothing.
    #[default]
    Nothing,
    /// Anything.
    Anything,
    /// Values of this schema.
    Values(Box<Schema>),
}

/// How the elements of a list are told apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum List {
    /// They are not.
    #[default]
    Atomic,
    /// By themselves: each occurs once.
    Set,
    /// By these fields.
    Map(Vec<String>),
}

/// What a value has to be, and what becomes of it.
#[derive(Debug, Default)]
pub(super) struct Schema {
    pub(super) of: Option<Type>,
    pub(super) properties: BTreeMap<String, Schema>,
    pub(super) additional: Additional,
    pub(super) items: Option<Box<Schema>>,
    pub(super) default: Option<Value>,
    pub(super) nullable: bool,
    /// Unknown fields stay.
    pub(super) preserves: bool,
    /// It is a whole object with `kind`, `apiVersion` and `metadata`.
    pub(super) embedded: bool,
    pub(super) int_or_string: bool,
    pub(super) list: List,
    /// An object is owned as one.
    pub(super) atomic_map: bool,
    pub(super) rules: Rules,
}

/// Rules for values.
#[derive(Debug, Default)]
pub(super) struct Rules {
    pub(super) required: Vec<String>,
    pub(super) values: Option<Vec<Value>>,
    pub(super) pattern: Option<(String, Regex)>,
    pub(super) format: Option<String>,
    pub(super) minimum: Option<Bound>,
    pub(super) maximum: Option<Bound>,
    pub(super) multiple_of: Option<f64>,
    pub(super) min_length: Option<u64>,
    pub(super) max_length: Option<u64>,
    pub(super) min_items: Option<u64>,
    pub(super) max_items: Option<u64>,
    pub(super) min_properties: Option<u64>,
    pub(super) max_properties: Option<u64>,
    pub(super) all_of: Vec<Schema>,
    pub(super) any_of: Vec<Schema>,
    pub(super) one_of: Vec<Schema>,
    pub(super) not: Option<Box<Schema>>,
}

/// A bound of a number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    pub(super) value: f64,
    pub(super) exclusive: bool,
}

/// Where a schema stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Field,
    Items,
    /// Inside of `allOf`, `anyOf`, `oneOf` or `not`.
    Junctor,
    /// The same, where `x-kubernetes-int-or-string` lets types be named.
    IntOrString,
}

impl Place {
    fn is_junctor(self) -> bool {
        matches!(self, Self::Junctor | Self::IntOrString)
    }
}

/// Reads schemas of one definition, whose patterns it knows.
#[derive(Debug, Default)]
pub(super) struct Reader {
    patterns: BTreeMap<String, Regex>,
    large: usize,
}

/// Of JSON schema, what is not part of a structural one.
const UNSUPPORTED: &[&str] = &[
    "$ref",
    "additionalItems",
    "definitions",
    "dependencies",
    "id",
    "patternProperties",
];

/// What only the structural part of a schema may say.
const STRUCTURAL: &[&str] = &[
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
];

const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

impl Reader {
    /// Reads `openAPIV3Schema`, which stands at `path`.
    pub(super) fn root(&mut self, json: &Value, path: &str, found: &mut Causes) -> Schema {
        let schema = self.schema(json, path, Place::Root, found);
        if found.0.is_empty() {
            defaults_fit(&schema, path, found);
        }
        schema
    }

    fn schema(&mut self, json: &Value, path: &str, place: Place, found: &mut Causes) -> Schema {
        let nothing = Map::new();
        let map = json.as_object().unwrap_or(&nothing);
        let set = |field: &str| map.get(field) == Some(&Value::Bool(true));
        let at = |field: &str| format!("{path}.{field}");
        for field in UNSUPPORTED.iter().filter(|field| map.contains_key(**field)) {
            found.forbidden(at(field), &format!("{field} is not supported"));
        }
        if place.is_junctor() {
            let allowed = |field: &str| place == Place::IntOrString && field == "type";
            for field in STRUCTURAL {
                if map.contains_key(*field) && !allowed(field) {
                    found.forbidden(at(field), "must be empty to be structural");
                }
            }
        }
        if set("uniqueItems") {
            found.forbidden(
                at("uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
        if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
            found.invalid(
                at("x-kubernetes-preserve-unknown-fields"),
                &Value::Bool(false),
                "must be true or undefined",
            );
        }
        let mut schema = Schema {
            of: type_of(map, path, found),
            default: map.get("default").cloned(),
            nullable: set("nullable"),
            preserves: set("x-kubernetes-preserve-unknown-fields"),
            embedded: set("x-kubernetes-embedded-resource"),
            int_or_string: set("x-kubernetes-int-or-string"),
            list: list_type(map, path, found),
            atomic_map: map.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic"),
            ..Schema::default()
        };
        invariants(&schema, path, place, found);
        self.parts(&mut schema, map, path, place, found);
        schema.rules = self.rules(map, path, &schema, place, found);
        schema
    }

    /// Properties, additional ones, items.
    fn parts(
        &mut self,
        schema: &mut Schema,
        map: &Map<String, Value>,
        path: &str,
        place: Place,
        found: &mut Causes,
    ) {
        let inner = if place.is_junctor() {
            Place::Junctor
        } else {
            Place::Field
        };
        let properties = map.get("properties").and_then(Value::as_object);
        for (name, json) in properties.into_iter().flatten() {
            let path = format!("{path}.properties[{name}]");
            if place == Place::Root && name == "metadata" {
                only_names(json, &path, found);
            }
            let of_server =
                place == Place::Root && ["apiVersion", "kind", "metadata"].contains(&name.as_str());
            let one = self.schema(json, &path, inner, found);
            if !of_server {
                schema.properties.insert(name.clone(), one);
            } else if name == "metadata" {
                // What it says of the name is a rule; everything else of it is known.
                schema.properties.insert(name.clone(), metadata(one));
            }
        }
        schema.additional = match map.get("additionalProperties") {
            None | Some(Value::Null) => Additional::Nothing,
            Some(Value::Bool(true)) => Additional::Anything,
            Some(Value::Bool(false)) => {
                let why = "additionalProperties cannot be set to false";
                found.forbidden(format!("{path}.additionalProperties"), why);
                Additional::Nothing
            }
            Some(json) => {
                let path = format!("{path}.additionalProperties");
                Additional::Values(Box::new(self.schema(json, &path, inner, found)))
            }
        };
        if map.contains_key("additionalProperties")
            && properties.is_some_and(|some| !some.is_empty())
        {
            found.forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            );
        }
        let path = format!("{path}.items");
        match map.get("items") {
            Some(json @ Value::Object(_)) => {
                let place = if place.is_junctor() {
                    Place::Junctor
                } else {
                    Place::Items
                };
                schema.items = Some(Box::new(self.schema(json, &path, place, found)));
            }
            Some(Value::Array(_)) => {
                found.forbidden(path, "items must be a schema object and not an array");
            }
            _ if schema.of == Some(Type::Array) && !place.is_junctor() => {
                found.required(path, "must be specified");
            }
            _ => {}
        }
    }

    fn rules(
        &mut self,
        map: &Map<String, Value>,
        path: &str,
        schema: &Schema,
        place: Place,
        found: &mut Causes,
    ) -> Rules {
        let count = |field: &str| map.get(field).and_then(Value::as_u64);
        let bound = |field: &str, exclusive: &str| {
            let value = map.get(field).and_then(Value::as_f64)?;
            let exclusive = map.get(exclusive) == Some(&Value::Bool(true));
            Some(Bound { value, exclusive })
        };
        let pattern = map.get("pattern").and_then(Value::as_str);
        let pattern = pattern.filter(|text| !text.is_empty()).and_then(|text| {
            let compiled = self.pattern(text);
            let refused = |why: String| {
                found.invalid(format!("{path}.pattern"), &Value::from(text), &why);
            };
            let regex = compiled.map_err(refused).ok()?;
            Some((text.to_owned(), regex))
        });
        let inside = if schema.int_or_string || place == Place::IntOrString {
            Place::IntOrString
        } else {
            Place::Junctor
        };
        let [all_of, any_of, one_of]: [Vec<Schema>; 3] = JUNCTORS.map(|field| {
            let list = map.get(field).and_then(Value::as_array);
            let list = list.into_iter().flatten().enumerate();
            list.map(|(number, json)| {
                self.schema(json, &format!("{path}.{field}[{number}]"), inside, found)
            })
            .collect()
        });
        let not = map
            .get("not")
            .map(|json| Box::new(self.schema(json, &format!("{path}.not"), inside, found)));
        let required = map.get("required").and_then(Value::as_array);
        Rules {
            required: required
                .into_iter()
                .flatten()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect(),
            values: map.get("enum").and_then(Value::as_array).cloned(),
            pattern,
            format: map.get("format").and_then(Value::as_str).map(str::to_owned),
            minimum: bound("minimum", "exclusiveMinimum"),
            maximum: bound("maximum", "exclusiveMaximum"),
            multiple_of: map.get("multipleOf").and_then(Value::as_f64),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            all_of,
            any_of,
            one_of,
            not,
        }
    }

    /// Compiles a pattern, or says why it cannot be had. Most are small; few may be large.
    fn pattern(&mut self, text: &str) -> Result<Regex, String> {
        if let Some(known) = self.patterns.get(text) {
            return Ok(known.clone());
        }
        if self.patterns.len() >= PATTERNS {
            return Err(format!(
                "a definition may have {PATTERNS} different patterns"
            ));
        }
        let written = pattern::of_go(text);
        let with_limit = |bytes: usize| RegexBuilder::new(&written).size_limit(bytes).build();
        let regex = match with_limit(PATTERN_BYTES) {
            Ok(regex) => regex,
            Err(regex::Error::CompiledTooBig(_)) if self.large < PATTERNS_LARGE => {
                self.large += 1;
                with_limit(PATTERN_LARGE_BYTES).map_err(|error| pattern::refusal(&error))?
            }
            Err(error) => return Err(pattern::refusal(&error)),
        };
        self.patterns.insert(text.to_owned(), regex.clone());
        Ok(regex)
    }
}

/// Of the schema of `metadata`, what is checked: the rules for `name` and `generateName`.
fn metadata(read: Schema) -> Schema {
    Schema {
        preserves: true,
        ..read
    }
}

fn type_of(map: &Map<String, Value>, path: &str, found: &mut Causes) -> Option<Type> {
    let given = map.get("type")?;
    let known = TYPES.iter().find(|(name, _)| given.as_str() == Some(*name));
    if known.is_none() && given.as_str() != Some("") {
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        found.unsupported(format!("{path}.type"), given, &names);
    }
    known.map(|(_, known)| *known)
}

fn list_type(map: &Map<String, Value>, path: &str, found: &mut Causes) -> List {
    let keys = map
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array);
    let keys: Vec<String> = keys
        .into_iter()
        .flatten()
        .filter_map(|key| key.as_str().map(str::to_owned))
        .collect();
    let Some(given) = map.get("x-kubernetes-list-type") else {
        return List::Atomic;
    };
    if map.get("type").and_then(Value::as_str) != Some("array") {
        found.invalid(
            format!("{path}.type"),
            map.get("type").unwrap_or(&Value::Null),
            "must be array if x-kubernetes-list-type is specified",
        );
    }
    match given.as_str() {
        Some("atomic") => List::Atomic,
        Some("set") => List::Set,
        Some("map") => {
            if keys.is_empty() {
                found.required(
                    format!("{path}.x-kubernetes-list-map-keys"),
                    "must not be empty if x-kubernetes-list-type is map",
                );
            }
            List::Map(keys)
        }
        _ => {
            let field = format!("{path}.x-kubernetes-list-type");
            found.unsupported(field, given, &["atomic", "map", "set"]);
            List::Atomic
        }
    }
}

/// What makes a schema structural.
fn invariants(schema: &Schema, path: &str, place: Place, found: &mut Causes) {
    let field = format!("{path}.type");
    match (place, schema.of) {
        (Place::Junctor | Place::IntOrString, _) => {}
        (Place::Root, None) => found.required(field, "must not be empty at the root"),
        (Place::Root, Some(of)) if of != Type::Object => {
            found.invalid(field, &Value::from(of.name()), "must be object at the root");
        }
        (_, None) if schema.int_or_string || schema.preserves => {}
        (Place::Field, None) => {
            found.required(field, "must not be empty for specified object fields");
        }
        (Place::Items, None) => {
            found.required(field, "must not be empty for specified array items");
        }
        (_, Some(of)) if schema.int_or_string => found.invalid(
            field,
            &Value::from(of.name()),
            "must be empty if x-kubernetes-int-or-string is true",
        ),
        (_, Some(of)) if schema.embedded && of != Type::Object => found.invalid(
            field,
            &Value::from(of.name()),
            "must be object if x-kubernetes-embedded-resource is true",
        ),
        _ => {}
    }
}

/// Of an object's metadata, only the names may be restricted.
fn only_names(json: &Value, path: &str, found: &mut Causes) {
    let properties = json.get("properties").and_then(Value::as_object);
    let other = |name: &String| !["generateName", "name"].contains(&name.as_str());
    if properties.is_some_and(|properties| properties.keys().any(other)) {
        found.forbidden(
            path,
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

/// Defaults have to be what their own schema asks for.
fn defaults_fit(schema: &Schema, path: &str, found: &mut Causes) {
    if let Some(default) = &schema.default {
        let path = format!("{path}.default");
        values::check(schema, default, None, &path, found);
    }
    for (name, inner) in &schema.properties {
        defaults_fit(inner, &format!("{path}.properties[{name}]"), found);
    }
    if let Additional::Values(inner) = &schema.additional {
        defaults_fit(inner, &format!("{path}.additionalProperties"), found);
    }
    if let Some(inner) = &schema.items {
        defaults_fit(inner, &format!("{path}.items"), found);
    }
}

impl Schema {
    /// Whether it, or something in it, has a default.
    pub(super) fn has_defaults(&self) -> bool {
        let values = match &self.additional {
            Additional::Values(inner) => inner.has_defaults(),
            Additional::Nothing | Additional::Anything => false,
        };
        values
            || self.default.is_some()
            || self.properties.values().any(Self::has_defaults)
            || self
                .items
                .as_ref()
                .is_some_and(|inner| inner.has_defaults())
    }
}

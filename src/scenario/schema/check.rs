//! A validator of the part of JSON Schema that the schema uses, for its tests.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::Regex;
use serde_json::Value as Json;

/// Checks documents against one schema.
pub(super) struct Checker {
    root: Json,
    patterns: RefCell<HashMap<String, Regex>>,
}

impl Checker {
    pub(super) fn new(root: Json) -> Self {
        Self {
            root,
            patterns: RefCell::default(),
        }
    }

    pub(super) fn accepts(&self, document: &Json) -> bool {
        self.is(&self.root, document)
    }

    /// Whether a value is as a schema says. A word that this does not know would be a schema that says nothing.
    fn is(&self, schema: &Json, value: &Json) -> bool {
        let words = match schema {
            Json::Bool(accepts) => return *accepts,
            Json::Object(words) => words,
            other => panic!("no schema: {other}"),
        };
        words
            .iter()
            .all(|(word, wanted)| self.keeps(schema, word, wanted, value))
    }

    fn keeps(&self, schema: &Json, word: &str, wanted: &Json, value: &Json) -> bool {
        let all = || wanted.as_array().unwrap().iter();
        match word {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let pointer = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                self.is(self.root.pointer(pointer).unwrap(), value)
            }
            "type" => match wanted {
                Json::Array(types) => types.iter().any(|one| is_type(one, value)),
                one => is_type(one, value),
            },
            "const" => value == wanted,
            "enum" => all().any(|known| known == value),
            "anyOf" => all().any(|one| self.is(one, value)),
            "allOf" => all().all(|one| self.is(one, value)),
            "oneOf" => all().filter(|one| self.is(one, value)).count() == 1,
            "not" => !self.is(wanted, value),
            "pattern" => value
                .as_str()
                .is_none_or(|text| self.matches(wanted.as_str().unwrap(), text)),
            "minimum" => value
                .as_i64()
                .is_none_or(|number| number >= wanted.as_i64().unwrap()),
            "maximum" => value
                .as_i64()
                .is_none_or(|number| number <= wanted.as_i64().unwrap()),
            "minLength" => value
                .as_str()
                .is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap()),
            "items" | "minItems" | "maxItems" | "uniqueItems" => value
                .as_array()
                .is_none_or(|items| self.keeps_items(word, wanted, items)),
            _ => value
                .as_object()
                .is_none_or(|_| self.keeps_entries(schema, word, wanted, value)),
        }
    }

    fn keeps_items(&self, word: &str, wanted: &Json, items: &[Json]) -> bool {
        match word {
            "items" => items.iter().all(|item| self.is(wanted, item)),
            "minItems" => items.len() as u64 >= wanted.as_u64().unwrap(),
            "maxItems" => items.len() as u64 <= wanted.as_u64().unwrap(),
            _ => {
                let twice = |(index, item): (usize, &Json)| items[..index].contains(item);
                !items.iter().enumerate().any(twice)
            }
        }
    }

    fn keeps_entries(&self, schema: &Json, word: &str, wanted: &Json, value: &Json) -> bool {
        let entries = value.as_object().unwrap();
        match word {
            "properties" => entries.iter().all(|(key, value)| {
                let known = wanted.get(key.as_str());
                known.is_none_or(|known| self.is(known, value))
            }),
            "required" => wanted
                .as_array()
                .unwrap()
                .iter()
                .all(|key| entries.contains_key(key.as_str().unwrap())),
            "additionalProperties" => entries.iter().all(|(key, value)| {
                let known = schema
                    .get("properties")
                    .and_then(|known| known.get(key.as_str()));
                known.is_some() || self.is(wanted, value)
            }),
            "propertyNames" => entries
                .keys()
                .all(|key| self.is(wanted, &Json::from(key.as_str()))),
            "minProperties" => entries.len() as u64 >= wanted.as_u64().unwrap(),
            unknown => panic!("the validator does not know `{unknown}`"),
        }
    }

    fn matches(&self, pattern: &str, text: &str) -> bool {
        let mut patterns = self.patterns.borrow_mut();
        let regex = patterns
            .entry(pattern.to_owned())
            .or_insert_with(|| Regex::new(pattern).unwrap());
        regex.is_match(text)
    }
}

fn is_type(name: &Json, value: &Json) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        unknown => panic!("the validator does not know type `{unknown}`"),
    }
}

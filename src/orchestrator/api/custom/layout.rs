//! How the values of a schema are owned by whoever applies them (`x-kubernetes-list-type`, `x-kubernetes-map-type`).

use serde_json::{Map, Value};

use super::schema::{Additional, List, Schema};

/// The layout of a value, by its schema.
#[derive(Debug, Clone, Copy)]
pub(in crate::orchestrator::api) struct Layout<'a>(&'a Schema);

impl PartialEq for Layout<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Layout<'_> {}

/// How a list is owned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orchestrator::api) enum Elements {
    /// As one.
    Whole,
    /// Each plain value by itself.
    Set,
    /// Each object by the values of its keys.
    Keyed,
}

impl<'a> Layout<'a> {
    pub(super) fn new(schema: &'a Schema) -> Self {
        Self(schema)
    }

    /// Of a field; `None` of one that the schema does not describe.
    pub(in crate::orchestrator::api) fn field(self, name: &str) -> Option<Self> {
        match (self.0.properties.get(name), &self.0.additional) {
            (Some(schema), _) => Some(Self(schema)),
            (None, Additional::Values(schema)) => Some(Self(schema)),
            (None, Additional::Nothing | Additional::Anything) => None,
        }
    }

    /// Of an element.
    pub(in crate::orchestrator::api) fn items(self) -> Option<Self> {
        self.0.items.as_deref().map(Self)
    }

    /// Whether the fields of an object are owned one by one.
    pub(in crate::orchestrator::api) fn has_fields(self) -> bool {
        !self.0.atomic_map
    }

    /// How the elements of a list are owned.
    pub(in crate::orchestrator::api) fn elements(self) -> Elements {
        match &self.0.list {
            List::Atomic => Elements::Whole,
            List::Set => Elements::Set,
            List::Map(_) => Elements::Keyed,
        }
    }

    /// The keys of an element, with their defaults, as JSON.
    pub(in crate::orchestrator::api) fn key(self, element: &Value) -> Value {
        let List::Map(keys) = &self.0.list else {
            return element.clone();
        };
        let items = self.0.items.as_deref();
        let mut found = Map::new();
        for key in keys {
            let default = || items?.properties.get(key)?.default.clone();
            let value = element.get(key).cloned().or_else(default);
            found.insert(key.clone(), value.unwrap_or_default());
        }
        Value::Object(found)
    }
}

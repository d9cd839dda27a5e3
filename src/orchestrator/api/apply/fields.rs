//! Sets of fields, as `metadata.managedFields` holds them (FieldsV1), and what can be found out by them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::topology::Topology;
use crate::orchestrator::api::custom::Elements;

/// A set of paths: whether this place is in it, and what is below. Steps are written as FieldsV1 writes them: `f:` and a field's
/// name, `k:` and the keys of an element as JSON, `v:` and a plain element as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) here: bool,
    pub(super) below: BTreeMap<String, Fields>,
}

/// Two elements of a list have the same keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Twice(pub(super) String);

/// The parts of a value that are owned by themselves; `None` if it is owned as one.
pub(super) fn parts<'t, 'v>(
    topology: Topology<'t>,
    value: &'v Value,
) -> Option<Vec<(String, Topology<'t>, &'v Value)>> {
    match (topology, value) {
        (_, Value::Object(map)) if topology.has_fields() => Some(
            map.iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (format!("f:{name}"), topology.field(name), value))
                .collect(),
        ),
        (Topology::Set, Value::Array(list)) => Some(
            list.iter()
                .map(|value| (format!("v:{value}"), Topology::Whole, value))
                .collect(),
        ),
        (Topology::Keyed(keys, element), Value::Array(list)) => Some(
            list.iter()
                .map(|value| (key(keys, value), Topology::Message(element), value))
                .collect(),
        ),
        (Topology::Custom(layout), Value::Array(list)) => match layout.elements() {
            Elements::Whole => None,
            Elements::Set => Some(
                list.iter()
                    .map(|value| (format!("v:{value}"), Topology::Whole, value))
                    .collect(),
            ),
            Elements::Keyed => {
                let items = layout.items().map_or(Topology::Unknown, Topology::Custom);
                Some(
                    list.iter()
                        .map(|value| (format!("k:{}", layout.key(value)), items, value))
                        .collect(),
                )
            }
        },
        _ => None,
    }
}

/// The step to an element of a list.
fn key(keys: &[&str], element: &Value) -> String {
    let mut found = Map::new();
    for key in keys {
        let value = match element.get(key) {
            // The only key with a default (core/v1/types.go).
            None if *key == "protocol" => json!("TCP"),
            value => value.cloned().unwrap_or_default(),
        };
        found.insert((*key).to_owned(), value);
    }
    format!("k:{}", Value::Object(found))
}

impl Fields {
    /// The fields of a value.
    pub(super) fn of(topology: Topology, value: &Value) -> Result<Self, Twice> {
        let Some(parts) = parts(topology, value).filter(|parts| !parts.is_empty()) else {
            return Ok(Self::leaf());
        };
        let mut fields = Self::default();
        for (step, topology, value) in parts {
            let mut inner = Self::of(topology, value)?;
            inner.here |= step.starts_with("k:");
            if fields.below.contains_key(&step) {
                return Err(Twice(step));
            }
            fields.below.insert(step, inner);
        }
        Ok(fields)
    }

    /// The fields of `new` that are not as in `old`.
    pub(super) fn changed(topology: Topology, old: Option<&Value>, new: &Value) -> Self {
        if old == Some(new) {
            return Self::default();
        }
        let Some(new_parts) = parts(topology, new).filter(|parts| !parts.is_empty()) else {
            return Self::leaf();
        };
        let old_parts: BTreeMap<String, &Value> = old
            .and_then(|old| parts(topology, old))
            .unwrap_or_default()
            .into_iter()
            .map(|(step, _, value)| (step, value))
            .collect();
        let mut fields = Self::default();
        for (step, topology, value) in new_parts {
            let old = old_parts.get(&step).copied();
            let mut inner = Self::changed(topology, old, value);
            inner.here |= old.is_none() && step.starts_with("k:");
            if !inner.is_empty() {
                fields.below.insert(step, inner);
            }
        }
        fields
    }

    /// Drops whatever the value does not have.
    pub(super) fn keep_present(&mut self, topology: Topology, value: &Value) {
        let present: BTreeMap<String, (Topology, &Value)> = parts(topology, value)
            .unwrap_or_default()
            .into_iter()
            .map(|(step, topology, value)| (step, (topology, value)))
            .collect();
        self.below.retain(|step, inner| match present.get(step) {
            Some((topology, value)) => {
                inner.keep_present(*topology, value);
                !inner.is_empty()
            }
            None => false,
        });
    }

    pub(super) fn leaf() -> Self {
        Self {
            here: true,
            below: BTreeMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.here && self.below.is_empty()
    }

    /// Adds what `other` has.
    pub(super) fn add(&mut self, other: &Self) {
        self.here |= other.here;
        for (step, inner) in &other.below {
            self.below.entry(step.clone()).or_default().add(inner);
        }
    }

    /// Takes away what `other` has.
    pub(super) fn remove(&mut self, other: &Self) {
        self.here &= !other.here;
        for (step, inner) in &other.below {
            if let Some(own) = self.below.get_mut(step) {
                own.remove(inner);
                if own.is_empty() {
                    self.below.remove(step);
                }
            }
        }
    }

    /// Takes away a path.
    pub(super) fn forget(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let step = format!("f:{first}");
        if rest.is_empty() {
            self.below.remove(&step);
        } else if let Some(inner) = self.below.get_mut(&step) {
            inner.forget(rest);
            if inner.is_empty() {
                self.below.remove(&step);
            }
        }
    }

    /// Paths that are in both, as people read them.
    pub(super) fn common(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        self.common_below(other, "", &mut found);
        found
    }

    fn common_below(&self, other: &Self, path: &str, found: &mut Vec<String>) {
        if self.here && other.here {
            found.push(path.to_owned());
        }
        for (step, inner) in &self.below {
            if let Some(other) = other.below.get(step) {
                inner.common_below(other, &format!("{path}{}", readable(step)), found);
            }
        }
    }

    /// From FieldsV1.
    pub(super) fn read(value: &Value) -> Self {
        let Some(map) = value.as_object() else {
            return Self::default();
        };
        let mut fields = Self {
            here: map.is_empty() || map.contains_key("."),
            below: BTreeMap::new(),
        };
        for (step, inner) in map.iter().filter(|(step, _)| *step != ".") {
            fields.below.insert(step.clone(), Self::read(inner));
        }
        fields
    }

    /// As FieldsV1.
    pub(super) fn write(&self) -> Value {
        let mut map = Map::new();
        if self.here && !self.below.is_empty() {
            map.insert(".".to_owned(), json!({}));
        }
        for (step, inner) in &self.below {
            map.insert(step.clone(), inner.write());
        }
        Value::Object(map)
    }
}

/// A step as it stands in messages: `.name`, `[name="c"]`, `[="value"]`.
pub(super) fn readable(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("v:", value)) => format!("[={value}]"),
        Some(("k:", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("[{}]", keys.join(","))
        }
        _ => step.to_owned(),
    }
}

//! Who owns which fields: `metadata.managedFields`.

use serde_json::{Value, json};

use super::fields::Fields;
use crate::orchestrator::api::kinds::Subresource;
use crate::orchestrator::api::limits::UPDATE_MANAGERS;

/// How a manager came to its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// It applies them: those that it no longer applies go.
    Apply,
    /// It wrote them in another way.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One manager, and what it owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    /// Empty, or the subresource through which it wrote.
    pub(super) subresource: String,
    pub(super) time: String,
    pub(super) fields: Fields,
}

impl Manager {
    /// Whether a write is another one of this manager.
    pub(super) fn is(&self, other: &Self) -> bool {
        (&self.name, self.operation, &self.subresource)
            == (&other.name, other.operation, &other.subresource)
    }

    /// As messages about conflicts call it.
    pub(super) fn described(&self) -> String {
        let subresource = if self.subresource.is_empty() {
            String::new()
        } else {
            format!(" with subresource {:?}", self.subresource)
        };
        format!("{:?}{subresource} using {}", self.name, self.api_version)
    }
}

/// The name of a subresource in an entry.
pub(super) fn subresource_name(subresource: Option<Subresource>) -> String {
    subresource.map_or_else(String::new, |part| part.name().to_owned())
}

/// The managers of an object. Entries that nobody could have written are left out.
pub(super) fn read(object: &Value) -> Vec<Manager> {
    let entries = object.pointer("/metadata/managedFields");
    let entries = entries.and_then(Value::as_array).into_iter().flatten();
    entries
        .filter_map(|entry| {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            Some(Manager {
                name: text("manager").to_owned(),
                operation,
                api_version: text("apiVersion").to_owned(),
                subresource: text("subresource").to_owned(),
                time: text("time").to_owned(),
                fields: Fields::read(entry.get("fieldsV1")?),
            })
        })
        .collect()
}

/// Puts the managers into an object, an empty list if there are none: those that apply first, then the others, the oldest first.
pub(super) fn write(object: &mut Value, mut managers: Vec<Manager>) {
    managers.retain(|manager| !manager.fields.is_empty());
    managers.sort_by_cached_key(|manager| {
        let applies = manager.operation == Operation::Apply;
        (!applies, manager.time.clone(), manager.name.clone())
    });
    forget_oldest(&mut managers);
    let entries: Vec<Value> = managers
        .iter()
        .map(|manager| {
            let mut entry = json!({
                "manager": manager.name,
                "operation": manager.operation.name(),
                "apiVersion": manager.api_version,
                "time": manager.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": manager.fields.write(),
            });
            if !manager.subresource.is_empty() {
                entry["subresource"] = json!(manager.subresource);
            }
            entry
        })
        .collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}

/// Of too many managers that update, the oldest become one.
fn forget_oldest(managers: &mut Vec<Manager>) {
    let first = managers
        .iter()
        .position(|manager| manager.operation == Operation::Update)
        .unwrap_or(managers.len());
    while managers.len() - first > UPDATE_MANAGERS {
        let oldest = managers.remove(first);
        managers[first].fields.add(&oldest.fields);
        "ancient-changes".clone_into(&mut managers[first].name);
        managers[first].subresource.clear();
    }
}

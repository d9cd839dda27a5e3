//! Filling in fields of objects as JSON.

use serde_json::{Map, Value};

/// An object's fields.
pub(in crate::orchestrator::api) type Object = Map<String, Value>;

/// The kind has no defaults.
pub(in crate::orchestrator::api) fn no_defaults(_: &mut Object) {}

pub(in crate::orchestrator::api) fn child<'a>(
    map: &'a mut Object,
    field: &str,
) -> Option<&'a mut Object> {
    map.get_mut(field)?.as_object_mut()
}

pub(in crate::orchestrator::api) fn children<'a>(
    map: &'a mut Object,
    field: &str,
) -> impl Iterator<Item = &'a mut Object> {
    map.get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Sets a field that is absent or null.
pub(in crate::orchestrator::api) fn set(map: Option<&mut Object>, field: &str, value: Value) {
    if let Some(map) = map
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.to_owned(), value);
    }
}

//! An applied object laid over the live one, and what its manager no longer applies taken out.

use std::collections::HashMap;

use serde_json::Value;

use super::fields::{Fields, parts};
use super::topology::Topology;

/// Lays `applied` over `live`.
pub(super) fn merge(topology: Topology, live: &mut Value, applied: &Value) {
    match (&mut *live, applied) {
        (Value::Object(target), Value::Object(source)) if topology.has_fields() => {
            for (name, value) in source.iter().filter(|(_, value)| !value.is_null()) {
                match target.get_mut(name) {
                    Some(present) if !present.is_null() => {
                        merge(topology.field(name), present, value);
                    }
                    _ => {
                        target.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Value::Array(_), Value::Array(_)) if topology.has_elements() => {
            *live = Value::Array(merged_list(topology, live, applied));
        }
        _ => live.clone_from(applied),
    }
}

/// Elements keep their places; among themselves, those that are applied have the order in which they are applied.
fn merged_list(topology: Topology, live: &Value, applied: &Value) -> Vec<Value> {
    let live = parts(topology, live).unwrap_or_default();
    let applied = parts(topology, applied).unwrap_or_default();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (place, (step, _, _)) in live.iter().enumerate() {
        places.entry(step).or_insert(place);
    }
    let mut list: Vec<Value> = live.iter().map(|(_, _, value)| (*value).clone()).collect();
    let mut taken = Vec::new();
    let mut merged = Vec::new();
    for (step, topology, value) in &applied {
        let mut element = match places.get(step.as_str()) {
            Some(place) => {
                taken.push(*place);
                list[*place].clone()
            }
            None => {
                taken.push(list.len());
                list.push(Value::Null);
                (*value).clone()
            }
        };
        merge(*topology, &mut element, value);
        merged.push(element);
    }
    taken.sort_unstable();
    for (place, element) in taken.into_iter().zip(merged) {
        list[place] = element;
    }
    list
}

/// Takes out of `value` what is in `last` and neither it nor anything below is in `kept`.
pub(super) fn prune(topology: Topology, value: &mut Value, last: &Fields, kept: &Fields) {
    match value {
        Value::Object(map) if topology.has_fields() => {
            map.retain(|name, value| {
                let step = format!("f:{name}");
                stays(topology.field(name), value, &step, last, kept)
            });
        }
        list @ Value::Array(_) if topology.has_elements() => {
            let steps: Vec<(String, Topology)> = parts(topology, list)
                .unwrap_or_default()
                .into_iter()
                .map(|(step, topology, _)| (step, topology))
                .collect();
            let mut steps = steps.into_iter();
            if let Value::Array(list) = list {
                list.retain_mut(|value| match steps.next() {
                    Some((step, topology)) => stays(topology, value, &step, last, kept),
                    None => true,
                });
            }
        }
        _ => {}
    }
}

fn stays(topology: Topology, value: &mut Value, step: &str, last: &Fields, kept: &Fields) -> bool {
    let Some(last) = last.below.get(step) else {
        return true;
    };
    let nothing = Fields::default();
    let kept = kept.below.get(step).unwrap_or(&nothing);
    if last.here && kept.is_empty() {
        return false;
    }
    let was_empty = is_empty(value);
    prune(topology, value, last, kept);
    was_empty || !is_empty(value) || kept.here
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}

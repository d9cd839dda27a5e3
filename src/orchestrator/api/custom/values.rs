//! Values held against a schema, in upstream's words (kube-openapi/pkg/validation/validate, `ToFieldError` in apiextensions).
//!
//! What an update leaves as it was is not looked at again (upstream's ratcheting). The work is bounded: a schema and an object may
//! each be within their own bounds and cost too much together.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::formats;
use super::schema::{Additional, Bound, List, Rules, Schema, Type};
use crate::orchestrator::api::kinds::Cause;
use crate::orchestrator::api::kinds::parts::causes::{Causes, clipped};
use crate::orchestrator::limits::SCHEMA_WORK;

/// Finds what is wrong with `value`; `old` is what it replaces.
pub(super) fn check(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    found: &mut Causes,
) {
    let mut check = Check { left: SCHEMA_WORK };
    check.value(schema, value, old, path, found);
    if check.left == 0 {
        found.invalid(
            path,
            &Value::Null,
            "it takes too much work to hold the object against its schema",
        );
    }
}

struct Check {
    /// Values and schemas that may still be looked at.
    left: usize,
}

/// A field of an object.
fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

impl Check {
    fn value(
        &mut self,
        schema: &Schema,
        value: &Value,
        old: Option<&Value>,
        path: &str,
        found: &mut Causes,
    ) {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 || old == Some(value) {
            return;
        }
        if value.is_null() {
            let expected = schema.of.filter(|_| !schema.nullable);
            if let Some(of) = expected {
                wrong_type(path, of.name(), "null", found);
            } else if schema.int_or_string && !schema.nullable {
                wrong_type(path, "integer,string", "null", found);
            }
            return;
        }
        if !is_of_type(schema, value) {
            let expected = schema.of.map_or("integer,string", Type::name);
            wrong_type(path, expected, type_name(value), found);
            return;
        }
        self.rules(schema, value, path, found);
        match value {
            Value::Object(map) => self.object(schema, map, old, path, found),
            Value::Array(list) => self.list(schema, list, path, found),
            _ => {}
        }
    }

    fn object(
        &mut self,
        schema: &Schema,
        map: &Map<String, Value>,
        old: Option<&Value>,
        path: &str,
        found: &mut Causes,
    ) {
        if schema.embedded {
            for field in ["apiVersion", "kind"] {
                if map
                    .get(field)
                    .and_then(Value::as_str)
                    .is_none_or(str::is_empty)
                {
                    found.required(below(path, field), "must not be empty");
                }
            }
        }
        for (name, value) in map {
            let schema: &Schema = match (schema.properties.get(name), &schema.additional) {
                (Some(schema), _) => schema,
                (None, Additional::Values(schema)) => schema,
                (None, Additional::Nothing | Additional::Anything) => continue,
            };
            let old = old.and_then(|old| old.get(name));
            self.value(schema, value, old, &below(path, name), found);
        }
    }

    fn list(&mut self, schema: &Schema, list: &[Value], path: &str, found: &mut Causes) {
        if let Some(items) = &schema.items {
            for (number, value) in list.iter().enumerate() {
                self.value(items, value, None, &format!("{path}[{number}]"), found);
            }
        }
        let mut seen = BTreeSet::new();
        for (number, value) in list.iter().enumerate() {
            let identity = match &schema.list {
                List::Atomic => return,
                List::Set => value.clone(),
                List::Map(keys) => keys
                    .iter()
                    .filter_map(|key| Some((key.clone(), value.get(key)?.clone())))
                    .collect::<Map<String, Value>>()
                    .into(),
            };
            if !seen.insert(identity.to_string()) {
                found.duplicate(format!("{path}[{number}]"), &identity);
            }
        }
    }

    fn rules(&mut self, schema: &Schema, value: &Value, path: &str, found: &mut Causes) {
        let rules = &schema.rules;
        if let Some(values) = &rules.values
            && !values.contains(value)
        {
            unsupported(path, value, values, found);
        }
        match value {
            Value::String(text) => of_text(rules, text, path, found),
            Value::Number(_) => of_number(rules, value, path, found),
            Value::Array(list) => of_list(rules, list, path, found),
            Value::Object(map) => of_object(rules, map, path, found),
            Value::Null | Value::Bool(_) => {}
        }
        self.junctors(rules, value, path, found);
    }

    fn junctors(&mut self, rules: &Rules, value: &Value, path: &str, found: &mut Causes) {
        if !rules.all_of.is_empty() {
            let before = found.0.len();
            for schema in &rules.all_of {
                self.value(schema, value, None, path, found);
            }
            if found.0.len() > before {
                let why = format!("\"{path}\" must validate all the schemas (allOf)");
                whole(path, &why, found);
            }
        }
        for (schemas, one) in [(&rules.any_of, false), (&rules.one_of, true)] {
            if schemas.is_empty() {
                continue;
            }
            let mut best: Option<Causes> = None;
            let mut valid = 0;
            for schema in schemas {
                let mut causes = Causes::default();
                self.value(schema, value, None, path, &mut causes);
                if causes.0.is_empty() {
                    valid += 1;
                } else if best
                    .as_ref()
                    .is_none_or(|best| causes.0.len() < best.0.len())
                {
                    best = Some(causes);
                }
            }
            let why = match (one, valid) {
                (false, 0) => "must validate at least one schema (anyOf)".to_owned(),
                (true, 0) => {
                    "must validate one and only one schema (oneOf). Found none valid".to_owned()
                }
                (true, 2..) => format!(
                    "must validate one and only one schema (oneOf). Found {valid} valid alternatives"
                ),
                _ => continue,
            };
            whole(path, &format!("\"{path}\" {why}"), found);
            if valid == 0 {
                found.0.extend(best.unwrap_or_default().0);
            }
        }
        if let Some(schema) = &rules.not {
            let mut causes = Causes::default();
            self.value(schema, value, None, path, &mut causes);
            if causes.0.is_empty() {
                let why = format!("\"{path}\" must not validate the schema (not)");
                whole(path, &why, found);
            }
        }
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_whole(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn is_of_type(schema: &Schema, value: &Value) -> bool {
    match schema.of {
        None if schema.int_or_string => value.is_string() || is_whole(value),
        None => true,
        Some(Type::Array) => value.is_array(),
        Some(Type::Boolean) => value.is_boolean(),
        Some(Type::Integer) => is_whole(value),
        Some(Type::Number) => value.is_number(),
        Some(Type::Object) => value.is_object(),
        Some(Type::String) => value.is_string(),
    }
}

fn wrong_type(path: &str, expected: &str, is: &str, found: &mut Causes) {
    found.0.push(Cause {
        reason: "FieldValueTypeInvalid",
        field: clipped(path),
        message: format!(
            "Invalid value: \"{is}\": {} in body must be of type {expected}: \"{is}\"",
            clipped(path)
        ),
    });
}

/// A schema of schemas does not fit: the value is not told.
fn whole(path: &str, why: &str, found: &mut Causes) {
    found.invalid(path, &Value::from(""), &clipped(why));
}

fn unsupported(path: &str, value: &Value, values: &[Value], found: &mut Causes) {
    let list: Vec<String> = values
        .iter()
        .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
        .collect();
    let list: Vec<&str> = list.iter().map(String::as_str).collect();
    found.unsupported(path, value, &list);
}

fn too_many(path: &str, actual: usize, most: u64, found: &mut Causes) {
    found.0.push(Cause {
        reason: "FieldValueTooMany",
        field: clipped(path),
        message: format!("Too many: {actual}: must have at most {most} items"),
    });
}

/// Whether there are more than so many.
fn exceeds(count: usize, most: Option<u64>) -> Option<u64> {
    most.filter(|most| u64::try_from(count).is_ok_and(|count| count > *most))
}

/// Whether there are fewer than so many.
fn lacks(count: usize, least: Option<u64>) -> Option<u64> {
    least.filter(|least| u64::try_from(count).is_ok_and(|count| count < *least))
}

fn of_text(rules: &Rules, text: &str, path: &str, found: &mut Causes) {
    let length = text.chars().count();
    if let Some(most) = exceeds(length, rules.max_length) {
        found.too_long(path, usize::try_from(most).unwrap_or(usize::MAX));
    }
    if let Some(least) = lacks(length, rules.min_length) {
        let why = format!("{path} in body should be at least {least} chars long");
        found.invalid(path, &Value::from(text), &why);
    }
    if let Some((written, regex)) = &rules.pattern
        && !regex.is_match(text)
    {
        let why = format!("{path} in body should match '{}'", clipped(written));
        found.invalid(path, &Value::from(text), &why);
    }
    if let Some(format) = &rules.format
        && !formats::fits(format, text)
    {
        let text = Value::from(clipped(text));
        found.0.push(Cause {
            reason: "FieldValueTypeInvalid",
            field: clipped(path),
            message: format!(
                "Invalid value: {text}: {} in body must be of type {format}: {text}",
                clipped(path)
            ),
        });
    }
}

fn of_number(rules: &Rules, value: &Value, path: &str, found: &mut Causes) {
    let Some(number) = value.as_f64() else { return };
    if let Some(Bound {
        value: least,
        exclusive,
    }) = rules.minimum
        && (number < least || (exclusive && number <= least))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        let why = format!("{path} in body should be greater than{or_equal} {least}");
        found.invalid(path, value, &why);
    }
    if let Some(Bound {
        value: most,
        exclusive,
    }) = rules.maximum
        && (number > most || (exclusive && number >= most))
    {
        let or_equal = if exclusive { "" } else { " or equal to" };
        let why = format!("{path} in body should be less than{or_equal} {most}");
        found.invalid(path, value, &why);
    }
    if let Some(of) = rules.multiple_of
        && of > 0.0
        && (number / of).fract().abs() > f64::EPSILON
    {
        found.invalid(
            path,
            value,
            &format!("{path} in body should be a multiple of {of}"),
        );
    }
    if let Some(format) = &rules.format
        && !formats::number_fits(format, value)
    {
        let why = format!("{path} in body must be of type {format}: \"{value}\"");
        found.invalid(path, value, &why);
    }
}

fn of_list(rules: &Rules, list: &[Value], path: &str, found: &mut Causes) {
    if let Some(most) = exceeds(list.len(), rules.max_items) {
        too_many(path, list.len(), most, found);
    }
    if let Some(least) = lacks(list.len(), rules.min_items) {
        let why = format!("{path} in body should have at least {least} items");
        found.invalid(path, &Value::from(list.len()), &why);
    }
}

fn of_object(rules: &Rules, map: &Map<String, Value>, path: &str, found: &mut Causes) {
    for name in &rules.required {
        if !map.contains_key(name) {
            found.required(below(path, name), "");
        }
    }
    if let Some(most) = exceeds(map.len(), rules.max_properties) {
        too_many(path, map.len(), most, found);
    }
    if let Some(least) = lacks(map.len(), rules.min_properties) {
        let why = format!("{path} in body should have at least {least} properties");
        found.invalid(path, &Value::from(map.len()), &why);
    }
}

//! What is wrong with an object: every field at once.

use serde_json::Value;

use crate::orchestrator::limits::VALUE_CHARACTERS;

/// One field that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldValueRequired`, …
    pub reason: &'static str,
    /// Path of the field, `spec.template.spec.containers[0].name`.
    pub field: String,
    /// What is wrong, without the field.
    pub message: String,
}

/// The kind has no rules of its own.
pub(in crate::orchestrator::api) fn no_rules(_: &Value, _: Option<&Value>, _: &mut Causes) {}

/// Whether messages repeat the values that are wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::orchestrator::api) enum Quoting {
    /// They do, up to a bound.
    #[default]
    Quoted,
    /// The object is a Secret: they do not.
    Redacted,
}

/// What has been found so far, in Kubernetes' words.
#[derive(Debug, Default)]
pub struct Causes(
    pub(in crate::orchestrator::api) Vec<Cause>,
    pub(in crate::orchestrator::api) Quoting,
);

/// The beginning of a text that may be long.
pub(in crate::orchestrator::api) fn clipped(text: &str) -> String {
    match text.char_indices().nth(VALUE_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Causes {
    fn quote(&self, value: &Value) -> String {
        match (self.1, value) {
            (Quoting::Redacted, _) => "\"<redacted>\"".to_owned(),
            // A long text is cut before it is quoted: its quotes stay.
            (Quoting::Quoted, Value::String(text)) => Value::from(clipped(text)).to_string(),
            (Quoting::Quoted, other) => clipped(&other.to_string()),
        }
    }

    pub(in crate::orchestrator::api) fn required(&mut self, field: impl Into<String>, why: &str) {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        self.0.push(Cause {
            reason: "FieldValueRequired",
            field: field.into(),
            message,
        });
    }

    pub(in crate::orchestrator::api) fn invalid(
        &mut self,
        field: impl Into<String>,
        value: &Value,
        why: &str,
    ) {
        let value = self.quote(value);
        self.0.push(Cause {
            reason: "FieldValueInvalid",
            field: clipped(&field.into()),
            message: format!("Invalid value: {value}: {why}"),
        });
    }

    pub(in crate::orchestrator::api) fn duplicate(
        &mut self,
        field: impl Into<String>,
        value: &Value,
    ) {
        let value = self.quote(value);
        self.0.push(Cause {
            reason: "FieldValueDuplicate",
            field: clipped(&field.into()),
            message: format!("Duplicate value: {value}"),
        });
    }

    pub(in crate::orchestrator::api) fn unsupported(
        &mut self,
        field: impl Into<String>,
        value: &Value,
        supported: &[&str],
    ) {
        let list: Vec<String> = supported.iter().map(|one| format!("\"{one}\"")).collect();
        let value = self.quote(value);
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            list.join(", ")
        );
        self.0.push(Cause {
            reason: "FieldValueNotSupported",
            field: clipped(&field.into()),
            message,
        });
    }

    pub(in crate::orchestrator::api) fn forbidden(&mut self, field: impl Into<String>, why: &str) {
        self.0.push(Cause {
            reason: "FieldValueForbidden",
            field: field.into(),
            message: format!("Forbidden: {why}"),
        });
    }

    /// The text, or what it stands for, is too long.
    pub(in crate::orchestrator::api) fn too_long(&mut self, field: impl Into<String>, most: usize) {
        self.0.push(Cause {
            reason: "FieldValueTooLong",
            field: field.into(),
            message: format!("Too long: may not be more than {most} bytes"),
        });
    }

    /// The value must be one of these.
    pub(in crate::orchestrator::api) fn one_of(
        &mut self,
        field: impl Into<String>,
        value: Option<&Value>,
        supported: &[&str],
    ) {
        match value {
            Some(value) if value.as_str().is_some_and(|text| supported.contains(&text)) => {}
            Some(value) => self.unsupported(field, value, supported),
            None => self.required(field, ""),
        }
    }
}

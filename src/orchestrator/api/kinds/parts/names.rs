//! Names and labels (k8s.io/apimachinery/pkg/util/validation), and the small readers that validation shares.

use std::collections::BTreeSet;

use serde_json::Value;

use super::causes::Causes;

pub(in crate::orchestrator::api) const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";

pub(in crate::orchestrator::api) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

pub(in crate::orchestrator::api) fn list<'a>(
    object: &'a Value,
    field: &str,
) -> impl Iterator<Item = (usize, &'a Value)> {
    object
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
}

pub(in crate::orchestrator::api) fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

pub(in crate::orchestrator::api) fn is_subdomain(name: &str) -> bool {
    // A part has no limit of its own: only a label has.
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(part)
}

/// A qualified name's last part, and a label's value when not empty.
pub(in crate::orchestrator::api) fn is_label_text(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let ends = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63
        && text.bytes().all(inner)
        && ends(text.bytes().next())
        && ends(text.bytes().last())
}

pub(in crate::orchestrator::api) fn is_qualified_name(name: &str) -> bool {
    match name.split_once('/') {
        Some((prefix, rest)) => is_subdomain(prefix) && is_label_text(rest),
        None => is_label_text(name),
    }
}

/// The rule of most kinds.
pub(in crate::orchestrator::api) fn subdomain(name: &str) -> Option<&'static str> {
    (!is_subdomain(name)).then_some(SUBDOMAIN)
}

/// Namespaces' rule.
pub(in crate::orchestrator::api) fn label(name: &str) -> Option<&'static str> {
    (!is_label(name)).then_some(LABEL)
}

/// Services' rule.
pub(in crate::orchestrator::api) fn label_1035(name: &str) -> Option<&'static str> {
    (!is_label(name) || name.starts_with(|first: char| first.is_ascii_digit()))
        .then_some(LABEL_1035)
}

pub(in crate::orchestrator::api) fn labels(
    object: &Value,
    field: &str,
    path: &str,
    found: &mut Causes,
) {
    for (key, value) in object
        .get(field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        if !is_qualified_name(key) {
            found.invalid(path, &Value::from(key.as_str()), "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
        }
        if !value
            .as_str()
            .is_some_and(|text| text.is_empty() || is_label_text(text))
        {
            found.invalid(path, value, "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character");
        }
    }
}

/// A required DNS-1123 label that is unique in its list.
pub(in crate::orchestrator::api) fn name_of(
    object: &Value,
    path: &str,
    seen: &mut BTreeSet<String>,
    found: &mut Causes,
) {
    let name = text(object, "/name");
    if name.is_empty() {
        found.required(path, "");
    } else if !is_label(name) {
        found.invalid(path, &Value::from(name), LABEL);
    } else if !seen.insert(name.to_owned()) {
        found.duplicate(path, &Value::from(name));
    }
}

pub(in crate::orchestrator::api) fn port_number(
    value: Option<&Value>,
    path: &str,
    found: &mut Causes,
) {
    match value {
        None | Some(Value::Null) => found.required(path, ""),
        Some(value)
            if value
                .as_i64()
                .is_some_and(|number| (1..=65535).contains(&number)) => {}
        Some(value) => found.invalid(path, value, "must be between 1 and 65535, inclusive"),
    }
}

/// IANA_SVC_NAME.
pub(in crate::orchestrator::api) fn port_name(name: &Value, path: &str, found: &mut Causes) {
    let text = name.as_str().unwrap_or_default();
    let right = is_label(text)
        && text.len() <= 15
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.contains("--");
    if !right {
        found.invalid(path, name, "must be no more than 15 characters, contain only alpha-numeric characters (a-z, 0-9), and hyphens (-), with at least one letter (a-z)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_at_to_their_end_and_in_any_letters() {
        let a = |count: usize| "a".repeat(count);
        for (name, right) in [
            (format!("{}-ee", a(62)), true),
            (format!("{}.{}", a(100), a(100)), true),
            (a(254), false),
            (format!("{}é", a(62)), false),
            (format!("first.{}🐦.third", a(61)), false),
            (format!("{}G", a(64)), false),
            (format!("{}_h", a(70)), false),
            (format!("{}-.b", a(64)), false),
        ] {
            assert_eq!(is_subdomain(&name), right, "{name}");
            assert_eq!(is_qualified_name(&format!("{name}/team")), right, "{name}");
        }
    }
}

//! The shapes that values have: texts by pattern, lists, tables.

use serde_json::{Map, Value as Json, json};

use super::super::file::{COUNT, STATUS, WORD_MAX};

/// A text that holds a variable may be anything when it is read.
const VARIABLE: &str = r"\$\{";
const NUMBER: &str = r"([0-9]+\.?[0-9]*|\.[0-9]+)";
const COMPARISON: &str = r"(<=|>=|==|<|>)";

/// What the schema's parts refer to by name.
pub(super) fn definitions() -> Json {
    let duration = format!(r"{NUMBER}\s*(ms|s|m|min|h)");
    let bound = |limit: &str| pattern(&format!(r"^\s*{COMPARISON}\s*{limit}\s*$"));
    json!({
        "duration": pattern(&format!(r"^\s*{duration}\s*$")),
        "rate": more_than_nothing(&format!(r"^\s*{NUMBER}\s*/[sm]\s*$")),
        "bit_rate": more_than_nothing(&format!(r"^\s*{NUMBER}\s*[kKmMgG]?[bB][iI][tT]/[sS]\s*$")),
        "byte_rate": more_than_nothing(&format!(r"^\s*{NUMBER}\s*([kKmMgGtTpP][iI]?[bB]?|[bB])\s*/s\s*$")),
        "size": pattern(&format!(r"^\s*{NUMBER}\s*([kKmMgGtTpPeE][iI]?[bB]?|[bB])\s*$")),
        "share": pattern(r"^\s*\+?0*(100(\.0*)?|[0-9]{1,2}(\.[0-9]*)?|\.[0-9]+)\s*%$"),
        "positive": more_than_nothing(&format!(r"^\s*{duration}\s*$")),
        "signed": pattern(&format!(r"^\s*[+-]\s*{duration}\s*$")),
        "url": pattern(r"^https?://[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})?(:[0-9]{0,5})?([/?].*)?$"),
        "header": pattern(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"),
        "method": { "allOf": [pattern(r"^[A-Z]+$"), { "not": { "const": "CONNECT" } }] },
        "status": { "type": "integer", "minimum": STATUS.start(), "maximum": STATUS.end() },
        "count": { "type": "integer", "minimum": COUNT.start(), "maximum": COUNT.end() },
        "share_bound": bound(&format!(r"{NUMBER}\s*%")),
        "time_bound": bound(&duration),
        "count_bound": bound(r"\+?[0-9]{1,10}"),
        "scalar": { "type": ["string", "integer", "boolean"] },
    })
}

/// One of the definitions.
pub(super) fn named(name: &str) -> Json {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// Any text.
pub(super) fn text() -> Json {
    json!({ "type": "string" })
}

/// A text with a variable in it.
pub(super) fn variable() -> Json {
    json!({ "type": "string", "pattern": VARIABLE })
}

/// A text like this, or one with a variable in it.
fn pattern(pattern: &str) -> Json {
    json!({ "type": "string", "anyOf": [{ "pattern": pattern }, { "pattern": VARIABLE }] })
}

/// A text like this that is not zero.
fn more_than_nothing(like: &str) -> Json {
    json!({ "allOf": [pattern(like), { "pattern": format!("[1-9]|{VARIABLE}") }] })
}

/// One of these texts, or one with a variable in it.
pub(super) fn words(known: &[&str]) -> Json {
    json!({ "type": "string", "anyOf": [{ "enum": known }, { "pattern": VARIABLE }] })
}

/// A name that the file gives.
pub(super) fn word() -> Json {
    json!({ "type": "string", "pattern": format!("^[a-z0-9-]{{1,{WORD_MAX}}}$") })
}

/// A list of these.
pub(super) fn list(items: &Json) -> Json {
    json!({ "type": "array", "items": items })
}

/// A table of any keys like `names`, each with such a value.
pub(super) fn map(names: &Json, values: &Json) -> Json {
    json!({ "type": "object", "propertyNames": names, "additionalProperties": values })
}

/// A table of these keys, and no others.
pub(super) fn closed(properties: &[(&str, Json)], required: &[&str]) -> Json {
    let entries = properties.iter();
    let entries: Map<String, Json> = entries
        .map(|(key, value)| ((*key).to_owned(), value.clone()))
        .collect();
    json!({ "type": "object", "properties": entries, "required": required, "additionalProperties": false })
}

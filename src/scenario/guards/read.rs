//! Reads `never = [{ kind, name or selector, where or condition or exists }]`, and `always`.

use serde_json::Value as Json;

use super::{Guard, Meant, Rule, path, selector};
use crate::kubernetes::client::ResourceKind;
use crate::model::reader::{Table, Value};
use crate::scenario::steps::{Wanted, object_name, read_kind, wanted};

/// Each entry is a watch of its own.
const ENTRIES_MAX: usize = 50;

/// The keys of an entry.
pub(in crate::scenario) const KEYS: [&str; 6] =
    ["kind", "name", "selector", "where", "condition", "exists"];

/// Reads one of the lists: names of rows, and what each says. Problems are on the file's list.
pub(in crate::scenario) fn read(rule: Rule, value: &Value<'_, '_>) -> Vec<(String, Guard)> {
    let key = rule.key();
    let Some(entries) = value.array() else {
        return Vec::new();
    };
    if entries.is_empty() {
        let help = format!(
            "such as `{key} = [{{ kind = \"Pod\", selector = \"app=web\", where = {{ \"status.phase\" = \"Failed\" }} }}]`"
        );
        value.problem("no entry", Some(help));
    }
    if entries.len() > ENTRIES_MAX {
        value.problem(format!("more than {ENTRIES_MAX} entries"), None);
        return Vec::new();
    }
    let mut read: Vec<(String, Guard)> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let Some(guard) = entry.table().and_then(|table| guard(rule, &table)) else {
            continue;
        };
        if read.iter().any(|(_, known)| *known == guard) {
            entry.problem(format!("`{guard}` is there twice"), None);
        }
        read.push((format!("{key}.{}", index + 1), guard));
    }
    read
}

fn guard(rule: Rule, table: &Table<'_, '_>) -> Option<Guard> {
    table.allow(&KEYS);
    let kind = read_kind(table, &[]);
    let meant = match (table.get("name"), table.get("selector")) {
        (None, None) => Some(Meant::All),
        (Some(value), None) => object_name(&value).map(Meant::Name),
        (None, Some(value)) => written_selector(&value).map(Meant::Selector),
        (Some(_), Some(value)) => {
            value.problem("`name` and `selector` exclude each other", None);
            None
        }
    };
    let unsaid = match rule {
        Rule::Never => "say once what never is",
        Rule::Always => "say once what always is",
    };
    let wanted = wanted(table, unsaid);
    if let (Some(kind), Some(Wanted::Fields(fields))) = (&kind, &wanted) {
        check_paths(kind, table, fields);
    }
    Some(Guard {
        rule,
        kind: kind?,
        meant: meant?,
        wanted: wanted?,
    })
}

fn written_selector(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    match selector::check(text) {
        Ok(()) => Some(text.to_owned()),
        Err(why) => {
            let help = "such as `app=web`, `tier!=db` or `app in (web, api)`";
            let what = format!("`{text}` is not a label selector: {why}");
            value.problem(what, Some(help.to_owned()));
            None
        }
    }
}

/// Refuses fields that objects of this kind do not have.
fn check_paths(kind: &ResourceKind, table: &Table<'_, '_>, fields: &[(String, Json)]) {
    let written = table.get("where").and_then(|value| value.if_table());
    for (key, span, _) in written.map(|table| table.entries()).unwrap_or_default() {
        let Some((_, value)) = fields.iter().find(|(path, _)| path == key) else {
            continue;
        };
        if let Err((what, help)) = path::check(kind, key, value) {
            table.problem_with_help(span, what, help);
        }
    }
}

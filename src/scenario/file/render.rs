//! A document as the text of one file: what includes others is kept as a whole.
//!
//! Entries keep the order of their places, so that reading the text again makes the same rows in the same order.

use std::borrow::Cow;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::variables;

type Entry<'d, 't> = (&'d Spanned<DeString<'t>>, &'d Spanned<DeValue<'t>>);

/// The document's text. Its variables are filled in already.
pub(super) fn document(root: &DeTable<'_>) -> String {
    let mut text = String::new();
    let plain_dollars = root.get(variables::KEY).is_some();
    let (tables, plain): (Vec<_>, Vec<_>) = in_order(root)
        .into_iter()
        .partition(|(_, value)| is_table(value) || is_tables(value));
    for (key, value) in plain {
        let value = inline(value.get_ref(), plain_dollars);
        text.push_str(&format!("{} = {value}\n", bare(key.get_ref())));
    }
    for (key, value) in tables {
        let name = bare(key.get_ref()).into_owned();
        // The variables' own values are texts as they are.
        let plain_dollars = plain_dollars && key.get_ref() != variables::KEY;
        match value.get_ref() {
            DeValue::Array(items) => {
                for item in items {
                    let DeValue::Table(entries) = item.get_ref() else {
                        continue;
                    };
                    text.push_str(&format!("\n[[{name}]]\n"));
                    text.push_str(&lines(entries, plain_dollars));
                }
            }
            DeValue::Table(entries) => section(&name, entries, plain_dollars, &mut text),
            _ => {}
        }
    }
    text
}

/// A table under its own head, or those that it consists of under theirs.
fn section(name: &str, entries: &DeTable<'_>, plain_dollars: bool, text: &mut String) {
    if entries.is_empty() || !entries.values().all(is_table) {
        text.push_str(&format!("\n[{name}]\n"));
        text.push_str(&lines(entries, plain_dollars));
        return;
    }
    for (key, value) in in_order(entries) {
        if let DeValue::Table(inner) = value.get_ref() {
            text.push_str(&format!("\n[{name}.{}]\n", bare(key.get_ref())));
            text.push_str(&lines(inner, plain_dollars));
        }
    }
}

fn lines(entries: &DeTable<'_>, plain_dollars: bool) -> String {
    let lines = in_order(entries).into_iter().map(|(key, value)| {
        let value = inline(value.get_ref(), plain_dollars);
        format!("{} = {value}\n", bare(key.get_ref()))
    });
    lines.collect()
}

/// A value on one line; `plain_dollars`: what is no variable has to be told from one.
fn inline(value: &DeValue<'_>, plain_dollars: bool) -> String {
    match value {
        DeValue::String(text) => {
            let text = if plain_dollars {
                text.replace("${", "$${")
            } else {
                text.clone().into_owned()
            };
            toml::Value::String(text).to_string()
        }
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| inline(item.get_ref(), plain_dollars))
                .collect();
            format!("[{}]", items.join(", "))
        }
        DeValue::Table(entries) => {
            let entries: Vec<String> = in_order(entries)
                .into_iter()
                .map(|(key, value)| {
                    let value = inline(value.get_ref(), plain_dollars);
                    format!("{} = {value}", bare(key.get_ref()))
                })
                .collect();
            if entries.is_empty() {
                "{}".to_owned()
            } else {
                format!("{{ {} }}", entries.join(", "))
            }
        }
    }
}

fn in_order<'d, 't>(table: &'d DeTable<'t>) -> Vec<Entry<'d, 't>> {
    let mut entries: Vec<Entry<'d, 't>> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

fn is_table(value: &Spanned<DeValue<'_>>) -> bool {
    matches!(value.get_ref(), DeValue::Table(_))
}

/// A list of tables, and of nothing else.
fn is_tables(value: &Spanned<DeValue<'_>>) -> bool {
    let DeValue::Array(items) = value.get_ref() else {
        return false;
    };
    !items.is_empty() && items.iter().all(is_table)
}

/// A key, in quotes if it needs them.
fn bare(key: &str) -> Cow<'_, str> {
    let right = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    if !key.is_empty() && key.bytes().all(right) {
        Cow::Borrowed(key)
    } else {
        // A key in quotes is written like a text of one line.
        Cow::Owned(serde_json::Value::from(key).to_string())
    }
}

//! The messages, from `messages.txt`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// All messages.
pub(in crate::orchestrator::api) struct Schema {
    by_name: BTreeMap<&'static str, usize>,
    names: Vec<&'static str>,
    messages: Vec<Vec<Field>>,
}

/// One field of a message.
pub(in crate::orchestrator::api) struct Field {
    /// Its number on the wire.
    pub(in crate::orchestrator::api) number: u64,
    /// Its name in JSON; `~` if its own fields stand there.
    pub(in crate::orchestrator::api) name: &'static str,
    /// How often it occurs.
    pub(in crate::orchestrator::api) shape: Shape,
    /// What it holds.
    pub(in crate::orchestrator::api) of: Type,
}

/// How often a field occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orchestrator::api) enum Shape {
    /// Once; a zero is the same as nothing.
    One,
    /// Once; a zero is not the same as nothing.
    Optional,
    /// Any number of times.
    List,
    /// As a map by text.
    Map,
}

/// What a field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orchestrator::api) enum Type {
    Text,
    Integer,
    Boolean,
    Bytes,
    Quantity,
    Time,
    MicroTime,
    IntOrString,
    Json,
    /// A number with a fraction.
    Double,
    /// A schema of a definition, or whether anything is one.
    SchemaOrBool,
    /// A message with nothing but a list of texts.
    Texts,
    /// Another message.
    Message(usize),
}

/// The message of schemas in definitions.
pub(in crate::orchestrator::api) const JSON_SCHEMA: &str = "apiextensions.JSONSchemaProps";

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::read(include_str!("messages.txt")));

/// The message of an object's type, and its name.
pub(in crate::orchestrator::api) fn of_object(
    api_version: &str,
    kind: &str,
) -> Option<(&'static str, &'static [Field])> {
    // Clients send these in whatever group they speak of.
    let group = if ["DeleteOptions", "Status"].contains(&kind) {
        "meta"
    } else {
        api_version
            .split_once('/')
            .map_or("core", |(group, _)| group)
            .split('.')
            .next()
            .unwrap_or_default()
    };
    let at = *SCHEMA.by_name.get(format!("{group}.{kind}").as_str())?;
    Some((name(at), message(at)))
}

/// The name of the message at this place.
pub(in crate::orchestrator::api) fn name(at: usize) -> &'static str {
    SCHEMA.names[at]
}

/// The message of this name.
pub(in crate::orchestrator::api) fn named(name: &str) -> Option<&'static [Field]> {
    SCHEMA.by_name.get(name).map(|at| message(*at))
}

/// The message at this place.
pub(in crate::orchestrator::api) fn message(at: usize) -> &'static [Field] {
    &SCHEMA.messages[at]
}

impl Schema {
    fn read(text: &'static str) -> Self {
        let lines: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .collect();
        let by_name: BTreeMap<&str, usize> = lines
            .iter()
            .enumerate()
            .map(|(at, (name, _))| (*name, at))
            .collect();
        let names = lines.iter().map(|(name, _)| *name).collect();
        let messages = lines
            .iter()
            .map(|(_, fields)| {
                fields
                    .split('|')
                    .filter_map(|field| Field::read(field.trim(), &by_name))
                    .collect()
            })
            .collect();
        Self {
            by_name,
            names,
            messages,
        }
    }
}

impl Field {
    fn read(text: &'static str, messages: &BTreeMap<&str, usize>) -> Option<Self> {
        let mut words = text.split(' ');
        let (number, name, of) = (words.next()?, words.next()?, words.next()?);
        let (shape, of) = match of.split_at(1) {
            ("?", of) => (Shape::Optional, of),
            ("[", of) => (Shape::List, of),
            ("{", of) => (Shape::Map, of),
            _ => (Shape::One, of),
        };
        let of = match of {
            "s" => Type::Text,
            "i" => Type::Integer,
            "b" => Type::Boolean,
            "y" => Type::Bytes,
            "q" => Type::Quantity,
            "time" => Type::Time,
            "micro" => Type::MicroTime,
            "intstr" => Type::IntOrString,
            "raw" => Type::Json,
            "f" => Type::Double,
            "schema" => Type::SchemaOrBool,
            "extra" => Type::Texts,
            message => Type::Message(*messages.get(message)?),
        };
        Some(Self {
            number: number.parse().ok()?,
            name,
            shape,
            of,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_table_is_understood() {
        let text = include_str!("messages.txt");
        let written: usize = text
            .lines()
            .map(|line| line.split('|').filter(|field| field.contains(' ')).count())
            .sum();
        let read: usize = SCHEMA.messages.iter().map(Vec::len).sum();
        let empty = text
            .lines()
            .filter(|line| line.trim().ends_with(':'))
            .count();
        assert_eq!(read + empty, written);
        assert!(read > 1400);
    }
}

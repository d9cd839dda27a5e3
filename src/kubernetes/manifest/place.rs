//! Values as they were read, and where each part of them was written.

use serde_json::Value;

/// A line and a column in characters, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) line: u64,
    pub(super) column: u64,
}

/// A value, where it stands, and how many values it consists of.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) value: Value,
    pub(super) place: Place,
    pub(super) size: usize,
}

/// Something that is no YAML or JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxProblem {
    pub(super) at: Position,
    pub(super) problem: String,
}

/// Where a value and its parts were written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    pub(super) at: Position,
    pub(super) parts: Parts,
}

/// The parts of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Parts {
    /// It has none.
    None,
    /// Keys, where each stands, and their values' places.
    Map(Vec<(String, Position, Place)>),
    /// Elements.
    List(Vec<Place>),
}

impl Place {
    /// Where a field's key stands (`spec.ports[0].port`, `data[a.b]`), or the nearest thing around it that was written.
    pub(super) fn find(&self, field: &str) -> Position {
        let (mut here, mut at, mut rest) = (self, self.at, field);
        loop {
            rest = rest.trim_start_matches('.');
            let step = match &here.parts {
                Parts::None => None,
                Parts::List(elements) => rest.strip_prefix('[').and_then(|inner| {
                    let (index, after) = inner.split_once(']')?;
                    let element = elements.get(index.parse::<usize>().ok()?)?;
                    Some((element.at, element, after))
                }),
                Parts::Map(entries) => entries
                    .iter()
                    .filter_map(|(key, at, place)| Some((*at, place, after_key(rest, key)?)))
                    .min_by_key(|(_, _, after)| after.len()),
            };
            let Some((found, place, after)) = step else {
                return at;
            };
            (at, here, rest) = (found, place, after);
        }
    }

    /// The place of a key of a map.
    pub(super) fn entry(&self, key: &str) -> Option<&Place> {
        match &self.parts {
            Parts::Map(entries) => entries
                .iter()
                .find(|(known, ..)| known == key)
                .map(|(.., place)| place),
            Parts::None | Parts::List(_) => None,
        }
    }

    /// The place of an element of a list.
    pub(super) fn element(&self, index: usize) -> Option<&Place> {
        match &self.parts {
            Parts::List(elements) => elements.get(index),
            Parts::None | Parts::Map(_) => None,
        }
    }
}

/// What follows `key`, or `[key]`, at the beginning of a path.
fn after_key<'a>(path: &'a str, key: &str) -> Option<&'a str> {
    if let Some(bracketed) = path.strip_prefix('[') {
        return bracketed.strip_prefix(key)?.strip_prefix(']');
    }
    let after = path.strip_prefix(key).filter(|_| !key.is_empty())?;
    (after.is_empty() || after.starts_with(['.', '['])).then_some(after)
}

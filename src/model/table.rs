//! Reads TOML tables strictly: every problem at once, each with its line and column; unknown keys are refused with a suggestion.
//!
//! A reader takes the keys it knows from a [`Table`]; what is left when it says [`Table::finish`] is unknown.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Something wrong at a place of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// A lower-case fragment.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

/// A file that is being read, and what was found wrong with it so far.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    problems: Vec<Problem>,
}

/// One table of it, whose known keys are taken out one by one.
#[derive(Debug)]
pub struct Table<'a> {
    name: String,
    start: usize,
    left: BTreeMap<String, (usize, Spanned<DeValue<'a>>)>,
    known: Vec<&'static str>,
}

impl<'a> Document<'a> {
    /// Parses the text; syntax errors become problems.
    pub fn parse(text: &'a str) -> (Self, Table<'a>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let mut document = Self { text, problems: Vec::new() };
        for error in errors {
            document.refuse(error.span().map_or(0, |span| span.start), error.message().to_owned());
        }
        (document, Table::new(String::new(), 0, root.into_inner()))
    }

    /// Notes a problem at a byte offset.
    pub fn refuse(&mut self, offset: usize, what: String) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        self.problems.push(Problem { line, column, what });
    }

    /// `value` if nothing was wrong, otherwise every problem in the order of the file.
    pub fn finish<T>(mut self, value: T) -> Result<T, Vec<Problem>> {
        if self.problems.is_empty() {
            return Ok(value);
        }
        self.problems.sort_by_key(|problem| (problem.line, problem.column));
        Err(self.problems)
    }
}

impl<'a> Table<'a> {
    fn new(name: String, start: usize, table: DeTable<'a>) -> Self {
        let left = table.into_iter().map(|(key, value)| (key.get_ref().to_string(), (key.span().start, value))).collect();
        Self { name, start, left, known: Vec::new() }
    }

    /// Where the table starts, as a byte offset.
    pub fn start(&self) -> usize {
        self.start
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'a>>> {
        self.known.push(key);
        self.left.remove(key).map(|(_, value)| value)
    }

    fn full_name(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// A string and where it stands, if the key is there.
    pub fn string(&mut self, document: &mut Document<'_>, key: &'static str) -> Option<(String, Range<usize>)> {
        let value = self.take(key)?;
        let span = value.span();
        match value.into_inner() {
            DeValue::String(text) => Some((text.into_owned(), span)),
            other => {
                document.refuse(span.start, format!("`{}` is {}, not a string", self.full_name(key), article(&other)));
                None
            }
        }
    }

    /// A string that must be there; empty, with a problem noted, if it is not.
    pub fn required_string(&mut self, document: &mut Document<'_>, key: &'static str) -> (String, Range<usize>) {
        if !self.left.contains_key(key) {
            document.refuse(self.start, format!("`{}` is missing", self.full_name(key)));
        }
        self.string(document, key).unwrap_or((String::new(), self.start..self.start))
    }

    /// A list of strings with their places; empty if the key is absent.
    pub fn strings(&mut self, document: &mut Document<'_>, key: &'static str) -> Vec<(String, Range<usize>)> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let start = value.span().start;
        let DeValue::Array(items) = value.into_inner() else {
            document.refuse(start, format!("`{}` is not a list of strings", self.full_name(key)));
            return Vec::new();
        };
        let mut strings = Vec::new();
        for item in items {
            let span = item.span();
            match item.into_inner() {
                DeValue::String(text) => strings.push((text.into_owned(), span)),
                other => {
                    document.refuse(span.start, format!("`{}` holds {}, not a string", self.full_name(key), article(&other)));
                }
            }
        }
        strings
    }

    /// A list of tables (`[[key]]`); empty if the key is absent.
    pub fn tables(&mut self, document: &mut Document<'_>, key: &'static str) -> Vec<Table<'a>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let start = value.span().start;
        let name = self.full_name(key);
        let DeValue::Array(items) = value.into_inner() else {
            document.refuse(start, format!("`{name}` is not a list of tables: write `[[{name}]]`"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            let start = item.span().start;
            match item.into_inner() {
                DeValue::Table(table) => tables.push(Table::new(name.clone(), start, table)),
                other => document.refuse(start, format!("`{name}` holds {}, not a table", article(&other))),
            }
        }
        tables
    }

    /// A table of strings with their places, by key; empty if the key is absent.
    pub fn string_table(&mut self, document: &mut Document<'_>, key: &'static str) -> BTreeMap<String, (String, Range<usize>)> {
        let Some(value) = self.take(key) else { return BTreeMap::new() };
        let start = value.span().start;
        let name = self.full_name(key);
        let DeValue::Table(table) = value.into_inner() else {
            document.refuse(start, format!("`{name}` is not a table of strings"));
            return BTreeMap::new();
        };
        let mut strings = BTreeMap::new();
        for (key, value) in table {
            let span = value.span();
            match value.into_inner() {
                DeValue::String(text) => {
                    strings.insert(key.get_ref().to_string(), (text.into_owned(), span));
                }
                other => document.refuse(span.start, format!("`{name}.{}` is {}, not a string", key.get_ref(), article(&other))),
            }
        }
        strings
    }

    /// Refuses every key that was not taken.
    pub fn finish(self, document: &mut Document<'_>) {
        for (key, (offset, _)) in &self.left {
            let near = self.known.iter().map(|known| (strsim::damerau_levenshtein(known, key), known)).min();
            let suggestion = match near {
                Some((distance, known)) if distance <= 2 => format!("; did you mean `{known}`?"),
                _ => format!("; known here: {}", self.known.join(", ")),
            };
            document.refuse(*offset, format!("unknown key `{}`{suggestion}", self.full_name(key)));
        }
    }
}

fn article(value: &DeValue<'_>) -> String {
    match value.type_str() {
        word @ ("integer" | "array") => format!("an {word}"),
        word => format!("a {word}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_its_place() {
        let text = "name = 1\npackags = []\n\n[[file]]\npath = \"/a\"\nmod = \"1\"\n";
        let (mut document, mut root) = Document::parse(text);
        root.string(&mut document, "name");
        root.strings(&mut document, "packages");
        for mut file in root.tables(&mut document, "file") {
            file.required_string(&mut document, "path");
            file.string(&mut document, "mode");
            file.finish(&mut document);
        }
        root.finish(&mut document);
        let said: Vec<String> = document.finish(()).unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "1:8: `name` is an integer, not a string",
                "2:1: unknown key `packags`; did you mean `packages`?",
                "6:1: unknown key `file.mod`; did you mean `mode`?",
            ]
        );
    }

    #[test]
    fn syntax_errors_are_problems_too() {
        let (document, _) = Document::parse("a = 1\nb = \n");
        let problems = document.finish(()).unwrap_err();
        assert_eq!(problems[0].line, 2);
    }
}

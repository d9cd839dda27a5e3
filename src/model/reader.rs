//! Reads TOML tables that users wrote, and goes on after a problem: all of them are told at once.
//!
//! A reader asks a [`Table`] for each key it knows and calls [`Table::allow`] with their list, so that every other key is refused
//! with a suggestion. What is missing or wrong comes back as `None` and is on the [`Problems`] list.

mod shifted;

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, Refusal};
use super::units::{InvalidQuantity, parse_duration, parse_rate, parse_size};

/// The problems found so far in a file, and in those that it includes.
///
/// Places are counted through all of their texts, one behind the other, the file's own first.
#[derive(Debug)]
pub struct Problems<'t> {
    file: String,
    text: &'t str,
    included: Vec<Included<'t>>,
    found: RefCell<Vec<Diagnostic>>,
    warned: RefCell<Vec<Diagnostic>>,
}

/// A file that another one includes.
#[derive(Debug)]
struct Included<'t> {
    file: String,
    text: &'t str,
    /// Where it begins among all texts.
    offset: usize,
}

impl<'t> Problems<'t> {
    /// No problem yet in `text` of `file`.
    #[must_use]
    pub fn new(file: &str, text: &'t str) -> Self {
        Self {
            file: file.to_owned(),
            text,
            included: Vec::new(),
            found: RefCell::default(),
            warned: RefCell::default(),
        }
    }

    /// Reads another file, whose problems are told with its own places.
    pub fn include(&mut self, file: &str, text: &'t str) -> Spanned<DeTable<'t>> {
        let (last_offset, last_text) = self
            .included
            .last()
            .map_or((0, self.text), |last| (last.offset, last.text));
        // The end of one text is a place of its own.
        let offset = last_offset + last_text.len() + 1;
        self.included.push(Included {
            file: file.to_owned(),
            text,
            offset,
        });
        shifted::table(self.parse_at(text, offset), offset)
    }

    /// The file in which a place is, its text, and where it begins among all texts.
    fn source(&self, at: usize) -> (&str, &'t str, usize) {
        let after = self.included.partition_point(|one| one.offset <= at);
        match after
            .checked_sub(1)
            .and_then(|index| self.included.get(index))
        {
            Some(one) => (one.file.as_str(), one.text, one.offset),
            None => (self.file.as_str(), self.text, 0),
        }
    }

    /// The name of the file in which a place is.
    #[must_use]
    pub fn file_at(&self, at: usize) -> &str {
        self.source(at).0
    }

    /// A place as people read it: `common.toml:3:1`.
    #[must_use]
    pub fn place(&self, span: Range<usize>) -> String {
        let at = self.note(span, "", None);
        format!("{}:{}:{}", at.file, at.line, at.column)
    }

    /// Adds a problem.
    pub fn add(&self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        let message: String = message.into();
        let problem = self.note(span, &message, help);
        self.found.borrow_mut().push(problem);
    }

    /// Adds a warning: the file is not refused for it.
    pub fn warn(&self, span: Range<usize>, message: impl Into<String>, help: Option<String>) {
        let message: String = message.into();
        let warning = self.note(span, &message, help);
        self.warned.borrow_mut().push(warning);
    }

    /// The warnings so far, in the order of their places.
    #[must_use]
    pub fn warnings(&self) -> Vec<Diagnostic> {
        let mut warnings = self.warned.borrow().clone();
        warnings.sort_by_key(|warning| warning.span.start);
        warnings
    }

    /// A note about a part of the file that is put on no list.
    #[must_use]
    pub fn note(&self, span: Range<usize>, message: &str, help: Option<String>) -> Diagnostic {
        let (file, text, offset) = self.source(span.start);
        let span = span.start - offset..span.end.saturating_sub(offset);
        Diagnostic::new(file, text, span, message, help)
    }

    /// The document as a table; what is not TOML becomes problems.
    pub fn parse(&self) -> Spanned<DeTable<'t>> {
        self.parse_at(self.text, 0)
    }

    /// The document of a text that begins at `offset`; its own places are not yet moved there.
    fn parse_at(&self, text: &'t str, offset: usize) -> Spanned<DeTable<'t>> {
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            self.add(
                span.start + offset..span.end + offset,
                format!("not TOML: {}", error.message().replace('\n', ", ")),
                None,
            );
        }
        document
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    /// `value` if nothing was found, else everything that was.
    ///
    /// # Errors
    /// When there are problems.
    pub fn finish<T>(self, value: T) -> Result<T, Refusal> {
        let found = self.found.into_inner();
        if found.is_empty() {
            Ok(value)
        } else {
            Err(Refusal::new(&self.file, self.text, found))
        }
    }
}

/// The word of `known` that `word` was probably meant to be, as a help text; else the list of all.
#[must_use]
pub fn suggestion(word: &str, known: &[&str]) -> Option<String> {
    let close = known
        .iter()
        .map(|k| (strsim::jaro_winkler(word, k), *k))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match close {
        Some((score, best)) if score >= 0.8 => Some(format!("did you mean `{best}`?")),
        Some(_) => Some(format!(
            "known: {}",
            known
                .iter()
                .map(|k| format!("`{k}`"))
                .collect::<Vec<_>>()
                .join(", ")
        )),
        None => None,
    }
}

/// A table being read.
#[derive(Clone, Copy)]
pub struct Table<'r, 't> {
    problems: &'r Problems<'t>,
    entries: &'r DeTable<'t>,
    span: (usize, usize),
}

/// A value being read.
#[derive(Clone, Copy)]
pub struct Value<'r, 't> {
    problems: &'r Problems<'t>,
    value: &'r Spanned<DeValue<'t>>,
}

impl<'r, 't> Table<'r, 't> {
    /// The name of the file that it stands in.
    #[must_use]
    pub fn file(&self) -> &'r str {
        self.problems.file_at(self.span.0)
    }

    /// The document's own table.
    pub fn of(problems: &'r Problems<'t>, document: &'r Spanned<DeTable<'t>>) -> Self {
        let span = document.span();
        Self {
            problems,
            entries: document.get_ref(),
            span: (span.start, span.end),
        }
    }

    /// Where the table stands.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.span.0..self.span.1
    }

    /// Adds a problem with the whole table.
    pub fn problem(&self, message: impl Into<String>, help: Option<String>) {
        self.problems.add(self.span(), message, help);
    }

    /// Adds a problem with the table's beginning.
    pub fn problem_at_start(&self, message: impl Into<String>, help: Option<String>) {
        self.problems.add(self.span.0..self.span.0, message, help);
    }

    /// Adds a problem with a part of the table.
    pub fn problem_with(&self, span: Range<usize>, message: impl Into<String>) {
        self.problems.add(span, message, None);
    }

    /// Adds a problem with a part of the table, and what would be right.
    pub fn problem_with_help(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.problems.add(span, message, help);
    }

    /// How many problems its file has so far: whether reading a part of it found any.
    #[must_use]
    pub fn problems_so_far(&self) -> usize {
        self.problems.found.borrow().len()
    }

    /// Refuses every key but these.
    pub fn allow(&self, known: &[&str]) {
        for key in self.entries.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                self.problems.add(
                    key.span(),
                    format!("unknown key `{name}`"),
                    suggestion(name, known),
                );
            }
        }
    }

    /// The value of a key, if there is one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'r, 't>> {
        let value = self
            .entries
            .iter()
            .find(|(name, _)| name.get_ref().as_ref() == key)?
            .1;
        Some(Value {
            problems: self.problems,
            value,
        })
    }

    /// The value of a key that must be there.
    #[must_use]
    pub fn require(&self, key: &str) -> Option<Value<'r, 't>> {
        let value = self.get(key);
        if value.is_none() {
            self.problem(format!("`{key}` is missing"), None);
        }
        value
    }

    /// All entries in the order of the file: key, the key's span, value.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'r str, Range<usize>, Value<'r, 't>)> {
        let problems = self.problems;
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .map(|(key, value)| {
                (
                    key.get_ref().as_ref(),
                    key.span(),
                    Value { problems, value },
                )
            })
            .collect();
        entries.sort_by_key(|(_, span, _)| span.start);
        entries
    }
}

impl<'r, 't> Value<'r, 't> {
    /// Where the value stands.
    #[must_use]
    pub fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// The name of the file that it stands in.
    #[must_use]
    pub fn file(&self) -> &'r str {
        self.problems.file_at(self.span().start)
    }

    /// Where the value stands, as people read it.
    #[must_use]
    pub fn place(&self) -> String {
        self.problems.place(self.span())
    }

    /// Adds a warning about this value.
    pub fn warn(&self, message: impl Into<String>, help: Option<String>) {
        self.problems.warn(self.span(), message, help);
    }

    /// Adds a problem with this value.
    pub fn problem(&self, message: impl Into<String>, help: Option<String>) {
        self.problems.add(self.span(), message, help);
    }

    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.problem(format!("expected {wanted}, found {found}"), None);
        None
    }

    /// A string.
    #[must_use]
    pub fn string(&self) -> Option<&'r str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.wrong("a string"),
        }
    }

    /// The string, or nothing and no problem if it is something else.
    #[must_use]
    pub fn if_string(&self) -> Option<&'r str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => None,
        }
    }

    /// The boolean, or nothing and no problem if it is something else.
    #[must_use]
    pub fn if_boolean(&self) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => None,
        }
    }

    /// A boolean.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        let flag = self.if_boolean();
        if flag.is_none() {
            return self.wrong("`true` or `false`");
        }
        flag
    }

    /// The integer, or nothing and no problem if it is something else.
    #[must_use]
    pub fn if_integer(&self) -> Option<i64> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return None;
        };
        i64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
    }

    /// A whole number within `range`.
    #[must_use]
    pub fn integer(&self, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(integer) = self.value.get_ref() else {
            return self.wrong("a whole number");
        };
        let digits = integer.as_str().replace('_', "");
        match u64::from_str_radix(digits.trim_start_matches('+'), integer.radix()) {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(
                    format!(
                        "`{digits}` is not within {} to {}",
                        range.start(),
                        range.end()
                    ),
                    None,
                );
                None
            }
        }
    }

    fn quantity<T>(
        &self,
        wanted: &str,
        parse: impl Fn(&str) -> Result<T, InvalidQuantity>,
    ) -> Option<T> {
        let text = match self.value.get_ref() {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) => {
                self.problem(
                    format!("`{}` has no unit", number.as_str()),
                    Some(format!("write {wanted}")),
                );
                return None;
            }
            DeValue::Float(number) => {
                self.problem(
                    format!("`{}` has no unit", number.as_str()),
                    Some(format!("write {wanted}")),
                );
                return None;
            }
            _ => return self.wrong(wanted),
        };
        match parse(text) {
            Ok(quantity) => Some(quantity),
            Err(error) => {
                let bare = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
                let message = if bare {
                    format!("`{text}` has no unit")
                } else {
                    error.to_string()
                };
                self.problem(message, Some(format!("write {wanted}")));
                None
            }
        }
    }

    /// A quantity that `parse` understands; `wanted` says what is.
    #[must_use]
    pub fn parsed<T>(
        &self,
        wanted: &str,
        parse: impl Fn(&str) -> Result<T, InvalidQuantity>,
    ) -> Option<T> {
        self.quantity(wanted, parse)
    }

    /// A duration such as `"250ms"`.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.quantity(
            "a duration with its unit, such as \"250ms\", \"1s\" or \"2m\"",
            parse_duration,
        )
    }

    /// A size in bytes such as `"512MiB"`.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.quantity(
            "a size with its unit, such as \"512MiB\" or \"4GiB\"",
            parse_size,
        )
    }

    /// Events a second such as `"25/s"`.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        self.quantity("a rate such as \"25/s\" or \"100/m\"", parse_rate)
    }

    /// A table.
    #[must_use]
    pub fn table(&self) -> Option<Table<'r, 't>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => {
                let span = self.span();
                Some(Table {
                    problems: self.problems,
                    entries,
                    span: (span.start, span.end),
                })
            }
            _ => self.wrong("a table"),
        }
    }

    /// The table, or nothing and no problem if it is something else.
    #[must_use]
    pub fn if_table(&self) -> Option<Table<'r, 't>> {
        matches!(self.value.get_ref(), DeValue::Table(_))
            .then(|| self.table())
            .flatten()
    }

    /// The elements of an array, or nothing and no problem if it is something else.
    #[must_use]
    pub fn if_array(&self) -> Option<Vec<Value<'r, 't>>> {
        matches!(self.value.get_ref(), DeValue::Array(_))
            .then(|| self.array())
            .flatten()
    }

    /// The elements of an array.
    #[must_use]
    pub fn array(&self) -> Option<Vec<Value<'r, 't>>> {
        match self.value.get_ref() {
            DeValue::Array(elements) => Some(
                elements
                    .iter()
                    .map(|value| Value {
                        problems: self.problems,
                        value,
                    })
                    .collect(),
            ),
            _ => self.wrong("an array"),
        }
    }
}

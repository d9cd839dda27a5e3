//! What is wrong with a file that a user wrote: every problem at once, each with its place and what would be right.
//!
//! Plain data; the command line renders it through [`miette`].

use std::fmt;
use std::ops::Range;

/// One problem in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file's name as the user gave it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Bytes of the file that the problem is about.
    pub span: Range<usize>,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A problem with `span` of `text`.
    #[must_use]
    pub fn new(
        file: &str,
        text: &str,
        span: Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Self {
        let (line, column) = position(text, span.start);
        Self {
            file: file.to_owned(),
            line,
            column,
            span,
            message: message.into(),
            help,
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        let label = miette::LabeledSpan::new(None, self.span.start, self.span.len());
        Some(Box::new(std::iter::once(label)))
    }
}

/// A file that was refused, with all its problems in the order of their places.
#[derive(Debug)]
pub struct Refusal {
    source: miette::NamedSource<String>,
    problems: Vec<Diagnostic>,
}

impl Refusal {
    /// `text` of `file` has these problems.
    #[must_use]
    pub fn new(file: &str, text: &str, mut problems: Vec<Diagnostic>) -> Self {
        // Those of the file itself come first, then those of what it includes.
        problems.sort_by(|one, other| {
            let place = |problem: &Diagnostic| (problem.span.start, problem.span.end);
            let elsewhere = |problem: &Diagnostic| problem.file != file;
            elsewhere(one)
                .cmp(&elsewhere(other))
                .then_with(|| one.file.cmp(&other.file))
                .then_with(|| place(one).cmp(&place(other)))
        });
        Self {
            source: miette::NamedSource::new(file, text.to_owned()),
            problems,
        }
    }

    /// The problems, in the order of their places.
    #[must_use]
    pub fn problems(&self) -> &[Diagnostic] {
        &self.problems
    }

    /// Every problem, one a line, each with what would be right.
    #[must_use]
    pub fn listing(&self) -> String {
        let help = |problem: &Diagnostic| {
            problem
                .help
                .as_ref()
                .map(|help| format!("; {help}"))
                .unwrap_or_default()
        };
        self.problems
            .iter()
            .map(|problem| format!("{problem}{}", help(problem)))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "`{}` has a problem", self.source.name()),
            many => write!(f, "`{}` has {many} problems", self.source.name()),
        }
    }
}

impl std::error::Error for Refusal {}

impl miette::Diagnostic for Refusal {
    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        Some(&self.source)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(
            self.problems
                .iter()
                .map(|problem| problem as &dyn miette::Diagnostic),
        ))
    }
}

fn position(text: &str, offset: usize) -> (usize, usize) {
    let offset = (0..=offset.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at))
        .unwrap_or(0);
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_from_one() {
        let text = "a = 1\nbé = 2\n";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, 6), (2, 1));
        assert_eq!(position(text, 10), (2, 4));
        assert_eq!(position(text, 999), (3, 1));
    }
}

//! The one edge that turns errors into `error:`, causes, `hint:` and an exit code.

use std::error::Error;
use std::process::ExitCode;

use super::terminal;

/// Something went wrong that is not a verdict.
pub(super) const ERROR: u8 = 1;
/// The input or the usage is wrong.
pub(super) const INVALID: u8 = 2;

/// A failed command: what it says, what helps, which code.
#[derive(Debug)]
pub(super) struct Failure {
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            code: ERROR,
        }
    }

    /// Adds an error and its chain of causes.
    pub(super) fn because(mut self, error: impl Error) -> Self {
        self.causes.push(error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            self.causes.push(cause.to_string());
            source = cause.source();
        }
        self
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Wrong input rather than a failure of ours.
    pub(super) fn invalid(mut self) -> Self {
        self.code = INVALID;
        self
    }
}

impl Failure {
    /// All that it says, as one line.
    pub(super) fn in_one_line(&self) -> String {
        let mut parts = vec![self.message.as_str()];
        parts.extend(self.causes.iter().map(String::as_str));
        let line = parts.join(": ");
        match &self.hint {
            Some(hint) => format!("{line}; {hint}"),
            None => line,
        }
    }

    #[cfg(test)]
    pub(super) fn is_invalid(&self) -> bool {
        self.code == INVALID
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut failure = Self::new(error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            failure.causes.push(cause.to_string());
            source = cause.source();
        }
        failure
    }
}

/// Prints a failure and returns its exit code.
pub(super) fn print(failure: &Failure) -> ExitCode {
    terminal::complain(&format!("error: {}", failure.message));
    for cause in &failure.causes {
        terminal::complain(&format!("  because: {cause}"));
    }
    if let Some(hint) = &failure.hint {
        terminal::complain(&format!("hint: {hint}"));
    }
    ExitCode::from(failure.code)
}

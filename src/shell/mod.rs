//! Running commands and copying files: on this host ([`local`]) and on a machine ([`ssh`]).
//!
//! Invariants: every command has a time limit; a command's error holds the command as one could paste it and the end of its
//! output; secrets go through standard input, never through an argument.

pub mod debian;
pub mod keys;
pub mod local;
pub mod ssh;

use std::time::Duration;

/// Lines of output that an error quotes.
const QUOTED_LINES: usize = 20;

/// What a finished command left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; 128 plus the signal's number when a signal ended it; -1 when the peer did not say.
    pub status: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether the exit code is 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Standard output as text, without white space at its ends.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// The output itself if the command succeeded.
    ///
    /// # Errors
    /// [`CommandError::Failed`] with `command` and the end of its output.
    pub fn check(self, command: &str) -> Result<Self, CommandError> {
        if self.success() {
            return Ok(self);
        }
        let said = if self.stderr.trim_ascii().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        Err(CommandError::Failed {
            command: command.to_owned(),
            status: self.status,
            tail: tail(said),
        })
    }
}

/// Why a command gave no result, or a bad one.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It could not be started.
    #[error("start `{command}`")]
    Start {
        /// The command, as one could paste it.
        command: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It ended with another status than 0.
    #[error("`{command}` exited with status {status}\n{tail}")]
    Failed {
        /// The command, as one could paste it.
        command: String,
        /// Its exit code.
        status: i32,
        /// The end of its output.
        tail: String,
    },
    /// It did not end in time and was killed.
    #[error(
        "`{command}` did not end within {limit:?}; it was killed. The end of its output:\n{tail}"
    )]
    TimedOut {
        /// The command, as one could paste it.
        command: String,
        /// Its time limit.
        limit: Duration,
        /// The end of its output.
        tail: String,
    },
}

/// The last [`QUOTED_LINES`] lines of `bytes`, for an error.
#[must_use]
pub fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}

/// `word` as a POSIX shell reads it as one word.
#[must_use]
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_the_shell() {
        for (word, quoted) in [
            ("a-b/c", "a-b/c"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$x", "'$x'"),
        ] {
            assert_eq!(quote(word), quoted);
        }
    }

    #[test]
    fn a_failure_quotes_the_end_of_what_was_said() {
        let long: String = (0..30).map(|n| format!("line {n}\n")).collect();
        let output = Output {
            status: 3,
            stdout: long.into_bytes(),
            stderr: b"\n".to_vec(),
        };
        let message = output
            .check("make it")
            .expect_err("status is 3")
            .to_string();
        assert!(
            message.starts_with("`make it` exited with status 3\nline 10\n"),
            "{message}"
        );
        assert!(message.ends_with("line 29"), "{message}");
    }
}

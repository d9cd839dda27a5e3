//! The files before they are written: bounded, and without what Secrets hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;

use super::redact::Redaction;

/// Longest file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Longest all files together, in bytes.
pub const ALL_BYTES_MAX: usize = 32 << 20;
/// The list of what is there.
const INDEX: &str = "README.txt";

/// Texts by path below the folder.
#[derive(Debug, Default)]
pub(super) struct Texts {
    files: BTreeMap<String, String>,
    bytes: usize,
    missing: Vec<String>,
    redaction: Redaction,
}

impl Texts {
    /// Takes out of every text that is added from now on what this knows.
    pub(super) fn redact_with(&mut self, redaction: Redaction) {
        self.redaction = redaction;
    }

    /// Adds a file; of one that is too long its end.
    pub(super) fn add(&mut self, path: String, text: String) {
        let text = self.redaction.without_secrets(text);
        let text = last_bytes(&text, FILE_BYTES_MAX);
        if text.is_empty() {
            return;
        }
        if self.bytes + text.len() > ALL_BYTES_MAX {
            self.missing(format!(
                "`{path}`: more than {} MiB altogether",
                ALL_BYTES_MAX >> 20
            ));
            return;
        }
        self.bytes += text.len();
        self.files.insert(path, text);
    }

    /// Notes what could not be had.
    pub(super) fn missing(&mut self, what: String) {
        self.missing.push(self.redaction.without_secrets(what));
    }

    /// What could not be had.
    pub(super) fn missing_words(&self) -> Vec<String> {
        self.missing.clone()
    }

    /// Writes everything, and the list of it, in place of what an earlier run left.
    pub(super) fn write(&self, folder: &Path) -> io::Result<()> {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(folder)?;
        for (path, text) in &self.files {
            let file = folder.join(path);
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(file, text)?;
        }
        std::fs::write(folder.join(INDEX), self.index())
    }

    fn index(&self) -> String {
        let mut index = "What was there when the run ended. Times are from its start; a machine's own clock may be off by a little.\n\
                         What Secrets hold is left out wherever it stood.\n\n"
            .to_owned();
        for (path, text) in &self.files {
            let _ = writeln!(index, "{:>8} bytes  {path}", text.len());
        }
        if !self.missing.is_empty() {
            index.push_str("\nNot there:\n");
            for what in &self.missing {
                let _ = writeln!(index, "- {what}");
            }
        }
        index
    }

    #[cfg(test)]
    pub(super) fn file(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }
}

/// The end of a text, from the beginning of a line on, if it is longer than `most` bytes.
#[must_use]
pub fn last_bytes(text: &str, most: usize) -> String {
    const CUT: &str = "(the beginning is left out)\n";
    if text.len() <= most {
        return text.to_owned();
    }
    let mut from = text.len() - most.saturating_sub(CUT.len());
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let line = text[from..].find('\n').map_or(from, |end| from + end + 1);
    format!("{CUT}{}", &text[line..])
}

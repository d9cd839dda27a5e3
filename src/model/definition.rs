//! What definitions of boxes and images have in common: a TOML file, files that it names beside itself, and Debian packages.

use std::path::{Path, PathBuf};

use super::diagnostic::Refusal;
use super::reader::{Problems, Table, Value};
use super::text_file;

/// Hands over a file that a definition names.
pub type Source<'s> = &'s dyn Fn(&str) -> Option<String>;

/// A file put into the root of a box or an image, owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootFile {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub content: String,
}

/// Reads a definition with `read`; unknown keys are `read`'s to refuse.
///
/// # Errors
/// When it has problems: all of them.
pub fn parse<T>(
    file: &str,
    text: &str,
    read: impl FnOnce(&Table<'_, '_>) -> T,
) -> Result<T, Refusal> {
    let problems = Problems::new(file, text);
    let document = problems.parse();
    let definition = read(&Table::of(&problems, &document));
    drop(document);
    problems.finish(definition)
}

/// A definition's own file.
#[derive(Debug)]
pub struct DefinitionFile {
    /// The file's stem.
    pub name: String,
    /// What it holds.
    pub text: String,
    folder: PathBuf,
}

impl DefinitionFile {
    /// Reads it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let text = text_file::read(path).map_err(text_file::TextFileError::into_io)?;
        let name = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default()
            .to_owned();
        Ok(Self {
            name,
            text,
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
        })
    }

    /// A file beside it.
    #[must_use]
    pub fn beside(&self, path: &str) -> Option<String> {
        text_file::read(&self.folder.join(path)).ok()
    }
}

/// The string of a key that must be there; empty, and a problem, without it.
#[must_use]
pub fn required(table: &Table<'_, '_>, key: &str) -> String {
    table
        .require(key)
        .and_then(|value| value.string())
        .unwrap_or_default()
        .to_owned()
}

/// The string of a key, if it is there.
#[must_use]
pub fn optional(table: &Table<'_, '_>, key: &str) -> Option<String> {
    table.get(key)?.string().map(str::to_owned)
}

/// A list of strings; empty without the key.
#[must_use]
pub fn words(table: &Table<'_, '_>, key: &str) -> Vec<String> {
    checked(table, key, "", |_| true)
}

/// A list of strings of which each must be right.
#[must_use]
pub fn checked(
    table: &Table<'_, '_>,
    key: &str,
    wanted: &str,
    is_right: fn(&str) -> bool,
) -> Vec<String> {
    let values = table
        .get(key)
        .and_then(|value| value.array())
        .unwrap_or_default();
    let named = values
        .into_iter()
        .filter_map(|value| Some((value, value.string()?)));
    let mut words = Vec::new();
    for (value, word) in named {
        if !is_right(word) {
            value.problem(format!("`{word}` is not {wanted}"), None);
        }
        words.push(word.to_owned());
    }
    words
}

/// A list of Debian packages.
#[must_use]
pub fn packages(table: &Table<'_, '_>, key: &str) -> Vec<String> {
    checked(table, key, "a Debian package's name", |name| {
        name.len() >= 2
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
    })
}

/// A list of shell patterns below the root.
#[must_use]
pub fn patterns(table: &Table<'_, '_>, key: &str) -> Vec<String> {
    checked(
        table,
        key,
        "a path below the root: write it without the leading `/`, `..` or spaces",
        |pattern| {
            let whole = !pattern.is_empty()
                && !pattern.starts_with('/')
                && !pattern.contains(char::is_whitespace);
            whole && pattern.split('/').all(|part| part != "..")
        },
    )
}

/// The file that a value names.
#[must_use]
pub fn source_of(value: Value<'_, '_>, source: Source<'_>) -> String {
    let Some(path) = value.string() else {
        return String::new();
    };
    source(path).unwrap_or_else(|| {
        value.problem(
            format!("`{path}` is not there: it is looked for beside the definition"),
            None,
        );
        String::new()
    })
}

/// The `[[file]]` tables.
#[must_use]
pub fn files(table: &Table<'_, '_>, source: Source<'_>) -> Vec<RootFile> {
    let tables = table
        .get("file")
        .and_then(|value| value.array())
        .unwrap_or_default();
    tables
        .into_iter()
        .filter_map(|value| value.table())
        .map(|table| file(&table, source))
        .collect()
}

fn file(table: &Table<'_, '_>, source: Source<'_>) -> RootFile {
    table.allow(&["path", "mode", "content", "source"]);
    let path = required(table, "path");
    if let Some(value) = table.get("path")
        && (!path.starts_with('/')
            || path.ends_with('/')
            || path.split('/').any(|part| part == ".."))
    {
        value.problem(format!("`{path}` is not an absolute path of a file"), None);
    }
    let content = match (table.get("content"), table.get("source")) {
        (Some(content), None) => content.string().unwrap_or_default().to_owned(),
        (None, Some(named)) => source_of(named, source),
        _ => {
            table.problem_at_start(
                format!("file `{path}` needs either `content` or `source`"),
                None,
            );
            String::new()
        }
    };
    RootFile {
        path,
        mode: mode(table),
        content,
    }
}

fn mode(table: &Table<'_, '_>) -> u32 {
    let Some(value) = table.get("mode") else {
        return 0o644;
    };
    let Some(text) = value.string() else { return 0 };
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .unwrap_or_else(|| {
            value.problem(format!("`{text}` is not a file mode such as `0644`"), None);
            0
        })
}

/// Lower-case hexadecimal digits of these bytes.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Whether a text is a SHA-256 as [`hexadecimal`] writes it.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_its_place() {
        let text = "name = 1\npackages = [\"Bad Name\"]\nremove = [\"/etc\"]\n\n[[file]]\npath = \"etc/x\"\nmode = \"rw\"\nmod = 1\n";
        let refusal = parse("box.toml", text, |table| {
            table.allow(&["name", "packages", "remove", "file"]);
            (
                required(table, "name"),
                packages(table, "packages"),
                patterns(table, "remove"),
                files(table, &|_| None),
            )
        })
        .unwrap_err();
        let said: Vec<String> = refusal.problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "box.toml:1:8: expected a string, found an integer",
                "box.toml:2:13: `Bad Name` is not a Debian package's name",
                "box.toml:3:11: `/etc` is not a path below the root: write it without the leading `/`, `..` or spaces",
                "box.toml:5:1: file `etc/x` needs either `content` or `source`",
                "box.toml:6:8: `etc/x` is not an absolute path of a file",
                "box.toml:7:8: `rw` is not a file mode such as `0644`",
                "box.toml:8:1: unknown key `mod`",
            ]
        );
    }

    #[test]
    fn syntax_errors_are_problems_too() {
        let refusal = parse("x.toml", "a = 1\nb = \n", |_| ()).unwrap_err();
        assert_eq!(refusal.problems()[0].line, 2);
    }
}

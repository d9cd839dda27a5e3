//! What a box is made of: a TOML file in `boxes/`, and the files it names beside it.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::BoxError;
use crate::model::table::{Document, Problem, Table};

/// The definitions and their files that the binary carries, by path below `boxes/`.
const EMBEDDED: &[(&str, &str)] = &[
    ("flightcage-os.toml", include_str!("../../../boxes/flightcage-os.toml")),
    ("flightcage-os/init", include_str!("../../../boxes/flightcage-os/init")),
    ("flightcage-os/sshd_config", include_str!("../../../boxes/flightcage-os/sshd_config")),
    ("flightcage-os/flightcage-sshd.service", include_str!("../../../boxes/flightcage-os/flightcage-sshd.service")),
];

/// Turns the unpacked packages into a box; part of the box's hash.
pub(super) const ASSEMBLE: &str = include_str!("../../../boxes/assemble.sh");

/// A box, read and checked. Its text is what it is: two definitions of the same content have the same [`BoxDefinition::hash`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxDefinition {
    /// The file's stem.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Debian's release name.
    pub suite: String,
    /// The package that holds the kernel.
    pub kernel_package: String,
    /// Kernel command line, without the console; one line.
    pub kernel_arguments: String,
    /// Packages of the root.
    pub packages: Vec<String>,
    /// Kernel modules kept in the root, by path below `kernel/`; a folder stands for all in it.
    pub modules: Vec<String>,
    /// Kernel modules that the initramfs loads, in order.
    pub initramfs_modules: Vec<String>,
    /// The initramfs's first process, a script for busybox.
    pub init: String,
    /// Shell patterns, relative to the root, of what is removed from it.
    pub remove: Vec<String>,
    /// systemd units enabled.
    pub enable: Vec<String>,
    /// systemd units masked.
    pub mask: Vec<String>,
    /// Files put into the root.
    pub files: Vec<BoxFile>,
}

/// A file put into a box's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoxFile {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub content: String,
}

impl BoxDefinition {
    /// Names of the boxes that the binary carries.
    pub fn builtin_names() -> Vec<&'static str> {
        EMBEDDED.iter().filter_map(|(path, _)| path.strip_suffix(".toml")).collect()
    }

    /// Loads a box by the name of a built-in one, or by the path of a `.toml` file, whose `source`s are looked for beside it.
    pub fn load(name_or_path: &str) -> Result<Self, BoxError> {
        if let Some(text) = embedded(&format!("{name_or_path}.toml")) {
            return Self::parse(name_or_path, text, &|path| embedded(path).map(str::to_owned));
        }
        let path = Path::new(name_or_path);
        if path.extension().is_none_or(|extension| extension != "toml") {
            return Err(BoxError::Unknown { name: name_or_path.to_owned(), known: Self::builtin_names().join(", ") });
        }
        let text = std::fs::read_to_string(path).map_err(|source| BoxError::Read { path: path.to_owned(), source })?;
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(name, &text, &|source| std::fs::read_to_string(folder.join(source)).ok())
    }

    /// Reads a definition; `source` hands over the files that it names. Every problem is told at once.
    pub fn parse(name: &str, text: &str, source: &dyn Fn(&str) -> Option<String>) -> Result<Self, BoxError> {
        let (mut document, mut root) = Document::parse(text);
        let doc = &mut document;
        let words = |list: Vec<(String, _)>| list.into_iter().map(|(word, _)| word).collect::<Vec<_>>();
        let definition = Self {
            name: name.to_owned(),
            description: root.required_string(doc, "description").0,
            suite: root.required_string(doc, "suite").0,
            kernel_package: root.required_string(doc, "kernel_package").0,
            kernel_arguments: {
                let written = root.required_string(doc, "kernel_arguments");
                arguments(doc, written)
            },
            packages: packages(doc, &mut root),
            modules: words(root.strings(doc, "modules")),
            initramfs_modules: words(root.strings(doc, "initramfs_modules")),
            init: {
                let (path, span) = root.required_string(doc, "init");
                read(doc, &path, span.start, source)
            },
            remove: relative(doc, &mut root, "remove"),
            enable: words(root.strings(doc, "enable")),
            mask: words(root.strings(doc, "mask")),
            files: root.tables(doc, "file").into_iter().map(|table| file(doc, table, source)).collect(),
        };
        root.finish(doc);
        document.finish(definition).map_err(|problems| BoxError::Invalid { name: name.to_owned(), problems: Problems(problems) })
    }

    /// The content's hash, in hexadecimal: it names the built box in the cache.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{self:?}\n{ASSEMBLE}"));
        hash.finalize()[..16].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

fn embedded(path: &str) -> Option<&'static str> {
    EMBEDDED.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

fn arguments(document: &mut Document<'_>, (text, span): (String, std::ops::Range<usize>)) -> String {
    if text.split_whitespace().any(|word| word.starts_with("console=")) {
        document.refuse(span.start, "`kernel_arguments` names a console: the provider adds its own".into());
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn packages(document: &mut Document<'_>, root: &mut Table<'_>) -> Vec<String> {
    let named = root.strings(document, "packages");
    for (package, span) in &named {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        if package.len() < 2 || !package.chars().all(fine) {
            document.refuse(span.start, format!("`{package}` is not a Debian package's name"));
        }
    }
    named.into_iter().map(|(package, _)| package).collect()
}

fn relative(document: &mut Document<'_>, root: &mut Table<'_>, key: &'static str) -> Vec<String> {
    let named = root.strings(document, key);
    for (pattern, span) in &named {
        if pattern.starts_with('/')
            || pattern.is_empty()
            || pattern.split('/').any(|part| part == "..")
            || pattern.contains(char::is_whitespace)
        {
            document.refuse(
                span.start,
                format!("`{pattern}` is not a path below the root: write it without the leading `/`, `..` or spaces"),
            );
        }
    }
    named.into_iter().map(|(pattern, _)| pattern).collect()
}

fn read(document: &mut Document<'_>, path: &str, offset: usize, source: &dyn Fn(&str) -> Option<String>) -> String {
    source(path).unwrap_or_else(|| {
        if !path.is_empty() {
            document.refuse(offset, format!("`{path}` is not there: it is looked for beside the definition"));
        }
        String::new()
    })
}

fn file(document: &mut Document<'_>, mut table: Table<'_>, source: &dyn Fn(&str) -> Option<String>) -> BoxFile {
    let (path, path_span) = table.required_string(document, "path");
    if !path.is_empty() && (!path.starts_with('/') || path.ends_with('/') || path.split('/').any(|part| part == "..")) {
        document.refuse(path_span.start, format!("`{path}` is not an absolute path of a file"));
    }
    let mode = table.string(document, "mode").map_or(0o644, |(text, span)| {
        u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777).unwrap_or_else(|| {
            document.refuse(span.start, format!("`{text}` is not a file mode such as `0644`"));
            0
        })
    });
    let content = match (table.string(document, "content"), table.string(document, "source")) {
        (Some((content, _)), None) => content,
        (None, Some((from, span))) => read(document, &from, span.start, source),
        _ => {
            document.refuse(table.start(), format!("file `{path}` needs either `content` or `source`"));
            String::new()
        }
    };
    table.finish(document);
    BoxFile { path, mode, content }
}

/// Every problem of a definition, one a line when shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carried_boxes_are_right() {
        for name in BoxDefinition::builtin_names() {
            let definition = BoxDefinition::load(name).unwrap();
            assert!(definition.init.starts_with("#!/bin/busybox sh\n"), "{name}");
            assert!(!definition.kernel_arguments.contains('\n'));
        }
    }

    #[test]
    fn the_hash_follows_the_content() {
        let one = BoxDefinition::load("flightcage-os").unwrap();
        let mut other = one.clone();
        assert_eq!(one.hash(), other.hash());
        other.files[0].content.push('x');
        assert_ne!(one.hash(), other.hash());
    }

    #[test]
    fn problems_are_told_together_with_their_places() {
        let text = "description = \"x\"\nsuite = \"bookworm\"\npackages = [\"systemd\", \"Bad Name\"]\nkernel_arguments = \"console=tty0\"\n\
                    init = \"nowhere\"\nremove = [\"/etc\"]\n\n[[file]]\npath = \"etc/x\"\nmode = \"rw\"\n";
        let error = BoxDefinition::parse("b", text, &|_| None).unwrap_err();
        let BoxError::Invalid { problems, .. } = error else { panic!("{error}") };
        let said: Vec<(usize, &str)> = problems.0.iter().map(|problem| (problem.line, problem.what.as_str())).collect();
        assert_eq!(
            said,
            [
                (1, "`kernel_package` is missing"),
                (3, "`Bad Name` is not a Debian package's name"),
                (4, "`kernel_arguments` names a console: the provider adds its own"),
                (5, "`nowhere` is not there: it is looked for beside the definition"),
                (6, "`/etc` is not a path below the root: write it without the leading `/`, `..` or spaces"),
                (8, "file `etc/x` needs either `content` or `source`"),
                (9, "`etc/x` is not an absolute path of a file"),
                (10, "`rw` is not a file mode such as `0644`"),
            ]
        );
    }

    #[test]
    fn an_unknown_box_names_the_known_ones() {
        assert!(BoxDefinition::load("nobox").unwrap_err().to_string().contains("flightcage-os"));
    }
}

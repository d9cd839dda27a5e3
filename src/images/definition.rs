//! What an image is made of: a TOML file in `boxes/images/`, and the files it names beside it.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::ImageError;
use super::store::hexadecimal;
use crate::model::table::{Document, Table};

macro_rules! embedded {
    ($($path:literal),* $(,)?) => { &[$(($path, include_str!(concat!("../../boxes/images/", $path)))),*] };
}

/// The definitions and their files that the binary carries, by path below `boxes/images/`.
const EMBEDDED: &[(&str, &str)] = embedded![
    "flappy-endpoint-v1.toml",
    "flappy-endpoint-v2.toml",
    "flappy-endpoint/flappy.conf",
    "flappy-endpoint/v1/index.php",
    "flappy-endpoint/v2/index.php",
    "nginx-ssl-terminator.toml",
    "nginx-ssl-terminator/terminate",
];

/// An image, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDefinition {
    /// The file's stem.
    pub name: String,
    /// What it is called, each as `registry/repository:tag`.
    pub tags: Vec<String>,
    /// Debian's release name.
    pub suite: String,
    /// Packages beyond the essential ones.
    pub packages: Vec<String>,
    /// Shell patterns, relative to the root, of what is removed from the packages' layer.
    pub remove: Vec<String>,
    /// Files of the application's layer.
    pub files: Vec<ImageFile>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// What runs.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub cmd: Vec<String>,
    /// `user[:group]`; none: root.
    pub user: Option<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Ports as `80/tcp`.
    pub expose: Vec<String>,
    /// The signal that stops it; none: SIGTERM.
    pub stop_signal: Option<String>,
}

/// A file of the application's layer, owned by root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// Absolute path.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub content: String,
}

/// The images that the binary carries: those of the flappy stack.
///
/// # Panics
/// Never: a test reads them all.
#[must_use]
pub fn builtin() -> Vec<ImageDefinition> {
    let source = |path: &str| EMBEDDED.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
    EMBEDDED
        .iter()
        .filter_map(|(path, text)| Some((path.strip_suffix(".toml")?, text)))
        .map(|(name, text)| ImageDefinition::parse(name, text, &source).expect("a test reads the carried definitions"))
        .collect()
}

/// Changes whenever the same definition begins to give other layers: what older builders made is then not used any more.
const LAYER_FORMAT: u32 = 2;

impl ImageDefinition {
    /// Loads a definition from a file; its `source`s are looked for beside it.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ImageError::File { action: "read", path: path.to_owned(), source })?;
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self::parse(name, &text, &|source| std::fs::read_to_string(folder.join(source)).ok())
    }

    /// Reads a definition; `source` hands over the files that it names. Every problem is told at once.
    pub fn parse(name: &str, text: &str, source: &dyn Fn(&str) -> Option<String>) -> Result<Self, ImageError> {
        let (mut document, mut root) = Document::parse(text);
        let doc = &mut document;
        let words = |list: Vec<(String, _)>| list.into_iter().map(|(word, _)| word).collect::<Vec<_>>();
        let definition = Self {
            name: name.to_owned(),
            tags: checked(doc, &mut root, "tags", "a name with a registry and a tag, such as `quay.io/a/b:v1`", is_tag),
            suite: root.required_string(doc, "suite").0,
            packages: checked(doc, &mut root, "packages", "a Debian package's name", is_package),
            remove: checked(doc, &mut root, "remove", "a path below the root, without a leading `/`", is_pattern),
            files: root.tables(doc, "file").into_iter().map(|table| file(doc, table, source)).collect(),
            env: root.string_table(doc, "env").into_iter().map(|(key, (value, _))| (key, value)).collect(),
            entrypoint: words(root.strings(doc, "entrypoint")),
            cmd: words(root.strings(doc, "cmd")),
            user: root.string(doc, "user").map(|(user, _)| user),
            working_dir: root.string(doc, "working_dir").map(|(path, _)| path),
            expose: checked(doc, &mut root, "expose", "a port such as `80/tcp`", is_port),
            stop_signal: root.string(doc, "stop_signal").map(|(signal, _)| signal),
        };
        if definition.tags.is_empty() {
            doc.refuse(0, "`tags` names nothing: the image could not be found".into());
        }
        root.finish(doc);
        document.finish(definition).map_err(|problems| ImageError::Invalid {
            name: name.to_owned(),
            problems: problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
        })
    }

    /// Hash of everything that the image is made of.
    pub fn hash(&self) -> String {
        hexadecimal(&Sha256::digest(format!("{LAYER_FORMAT} {self:?}")))
    }

    /// Hash of what the packages' layer is made of: images that share it share the layer.
    pub fn distribution_hash(&self) -> String {
        hexadecimal(&Sha256::digest(format!("{:?}", (LAYER_FORMAT, &self.suite, &self.packages, &self.remove))))
    }
}

fn checked(
    document: &mut Document<'_>,
    root: &mut Table<'_>,
    key: &'static str,
    wanted: &str,
    is_right: fn(&str) -> bool,
) -> Vec<String> {
    let named = root.strings(document, key);
    for (word, span) in &named {
        if !is_right(word) {
            document.refuse(span.start, format!("`{word}` is not {wanted}"));
        }
    }
    named.into_iter().map(|(word, _)| word).collect()
}

fn is_tag(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
    let Some((repository, tag)) = name.rsplit_once(':') else { return false };
    repository.chars().all(plain) && repository.contains('/') && !tag.is_empty() && !tag.contains('/')
}

fn is_package(name: &str) -> bool {
    name.len() >= 2 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

fn is_pattern(pattern: &str) -> bool {
    let whole = !pattern.is_empty() && !pattern.starts_with('/') && !pattern.contains(char::is_whitespace);
    whole && pattern.split('/').all(|part| part != "..")
}

fn is_port(port: &str) -> bool {
    let number = port.strip_suffix("/tcp").or_else(|| port.strip_suffix("/udp"));
    number.and_then(|number| number.parse::<u16>().ok()).is_some_and(|number| number > 0)
}

fn file(document: &mut Document<'_>, mut table: Table<'_>, source: &dyn Fn(&str) -> Option<String>) -> ImageFile {
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
        (None, Some((from, span))) => source(&from).unwrap_or_else(|| {
            document.refuse(span.start, format!("`{from}` is not there: it is looked for beside the definition"));
            String::new()
        }),
        _ => {
            document.refuse(table.start(), format!("file `{path}` needs either `content` or `source`"));
            String::new()
        }
    };
    table.finish(document);
    ImageFile { path, mode, content }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carried_images_are_right() {
        let images = builtin();
        let tags: Vec<&str> = images.iter().flat_map(|image| image.tags.iter().map(String::as_str)).collect();
        assert_eq!(
            tags,
            [
                "quay.io/purplebooth/flappy-endpoint:v1",
                "quay.io/purplebooth/flappy-endpoint:latest",
                "quay.io/purplebooth/flappy-endpoint:v2",
                "quay.io/purplebooth/nginx-ssl-terminator:latest",
            ]
        );
    }

    #[test]
    fn both_versions_share_their_distribution() {
        let images = builtin();
        assert_eq!(images[0].distribution_hash(), images[1].distribution_hash());
        assert_ne!(images[0].hash(), images[1].hash());
        assert_ne!(images[0].distribution_hash(), images[2].distribution_hash());
    }

    #[test]
    fn problems_are_told_together() {
        let text = "tags = [\"flappy\"]\nsuite = \"bookworm\"\nexpose = [\"80\"]\nentry = [\"x\"]\n[[file]]\npath = \"/x\"\nsource = \"gone\"\n";
        let error = ImageDefinition::parse("i", text, &|_| None).unwrap_err().to_string();
        for part in
            ["1:9: `flappy` is not a name", "3:11: `80` is not a port", "4:1: unknown key `entry`", "7:10: `gone` is not there"]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

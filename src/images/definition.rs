//! What an image is made of: a TOML file in `boxes/images/`, and the files it names beside it.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::ImageError;
use crate::model::definition::{
    self, DefinitionFile, RootFile, Source, checked, hexadecimal, optional, packages, patterns,
    required, words,
};
use crate::model::reader::Table;

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
    pub files: Vec<RootFile>,
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

/// The images that the binary carries: those of the flappy stack.
///
/// # Panics
/// Never: a test reads them all.
#[must_use]
pub fn builtin() -> Vec<ImageDefinition> {
    let source = |path: &str| {
        EMBEDDED
            .iter()
            .find(|(name, _)| *name == path)
            .map(|(_, text)| (*text).to_owned())
    };
    EMBEDDED
        .iter()
        .filter_map(|(path, text)| Some((path.strip_suffix(".toml")?, text)))
        .map(|(name, text)| {
            ImageDefinition::parse(name, text, &source)
                .expect("a test reads the carried definitions")
        })
        .collect()
}

/// Changes whenever the same definition begins to give other layers: what older builders made is then not used any more.
const LAYER_FORMAT: u32 = 2;

impl ImageDefinition {
    /// Loads a definition from a file; its `source`s are looked for beside it.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let file = DefinitionFile::read(path).map_err(|source| ImageError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&file.name, &file.text, &|source| file.beside(source))
    }

    /// Reads a definition; `source` hands over the files that it names. Every problem is told at once.
    pub fn parse(name: &str, text: &str, source: Source<'_>) -> Result<Self, ImageError> {
        definition::parse(&format!("{name}.toml"), text, |table| {
            Self::read(name, table, source)
        })
        .map_err(|refusal| ImageError::Invalid {
            name: name.to_owned(),
            problems: refusal.listing(),
        })
    }

    fn read(name: &str, table: &Table<'_, '_>, source: Source<'_>) -> Self {
        table.allow(&[
            "tags",
            "suite",
            "packages",
            "remove",
            "file",
            "env",
            "entrypoint",
            "cmd",
            "user",
            "working_dir",
            "expose",
            "stop_signal",
        ]);
        let tags = checked(
            table,
            "tags",
            "a name with a registry and a tag, such as `quay.io/a/b:v1`",
            is_tag,
        );
        if tags.is_empty() {
            table.problem_at_start("`tags` names nothing: the image could not be found", None);
        }
        let env = table
            .get("env")
            .and_then(|value| value.table())
            .map(|env| env.entries())
            .unwrap_or_default();
        Self {
            name: name.to_owned(),
            tags,
            suite: required(table, "suite"),
            packages: packages(table, "packages"),
            remove: patterns(table, "remove"),
            files: definition::files(table, source),
            env: env
                .into_iter()
                .filter_map(|(key, _, value)| Some((key.to_owned(), value.string()?.to_owned())))
                .collect(),
            entrypoint: words(table, "entrypoint"),
            cmd: words(table, "cmd"),
            user: optional(table, "user"),
            working_dir: optional(table, "working_dir"),
            expose: checked(table, "expose", "a port such as `80/tcp`", is_port),
            stop_signal: optional(table, "stop_signal"),
        }
    }

    /// Hash of everything that the image is made of.
    pub fn hash(&self) -> String {
        hexadecimal(&Sha256::digest(format!("{LAYER_FORMAT} {self:?}")))
    }

    /// Hash of what the packages' layer is made of: images that share it share the layer.
    pub fn distribution_hash(&self) -> String {
        hexadecimal(&Sha256::digest(format!(
            "{:?}",
            (LAYER_FORMAT, &self.suite, &self.packages, &self.remove)
        )))
    }
}

fn is_tag(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
    let Some((repository, tag)) = name.rsplit_once(':') else {
        return false;
    };
    repository.chars().all(plain)
        && repository.contains('/')
        && !tag.is_empty()
        && !tag.contains('/')
}

fn is_port(port: &str) -> bool {
    let number = port
        .strip_suffix("/tcp")
        .or_else(|| port.strip_suffix("/udp"));
    number
        .and_then(|number| number.parse::<u16>().ok())
        .is_some_and(|number| number > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_carried_images_are_right() {
        let images = builtin();
        let tags: Vec<&str> = images
            .iter()
            .flat_map(|image| image.tags.iter().map(String::as_str))
            .collect();
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
        let error = ImageDefinition::parse("i", text, &|_| None)
            .unwrap_err()
            .to_string();
        for part in [
            "1:9: `flappy` is not a name",
            "3:11: `80` is not a port",
            "4:1: unknown key `entry`",
            "7:10: `gone` is not there",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

//! Image references, normalised as Docker does: `nginx` is `docker.io/library/nginx:latest`.

use std::fmt;

use super::definition::is_sha256;

/// A reference with nothing left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Registry host, with port when given.
    pub registry: String,
    /// Repository in that registry.
    pub repository: String,
    /// Tag or digest.
    pub version: Version,
}

/// What follows the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// `:tag`
    Tag(String),
    /// `@sha256:…`
    Digest(String),
}

impl Reference {
    /// Parses and normalises; `None` when `text` is not a reference.
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag)),
            _ => (rest, None),
        };
        let (registry, repository) = match rest.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (first.to_owned(), path.to_owned())
            }
            Some(_) => ("docker.io".to_owned(), rest.to_owned()),
            None => ("docker.io".to_owned(), rest.to_owned()),
        };
        let registry = if registry == "index.docker.io" {
            "docker.io".to_owned()
        } else {
            registry
        };
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        let registry_is_valid = registry
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".:-".contains(&b));
        let port_is_valid = registry
            .split_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
        if !is_repository(&repository) || !registry_is_valid || !port_is_valid {
            return None;
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(is_digest(digest).then(|| digest.to_owned())?),
            (None, Some(tag)) => Version::Tag(is_tag(tag).then(|| tag.to_owned())?),
            (None, None) => Version::Tag("latest".to_owned()),
        };
        Some(Self {
            registry,
            repository,
            version,
        })
    }

    /// The last part of a manifest URL.
    pub fn version_text(&self) -> &str {
        match &self.version {
            Version::Tag(text) | Version::Digest(text) => text,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.version {
            Version::Tag(_) => ':',
            Version::Digest(_) => '@',
        };
        write!(
            f,
            "{}/{}{separator}{}",
            self.registry,
            self.repository,
            self.version_text()
        )
    }
}

/// `sha256:` and 64 lower-case hexadecimal digits; no other algorithm is in use.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_sha256)
}

/// Whether a registry may have a repository of this name.
pub fn is_repository(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
    };
    name.len() <= 255 && name.split('/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(['.', '-'])
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_normalise_as_docker_does() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (given, expected) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".to_owned()),
            (
                "docker.io/nginx",
                "docker.io/library/nginx:latest".to_owned(),
            ),
            (
                "purplebooth/flappy-endpoint",
                "docker.io/purplebooth/flappy-endpoint:latest".to_owned(),
            ),
            ("quay.io/a/b:v2", "quay.io/a/b:v2".to_owned()),
            ("localhost:5000/a", "localhost:5000/a:latest".to_owned()),
            ("localhost/a", "localhost/a:latest".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            (
                &format!("a/b:v1@{digest}"),
                format!("docker.io/a/b@{digest}"),
            ),
        ] {
            assert_eq!(
                Reference::parse(given).map(|r| r.to_string()),
                Some(expected),
                "{given}"
            );
        }
        for wrong in [
            "",
            "UPPER",
            "a b",
            "a:",
            "a/../b",
            "a@sha256:12",
            "a:-x",
            "/a",
            "a//b",
            "host:99999/x:1",
            "host:/x:1",
            "host:0/x:1",
            "host:port/x:1",
        ] {
            assert_eq!(Reference::parse(wrong), None, "{wrong}");
        }
    }
}

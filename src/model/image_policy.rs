//! Which images a cluster runs, as `[cluster] images` of its file says it.
//!
//! ```toml
//! images = { allow = ["quay.io/purplebooth/*"], pinned = true, signed_by = "cosign.pub" }
//! ```
//! Images are compared by their references with nothing left out ([`Reference`]): `nginx` is `docker.io/library/nginx`, in a pattern
//! as in a pod.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::image_reference::{Reference, Version};

/// Any number of segments, as a segment of its own.
const ANY_SEGMENTS: &str = "**";
/// Patterns that a message names.
const PATTERNS_TOLD: usize = 4;

/// Which images may run. By default all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImagePolicy {
    /// The repositories that images may come from; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<ImagePattern>,
    /// Whether images must be named by digest.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pinned: bool,
    /// The public key, in PEM, of who has to have signed an image. The registry mirror holds images against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<String>,
}

impl ImagePolicy {
    /// Whether every image may run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Why an image may not run, with everything that is against it; `None` when it may.
    #[must_use]
    pub fn refusal(&self, image: &str) -> Option<String> {
        if self.allow.is_empty() && !self.pinned {
            return None;
        }
        let Some(reference) = Reference::parse(image) else {
            return Some("it is not the name of an image".to_owned());
        };
        let mut reasons = Vec::new();
        if !self.allow.is_empty() && !self.allow.iter().any(|pattern| pattern.allows(&reference)) {
            reasons.push(format!(
                "no pattern of `allow` has {}/{} ({})",
                reference.registry,
                reference.repository,
                self.told()
            ));
        }
        if let (true, Version::Tag(tag)) = (self.pinned, &reference.version) {
            reasons.push(format!(
                "the tag `{tag}` may move: with `pinned`, images are named by digest, `@sha256:…`"
            ));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// The first patterns, for a message.
    fn told(&self) -> String {
        let mut told: Vec<&str> = self
            .allow
            .iter()
            .take(PATTERNS_TOLD)
            .map(|pattern| pattern.0.as_str())
            .collect();
        if self.allow.len() > PATTERNS_TOLD {
            told.push("…");
        }
        told.join(", ")
    }
}

/// Repositories of a registry: `quay.io/purplebooth/*`.
///
/// Compared segment by segment: `*` is any number of characters of one segment, `**` any number of segments, also none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImagePattern(String);

/// Why a text is no [`ImagePattern`], and what would be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidPattern {
    /// What is wrong, to follow the pattern.
    pub problem: &'static str,
    /// What would be right.
    pub help: &'static str,
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl ImagePattern {
    /// Reads a pattern and completes it as Docker completes a reference: `nginx` is `docker.io/library/nginx`, `team/*` is
    /// `docker.io/team/*`.
    ///
    /// # Errors
    /// When it is no pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let wrong = |problem, help| Err(InvalidPattern { problem, help });
        if text.contains("://") {
            return wrong("is a URL", "leave `https://` out");
        }
        let last = text.rsplit('/').next().unwrap_or(text);
        if text.contains('@') || last.contains(':') {
            return wrong(
                "names a version: a pattern is of repositories",
                "leave tag and digest out; `pinned = true` asks for digests",
            );
        }
        let (registry, repository) = match text.split_once('/') {
            Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, path.to_owned())
            }
            Some(_) => ("docker.io", text.to_owned()),
            None if text.contains('.') => {
                return wrong(
                    "names no repository",
                    "every one of a registry is `quay.io/**`",
                );
            }
            None => ("docker.io", text.to_owned()),
        };
        let registry = if registry == "index.docker.io" {
            "docker.io"
        } else {
            registry
        };
        let is_official = registry == "docker.io" && !repository.contains('/');
        let repository = if is_official && repository != ANY_SEGMENTS {
            format!("library/{repository}")
        } else {
            repository
        };
        let is_known = |extra: &'static [u8]| {
            move |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || extra.contains(&byte)
            }
        };
        if !registry.bytes().all(is_known(b"*.:-")) || registry.contains(ANY_SEGMENTS) {
            return wrong(
                "has no registry's name before its first `/`",
                "such as `quay.io/purplebooth/*`",
            );
        }
        for segment in repository.split('/') {
            if segment.is_empty() || !segment.bytes().all(is_known(b"*._-")) {
                return wrong(
                    "is not the name of a repository",
                    "segments of lower-case letters, digits, `.`, `_`, `-` and `*`, such as `quay.io/purplebooth/*`",
                );
            }
            if segment.contains(ANY_SEGMENTS) && segment != ANY_SEGMENTS {
                return wrong(
                    "has `**` beside other characters",
                    "`**` is a segment of its own; within one write `*`",
                );
            }
        }
        Ok(Self(format!("{registry}/{repository}")))
    }

    /// Whether it has the reference's repository.
    fn allows(&self, reference: &Reference) -> bool {
        let name = format!("{}/{}", reference.registry, reference.repository);
        let (pattern, name): (Vec<&str>, Vec<&str>) =
            (self.0.split('/').collect(), name.split('/').collect());
        globs(
            &pattern,
            &name,
            |segment| *segment == ANY_SEGMENTS,
            |segment, name| {
                globs(
                    segment.as_bytes(),
                    name.as_bytes(),
                    |byte| *byte == b'*',
                    |byte, other| byte == other,
                )
            },
        )
    }
}

/// Whether `pattern` covers all of `text`, where what `is_any` accepts stands for any number of elements. The last such element is
/// gone back to and no other, which takes at most the product of both lengths.
fn globs<P, T>(
    pattern: &[P],
    text: &[T],
    is_any: impl Fn(&P) -> bool,
    same: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut next, mut at) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while at < text.len() {
        if pattern.get(next).is_some_and(&is_any) {
            back = Some((next, at));
            next += 1;
        } else if pattern.get(next).is_some_and(|one| same(one, &text[at])) {
            next += 1;
            at += 1;
        } else if let Some((any, from)) = back {
            back = Some((any, from + 1));
            next = any + 1;
            at = from + 1;
        } else {
            return false;
        }
    }
    pattern[next..].iter().all(is_any)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], pinned: bool) -> ImagePolicy {
        ImagePolicy {
            allow: allow
                .iter()
                .map(|text| ImagePattern::parse(text).expect("a pattern"))
                .collect(),
            pinned,
            signed_by: None,
        }
    }

    #[test]
    fn patterns_are_completed_as_references_are() {
        for (text, complete) in [
            ("nginx", "docker.io/library/nginx"),
            ("*", "docker.io/library/*"),
            ("purplebooth/*", "docker.io/purplebooth/*"),
            ("docker.io/nginx", "docker.io/library/nginx"),
            ("docker.io/**", "docker.io/**"),
            ("index.docker.io/a/b", "docker.io/a/b"),
            ("quay.io/purplebooth/*", "quay.io/purplebooth/*"),
            ("localhost:5000/a", "localhost:5000/a"),
            ("*.example.com/**/web", "*.example.com/**/web"),
        ] {
            let pattern = ImagePattern::parse(text).map(|pattern| pattern.to_string());
            assert_eq!(pattern.as_deref(), Ok(complete), "{text}");
        }
        for wrong in [
            "",
            "quay.io",
            "https://quay.io/a",
            "quay.io/a:v1",
            "a@sha256:12",
            "quay.io//a",
            "quay.io/A",
            "quay.io/a**",
            "**.io/a",
            "quay.io/a b",
            "quay.io/é",
        ] {
            assert!(ImagePattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_star_stays_in_its_segment_and_two_do_not() {
        for (pattern, image, allowed) in [
            (
                "quay.io/purplebooth/*",
                "quay.io/purplebooth/flappy:v1",
                true,
            ),
            ("quay.io/purplebooth/*", "quay.io/purplebooth/a/b", false),
            ("quay.io/purplebooth/*", "quay.io/purplebooth-evil/a", false),
            ("quay.io/purplebooth/*", "purplebooth/a", false),
            (
                "quay.io/purplebooth/*",
                "quay.io.evil.com/purplebooth/a",
                false,
            ),
            ("quay.io/**", "quay.io/a/b/c", true),
            ("quay.io/**/web", "quay.io/web", true),
            ("quay.io/**/web", "quay.io/a/b/web:v2", true),
            ("quay.io/**/web", "quay.io/a/b/webs", false),
            ("quay.io/a/flappy-*-v*", "quay.io/a/flappy-x-v-v1", true),
            ("quay.io/a/flappy-*-v*", "quay.io/a/flappy-x", false),
            ("nginx", "docker.io/library/nginx:1.27", true),
            ("nginx", "docker.io/nginx", true),
            ("docker.io/library/*", "nginx", true),
            ("*", "purplebooth/a", false),
        ] {
            let refused = policy(&[pattern], false).refusal(image);
            assert_eq!(refused.is_none(), allowed, "{pattern} {image}: {refused:?}");
        }
    }

    #[test]
    fn everything_against_an_image_is_told() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let strict = policy(&["quay.io/purplebooth/*"], true);
        assert_eq!(
            strict.refusal("nginx").as_deref(),
            Some(
                "no pattern of `allow` has docker.io/library/nginx (quay.io/purplebooth/*); the tag `latest` may move: with `pinned`, images are named by digest, `@sha256:…`"
            )
        );
        assert_eq!(
            strict.refusal(&format!("quay.io/purplebooth/a:v1@{digest}")),
            None
        );
        assert!(strict.refusal("UPPER").is_some());
        assert_eq!(ImagePolicy::default().refusal("UPPER"), None);
        assert!(ImagePolicy::default().is_empty() && !strict.is_empty());
    }

    #[test]
    fn a_pattern_of_many_stars_is_decided_at_once() {
        let pattern = format!("quay.io/{}b", "*a".repeat(60).replace("**", "*"));
        let image = format!("quay.io/{}", "a".repeat(200));
        assert!(policy(&[&pattern], false).refusal(&image).is_some());
        let pattern = format!("quay.io/{}b", "**/a/".repeat(40));
        let image = format!("quay.io/{}a", "a/".repeat(100));
        assert!(policy(&[&pattern], false).refusal(&image).is_some());
    }
}

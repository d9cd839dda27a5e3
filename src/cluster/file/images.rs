//! `[cluster] images`: which images the cluster runs.
//!
//! ```toml
//! images = { allow = ["quay.io/purplebooth/*"], pinned = true }
//! ```

use crate::model::image_policy::{ImagePattern, ImagePolicy};
use crate::model::reader::{Table, Value};

/// More patterns are a list of images.
const PATTERNS_MAX: usize = 100;

/// Reads `images`, if the table has it. Problems are on the table's list.
pub(super) fn images(table: &Table<'_, '_>) -> ImagePolicy {
    let mut policy = ImagePolicy::default();
    let Some(images) = table.get("images").and_then(|value| value.table()) else {
        return policy;
    };
    images.allow(&["allow", "pinned"]);
    if let Some(value) = images.get("allow") {
        policy.allow = patterns(&value);
    }
    policy.pinned = images
        .get("pinned")
        .and_then(|value| value.boolean())
        .unwrap_or(false);
    policy
}

fn patterns(value: &Value<'_, '_>) -> Vec<ImagePattern> {
    let Some(values) = value.array() else {
        return Vec::new();
    };
    if values.is_empty() {
        value.problem(
            "`allow` is empty: nothing could run",
            Some(
                "leave it out to allow every image, or name some: [\"quay.io/purplebooth/*\"]"
                    .into(),
            ),
        );
    }
    if values.len() > PATTERNS_MAX {
        value.problem(
            format!("`allow` has {} patterns", values.len()),
            Some(format!(
                "at most {PATTERNS_MAX}: `quay.io/purplebooth/*` stands for many images"
            )),
        );
    }
    let mut patterns = Vec::new();
    for value in values {
        let Some(text) = value.string() else { continue };
        match ImagePattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(wrong) => value.problem(
                format!("`{text}` {}", wrong.problem),
                Some(wrong.help.to_owned()),
            ),
        }
    }
    patterns
}

#[cfg(test)]
mod tests {
    use crate::cluster::file::parse;
    use crate::model::image_policy::ImagePolicy;

    fn check(text: &str) -> Result<ImagePolicy, Vec<String>> {
        parse("f", text, &"test".parse().expect("a name"))
            .map(|spec| spec.images)
            .map_err(|refusal| refusal.problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_cluster_says_which_images_it_runs() {
        let policy = check(
            "[cluster]\nimages = { allow = [\"quay.io/purplebooth/*\", \"nginx\"], pinned = true }\n",
        )
        .expect("right");
        let patterns: Vec<String> = policy.allow.iter().map(ToString::to_string).collect();
        assert_eq!(
            patterns,
            ["quay.io/purplebooth/*", "docker.io/library/nginx"]
        );
        assert!(policy.pinned);
        assert_eq!(check("[cluster]\n"), Ok(ImagePolicy::default()));
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let text = "[cluster.images]\nallow = [\"quay.io\", 5, \"quay.io/a:v1\"]\npined = true\npinned = \"yes\"\n";
        assert_eq!(
            check(text).expect_err("wrong"),
            [
                "f:2:10: `quay.io` names no repository",
                "f:2:21: expected a string, found an integer",
                "f:2:24: `quay.io/a:v1` names a version: a pattern is of repositories",
                "f:3:1: unknown key `pined`",
                "f:4:10: expected `true` or `false`, found a string",
            ]
        );
        assert_eq!(
            check("[cluster]\nimages = { allow = [] }\n").expect_err("wrong"),
            ["f:2:20: `allow` is empty: nothing could run"]
        );
        assert_eq!(
            check("[cluster]\nimages = [\"nginx\"]\n").expect_err("wrong"),
            ["f:2:10: expected a table, found an array"]
        );
    }
}

//! `[cluster] images`: which images the cluster runs.
//!
//! ```toml
//! images = { allow = ["quay.io/purplebooth/*"], pinned = true, signed_by = "cosign.pub" }
//! ```

use super::text_beside;
use crate::images::signature::VerifyingKey;
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
    images.allow(&["allow", "pinned", "signed_by"]);
    if let Some(value) = images.get("allow") {
        policy.allow = patterns(&value);
    }
    policy.pinned = images
        .get("pinned")
        .and_then(|value| value.boolean())
        .unwrap_or(false);
    if let Some(value) = images.get("signed_by") {
        policy.signed_by = key(&value);
    }
    policy
}

/// The text of a public key, from a file that is named relative to the cluster file.
fn key(value: &Value<'_, '_>) -> Option<String> {
    let (name, text) = text_beside(value)?;
    if let Err(error) = VerifyingKey::parse(&text) {
        value.problem(
            format!("`{name}`: {error}"),
            Some("`cosign generate-key-pair` makes one".into()),
        );
        return None;
    }
    Some(text)
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
    fn a_key_is_read_beside_the_file_and_held_against_its_kind() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut der = vec![
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06,
            0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
        ];
        der.extend([7; 64]);
        let body = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        write("cosign.pub", &pem);
        write(
            "cosign.key",
            "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n",
        );
        let file = folder.path().join("c.toml").display().to_string();
        let read = |name: &str| {
            let text = format!("[cluster]\nimages = {{ signed_by = \"{name}\" }}\n");
            parse(&file, &text, &"test".parse().expect("a name"))
        };
        assert_eq!(
            read("cosign.pub").expect("right").images.signed_by,
            Some(pem)
        );
        for (name, wrong) in [
            (
                "cosign.key",
                "c.toml:2:24: `cosign.key`: it is a private key",
            ),
            ("none.pub", "none.pub` cannot be read: "),
        ] {
            let refusal = read(name).expect_err("wrong");
            let told = refusal.problems()[0].to_string();
            assert!(told.contains(wrong), "{told}");
        }
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

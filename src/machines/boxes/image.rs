//! A published disk image, as a box's `[image]` table says: where it is, what proves it, what it is packed in.

use crate::machines::provider::DiskFormat;
use crate::model::definition::{Source, checked, is_sha256, optional, required, source_of};
use crate::model::reader::{Table, Value, suggestion};

/// Where a published image is and what proves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOrigin {
    /// Where it is.
    pub location: Location,
    /// The digest of what is downloaded, 64 hexadecimal digits, if the definition pins it.
    pub sha256: Option<String>,
    /// Who signs it.
    pub signature: Option<SignatureOrigin>,
    /// What it is packed in.
    pub compression: Compression,
    /// What it is when unpacked.
    pub format: DiskFormat,
}

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// At a URL.
    Url(String),
    /// Where the metadata of a Fedora CoreOS stream says, with its digest.
    Stream {
        /// The metadata.
        url: String,
        /// For which platform, `qemu`.
        artifact: String,
    },
}

/// A detached OpenPGP signature and whose it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureOrigin {
    /// Where it is; `None`: where the stream says, or beside the image with `.sig`.
    pub url: Option<String>,
    /// The signers' public keys.
    pub key: KeyOrigin,
    /// Fingerprints of the primary keys that may sign, 40 or 64 upper-case hexadecimal digits. They are the trust; the keys are not.
    pub fingerprints: Vec<String>,
}

/// Where public keys are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOrigin {
    /// Fetched with the image.
    Url(String),
    /// Armoured, from a file beside the definition.
    Text(String),
}

/// What an image is packed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// zstd.
    Zstd,
}

const COMPRESSIONS: [(&str, Compression); 5] = [
    ("none", Compression::None),
    ("gzip", Compression::Gzip),
    ("bzip2", Compression::Bzip2),
    ("xz", Compression::Xz),
    ("zstd", Compression::Zstd),
];
const FORMATS: [(&str, DiskFormat); 2] = [("qcow2", DiskFormat::Qcow2), ("raw", DiskFormat::Raw)];

/// Reads the `[image]` table. Problems are on its list.
pub(super) fn read(root: &Table<'_, '_>, source: Source<'_>) -> ImageOrigin {
    let nothing = ImageOrigin {
        location: Location::Url(String::new()),
        sha256: None,
        signature: None,
        compression: Compression::None,
        format: DiskFormat::Qcow2,
    };
    let Some(table) = root.get("image").and_then(|value| value.table()) else {
        return nothing;
    };
    table.allow(&[
        "url",
        "stream",
        "artifact",
        "sha256",
        "signature",
        "compression",
        "format",
    ]);
    let location = match (table.get("url"), table.get("stream")) {
        (Some(url), None) => Location::Url(self::url(url)),
        (None, Some(stream)) => Location::Stream {
            url: url(stream),
            artifact: required(&table, "artifact"),
        },
        _ => {
            table.problem_at_start("`image` needs either `url` or `stream`", None);
            nothing.location.clone()
        }
    };
    let sha256 = optional(&table, "sha256");
    if let Some(value) = table.get("sha256")
        && sha256.as_ref().is_some_and(|digest| !is_sha256(digest))
    {
        value.problem("`sha256` is not 64 lower-case hexadecimal digits", None);
    }
    let signature = table
        .get("signature")
        .and_then(|value| value.table())
        .map(|table| signature(&table, source));
    if sha256.is_none() && signature.is_none() && matches!(location, Location::Url(_)) {
        table.problem_at_start(
            "nothing proves the image: it needs `sha256` or `[image.signature]`",
            None,
        );
    }
    let compression = one_of(table.get("compression"), &COMPRESSIONS).unwrap_or(Compression::None);
    let format = one_of(table.require("format"), &FORMATS).unwrap_or(DiskFormat::Qcow2);
    ImageOrigin {
        location,
        sha256,
        signature,
        compression,
        format,
    }
}

fn signature(table: &Table<'_, '_>, source: Source<'_>) -> SignatureOrigin {
    table.allow(&["url", "key", "fingerprints"]);
    let key = table.require("key").map(|value| match value.string() {
        Some(text) if text.contains("://") => KeyOrigin::Url(url(value)),
        _ => KeyOrigin::Text(source_of(value, source)),
    });
    let fingerprints = checked(
        table,
        "fingerprints",
        "a fingerprint: 40 or 64 upper-case hexadecimal digits",
        |text| {
            matches!(text.len(), 40 | 64)
                && text
                    .chars()
                    .all(|c| c.is_ascii_digit() || ('A'..='F').contains(&c))
        },
    );
    if fingerprints.is_empty() {
        table.problem_at_start(
            "`fingerprints` names no key: nobody could sign the image",
            None,
        );
    }
    SignatureOrigin {
        url: table.get("url").map(url),
        key: key.unwrap_or(KeyOrigin::Text(String::new())),
        fingerprints,
    }
}

fn url(value: Value<'_, '_>) -> String {
    let text = value.string().unwrap_or_default();
    if !(text.starts_with("https://") || text.starts_with("http://")) {
        value.problem(
            format!("`{text}` is not a URL"),
            Some("one that begins with `https://`".into()),
        );
    }
    text.to_owned()
}

fn one_of<T: Copy>(value: Option<Value<'_, '_>>, choices: &[(&str, T)]) -> Option<T> {
    let value = value?;
    let text = value.string()?;
    let found = choices
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, choice)| *choice);
    if found.is_none() {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        value.problem(
            format!("`{text}` is not known here"),
            suggestion(text, &names),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{BoxDefinition, BoxError};

    #[test]
    fn an_image_must_be_proven() {
        let text = "description = \"x\"\narchitecture = \"x86_64\"\n[image]\nurl = \"ftp://x\"\nformat = \"qcow3\"\n";
        let Err(BoxError::Invalid { problems, .. }) = BoxDefinition::parse("b", text, &|_| None)
        else {
            panic!("it is wrong")
        };
        let said: Vec<(usize, &str)> = problems
            .problems()
            .iter()
            .map(|problem| (problem.line, problem.message.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                (1, "`ignition` is missing"),
                (
                    3,
                    "nothing proves the image: it needs `sha256` or `[image.signature]`"
                ),
                (4, "`ftp://x` is not a URL"),
                (5, "`qcow3` is not known here"),
            ]
        );
    }
}

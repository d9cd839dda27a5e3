//! Fetching whole boxes from a server on loopback, with digests and signatures that are right and wrong.
//!
//! The keys and signatures are real: made by `gpg` in a directory of their own, where it is installed.

use std::process::Command;

use super::super::download::tests::{Answer, Server, downloader};
use super::super::{BoxError, Origin};
use super::*;

/// A raw disk of 1 MiB.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[70_000] = 1;
    disk
}

fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn definition(image: &str) -> BoxDefinition {
    let text = format!(
        "description = \"x\"\narchitecture = \"x86_64\"\n[ignition]\nfw_cfg = \"opt/com.coreos/config\"\nversion = \"3.3.0\"\n\
         network = \"networkd\"\n[image]\nformat = \"raw\"\ncompression = \"gzip\"\n{image}\n"
    );
    BoxDefinition::parse("test", &text, &|_| None).unwrap_or_else(|error| panic!("{error}"))
}

async fn fetch_into(definition: &BoxDefinition, cache: &Path) -> Result<Fetched, FetchError> {
    let Origin::Image(image) = &definition.origin else {
        panic!("it is an image")
    };
    fetch_with(&downloader(), definition, image, cache, &|_| ()).await
}

fn files_in(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}

#[tokio::test]
async fn a_proven_image_is_kept_under_its_digest() {
    let packed = gzip(&disk());
    let server = Server::start(packed.clone(), [Answer::CutAfter(100)]).await;
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().join("packed");
    std::fs::write(&path, &packed).unwrap();
    let digest = unpack::sha256_of(&path).unwrap();
    let definition = definition(&format!(
        "url = \"{}\"\nsha256 = \"{digest}\"",
        server.image()
    ));
    let Origin::Image(image) = &definition.origin else {
        panic!("it is an image")
    };
    assert_eq!(cached(&definition, image, cache.path()), None);
    let fetched = fetch_into(&definition, cache.path()).await.unwrap();
    assert_eq!(
        (
            fetched.downloaded_sha256.as_str(),
            fetched.virtual_size,
            &fetched.signed_by
        ),
        (digest.as_str(), 1 << 20, &None)
    );
    let files = cached(&definition, image, cache.path()).unwrap();
    let BoxBoot::Disk(kept) = files.boot else {
        panic!("it is a disk")
    };
    assert!(std::fs::read(&kept.path).unwrap() == disk());
    assert!(
        kept.path
            .ends_with(format!("images/{}", fetched.image_sha256))
    );
    assert_eq!(files_in(&cache.path().join("downloads")), 0);
    expire(&definition, cache.path());
    assert_eq!(record(&definition, cache.path()), None);
}

#[tokio::test]
async fn a_corrupt_or_truncated_image_is_removed() {
    for content in [gzip(b"something else"), gzip(&disk())[..500].to_vec()] {
        let server = Server::start(content, []).await;
        let cache = tempfile::tempdir().unwrap();
        let definition = definition(&format!(
            "url = \"{}\"\nsha256 = \"{}\"",
            server.image(),
            "0".repeat(64)
        ));
        let error = fetch_into(&definition, cache.path()).await.unwrap_err();
        assert!(matches!(error, FetchError::Digest { .. }), "{error}");
        assert_eq!(
            (
                files_in(&cache.path().join("downloads")),
                files_in(&cache.path().join("images"))
            ),
            (0, 0)
        );
    }
}

#[tokio::test]
async fn a_streams_metadata_says_where_and_what() {
    let packed = gzip(&disk());
    let server = Server::start(packed.clone(), []).await;
    let cache = tempfile::tempdir().unwrap();
    let path = cache.path().join("packed");
    std::fs::write(&path, &packed).unwrap();
    let digest = unpack::sha256_of(&path).unwrap();
    let stream = |digest: &str| {
        serde_json::json!({ "architectures": { "x86_64": { "artifacts": { "qemu": { "formats": { "raw.gz": { "disk": {
            "location": server.image(), "sha256": digest,
        } } } } } } } })
        .to_string()
    };
    let definition = definition(&format!(
        "stream = \"{}/stable.json\"\nartifact = \"qemu\"",
        server.url
    ));
    server.put("/stable.json", "{}");
    let error = fetch_into(&definition, cache.path()).await.unwrap_err();
    assert!(
        error.to_string().contains("no `location` of a disk"),
        "{error}"
    );
    server.put("/stable.json", stream(&"0".repeat(64)));
    let error = fetch_into(&definition, cache.path()).await.unwrap_err();
    assert!(matches!(error, FetchError::Digest { .. }), "{error}");
    server.put("/stable.json", stream(&digest));
    assert_eq!(
        fetch_into(&definition, cache.path())
            .await
            .unwrap()
            .downloaded_sha256,
        digest
    );
}

/// A signer whose keys live in a directory of their own.
struct Signer {
    home: tempfile::TempDir,
    fingerprint: String,
}

impl Signer {
    /// `None` where `gpg` or `gpgv` is not installed.
    fn make() -> Option<Self> {
        Command::new("gpgv").arg("--version").output().ok()?;
        let home = tempfile::Builder::new()
            .prefix("gpg")
            .tempdir_in("/tmp")
            .unwrap();
        let gpg = |arguments: &[&str]| {
            Command::new("gpg")
                .args(["--batch", "--quiet", "--no-tty", "--homedir"])
                .arg(home.path())
                .args(arguments)
                .output()
                .ok()
        };
        let made = gpg(&[
            "--passphrase",
            "",
            "--quick-generate-key",
            "test <test@example.org>",
            "ed25519",
            "sign",
            "never",
        ])?;
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let listed = String::from_utf8(gpg(&["--with-colons", "--fingerprint"])?.stdout).unwrap();
        let fingerprint = listed
            .lines()
            .find_map(|line| line.strip_prefix("fpr:"))
            .unwrap()
            .trim_matches(':')
            .to_owned();
        Some(Self { home, fingerprint })
    }

    fn gpg(&self, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("gpg")
            .args(["--batch", "--quiet", "--no-tty", "--homedir"])
            .arg(self.home.path())
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    fn sign(&self, content: &[u8]) -> Vec<u8> {
        let path = self.home.path().join("content");
        std::fs::write(&path, content).unwrap();
        self.gpg(&[
            "--detach-sign",
            "--output",
            "-",
            &path.display().to_string(),
        ])
    }

    fn keys(&self) -> Vec<u8> {
        self.gpg(&["--armor", "--export"])
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        // Its agent would outlive the directory.
        let _ = Command::new("gpgconf")
            .arg("--homedir")
            .arg(self.home.path())
            .args(["--kill", "all"])
            .output();
    }
}

#[tokio::test]
async fn only_the_right_signers_signature_is_accepted() {
    let (Some(signer), Some(stranger)) = (Signer::make(), Signer::make()) else {
        return;
    };
    let packed = gzip(&disk());
    let server = Server::start(packed.clone(), []).await;
    let definition = definition(&format!(
        "url = \"{}\"\n[image.signature]\nkey = \"{}/keys.asc\"\nfingerprints = [\"{}\"]",
        server.image(),
        server.url,
        signer.fingerprint
    ));
    // Signature, keys that the server offers, and what comes of it.
    let table = [
        (
            signer.sign(b"something else"),
            signer.keys(),
            Some("BADSIG"),
        ),
        (stranger.sign(&packed), signer.keys(), Some("ERRSIG")),
        (stranger.sign(&packed), stranger.keys(), Some("made by")),
        (b"nonsense".to_vec(), signer.keys(), Some("NODATA")),
        (
            signer.sign(&packed),
            b"<html>".to_vec(),
            Some("no OpenPGP key"),
        ),
        (signer.sign(&packed), signer.keys(), None),
    ];
    for (signature, keys, refusal) in table {
        let cache = tempfile::tempdir().unwrap();
        server.put("/image.sig", signature);
        server.put("/keys.asc", keys);
        let fetched = fetch_into(&definition, cache.path()).await;
        let Some(reason) = refusal else {
            assert_eq!(
                fetched.unwrap().signed_by.as_deref(),
                Some(signer.fingerprint.as_str())
            );
            continue;
        };
        let error = BoxError::from(fetched.unwrap_err());
        let said = std::error::Error::source(&error)
            .and_then(|source| source.source())
            .unwrap()
            .to_string();
        assert!(said.contains(reason), "{said}");
        assert_eq!(files_in(&cache.path().join("images")), 0);
    }
}

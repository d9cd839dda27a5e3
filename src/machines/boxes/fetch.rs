//! Fetches a published disk image: finds it, downloads it, proves it, unpacks it, and keeps it in the cache under its own digest.
//!
//! ```text
//! definition ──► location ──► downloads/<url>.part ──► digest, signature ──► images/<sha256> ──► <name>-<definition>.json
//! ```
//! Invariants: nothing is unpacked that was not proven by the definition's digest, its signature or its stream's digest; what is in
//! `images/` is whole; the record that says which image a definition stands for is written last. What was downloaded and is wrong is removed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::BoxDefinition;
use super::download::{DownloadError, Downloader, forget};
use super::image::{ImageOrigin, KeyOrigin, Location};
use super::signature::{self, SignatureError};
use super::unpack::{self, UnpackError};
use crate::machines::provider::{BoxBoot, BoxFiles, DiskImage};
use crate::model::definition::is_sha256;
use crate::shell::debian::Progress;

/// Authorities that the host trusts.
const HOST_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why an image is not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It could not be downloaded.
    #[error(transparent)]
    Download(#[from] DownloadError),
    /// The host's authorities cannot be read.
    #[error("trust the authorities in {HOST_ROOTS}: install `ca-certificates`")]
    Roots(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stream's metadata does not say where the image is.
    #[error("{url} tells of no image for {architecture} on {artifact}: {what}")]
    Stream {
        /// The metadata.
        url: String,
        /// For which architecture.
        architecture: String,
        /// For which platform.
        artifact: String,
        /// What is missing or wrong.
        what: String,
    },
    /// What came is not what was announced.
    #[error(
        "{url} is corrupt: its SHA-256 is {actual}, not {expected}; what came is removed, fetch it again"
    )]
    Digest {
        /// From where.
        url: String,
        /// What it should be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// It is not signed by whom it should be.
    #[error("{url} is not trusted; what came is removed")]
    Signature {
        /// From where.
        url: String,
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// It could not be unpacked.
    #[error("unpack {url}")]
    Unpack {
        /// From where.
        url: String,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// What was done.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// What the cache knows of a fetched box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// From where it came.
    pub url: String,
    /// SHA-256 of what was downloaded.
    pub downloaded_sha256: String,
    /// SHA-256 of the image, which is its name in the cache.
    pub image_sha256: String,
    /// Bytes that a machine sees of its disk.
    pub virtual_size: u64,
    /// Fingerprint of the key that signed it.
    pub signed_by: Option<String>,
}

/// Where exactly an image is, and what is known of it.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    url: String,
    sha256: Option<String>,
    signature_url: String,
}

/// The record of a fetched box, if the cache holds its image.
pub(super) fn record(definition: &BoxDefinition, cache: &Path) -> Option<Fetched> {
    let text = std::fs::read(record_path(definition, cache)).ok()?;
    let fetched: Fetched = serde_json::from_slice(&text).ok()?;
    image_path(cache, &fetched.image_sha256)
        .is_file()
        .then_some(fetched)
}

/// The box's files, if the cache holds them.
pub(super) fn cached(
    definition: &BoxDefinition,
    image: &ImageOrigin,
    cache: &Path,
) -> Option<BoxFiles> {
    let fetched = record(definition, cache)?;
    let path = image_path(cache, &fetched.image_sha256);
    let boot = BoxBoot::Disk(DiskImage {
        path,
        format: image.format,
        virtual_size: fetched.virtual_size,
    });
    let hash = fetched.image_sha256[..32].to_owned();
    Some(BoxFiles {
        hash,
        content: fetched.image_sha256,
        fw_cfg: definition.first_boot.fw_cfg.clone(),
        boot,
    })
}

/// Forgets which image the definition stands for, so that the next fetch looks for a newer one. The image itself stays.
pub(super) fn expire(definition: &BoxDefinition, cache: &Path) {
    let _ = std::fs::remove_file(record_path(definition, cache));
}

/// Fetches the image, trusting the host's authorities.
pub(super) async fn fetch(
    definition: &BoxDefinition,
    image: &ImageOrigin,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<Fetched, FetchError> {
    let roots = std::fs::read(HOST_ROOTS).map_err(|error| FetchError::Roots(Box::new(error)))?;
    let downloader = Downloader::new(&roots).map_err(|error| FetchError::Roots(Box::new(error)))?;
    fetch_with(&downloader, definition, image, cache, progress).await
}

/// Fetches the image. The cache's lock is held by the caller.
async fn fetch_with(
    downloader: &Downloader,
    definition: &BoxDefinition,
    image: &ImageOrigin,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<Fetched, FetchError> {
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| FetchError::File {
            action,
            path,
            source,
        }
    };
    let (downloads, images) = (cache.join("downloads"), cache.join("images"));
    for directory in [&downloads, &images] {
        std::fs::create_dir_all(directory).map_err(failed("make directory", directory))?;
    }
    let found = find(downloader, definition, image).await?;
    // Small things first: what cannot be proven is not worth downloading.
    let proof = match &image.signature {
        None => None,
        Some(origin) => {
            let keys = match &origin.key {
                KeyOrigin::Url(url) => downloader.small(url).await?,
                KeyOrigin::Text(text) => text.clone().into_bytes(),
            };
            Some((origin, downloader.small(&found.signature_url).await?, keys))
        }
    };
    progress(&format!("downloading {}", found.url));
    let downloaded = downloader.large(&found.url, &downloads, progress).await?;

    progress("verifying");
    let path = downloaded.clone();
    let digest = tokio::task::spawn_blocking(move || unpack::sha256_of(&path))
        .await
        .expect("hashing does not panic");
    let digest = digest.map_err(failed("read", &downloaded))?;
    for expected in [&found.sha256, &image.sha256].into_iter().flatten() {
        if *expected != digest {
            forget(&downloaded);
            return Err(FetchError::Digest {
                url: found.url,
                expected: expected.clone(),
                actual: digest,
            });
        }
    }
    let mut signed_by = None;
    if let Some((origin, signature, keys)) = proof {
        let verified = signature::verify(&downloaded, &signature, &keys, origin).await;
        // A host without the verifier says nothing about the image.
        if matches!(verified, Err(SignatureError::Wrong { .. })) {
            forget(&downloaded);
        }
        signed_by = Some(verified.map_err(|source| FetchError::Signature {
            url: found.url.clone(),
            source,
        })?);
    }

    progress("unpacking");
    let (packed, into, (compression, format)) = (
        downloaded.clone(),
        images.clone(),
        (image.compression, image.format),
    );
    let unpacked =
        tokio::task::spawn_blocking(move || unpack::unpack(&packed, &into, compression, format))
            .await;
    let unpacked = unpacked
        .expect("unpacking does not panic")
        .map_err(|source| FetchError::Unpack {
            url: found.url.clone(),
            source,
        })?;
    let fetched = Fetched {
        url: found.url,
        downloaded_sha256: digest,
        image_sha256: unpacked.sha256,
        virtual_size: unpacked.virtual_size,
        signed_by,
    };
    let path = record_path(definition, cache);
    let mut partial =
        tempfile::NamedTempFile::new_in(cache).map_err(failed("make a file in", cache))?;
    serde_json::to_writer_pretty(&mut partial, &fetched)
        .map_err(|error| failed("write", &path)(error.into()))?;
    partial
        .persist(&path)
        .map_err(|error| failed("write", &path)(error.error))?;
    forget(&downloaded);
    Ok(fetched)
}

async fn find(
    downloader: &Downloader,
    definition: &BoxDefinition,
    image: &ImageOrigin,
) -> Result<Found, FetchError> {
    let mut found = match &image.location {
        Location::Url(url) => Found {
            url: url.clone(),
            sha256: None,
            signature_url: format!("{url}.sig"),
        },
        Location::Stream { url, artifact } => {
            let text = downloader.small(url).await?;
            find_in_stream(&text, &definition.architecture, artifact).map_err(|what| {
                FetchError::Stream {
                    url: url.clone(),
                    architecture: definition.architecture.clone(),
                    artifact: artifact.clone(),
                    what,
                }
            })?
        }
    };
    if let Some(url) = image
        .signature
        .as_ref()
        .and_then(|signature| signature.url.clone())
    {
        found.signature_url = url;
    }
    Ok(found)
}

/// Reads a stream's metadata (`architectures.A.artifacts.P.formats.F.disk`, docs.fedoraproject.org/en-US/fedora-coreos/stream-metadata).
fn find_in_stream(text: &[u8], architecture: &str, artifact: &str) -> Result<Found, String> {
    let stream: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let formats =
        stream["architectures"][architecture]["artifacts"][artifact]["formats"].as_object();
    let disk = formats
        .and_then(|formats| formats.values().next())
        .map(|format| &format["disk"]);
    let text = |key: &str| disk.and_then(|disk| disk[key].as_str()).map(str::to_owned);
    let url = text("location").ok_or("no `location` of a disk")?;
    let sha256 = text("sha256")
        .filter(|digest| is_sha256(digest))
        .ok_or("no `sha256` of the disk")?;
    let signature_url = text("signature").unwrap_or_else(|| format!("{url}.sig"));
    Ok(Found {
        url,
        sha256: Some(sha256),
        signature_url,
    })
}

fn record_path(definition: &BoxDefinition, cache: &Path) -> PathBuf {
    cache.join(format!("{}-{}.json", definition.name, definition.hash()))
}

fn image_path(cache: &Path, sha256: &str) -> PathBuf {
    cache.join("images").join(sha256)
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;

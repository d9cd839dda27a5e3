//! Blobs by digest and tags by name, on disk. Everything is written beside and renamed, so that a reader sees whole things only.
//!
//! `blobs/sha256/<hex>` as in an OCI layout; `index.json` says which manifest a tag stands for. Several processes may use one store.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::definition::hexadecimal;
use crate::model::image_reference::is_digest;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written.
    #[error("image store: {action} {}", path.display())]
    File {
        /// What was done to it.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The index is not what we wrote.
    #[error("image store: {} is damaged: remove it and build the images again", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// A blob's content is not what its digest says.
    #[error("image store: blob has digest {actual}, not {expected}")]
    Digest {
        /// What was announced.
        expected: String,
        /// What came.
        actual: String,
    },
}

/// A manifest that a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// `sha256:<hex>` of the manifest.
    pub digest: String,
    /// Media type of the manifest.
    pub media_type: String,
}

/// A blob that the store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// `sha256:<hex>`.
    pub digest: String,
    /// Bytes.
    pub size: u64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Index {
    /// `repository:tag` to manifest.
    tags: BTreeMap<String, Resolved>,
    /// Hash of a definition to the manifest built from it.
    built: BTreeMap<String, Resolved>,
}

/// A manifest may say its own media type, or be told by its shape; a layer or a configuration is no manifest.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<String>,
    manifests: Option<serde_json::Value>,
    layers: Option<serde_json::Value>,
}

impl Typed {
    fn media_type(self) -> Option<String> {
        let shape = match (self.manifests, self.layers) {
            (Some(_), _) => Some("application/vnd.oci.image.index.v1+json"),
            (None, Some(_)) => Some("application/vnd.oci.image.manifest.v1+json"),
            (None, None) => None,
        };
        self.media_type.or_else(|| shape.map(str::to_owned))
    }
}

/// The store. Cheap to clone: it holds no state but its directory.
#[derive(Debug, Clone)]
pub struct ImageStore {
    directory: PathBuf,
}

impl ImageStore {
    /// Opens the store in this directory, making it if need be.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        for path in [directory.join("blobs/sha256"), directory.join("partial")] {
            std::fs::create_dir_all(&path).map_err(file("make directory", &path))?;
        }
        Ok(Self { directory })
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the blob of this digest lies or would lie; `None` if it is not `sha256:` and 64 lower-case hexadecimal digits.
    pub fn blob_path(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest
            .strip_prefix("sha256:")
            .filter(|_| is_digest(digest))?;
        Some(self.directory.join("blobs/sha256").join(hex))
    }

    /// The size of the blob, if the store holds it.
    pub fn blob_size(&self, digest: &str) -> Option<u64> {
        std::fs::metadata(self.blob_path(digest)?)
            .ok()
            .map(|metadata| metadata.len())
    }

    /// Starts a blob whose content is written piece by piece.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        Ok(BlobWriter {
            store: self.clone(),
            file: self.incoming()?,
            hash: Sha256::new(),
            size: 0,
        })
    }

    /// A file for a blob that is coming in. Dropped, it leaves nothing.
    pub(super) fn incoming(&self) -> Result<tempfile::NamedTempFile, StoreError> {
        let partial = self.directory.join("partial");
        tempfile::NamedTempFile::new_in(&partial).map_err(file("make a file in", &partial))
    }

    /// Stores a blob.
    pub fn put_blob(&self, content: &[u8]) -> Result<Stored, StoreError> {
        let mut writer = self.writer()?;
        writer
            .write_all(content)
            .map_err(file("write", &self.directory))?;
        writer.commit(None)
    }

    /// The manifest that `reference` (a tag or a digest) of `repository` stands for, `quay.io/purplebooth/flappy-endpoint` and `v1`.
    pub fn resolve(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<Resolved>, StoreError> {
        if !reference.starts_with("sha256:") {
            return Ok(self
                .index()?
                .tags
                .get(&format!("{repository}:{reference}"))
                .cloned());
        }
        let Some(path) = self.blob_path(reference) else {
            return Ok(None);
        };
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file("read", &path)(error)),
        };
        let typed = serde_json::from_slice::<Typed>(&content).ok();
        Ok(typed
            .and_then(Typed::media_type)
            .map(|media_type| Resolved {
                digest: reference.to_owned(),
                media_type,
            }))
    }

    /// Every tag, as `repository:tag`, and its manifest.
    pub fn tags(&self) -> Result<BTreeMap<String, Resolved>, StoreError> {
        Ok(self.index()?.tags)
    }

    /// Makes `name` (`repository:tag`) stand for this manifest, which must be stored.
    pub fn tag(&self, name: &str, manifest: &Resolved) -> Result<(), StoreError> {
        self.change(|index| {
            index.tags.insert(name.to_owned(), manifest.clone());
        })
    }

    pub(super) fn built(&self, definition_hash: &str) -> Result<Option<Resolved>, StoreError> {
        Ok(self.index()?.built.get(definition_hash).cloned())
    }

    pub(super) fn note_built(
        &self,
        definition_hash: &str,
        manifest: &Resolved,
    ) -> Result<(), StoreError> {
        self.change(|index| {
            index
                .built
                .insert(definition_hash.to_owned(), manifest.clone());
        })
    }

    fn index(&self) -> Result<Index, StoreError> {
        let path = self.directory.join("index.json");
        match std::fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|source| StoreError::Damaged { path, source })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index::default()),
            Err(error) => Err(file("read", &path)(error)),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Index)) -> Result<(), StoreError> {
        let lock_path = self.directory.join("index.lock");
        let lock = std::fs::File::create(&lock_path).map_err(file("open", &lock_path))?;
        // Held for one small write.
        lock.lock().map_err(file("lock", &lock_path))?;
        let mut index = self.index()?;
        change(&mut index);
        let path = self.directory.join("index.json");
        let text = serde_json::to_vec_pretty(&index).expect("maps of strings serialise");
        let mut partial = tempfile::NamedTempFile::new_in(&self.directory)
            .map_err(file("make a file in", &self.directory))?;
        partial.write_all(&text).map_err(file("write", &path))?;
        partial
            .persist(&path)
            .map_err(|error| file("write", &path)(error.error))?;
        Ok(())
    }
}

/// A blob that is being written; dropped without [`BlobWriter::commit`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: ImageStore,
    file: tempfile::NamedTempFile,
    hash: Sha256,
    size: u64,
}

impl BlobWriter {
    /// Puts the blob in its place. With `expected`, a content of another digest is refused.
    pub fn commit(self, expected: Option<&str>) -> Result<Stored, StoreError> {
        let sealed = self.seal()?;
        if let Some(expected) = expected.filter(|expected| *expected != sealed.stored.digest) {
            return Err(StoreError::Digest {
                expected: expected.to_owned(),
                actual: sealed.stored.digest,
            });
        }
        sealed.place()
    }

    /// The blob is whole, but not in its place yet.
    pub(super) fn seal(self) -> Result<Sealed, StoreError> {
        let digest = format!("sha256:{}", hexadecimal(&self.hash.finalize()));
        let path = self
            .store
            .blob_path(&digest)
            .expect("a SHA-256 in hexadecimal is a digest");
        self.file
            .as_file()
            .sync_data()
            .map_err(file("write", &path))?;
        Ok(Sealed {
            file: self.file.into_temp_path(),
            path,
            stored: Stored {
                digest,
                size: self.size,
            },
        })
    }
}

/// A whole blob that no reader finds yet. Dropped, it leaves nothing.
#[derive(Debug)]
pub(super) struct Sealed {
    file: tempfile::TempPath,
    path: PathBuf,
    stored: Stored,
}

impl Sealed {
    /// Digest and size.
    pub(super) fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Where it can be read meanwhile.
    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    /// Puts it in its place.
    pub(super) fn place(self) -> Result<Stored, StoreError> {
        self.file
            .persist(&self.path)
            .map_err(|error| file("write", &self.path)(error.error))?;
        Ok(self.stored)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// Puts a whole file in its place.
pub(super) fn place(partial: tempfile::NamedTempFile, path: &Path) -> Result<(), StoreError> {
    partial
        .persist(path)
        .map(drop)
        .map_err(|error| file("write", path)(error.error))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ImageStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        (directory, store)
    }

    #[test]
    fn blobs_are_found_by_their_content() {
        let (_directory, store) = store();
        let stored = store.put_blob(b"abc").unwrap();
        assert_eq!(
            stored.digest,
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(store.blob_size(&stored.digest), Some(3));
        assert_eq!(store.put_blob(b"abc").unwrap(), stored);
        for bad in [
            "abc",
            "sha256:abc",
            "sha256:../../../../etc/passwd",
            &stored.digest.to_uppercase(),
        ] {
            assert_eq!(store.blob_path(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_wrong_or_abandoned_blob_leaves_nothing() {
        let (directory, store) = store();
        let mut writer = store.writer().unwrap();
        writer.write_all(b"abc").unwrap();
        assert!(matches!(
            writer.commit(Some("sha256:other")),
            Err(StoreError::Digest { .. })
        ));
        drop(store.writer().unwrap());
        for folder in ["partial", "blobs/sha256"] {
            assert_eq!(
                std::fs::read_dir(directory.path().join(folder))
                    .unwrap()
                    .count(),
                0,
                "{folder}"
            );
        }
    }

    #[test]
    fn references_resolve_by_tag_and_by_digest() {
        let (_directory, store) = store();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = store
            .put_blob(format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}"}}"#).as_bytes())
            .unwrap();
        let layer = store.put_blob(b"not a manifest").unwrap();
        let resolved = Resolved {
            digest: manifest.digest.clone(),
            media_type: media_type.into(),
        };
        store.tag("quay.io/a/b:v1", &resolved).unwrap();
        assert_eq!(
            store.resolve("quay.io/a/b", "v1").unwrap(),
            Some(resolved.clone())
        );
        assert_eq!(
            store.resolve("quay.io/a/b", &manifest.digest).unwrap(),
            Some(resolved)
        );
        assert_eq!(store.resolve("quay.io/a/b", "v2").unwrap(), None);
        assert_eq!(store.resolve("quay.io/a/b", &layer.digest).unwrap(), None);
    }
}

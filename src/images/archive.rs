//! Loads images from files: an OCI layout (a directory or a tar archive), or what `docker save` writes.
//!
//! Blobs are verified as they are read, and tags are set last: a failure leaves nothing that is taken for an image. Layers of a
//! `docker save` of old are plain archives; they are packed as a node wants them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::build::{Layer, LayerWriter, put_manifest};
use super::{ImageError, ImageStore, Resolved, StoreError};
use crate::model::image_reference::{Reference, Version};

/// Largest index, manifest or configuration.
const MAX_JSON_BYTES: u64 = 8 << 20;
/// Indexes within indexes.
const MAX_DEPTH: u32 = 3;
const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// The full name that containerd and `docker save` write; the other is a tag only, or a name.
const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// Why an archive was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It is not what we can load.
    #[error("{} is no image archive: {what}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is missing or wrong.
        what: String,
    },
    /// Its image says no name.
    #[error("{} says no name for its image: give one with `--tag registry/repository:tag`", .0.display())]
    NoName(PathBuf),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer could not be packed.
    #[error(transparent)]
    Image(#[from] ImageError),
}

#[derive(Debug, Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An element of `docker save`'s `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// What was read so far.
#[derive(Default)]
struct Found {
    /// Small files by path.
    documents: BTreeMap<String, Vec<u8>>,
    /// Layers of a `docker save` by path, and links between them.
    layers: BTreeMap<String, Layer>,
    links: BTreeMap<String, String>,
}

/// Loads every image of `path` and returns the names they now have. With `tag`, the only image gets this name.
pub fn load(
    path: &Path,
    tag: Option<&Reference>,
    store: &ImageStore,
) -> Result<Vec<String>, LoadError> {
    let read = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let mut found = Found::default();
    if path.is_dir() {
        for name in ["index.json", "oci-layout"] {
            let file = path.join(name);
            if file.is_file() {
                found.take(name, File::open(&file).map_err(read)?, store, path)?;
            }
        }
        let blobs = path.join("blobs/sha256");
        let entries = std::fs::read_dir(&blobs)
            .map_err(|_| format_error(path, "it has no `blobs/sha256`"))?;
        for entry in entries {
            let entry = entry.map_err(read)?;
            let name = format!("blobs/sha256/{}", entry.file_name().to_string_lossy());
            found.take(&name, File::open(entry.path()).map_err(read)?, store, path)?;
        }
    } else {
        let mut archive = tar::Archive::new(unpacked(path).map_err(read)?);
        for entry in archive.entries().map_err(read)? {
            let entry = entry.map_err(|error| {
                format_error(path, &format!("it is not a tar archive: {error}"))
            })?;
            let name = entry
                .path()
                .map_err(read)?
                .to_string_lossy()
                .trim_start_matches("./")
                .to_owned();
            match entry.header().entry_type() {
                tar::EntryType::Regular => found.take(&name, entry, store, path)?,
                tar::EntryType::Symlink | tar::EntryType::Link => {
                    let target = entry
                        .link_name()
                        .map_err(read)?
                        .unwrap_or_default()
                        .to_string_lossy()
                        .into_owned();
                    found.links.insert(name, target);
                }
                _ => {}
            }
        }
    }
    let images = found.images(path, store)?;
    name_all(path, images, tag, store)
}

/// Sets the tags, once everything is there.
fn name_all(
    path: &Path,
    images: Vec<(Resolved, Vec<String>)>,
    tag: Option<&Reference>,
    store: &ImageStore,
) -> Result<Vec<String>, LoadError> {
    let images = match (tag, images.len()) {
        (Some(tag), 1) => images
            .into_iter()
            .map(|(manifest, _)| (manifest, vec![tag.to_string()]))
            .collect(),
        (Some(_), count) => {
            return Err(format_error(
                path,
                &format!("it holds {count} images: `--tag` names one"),
            ));
        }
        (None, _) => images,
    };
    if images.iter().all(|(_, names)| names.is_empty()) {
        return Err(LoadError::NoName(path.to_owned()));
    }
    let mut loaded = Vec::new();
    for (manifest, names) in images {
        for name in names {
            store.tag(&name, &manifest)?;
            loaded.push(name);
        }
    }
    Ok(loaded)
}

impl Found {
    fn take(
        &mut self,
        name: &str,
        mut content: impl Read,
        store: &ImageStore,
        path: &Path,
    ) -> Result<(), LoadError> {
        let read = |source| LoadError::Read {
            path: path.to_owned(),
            source,
        };
        let extension = Path::new(name)
            .extension()
            .and_then(|extension| extension.to_str());
        if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            let mut writer = store.writer()?;
            io::copy(&mut content, &mut writer).map_err(read)?;
            writer.commit(Some(&format!("sha256:{hex}")))?;
        } else if extension == Some("json") || name == "oci-layout" {
            let mut document = Vec::new();
            content
                .take(MAX_JSON_BYTES + 1)
                .read_to_end(&mut document)
                .map_err(read)?;
            if document.len() as u64 > MAX_JSON_BYTES {
                return Err(format_error(
                    path,
                    &format!("`{name}` is larger than {} MiB", MAX_JSON_BYTES >> 20),
                ));
            }
            self.documents.insert(name.to_owned(), document);
        } else if extension == Some("tar") {
            let mut writer = LayerWriter::start(store)?;
            io::copy(&mut content, &mut writer).map_err(read)?;
            self.layers.insert(name.to_owned(), writer.finish()?);
        }
        Ok(())
    }

    /// The images, each with the names that the archive gives it.
    fn images(
        &self,
        path: &Path,
        store: &ImageStore,
    ) -> Result<Vec<(Resolved, Vec<String>)>, LoadError> {
        if let Some(document) = self.documents.get("index.json") {
            let index: Index = parse(path, "index.json", document)?;
            return index
                .manifests
                .iter()
                .map(|descriptor| layout_image(path, descriptor, store))
                .collect();
        }
        let Some(document) = self.documents.get("manifest.json") else {
            return Err(format_error(
                path,
                "it has neither `index.json` (OCI) nor `manifest.json` (docker save)",
            ));
        };
        let saved: Vec<Saved> = parse(path, "manifest.json", document)?;
        saved
            .iter()
            .map(|saved| self.saved_image(path, saved, store))
            .collect()
    }

    fn saved_image(
        &self,
        path: &Path,
        saved: &Saved,
        store: &ImageStore,
    ) -> Result<(Resolved, Vec<String>), LoadError> {
        let config = self.documents.get(&saved.config).ok_or_else(|| {
            format_error(
                path,
                &format!("`{}` is missing, its configuration", saved.config),
            )
        })?;
        let config = store.put_blob(config)?;
        let mut layers = Vec::new();
        for name in &saved.layers {
            let layer = self
                .layer(name)
                .ok_or_else(|| format_error(path, &format!("`{name}` is missing, a layer")))?;
            layers.push(layer.clone());
        }
        let manifest = put_manifest(store, &config, &layers)?;
        let names = saved
            .repo_tags
            .iter()
            .flatten()
            .filter_map(|name| tag_name(name))
            .collect();
        Ok((manifest, names))
    }

    /// A layer by its path; one that two images share is a link the second time.
    fn layer(&self, name: &str) -> Option<&Layer> {
        self.layers.get(name).or_else(|| {
            let target = self.links.get(name)?;
            let folder = Path::new(name).parent()?.parent().unwrap_or(Path::new(""));
            let resolved = target.strip_prefix("../").map_or(target.clone(), |rest| {
                folder.join(rest).display().to_string()
            });
            self.layers.get(&resolved)
        })
    }
}

/// An image of an OCI layout, and its names.
fn layout_image(
    path: &Path,
    descriptor: &Descriptor,
    store: &ImageStore,
) -> Result<(Resolved, Vec<String>), LoadError> {
    check_whole(path, descriptor, store, MAX_DEPTH)?;
    let names = NAME_ANNOTATIONS
        .iter()
        .find_map(|key| descriptor.annotations.get(*key))
        .filter(|name| name.contains(['/', ':']));
    let names = names
        .into_iter()
        .filter_map(|name| tag_name(name))
        .collect();
    Ok((
        Resolved {
            digest: descriptor.digest.clone(),
            media_type: descriptor.media_type.clone(),
        },
        names,
    ))
}

/// Everything that a manifest names is in the store; of an index, at least one image is.
fn check_whole(
    path: &Path,
    descriptor: &Descriptor,
    store: &ImageStore,
    depth: u32,
) -> Result<(), LoadError> {
    let missing = |digest: &str| format_error(path, &format!("blob {digest} is missing"));
    let file = store
        .blob_path(&descriptor.digest)
        .filter(|file| file.is_file())
        .ok_or_else(|| missing(&descriptor.digest))?;
    if std::fs::metadata(&file).is_ok_and(|metadata| metadata.len() > MAX_JSON_BYTES) {
        return Err(format_error(
            path,
            &format!(
                "manifest {} is larger than {} MiB",
                descriptor.digest,
                MAX_JSON_BYTES >> 20
            ),
        ));
    }
    let document = std::fs::read(&file).map_err(|source| LoadError::Read {
        path: file.clone(),
        source,
    })?;
    if INDEX_TYPES.contains(&descriptor.media_type.as_str()) {
        let index: Index = parse(path, &descriptor.digest, &document)?;
        let is_whole =
            |child: &Descriptor| depth > 0 && check_whole(path, child, store, depth - 1).is_ok();
        return if index.manifests.iter().any(is_whole) {
            Ok(())
        } else {
            Err(missing("of every image that its index names"))
        };
    }
    let manifest: Manifest = parse(path, &descriptor.digest, &document)?;
    let absent = std::iter::once(&manifest.config)
        .chain(&manifest.layers)
        .find(|blob| store.blob_size(&blob.digest).is_none());
    absent.map_or(Ok(()), |blob| Err(missing(&blob.digest)))
}

/// A name as the store keeps it; a digest is no tag.
fn tag_name(text: &str) -> Option<String> {
    Reference::parse(text)
        .filter(|reference| matches!(reference.version, Version::Tag(_)))
        .map(|reference| reference.to_string())
}

/// The archive without its compression, which its first bytes tell.
fn unpacked(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    let count = file.read(&mut magic)?;
    file.seek(SeekFrom::Start(0))?;
    let file = BufReader::with_capacity(1 << 20, file);
    Ok(match &magic[..count] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(file)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::with_buffer(file)?),
        _ => Box::new(file),
    })
}

fn parse<T: serde::de::DeserializeOwned>(
    path: &Path,
    name: &str,
    document: &[u8],
) -> Result<T, LoadError> {
    serde_json::from_slice(document)
        .map_err(|error| format_error(path, &format!("`{name}`: {error}")))
}

fn format_error(path: &Path, what: &str) -> LoadError {
    LoadError::Format {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::definition::hexadecimal;
    use sha2::{Digest as _, Sha256};

    fn store() -> (tempfile::TempDir, ImageStore) {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path().join("store")).unwrap();
        (directory, store)
    }

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, name, *content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn digest(content: &[u8]) -> String {
        hexadecimal(&Sha256::digest(content))
    }

    /// An OCI layout: path and content of its files.
    fn layout() -> Vec<(String, Vec<u8>)> {
        let (config, layer) = (b"{}".to_vec(), archive(&[("x", b"y")]));
        let descriptor = |content: &[u8]| serde_json::json!({ "digest": format!("sha256:{}", digest(content)), "size": content.len() });
        let manifest = serde_json::json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(&config), "layers": [descriptor(&layer)] });
        let manifest = manifest.to_string().into_bytes();
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": format!("sha256:{}", digest(&manifest)),
            "annotations": { "org.opencontainers.image.ref.name": "quay.io/a/b:v1" } }] });
        let blob = |content: Vec<u8>| (format!("blobs/sha256/{}", digest(&content)), content);
        vec![
            ("index.json".into(), index.to_string().into_bytes()),
            blob(manifest),
            blob(config),
            blob(layer),
        ]
    }

    fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
        archive(
            &files
                .iter()
                .map(|(name, content)| (name.as_str(), content.as_slice()))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_layout_is_loaded_from_a_directory_and_from_an_archive() {
        let (directory, store) = store();
        for (name, content) in layout() {
            let path = directory.path().join("layout").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        assert_eq!(
            load(&directory.path().join("layout"), None, &store).unwrap(),
            ["quay.io/a/b:v1"]
        );
        let packed = directory.path().join("layout.tar.zst");
        std::fs::write(
            &packed,
            zstd::encode_all(tar_of(&layout()).as_slice(), 1).unwrap(),
        )
        .unwrap();
        let name = Reference::parse("mine").unwrap();
        assert_eq!(
            load(&packed, Some(&name), &store).unwrap(),
            ["docker.io/library/mine:latest"]
        );
        assert_eq!(
            store.resolve("quay.io/a/b", "v1").unwrap(),
            store.resolve("docker.io/library/mine", "latest").unwrap()
        );
    }

    #[test]
    fn what_docker_saves_is_loaded_with_its_layers_packed() {
        let (directory, store) = store();
        let layer = archive(&[("x", b"y")]);
        let config = format!(
            r#"{{"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#,
            digest(&layer)
        );
        let manifest = br#"[{"Config":"c.json","RepoTags":["b:v2"],"Layers":["one/layer.tar"]}]"#;
        let path = directory.path().join("saved.tar");
        std::fs::write(
            &path,
            archive(&[
                ("one/layer.tar", &layer),
                ("c.json", config.as_bytes()),
                ("manifest.json", manifest),
            ]),
        )
        .unwrap();
        assert_eq!(
            load(&path, None, &store).unwrap(),
            ["docker.io/library/b:v2"]
        );
        let manifest = store.resolve("docker.io/library/b", "v2").unwrap().unwrap();
        let manifest = std::fs::read(store.blob_path(&manifest.digest).unwrap()).unwrap();
        let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
        let kept = File::open(store.blob_path(&manifest.layers[0].digest).unwrap()).unwrap();
        assert_eq!(zstd::decode_all(kept).unwrap(), layer);
        assert_eq!(
            store.blob_size(&manifest.config.digest),
            Some(config.len() as u64)
        );
    }

    #[test]
    fn what_is_wrong_is_said_and_nothing_is_tagged() {
        let mut corrupt = layout();
        corrupt[3].1.push(0);
        let mut torn = layout();
        torn.pop();
        let mut nameless = layout();
        nameless[0].1 = String::from_utf8(nameless[0].1.clone())
            .unwrap()
            .replace("quay.io/a/b:v1", "v1")
            .into_bytes();
        let table = [
            (tar_of(&corrupt), "has digest"),
            (tar_of(&torn), "is missing"),
            (tar_of(&nameless), "says no name"),
            (archive(&[("x", b"y")]), "neither"),
            (vec![b'x'; 2048], "not a tar archive"),
        ];
        for (content, reason) in table {
            let (directory, store) = store();
            let path = directory.path().join("image.tar");
            std::fs::write(&path, content).unwrap();
            let error = load(&path, None, &store).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            assert!(store.tags().unwrap().is_empty());
        }
    }
}

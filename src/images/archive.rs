//! Loads images from files: an OCI layout (a folder or a tar archive), or what `docker save` and those that write its format give
//! (crane, ko, jib, kaniko, Nix, BuildKit), plain or packed as a whole.
//!
//! ```text
//! scan: names, sizes, JSON ──► plan: which image, which files ──► read: only those, checked ──► place all, tags last
//! ```
//! Invariants: the documents say what is what, never a file's name; every file is held against its descriptor's size and digest, and
//! every layer against the configuration's `diff_ids`; nothing is in the store before all of it was right, so that a failure leaves
//! nothing. Layers of a `docker save` are packed as a node wants them.

mod plan;
mod source;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::build::{Layer, LayerWriter, put_manifest};
use super::store::Sealed;
use super::{ImageError, ImageStore, Resolved, StoreError};
use crate::model::definition::hexadecimal;
use crate::model::image_reference::{Reference, Version};
use crate::model::packed;
use plan::{Image, Parts};

/// Largest index, manifest or configuration.
const MAX_JSON_BYTES: u64 = 8 << 20;
/// What one layer may unpack to.
const MAX_LAYER_BYTES: u64 = 16 << 30;
/// What our machines are, in images' words.
const NODE_ARCHITECTURE: &str = "amd64";

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
    #[error("{} is no image archive that can be loaded: {what}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is missing or wrong.
        what: String,
    },
    /// Its image says no name.
    #[error("{} says no name for its image: give one with `--tag registry/repository:tag`", .0.display())]
    NoName(PathBuf),
    /// A digest is no name that an image can be given.
    #[error(
        "`{0}` names an image by its digest, which follows from its content: give a tag, `--tag registry/repository:tag`"
    )]
    DigestTag(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer could not be packed.
    #[error(transparent)]
    Image(#[from] ImageError),
}

impl LoadError {
    /// Whether the input is wrong, rather than that something of ours failed.
    pub fn is_invalid(&self) -> bool {
        !matches!(self, Self::Store(_) | Self::Image(_))
    }
}

/// What was loaded.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The names that its images now have.
    pub names: Vec<String>,
    /// What of them is not applied.
    pub notes: Vec<String>,
}

/// What is wrong with an archive, without its name.
#[derive(Debug)]
struct Problem(String);

impl From<String> for Problem {
    fn from(what: String) -> Self {
        Self(what)
    }
}

impl From<&str> for Problem {
    fn from(what: &str) -> Self {
        Self(what.to_owned())
    }
}

/// Loads every image of `path` that is for our machines. With `tag`, the only image gets this name.
pub fn load(path: &Path, tag: Option<&Reference>, store: &ImageStore) -> Result<Loaded, LoadError> {
    if let Some(tag) = tag
        && matches!(tag.version, Version::Digest(_))
    {
        return Err(LoadError::DigestTag(tag.to_string()));
    }
    let contents = source::scan(path)?;
    let images = plan::images(&contents).map_err(|Problem(what)| format_error(path, &what))?;
    let names = names(path, &images, tag)?;
    let mut files = Files::read(path, &contents, &images, store)?;
    files.place()?;
    let mut loaded = Loaded::default();
    for (image, names) in images.iter().zip(names) {
        let manifest = match &image.parts {
            Parts::Layout { top, .. } => top.clone(),
            Parts::Saved { config, layers } => files.manifest(config, layers, store)?,
        };
        for name in names {
            store.tag(&name, &manifest)?;
            let note = |note: &String| format!("{name}: {note}");
            loaded.notes.extend(image.notes.iter().map(note));
            loaded.names.push(name);
        }
    }
    Ok(loaded)
}

/// The names of each image.
fn names(
    path: &Path,
    images: &[Image],
    tag: Option<&Reference>,
) -> Result<Vec<Vec<String>>, LoadError> {
    if let Some(tag) = tag {
        if images.len() != 1 {
            let what = format!("it holds {} images: `--tag` names one", images.len());
            return Err(format_error(path, &what));
        }
        return Ok(vec![vec![tag.to_string()]]);
    }
    if images.iter().all(|image| image.names.is_empty()) {
        return Err(LoadError::NoName(path.to_owned()));
    }
    Ok(images.iter().map(|image| image.names.clone()).collect())
}

/// What was read and was right, but is not in the store yet.
#[derive(Default)]
struct Files {
    sealed: Vec<Sealed>,
    /// Layers of a `docker save` by file.
    layers: BTreeMap<String, Layer>,
}

impl Files {
    /// Reads the files that the images are made of.
    fn read(
        path: &Path,
        contents: &source::Contents,
        images: &[Image],
        store: &ImageStore,
    ) -> Result<Self, LoadError> {
        let mut blobs: BTreeMap<&str, &plan::Blob> = BTreeMap::new();
        let mut layers: BTreeMap<&str, &str> = BTreeMap::new();
        for image in images {
            match &image.parts {
                Parts::Layout { blobs: more, .. } => {
                    blobs.extend(more.iter().map(|(file, blob)| (file.as_str(), blob)));
                }
                Parts::Saved { layers: more, .. } => {
                    for (file, diff_id) in more {
                        let before = layers.insert(file, diff_id);
                        if before.is_some_and(|before| before != diff_id) {
                            let what = format!("`{file}` is named as two layers that differ");
                            return Err(format_error(path, &what));
                        }
                    }
                }
            }
        }
        let mut files = Self::default();
        source::read(path, contents, |name, size, content| {
            if let Some(blob) = blobs.get(name) {
                files
                    .sealed
                    .push(read_blob(path, blob, size, content, store)?);
            } else if let Some(diff_id) = layers.get(name) {
                let (sealed, layer) = read_layer(path, name, diff_id, content, store)?;
                files.sealed.push(sealed);
                files.layers.insert(name.to_owned(), layer);
            }
            Ok(())
        })?;
        Ok(files)
    }

    /// Puts everything into the store.
    fn place(&mut self) -> Result<(), LoadError> {
        for sealed in self.sealed.drain(..) {
            sealed.place()?;
        }
        Ok(())
    }

    /// Stores configuration and manifest of an image of these layers.
    fn manifest(
        &self,
        config: &[u8],
        layers: &[(String, String)],
        store: &ImageStore,
    ) -> Result<Resolved, LoadError> {
        let config = store.put_blob(config)?;
        let layers: Vec<Layer> = layers
            .iter()
            .filter_map(|(file, _)| self.layers.get(file).cloned())
            .collect();
        Ok(put_manifest(store, &config, &layers)?)
    }
}

/// A blob as it is; a layer's content is checked too.
fn read_blob(
    path: &Path,
    blob: &plan::Blob,
    size: u64,
    content: &mut dyn Read,
    store: &ImageStore,
) -> Result<Sealed, LoadError> {
    let digest = &blob.digest;
    if let Some(told) = blob.size.filter(|told| *told != size) {
        let what = format!("blob {digest} has {size} bytes, not {told} as its descriptor says");
        return Err(format_error(path, &what));
    }
    let mut writer = store.writer()?;
    copy(path, content, &mut writer, u64::MAX)?;
    let sealed = writer.seal()?;
    if sealed.stored().digest != *digest {
        let what = format!("blob {digest} has digest {}", sealed.stored().digest);
        return Err(format_error(path, &what));
    }
    if let Some(diff_id) = &blob.diff_id {
        let packed = File::open(sealed.path()).map_err(|error| source::unreadable(path, error))?;
        let mut hash = Hash(Sha256::new());
        let mut plain = packed::unpacked(packed).map_err(|error| source::damaged(path, error))?;
        copy(path, &mut plain, &mut hash, MAX_LAYER_BYTES)?;
        check_layer(path, digest, diff_id, &hash.text())?;
    }
    Ok(sealed)
}

/// A layer, packed anew.
fn read_layer(
    path: &Path,
    name: &str,
    diff_id: &str,
    content: &mut dyn Read,
    store: &ImageStore,
) -> Result<(Sealed, Layer), LoadError> {
    let mut writer = LayerWriter::start(store)?;
    let mut plain = packed::unpacked(content).map_err(|error| source::damaged(path, error))?;
    copy(path, &mut plain, &mut writer, MAX_LAYER_BYTES)?;
    let (sealed, layer) = writer.seal()?;
    check_layer(path, name, diff_id, &layer.diff_id)?;
    Ok((sealed, layer))
}

fn check_layer(path: &Path, name: &str, diff_id: &str, found: &str) -> Result<(), LoadError> {
    if diff_id == found {
        return Ok(());
    }
    let what = format!(
        "layer `{name}` is {found}, and its configuration (`rootfs.diff_ids`) says {diff_id}"
    );
    Err(format_error(path, &what))
}

/// Copies up to `limit` bytes, and fails beyond.
fn copy(
    path: &Path,
    from: &mut dyn Read,
    to: &mut impl Write,
    limit: u64,
) -> Result<(), LoadError> {
    let mut block = vec![0; 128 * 1024];
    let mut copied = 0_u64;
    loop {
        let count = match from.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(source::damaged(path, error)),
        };
        copied += count as u64;
        if copied > limit {
            let what = format!("a layer unpacks to more than {} GiB", limit >> 30);
            return Err(format_error(path, &what));
        }
        to.write_all(&block[..count])
            .map_err(|error| source::unreadable(path, error))?;
    }
}

struct Hash(Sha256);

impl Hash {
    fn text(self) -> String {
        format!("sha256:{}", hexadecimal(&self.0.finalize()))
    }
}

impl Write for Hash {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A name as the store keeps it; a digest is no tag.
fn tag_name(text: &str) -> Option<String> {
    Reference::parse(text)
        .filter(|reference| matches!(reference.version, Version::Tag(_)))
        .map(|reference| reference.to_string())
}

fn format_error(path: &Path, what: &str) -> LoadError {
    LoadError::Format {
        path: path.to_owned(),
        what: what.to_owned(),
    }
}

#[cfg(test)]
mod tests;

//! Builds an image: packages by `mmdebstrap` into one layer, the application's files into another, configuration and manifest.
//!
//! The same packages and files give the same bytes: entries are in order, times are zero. Layers are zstd: under emulation a node
//! unpacks it several times faster than gzip.

use std::io::{Read, Write};
use std::path::Path;

use oci_spec::image as oci;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::store::Sealed;
use super::{ImageDefinition, ImageError, ImageStore, Resolved, Stored};
use crate::model::definition::hexadecimal;
use crate::shell::debian::{self, Bootstrap, DirectoryLock, Progress};

/// Compression level: higher ones save little and want a larger window in the node's memory.
const ZSTD_LEVEL: i32 = 9;
/// Folders whose content is the container runtime's business.
const EMPTY_FOLDERS: [&str; 5] = ["dev", "proc", "sys", "run", "tmp"];

/// An image that the store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Its manifest.
    pub manifest: Resolved,
    /// Bytes of its layers as a node pulls them.
    pub layers_bytes: u64,
    /// Whether nothing had to be done.
    pub was_cached: bool,
}

/// A layer that was built before, as `scratch/layers/<hash>.json` remembers it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Layer {
    pub(super) blob: Stored,
    pub(super) diff_id: String,
}

/// Builds the image unless the store holds it, and tags it. `scratch` is for unfinished work and remembers layers.
/// Needs Debian's mirror and `mmdebstrap`. A cancelled build leaves nothing that is taken for an image.
pub async fn build(
    definition: &ImageDefinition,
    store: &ImageStore,
    scratch: &Path,
    progress: Progress<'_>,
) -> Result<Built, ImageError> {
    let _lock = DirectoryLock::take(scratch, progress).await?;
    let hash = definition.hash();
    if let Some(manifest) = store.built(&hash)?
        && let Some(layers_bytes) = whole(store, &manifest)
    {
        tag(definition, store, &manifest)?;
        return Ok(Built {
            manifest,
            layers_bytes,
            was_cached: true,
        });
    }
    progress(&format!("building image {}", definition.tags[0]));
    let distribution = distribution_layer(definition, store, scratch, progress).await?;
    let application = application_layer(definition, store)?;
    let manifest = manifest(definition, store, &[distribution, application])?;
    store.note_built(&hash, &manifest)?;
    tag(definition, store, &manifest)?;
    let layers_bytes = whole(store, &manifest).unwrap_or_default();
    Ok(Built {
        manifest,
        layers_bytes,
        was_cached: false,
    })
}

fn tag(
    definition: &ImageDefinition,
    store: &ImageStore,
    manifest: &Resolved,
) -> Result<(), ImageError> {
    for name in &definition.tags {
        store.tag(name, manifest)?;
    }
    Ok(())
}

/// The bytes of an image's layers, if the store holds all of it.
fn whole(store: &ImageStore, manifest: &Resolved) -> Option<u64> {
    let read = oci::ImageManifest::from_file(store.blob_path(&manifest.digest)?).ok()?;
    store.blob_size(read.config().digest().as_ref())?;
    let mut bytes = 0;
    for layer in read.layers() {
        bytes += store.blob_size(layer.digest().as_ref())?;
    }
    Some(bytes)
}

async fn distribution_layer(
    definition: &ImageDefinition,
    store: &ImageStore,
    scratch: &Path,
    progress: Progress<'_>,
) -> Result<Layer, ImageError> {
    let note = scratch
        .join("layers")
        .join(format!("{}.json", definition.distribution_hash()));
    let remembered = std::fs::read(&note)
        .ok()
        .and_then(|text| serde_json::from_slice::<Layer>(&text).ok());
    if let Some(layer) = remembered.filter(|layer| store.blob_size(&layer.blob.digest).is_some()) {
        return Ok(layer);
    }
    let failed = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| ImageError::File {
            action,
            path,
            source,
        }
    };
    let directory = tempfile::Builder::new()
        .prefix(debian::UNFINISHED)
        .tempdir_in(scratch)
        .map_err(failed("make directory in", scratch))?;
    let remove = definition
        .remove
        .iter()
        .fold(String::new(), |text, pattern| text + pattern + "\n");
    let remove_path = directory.path().join("remove");
    std::fs::write(&remove_path, remove).map_err(failed("write", &remove_path))?;
    let target = directory.path().join("root.tar");
    let bootstrap = Bootstrap {
        suite: &definition.suite,
        packages: definition.packages.clone(),
        hooks: vec![
            "upload remove /.remove".to_owned(),
            "cd \"$1\" && while read -r pattern; do rm -rf $pattern; done <.remove && rm .remove"
                .to_owned(),
        ],
        format: "tar",
        target: &target,
        directory: directory.path(),
    };
    bootstrap.run(progress).await?;

    progress("compressing the packages' layer");
    let store = store.clone();
    let layer = tokio::task::spawn_blocking(move || {
        let input = std::fs::File::open(&target).map_err(failed("open", &target))?;
        let mut writer = LayerWriter::start(&store)?;
        repack(std::io::BufReader::new(input), &mut writer).map_err(failed("repack", &target))?;
        writer.finish()
    })
    .await
    .expect("repacking does not panic")?;
    let folder = scratch.join("layers");
    std::fs::create_dir_all(&folder).map_err(failed("make directory", &folder))?;
    std::fs::write(
        &note,
        serde_json::to_vec(&layer).expect("strings serialise"),
    )
    .map_err(failed("write", &note))?;
    Ok(layer)
}

/// Copies the entries of a root's archive: without devices and runtime folders' content, with times zero.
fn repack(input: impl Read, output: impl Write) -> std::io::Result<()> {
    let mut from = tar::Archive::new(input);
    let mut to = tar::Builder::new(output);
    for entry in from.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let path = path.strip_prefix(".").unwrap_or(&path).to_owned();
        let mut parts = path.components();
        let first = parts.next().map(|part| part.as_os_str().to_owned());
        let Some(first) = first else { continue };
        if parts.next().is_some() && EMPTY_FOLDERS.iter().any(|folder| first == *folder) {
            continue;
        }
        let kind = entry.header().entry_type();
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(entry.header().mode()?);
        header.set_uid(entry.header().uid()?);
        header.set_gid(entry.header().gid()?);
        header.set_mtime(0);
        // Links have no content; a blank field instead of a zero is refused by readers.
        header.set_size(0);
        match kind {
            tar::EntryType::Regular | tar::EntryType::Directory => {
                header.set_size(entry.size());
                to.append_data(&mut header, &path, &mut entry)?;
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                to.append_link(&mut header, &path, &target)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                to.append_link(
                    &mut header,
                    &path,
                    target.strip_prefix(".").unwrap_or(&target),
                )?;
            }
            _ => {}
        }
    }
    to.into_inner()?.flush()
}

fn application_layer(
    definition: &ImageDefinition,
    store: &ImageStore,
) -> Result<Layer, ImageError> {
    let failed = |source| ImageError::File {
        action: "write a layer into",
        path: store.directory().to_owned(),
        source,
    };
    let mut writer = LayerWriter::start(store)?;
    let mut archive = tar::Builder::new(&mut writer);
    let mut files: Vec<_> = definition.files.iter().collect();
    files.sort_by(|one, other| one.path.cmp(&other.path));
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(file.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(file.content.len() as u64);
        archive
            .append_data(
                &mut header,
                file.path.trim_start_matches('/'),
                file.content.as_bytes(),
            )
            .map_err(failed)?;
    }
    archive.finish().map_err(failed)?;
    drop(archive);
    writer.finish()
}

fn manifest(
    definition: &ImageDefinition,
    store: &ImageStore,
    layers: &[Layer],
) -> Result<Resolved, ImageError> {
    let mut config = oci::ConfigBuilder::default();
    let mut env =
        vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    env.extend(
        definition
            .env
            .iter()
            .map(|(key, value)| format!("{key}={value}")),
    );
    config = config
        .env(env)
        .entrypoint(definition.entrypoint.clone())
        .exposed_ports(definition.expose.clone());
    if !definition.cmd.is_empty() {
        config = config.cmd(definition.cmd.clone());
    }
    if let Some(user) = &definition.user {
        config = config.user(user.clone());
    }
    if let Some(working_dir) = &definition.working_dir {
        config = config.working_dir(working_dir.clone());
    }
    if let Some(stop_signal) = &definition.stop_signal {
        config = config.stop_signal(stop_signal.clone());
    }
    let rootfs = oci::RootFsBuilder::default()
        .typ("layers")
        .diff_ids(
            layers
                .iter()
                .map(|layer| layer.diff_id.clone())
                .collect::<Vec<_>>(),
        )
        .build()
        .expect("every required field is set");
    let configuration = oci::ImageConfigurationBuilder::default()
        .created("1970-01-01T00:00:00Z")
        .architecture(oci::Arch::Amd64)
        .os(oci::Os::Linux)
        .config(config.build().expect("every required field is set"))
        .rootfs(rootfs)
        .build()
        .expect("every required field is set");
    let configuration =
        store.put_blob(&serde_json::to_vec(&configuration).expect("OCI types serialise"))?;
    put_manifest(store, &configuration, layers)
}

/// Stores the manifest of an image whose configuration and layers are stored.
pub(super) fn put_manifest(
    store: &ImageStore,
    configuration: &Stored,
    layers: &[Layer],
) -> Result<Resolved, ImageError> {
    let descriptor = |media_type, blob: &Stored| {
        let digest: oci::Digest = blob
            .digest
            .parse()
            .expect("the store's digests are digests");
        oci::Descriptor::new(media_type, blob.size, digest)
    };
    let manifest = oci::ImageManifestBuilder::default()
        .schema_version(oci::SCHEMA_VERSION)
        .media_type(oci::MediaType::ImageManifest)
        .config(descriptor(oci::MediaType::ImageConfig, configuration))
        .layers(
            layers
                .iter()
                .map(|layer| descriptor(oci::MediaType::ImageLayerZstd, &layer.blob))
                .collect::<Vec<_>>(),
        )
        .build()
        .expect("every required field is set");
    let stored = store.put_blob(&serde_json::to_vec(&manifest).expect("OCI types serialise"))?;
    Ok(Resolved {
        digest: stored.digest,
        media_type: oci::MediaType::ImageManifest.to_string(),
    })
}

/// Compresses an archive into the store while hashing what it was before.
pub(super) struct LayerWriter {
    encoder: zstd::Encoder<'static, super::BlobWriter>,
    hash: Sha256,
    directory: std::path::PathBuf,
}

impl LayerWriter {
    pub(super) fn start(store: &ImageStore) -> Result<Self, ImageError> {
        let directory = store.directory().to_owned();
        let failed = |source| ImageError::File {
            action: "compress into",
            path: directory.clone(),
            source,
        };
        let encoder = zstd::Encoder::new(store.writer()?, ZSTD_LEVEL).map_err(failed)?;
        Ok(Self {
            encoder,
            hash: Sha256::new(),
            directory,
        })
    }

    pub(super) fn finish(self) -> Result<Layer, ImageError> {
        let (sealed, layer) = self.seal()?;
        sealed.place()?;
        Ok(layer)
    }

    /// The layer is whole, but not in the store yet.
    pub(super) fn seal(self) -> Result<(Sealed, Layer), ImageError> {
        let directory = self.directory;
        let writer = self.encoder.finish().map_err(|source| ImageError::File {
            action: "compress into",
            path: directory,
            source,
        })?;
        let sealed = writer.seal()?;
        let layer = Layer {
            blob: sealed.stored().clone(),
            diff_id: format!("sha256:{}", hexadecimal(&self.hash.finalize())),
        };
        Ok((sealed, layer))
    }
}

impl Write for LayerWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.encoder.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.encoder.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(archive: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, content: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_uid(33);
        header.set_gid(33);
        header.set_mtime(77);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, path, content.as_bytes())
            .unwrap();
    }

    #[test]
    fn a_layer_holds_no_devices_and_no_times() {
        let mut archive = tar::Builder::new(Vec::new());
        entry(&mut archive, "./dev/", tar::EntryType::Directory, "");
        entry(&mut archive, "./dev/null", tar::EntryType::Char, "");
        entry(&mut archive, "./proc/x", tar::EntryType::Regular, "x");
        entry(&mut archive, "./var/www/x", tar::EntryType::Regular, "text");
        let mut repacked = Vec::new();
        repack(archive.into_inner().unwrap().as_slice(), &mut repacked).unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(repacked.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            seen.push((
                entry.path().unwrap().display().to_string(),
                header.uid().unwrap(),
                header.mtime().unwrap(),
            ));
        }
        assert_eq!(
            seen,
            [("dev/".to_owned(), 33, 0), ("var/www/x".to_owned(), 33, 0)]
        );
    }

    #[test]
    fn the_manifest_names_what_the_store_holds() {
        let directory = tempfile::tempdir().unwrap();
        let store = ImageStore::open(directory.path()).unwrap();
        let definition = &super::super::builtin()[0];
        let layer = application_layer(definition, &store).unwrap();
        let manifest = manifest(definition, &store, std::slice::from_ref(&layer)).unwrap();
        assert_eq!(whole(&store, &manifest), Some(layer.blob.size));
        let plain = zstd::decode_all(
            std::fs::File::open(store.blob_path(&layer.blob.digest).unwrap()).unwrap(),
        )
        .unwrap();
        assert_eq!(
            layer.diff_id,
            format!("sha256:{}", hexadecimal(&Sha256::digest(&plain)))
        );
    }

    /// Builds the real images into `$FLIGHTCAGE_TEST_DIR` (kept) or a temporary directory, twice: the second time nothing is done.
    #[tokio::test]
    #[ignore = "takes minutes, needs mmdebstrap and a Debian mirror"]
    async fn builds_the_real_images() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = std::env::var("FLIGHTCAGE_TEST_DIR")
            .map_or(temporary.path().to_owned(), std::path::PathBuf::from);
        let store = ImageStore::open(directory.join("images")).unwrap();
        let scratch = directory.join("scratch");
        for definition in super::super::builtin() {
            let built = build(&definition, &store, &scratch, &|_| {}).await.unwrap();
            assert!(
                built.layers_bytes < 60 << 20,
                "{} is {} bytes",
                definition.name,
                built.layers_bytes
            );
            let again = build(&definition, &store, &scratch, &|_| {}).await.unwrap();
            assert_eq!(
                again,
                Built {
                    was_cached: true,
                    ..built
                }
            );
        }
    }
}

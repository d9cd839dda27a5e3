//! Boxes: machine images built from definitions, cached by content.
//!
//! A box is a kernel, a small initramfs and a read-only erofs root that all machines share. What is a machine's own lies on its
//! disk, an initially blank sparse file: the upper layer of an overlay over the root, and a plain directory, mounted at
//! `/var/lib/flightcage`, for containers (whose overlays cannot lie on an overlay). A blank disk is formatted, configured by
//! Ignition and stamped; a reboot never configures again.
//!
//! A machine is started like this (QEMU 7.2); the order of the two disks and the fw_cfg name are the contract with the provider:
//! ```text
//! qemu-system-x86_64 -M pc-q35-7.2 -accel tcg,thread=multi -m 512 -nodefaults -display none -serial file:console.log \
//!   -kernel kernel -initrd initramfs -append "console=ttyS0 $kernel_arguments" \
//!   -drive file=root,format=raw,if=none,id=root,readonly=on,file.locking=off -device virtio-blk-pci,drive=root \
//!   -drive file=disk,format=raw,if=none,id=disk,discard=unmap -device virtio-blk-pci,drive=disk \
//!   -fw_cfg name=opt/com.coreos/config,file=ignition.json \
//!   -netdev user,id=ssh,restrict=on,hostfwd=tcp:127.0.0.1:0-:22 -device virtio-net-pci,netdev=ssh,mac=$MAC,romfile= \
//!   -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng
//! ```
//! A boot that fails says `flightcage-init: FATAL: …` on the console and powers the machine off.

mod build;
mod definition;
mod download;
mod fetch;
pub mod fragment;
pub mod ignition;
mod image;
mod signature;
mod unpack;

use std::path::{Path, PathBuf};

pub use definition::{BoxDefinition, DebianRoot, FirstBootChannel, NetworkStyle, Origin};
pub use download::DownloadError;
pub use fetch::{FetchError, Fetched};
pub use image::{Compression, ImageOrigin, KeyOrigin, Location, SignatureOrigin};
pub use signature::SignatureError;
pub use unpack::UnpackError;

use crate::machines::provider::BoxFiles;
use crate::model::diagnostic::Refusal;
use crate::shell::debian::{BootstrapError, DirectoryLock, Progress};

/// The box's files if the cache holds it, which costs nothing.
#[must_use]
pub fn cached(definition: &BoxDefinition, cache: &Path) -> Option<BoxFiles> {
    match &definition.origin {
        Origin::Debian(root) => build::cached(definition, root, cache),
        Origin::Image(image) => fetch::cached(definition, image, cache),
    }
}

/// From where a published image came, if the cache holds it.
#[must_use]
pub fn fetched(definition: &BoxDefinition, cache: &Path) -> Option<Fetched> {
    fetch::record(definition, cache)
}

/// Lets the next [`build`] look for a newer image of a published box. Machines that run keep theirs.
pub fn expire(definition: &BoxDefinition, cache: &Path) {
    fetch::expire(definition, cache);
}

/// Builds or fetches the box unless the cache holds it.
pub async fn build(
    definition: &BoxDefinition,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<BoxFiles, BoxError> {
    if let Some(files) = cached(definition, cache) {
        return Ok(files);
    }
    let _lock = DirectoryLock::take(cache, progress).await?;
    if let Some(files) = cached(definition, cache) {
        return Ok(files);
    }
    match &definition.origin {
        Origin::Debian(root) => build::build(definition, root, cache, progress).await,
        Origin::Image(image) => {
            fetch::fetch(definition, image, cache, progress).await?;
            let files = fetch::cached(definition, image, cache);
            files.ok_or_else(|| BoxError::Unknown {
                name: definition.name.clone(),
                known: cache.display().to_string(),
            })
        }
    }
}

/// Why there is no box.
#[derive(Debug, thiserror::Error)]
pub enum BoxError {
    /// No such box.
    #[error(
        "box `{name}` is unknown; known: {known}, or the path of a definition that ends in `.toml`"
    )]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The definition is wrong.
    #[error("box `{name}` is not right:\n{}", problems.listing())]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong, and where.
        problems: Box<Refusal>,
    },
    /// The definition cannot be read.
    #[error("read box definition {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The cache cannot be written.
    #[error("{action} {}", path.display())]
    Write {
        /// What was done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It could not be fetched.
    #[error("fetch box")]
    Fetch(#[from] FetchError),
    /// The packages could not be made a root.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}

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
pub mod ignition;

use std::path::PathBuf;

pub use build::{build, cached};
pub use definition::{BoxDefinition, BoxFile, Problems};

use crate::shell::debian::BootstrapError;

/// Why there is no box.
#[derive(Debug, thiserror::Error)]
pub enum BoxError {
    /// No such box.
    #[error("box `{name}` is unknown; known: {known}, or the path of a definition that ends in `.toml`")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The definition is wrong.
    #[error("box `{name}` is not right:\n{problems}")]
    Invalid {
        /// Its name.
        name: String,
        /// What is wrong, and where.
        problems: Problems,
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
    /// The packages could not be made a root.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}

//! OCI images: built from Debian packages, stored by digest, served by the registry mirror.
//!
//! A definition in `boxes/images/` becomes two layers: the distribution (packages) and the application (files). The first is shared
//! by images that ask for the same packages, so that a node pulls it once.

mod archive;
mod build;
mod definition;
pub mod mirror;
mod pull;
pub mod signature;
mod store;

use std::path::PathBuf;

pub use archive::{LoadError, Loaded, load};
pub use build::{Built, build};
pub use definition::{ImageDefinition, builtin};
pub use pull::{PullError, pull};
pub use store::{BlobWriter, ImageStore, Resolved, StoreError, Stored};

use crate::shell::debian::BootstrapError;

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The definition is wrong.
    #[error("image definition `{name}` is not right:\n{problems}")]
    Invalid {
        /// Its file's stem.
        name: String,
        /// What is wrong and where, one problem a line.
        problems: String,
    },
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// What was done to it.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The packages could not be made a root.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

//! OCI images: built from Debian packages, stored by digest, served by the registry mirror.

pub mod mirror;

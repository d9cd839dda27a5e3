//! Running commands and copying files: locally and over SSH.

pub mod debian;

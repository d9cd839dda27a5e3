//! Machines: providers, boxes and the fabric between them.

pub mod boxes;
pub mod fabric;
pub mod provider;
pub mod qemu;

//! Machines: providers, boxes and the fabric between them.

pub mod acceleration;
pub mod boxes;
pub mod fabric;
pub mod host;
pub mod hosts;
pub mod journal;
pub mod provider;
pub mod qemu;
pub mod vagrant;

//! Plain data without I/O: names, sizes, specifications and the addresses of a cluster.

pub mod addresses;
pub mod clock;
pub mod cluster;
pub mod definition;
pub mod diagnostic;
pub mod image_policy;
pub mod image_reference;
pub mod json;
pub mod link;
pub mod names;
pub mod packed;
pub mod reader;
pub mod signals;
#[cfg(test)]
pub(crate) mod spoiled;
pub mod text_file;
pub mod turns;
pub mod units;
pub mod vagrant;

//! Plain data without I/O: names, sizes, specifications and the addresses of a cluster.

pub mod addresses;
pub mod cluster;
pub mod names;
pub mod table;
pub mod units;

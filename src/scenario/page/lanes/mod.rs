//! One file a kind of lanes; [`super::lane`] holds their order.

pub mod endpoints;
pub mod faults;
pub mod honesty;
pub mod nodes;
pub mod phases;
pub mod pods;
pub mod requests;
pub mod trouble;
pub mod versions;

//! Flightcage boots a small cluster, deploys a stack, breaks things on purpose, and says whether the stack survived.
//!
//! (the map of the code: written when the parts have landed)

pub mod balancer;
pub mod cli;
pub mod cluster;
pub mod images;
pub mod kubernetes;
pub mod machines;
pub mod model;
pub mod orchestrator;
pub mod scenario;
pub mod shell;
pub mod transport;

//! The node agent.

pub mod containers;
pub mod runtime;

//! Composes machines and the orchestrator into a cluster: up, down, install, daemon.

pub mod file;

//! The API server: Kubernetes' own API over mTLS, on the [store](super::store).
//!
//! ```text
//! TLS ► identity ► route ► authorize ► [`registry::Registry`]: default, validate ► store
//! ```
//! Invariants: nobody is anonymous; every write passes the registry, whoever makes it (HTTP or a controller); bodies are never logged.

pub mod heartbeats;
pub mod kinds;
pub mod patch;
pub mod registry;
pub mod status;

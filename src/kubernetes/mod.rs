//! Speaking Kubernetes: client, manifests, rolling updates.
//!
//! Everything here works against any Kubernetes API server, ours or a foreign one: it never assumes how the server is made.

pub mod client;
pub mod client_config;
pub mod exec;
pub mod fields;
pub mod load_balancer;
pub mod manifest;
pub mod pod_images;
pub mod reflector;
pub mod resources;
pub mod rolling_update;
pub mod transfer;
pub mod version;

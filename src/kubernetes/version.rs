//! The Kubernetes release that is spoken: the one whose types `k8s-openapi` has (`v1_37` in Cargo.toml).

/// Major version.
pub const KUBERNETES_MAJOR: &str = "1";
/// Minor version.
pub const KUBERNETES_MINOR: &str = "37";
/// The whole version.
pub const KUBERNETES_VERSION: &str = "1.37.0";

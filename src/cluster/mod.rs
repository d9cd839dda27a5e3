//! Composes machines and the orchestrator into a cluster: up, down, install, daemon.
//!
//! ```text
//! absent ──up──► half-made ──ready──► up ──down──► absent
//!    ▲               │                 │ daemon died
//!    └───up, down────┘◄────────────────┘   (machines die with it; `up` boots them again from their disks)
//! ```
//! A half-made cluster (no `complete` file) is removed by the next `up` or `down`, whatever ended the one that made it.

pub mod client;
pub mod daemon;
pub mod file;
pub mod guest;
pub mod home;
pub mod install;
pub mod inventory;
pub mod life;
pub mod machine;
pub mod pki;
mod relay;
pub mod snapshot;
pub mod uninstall;

/// An error and its causes as one line, for a peer that can only take text.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

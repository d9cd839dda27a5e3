//! The API server: Kubernetes' own API over mTLS, on the [store](super::store).
//!
//! ```text
//! TLS ► certificate or token ► identity ► route ► authorize ► [`registry::Registry`]: default, validate ► store
//! ```
//! Invariants: nobody is anonymous; every write passes the registry, whoever makes it (HTTP or a controller); bodies are never logged.

mod activity;
mod apply;
pub mod authorize;
pub(super) mod balancers;
pub mod barrier;
pub mod bootstrap;
pub mod bounds;
mod caller;
pub mod custom;
pub mod defaults;
pub mod discovery;
mod health;
pub mod heartbeats;
pub mod honoured;
#[cfg(test)]
mod hostile;
pub mod http;
mod images;
pub mod kinds;
mod logs;
pub mod offline;
mod openapi;
pub mod panics;
pub mod patch;
mod pieces;
mod places;
mod pod_streams;
mod protobuf;
mod rbac;
pub mod registry;
pub mod reviews;
pub mod route;
pub mod selectors;
mod serve;
pub mod status;
pub mod strict;
pub mod tables;
pub mod tls;
pub mod tokens;
pub mod tunnels;
pub mod validation;
pub mod watch;
mod wrong_type;

use crate::orchestrator::limits;

pub use serve::{ServerError, run, serve};

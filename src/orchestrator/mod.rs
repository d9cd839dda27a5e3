//! The orchestrator: a Kubernetes API, controllers, node agent and service proxy.

pub mod agent;
pub mod api;
pub mod config;
pub mod control;
mod lateness;
pub mod proxy;
pub mod quality;
pub mod store;
pub mod tunnel;

/// A pod condition of our own, by which an agent tells the Endpoints controller of liveness probes: `False` from the first failure of
/// one to its next success. Endpoints avoid such a pod while another is there; `Ready` is not touched by liveness, as in Kubernetes.
const ANSWERS: &str = "flightcage.dev/Answers";

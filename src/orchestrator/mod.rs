//! The orchestrator: a Kubernetes API, controllers, node agent and service proxy.

pub mod agent;
pub mod api;
pub mod config;
pub mod control;
mod datagrams;
mod lateness;
pub mod limits;
mod measure;
mod private_file;
pub mod proxy;
pub mod quality;
mod schedule;
pub mod store;
pub mod tunnel;

/// Where what must not touch the disk is kept, and what a restart of the machine ends: systemd makes `/run` a tmpfs.
const RUN_DIRECTORY: &str = "/run/flightcage";

/// A pod condition of our own, by which an agent tells the Endpoints controller of liveness probes: `False` from the first failure of
/// one to its next success. Endpoints avoid such a pod while another is there; `Ready` is not touched by liveness, as in Kubernetes.
const ANSWERS: &str = "flightcage.dev/Answers";

//! The orchestrator: a Kubernetes API, controllers, node agent and service proxy.

pub mod agent;
pub mod api;
pub mod config;
pub mod control;
pub mod proxy;
pub mod store;
pub mod tunnel;

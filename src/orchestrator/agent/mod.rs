//! The node agent.

mod ask;
mod backoff;
pub mod containers;
mod decide;
mod environment;
mod events;
mod launch;
mod objects;
mod pod_files;
mod pods;
mod probe;
mod quantity;
pub mod runtime;
mod status;
mod volumes;
mod work;
mod worker;

//! The controllers: pure functions of a snapshot of the cluster, and the one task that runs them.
//!
//! ```text
//! registry, heartbeats ──► World ──► reconcile(&World) ──► Decision { actions, recheck } ──► registry
//!        ▲                                                                                     │
//!        └──────────────────── every write is a new revision, which wakes the task ◄───────────┘
//! ```
//! Invariants: a controller never reads anything but the [`World`]; its decision depends on nothing else, the hour included; it is
//! idempotent, so that the same snapshot never asks for more than was missing; there is one task, so that a snapshot always
//! holds everything that was decided before it.

mod cron_job;
mod daemon_set;
mod deployment;
mod detection;
mod detector;
mod disruption;
mod endpoints;
mod furnish;
mod garbage;
mod job;
mod nodes;
mod quantity;
mod replication;
mod revisions;
mod runner;
mod scheduler;
#[cfg(test)]
mod simulation;
mod stateful_set;
mod workload;
mod world;

pub use nodes::Brake;
pub use runner::Control;
pub use world::{Action, Decision, Key, Liveness, Objects, Target, World};

/// Every controller, in the order in which they decide.
const CONTROLLERS: &[fn(&World) -> Decision] = &[
    nodes::reconcile,
    garbage::reconcile,
    furnish::reconcile,
    deployment::reconcile,
    replication::reconcile,
    stateful_set::reconcile,
    daemon_set::reconcile,
    cron_job::reconcile,
    job::reconcile,
    disruption::reconcile,
    scheduler::reconcile,
    endpoints::reconcile,
];

/// Everything there is to do, by all controllers, in a fixed order.
pub fn reconcile(world: &World) -> Decision {
    let mut decision = Decision::default();
    for controller in CONTROLLERS {
        decision.merge(controller(world));
    }
    decision
}

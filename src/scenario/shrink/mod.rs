//! The smallest set of a failing scenario's faults, and their shortest durations, that still fail.
//!
//! ```text
//! text ─► edit (drawn faults become steps of their own) ─► faults ─► search ◄─► an oracle that runs candidates ─► edit ─► text
//! ```
//! [`search`] decides what is tried and knows nothing of scenarios; [`edit`] makes a file of a candidate, with the comments of the one
//! that it came from. Whoever runs them stands above.

pub mod edit;
pub mod search;

use std::time::Duration;

pub use edit::NotShrinkable;
pub use search::{Answer, Kept, Oracle, shrink};

use super::spec::{Action, Scenario};

/// A fault that may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultStep {
    /// Its step's id.
    pub id: String,
    /// For how long it acts; zero: once.
    pub lasts: Duration,
}

/// The faults of a scenario, in the order of its steps.
#[must_use]
pub fn faults(scenario: &Scenario) -> Vec<FaultStep> {
    let faults = scenario.steps.iter().filter_map(|step| match &step.action {
        Action::Fault { duration, .. } => Some(FaultStep {
            id: step.id.clone(),
            lasts: *duration,
        }),
        _ => None,
    });
    faults.collect()
}

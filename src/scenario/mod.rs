//! Scenario files: plan, load, faults, verdicts, reports.
//!
//! ```text
//! file ─► spec ─► plan          what would happen
//!           └───► run ─► deploy · load · step · fault · events ─► verdict ─► report, summary
//! ```
//! Invariants: the prober never waits for a worker and never retries; a fault is journalled before it acts and healed however the
//! run ends; the load's truth comes from its own records alone, and machines are reached only through [`fault::Faults`].

mod expectation;
pub mod fault;
pub mod file;
mod file_problem;
pub mod load;
pub mod spec;

pub use file_problem::ScenarioFileError;

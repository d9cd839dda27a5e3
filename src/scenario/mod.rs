//! Scenario files: plan, load, faults, verdicts, reports.
//!
//! ```text
//! file ─► spec ─► plan          what would happen
//!           └───► run ─► deploy · calibration · load · step · fault · events ─► verdict ─► report, summary
//!                  └─► live          what is shown meanwhile
//! ```
//! Invariants: the prober never waits for a worker and never retries; a fault is journalled before it acts and healed however the
//! run ends; the load's truth comes from its own records alone, and machines are reached only through [`fault::Faults`].

mod calibration;
pub mod capacity;
pub mod deploy;
pub mod diff;
pub mod events;
pub mod evidence;
pub mod expectations;
pub mod explain;
pub mod fault;
pub mod faults;
pub mod file;
mod file_problem;
pub mod guards;
mod hopeless;
mod host;
pub mod injection;
pub mod judge;
pub mod live;
pub mod load;
pub mod matrix;
mod nodes_meant;
pub mod page;
mod parallel;
mod path;
pub mod plan;
mod pod_target;
pub mod pods;
pub mod random;
pub mod repeats;
pub mod report;
pub mod requests;
pub mod run;
pub mod schema;
pub mod shrink;
pub mod spec;
mod step;
mod steps;
pub mod summary;
mod target;

pub use deploy::reset;
pub use fault::undo;
pub use file_problem::ScenarioFileError;
pub use host::SlowHost;
pub use judge::again::{AgainError, judge_again, read_report};
pub use plan::plan;
pub use report::{Outcome, Report, Verdict, exit_code};
pub use run::{Environment, RunError, Update, run};

//! The command line: the only place that prints.

/// Runs the command line and exits with its code.
pub fn main() {}

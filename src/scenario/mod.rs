//! Scenario files: plan, load, faults, verdicts, reports.

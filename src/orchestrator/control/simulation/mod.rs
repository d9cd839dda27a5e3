//! The controllers against a cluster in memory: tables for each, placement, random faults by property, and whole clusters in simulated time.

mod cluster;
mod disruption;
mod faults;
mod placement;
mod tables;
mod whole;
mod workloads;

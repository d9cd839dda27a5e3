//! What is kept of a watched entry, so that it can be judged again.

use serde::{Deserialize, Serialize};

/// What was seen of one entry of `never` or `always`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuardReport {
    /// The entry in words, by which it is found again.
    pub guard: String,
    /// From when on it counts: the baseline's beginning.
    #[serde(deserialize_with = "crate::scenario::report::whole_millis")]
    pub from_ms: u64,
    /// Until when it was watched.
    #[serde(deserialize_with = "crate::scenario::report::whole_millis")]
    pub to_ms: u64,
    /// Objects that it was about.
    #[serde(default)]
    pub seen: u64,
    /// How often it was violated.
    #[serde(default)]
    pub violated: u64,
    /// The first violations, in order.
    #[serde(default)]
    pub violations: Vec<ViolationReport>,
    /// When the watch may have missed something.
    #[serde(default)]
    pub gaps: Vec<GapReport>,
}

/// An object that was not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViolationReport {
    /// Since when.
    #[serde(deserialize_with = "crate::scenario::report::whole_millis")]
    pub at_ms: u64,
    /// Until when; absent: to the end of the watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Its name, or what is missing.
    pub object: String,
    /// What was seen of it.
    pub seen: String,
}

/// A time for which the watch does not speak.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapReport {
    /// Since when.
    #[serde(deserialize_with = "crate::scenario::report::whole_millis")]
    pub from_ms: u64,
    /// Until when.
    #[serde(deserialize_with = "crate::scenario::report::whole_millis")]
    pub to_ms: u64,
    /// Why.
    pub why: String,
}

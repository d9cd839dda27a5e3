//! Machines as a fault's target, by their role.

use std::fmt;

use crate::model::names::NodeName;

/// Which machines are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodesMeant {
    /// Any.
    Any,
    /// Those that run pods.
    Workers,
    /// The others.
    Controllers,
}

impl NodesMeant {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 3] = [
        ("any", Self::Any),
        ("workers", Self::Workers),
        ("controllers", Self::Controllers),
    ];

    /// Those of a cluster's machines that are meant.
    #[must_use]
    pub fn of(self, all: &[NodeName], workers: &[NodeName]) -> Vec<NodeName> {
        let is_meant = |node: &&NodeName| match self {
            Self::Any => true,
            Self::Workers => workers.contains(node),
            Self::Controllers => !workers.contains(node),
        };
        all.iter().filter(is_meant).cloned().collect()
    }
}

impl fmt::Display for NodesMeant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "machines",
            Self::Workers => "workers",
            Self::Controllers => "controllers",
        })
    }
}

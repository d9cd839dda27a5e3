//! What an update tells while it goes on.

use std::fmt;

/// What has just happened; it prints as kubectl printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The new controller was created.
    Created(String),
    /// The new controller existed; an interrupted update goes on.
    Continuing(String),
    /// What is going to happen.
    Plan {
        /// The new controller.
        new: String,
        /// Its replicas now.
        from: i32,
        /// Its replicas in the end.
        to: i32,
        /// The old controller.
        old: String,
        /// Its replicas now.
        old_from: i32,
    },
    /// A controller is scaled up.
    ScalingUp(String, i32),
    /// A controller is scaled down.
    ScalingDown(String, i32),
    /// The old controller is deleted.
    Deleting(String),
    /// The new controller gets the old one's name.
    Renaming(String, String),
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(name) => write!(formatter, "Created {name}"),
            Self::Continuing(name) => write!(
                formatter,
                "Continuing update with existing controller {name}."
            ),
            Self::Plan {
                new,
                from,
                to,
                old,
                old_from,
            } => {
                write!(
                    formatter,
                    "Scaling up {new} from {from} to {to}, scaling down {old} from {old_from} to 0"
                )
            }
            Self::ScalingUp(name, replicas) => write!(formatter, "Scaling {name} up to {replicas}"),
            Self::ScalingDown(name, replicas) => {
                write!(formatter, "Scaling {name} down to {replicas}")
            }
            Self::Deleting(name) => write!(formatter, "Update succeeded. Deleting {name}"),
            Self::Renaming(from, to) => write!(formatter, "Renaming {from} to {to}"),
        }
    }
}

//! What a target can do, as written in `needs`: the faults themselves say which names there are.

use std::fmt;

use super::FAULTS;

/// What a target can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Capability {
    name: &'static str,
    means: Means,
}

/// By which means a fault acts: a target has each or lacks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Means {
    /// The machines' power.
    Power,
    /// The links between them.
    Links,
    /// Machines that share nothing with this host: their disks, kernels, clocks and processors are theirs alone.
    OwnMachine,
    /// Our binary inside the machines, on what is ours there: pods and units.
    Guest,
}

impl Capability {
    pub(super) const fn new(name: &'static str, means: Means) -> Self {
        Self { name, means }
    }

    /// All of them, in the order of the faults.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for fault in FAULTS {
            if !all.contains(&fault.needs) {
                all.push(fault.needs);
            }
        }
        all
    }

    /// Its name, as files write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.name
    }

    /// By which means.
    #[must_use]
    pub fn means(self) -> Means {
        self.means
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

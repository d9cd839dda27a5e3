//! What can be broken, with which settings, and where: plain data, as it is journalled.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::Capability;
use crate::machines::provider::DiskFault;
use crate::model::link::{LinkRule, Links};
use crate::model::names::NodeName;

/// The kinds of faults, as files name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FaultKind {
    /// The plug is pulled; healed by power on.
    PowerOff,
    /// The machine's process is stopped; healed by letting it run on.
    Freeze,
    /// The reset button; heals itself by booting.
    Reset,
    /// Nothing passes: between a machine and all others and the gateway, or between two.
    Cut,
    /// Nothing passes between groups of machines.
    Partition,
    /// Frames come later.
    Delay,
    /// Frames come later, get lost, come twice, overtake each other, or wait for a slow link.
    Shape,
    /// The machine's disk is slow.
    DiskThrottle,
    /// The machine's disk fails.
    DiskError,
    /// The machine's file system is full.
    DiskFull,
    /// The machine's clock jumps.
    ClockStep,
}

impl FaultKind {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 11] = [
        ("node.power_off", Self::PowerOff),
        ("node.freeze", Self::Freeze),
        ("node.reset", Self::Reset),
        ("net.cut", Self::Cut),
        ("net.partition", Self::Partition),
        ("net.delay", Self::Delay),
        ("net.shape", Self::Shape),
        ("disk.throttle", Self::DiskThrottle),
        ("disk.error", Self::DiskError),
        ("disk.full", Self::DiskFull),
        ("clock.step", Self::ClockStep),
    ];

    /// What a target must be able to do for it.
    #[must_use]
    pub fn needs(self) -> Capability {
        match self {
            Self::PowerOff | Self::Freeze | Self::Reset => Capability::NodePower,
            Self::Cut | Self::Partition => Capability::NetCut,
            Self::Delay | Self::Shape => Capability::NetShape,
            Self::DiskThrottle | Self::DiskError => Capability::DiskFault,
            Self::DiskFull => Capability::DiskFull,
            Self::ClockStep => Capability::ClockStep,
        }
    }

    /// Whether it strikes links rather than a machine.
    #[must_use]
    pub fn strikes_links(self) -> bool {
        matches!(
            self,
            Self::Cut | Self::Partition | Self::Delay | Self::Shape
        )
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            Self::ALL
                .iter()
                .find(|(_, kind)| kind == self)
                .map_or("", |(name, _)| name),
        )
    }
}

/// What a fault does, beyond its kind.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settings {
    /// The kind says it all.
    Plain,
    /// What links do.
    Link(LinkRule),
    /// What the disk does.
    Disk(DiskFault),
    /// By how many milliseconds the clock jumps; negative: back.
    ClockBy(i64),
}

/// A fault as a file describes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    /// What breaks.
    pub kind: FaultKind,
    /// How.
    pub settings: Settings,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        match &self.settings {
            Settings::Link(rule) if !rule.cut => write!(f, " ({rule})"),
            Settings::Disk(fault) => write!(f, " ({fault})"),
            Settings::ClockBy(by_ms) => write!(f, " ({by_ms:+} ms)"),
            _ => Ok(()),
        }
    }
}

/// Where a fault strikes, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A machine; for faults of links: all of its links.
    Node(NodeName),
    /// Links.
    Links(Links),
}

impl Place {
    /// The machine, if it is one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Node(node) => Some(node),
            Self::Links(_) => None,
        }
    }

    /// The links meant.
    #[must_use]
    pub fn links(&self) -> Links {
        match self {
            Self::Node(node) => Links::of_node(node),
            Self::Links(links) => links.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Links(links) => links.fmt(f),
        }
    }
}

/// A fault that is to act, acts, or has acted: what the journal holds, and all that healing needs to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Injection {
    /// The step's id, which tells it from others in the same place.
    pub step: String,
    /// What breaks.
    pub fault: Fault,
    /// Where.
    pub place: Place,
    /// For how long.
    pub duration: Duration,
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of `{}`", self.fault.kind, self.place)
    }
}

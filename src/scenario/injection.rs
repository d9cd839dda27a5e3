//! What is broken, and where: as it is journalled.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::faults::{ControlError, FaultAction, FaultType, fault_named};
use crate::model::link::Links;
use crate::model::names::NodeName;

/// A fault as a file describes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(into = "Journalled", try_from = "Journalled")]
pub struct Fault {
    /// What breaks.
    pub kind: &'static FaultType,
    /// How.
    pub action: Arc<dyn FaultAction>,
}

/// A fault in the journal.
#[derive(Serialize, Deserialize)]
struct Journalled {
    kind: String,
    settings: Json,
}

impl From<Fault> for Journalled {
    fn from(fault: Fault) -> Self {
        Self {
            kind: fault.kind.name.to_owned(),
            settings: fault.action.settings(),
        }
    }
}

impl TryFrom<Journalled> for Fault {
    type Error = String;

    fn try_from(journalled: Journalled) -> Result<Self, String> {
        let Journalled { kind, settings } = journalled;
        let known = fault_named(&kind).ok_or_else(|| format!("no fault is named `{kind}`"))?;
        let action = (known.restore)(&settings)
            .ok_or_else(|| format!("fault `{kind}` cannot have the settings `{settings}`"))?;
        Ok(Self {
            kind: known,
            action,
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name)?;
        match self.action.words() {
            Some(words) => write!(f, " ({words})"),
            None => Ok(()),
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
    /// Machines, each by itself.
    Nodes(Vec<NodeName>),
    /// Pods.
    Pods(Vec<StruckPod>),
}

/// A pod at a fault's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StruckPod {
    /// Its name.
    pub name: String,
    /// Its uid, by which its machine knows it.
    pub uid: String,
    /// The machine that runs it.
    pub node: NodeName,
}

impl Place {
    /// The machine, if it is one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Self::Node(node) => Some(node),
            Self::Links(_) | Self::Nodes(_) | Self::Pods(_) => None,
        }
    }

    /// The machines on which something is to be done, each with the uids of the pods there that are meant.
    #[must_use]
    pub fn machines(&self) -> BTreeMap<NodeName, Vec<String>> {
        let mut machines: BTreeMap<NodeName, Vec<String>> = BTreeMap::new();
        match self {
            Self::Node(node) => {
                machines.insert(node.clone(), Vec::new());
            }
            Self::Links(_) => {}
            Self::Nodes(nodes) => {
                machines.extend(nodes.iter().map(|node| (node.clone(), Vec::new())));
            }
            Self::Pods(pods) => {
                for pod in pods {
                    let uids = machines.entry(pod.node.clone()).or_default();
                    uids.push(pod.uid.clone());
                }
            }
        }
        machines
    }

    /// The links meant.
    #[must_use]
    pub fn links(&self) -> Links {
        match self {
            Self::Node(node) => Links::of_node(node),
            Self::Links(links) => links.clone(),
            Self::Nodes(_) | Self::Pods(_) => Links::Groups(Vec::new()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => node.fmt(f),
            Self::Links(links) => links.fmt(f),
            Self::Nodes(nodes) => {
                let names: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
                f.write_str(&names.join(", "))
            }
            Self::Pods(pods) => {
                let names: Vec<&str> = pods.iter().map(|pod| pod.name.as_str()).collect();
                f.write_str(&names.join(", "))
            }
        }
    }
}

/// A fault that is to act, acts, or has acted: what the journal holds, and all that healing needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

impl Injection {
    /// The machine that is struck.
    ///
    /// # Errors
    /// When the place is none, which the reader of files does not let happen.
    pub fn node(&self) -> Result<&NodeName, ControlError> {
        self.place
            .node()
            .ok_or_else(|| format!("`{}` is not a machine", self.place).into())
    }
}

impl fmt::Display for Injection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of `{}`", self.fault.kind.name, self.place)
    }
}

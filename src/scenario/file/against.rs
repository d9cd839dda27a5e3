//! What a scenario file is checked against besides itself.

use crate::cluster::file::DEFAULT_WORKERS;
use crate::kubernetes::manifest::{Check, Rules, Unenforced};
use crate::model::cluster::ClusterSpec;
use crate::model::names::{ClusterName, NodeName};
use crate::model::reader::{Value, suggestion};

/// What a file is read for.
#[derive(Clone, Copy)]
pub struct Against<'a> {
    /// The name of the cluster that the file would make.
    pub cluster_name: &'a ClusterName,
    /// Which machines it will find.
    pub machines: Machines<'a>,
    /// What else a server would refuse about the objects of its manifests.
    pub manifests: Check,
    /// Other values of its variables.
    pub set: &'a [(String, String)],
}

/// The machines that a scenario finds.
#[derive(Debug, Clone, Copy)]
pub enum Machines<'a> {
    /// Those of the cluster that its file asks for, or of the default one.
    OfFile,
    /// Those of this cluster, whatever its file asks for.
    Of(&'a ClusterSpec),
    /// None any more, nor the manifests: the run is over and is judged again.
    Gone,
    /// Not known here, as those of a cluster that is not ours: any name may be right.
    Unknown,
}

impl<'a> Against<'a> {
    /// A file that runs on the cluster it asks for.
    #[must_use]
    pub fn own_cluster(cluster_name: &'a ClusterName, manifests: Check) -> Self {
        Self {
            cluster_name,
            machines: Machines::OfFile,
            manifests,
            set: &[],
        }
    }
}

impl<'a> Against<'a> {
    /// What the cluster says about the objects of manifests; `written` is the file's own `[cluster]`.
    pub(super) fn rules(&self, written: Option<&'a ClusterSpec>) -> Rules<'a> {
        let spec = match self.machines {
            Machines::Of(spec) => Some(spec),
            Machines::OfFile => written,
            // Nothing is applied, or by a server that decides itself.
            Machines::Gone | Machines::Unknown => {
                return Rules {
                    unenforced: Unenforced::Accepted,
                    images: None,
                };
            }
        };
        let accepts = spec.is_some_and(|spec| spec.accept_unenforced);
        Rules {
            unenforced: if accepts {
                Unenforced::Accepted
            } else {
                Unenforced::Refused
            },
            images: spec.map(|spec| &spec.images),
        }
    }
}

/// The nodes that a file may name; any if that is not known.
pub(in crate::scenario) struct Nodes(Option<Vec<NodeName>>);

impl Nodes {
    /// Any name is right.
    pub(super) fn any() -> Self {
        Self(None)
    }

    /// What `against` finds; `written` is the file's own `[cluster]`.
    pub(super) fn of(against: &Against<'_>, written: Option<&ClusterSpec>) -> Self {
        let names = |spec: &ClusterSpec| {
            spec.machines
                .iter()
                .map(|machine| machine.name.clone())
                .collect()
        };
        Self(match (against.machines, written) {
            (Machines::Unknown | Machines::Gone, _) => None,
            (Machines::Of(spec), _) | (Machines::OfFile, Some(spec)) => Some(names(spec)),
            (Machines::OfFile, None) => Some(names(&ClusterSpec::with_workers(
                against.cluster_name.clone(),
                DEFAULT_WORKERS,
            ))),
        })
    }

    /// Refuses the name of a machine that will not be there; `also` may stand in its place.
    pub(super) fn check(&self, value: &Value<'_, '_>, node: &NodeName, also: &[&str]) {
        let Some(nodes) = self.0.as_ref().filter(|nodes| !nodes.contains(node)) else {
            return;
        };
        let known: Vec<&str> = nodes
            .iter()
            .map(NodeName::as_str)
            .chain(also.iter().copied())
            .collect();
        value.problem(
            format!("there is no node `{node}` in this cluster"),
            suggestion(node.as_str(), &known),
        );
    }
}

//! Steps, one file each and one line of [`STEPS`]: parser, plan text and what is done stand together, and nothing else in the tree
//! knows their names.
//!
//! Steps that need more of a run than the API (faults, rolling updates, waits for what the run watches) are still variants of
//! [`super::spec::Action`].

mod delete;
mod drain;
mod node;
mod object;
mod pause;
mod rollout;
mod scale;
mod uncordon;
mod wait_object;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::kubernetes::client::Client;
use crate::model::names::NodeName;
use crate::model::reader::Value;
use crate::scenario::file::Nodes;

pub(super) use node::uncordon_ours;
pub(super) use object::{object_name, read_kind};
pub(super) use wait_object::{Wanted, read as read_wait, wanted};

/// What a step may use of the run.
pub struct StepContext<'a> {
    /// The cluster's API.
    pub client: &'a Client,
    /// Whether a fault acts now, so that what looks hopeless may be for that alone.
    pub faults_act: &'a (dyn Fn() -> bool + Send + Sync),
    /// Tells whoever follows the run.
    pub tell: &'a (dyn Fn(String) + Send + Sync),
}

/// What a step does.
pub trait StepAction: fmt::Debug + Send + Sync {
    /// What it does, for `plan`.
    fn plan(&self) -> String;
    /// How long it may take, for whoever looks at a run.
    fn within(&self) -> Option<Duration> {
        None
    }
    /// The machine that it names.
    fn node(&self) -> Option<&NodeName> {
        None
    }
    /// Whether only a new version answers once it is done.
    fn updates(&self) -> bool {
        false
    }
    /// Does it, or says why the stack did not let it. It may be dropped at any time.
    fn run<'a>(&'a self, context: &'a StepContext<'a>) -> BoxFuture<'a, Result<(), String>>;
}

/// A step as files name it.
pub(super) struct StepType {
    /// Its key.
    pub(super) key: &'static str,
    /// Reads its value; the machines are those that it may name.
    pub(super) read: fn(&Value<'_, '_>, &Nodes) -> Option<Arc<dyn StepAction>>,
}

/// All of them.
pub(super) const STEPS: &[StepType] = &[
    scale::SCALE,
    delete::DELETE,
    drain::DRAIN,
    uncordon::UNCORDON,
    pause::PAUSE,
    rollout::ROLLOUT,
];

#[cfg(test)]
mod tests;

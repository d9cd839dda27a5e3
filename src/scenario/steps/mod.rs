//! Steps, one file each and one line of [`STEPS`]: parser, plan text and what is done stand together, and nothing else in the tree
//! knows their names.
//!
//! Steps that need more of a run than the API (faults, rolling updates, waits for what the run watches) are still variants of
//! [`super::spec::Action`].

mod delete;
mod object;
mod scale;
mod wait_object;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use crate::kubernetes::client::Client;
use crate::model::reader::Table;

pub(super) use object::{object_name, read_kind};
pub(super) use wait_object::{Wanted, read as read_wait, wanted};

/// What a step does.
pub trait StepAction: fmt::Debug + Send + Sync {
    /// What it does, for `plan`.
    fn plan(&self) -> String;
    /// Does it, or says why the stack did not let it. It may be dropped at any time.
    fn run<'a>(&'a self, client: &'a Client) -> BoxFuture<'a, Result<(), String>>;
}

/// A step as files name it.
pub(super) struct StepType {
    /// Its key.
    pub(super) key: &'static str,
    /// Reads its table.
    pub(super) read: fn(&Table<'_, '_>) -> Option<Arc<dyn StepAction>>,
}

/// All of them.
pub(super) const STEPS: &[StepType] = &[scale::SCALE, delete::DELETE];

#[cfg(test)]
mod tests;

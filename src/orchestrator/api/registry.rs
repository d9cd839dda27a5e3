//! The objects, as the HTTP layer and the controllers use them: every rule of the API that does not depend on who asks.
//!
//! Reads are synchronous (they come from memory). Writes are retried here when they raced another write and the caller named no
//! resourceVersion; otherwise the caller gets 409 and decides.

mod delete;
mod evict;
pub(super) mod scale;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

pub use super::kinds::Propagation;
pub use delete::DeleteOptions;
pub(super) use write::{Run, now};

use super::heartbeats::Heartbeats;
use super::kinds::{Kind, Subresource};
use super::patch::Patch;
use super::rbac::Cache;
use super::status::Status;
use crate::model::image_policy::ImagePolicy;
use crate::orchestrator::store::{Condition, Entry, Event, Page, Revision, Store, Window};

/// How often a write that lost a race is tried again.
const RACE_RETRIES: usize = 16;

/// All objects of the cluster, and the beats of its nodes.
pub struct Registry {
    store: Arc<dyn Store>,
    /// Who beats.
    pub heartbeats: Arc<Heartbeats>,
    /// Serialises allocation of cluster addresses and node ports.
    allocation: tokio::sync::Mutex<()>,
    /// Restricted labels that the cluster's file gives a node, which may therefore set them.
    granted_labels: BTreeMap<String, BTreeSet<String>>,
    /// Whether objects are taken that ask for protection which nobody here enforces.
    accepts_unenforced: bool,
    /// Whether new pods get a token of their account.
    gives_tokens: bool,
    /// Who is granted what.
    pub(super) policy: Cache,
    /// Which images may run.
    images: ImagePolicy,
}

impl Registry {
    /// On `store`. `bootstrap::ensure` creates the objects every cluster has.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, heartbeats: Arc<Heartbeats>) -> Self {
        Self {
            store,
            heartbeats,
            allocation: tokio::sync::Mutex::default(),
            granted_labels: BTreeMap::new(),
            accepts_unenforced: false,
            gives_tokens: false,
            policy: Cache::default(),
            images: ImagePolicy::default(),
        }
    }

    /// Taking objects that ask for protection which nobody here enforces, or not.
    #[must_use]
    pub fn accepting_unenforced(mut self, accepts: bool) -> Self {
        self.accepts_unenforced = accepts;
        self
    }

    /// Giving new pods a token of their account, or not.
    #[must_use]
    pub fn giving_tokens(mut self, gives: bool) -> Self {
        self.gives_tokens = gives;
        self
    }

    /// Taking only pods, and what makes pods, whose images this allows.
    #[must_use]
    pub fn admitting(mut self, images: ImagePolicy) -> Self {
        self.images = images;

//! The kinds that the API serves: one file each, which the lines of [`every_kind`] name.
//!
//! A kind is an identity, which clients share, and a [`Strategy`]: everything in which the server treats it differently from
//! others. Routes, discovery, tables, storage keys, field checks, garbage collection and the reset between scenarios are derived
//! from these; a file that leaves out a part of the strategy does not compile. To add a kind, add its line to
//! `kubernetes/resources.rs`, `mod NAME` below, and the file.

use std::ops::Deref;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::kubernetes::resources::{self, ResourceKind, every_kind};
use crate::orchestrator::api::custom::{Custom, Definition};
use crate::orchestrator::store::Durability;

mod cluster_role;
mod cluster_role_binding;
mod config_map;
mod controller_revision;
mod cron_job;
mod custom_resource_definition;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
mod job;
mod lease;
mod limit_range;
mod namespace;
mod network_policy;
mod node;
pub(super) mod parts;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod priority_class;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod role;
mod role_binding;
mod secret;
mod service;
mod service_account;
mod stateful_set;
mod storage_class;

pub use parts::causes::Cause;
use parts::causes::Causes;
use parts::cells::Column;

/// How an object may be reached besides itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: what controllers report.
    Status,
    /// `scale`: autoscaling/v1 Scale.
    Scale,
    /// `binding`: a pod is given a node.
    Binding,
    /// `log`: a container's output.
    Log,
    /// `eviction`: a pod is deleted if its disruption budget allows it.
    Eviction,
    /// `exec`: a command in a container.
    Exec,
    /// `attach`: a container's own output, as it comes.
    Attach,
    /// `portforward`: connections to a pod's ports.
    PortForward,
    /// `token`: a token of a ServiceAccount.
    Token,
}

impl Subresource {
    /// As it stands in a path.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Log => "log",
            Self::Eviction => "eviction",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Token => "token",
        }
    }
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without their owner.
    Orphan,
    /// They are collected afterwards.
    Background,
    /// They are deleted first.
    Foreground,
}

/// Whether `metadata.generation` counts the changes of an object's spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// It does, from 1.
    Counted,
    /// Objects of this kind have none.
    Absent,
}

/// Whether whoever creates an object may set its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusOnCreate {
    /// It stays as it was sent.
    Kept,
    /// It is dropped: only controllers report.
    Dropped,
}

/// The order in which objects of a kind are deleted.
#[derive(Debug, Clone, Copy)]
pub struct DeletionRule {
    /// Whether dependents stay by default.
    pub propagation: Propagation,
    /// The grace in seconds, of an object and of what the client asked for; 0 removes it at once.
    pub grace: fn(&Value, Option<i64>) -> i64,
    /// Whether something other than `metadata.finalizers` holds the object.
    pub held: fn(&Value) -> bool,
    /// What changes in the object when its deletion begins.
    pub begin: fn(&mut Map<String, Value>),
    /// Names of objects that may not be deleted.
    pub protected: &'static [&'static str],
}

impl DeletionRule {
    /// An object goes at once, unless a finalizer holds it; what depends on it is collected afterwards.
    pub const AT_ONCE: Self = Self {
        propagation: Propagation::Background,
        grace: |_, _| 0,
        held: |_| false,
        begin: |_| {},
        protected: &[],
    };
}

/// Fills in what only the server can choose, given all objects of the kind; returns what cannot be had. It is called, and the
/// object stored, under a lock.
pub type Allocate = fn(&[Arc<Value>], &mut Value, Option<&Value>) -> Vec<Cause>;

/// Everything in which the server treats a kind differently from others, as Kubernetes' `strategy.go` of each kind.
#[derive(Debug)]
pub struct Strategy {
    /// Subresources.
    pub subresources: &'static [Subresource],
    /// Reads an object into Kubernetes' own type and writes it again: what does not come back is unknown. An error names a field
    /// of a wrong type.
    pub decode: fn(&Value) -> Result<Value, serde_json::Error>,
    /// Fills in what the client left out. Idempotent.
    pub default: fn(&mut Map<String, Value>),
    /// What is wrong with a name, if anything is.
    pub name: fn(&str) -> Option<&'static str>,
    /// Finds what is wrong with an object that has its defaults; the second is what it replaces.
    pub validate: fn(&Value, Option<&Value>, &mut Causes),
    /// Columns of its table, in order.
    pub columns: &'static [Column],
    /// Fields that a field selector may name, besides those of every kind.
    pub selectable_fields: &'static [&'static str],
    /// The selector of an object as a request would write it; empty if it has none.
    pub selector: fn(&Value) -> String,
    /// Whether changes of the spec are counted.
    pub generation: Generation,
    /// Whether a client may set the status of a new object.
    pub status_on_create: StatusOnCreate,
    /// Whether a write is on disk before it is acknowledged.
    pub durability: Durability,
    /// How objects go.
    pub deletion: DeletionRule,
    /// What the server chooses.
    pub allocate: Option<Allocate>,
    /// What whoever writes an object is told of it, in `Warning` headers: what has no effect here.
    pub warnings: fn(&Value) -> Vec<String>,
}

/// One kind of object: its identity, and how the server treats it.
#[derive(Debug)]
pub struct Kind {
    /// What clients know of it too.
    pub identity: &'static ResourceKind,
    /// How the server treats it.
    pub strategy: &'static Strategy,
    /// What a definition says of it, if the kind is defined by one.
    pub(super) custom: Option<&'static Custom>,
}

impl Deref for Kind {
    type Target = ResourceKind;

    fn deref(&self) -> &ResourceKind {
        self.identity
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.is(other)
    }
}

impl Eq for Kind {}

impl Kind {
    /// Below this prefix the store keeps the kind, or one namespace of it.
    #[must_use]
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        let group = if self.group.is_empty() {
            "core"
        } else {
            self.group
        };
        match namespace {
            Some(namespace) if self.namespaced => {
                format!("/registry/{group}/{}/{namespace}/", self.plural)
            }
            _ => format!("/registry/{group}/{}/", self.plural),
        }
    }

    /// The store's key of one object.
    #[must_use]
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}{name}", self.prefix(namespace))
    }

    /// Its subresources.
    #[must_use]
    pub fn subresources(&self) -> &'static [Subresource] {
        match self.definition() {
            Some(definition) => definition.subresources(),
            None => self.strategy.subresources,
        }
    }

    /// What a definition says of it now, if the kind is defined by one.
    pub(super) fn definition(&self) -> Option<Arc<Definition>> {
        self.custom.map(Custom::definition)
    }

    /// By this name controllers know it: its kind, or its definition's name, which has a point in it.
    #[must_use]
    pub fn tag(&self) -> &'static str {
        self.custom.map_or(self.identity.kind, Custom::name)
    }

    /// What lists of its objects are called.
    #[must_use]
    pub fn list_kind(&self) -> String {
        match self.definition() {
            Some(definition) => definition.list_kind.clone(),
            None => format!("{}List", self.identity.kind),
        }
    }

    /// Whether it has this subresource.
    #[must_use]
    pub fn has(&self, subresource: Subresource) -> bool {
        self.subresources().contains(&subresource)
    }

    /// Whether it is this kind.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.group == other.group && self.plural == other.plural
    }
}

macro_rules! served {
    ($($module:ident $name:ident = $identity:expr;)*) => {
        $(
            #[doc = concat!("See `", stringify!($module), "`.")]
            pub static $name: Kind = Kind {
                identity: &resources::$name,
                strategy: &$module::STRATEGY,
                custom: None,
            };
        )*

        /// Every kind.
        pub static ALL: &[&Kind] = &[$(&$name),*];
    };
}
every_kind!(served);

/// The kind served at this group, version and plural.
#[must_use]
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    ALL.iter()
        .copied()
        .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
}

/// The kind of this name; controllers name only kinds that are served.
#[must_use]
pub fn named(kind: &str) -> Option<&'static Kind> {
    ALL.iter().copied().find(|known| known.kind == kind)
}

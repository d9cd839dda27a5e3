//! Faults, one file for each mechanism and one line of [`FAULTS`] for each fault: settings, needs, words, onset and heal stand
//! together, and nothing else in the tree knows their names. Reader, suggestions and capabilities come from the list.
//!
//! ```text
//! file ─► FaultType::read ─► FaultAction ─► journal (kind, settings) ─► begin ─► heal
//!                                              └─► FaultType::restore ──────────► heal      after a crash
//! ```
//! Invariants: a fault reaches machines only through [`Controls`]; healing needs nothing but the journalled [`Injection`]; both verbs
//! measure what they did, and say so in [`Effect::measured`].

mod capability;
mod clock;
mod container_oom;
mod controls;
mod disk;
mod links;
mod node_cpu;
mod node_memory;
mod orders;
mod pod_freeze;
mod pod_kill;
mod power;
mod role_kill;
mod silence;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

pub use capability::{Capability, Means};
pub use controls::{ControlError, Controls, Doing, LinkOrder};

use super::fault::Effect;
use super::injection::Injection;
use crate::model::reader::Table;

/// What a fault does, with its settings.
pub trait FaultAction: fmt::Debug + Send + Sync {
    /// The settings in a few words, if the kind's name does not say it all.
    fn words(&self) -> Option<String> {
        None
    }
    /// The settings as they are journalled.
    fn settings(&self) -> Json;
    /// Lets it act and returns when it was seen to. It may act already.
    fn begin<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect>;
    /// Ends it and returns when that was seen. It may have ended already.
    fn heal<'a>(
        &'a self,
        injection: &'a Injection,
        controls: &'a dyn Controls,
    ) -> Doing<'a, Effect>;
}

/// What a fault strikes, and thereby which targets it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strikes {
    /// A machine.
    Node,
    /// One machine, or several at once.
    Machines,
    /// Links: all of a machine, or those between machines.
    Links,
    /// Links between groups of machines.
    Groups,
    /// Pods, on whichever machines they run.
    Pods,
}

/// How long a fault acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// For a time that the file has to say.
    For,
    /// Once and for a moment, after which nothing is to be healed; or for a time, if the file says one.
    OnceOrFor,
}

/// A fault as files name it.
pub struct FaultType {
    /// Its name, as `kind` says it.
    pub name: &'static str,
    /// What a target must be able to do for it.
    pub needs: Capability,
    /// What it strikes.
    pub strikes: Strikes,
    /// For how long.
    pub lasts: Lasts,
    /// Its keys beside `kind`, `target` and `for`.
    pub settings: &'static [&'static str],
    /// Reads its settings.
    pub read: fn(&Table<'_, '_>) -> Option<Arc<dyn FaultAction>>,
    /// The action again, of what was journalled.
    pub restore: fn(&Json) -> Option<Arc<dyn FaultAction>>,
}

impl fmt::Debug for FaultType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// All of them.
pub static FAULTS: &[&FaultType] = &[
    &power::POWER_OFF,
    &power::FREEZE,
    &power::RESET,
    &links::CUT,
    &links::PARTITION,
    &links::DELAY,
    &links::SHAPE,
    &disk::THROTTLE,
    &disk::ERROR,
    &disk::FULL,
    &clock::STEP,
    &pod_kill::KILL,
    &pod_freeze::FREEZE,
    &role_kill::AGENT,
    &role_kill::PROXY,
    &node_cpu::CPU,
    &node_memory::MEMORY,
    &container_oom::OOM,
    &silence::REGISTRY,
    &silence::DNS,
];

/// The fault of this name.
#[must_use]
pub fn fault_named(name: &str) -> Option<&'static FaultType> {
    FAULTS.iter().find(|fault| fault.name == name).copied()
}

fn kept(settings: &impl Serialize) -> Json {
    serde_json::to_value(settings).expect("settings are plain data")
}

fn restored<T: FaultAction + DeserializeOwned + 'static>(
    settings: &Json,
) -> Option<Arc<dyn FaultAction>> {
    let action: T = serde_json::from_value(settings.clone()).ok()?;
    Some(Arc::new(action))
}

/// `None` inside: it was written and is wrong, which is a problem already.
#[expect(clippy::option_option, reason = "absent and wrong differ")]
fn transpose<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

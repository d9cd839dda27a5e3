//! Kinds that CustomResourceDefinitions define: found in the store, and served as the others are.
//!
//! ```text
//! definition written ──► names accepted, conditions set (in the same write) ──► [`Customs::refresh`] ──► [`Served`]
//! request ──► route looks the kind up in [`Served`] ──► the kind's [`Definition`] prunes, defaults, validates
//! ```
//! Invariants: whoever reads an answer to a write of a definition finds its kinds served as it says; no object is created after the
//! deletion of its definition has begun ([`Customs::enter`]); the identity of a kind lives as long as the process, so that it is
//! handed around as those of the other kinds are, and identities are bounded in number. Its definition is replaced in its place.

mod columns;
mod definition;
mod formats;
mod json_path;
mod layout;
pub(super) mod names;
mod pattern;
mod schema;
mod shape;
#[cfg(test)]
pub(super) mod tests;
mod values;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{RwLock as Gate, RwLockReadGuard, RwLockWriteGuard};

use super::kinds::parts::causes::{Causes, no_rules};
use super::kinds::parts::fields::no_defaults;
use super::kinds::parts::names::text;
use super::kinds::parts::warnings::no_warnings;
use super::kinds::parts::{cells, names as object_names, selector};
use super::kinds::{self, DeletionRule, Generation, Kind, StatusOnCreate, Strategy};
use crate::kubernetes::resources::ResourceKind;
use crate::orchestrator::limits::CUSTOM_KINDS;
use crate::orchestrator::store::Durability;
pub(super) use definition::Definition;
pub(super) use layout::{Elements, Layout};
use schema::Reader;

/// By this finalizer a definition stays until its objects are gone.
pub(in crate::orchestrator) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// How the server treats custom objects; what differs among them is in their [`Definition`].
static STRATEGY: Strategy = Strategy {
    subresources: &[],
    decode: |object| Ok(object.clone()),
    default: no_defaults,
    name: object_names::subdomain,
    validate: no_rules,
    columns: &[cells::NAME, cells::AGE],
    selectable_fields: &[],
    selector: selector::none,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Kept,
    durability: Durability::Synced,
    deletion: DeletionRule::AT_ONCE,
    allocate: None,
    warnings: no_warnings,
};

/// What a kind has that a definition defines.
#[derive(Debug)]
pub struct Custom {
    /// The definition's name, `lamps.example.org`.
    name: &'static str,
    definition: RwLock<Arc<Definition>>,
    terminating: AtomicBool,
}

impl Custom {
    /// The definition's name.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The definition as it is now.
    pub(super) fn definition(&self) -> Arc<Definition> {
        self.definition
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the definition is being deleted: its objects go, and none may come.
    pub(super) fn is_terminating(&self) -> bool {
        self.terminating.load(Ordering::SeqCst)
    }
}

/// The kinds that are served at one time.
#[derive(Debug, Clone)]
pub struct Served {
    kinds: Vec<&'static Kind>,
    stored: Vec<&'static Kind>,
    /// The OpenAPI document of version 2 with all of them, as JSON and as protobuf, once somebody has asked for it.
    pub(super) openapi: OnceLock<(Bytes, Bytes)>,
}

impl Default for Served {
    fn default() -> Self {
        Self {
            kinds: kinds::ALL.to_vec(),
            stored: Vec::new(),
            openapi: OnceLock::new(),
        }
    }
}

impl Served {
    /// Every kind, each version of it by itself.
    #[must_use]
    pub fn kinds(&self) -> &[&'static Kind] {
        &self.kinds
    }

    /// Every kind that a definition defines, once, whatever its versions.
    #[must_use]
    pub fn custom(&self) -> &[&'static Kind] {
        &self.stored
    }

    /// The kind served at this group, version and plural.
    #[must_use]
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
        self.kinds
            .iter()
            .copied()
            .find(|kind| kind.group == group && kind.version == version && kind.plural == plural)
    }
}

/// The kinds of a server's definitions.
#[derive(Debug, Default)]
pub(super) struct Customs {
    served: RwLock<Arc<Served>>,
    /// Every identity there has been, with the definition from which it was read last.
    known: Mutex<Vec<Known>>,
    gate: Gate<()>,
}

#[derive(Debug)]
struct Known {
    kind: &'static Kind,
    custom: &'static Custom,
    spec: Value,
}

/// Keeps definitions as they are while an object is created, and objects from being created while a definition changes.
pub(super) struct Entered<'c> {
    _creating: Option<RwLockReadGuard<'c, ()>>,
    _defining: Option<RwLockWriteGuard<'c, ()>>,
}

impl Customs {
    /// The kinds that are served now.
    pub(super) fn served(&self) -> Arc<Served> {
        self.served
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Begins a write of an object of this kind.
    pub(super) async fn enter(&self, kind: &Kind) -> Entered<'_> {
        let (mut creating, mut defining) = (None, None);
        if kind.is(&kinds::CUSTOM_RESOURCE_DEFINITION) {
            defining = Some(self.gate.write().await);
        } else if kind.custom.is_some() {
            creating = Some(self.gate.read().await);
        }
        Entered {
            _creating: creating,
            _defining: defining,
        }
    }

    /// Serves what these definitions define, and nothing else.
    pub(super) fn refresh(&self, definitions: &[Arc<Value>]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut served = Served::default();
        for crd in definitions.iter().filter(|crd| names::is_established(crd)) {
            let mut reader = Reader::default();
            let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
            for version in versions.into_iter().flatten() {
                let is = |field: &str| version.get(field) == Some(&Value::Bool(true));
                if !is("served") && !is("storage") {
                    continue;
                }
                let Some(kind) = known_kind(&mut known, crd, version, &mut reader) else {
                    continue;
                };
                if is("served") {
                    served.kinds.push(kind);
                }
                if is("storage") {
                    served.stored.push(kind);
                }
            }
        }
        for one in known.iter_mut() {
            one.forget_unless_in(&served);
        }
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(served);
    }
}

impl Known {
    /// Of a kind that is gone only the identity stays: who still watches it has it.
    fn forget_unless_in(&mut self, served: &Served) {
        let mut all = served.kinds.iter().chain(&served.stored);
        if self.spec.is_null() || all.any(|kind| std::ptr::eq(*kind, self.kind)) {
            return;
        }
        self.spec = Value::Null;
        let mut place = self
            .custom
            .definition
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(Definition::nothing());
    }
}

/// The kind of a version, with its definition as it is now.
fn known_kind(
    known: &mut Vec<Known>,
    crd: &Value,
    version: &Value,
    reader: &mut Reader,
) -> Option<&'static Kind> {
    let spec = crd.get("spec")?;
    let namespaced = text(spec, "/scope") == "Namespaced";
    let is = |kind: &Kind| {
        kind.group == text(spec, "/group")
            && kind.version == text(version, "/name")
            && kind.plural == text(spec, "/names/plural")
            && kind.kind == text(spec, "/names/kind")
            && kind.namespaced == namespaced
    };
    let terminating = crd.pointer("/metadata/deletionTimestamp").is_some();
    let present = known.iter_mut().find(|known| is(known.kind));
    if let Some(present) = &present
        && present.spec == *spec
    {
        let custom = present.custom;
        custom.terminating.store(terminating, Ordering::SeqCst);
        return Some(present.kind);
    }
    let mut found = Causes::default();
    let read = Definition::read(crd, version, "spec.versions", reader, &mut found);
    if let Some(cause) = found.0.first() {
        // It was stored by a server with other rules.
        tracing::error!(
            name = text(crd, "/metadata/name"),
            field = cause.field,
            problem = cause.message,
            "a stored definition is not served"
        );
        return None;
    }
    let read = Arc::new(read);
    if let Some(present) = present {
        present.spec = spec.clone();
        let mut place = present
            .custom
            .definition
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *place = read;
        present
            .custom
            .terminating
            .store(terminating, Ordering::SeqCst);
        return Some(present.kind);
    }
    if known.len() >= CUSTOM_KINDS {
        tracing::error!(
            name = text(crd, "/metadata/name"),
            "a definition is not served: there have been {CUSTOM_KINDS} custom kinds since the server started, which is all it takes"
        );
        return None;
    }
    let custom: &'static Custom = Box::leak(Box::new(Custom {
        name: leaked(text(crd, "/metadata/name")),
        definition: RwLock::new(read),
        terminating: AtomicBool::new(terminating),
    }));
    let kind: &'static Kind = Box::leak(Box::new(Kind {
        identity: Box::leak(Box::new(ResourceKind {
            group: leaked(text(spec, "/group")),
            version: leaked(text(version, "/name")),
            kind: leaked(text(spec, "/names/kind")),
            plural: leaked(text(spec, "/names/plural")),
            namespaced,
            short: &[],
            in_all: false,
            kept_by_cluster: false,
        })),
        strategy: &STRATEGY,
        custom: Some(custom),
    }));
    known.push(Known {
        kind,
        custom,
        spec: spec.clone(),
    });
    Some(kind)
}

/// A name that lives as long as the process.
fn leaked(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// Finds what is wrong with a definition; the second is what it replaces.
pub(super) fn check(crd: &Value, old: Option<&Value>, found: &mut Causes) {
    names::check(crd, old, found);
    let mut reader = Reader::default();
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    for (number, version) in versions.into_iter().flatten().enumerate() {
        let path = format!("spec.versions[{number}]");
        Definition::read(crd, version, &path, &mut reader, found);
    }
}

/// What a definition says that nobody here does: rules in CEL, and formats that are not checked.
pub(super) fn not_enforced(crd: &Value) -> Vec<String> {
    let mut told = Vec::new();
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    for (number, version) in versions.into_iter().flatten().enumerate() {
        if let Some(schema) = version.get("schema") {
            let path = format!("spec.versions[{number}].schema");
            unenforced_in(schema, &path, &mut told);
        }
    }
    told
}

fn unenforced_in(value: &Value, path: &str, told: &mut Vec<String>) {
    let Value::Object(map) = value else {
        if let Value::Array(list) = value {
            for (number, one) in list.iter().enumerate() {
                unenforced_in(one, &format!("{path}[{number}]"), told);
            }
        }
        return;
    };
    // Below these, a name is a field's.
    let is_word = !path.ends_with(".properties");
    for (name, inner) in map {
        match (name.as_str(), inner) {
            ("x-kubernetes-validations", Value::Array(rules)) if !rules.is_empty() => {
                told.push(format!(
                    "{path}.{name}: not enforced by Flightcage: rules in CEL are kept, and hold nothing back"
                ));
            }
            ("format", Value::String(format)) if !formats::is_known(format) => {
                told.push(format!("{path}.{name}: unrecognized format \"{format}\""));
            }
            ("default" | "enum" | "example", _) if is_word => {}
            _ => unenforced_in(inner, &format!("{path}.{name}"), told),
        }
    }
}

/// An object as it reads at a version: definitions convert nothing but `apiVersion` (strategy `None`), and what was stored before a
/// default was defined gets it.
pub(super) fn as_read(kind: &Kind, object: Arc<Value>) -> Arc<Value> {
    let Some(custom) = kind.custom else {
        return object;
    };
    let definition = custom.definition();
    let version = text(&object, "/apiVersion").split_once('/');
    let is_current = version.is_some_and(|(_, version)| version == kind.version);
    if is_current && !definition.has_defaults() {
        return object;
    }
    let mut read = (*object).clone();
    if let Some(map) = read.as_object_mut()
        && !is_current
    {
        map.insert("apiVersion".to_owned(), Value::from(kind.api_version()));
    }
    definition.default(&mut read);
    Arc::new(read)
}

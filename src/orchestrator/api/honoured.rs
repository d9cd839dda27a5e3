//! Which fields have an effect here: one table by type, of everything that pods, Services and workloads can say.
//!
//! Types and fields are those of `k8s-openapi`; a field of theirs that is in no table fails a test. What has no effect is never
//! ignored in silence: a client is warned, and an object that asks for protection which nobody would give is refused, unless the
//! cluster's file accepts that (`accept_unenforced`). A value that asks for what happens anyway, such as a default, is fine.

mod containers;
mod meta;
mod placement;
mod pods;
mod services;
mod volumes;
mod workloads;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::kinds::Kind;
use super::kinds::parts::causes::Cause;
use crate::kubernetes::fields::{self, Found};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It does what it does elsewhere. Of a type with fields of its own, those are asked.
    Applied,
    /// The server fills it in; what a client writes is dropped, as elsewhere.
    OfServer,
    /// Nothing comes of it, which this tells; but for these values, which ask for what happens anyway.
    Ignored(&'static [&'static str], &'static str),
    /// As [`Effect::Ignored`], unless another field beside it has this value.
    IgnoredUnless((&'static str, &'static str), &'static str),
    /// As [`Effect::Ignored`], if another field beside it has this value.
    IgnoredIf((&'static str, &'static str), &'static str),
    /// As [`Effect::Ignored`], and somebody would be less protected than the object says.
    Unenforced(&'static [&'static str], &'static str),
}

use Effect::{Applied, Ignored, IgnoredIf, IgnoredUnless, OfServer, Unenforced};

/// The fields of a type: those with their effect here, and the others.
#[derive(Debug)]
pub(super) struct TypeTable {
    name: &'static str,
    applied: &'static [&'static str],
    others: &'static [(&'static str, Effect)],
}

static TABLES: [&[TypeTable]; 7] = [
    meta::TYPES,
    pods::TYPES,
    containers::TYPES,
    placement::TYPES,
    volumes::TYPES,
    services::TYPES,
    workloads::TYPES,
];

type ByField = BTreeMap<(&'static str, &'static str), Effect>;

static BY_FIELD: LazyLock<ByField> = LazyLock::new(|| {
    let types = TABLES.iter().flat_map(|types| types.iter());
    let fields = types.flat_map(|table| {
        let applied = table.applied.iter().map(|field| (*field, Applied));
        let all = applied.chain(table.others.iter().copied());
        all.map(|(field, effect)| ((table.name, field), effect))
    });
    fields.collect()
});

/// A field that an object sets without any effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotApplied {
    /// Its path, `spec.hostPID`.
    pub field: String,
    /// What happens instead.
    pub instead: &'static str,
    /// Whether the object asks for protection that it would not get.
    pub protects: bool,
}

impl NotApplied {
    /// For a person: `spec.hostPID: not applied here: the containers see their own processes only`.
    #[must_use]
    pub fn warning(&self) -> String {
        format!("{}: not applied here: {}", self.field, self.instead)
    }

    /// What happens instead, and what to do where it is refused for that.
    #[must_use]
    pub fn told(&self) -> String {
        if self.protects {
            format!(
                "not enforced here: {}; leave it out, or set `accept_unenforced = true` in [cluster]",
                self.instead
            )
        } else {
            self.instead.to_owned()
        }
    }

    /// As a reason to refuse the object.
    #[must_use]
    pub fn cause(&self) -> Cause {
        Cause {
            reason: "FieldValueForbidden",
            field: self.field.clone(),
            message: format!("Forbidden: {}", self.told()),
        }
    }
}

/// What `object` sets without effect; empty for a kind that is not in the table.
#[must_use]
pub fn look(kind: &Kind, object: &Value) -> Vec<NotApplied> {
    if !KINDS.contains(&kind.kind) {
        return Vec::new();
    }
    let found = fields::walk(&kind.api_version(), kind.kind, object).unwrap_or_default();
    of_findings(&found, object)
}

/// What these findings about `object` say is without effect.
pub(super) fn of_findings(found: &[fields::Finding], object: &Value) -> Vec<NotApplied> {
    let mut told: Vec<NotApplied> = Vec::new();
    let mut closed: Vec<&[fields::Step]> = Vec::new();
    for finding in found {
        let Found::Used(name, field) = &finding.found else {
            continue;
        };
        if closed.iter().any(|path| finding.path.starts_with(path)) {
            continue;
        }
        let (harmless, instead, protects) = match BY_FIELD.get(&(*name, *field)) {
            None | Some(Applied) => continue,
            Some(OfServer) => {
                closed.push(&finding.path);
                continue;
            }
            Some(IgnoredUnless(beside, _)) if has_beside(finding, object, *beside) => continue,
            Some(IgnoredIf(beside, _)) if !has_beside(finding, object, *beside) => continue,
            Some(IgnoredUnless(_, instead) | IgnoredIf(_, instead)) => (&NOTHING, *instead, false),
            Some(Ignored(harmless, instead)) => (harmless, *instead, false),
            Some(Unenforced(harmless, instead)) => (harmless, *instead, true),
        };
        closed.push(&finding.path);
        let value = finding.value(object).unwrap_or(&Value::Null);
        if !asks_nothing(value, harmless) {
            told.push(NotApplied {
                field: finding.field(),
                instead,
                protects,
            });
        }
    }
    told
}

const NOTHING: &[&str] = &[];

/// Whether the field beside the one that was found has this value.
fn has_beside(finding: &fields::Finding, object: &Value, (field, value): (&str, &str)) -> bool {
    let Some((_, around)) = finding.path.split_last() else {
        return false;
    };
    let around = fields::Finding {
        path: around.to_vec(),
        found: finding.found.clone(),
    };
    let beside = around.value(object).and_then(|around| around.get(field));
    beside.and_then(Value::as_str) == Some(value)
}

/// Whether a value is empty, or one of those that ask for what happens anyway.
fn asks_nothing(value: &Value, harmless: &[&str]) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) => harmless.contains(&value.to_string().as_str()),
        Value::String(text) => text.is_empty() || harmless.contains(&text.as_str()),
        Value::Array(list) => list.iter().all(|one| asks_nothing(one, harmless)),
        Value::Object(map) => map.values().all(|one| asks_nothing(one, harmless)),
    }
}

/// The kinds that are looked at: Services, and whatever makes pods.
const KINDS: &[&str] = &[
    "Pod",
    "Service",
    "ReplicationController",
    "ReplicaSet",
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "Job",
    "CronJob",
];

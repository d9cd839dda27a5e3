//! What a definition calls its kind: what is right about it by itself (apiextensions/validation), and what is still free
//! (pkg/controller/status). Names are accepted in the write that asks for them.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::CLEANUP;
use crate::kubernetes::resources::RESOURCES;
use crate::orchestrator::api::kinds::Cause;
use crate::orchestrator::api::kinds::parts::causes::Causes;
use crate::orchestrator::api::kinds::parts::names::{is_subdomain, label_1035, text};
use crate::orchestrator::api::registry::now;
use crate::orchestrator::limits::CUSTOM_DEFINITIONS;

/// Groups below these are Kubernetes' own.
const PROTECTED: [&str; 2] = [".k8s.io", ".kubernetes.io"];
const APPROVAL: &str = "api-approved.kubernetes.io";

/// Finds what is wrong with a definition, its schemas apart.
pub(super) fn check(crd: &Value, old: Option<&Value>, found: &mut Causes) {
    let null = Value::Null;
    let spec = crd.get("spec").unwrap_or(&null);
    let group = text(spec, "/group");
    let name = text(crd, "/metadata/name");
    if name != format!("{}.{group}", text(spec, "/names/plural")) {
        found.invalid(
            "metadata.name",
            &json!(name),
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
    check_group(crd, group, found);
    found.one_of("spec.scope", spec.get("scope"), &["Cluster", "Namespaced"]);
    check_names(spec, found);
    check_versions(crd, spec, found);
    match text(spec, "/conversion/strategy") {
        "" | "None" => {}
        "Webhook" => found.forbidden(
            "spec.conversion.strategy",
            "conversion by webhooks is not served here: objects of several versions differ in nothing but apiVersion (strategy None)",
        ),
        _ => found.unsupported(
            "spec.conversion.strategy",
            &spec["conversion"]["strategy"],
            &["None", "Webhook"],
        ),
    }
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(true)) {
        found.invalid(
            "spec.preserveUnknownFields",
            &Value::Bool(true),
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        );
    }
    if let Some(old) = old.filter(|old| is_established(old)) {
        for pointer in ["/spec/scope", "/spec/group", "/spec/names/kind"] {
            if old.pointer(pointer) != crd.pointer(pointer) {
                found.invalid(
                    pointer.trim_start_matches('/').replace('/', "."),
                    crd.pointer(pointer).unwrap_or(&null),
                    "field is immutable",
                );
            }
        }
    }
}

fn check_group(crd: &Value, group: &str, found: &mut Causes) {
    if group.is_empty() {
        found.required("spec.group", "");
        return;
    }
    if !is_subdomain(group) {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        found.invalid("spec.group", &json!(group), why);
    } else if !group.contains('.') {
        let why = "should be a domain with at least one dot";
        found.invalid("spec.group", &json!(group), why);
    }
    let protected = PROTECTED
        .iter()
        .any(|suffix| group.ends_with(suffix) || group == suffix.trim_start_matches('.'));
    let annotations = crd.pointer("/metadata/annotations");
    if protected && annotations.and_then(|all| all.get(APPROVAL)).is_none() {
        found.required(
            format!("metadata.annotations[{APPROVAL}]"),
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        );
    }
}

fn check_names(spec: &Value, found: &mut Causes) {
    let kind = text(spec, "/names/kind");
    for (field, required) in [
        ("plural", true),
        ("singular", false),
        ("kind", true),
        ("listKind", true),
    ] {
        let path = format!("spec.names.{field}");
        let given = text(spec, &format!("/names/{field}"));
        if given.is_empty() {
            if required {
                found.required(path, "");
            }
            continue;
        }
        let mixed = field == "kind" || field == "listKind";
        let wrong = if mixed {
            label_1035(&given.to_lowercase())
        } else {
            label_1035(given)
        };
        if let Some(wrong) = wrong {
            let wrong = if mixed {
                format!("may have mixed case, but should otherwise match: {wrong}")
            } else {
                wrong.to_owned()
            };
            found.invalid(path, &json!(given), &wrong);
        }
    }
    if !kind.is_empty() && kind == text(spec, "/names/listKind") {
        let why = "kind and listKind may not be the same";
        found.invalid("spec.names.listKind", &json!(kind), why);
    }
    for field in ["shortNames", "categories"] {
        for (number, name) in texts(spec, &format!("/names/{field}")).enumerate() {
            if let Some(wrong) = label_1035(name) {
                found.invalid(format!("spec.names.{field}[{number}]"), &json!(name), wrong);
            }
        }
    }
}

fn check_versions(crd: &Value, spec: &Value, found: &mut Causes) {
    let versions = spec.get("versions").and_then(Value::as_array);
    let versions = versions.map(Vec::as_slice).unwrap_or_default();
    if versions.is_empty() {
        found.required(
            "spec.versions",
            "must have exactly one version marked as storage version",
        );
        return;
    }
    let mut names = BTreeSet::new();
    for (number, version) in versions.iter().enumerate() {
        let name = text(version, "/name");
        if let Some(wrong) = label_1035(name) {
            found.invalid(format!("spec.versions[{number}].name"), &json!(name), wrong);
        }
        if !names.insert(name) {
            found.invalid(
                "spec.versions",
                &json!(name),
                "must contain unique version names",
            );
        }
        for field in ["served", "storage"] {
            if !version.get(field).is_some_and(Value::is_boolean) {
                found.required(format!("spec.versions[{number}].{field}"), "");
            }
        }
    }
    if versions
        .iter()
        .filter(|version| is_storage(version))
        .count()
        != 1
    {
        found.invalid(
            "spec.versions",
            &json!(names.iter().collect::<Vec<_>>()),
            "must have exactly one version marked as storage version",
        );
    }
    for (number, stored) in texts(crd, "/status/storedVersions").enumerate() {
        if !names.contains(stored) {
            let why = format!(
                "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {stored} and removes {stored} from status.storedVersions"
            );
            found.invalid(
                format!("status.storedVersions[{number}]"),
                &json!(stored),
                &why,
            );
        }
    }
}

fn is_storage(version: &Value) -> bool {
    version.get("storage") == Some(&Value::Bool(true))
}

fn texts<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let list = object.pointer(pointer).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str)
}

/// Whether a condition of the definition is true.
fn has_condition(crd: &Value, kind: &str) -> bool {
    let conditions = crd.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|one| one["type"] == kind && one["status"] == "True")
}

/// Whether a definition's kind is served.
pub(super) fn is_established(crd: &Value) -> bool {
    has_condition(crd, "Established")
}

/// Whether a definition waits for names that another one has.
pub(in crate::orchestrator::api) fn waits_for_names(crd: &Value) -> bool {
    !has_condition(crd, "NamesAccepted")
}

/// Accepts a definition's names, as far as they are free among `all` definitions, and says so in its status. Idempotent.
pub(in crate::orchestrator::api) fn accept(
    all: &[Arc<Value>],
    crd: &mut Value,
    old: Option<&Value>,
) -> Vec<Cause> {
    let mut found = Causes::default();
    if old.is_none() && all.len() >= CUSTOM_DEFINITIONS {
        let why =
            format!("there are {CUSTOM_DEFINITIONS} definitions, which is all this server takes");
        found.forbidden("metadata.name", &why);
        return found.0;
    }
    if !crd.get("spec").is_some_and(Value::is_object) {
        return found.0;
    }
    let names = crd["spec"]["names"].clone();
    let conflicts = conflicts(all, crd, &names);
    let accepted = conflicts.is_empty();
    let was_established = old.is_some_and(is_established);
    if crd.pointer("/metadata/deletionTimestamp").is_none() {
        ensure_finalizer(crd);
    }
    if !crd.get("status").is_some_and(Value::is_object) {
        crd["status"] = json!({});
    }
    if accepted {
        crd["status"]["acceptedNames"] = names;
    } else if crd.pointer("/status/acceptedNames").is_none() {
        crd["status"]["acceptedNames"] = json!({"kind": "", "plural": ""});
    }
    store_versions(crd);
    let (reason, message) = match conflicts.first() {
        None => ("NoConflicts", "no conflicts found".to_owned()),
        Some((reason, _)) => {
            let told: Vec<&str> = conflicts.iter().map(|(_, told)| told.as_str()).collect();
            (*reason, told.join(", "))
        }
    };
    set_condition(crd, "NamesAccepted", accepted, reason, &message);
    if accepted || was_established {
        let message = "the initial names have been accepted";
        set_condition(crd, "Established", true, "InitialNamesAccepted", message);
    } else {
        let message = "not all names are accepted";
        set_condition(crd, "Established", false, "NotAccepted", message);
    }
    found.0
}

/// The names that are taken, each with the reason and the message of a condition.
fn conflicts(all: &[Arc<Value>], crd: &Value, names: &Value) -> Vec<(&'static str, String)> {
    let group = text(crd, "/spec/group");
    let (mut resources, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    for kind in RESOURCES.iter().filter(|kind| kind.group == group) {
        resources.extend([kind.plural.to_owned(), kind.singular()]);
        resources.extend(kind.short.iter().map(|short| (*short).to_owned()));
        kinds.extend([kind.kind.to_owned(), format!("{}List", kind.kind)]);
    }
    let others = all.iter().filter(|other| {
        text(other, "/metadata/name") != text(crd, "/metadata/name")
            && text(other, "/spec/group") == group
    });
    for other in others {
        let accepted = |field: &str| {
            let name = text(other, &format!("/status/acceptedNames/{field}"));
            (!name.is_empty()).then(|| name.to_owned())
        };
        resources.extend(["plural", "singular"].into_iter().filter_map(accepted));
        resources.extend(texts(other, "/status/acceptedNames/shortNames").map(str::to_owned));
        kinds.extend(["kind", "listKind"].into_iter().filter_map(accepted));
    }
    let mut found = Vec::new();
    let mut wants = |reason: &'static str, name: &str, taken: &BTreeSet<String>| {
        if taken.contains(name) {
            found.push((reason, format!("\"{name}\" is already in use")));
        }
    };
    wants("PluralConflict", text(names, "/plural"), &resources);
    wants("SingularConflict", text(names, "/singular"), &resources);
    for short in texts(names, "/shortNames") {
        wants("ShortNamesConflict", short, &resources);
    }
    wants("KindConflict", text(names, "/kind"), &kinds);
    wants("ListKindConflict", text(names, "/listKind"), &kinds);
    found
}

fn ensure_finalizer(crd: &mut Value) {
    if !crd.get("metadata").is_some_and(Value::is_object) {
        return;
    }
    let finalizers = &mut crd["metadata"]["finalizers"];
    match finalizers {
        Value::Array(list) => {
            if !list.iter().any(|one| one == CLEANUP) {
                list.push(json!(CLEANUP));
            }
        }
        other => *other = json!([CLEANUP]),
    }
}

/// Versions in which objects may have been stored.
fn store_versions(crd: &mut Value) {
    let mut stored: Vec<String> = texts(crd, "/status/storedVersions")
        .map(str::to_owned)
        .collect();
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    let storage = versions
        .into_iter()
        .flatten()
        .filter(|version| is_storage(version))
        .map(|version| text(version, "/name").to_owned());
    for version in storage {
        if !stored.contains(&version) {
            stored.push(version);
        }
    }
    crd["status"]["storedVersions"] = json!(stored);
}

/// Sets a condition; one that says the same as before keeps its time.
pub(in crate::orchestrator::api) fn set_condition(
    crd: &mut Value,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
) {
    let status = if holds { "True" } else { "False" };
    if !crd["status"]["conditions"].is_array() {
        crd["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = crd["status"]["conditions"].as_array_mut() else {
        return;
    };
    let present = conditions.iter_mut().find(|one| one["type"] == kind);
    let time = present
        .as_ref()
        .filter(|one| one["status"] == status)
        .and_then(|one| one.get("lastTransitionTime").cloned())
        .unwrap_or_else(|| json!(now()));
    let condition = json!({
        "type": kind,
        "status": status,
        "lastTransitionTime": time,
        "reason": reason,
        "message": message,
    });
    match present {
        Some(present) => *present = condition,
        None => conditions.push(condition),
    }
}

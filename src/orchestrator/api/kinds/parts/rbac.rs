//! Roles and their bindings (k8s.io/kubernetes/pkg/apis/rbac/validation).

use serde_json::{Value, json};

use super::causes::Causes;
use super::cells::{list, text};
use super::fields::{Object, child, children, set};
use super::names::{label, subdomain};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Where a role holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orchestrator::api) enum Scope {
    Namespace,
    Cluster,
}

/// Names of roles are parts of paths, and nothing more (`system:node` is one).
pub(in crate::orchestrator::api) fn name(name: &str) -> Option<&'static str> {
    if name == "." || name == ".." {
        Some("may not be '.' or '..'")
    } else if name.contains('/') || name.contains('%') {
        Some("may not contain '/' or '%'")
    } else {
        None
    }
}

/// A role's rules.
pub(in crate::orchestrator::api) fn rules(object: &Value, scope: Scope, found: &mut Causes) {
    for (number, rule) in list(object, "/rules").iter().enumerate() {
        let path = format!("rules[{number}]");
        let none = |field: &str| list(rule, &format!("/{field}")).is_empty();
        if none("verbs") {
            found.required(
                format!("{path}.verbs"),
                "verbs must contain at least one value",
            );
        }
        if !none("nonResourceURLs") {
            let urls = &rule["nonResourceURLs"];
            if scope == Scope::Namespace {
                found.invalid(
                    format!("{path}.nonResourceURLs"),
                    urls,
                    "namespaced rules cannot apply to non-resource URLs",
                );
            }
            if !none("apiGroups") || !none("resources") || !none("resourceNames") {
                found.invalid(
                    format!("{path}.nonResourceURLs"),
                    urls,
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            continue;
        }
        if none("apiGroups") {
            found.required(
                format!("{path}.apiGroups"),
                "resource rules must supply at least one api group",
            );
        }
        if none("resources") {
            found.required(
                format!("{path}.resources"),
                "resource rules must supply at least one resource",
            );
        }
    }
}

/// The groups of what a binding refers to.
pub(in crate::orchestrator::api) fn binding_defaults(object: &mut Object) {
    set(child(object, "roleRef"), "apiGroup", json!(GROUP));
    for subject in children(object, "subjects") {
        if ["User", "Group"].contains(&subject.get("kind").and_then(Value::as_str).unwrap_or("")) {
            set(Some(subject), "apiGroup", json!(GROUP));
        }
    }
}

/// A binding to a role of one of these kinds.
pub(in crate::orchestrator::api) fn binding(
    object: &Value,
    old: Option<&Value>,
    roles: &[&str],
    found: &mut Causes,
) {
    let role = object.get("roleRef").unwrap_or(&Value::Null);
    found.one_of("roleRef.apiGroup", role.get("apiGroup"), &[GROUP]);
    found.one_of("roleRef.kind", role.get("kind"), roles);
    if text(role, "/name").is_empty() {
        found.required("roleRef.name", "");
    }
    if old.is_some_and(|old| old.get("roleRef") != Some(role)) {
        found.invalid("roleRef", role, "cannot change roleRef");
    }
    for (number, one) in list(object, "/subjects").iter().enumerate() {
        subject(one, &format!("subjects[{number}]"), found);
    }
}

fn subject(subject: &Value, path: &str, found: &mut Causes) {
    let name = text(subject, "/name");
    if name.is_empty() {
        found.required(format!("{path}.name"), "");
    }
    let group = subject
        .get("apiGroup")
        .cloned()
        .unwrap_or_else(|| json!(""));
    let kind = subject.get("kind");
    found.one_of(
        format!("{path}.kind"),
        kind,
        &["Group", "ServiceAccount", "User"],
    );
    if text(subject, "/kind") == "ServiceAccount" {
        if let Some(problem) = subdomain(name).filter(|_| !name.is_empty()) {
            found.invalid(format!("{path}.name"), &json!(name), problem);
        }
        if group != "" {
            found.unsupported(format!("{path}.apiGroup"), &group, &[""]);
        }
        let namespace = text(subject, "/namespace");
        if namespace.is_empty() {
            found.required(format!("{path}.namespace"), "");
        } else if let Some(problem) = label(namespace) {
            found.invalid(format!("{path}.namespace"), &json!(namespace), problem);
        }
    } else if kind.is_some() && group != GROUP {
        found.unsupported(format!("{path}.apiGroup"), &group, &[GROUP]);
    }
}

/// The names of a binding's subjects of a kind.
pub(in crate::orchestrator::api) fn subjects(binding: &Value, kind: &str) -> String {
    let names: Vec<String> = list(binding, "/subjects")
        .iter()
        .filter(|subject| text(subject, "/kind") == kind)
        .map(|subject| {
            let name = text(subject, "/name");
            match text(subject, "/namespace") {
                namespace if kind == "ServiceAccount" => format!("{namespace}/{name}"),
                _ => name.to_owned(),
            }
        })
        .collect();
    names.join(", ")
}

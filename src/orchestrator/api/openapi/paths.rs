//! The paths of the kinds: verbs and parameters. Of the subresources only those that switch to streams are there: no client looks for the
//! others here.

use serde_json::{Map, Value, json};

use super::{Version, root};
use crate::orchestrator::api::kinds::{Kind, Subresource};

/// A verb of a kind, as it stands in a document.
struct Verb {
    method: &'static str,
    action: &'static str,
    parameters: &'static [&'static str],
}

const fn verb(
    method: &'static str,
    action: &'static str,
    parameters: &'static [&'static str],
) -> Verb {
    Verb {
        method,
        action,
        parameters,
    }
}

const LISTED: &[&str] = &[
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
];
const WRITTEN: &[&str] = &["dryRun", "fieldManager", "fieldValidation"];
const PATCHED: &[&str] = &["dryRun", "fieldManager", "fieldValidation", "force"];
const DELETED: &[&str] = &["dryRun", "gracePeriodSeconds", "propagationPolicy"];

const ON_ALL: &[Verb] = &[verb("get", "list", LISTED)];
const ON_COLLECTION: &[Verb] = &[
    verb("get", "list", LISTED),
    verb("post", "post", WRITTEN),
    verb("delete", "deletecollection", DELETED),
];
const ON_OBJECT: &[Verb] = &[
    verb("get", "get", &["resourceVersion"]),
    verb("put", "put", WRITTEN),
    verb("patch", "patch", PATCHED),
    verb("delete", "delete", DELETED),
];

/// Subresources that switch to streams, the kinds of their parameters, and these.
const CONNECTED: &[(Subresource, &str, &[&str])] = &[
    (
        Subresource::Exec,
        "PodExecOptions",
        &["command", "container", "stderr", "stdin", "stdout", "tty"],
    ),
    (
        Subresource::Attach,
        "PodAttachOptions",
        &["container", "stderr", "stdin", "stdout", "tty"],
    ),
    (
        Subresource::PortForward,
        "PodPortForwardOptions",
        &["ports"],
    ),
];

/// Patches that are named. The strategic merge patch is not: without it, newer clients compute it from their own types, which
/// say more about merging than these documents.
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
];

/// Paths with their verbs.
pub(super) fn of_kinds(of: &[&Kind], version: Version) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in of {
        let (root, plural) = (root(kind), kind.plural);
        let mut add = |path: String, of: &str, verbs: &[Verb]| {
            let operations: Map<String, Value> = verbs
                .iter()
                .map(|verb| (verb.method.to_owned(), operation(kind, of, verb, version)))
                .collect();
            paths.insert(path, Value::Object(operations));
        };
        let collection = if kind.namespaced {
            add(format!("{root}/{plural}"), kind.kind, ON_ALL);
            format!("{root}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{root}/{plural}")
        };
        add(format!("{collection}/{{name}}"), kind.kind, ON_OBJECT);
        for (part, options, parameters) in CONNECTED.iter().filter(|(part, ..)| kind.has(*part)) {
            let verbs = ["get", "post"].map(|method| verb(method, "connect", parameters));
            let path = format!("{collection}/{{name}}/{}", part.name());
            add(path, options, &verbs);
        }
        add(collection, kind.kind, ON_COLLECTION);
    }
    paths
}

fn operation(kind: &Kind, of: &str, verb: &Verb, version: Version) -> Value {
    let parameters: Vec<Value> = verb
        .parameters
        .iter()
        .map(|name| match version {
            Version::V2 => json!({"name": name, "in": "query", "type": "string"}),
            Version::V3 => json!({"name": name, "in": "query", "schema": {"type": "string"}}),
        })
        .collect();
    let mut operation = json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": verb.action,
        "x-kubernetes-group-version-kind":
            {"group": kind.group, "version": kind.version, "kind": of},
    });
    if verb.method == "patch" {
        match version {
            Version::V2 => operation["consumes"] = json!(PATCHES),
            Version::V3 => {
                let content: Map<String, Value> = PATCHES
                    .iter()
                    .map(|media| ((*media).to_owned(), json!({"schema": {"type": "object"}})))
                    .collect();
                operation["requestBody"] = json!({"content": content});
            }
        }
    }
    operation
}

//! What the server serves, as clients ask for it: derived from the table of kinds.

use serde_json::{Value, json};

use super::kinds::{self, Kind, Subresource};
use crate::kubernetes::version::{KUBERNETES_MAJOR, KUBERNETES_MINOR, KUBERNETES_VERSION};

/// `/api`.
#[must_use]
pub fn legacy_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `/apis`.
#[must_use]
pub fn groups() -> Value {
    let mut names: Vec<&str> = Vec::new();
    for kind in kinds::ALL {
        if !kind.group.is_empty() && !names.contains(&kind.group) {
            names.push(kind.group);
        }
    }
    let groups: Vec<Value> = names.iter().filter_map(|name| group(name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
#[must_use]
pub fn group(name: &str) -> Option<Value> {
    let kind = kinds::ALL
        .iter()
        .find(|kind| kind.group == name && !name.is_empty())?;
    let version = json!({"groupVersion": kind.api_version(), "version": kind.version});
    Some(
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version], "preferredVersion": version}),
    )
}

/// `/api/v1`, `/apis/<group>/<version>`.
#[must_use]
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    let mut group_version = None;
    for kind in kinds::ALL
        .iter()
        .filter(|kind| kind.group == group && kind.version == version)
    {
        group_version = Some(kind.api_version());
        list.push(resource(kind));
        list.extend(
            kind.subresources()
                .iter()
                .map(|part| subresource(kind, *part)),
        );
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version?, "resources": list}),
    )
}

fn resource(kind: &Kind) -> Value {
    let mut out = json!({
        "name": kind.plural,
        "singularName": kind.singular(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    });
    if !kind.short.is_empty() {
        out["shortNames"] = json!(kind.short);
    }
    if kind.in_all {
        out["categories"] = json!(["all"]);
    }
    out
}

fn subresource(kind: &Kind, part: Subresource) -> Value {
    let (name, verbs): (_, &[&str]) = match part {
        Subresource::Status => (kind.kind, &["get", "patch", "update"]),
        Subresource::Scale => ("Scale", &["get", "patch", "update"]),
        Subresource::Binding => ("Binding", &["create"]),
        Subresource::Log => (kind.kind, &["get"]),
    };
    let mut out = json!({
        "name": format!("{}/{}", kind.plural, part.name()),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": name,
        "verbs": verbs,
    });
    if part == Subresource::Scale {
        out["group"] = json!("autoscaling");
        out["version"] = json!("v1");
    }
    out
}

/// `/version`.
#[must_use]
pub fn version() -> Value {
    json!({
        "major": KUBERNETES_MAJOR,
        "minor": KUBERNETES_MINOR,
        "gitVersion": format!("v{KUBERNETES_VERSION}+flightcage"),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_discoverable() {
        for kind in kinds::ALL {
            let list = resources(kind.group, kind.version).expect("its group is served");
            let names: Vec<&str> = list["resources"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|one| one["name"].as_str())
                .collect();
            assert!(names.contains(&kind.plural));
        }
        assert_eq!(groups()["groups"].as_array().map(Vec::len), Some(3));
        assert!(resources("batch", "v1").is_none());
        assert!(group("").is_none());
    }
}

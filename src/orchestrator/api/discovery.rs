//! What the server serves, as clients ask for it: derived from the table of kinds.

use serde_json::{Value, json};

use super::custom::Served;
use super::kinds::{Kind, Subresource};
use super::reviews;
use crate::kubernetes::version::{KUBERNETES_MAJOR, KUBERNETES_MINOR, KUBERNETES_VERSION};

/// What can be done to objects of every kind.
pub(super) const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

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
pub fn groups(served: &Served) -> Value {
    let mut names: Vec<&str> = Vec::new();
    let of_kinds = served.kinds().iter().map(|kind| kind.group);
    for group in of_kinds.chain(reviews::ALL.iter().map(|review| review.group)) {
        if !group.is_empty() && !names.contains(&group) {
            names.push(group);
        }
    }
    let groups: Vec<Value> = names
        .iter()
        .filter_map(|name| group(served, name))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/<group>`.
#[must_use]
pub fn group(served: &Served, name: &str) -> Option<Value> {
    let of_kinds = served
        .kinds()
        .iter()
        .filter(|kind| kind.group == name && !name.is_empty())
        .map(|kind| kind.version);
    let of_reviews = reviews::ALL
        .iter()
        .filter(|review| review.group == name)
        .map(|_| reviews::VERSION);
    let mut versions: Vec<&str> = of_kinds.chain(of_reviews).collect();
    versions.sort_by_key(|&version| std::cmp::Reverse(priority(version)));
    versions.dedup();
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": preferred}),
    )
}

/// What makes a version come before others (apimachinery/pkg/version: `CompareKubeAwareVersionStrings`): stable ones before betas
/// before alphas, higher ones before lower ones, and all others last, by their letters.
fn priority(version: &str) -> (u8, u64, u64, std::cmp::Reverse<&str>) {
    let other = (0, 0, 0, std::cmp::Reverse(version));
    let Some(rest) = version.strip_prefix('v') else {
        return other;
    };
    for (word, rank) in [("beta", 2), ("alpha", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return match (major.parse(), minor.parse()) {
                (Ok(major), Ok(minor)) => (rank, major, minor, std::cmp::Reverse("")),
                _ => other,
            };
        }
    }
    rest.parse()
        .map_or(other, |major| (3, major, 0, std::cmp::Reverse("")))
}

/// `/api/v1`, `/apis/<group>/<version>`.
#[must_use]
pub fn resources(served: &Served, group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    let mut group_version = None;
    for kind in served
        .kinds()
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
    for review in reviews::ALL
        .iter()
        .filter(|review| review.group == group && version == reviews::VERSION)
    {
        group_version = Some(format!("{group}/{version}"));
        list.push(json!({
            "name": review.plural,
            "singularName": review.kind.to_lowercase(),
            "namespaced": review.namespaced,
            "kind": review.kind,
            "verbs": ["create"],
        }));
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
        "verbs": VERBS,
    });
    if !kind.short.is_empty() {
        out["shortNames"] = json!(kind.short);
    }
    if kind.in_all {
        out["categories"] = json!(["all"]);
    }
    if let Some(definition) = kind.definition() {
        out["singularName"] = json!(definition.singular);
        for (field, names) in [
            ("shortNames", &definition.short),
            ("categories", &definition.categories),
        ] {
            if !names.is_empty() {
                out[field] = json!(names);
            }
        }
    }
    out
}

fn subresource(kind: &Kind, part: Subresource) -> Value {
    let (name, verbs): (_, &[&str]) = match part {
        Subresource::Status => (kind.kind, &["get", "patch", "update"]),
        Subresource::Scale => ("Scale", &["get", "patch", "update"]),
        Subresource::Binding => ("Binding", &["create"]),
        Subresource::Log => (kind.kind, &["get"]),
        Subresource::Eviction => ("Eviction", &["create"]),
        Subresource::Exec => ("PodExecOptions", &["create", "get"]),
        Subresource::Attach => ("PodAttachOptions", &["create", "get"]),
        Subresource::PortForward => ("PodPortForwardOptions", &["create", "get"]),
        Subresource::Token => ("TokenRequest", &["create"]),
    };
    let mut out = json!({
        "name": format!("{}/{}", kind.plural, part.name()),
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": name,
        "verbs": verbs,
    });
    let group = match part {
        Subresource::Scale => Some("autoscaling"),
        Subresource::Eviction => Some("policy"),
        Subresource::Token => Some("authentication.k8s.io"),
        Subresource::Status
        | Subresource::Binding
        | Subresource::Log
        | Subresource::Exec
        | Subresource::Attach
        | Subresource::PortForward => None,
    };
    if let Some(group) = group {
        out["group"] = json!(group);
        out["version"] = json!("v1");
    }
    out
}

/// The media type of [`aggregated`].
pub(super) const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// `/api` or `/apis` for clients that ask for everything at once.
pub(super) fn aggregated(served: &Served, core: bool) -> Value {
    let groups = if core {
        json!([{"name": "", "versions": [{"version": "v1"}]}])
    } else {
        groups(served)["groups"].take()
    };
    let groups = groups.as_array().into_iter().flatten();
    let items: Vec<Value> = groups
        .map(|group| {
            let name = group["name"].as_str().unwrap_or_default();
            let versions = group["versions"].as_array().into_iter().flatten();
            let versions: Vec<Value> = versions
                .map(|version| {
                    let version = version["version"].as_str().unwrap_or_default();
                    let list = resources(served, name, version).unwrap_or_default();
                    let resources = aggregated_resources(name, version, &list["resources"]);
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({
                "metadata": {"name": name, "creationTimestamp": null},
                "versions": versions,
            })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

/// The resources of a group, each with its subresources, which follow it in `list`.
fn aggregated_resources(group: &str, version: &str, list: &Value) -> Vec<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for one in list.as_array().into_iter().flatten() {
        let own = |field: &str, default: &str| match one.get(field) {
            Some(value) => value.clone(),
            None => json!(default),
        };
        let kind = json!({"group": own("group", group), "version": own("version", version), "kind": one["kind"]});
        let name = one["name"].as_str().unwrap_or_default();
        if let Some((_, part)) = name.split_once('/') {
            let part = json!({"subresource": part, "responseKind": kind, "verbs": one["verbs"]});
            let parts = resources.last_mut().map(|last| &mut last["subresources"]);
            match parts {
                Some(Value::Array(parts)) => parts.push(part),
                Some(parts) => *parts = json!([part]),
                None => {}
            }
            continue;
        }
        let scope = if one["namespaced"] == true {
            "Namespaced"
        } else {
            "Cluster"
        };
        let mut resource = json!({
            "resource": name,
            "responseKind": kind,
            "scope": scope,
            "singularResource": one["singularName"],
            "verbs": one["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if let Some(value) = one.get(field) {
                resource[field] = value.clone();
            }
        }
        resources.push(resource);
    }
    resources
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
    use crate::orchestrator::api::kinds;

    #[test]
    fn streams_of_pods_are_listed() {
        let list = resources(&Served::default(), "", "v1").expect("the core group");
        for (name, kind) in [
            ("pods/exec", "PodExecOptions"),
            ("pods/attach", "PodAttachOptions"),
            ("pods/portforward", "PodPortForwardOptions"),
        ] {
            let mut listed = list["resources"].as_array().into_iter().flatten();
            let found = listed.find(|one| one["name"] == name).expect(name);
            assert_eq!(found["kind"], kind);
            assert_eq!(found["verbs"], json!(["create", "get"]));
        }
    }

    #[test]
    fn versions_are_in_kubernetes_order() {
        let mut versions = [
            "foo10", "v1alpha2", "v2", "v1beta1", "v10", "foo1", "v1beta2",
        ];
        versions.sort_by_key(|&version| std::cmp::Reverse(priority(version)));
        assert_eq!(
            versions,
            [
                "v10", "v2", "v1beta2", "v1beta1", "v1alpha2", "foo1", "foo10"
            ]
        );
    }

    #[test]
    fn everything_at_once_says_the_same() {
        let core = aggregated(&Served::default(), true);
        let resources = &core["items"][0]["versions"][0]["resources"];
        let pods = resources
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["resource"] == "pods")
            .expect("pods");
        assert_eq!(pods["scope"], json!("Namespaced"));
        assert_eq!(
            pods["responseKind"],
            json!({"group": "", "version": "v1", "kind": "Pod"})
        );
        let parts = pods["subresources"].to_string();
        assert!(parts.contains("\"binding\"") && parts.contains("\"log\""));
        let groups = aggregated(&Served::default(), false);
        let names: Vec<&str> = groups["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|group| group["metadata"]["name"].as_str())
            .collect();
        assert!(names.contains(&"apps") && names.contains(&"authorization.k8s.io"));
    }

    #[test]
    fn every_kind_is_discoverable() {
        for kind in kinds::ALL {
            let list = resources(&Served::default(), kind.group, kind.version)
                .expect("its group is served");
            let names: Vec<&str> = list["resources"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|one| one["name"].as_str())
                .collect();
            assert!(names.contains(&kind.plural));
        }
        let reviews = resources(&Served::default(), "authorization.k8s.io", "v1").expect("reviews");
        assert_eq!(reviews["resources"][0]["verbs"], json!(["create"]));
        assert!(resources(&Served::default(), "birds", "v1").is_none());
        assert!(group(&Served::default(), "").is_none());
    }
}

//! OpenAPI documents of what is served: generated from the kinds and from the table of messages, so that no kind is forgotten.
//!
//! Fields have names, types and lists' keys but no descriptions. Clients use version 3 (`kubectl explain`, which parameters a
//! request may have); kubectl before 1.24 uses version 2, as protobuf.

mod gnostic;
mod paths;
mod schemas;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};

use super::custom::Served;
use super::kinds::{self, Kind};
use super::registry::Registry;
use super::status::Status;
use crate::kubernetes::version::KUBERNETES_VERSION;

/// The media type of version 2 as protobuf.
const PROTOBUF_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Which version of OpenAPI a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V2,
    V3,
}

/// Documents of version 3 by their paths below `/openapi/v3/`, and their index.
static V3: LazyLock<BTreeMap<String, Bytes>> = LazyLock::new(|| {
    let mut documents = BTreeMap::new();
    let mut index = Map::new();
    for kind in kinds::ALL {
        let path = root(kind).trim_start_matches('/').to_owned();
        if documents.contains_key(&path) {
            continue;
        }
        let of_group: Vec<&Kind> = kinds::ALL
            .iter()
            .copied()
            .filter(|other| root(other) == root(kind))
            .collect();
        let text = v3(&of_group).to_string();
        let hash = crc32fast::hash(text.as_bytes());
        let url = format!("/openapi/v3/{path}?hash={hash:08X}");
        index.insert(path.clone(), json!({"serverRelativeURL": url}));
        documents.insert(path, Bytes::from(text));
    }
    let index = json!({"paths": index}).to_string();
    documents.insert(String::new(), Bytes::from(index));
    documents
});

static V2_JSON: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(v2(kinds::ALL).to_string()));
static V2_PROTOBUF: LazyLock<Bytes> =
    LazyLock::new(|| Bytes::from(gnostic::encode(&v2(kinds::ALL))));

/// The path under which a kind's group and version are served.
fn root(kind: &Kind) -> String {
    if kind.group.is_empty() {
        format!("/api/{}", kind.version)
    } else {
        format!("/apis/{}/{}", kind.group, kind.version)
    }
}

/// The document at a path, if it is one of ours; the first request for one makes them all. Those of definitions come and
/// go with them: of version 3 they are made anew for each request.
pub(super) async fn answer(
    registry: &Registry,
    path: &str,
    accept: &str,
) -> Option<Result<Response, Status>> {
    let path = path.trim_end_matches('/');
    let v3 = path
        .strip_prefix("/openapi/v3")
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .map(|rest| rest.trim_start_matches('/').to_owned());
    if v3.is_none() && path != "/openapi/v2" {
        return None;
    }
    let protobuf = accept.contains("proto-openapi.spec.v2");
    let served = registry.served();
    let made = tokio::task::spawn_blocking(move || match v3 {
        Some(path) => (custom_v3(&served, &path), "application/json"),
        None if !served.custom().is_empty() => {
            let (json, encoded) = served.openapi.get_or_init(|| {
                let document = v2(served.kinds());
                let json = Bytes::from(document.to_string());
                (json, Bytes::from(gnostic::encode(&document)))
            });
            if protobuf {
                (Some(encoded.clone()), PROTOBUF_V2)
            } else {
                (Some(json.clone()), "application/json")
            }
        }
        None if protobuf => (Some(V2_PROTOBUF.clone()), PROTOBUF_V2),
        None => (Some(V2_JSON.clone()), "application/json"),
    });
    Some(match made.await {
        Ok((Some(body), media)) => {
            Ok((StatusCode::OK, [(header::CONTENT_TYPE, media)], body).into_response())
        }
        Ok((None, _)) => Err(Status::no_such_path()),
        Err(_) => Err(Status::unavailable("the server is stopping")),
    })
}

/// A document of version 3, or their index, with what definitions define.
fn custom_v3(served: &Served, path: &str) -> Option<Bytes> {
    let is_custom = |kind: &&&Kind| kind.custom.is_some();
    let of_path = |kind: &Kind| root(kind).trim_start_matches('/').to_owned();
    if path.is_empty() {
        let mut index: Value = serde_json::from_slice(V3.get("")?).ok()?;
        let mut hashes: BTreeMap<String, u32> = BTreeMap::new();
        for kind in served.kinds().iter().filter(is_custom) {
            let own = kind.definition().map_or(0, |definition| definition.hash);
            let hash = hashes.entry(of_path(kind)).or_default();
            *hash = hash.rotate_left(1) ^ own ^ crc32fast::hash(kind.plural.as_bytes());
        }
        for (path, hash) in hashes {
            let url = format!("/openapi/v3/{path}?hash={hash:08X}");
            index["paths"][&path] = json!({"serverRelativeURL": url});
        }
        return Some(index.to_string().into());
    }
    let mut custom = served.kinds().iter().filter(is_custom);
    if !custom.any(|kind| of_path(kind) == path) {
        return V3.get(path).cloned();
    }
    let of_group: Vec<&Kind> = served
        .kinds()
        .iter()
        .copied()
        .filter(|kind| of_path(kind) == path)
        .collect();
    Some(v3(&of_group).to_string().into())
}

fn info() -> Value {
    json!({"title": "Kubernetes, the subset that Flightcage serves", "version": format!("v{KUBERNETES_VERSION}")})
}

fn v3(of: &[&Kind]) -> Value {
    json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths::of_kinds(of, Version::V3),
        "components": {"schemas": schemas::of_kinds(of, Version::V3)},
    })
}

fn v2(of: &[&Kind]) -> Value {
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths::of_kinds(of, Version::V2),
        "definitions": schemas::of_kinds(of, Version::V2),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(path: &str) -> Value {
        serde_json::from_slice(&V3[path]).expect("JSON")
    }

    #[test]
    fn every_kind_has_a_schema_and_every_reference_leads_somewhere() {
        let index = document("");
        for kind in kinds::ALL {
            let path = root(kind).trim_start_matches('/').to_owned();
            assert!(index["paths"][&path]["serverRelativeURL"].is_string());
            let schemas = document(&path)["components"]["schemas"].clone();
            let gvk = json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
            let found = schemas
                .as_object()
                .expect("schemas")
                .values()
                .any(|schema| schema["x-kubernetes-group-version-kind"] == gvk);
            assert!(found, "{} has no schema", kind.kind);
        }
        for (path, body) in V3.iter().filter(|(path, _)| !path.is_empty()) {
            let document = document(path);
            let text = String::from_utf8(body.to_vec()).expect("UTF-8");
            for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
                let name = reference.split('"').next().unwrap_or_default();
                assert!(
                    document["components"]["schemas"][name].is_object(),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn a_pod_reads_as_kubernetes_describes_it() {
        let schemas = document("api/v1")["components"]["schemas"].clone();
        let spec = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"];
        assert_eq!(
            spec["containers"]["items"]["$ref"],
            json!("#/components/schemas/io.k8s.api.core.v1.Container")
        );
        assert_eq!(
            spec["volumes"]["x-kubernetes-patch-strategy"],
            json!("merge,retainKeys")
        );
        assert_eq!(
            spec["nodeSelector"]["additionalProperties"]["type"],
            json!("string")
        );
        // A message whose fields stand beside it in JSON has none of its own.
        let volume = &schemas["io.k8s.api.core.v1.Volume"]["properties"];
        assert!(volume["emptyDir"].is_object() && volume["~"].is_null());
    }

    #[test]
    fn streams_of_pods_have_paths() {
        let paths = document("api/v1")["paths"].clone();
        for (part, kind) in [
            ("exec", "PodExecOptions"),
            ("attach", "PodAttachOptions"),
            ("portforward", "PodPortForwardOptions"),
        ] {
            let path = format!("/api/v1/namespaces/{{namespace}}/pods/{{name}}/{part}");
            for method in ["get", "post"] {
                let operation = &paths[&path][method];
                assert_eq!(operation["x-kubernetes-action"], "connect", "{path}");
                let of = &operation["x-kubernetes-group-version-kind"]["kind"];
                assert_eq!(of, kind, "{path}");
            }
        }
        let of_secrets = "/api/v1/namespaces/{namespace}/secrets/{name}/exec";
        assert!(paths[of_secrets].is_null());
    }

    #[test]
    fn version_two_is_written_as_protobuf() {
        let found = |text: &str| {
            V2_PROTOBUF
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        assert!(V2_PROTOBUF.starts_with(b"\x0a\x032.0"));
        assert!(found("io.k8s.api.core.v1.PodSpec") && found("fieldValidation"));
    }
}

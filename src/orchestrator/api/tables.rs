//! Objects as tables, the way `kubectl get` prints them (k8s.io/kubernetes/pkg/printers/internalversion/printers.go).

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::Kind;

/// How a client wants its objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Object,
    /// As meta.k8s.io Table of this version.
    Table(&'static str),
    /// As meta.k8s.io/v1 PartialObjectMetadata.
    Metadata,
}

impl Form {
    /// From `Accept`: the first form that is known. Without the header it is the object.
    #[must_use]
    pub fn from_accept(accept: &str) -> Option<Self> {
        if accept.trim().is_empty() {
            return Some(Self::Object);
        }
        accept.split(',').find_map(|choice| {
            let mut parts = choice.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let parameters: Vec<&str> = parts.collect();
            let has = |parameter: &str| parameters.contains(&parameter);
            let json = ["application/json", "*/*", "application/*"].contains(&media);
            if !json {
                return None;
            }
            if has("as=Table") {
                return if has("v=v1beta1") {
                    Some(Self::Table("meta.k8s.io/v1beta1"))
                } else {
                    Some(Self::Table("meta.k8s.io/v1"))
                };
            }
            if has("as=PartialObjectMetadata") || has("as=PartialObjectMetadataList") {
                return Some(Self::Metadata);
            }
            if parameters
                .iter()
                .any(|parameter| parameter.starts_with("as="))
            {
                None
            } else {
                Some(Self::Object)
            }
        })
    }

    /// One object in this form.
    #[must_use]
    pub fn event_object<'a>(self, kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
        match self {
            Self::Object => Cow::Borrowed(object),
            Self::Table(version) => Cow::Owned(table(
                kind,
                version,
                std::iter::once(object),
                object.pointer("/metadata/resourceVersion"),
                &Value::Null,
            )),
            Self::Metadata => Cow::Owned(json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object.get("metadata"),
            })),
        }
    }

    /// A list in this form. `metadata` is the list's.
    #[must_use]
    pub fn list(self, kind: &Kind, objects: &[Arc<Value>], metadata: &Value) -> Vec<u8> {
        let body = match self {
            // Written by hand: no object is copied for a list.
            Self::Object => {
                let mut body = format!(
                    "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                    kind.kind,
                    kind.api_version()
                )
                .into_bytes();
                for (number, object) in objects.iter().enumerate() {
                    if number > 0 {
                        body.push(b',');
                    }
                    body.extend_from_slice(object.to_string().as_bytes());
                }
                body.extend_from_slice(b"]}");
                return body;
            }
            Self::Table(version) => table(
                kind,
                version,
                objects.iter().map(|object| &**object),
                metadata.get("resourceVersion"),
                metadata,
            ),
            Self::Metadata => {
                let items: Vec<Cow<'_, Value>> = objects
                    .iter()
                    .map(|object| self.event_object(kind, object))
                    .collect();
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items})
            }
        };
        body.to_string().into_bytes()
    }
}

fn table<'a>(
    kind: &Kind,
    version: &str,
    objects: impl Iterator<Item = &'a Value>,
    revision: Option<&Value>,
    list_metadata: &Value,
) -> Value {
    let columns = kind.strategy.columns;
    let definitions: Vec<Value> = columns
        .iter()
        .map(|column| {
            let format = if column.name == "Name" { "name" } else { "" };
            json!({"name": column.name, "type": "string", "format": format, "description": "", "priority": i32::from(column.wide)})
        })
        .collect();
    let rows: Vec<Value> = objects
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|column| (column.cell)(object)).collect();
            let partial =
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata")});
            json!({"cells": cells, "object": partial})
        })
        .collect();
    let mut metadata = if list_metadata.is_object() {
        list_metadata.clone()
    } else {
        json!({})
    };
    if let Some(revision) = revision {
        metadata["resourceVersion"] = revision.clone();
    }
    json!({"kind": "Table", "apiVersion": version, "metadata": metadata, "columnDefinitions": definitions, "rows": rows})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::api::kinds;

    #[test]
    fn accept_headers() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(
            Form::from_accept(kubectl),
            Some(Form::Table("meta.k8s.io/v1"))
        );
        assert_eq!(
            Form::from_accept("application/vnd.kubernetes.protobuf, */*"),
            Some(Form::Object)
        );
        assert_eq!(Form::from_accept(""), Some(Form::Object));
        assert_eq!(Form::from_accept("text/html"), None);
        assert_eq!(Form::from_accept("application/json;as=Song"), None);
    }

    #[test]
    fn a_pod_row() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running",
            "containerStatuses": [{"ready": false, "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}});
        let table = Form::Table("meta.k8s.io/v1")
            .event_object(&kinds::POD, &pod)
            .into_owned();
        let cells = &table["rows"][0]["cells"];
        assert_eq!(cells[0], json!("p"));
        assert_eq!(
            (&cells[1], &cells[2], &cells[3]),
            (&json!("0/1"), &json!("CrashLoopBackOff"), &json!("2"))
        );
    }
}

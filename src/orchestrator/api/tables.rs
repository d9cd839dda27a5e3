//! Objects as tables, the way `kubectl get` prints them (k8s.io/kubernetes/pkg/printers/internalversion/printers.go).

use std::borrow::Cow;

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
            Self::Table(version) => Cow::Owned(table(kind, version, object)),
            Self::Metadata => Cow::Owned(json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object.get("metadata"),
            })),
        }
    }
}

/// A Table of one object, as a watch sends it.
fn table(kind: &Kind, version: &str, object: &Value) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": version,
        "metadata": {"resourceVersion": object.pointer("/metadata/resourceVersion")},
        "columnDefinitions": columns(kind),
        "rows": [row(kind, object)],
    })
}

/// A Table's `columnDefinitions`.
pub(super) fn columns(kind: &Kind) -> Value {
    if let Some(definition) = kind.definition() {
        return definition.columns.definitions();
    }
    let definitions = kind.strategy.columns.iter().map(|column| {
        let format = if column.name == "Name" { "name" } else { "" };
        json!({"name": column.name, "type": "string", "format": format, "description": "", "priority": i32::from(column.wide)})
    });
    Value::Array(definitions.collect())
}

/// A row of a Table.
pub(super) fn row(kind: &Kind, object: &Value) -> Value {
    let cells: Vec<Value> = match kind.definition() {
        Some(definition) => definition.columns.cells(object),
        None => {
            let columns = kind.strategy.columns.iter();
            columns.map(|column| (column.cell)(object)).collect()
        }
    };
    let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata")});
    json!({"cells": cells, "object": partial})
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

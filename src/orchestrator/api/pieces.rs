//! Lists as they are sent, in any form: rendered while they are read.
//!
//! A reader that is slow holds one piece, and the objects that the store holds anyway.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::Value;

use super::http::json_response;
use super::kinds::Kind;
use super::limits::PIECE_BYTES;
use super::tables::{self, Form};

/// The answer with these objects; `metadata` is the list's. A short list has a length, a long one comes in pieces.
pub(super) fn respond(
    kind: &'static Kind,
    form: Form,
    metadata: Value,
    objects: Vec<Arc<Value>>,
) -> Response {
    let mut pieces = Pieces::new(kind, form, metadata, objects);
    let first = pieces.next().unwrap_or_default();
    if pieces.over {
        return json_response(StatusCode::OK, first.to_vec());
    }
    let pieces = std::iter::once(first).chain(pieces);
    let stream = futures::stream::iter(pieces.map(Ok::<_, std::convert::Infallible>));
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-cache, private"),
    ];
    (StatusCode::OK, headers, Body::from_stream(stream)).into_response()
}

struct Pieces {
    kind: &'static Kind,
    form: Form,
    /// The list's metadata, until the head has been written.
    head: Option<Value>,
    objects: std::vec::IntoIter<Arc<Value>>,
    first: bool,
    over: bool,
}

impl Pieces {
    fn new(kind: &'static Kind, form: Form, metadata: Value, objects: Vec<Arc<Value>>) -> Self {
        Self {
            kind,
            form,
            head: Some(metadata),
            objects: objects.into_iter(),
            first: true,
            over: false,
        }
    }

    /// Everything before the first object.
    fn head(&self, metadata: &Value) -> String {
        let list = |kind: &str, version: &str, more: &str, objects: &str| {
            format!(
                "{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},{more}\"{objects}\":["
            )
        };
        match self.form {
            Form::Object => list(
                &self.kind.list_kind(),
                &self.kind.api_version(),
                "",
                "items",
            ),
            Form::Metadata => list("PartialObjectMetadataList", "meta.k8s.io/v1", "", "items"),
            Form::Table(version) => {
                let columns = tables::columns(self.kind);
                let columns = format!("\"columnDefinitions\":{columns},");
                list("Table", version, &columns, "rows")
            }
        }
    }

    fn element(&self, object: &Value) -> String {
        match self.form {
            Form::Table(_) => tables::row(self.kind, object).to_string(),
            Form::Object | Form::Metadata => self.form.event_object(self.kind, object).to_string(),
        }
    }
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let mut piece = match self.head.take() {
            Some(metadata) => self.head(&metadata),
            None => String::new(),
        };
        while piece.len() < PIECE_BYTES {
            let Some(object) = self.objects.next() else {
                piece.push_str("]}");
                self.over = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                piece.push(',');
            }
            piece.push_str(&self.element(&object));
        }
        Some(Bytes::from(piece))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::kinds;

    #[test]
    fn a_long_list_is_rendered_piece_by_piece_in_every_form() {
        // A Table shows the metadata: it is the metadata that is large.
        let object = Arc::new(
            json!({"metadata": {"name": "x", "annotations": {"a": "x".repeat(20_000)}}, "data": {"k": "v"}}),
        );
        for (form, kind, objects) in [
            (Form::Object, "ConfigMapList", "items"),
            (Form::Metadata, "PartialObjectMetadataList", "items"),
            (Form::Table("meta.k8s.io/v1"), "Table", "rows"),
        ] {
            for count in [0, 1, 5] {
                let metadata = json!({"resourceVersion": "7"});
                let list = vec![object.clone(); count];
                let all: Vec<Bytes> =
                    Pieces::new(&kinds::CONFIG_MAP, form, metadata, list).collect();
                assert_eq!(all.len(), count / 2 + 1);
                let list: Value = serde_json::from_slice(&all.concat()).expect("JSON");
                assert_eq!(list["kind"], json!(kind));
                assert_eq!(list["metadata"]["resourceVersion"], json!("7"));
                assert_eq!(list[objects].as_array().map(Vec::len), Some(count));
            }
        }
    }

    #[test]
    fn a_table_has_its_columns_and_its_rows_what_they_are_of() {
        let object = Arc::new(json!({"metadata": {"name": "m"}, "data": {"k": "v"}}));
        let form = Form::Table("meta.k8s.io/v1");
        let all: Vec<Bytes> =
            Pieces::new(&kinds::CONFIG_MAP, form, json!({}), vec![object]).collect();
        let table: Value = serde_json::from_slice(&all.concat()).expect("JSON");
        assert_eq!(table["columnDefinitions"][0]["name"], json!("Name"));
        assert_eq!(table["rows"][0]["cells"][0], json!("m"));
        assert_eq!(table["rows"][0]["cells"][1], json!("1"));
        assert_eq!(table["rows"][0]["object"]["metadata"]["name"], json!("m"));
    }
}

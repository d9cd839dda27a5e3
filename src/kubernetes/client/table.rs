//! Objects as the server prints them.

use serde::Deserialize;
use serde_json::Value;

use super::{Client, ClientError, ListParams, ResourceKind};

/// The form that `kubectl get` asks for, and objects where a server knows no tables.
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// Objects as rows of cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Titles of the columns that are always shown.
    pub columns: Vec<String>,
    /// One row an object.
    pub rows: Vec<Row>,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its namespace, empty if its kind has none.
    pub namespace: String,
    /// One cell a column.
    pub cells: Vec<String>,
}

impl Client {
    /// One object, or all of a namespace (of all namespaces if that is empty), as the server prints them.
    pub async fn table(
        &self,
        kind: &ResourceKind,
        namespace: &str,
        name: Option<&str>,
        params: &ListParams,
    ) -> Result<Table, ClientError> {
        let (path, query) = match name {
            Some(name) => (kind.object_path(namespace, name, None), Vec::new()),
            None => (kind.collection_path(namespace), params.query()),
        };
        let raw: RawTable = self.http.call_as(AS_TABLE, &path, &query).await?;
        Ok(read(raw))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawTable {
    #[serde(default)]
    column_definitions: Vec<Definition>,
    #[serde(default)]
    rows: Vec<RawRow>,
}

#[derive(Deserialize)]
struct Definition {
    name: String,
    #[serde(default)]
    priority: i64,
}

#[derive(Deserialize)]
struct RawRow {
    #[serde(default)]
    cells: Vec<Value>,
    #[serde(default)]
    object: Value,
}

fn read(raw: RawTable) -> Table {
    let shown = |column: usize| {
        raw.column_definitions
            .get(column)
            .is_some_and(|definition| definition.priority == 0)
    };
    let rows = raw.rows.iter().map(|row| Row {
        namespace: row.object["metadata"]["namespace"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        cells: row
            .cells
            .iter()
            .enumerate()
            .filter(|(column, _)| shown(*column))
            .map(|(_, cell)| match cell {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
            .collect(),
    });
    Table {
        rows: rows.collect(),
        columns: raw
            .column_definitions
            .iter()
            .filter(|definition| definition.priority == 0)
            .map(|definition| definition.name.clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wide_columns_are_left_out_and_numbers_are_written() {
        let raw = json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "IP", "priority": 1}, {"name": "Restarts"}],
            "rows": [{"cells": ["p", "10.78.1.2", 3], "object": {"metadata": {"namespace": "default"}}}],
        });
        let table = read(serde_json::from_value(raw).expect("a table"));
        assert_eq!(table.columns, ["Name", "Restarts"]);
        let row = Row {
            namespace: "default".to_owned(),
            cells: vec!["p".to_owned(), "3".to_owned()],
        };
        assert_eq!(table.rows, [row]);
    }
}

//! Tables of custom objects (apiextensions-apiserver/pkg/registry/customresource/tableconvertor).

use serde_json::{Value, json};

use super::json_path::JsonPath;
use crate::orchestrator::api::kinds::parts::causes::Causes;
use crate::orchestrator::api::kinds::parts::cells::{duration, text};

/// The columns of a version, after the name.
#[derive(Debug)]
pub(in crate::orchestrator::api) struct Columns(Vec<Column>);

#[derive(Debug)]
struct Column {
    name: String,
    of: String,
    format: String,
    description: String,
    priority: i64,
    path: JsonPath,
}

/// What a column may hold.
const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];

impl Columns {
    /// Reads `additionalPrinterColumns`; a version without them shows the age.
    pub(super) fn read(version: &Value, path: &str, found: &mut Causes) -> Self {
        let list = version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array)
            .filter(|list| !list.is_empty());
        let Some(list) = list else {
            let age = JsonPath::read(".metadata.creationTimestamp").ok();
            let age = age.map(|path| Column {
                name: "Age".to_owned(),
                of: "date".to_owned(),
                format: String::new(),
                description: "the time since it was created".to_owned(),
                priority: 0,
                path,
            });
            return Self(age.into_iter().collect());
        };
        let columns = list.iter().enumerate().filter_map(|(number, one)| {
            Column::read(
                one,
                &format!("{path}.additionalPrinterColumns[{number}]"),
                found,
            )
        });
        Self(columns.collect())
    }

    /// `columnDefinitions` of a Table.
    pub(in crate::orchestrator::api) fn definitions(&self) -> Value {
        let name = json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0});
        let others = self.0.iter().map(|column| {
            json!({
                "name": column.name,
                "type": column.of,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        });
        std::iter::once(name).chain(others).collect()
    }

    /// The cells of an object.
    pub(in crate::orchestrator::api) fn cells(&self, object: &Value) -> Vec<Value> {
        let name = json!(text(object, "/metadata/name"));
        let others = self.0.iter().map(|column| column.cell(object));
        std::iter::once(name).chain(others).collect()
    }
}

impl Column {
    fn read(column: &Value, path: &str, found: &mut Causes) -> Option<Self> {
        let own = |field: &str| text(column, &format!("/{field}")).to_owned();
        if own("name").is_empty() {
            found.required(format!("{path}.name"), "");
        }
        if !TYPES.contains(&own("type").as_str()) {
            let given = column.get("type").unwrap_or(&Value::Null);
            found.unsupported(format!("{path}.type"), given, &TYPES);
        }
        let written = own("jsonPath");
        let at = format!("{path}.jsonPath");
        if written.is_empty() {
            found.required(at, "");
            return None;
        }
        let refused = |why: &str| found.invalid(at, &json!(written), why);
        let read = JsonPath::read(&written).map_err(refused).ok()?;
        Some(Self {
            name: own("name"),
            of: own("type"),
            format: own("format"),
            description: own("description"),
            priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
            path: read,
        })
    }

    fn cell(&self, object: &Value) -> Value {
        let Some(found) = self.path.find(object) else {
            return Value::Null;
        };
        match (self.of.as_str(), found) {
            (_, Value::Null) => Value::Null,
            ("integer", Value::Number(number)) => match number.as_i64() {
                Some(whole) => json!(whole),
                None => found.clone(),
            },
            ("number", Value::Number(_))
            | ("boolean", Value::Bool(_))
            | ("string", Value::String(_)) => found.clone(),
            ("string", other) => json!(other.to_string()),
            ("date", Value::String(time)) => match time.parse::<jiff::Timestamp>() {
                Ok(time) => json!(duration(
                    jiff::Timestamp::now().duration_since(time).as_secs()
                )),
                Err(_) => json!("<invalid>"),
            },
            _ => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_of_their_types() {
        let version = json!({"additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Parts", "type": "string", "jsonPath": ".spec.parts", "priority": 1},
            {"name": "Gone", "type": "string", "jsonPath": ".spec.gone"},
            {"name": "Odd", "type": "boolean", "jsonPath": ".spec.size"},
        ]});
        let mut found = Causes::default();
        let columns = Columns::read(&version, "spec.versions[0]", &mut found);
        assert!(found.0.is_empty(), "{found:?}");
        let object = json!({"metadata": {"name": "a"}, "spec": {"size": 3, "parts": ["x"]}});
        assert_eq!(
            columns.cells(&object),
            [
                json!("a"),
                json!(3),
                json!("[\"x\"]"),
                Value::Null,
                Value::Null
            ]
        );
        assert_eq!(columns.definitions()[2]["priority"], 1);
        let plain = Columns::read(&json!({}), "", &mut found);
        assert_eq!(plain.definitions()[1]["name"], "Age");
    }
}

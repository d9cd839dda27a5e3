//! One version of a definition, read: what the server needs of it for every request.

use serde_json::{Map, Value, json};

use super::columns::Columns;
use super::json_path::JsonPath;
use super::layout::Layout;
use super::schema::{Reader, Schema};
use super::shape::{self, Whole};
use super::values;
use crate::orchestrator::api::kinds::Subresource;
use crate::orchestrator::api::kinds::parts::causes::Causes;
use crate::orchestrator::api::kinds::parts::names::text;

/// One version of a definition.
#[derive(Debug)]
pub(in crate::orchestrator::api) struct Definition {
    /// What lists of its objects are called.
    pub(in crate::orchestrator::api) list_kind: String,
    /// What one is called.
    pub(in crate::orchestrator::api) singular: String,
    /// Short names.
    pub(in crate::orchestrator::api) short: Vec<String>,
    /// Categories, `all` among them if kubectl's `get all` shows it.
    pub(in crate::orchestrator::api) categories: Vec<String>,
    /// Its table.
    pub(in crate::orchestrator::api) columns: Columns,
    /// Whoever writes an object of this version is told this.
    pub(in crate::orchestrator::api) deprecation: Option<String>,
    /// `openAPIV3Schema` as it was written.
    pub(in crate::orchestrator::api) written: Value,
    /// Fields that selectors may name, without the point at their beginning.
    pub(in crate::orchestrator::api) selectable: Vec<String>,
    /// Of the schema: another one, another number.
    pub(in crate::orchestrator::api) hash: u32,
    has_status: bool,
    scale: Option<ScalePaths>,
    has_defaults: bool,
    schema: Schema,
}

/// Where an object has what its Scale shows.
#[derive(Debug)]
pub(in crate::orchestrator::api) struct ScalePaths {
    wanted: JsonPath,
    present: JsonPath,
    selector: Option<JsonPath>,
}

impl Definition {
    /// Reads one element of `spec.versions`, which stands at `path`, and notes what is wrong with it.
    pub(super) fn read(
        crd: &Value,
        version: &Value,
        path: &str,
        reader: &mut Reader,
        found: &mut Causes,
    ) -> Self {
        let null = Value::Null;
        let names = crd.pointer("/spec/names").unwrap_or(&null);
        let written = version
            .pointer("/schema/openAPIV3Schema")
            .filter(|schema| !schema.is_null());
        let at = format!("{path}.schema.openAPIV3Schema");
        let schema = match written {
            Some(json) => reader.root(json, &at, found),
            None => {
                found.required(at, "schemas are required");
                Schema::default()
            }
        };
        let scale = version
            .pointer("/subresources/scale")
            .filter(|scale| !scale.is_null());
        Self {
            list_kind: text(names, "/listKind").to_owned(),
            singular: text(names, "/singular").to_owned(),
            short: texts(names.get("shortNames")),
            categories: texts(names.get("categories")),
            columns: Columns::read(version, path, found),
            deprecation: deprecation(crd, version),
            written: written.cloned().unwrap_or_default(),
            hash: crc32fast::hash(written.map(Value::to_string).unwrap_or_default().as_bytes()),
            selectable: selectable(version, path, found),
            has_status: version
                .pointer("/subresources/status")
                .is_some_and(Value::is_object),
            scale: scale.and_then(|scale| ScalePaths::read(scale, path, found)),
            has_defaults: schema.has_defaults(),
            schema,
        }
    }

    /// Of a kind that is gone.
    pub(super) fn nothing() -> Self {
        let (mut reader, mut found) = (Reader::default(), Causes::default());
        Self::read(&Value::Null, &Value::Null, "", &mut reader, &mut found)
    }

    /// Its subresources.
    pub(in crate::orchestrator::api) fn subresources(&self) -> &'static [Subresource] {
        match (self.has_status, self.scale.is_some()) {
            (true, true) => &[Subresource::Status, Subresource::Scale],
            (true, false) => &[Subresource::Status],
            (false, true) => &[Subresource::Scale],
            (false, false) => &[],
        }
    }

    /// Whether the status is written apart.
    pub(in crate::orchestrator::api) fn has_status(&self) -> bool {
        self.has_status
    }

    /// How its objects are owned by whoever applies them.
    pub(in crate::orchestrator::api) fn layout(&self) -> Layout<'_> {
        Layout::new(&self.schema)
    }

    /// Takes unknown fields out of an object, and returns their paths. Its metadata are looked at elsewhere.
    pub(in crate::orchestrator::api) fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        shape::prune(&self.schema, object, Whole::Yes, "", &mut unknown);
        unknown
    }

    /// Fills in what was left out. Idempotent.
    pub(in crate::orchestrator::api) fn default(&self, object: &mut Value) {
        if self.has_defaults {
            shape::default(&self.schema, object);
        }
    }

    /// Whether objects that were stored before may lack defaults.
    pub(super) fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    /// Finds what is wrong with an object; the second is what it replaces.
    pub(in crate::orchestrator::api) fn validate(
        &self,
        object: &Value,
        old: Option<&Value>,
        found: &mut Causes,
    ) {
        values::check(&self.schema, object, old, "", found);
    }

    /// What changes the generation: everything but the metadata, and the status if it is written apart.
    pub(in crate::orchestrator::api) fn is_changed(&self, old: &Value, new: &Value) -> bool {
        let counted = |field: &String| {
            field != "metadata" && field != "apiVersion" && (field != "status" || !self.has_status)
        };
        let nothing = Map::new();
        let (old, new) = (
            old.as_object().unwrap_or(&nothing),
            new.as_object().unwrap_or(&nothing),
        );
        old.iter()
            .filter(|(field, _)| counted(field))
            .any(|(field, value)| new.get(field) != Some(value))
            || new
                .keys()
                .any(|field| counted(field) && !old.contains_key(field))
    }

    /// Wanted and present replicas, and the selector, as a Scale shows them.
    pub(in crate::orchestrator::api) fn scale(&self, object: &Value) -> (i64, i64, String) {
        let Some(paths) = &self.scale else {
            return (0, 0, String::new());
        };
        let number = |path: &JsonPath| path.find(object).and_then(Value::as_i64).unwrap_or(0);
        let selector = paths.selector.as_ref().and_then(|path| path.find(object));
        (
            number(&paths.wanted),
            number(&paths.present),
            selector
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        )
    }

    /// Sets the wanted replicas of an object.
    pub(in crate::orchestrator::api) fn rescale(&self, object: &mut Value, replicas: i32) {
        let paths = self.scale.as_ref().and_then(|scale| scale.wanted.fields());
        let Some(fields) = paths else { return };
        let mut at = object;
        for field in fields {
            if !at.is_object() {
                *at = json!({});
            }
            at = &mut at[field];
        }
        *at = json!(replicas);
    }
}

impl ScalePaths {
    fn read(scale: &Value, path: &str, found: &mut Causes) -> Option<Self> {
        let path = format!("{path}.subresources.scale");
        let mut one = |field: &str, below: &str| {
            let at = format!("{path}.{field}");
            let written = text(scale, &format!("/{field}"));
            if written.is_empty() {
                if field != "labelSelectorPath" {
                    found.required(at, "");
                }
                return None;
            }
            let read = JsonPath::read(written).ok();
            let read = read.filter(|read| {
                read.fields().is_some_and(|fields| {
                    fields.len() > 1 && below.split('|').any(|of| of == fields[0])
                })
            });
            if read.is_none() {
                let why = format!(
                    "should be a json path under .{}",
                    below.replace('|', " or .")
                );
                found.invalid(at, &Value::from(written), &why);
            }
            read
        };
        let wanted = one("specReplicasPath", "spec");
        let present = one("statusReplicasPath", "status");
        let selector = one("labelSelectorPath", "spec|status");
        Some(Self {
            wanted: wanted?,
            present: present?,
            selector,
        })
    }
}

fn texts(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|one| one.as_str().map(str::to_owned))
        .collect()
}

fn deprecation(crd: &Value, version: &Value) -> Option<String> {
    if version.get("deprecated") != Some(&Value::Bool(true)) {
        return None;
    }
    let own = text(version, "/deprecationWarning");
    Some(if own.is_empty() {
        format!(
            "{}/{} {} is deprecated",
            text(crd, "/spec/group"),
            text(version, "/name"),
            text(crd, "/spec/names/kind")
        )
    } else {
        own.to_owned()
    })
}

fn selectable(version: &Value, path: &str, found: &mut Causes) -> Vec<String> {
    let list = version.get("selectableFields").and_then(Value::as_array);
    let mut fields = Vec::new();
    for (number, one) in list.into_iter().flatten().enumerate() {
        let written = text(one, "/jsonPath");
        let read = JsonPath::read(written);
        match read.as_ref().ok().and_then(JsonPath::fields) {
            Some(names) if !names.is_empty() && names.iter().all(|name| !name.contains('.')) => {
                fields.push(names.join("."));
            }
            _ => found.invalid(
                format!("{path}.selectableFields[{number}].jsonPath"),
                &Value::from(written),
                "is an invalid path: must be a simple path of fields",
            ),
        }
    }
    fields
}

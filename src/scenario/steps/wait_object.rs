//! `wait = { kind, name, condition | where | exists, within }`: any object is as it should be.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Value as Json, json};

use super::object::ObjectPlace;
use super::{StepAction, StepContext};
use crate::model::reader::{Table, Value};
use crate::scenario::file::{json_of, positive};

/// Reads the table of a `wait` that names an object.
pub(in crate::scenario) fn read(table: &Table<'_, '_>) -> Option<Arc<dyn StepAction>> {
    table.allow(&["kind", "name", "condition", "where", "exists", "within"]);
    let object = ObjectPlace::read(table, &[]);
    let within = table.require("within").and_then(|value| positive(&value));
    let wanted = wanted(table, "say once what is waited for");
    Some(Arc::new(WaitObject {
        object: object?,
        wanted: wanted?,
        within: within?,
    }))
}

/// Reads `condition`, `where` or `exists`; `unsaid` is the problem if there is not exactly one of them.
pub(in crate::scenario) fn wanted(table: &Table<'_, '_>, unsaid: &str) -> Option<Wanted> {
    match (
        table.get("condition"),
        table.get("where"),
        table.get("exists"),
    ) {
        (Some(value), None, None) => value
            .string()
            .map(|name| Wanted::Condition(name.to_owned())),
        (None, Some(value), None) => {
            let fields = value.table()?.entries();
            if fields.is_empty() {
                value.problem(
                    "names no field",
                    Some("such as `{ \"status.readyReplicas\" = 3 }`".into()),
                );
            }
            let read = |(path, _, value): &(&str, _, Value<'_, '_>)| {
                Some(((*path).to_owned(), json_of(value)?))
            };
            let read: Option<Vec<(String, Json)>> = fields.iter().map(read).collect();
            read.map(Wanted::Fields)
        }
        (None, None, Some(value)) => {
            let exists = value.if_boolean();
            if exists.is_none() {
                value.problem("expected `true` or `false`", None);
            }
            exists.map(Wanted::Exists)
        }
        _ => {
            table.problem(
                unsaid,
                Some("`condition = \"Available\"`, `where = { \"status.readyReplicas\" = 3 }` or `exists = false`".into()),
            );
            None
        }
    }
}

#[derive(Debug)]
struct WaitObject {
    object: ObjectPlace,
    wanted: Wanted,
    within: Duration,
}

/// How the object should be.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::scenario) enum Wanted {
    /// This condition of its status is `True`.
    Condition(String),
    /// These fields have these values.
    Fields(Vec<(String, Json)>),
    /// It is there, or not.
    Exists(bool),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Condition(name) => f.write_str(name),
            Self::Fields(fields) => {
                let words: Vec<String> = fields
                    .iter()
                    .map(|(path, value)| format!("{path} = {value}"))
                    .collect();
                f.write_str(&words.join(", "))
            }
            Self::Exists(true) => f.write_str("there"),
            Self::Exists(false) => f.write_str("gone"),
        }
    }
}

impl Wanted {
    /// Whether an object is so; else what is seen.
    pub(in crate::scenario) fn holds(&self, object: Option<&Json>) -> Result<(), String> {
        let object = match (self, object) {
            (Self::Exists(wanted), _) if *wanted == object.is_some() => return Ok(()),
            (_, None) => return Err("it is not there".to_owned()),
            (Self::Exists(_), Some(_)) => return Err("it is there".to_owned()),
            (_, Some(object)) => object,
        };
        match self {
            Self::Exists(_) => Ok(()),
            Self::Condition(name) => {
                let conditions = object
                    .pointer("/status/conditions")
                    .and_then(Json::as_array);
                let mut conditions = conditions.into_iter().flatten();
                let found = conditions.find(|condition| condition["type"] == json!(name));
                let status = found.map_or("absent", |found| found["status"].as_str().unwrap_or(""));
                if status == "True" {
                    return Ok(());
                }
                let message = found
                    .and_then(|found| found["message"].as_str())
                    .unwrap_or("");
                Err(format!("{name} is {status} {message}")
                    .trim_end()
                    .to_owned())
            }
            Self::Fields(fields) => {
                for (path, wanted) in fields {
                    let seen = at(object, path);
                    if seen != Some(wanted) {
                        let seen = seen.map_or("absent".to_owned(), ToString::to_string);
                        return Err(format!("{path} is {seen}"));
                    }
                }
                Ok(())
            }
        }
    }
}

/// The field at `status.readyReplicas`; list items by number: `spec.ports.0.port`.
fn at<'a>(object: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.')
        .try_fold(object, |object, key| match object {
            Json::Array(items) => items.get(key.parse::<usize>().ok()?),
            object => object.get(key),
        })
}

impl StepAction for WaitObject {
    fn plan(&self) -> String {
        format!(
            "wait at most {} s for {} to be {}",
            self.within.as_secs_f64(),
            self.object,
            self.wanted
        )
    }

    fn within(&self) -> Option<Duration> {
        Some(self.within)
    }

    fn run<'a>(&'a self, context: &'a StepContext<'a>) -> BoxFuture<'a, Result<(), String>> {
        let client = context.client;
        Box::pin(async move {
            let wanted = self.wanted.to_string();
            self.object
                .wait_until(client, self.within, &wanted, |object| {
                    self.wanted.holds(object)
                })
                .await
        })
    }
}

//! An object that a step is about: `kind = "Deployment", name = "web"`.

use std::fmt;
use std::time::Duration;

use http::Method;
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use crate::kubernetes::client::{Client, RESOURCES, ResourceKind, resource_named};
use crate::model::reader::{Table, Value, suggestion};
use crate::scenario::deploy::NAMESPACE;

/// Pause between two looks at an object.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Where an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ObjectPlace {
    pub(super) kind: ResourceKind,
    pub(super) name: String,
}

impl fmt::Display for ObjectPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} `{}`", self.kind.kind, self.name)
    }
}

/// Reads `kind`; only `kinds` if these are named.
pub(in crate::scenario) fn read_kind(
    table: &Table<'_, '_>,
    kinds: &[&str],
) -> Option<ResourceKind> {
    let value = table.require("kind")?;
    let text = value.string()?;
    let found = resource_named(text).filter(|kind| kinds.is_empty() || kinds.contains(&kind.kind));
    if found.is_none() {
        let served: Vec<&str> = RESOURCES.iter().map(|kind| kind.kind).collect();
        let known = if kinds.is_empty() { &served[..] } else { kinds };
        let help =
            suggestion(text, known).unwrap_or_else(|| format!("one of `{}`", known.join("`, `")));
        value.problem(format!("`{text}` is no kind for this"), Some(help));
    }
    found
}

/// Reads the name of an object.
pub(in crate::scenario) fn object_name(value: &Value<'_, '_>) -> Option<String> {
    let name = value.string()?;
    if name.is_empty() || name.contains(['/', '?', '#', '%']) {
        value.problem(format!("`{name}` is not an object's name"), None);
    }
    Some(name.to_owned())
}

impl ObjectPlace {
    /// Reads `kind` and `name`; only `kinds` if these are named.
    pub(super) fn read(table: &Table<'_, '_>, kinds: &[&str]) -> Option<Self> {
        let kind = read_kind(table, kinds);
        let name = table.require("name").and_then(|value| object_name(&value));
        Some(Self {
            kind: kind?,
            name: name?,
        })
    }

    pub(super) fn path(&self) -> String {
        let namespace = if self.kind.namespaced { NAMESPACE } else { "" };
        self.kind.object_path(namespace, &self.name, None)
    }

    /// The object; `None` if there is none.
    pub(super) async fn get(&self, client: &Client) -> Result<Option<Json>, String> {
        match client.raw(Method::GET, &self.path(), None).await {
            Ok(answer) => serde_json::from_slice(&answer)
                .map(Some)
                .map_err(|error| format!("read {self}: {error}")),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(format!("read {self}: {error}")),
        }
    }

    /// Waits until the object is as `done` wants it, which says what it sees else.
    pub(super) async fn wait_until(
        &self,
        client: &Client,
        within: Duration,
        wanted: &str,
        done: impl Fn(Option<&Json>) -> Result<(), String>,
    ) -> Result<(), String> {
        let until = Instant::now() + within;
        loop {
            let seen = match self.get(client).await {
                Ok(object) => match done(object.as_ref()) {
                    Ok(()) => return Ok(()),
                    Err(seen) => seen,
                },
                // A server that is away may be back in time.
                Err(error) => error,
            };
            if Instant::now() + LOOK_AGAIN >= until {
                return Err(format!(
                    "{self}: not {wanted} within {} s; last seen: {seen}",
                    within.as_secs_f64()
                ));
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

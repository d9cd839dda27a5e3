//! Applying objects as kubectl does: what is new, changed or gone since the last time goes to the server as a merge patch.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::defined::DEFINITION;
use super::{Manifest, ManifestError};
use crate::kubernetes::client::{Client, ClientError, Patch, ResourceKind};

/// The annotation in which kubectl keeps what was applied last.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How often a patch is computed again because somebody else changed the object meanwhile.
const CONFLICT_RETRIES: usize = 5;
/// How long a server may take to serve what a definition defines, and how often it is asked.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
const SERVED_POLL: Duration = Duration::from_millis(100);
/// What a server fills in: an object that was read from one and stored can be applied again.
const SERVERS_OWN: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What applying one object did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The object is new.
    Created,
    /// The object was changed.
    Configured,
    /// The object was so already.
    Unchanged,
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        })
    }
}

/// One object that was applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its namespace, empty if the kind has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What was done.
    pub outcome: Outcome,
}

/// Creates or changes each object in turn, definitions of kinds before all others; `namespace` is for objects that name none. Stops at the first that is refused: also one
/// with a field that the server does not know, which it would drop silently otherwise.
pub async fn apply(
    client: &Client,
    namespace: &str,
    manifests: &[Manifest],
) -> Result<Vec<Applied>, ManifestError> {
    let client = &client.refusing_unknown_fields();
    let mut applied = Vec::with_capacity(manifests.len());
    let (definitions, others): (Vec<&Manifest>, Vec<&Manifest>) = manifests
        .iter()
        .partition(|manifest| manifest.kind.kind == DEFINITION);
    for manifest in definitions.iter().copied().chain(others) {
        let outcome = apply_one(client, namespace, manifest)
            .await
            .map_err(|source| ManifestError::Apply {
                object: format!("{}/{}", manifest.kind.plural, manifest.name()),
                path: manifest.source.clone(),
                line: manifest.line,
                source: Box::new(source),
            })?;
        applied.push(Applied {
            kind: manifest.kind.clone(),
            namespace: manifest.namespace(namespace).to_owned(),
            name: manifest.name().to_owned(),
            outcome,
        });
        // The last definition: what they define is next.
        if applied.len() == definitions.len() {
            for definition in &definitions {
                until_served(client, definition).await?;
            }
        }
    }
    Ok(applied)
}

/// Waits until a definition's kinds are served.
async fn until_served(client: &Client, manifest: &Manifest) -> Result<(), ManifestError> {
    let until = Instant::now() + SERVED_WITHIN;
    let name = manifest.name();
    loop {
        let read = client.get_value(&manifest.kind, "", name).await;
        let crd = read.map_err(|source| ManifestError::Apply {
            object: format!("{}/{name}", manifest.kind.plural),
            path: manifest.source.clone(),
            line: manifest.line,
            source: Box::new(source),
        })?;
        let conditions = crd["status"]["conditions"].as_array();
        let conditions: Vec<&Value> = conditions.into_iter().flatten().collect();
        let established = |one: &&Value| one["type"] == "Established" && one["status"] == "True";
        if conditions.iter().any(established) {
            return Ok(());
        }
        if Instant::now() >= until {
            let told: Vec<&str> = conditions
                .iter()
                .filter_map(|one| one["message"].as_str())
                .collect();
            return Err(ManifestError::NotServed {
                object: format!("{}/{name}", manifest.kind.plural),
                path: manifest.source.clone(),
                line: manifest.line,
                after_s: SERVED_WITHIN.as_secs(),
                why: told.join(", "),
            });
        }
        sleep(SERVED_POLL).await;
    }
}

async fn apply_one(
    client: &Client,
    namespace: &str,
    manifest: &Manifest,
) -> Result<Outcome, ClientError> {
    let (kind, namespace, name) = (
        &manifest.kind,
        manifest.namespace(namespace),
        manifest.name(),
    );
    let wanted = with_last_applied(&manifest.value, namespace);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let again = |error: &ClientError| {
            attempt < CONFLICT_RETRIES && (error.is_conflict() || error.is_already_exists())
        };
        let done = match client.get_value(kind, namespace, name).await {
            Ok(live) => match merge_patch(&live, &wanted) {
                None => return Ok(Outcome::Unchanged),
                Some(patch) => client
                    .patch_value(kind, namespace, name, &Patch::Merge(patch), None)
                    .await
                    .map(|after| {
                        if changed(&live, &after) {
                            Outcome::Configured
                        } else {
                            Outcome::Unchanged
                        }
                    }),
            },
            Err(error) if error.is_not_found() => client
                .create_value(kind, namespace, &wanted)
                .await
                .map(|_| Outcome::Created),
            Err(error) => Err(error),
        };
        match done {
            Err(error) if again(&error) => {}
            done => return done,
        }
    }
}

fn changed(before: &Value, after: &Value) -> bool {
    before["metadata"]["resourceVersion"] != after["metadata"]["resourceVersion"]
}

/// The object without what only a server says about it.
fn as_written(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(object) = value.as_object_mut() {
        object.shift_remove("status");
    }
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        for field in SERVERS_OWN {
            metadata.shift_remove(field);
        }
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.shift_remove(LAST_APPLIED);
            if annotations.is_empty() {
                metadata.shift_remove("annotations");
            }
        }
    }
    value
}

fn with_last_applied(value: &Value, namespace: &str) -> Value {
    let mut value = as_written(value);
    if !namespace.is_empty() {
        value["metadata"]["namespace"] = json!(namespace);
    }
    let last = format!("{value}\n");
    if !value["metadata"]["annotations"].is_object() {
        value["metadata"]["annotations"] = Value::Object(Map::new());
    }
    value["metadata"]["annotations"][LAST_APPLIED] = json!(last);
    value
}

/// The merge patch that makes `live` what `wanted` says, leaving alone what it does not mention; what was applied last and is
/// gone from `wanted` is removed. `None` if there is nothing to do.
fn merge_patch(live: &Value, wanted: &Value) -> Option<Value> {
    let last: Value = live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    let mut patch = difference(live, wanted, &last)?;
    // The annotation alone does not make an object different.
    if patch
        == json!({"metadata": {"annotations": {LAST_APPLIED: wanted["metadata"]["annotations"][LAST_APPLIED]}}})
        && !last.is_null()
        && last
            == serde_json::from_str::<Value>(
                wanted["metadata"]["annotations"][LAST_APPLIED].as_str()?,
            )
            .ok()?
    {
        return None;
    }
    patch["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    Some(patch)
}

fn difference(live: &Value, wanted: &Value, last: &Value) -> Option<Value> {
    let (Value::Object(live), Value::Object(wanted)) = (live, wanted) else {
        return (!covers(live, wanted)).then(|| wanted.clone());
    };
    let mut patch = Map::new();
    for (key, value) in wanted {
        if let Some(part) = difference(
            live.get(key).unwrap_or(&Value::Null),
            value,
            &last[key.as_str()],
        ) {
            patch.insert(key.clone(), part);
        }
    }
    for key in last.as_object().into_iter().flat_map(Map::keys) {
        if !wanted.contains_key(key) && live.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// Whether `live` is `wanted` but for defaults that the server filled in.
fn covers(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            value.is_null() || live.get(key).is_some_and(|live| covers(live, value))
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len()
                && live
                    .iter()
                    .zip(wanted)
                    .all(|(live, wanted)| covers(live, wanted))
        }
        _ => live == wanted || (wanted.is_null() && live.is_null()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_apply_changes_nothing() {
        let wanted = with_last_applied(
            &json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}], "x": 1}}),
            "d",
        );
        let mut live = wanted.clone();
        live["metadata"]["resourceVersion"] = json!("7");
        live["spec"]["clusterIP"] = json!("10.79.0.5");
        live["spec"]["ports"][0]["protocol"] = json!("TCP");
        assert_eq!(merge_patch(&live, &wanted), None);

        let without = with_last_applied(
            &json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 81}]}}),
            "d",
        );
        let patch = merge_patch(&live, &without).expect("different");
        assert_eq!(patch["spec"], json!({"ports": [{"port": 81}], "x": null}));
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn what_a_server_answered_can_be_applied_again() {
        let written = json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}});
        let mut live = with_last_applied(&written, "d");
        live["metadata"]["uid"] = json!("u");
        live["metadata"]["resourceVersion"] = json!("7");
        live["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        live["spec"]["clusterIP"] = json!("10.79.0.5");
        live["status"] = json!({"loadBalancer": {}});
        let mut stored = live.clone();
        stored["metadata"]["resourceVersion"] = json!("3");
        stored["metadata"]["uid"] = json!("of another cluster");
        stored["metadata"]["managedFields"] = json!([{}]);
        let wanted = with_last_applied(&stored, "d");
        assert_eq!(wanted["metadata"].as_object().expect("a map").len(), 3);
        let last: Value = serde_json::from_str(
            wanted["metadata"]["annotations"][LAST_APPLIED]
                .as_str()
                .expect("text"),
        )
        .expect("JSON");
        assert_eq!(last["metadata"], json!({"name": "a", "namespace": "d"}));
        // What was filled in is written now: the object stays what it is.
        let patch = merge_patch(&live, &wanted).unwrap_or_else(|| json!({}));
        assert!(
            patch.get("spec").is_none() && patch.get("status").is_none(),
            "{patch}"
        );
        let new = with_last_applied(
            &json!({"metadata": {"name": "b", "creationTimestamp": null}}),
            "",
        );
        assert!(new["metadata"].get("creationTimestamp").is_none());
    }
}

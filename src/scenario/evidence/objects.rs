//! All objects as YAML, and the Events as lines.

use std::time::SystemTime;

use http::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::texts::Texts;
use super::{ANSWER_WITHIN, Sources, since_start};
use crate::kubernetes::client::{RESOURCES, ResourceKind};

/// kubectl keeps a copy of what was applied here, a Secret's data with it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

pub(super) async fn gather(sources: &Sources<'_>, texts: &mut Texts) {
    // A Lease is a machine's beat, and says nothing.
    for kind in RESOURCES.iter().filter(|kind| kind.kind != "Lease") {
        match list(sources, kind).await {
            Ok(objects) if kind.kind == "Event" => {
                texts.add("events.txt".to_owned(), events(objects, sources.begun));
            }
            Ok(objects) => texts.add(format!("objects/{}.yaml", kind.plural), yaml(kind, objects)),
            Err(why) => texts.missing(format!("{}: {why}", kind.plural)),
        }
    }
}

/// The objects of a kind; none where it is not served or not the scenario's.
async fn list(sources: &Sources<'_>, kind: &ResourceKind) -> Result<Vec<Value>, String> {
    let everywhere = [String::new()];
    let namespaces = match (sources.namespaces.as_slice(), kind.namespaced) {
        ([], _) => &everywhere[..],
        (namespaces, true) => namespaces,
        // What belongs to a whole cluster that is not ours is none of the scenario's.
        (_, false) => return Ok(Vec::new()),
    };
    let mut objects = Vec::new();
    for namespace in namespaces {
        let path = kind.collection_path(namespace);
        let asked = sources.client.raw(Method::GET, &path, None);
        let answer = match timeout(ANSWER_WITHIN, asked).await {
            Err(_) => return Err("the API does not answer".to_owned()),
            Ok(Err(error)) if error.is_not_found() => continue,
            Ok(answer) => answer.map_err(|error| error.to_string())?,
        };
        let mut list: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        if let Some(Value::Array(items)) = list.get_mut("items").map(Value::take) {
            objects.extend(items);
        }
    }
    Ok(objects)
}

pub(super) fn yaml(kind: &ResourceKind, objects: Vec<Value>) -> String {
    let mut text = String::new();
    for mut object in objects {
        harmless(kind, &mut object);
        object["apiVersion"] = json!(kind.api_version());
        object["kind"] = json!(kind.kind);
        if let Ok(document) = serde_saphyr::to_string(&object) {
            text.push_str("---\n");
            text.push_str(document.trim_end());
            text.push('\n');
        }
    }
    text
}

/// Takes away what a Secret holds, and what is only of use to the API itself.
fn harmless(kind: &ResourceKind, object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
        let annotations = metadata.get_mut("annotations");
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.shift_remove(LAST_APPLIED);
        }
    }
    if kind.kind != "Secret" {
        return;
    }
    for field in ["data", "stringData"] {
        let Some(data) = object.get_mut(field).and_then(Value::as_object_mut) else {
            continue;
        };
        data.values_mut()
            .for_each(|value| *value = json!("(left out)"));
    }
}

/// One line an Event, by the time it was last seen.
pub(super) fn events(objects: Vec<Value>, begun: SystemTime) -> String {
    let text = |event: &Value, pointer: &str| -> String {
        let found = event.pointer(pointer).and_then(Value::as_str);
        found.unwrap_or_default().to_owned()
    };
    let mut lines: Vec<(i64, String)> = objects
        .iter()
        .map(|event| {
            let times = [
                "/lastTimestamp",
                "/eventTime",
                "/metadata/creationTimestamp",
            ];
            let at_us = times
                .iter()
                .find_map(|time| text(event, time).parse::<jiff::Timestamp>().ok())
                .map_or(0, jiff::Timestamp::as_microsecond);
            let count = event.get("count").and_then(Value::as_u64).unwrap_or(1);
            let times = if count > 1 {
                format!(" (×{count})")
            } else {
                String::new()
            };
            let line = format!(
                "{:>12}  {} {} {} {}/{}: {}{times}\n",
                since_start(begun, u64::try_from(at_us).unwrap_or(0)),
                text(event, "/type"),
                text(event, "/reason"),
                text(event, "/involvedObject/kind"),
                text(event, "/involvedObject/namespace"),
                text(event, "/involvedObject/name"),
                text(event, "/message").trim().replace('\n', " ")
            );
            (at_us, line)
        })
        .collect();
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

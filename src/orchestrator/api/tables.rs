//! Objects as tables, the way `kubectl get` prints them (k8s.io/kubernetes/pkg/printers/internalversion/printers.go).

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::{self, Kind};
use super::selectors;

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

/// A column: name, whether only `-o wide` shows it, and a cell's value.
type Column = (&'static str, bool, fn(&Value) -> Value);

fn table<'a>(
    kind: &Kind,
    version: &str,
    objects: impl Iterator<Item = &'a Value>,
    revision: Option<&Value>,
    list_metadata: &Value,
) -> Value {
    let columns = columns(kind);
    let definitions: Vec<Value> = columns
        .iter()
        .map(|(name, wide, _)| {
            let format = if *name == "Name" { "name" } else { "" };
            json!({"name": name, "type": "string", "format": format, "description": "", "priority": i32::from(*wide)})
        })
        .collect();
    let rows: Vec<Value> = objects
        .map(|object| {
            let cells: Vec<Value> = columns.iter().map(|(_, _, cell)| cell(object)).collect();
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

fn columns(kind: &Kind) -> Vec<Column> {
    let mut columns: Vec<Column> = vec![("Name", false, |object| {
        json!(text(object, "/metadata/name"))
    })];
    let own: &[Column] = if kind.is(&kinds::POD) {
        &[
            ("Ready", false, pod_ready),
            ("Status", false, |pod| json!(pod_status(pod))),
            ("Restarts", false, pod_restarts),
        ]
    } else if kind.is(&kinds::REPLICATION_CONTROLLER) {
        &[
            ("Desired", false, |rc| {
                json!(number(rc, "/spec/replicas").to_string())
            }),
            ("Current", false, |rc| {
                json!(number(rc, "/status/replicas").to_string())
            }),
            ("Ready", false, |rc| {
                json!(number(rc, "/status/readyReplicas").to_string())
            }),
        ]
    } else if kind.is(&kinds::SERVICE) {
        &[
            ("Type", false, |service| json!(text(service, "/spec/type"))),
            ("Cluster-IP", false, |service| {
                json!(or_none(text(service, "/spec/clusterIP")))
            }),
            ("External-IP", false, service_external),
            ("Port(s)", false, service_ports),
        ]
    } else if kind.is(&kinds::NODE) {
        &[("Status", false, node_status), ("Roles", false, node_roles)]
    } else if kind.is(&kinds::SECRET) {
        &[
            ("Type", false, |secret| json!(text(secret, "/type"))),
            ("Data", false, data_keys),
        ]
    } else if kind.is(&kinds::CONFIG_MAP) {
        &[("Data", false, data_keys)]
    } else if kind.is(&kinds::NAMESPACE) {
        &[("Status", false, |namespace| {
            json!(text(namespace, "/status/phase"))
        })]
    } else if kind.is(&kinds::ENDPOINTS) {
        &[("Endpoints", false, endpoints)]
    } else if kind.is(&kinds::LEASE) {
        &[("Holder", false, |lease| {
            json!(text(lease, "/spec/holderIdentity"))
        })]
    } else if kind.is(&kinds::EVENT) {
        // Events have no Name column, and their age is the last sighting's.
        return vec![
            ("Last Seen", false, |event| {
                json!(age_of(
                    event,
                    &[
                        "/lastTimestamp",
                        "/eventTime",
                        "/metadata/creationTimestamp"
                    ]
                ))
            }),
            ("Type", false, |event| json!(text(event, "/type"))),
            ("Reason", false, |event| json!(text(event, "/reason"))),
            ("Object", false, |event| {
                let kind = text(event, "/involvedObject/kind").to_lowercase();
                json!(format!("{kind}/{}", text(event, "/involvedObject/name")))
            }),
            ("Message", false, |event| {
                json!(text(event, "/message").trim())
            }),
        ];
    } else {
        &[]
    };
    columns.extend_from_slice(own);
    columns.push(("Age", false, |object| {
        json!(age_of(object, &["/metadata/creationTimestamp"]))
    }));
    columns.extend_from_slice(wide_columns(kind));
    columns
}

fn wide_columns(kind: &Kind) -> &'static [Column] {
    if kind.is(&kinds::POD) {
        &[
            ("IP", true, |pod| json!(or_none(text(pod, "/status/podIP")))),
            ("Node", true, |pod| {
                json!(or_none(text(pod, "/spec/nodeName")))
            }),
            ("Nominated Node", true, |pod| {
                json!(or_none(text(pod, "/status/nominatedNodeName")))
            }),
            ("Readiness Gates", true, |_| json!("<none>")),
        ]
    } else if kind.is(&kinds::REPLICATION_CONTROLLER) {
        &[
            ("Containers", true, |rc| json!(containers(rc, "name"))),
            ("Images", true, |rc| json!(containers(rc, "image"))),
            ("Selector", true, |rc| json!(selector(rc))),
        ]
    } else if kind.is(&kinds::SERVICE) {
        &[("Selector", true, |service| json!(selector(service)))]
    } else if kind.is(&kinds::NODE) {
        &[
            ("Internal-IP", true, |node| {
                json!(node_address(node, "InternalIP"))
            }),
            ("External-IP", true, |node| {
                json!(node_address(node, "ExternalIP"))
            }),
            ("OS-Image", true, |node| {
                json!(text(node, "/status/nodeInfo/osImage"))
            }),
            ("Kernel-Version", true, |node| {
                json!(text(node, "/status/nodeInfo/kernelVersion"))
            }),
            ("Container-Runtime", true, |node| {
                json!(text(node, "/status/nodeInfo/containerRuntimeVersion"))
            }),
        ]
    } else {
        &[]
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn number(object: &Value, pointer: &str) -> i64 {
    object
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn age_of(object: &Value, pointers: &[&str]) -> String {
    let time = pointers
        .iter()
        .find_map(|pointer| text(object, pointer).parse::<jiff::Timestamp>().ok());
    time.map_or_else(
        || "<unknown>".to_owned(),
        |time| duration(jiff::Timestamp::now().duration_since(time).as_secs()),
    )
}

/// As k8s.io/apimachinery/pkg/util/duration HumanDuration.
fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |high: i64, unit: char, low: i64, low_unit: char| {
        if low == 0 {
            format!("{high}{unit}")
        } else {
            format!("{high}{unit}{low}{low_unit}")
        }
    };
    match seconds {
        ..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, 'm', seconds % 60, 's'),
        600..10800 => format!("{minutes}m"),
        10800..28800 => two(hours, 'h', minutes % 60, 'm'),
        28800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, 'd', hours % 24, 'h'),
        691_200..63_072_000 => format!("{days}d"),
        _ => two(days / 365, 'y', days % 365, 'd'),
    }
}

fn pod_ready(pod: &Value) -> Value {
    let total = list(pod, "/spec/containers").len();
    let ready = list(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| status["ready"] == json!(true))
        .count();
    json!(format!("{ready}/{total}"))
}

fn pod_status(pod: &Value) -> String {
    let mut status = text(pod, "/status/phase").to_owned();
    let reason = text(pod, "/status/reason");
    if !reason.is_empty() {
        reason.clone_into(&mut status);
    }
    for container in list(pod, "/status/containerStatuses") {
        let waiting = text(container, "/state/waiting/reason");
        let terminated = text(container, "/state/terminated/reason");
        if !waiting.is_empty() {
            waiting.clone_into(&mut status);
        } else if !terminated.is_empty() {
            terminated.clone_into(&mut status);
        } else if let Some(code) = container
            .pointer("/state/terminated/exitCode")
            .and_then(Value::as_i64)
        {
            status = format!("ExitCode:{code}");
        }
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return if reason == "NodeLost" {
            "Unknown".to_owned()
        } else {
            "Terminating".to_owned()
        };
    }
    if status.is_empty() {
        "Pending".to_owned()
    } else {
        status
    }
}

fn pod_restarts(pod: &Value) -> Value {
    let statuses = list(pod, "/status/containerStatuses");
    let restarts: i64 = statuses
        .iter()
        .map(|status| number(status, "/restartCount"))
        .sum();
    let last = statuses
        .iter()
        .filter_map(|status| {
            text(status, "/lastState/terminated/finishedAt")
                .parse::<jiff::Timestamp>()
                .ok()
        })
        .max();
    match last {
        Some(last) if restarts > 0 => {
            json!(format!(
                "{restarts} ({} ago)",
                duration(jiff::Timestamp::now().duration_since(last).as_secs())
            ))
        }
        _ => json!(restarts.to_string()),
    }
}

fn service_external(service: &Value) -> Value {
    let ingress: Vec<&str> = list(service, "/status/loadBalancer/ingress")
        .iter()
        .map(|one| {
            if text(one, "/ip").is_empty() {
                text(one, "/hostname")
            } else {
                text(one, "/ip")
            }
        })
        .collect();
    let own: Vec<&str> = list(service, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    match text(service, "/spec/type") {
        "LoadBalancer" if ingress.is_empty() && own.is_empty() => json!("<pending>"),
        "LoadBalancer" => json!([ingress, own].concat().join(",")),
        "ExternalName" => json!(text(service, "/spec/externalName")),
        _ => json!(or_none(&own.join(","))),
    }
}

fn service_ports(service: &Value) -> Value {
    let ports: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let node = number(port, "/nodePort");
            let node = if node == 0 {
                String::new()
            } else {
                format!(":{node}")
            };
            format!(
                "{}{node}/{}",
                number(port, "/port"),
                text(port, "/protocol")
            )
        })
        .collect();
    json!(or_none(&ports.join(",")))
}

fn node_status(node: &Value) -> Value {
    let ready = list(node, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "/type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "/status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.pointer("/spec/unschedulable") == Some(&json!(true)) {
        status.push_str(",SchedulingDisabled");
    }
    json!(status)
}

fn node_roles(node: &Value) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"))
        .filter(|role| !role.is_empty())
        .collect();
    json!(or_none(&roles.join(",")))
}

fn node_address(node: &Value, kind: &str) -> String {
    let found = list(node, "/status/addresses")
        .iter()
        .find(|address| text(address, "/type") == kind);
    or_none(
        found
            .map(|address| text(address, "/address"))
            .unwrap_or_default(),
    )
    .to_owned()
}

fn data_keys(object: &Value) -> Value {
    let count = |field: &str| {
        object
            .get(field)
            .and_then(Value::as_object)
            .map_or(0, serde_json::Map::len)
    };
    json!((count("data") + count("binaryData")).to_string())
}

fn endpoints(object: &Value) -> Value {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        for port in list(subset, "/ports") {
            for address in list(subset, "/addresses") {
                all.push(format!(
                    "{}:{}",
                    text(address, "/ip"),
                    number(port, "/port")
                ));
            }
        }
    }
    let more = all.len().saturating_sub(3);
    all.truncate(3);
    let shown = all.join(",");
    if more > 0 {
        json!(format!("{shown} + {more} more..."))
    } else {
        json!(or_none(&shown))
    }
}

fn containers(rc: &Value, field: &str) -> String {
    let names: Vec<&str> = list(rc, "/spec/template/spec/containers")
        .iter()
        .filter_map(|one| one.get(field)?.as_str())
        .collect();
    names.join(",")
}

fn selector(object: &Value) -> String {
    or_none(&selectors::written(object)).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn ages() {
        for (seconds, expected) in [
            (5, "5s"),
            (119, "119s"),
            (125, "2m5s"),
            (3600, "60m"),
            (11000, "3h3m"),
            (90000, "25h"),
            (200_000, "2d7h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}

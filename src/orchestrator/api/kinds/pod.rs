//! v1 Pod.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use serde_json::{Value, json};

use super::parts::causes::Causes;
use super::parts::cells::{AGE, Column, NAME, column, duration, list, number, or_none, text, wide};
use super::parts::decode::through;
use super::parts::fields::{Object, child, set};
use super::parts::warnings::no_warnings;
use super::parts::{names, pod_defaults, pod_spec, selector};
use super::{DeletionRule, Generation, StatusOnCreate, Strategy, Subresource};
use crate::model::json;
use crate::orchestrator::quality::Quality;
use crate::orchestrator::store::Durability;

pub(super) static STRATEGY: Strategy = Strategy {
    subresources: &[
        Subresource::Status,
        Subresource::Binding,
        Subresource::Log,
        Subresource::Exec,
        Subresource::Attach,
        Subresource::PortForward,
        Subresource::Eviction,
    ],
    decode: through::<Pod>,
    default: defaults,
    name: names::subdomain,
    validate,
    columns: COLUMNS,
    selectable_fields: &[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
    ],
    selector: selector::none,
    generation: Generation::Counted,
    status_on_create: StatusOnCreate::Dropped,
    durability: Durability::Synced,
    deletion: DeletionRule {
        grace,
        ..DeletionRule::AT_ONCE
    },
    allocate: None,
    warnings: no_warnings,
};

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", pod_ready),
    column("Status", |pod| json!(pod_status(pod))),
    column("Restarts", pod_restarts),
    AGE,
    wide("IP", |pod| json!(or_none(text(pod, "/status/podIP")))),
    wide("Node", |pod| json!(or_none(text(pod, "/spec/nodeName")))),
    wide("Nominated Node", |pod| {
        json!(or_none(text(pod, "/status/nominatedNodeName")))
    }),
    wide("Readiness Gates", |_| json!("<none>")),
];

fn defaults(pod: &mut Object) {
    if let Some(spec) = child(pod, "spec") {
        pod_defaults::pod_spec(spec);
    }
    let class = pod
        .get("spec")
        .and_then(|spec| json::from_value::<PodSpec>(spec).ok())
        .map(|spec| Quality::of(&spec));
    let status = pod.entry("status").or_insert_with(|| json!({}));
    set(status.as_object_mut(), "phase", json!("Pending"));
    if let Some(class) = class {
        set(status.as_object_mut(), "qosClass", json!(class.as_str()));
    }
}

/// What was asked for, or the pod's own; none before it has a node or after it has ended.
fn grace(pod: &Value, asked: Option<i64>) -> i64 {
    let ended = ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"));
    if text(pod, "/spec/nodeName").is_empty() || ended {
        return 0;
    }
    let own = pod
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(30);
    asked.unwrap_or(own).max(0)
}

fn validate(object: &Value, old: Option<&Value>, found: &mut Causes) {
    let Some(spec) = object.get("spec") else {
        return found.required("spec", "");
    };
    pod_spec::pod_spec(spec, "spec", found);
    if let Some(before) = old.and_then(|old| old.get("spec"))
        && frozen(before) != frozen(spec)
    {
        found.forbidden("spec", "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)");
    }
}

/// A pod's spec without what may change.
fn frozen(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        for field in [
            "activeDeadlineSeconds",
            "tolerations",
            "terminationGracePeriodSeconds",
        ] {
            map.shift_remove(field);
        }
        for field in ["containers", "initContainers"] {
            for container in map
                .get_mut(field)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                container["image"] = Value::Null;
            }
        }
    }
    spec
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

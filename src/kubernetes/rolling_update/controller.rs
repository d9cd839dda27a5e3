//! What an update reads from its ReplicationControllers, and writes to them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ReplicationController;
use serde_json::{Value, json};

use super::error::{RollingUpdateError, failed};
use crate::kubernetes::client::{Client, Patch};

/// How many replicas the new controller is to have in the end.
pub(super) const DESIRED_REPLICAS: &str = "kubectl.kubernetes.io/desired-replicas";
/// Which controller the new one replaces, `name:uid`.
pub(super) const UPDATE_SOURCE: &str = "kubectl.kubernetes.io/update-source-id";
/// How many replicas the old controller had.
pub(super) const ORIGINAL_REPLICAS: &str = "kubectl.kubernetes.io/original-replicas";

pub(super) async fn patch_controller(
    client: &Client,
    namespace: &str,
    updated: &str,
    name: &str,
    patch: Value,
) -> Result<ReplicationController, RollingUpdateError> {
    client
        .patch(namespace, name, &Patch::Merge(patch), None)
        .await
        .map_err(failed(updated, "change a controller"))
}

pub(super) fn annotate(marks: &[(&str, Option<String>)]) -> Value {
    let marks: serde_json::Map<String, Value> = marks
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    json!({"metadata": {"annotations": marks}})
}

pub(super) fn annotation<'a>(controller: &'a ReplicationController, key: &str) -> Option<&'a str> {
    controller
        .metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

pub(super) fn selector(controller: &ReplicationController) -> BTreeMap<String, String> {
    let spec = controller.spec.as_ref();
    let labels = || {
        Some(
            spec?
                .template
                .as_ref()?
                .metadata
                .as_ref()?
                .labels
                .clone()
                .unwrap_or_default(),
        )
    };
    spec.and_then(|spec| spec.selector.clone())
        .or_else(labels)
        .unwrap_or_default()
}

pub(super) fn replicas(controller: &ReplicationController) -> i32 {
    controller
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

pub(super) fn name(controller: &ReplicationController) -> String {
    controller.metadata.name.clone().unwrap_or_default()
}

pub(super) fn source_id(controller: &ReplicationController) -> String {
    format!(
        "{}:{}",
        name(controller),
        controller.metadata.uid.clone().unwrap_or_default()
    )
}

//! Definitions of custom kinds, which a reset takes away with all their objects, whatever namespace they are in.

use reqwest::Method;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{DeployError, GONE_POLL, GONE_WITHIN, client_error, delete_if_there};
use crate::kubernetes::client::{Client, ListParams, resource_for};

/// Deletes every definition, and waits until all are gone. Whoever would take finalizers off their objects may be gone already:
/// objects that only wait for that are let go.
pub(super) async fn remove(client: &Client) -> Result<(), DeployError> {
    let Some(kind) = resource_for("apiextensions.k8s.io/v1", "CustomResourceDefinition") else {
        return Ok(());
    };
    let until = Instant::now() + GONE_WITHIN;
    loop {
        let listed = client
            .list_values(&kind, "", &ListParams::all())
            .await
            .map_err(client_error("list CustomResourceDefinitions"))?;
        if listed.items.is_empty() {
            return Ok(());
        }
        let mut left = Vec::new();
        for crd in &listed.items {
            let name = text(crd, "/metadata/name");
            left.push(name);
            if crd.pointer("/metadata/deletionTimestamp").is_none() {
                delete_if_there(client, &kind, "", name).await?;
            } else {
                release_objects(client, crd).await?;
            }
        }
        if Instant::now() >= until {
            return Err(DeployError::NotGone {
                left: left.join(", "),
            });
        }
        sleep(GONE_POLL).await;
    }
}

/// Takes the finalizers off the objects of a definition that are to go.
async fn release_objects(client: &Client, crd: &Value) -> Result<(), DeployError> {
    let versions = crd.pointer("/spec/versions").and_then(Value::as_array);
    let served = versions
        .into_iter()
        .flatten()
        .find(|version| version.get("served") == Some(&Value::Bool(true)));
    let Some(version) = served else {
        return Ok(());
    };
    let root = format!(
        "/apis/{}/{}",
        text(crd, "/spec/group"),
        text(version, "/name")
    );
    let plural = text(crd, "/spec/names/plural");
    let failed = |doing: &str| client_error(format!("{doing} {plural}"));
    let body = match client
        .raw(Method::GET, &format!("{root}/{plural}"), None)
        .await
    {
        Ok(body) => body,
        // The definition went in between.
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => return Err(failed("list")(error)),
    };
    let mut list: Value = serde_json::from_slice(&body).unwrap_or_default();
    let items = list.get_mut("items").and_then(Value::as_array_mut);
    for item in items.into_iter().flatten() {
        let waits = item.pointer("/metadata/deletionTimestamp").is_some();
        let (namespace, name) = (
            text(item, "/metadata/namespace").to_owned(),
            text(item, "/metadata/name").to_owned(),
        );
        let path = if namespace.is_empty() {
            format!("{root}/{plural}/{name}")
        } else {
            format!("{root}/namespaces/{namespace}/{plural}/{name}")
        };
        let metadata = item.get_mut("metadata").and_then(Value::as_object_mut);
        let Some(metadata) = metadata.filter(|_| waits) else {
            continue;
        };
        metadata.shift_remove("finalizers");
        match client.raw(Method::PUT, &path, Some(&*item)).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => {
                return Err(failed("let go of")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

//! `scale = { kind, name, replicas, within }`: another number of replicas, and that many are ready.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Method;
use serde_json::{Value as Json, json};

use super::object::ObjectPlace;
use super::{StepAction, StepContext, StepType};
use crate::kubernetes::client::Client;
use crate::model::reader::Value;
use crate::scenario::file::{Nodes, count, positive};

pub(super) const SCALE: StepType = StepType { key: "scale", read };

/// What has replicas.
const KINDS: [&str; 3] = ["ReplicationController", "Deployment", "ReplicaSet"];

fn read(value: &Value<'_, '_>, _: &Nodes) -> Option<Arc<dyn StepAction>> {
    let table = &value.table()?;
    table.allow(&["kind", "name", "replicas", "within"]);
    let object = ObjectPlace::read(table, &KINDS);
    let replicas = table.require("replicas").and_then(|value| count(&value));
    let within = table.require("within").and_then(|value| positive(&value));
    Some(Arc::new(Scale {
        object: object?,
        replicas: replicas?,
        within: within?,
    }))
}

#[derive(Debug)]
struct Scale {
    object: ObjectPlace,
    replicas: u32,
    within: Duration,
}

impl StepAction for Scale {
    fn plan(&self) -> String {
        format!(
            "scale {} to {}, ready within {} s",
            self.object,
            self.replicas,
            self.within.as_secs_f64()
        )
    }

    fn within(&self) -> Option<Duration> {
        Some(self.within)
    }

    fn run<'a>(&'a self, context: &'a StepContext<'a>) -> BoxFuture<'a, Result<(), String>> {
        let client = context.client;
        Box::pin(async move {
            self.set(client).await?;
            let wanted = format!("at {} ready replicas", self.replicas);
            self.object
                .wait_until(client, self.within, &wanted, |object| {
                    scaled(object, self.replicas)
                })
                .await
        })
    }
}

impl Scale {
    /// Writes the number to the object as it is now; one that changed meanwhile is read again.
    async fn set(&self, client: &Client) -> Result<(), String> {
        const TRIES: u32 = 5;
        let mut last = String::new();
        for _ in 0..TRIES {
            let object = self.object.get(client).await?;
            let Some(mut object) = object else {
                return Err(format!("there is no {}", self.object));
            };
            object["spec"]["replicas"] = json!(self.replicas);
            let path = self.object.path();
            match client.raw(Method::PUT, &path, Some(&object)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_conflict() => last = error.to_string(),
                Err(error) => return Err(format!("scale {}: {error}", self.object)),
            }
        }
        Err(format!("scale {}: {last}", self.object))
    }
}

/// Whether so many replicas are there and ready, and no others.
pub(super) fn scaled(object: Option<&Json>, replicas: u32) -> Result<(), String> {
    let Some(object) = object else {
        return Err("it is not there".to_owned());
    };
    let number = |pointer: &str| object.pointer(pointer).and_then(Json::as_u64).unwrap_or(0);
    let (all, ready) = (number("/status/replicas"), number("/status/readyReplicas"));
    if all == u64::from(replicas) && ready == u64::from(replicas) {
        Ok(())
    } else {
        Err(format!("{ready} of {all} replicas are ready"))
    }
}

//! `rollout = { kind, name, image = { CONTAINER = "IMAGE" }, within }`: a workload's template changes, and its new pods serve;
//! `rollout = { kind, name, undo = true, within }`: it goes back to the template before.
//!
//! As `kubectl set image`, `kubectl rollout undo` and `kubectl rollout status` do it. It ends at once when a new pod cannot become
//! ready: whatever is wrong with an old one is what a rollout mends.

mod history;
mod images;
mod progress;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use super::node::takes_no_pods;
use super::object::ObjectPlace;
use super::{StepAction, StepContext, StepType};
use crate::kubernetes::client::{Client, ClientError, ListParams};
use crate::model::reader::{Table, Value};
use crate::scenario::deploy::NAMESPACE;
use crate::scenario::events::node_ready;
use crate::scenario::file::{Nodes, positive};
use crate::scenario::hopeless::{Hopeless, Hopes};
use progress::Progress;

pub(super) const ROLLOUT: StepType = StepType {
    key: "rollout",
    read,
};

/// What has a template that it rolls out.
const KINDS: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

fn read(value: &Value<'_, '_>, _: &Nodes) -> Option<Arc<dyn StepAction>> {
    let table = value.table()?;
    table.allow(&["kind", "name", "image", "undo", "within"]);
    let object = ObjectPlace::read(&table, &KINDS);
    let change = change(&table);
    let within = table.require("within").and_then(|value| positive(&value));
    Some(Arc::new(Rollout {
        object: object?,
        change: change?,
        within: within?,
    }))
}

fn change(table: &Table<'_, '_>) -> Option<Change> {
    match (table.get("image"), table.get("undo")) {
        (Some(value), None) => {
            let entries = value.table()?.entries();
            if entries.is_empty() {
                value.problem(
                    "names no container",
                    Some("such as `{ web = \"registry.example/web:v2\" }`".into()),
                );
                return None;
            }
            let image = |(container, _, value): &(&str, _, Value<'_, '_>)| {
                let image = value.string()?;
                if image.is_empty() || image.contains(char::is_whitespace) {
                    value.problem(format!("`{image}` is not an image's name"), None);
                    return None;
                }
                Some(((*container).to_owned(), image.to_owned()))
            };
            let read: Vec<Option<(String, String)>> = entries.iter().map(image).collect();
            read.into_iter()
                .collect::<Option<Vec<_>>>()
                .map(Change::Images)
        }
        (None, Some(value)) => {
            let undo = value.boolean()?;
            if !undo {
                value.problem(
                    "a rollout that is not undone changes nothing",
                    Some("`undo = true`, or `image = { … }`".into()),
                );
                return None;
            }
            Some(Change::Undo)
        }
        _ => {
            table.problem(
                "say once what is rolled out",
                Some("`image = { web = \"registry.example/web:v2\" }` or `undo = true`".into()),
            );
            None
        }
    }
}

/// What becomes of the template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    /// These containers run these images.
    Images(Vec<(String, String)>),
    /// It is what it was before.
    Undo,
}

#[derive(Debug)]
struct Rollout {
    object: ObjectPlace,
    change: Change,
    within: Duration,
}

impl StepAction for Rollout {
    fn plan(&self) -> String {
        let within = self.within.as_secs_f64();
        match &self.change {
            Change::Images(images) => {
                let words: Vec<String> = images
                    .iter()
                    .map(|(container, image)| format!("{container} = {image}"))
                    .collect();
                let (object, words) = (&self.object, words.join(", "));
                format!("roll out {object} with {words}, done within {within} s")
            }
            Change::Undo => format!(
                "undo the last rollout of {}, done within {within} s",
                self.object
            ),
        }
    }

    fn within(&self) -> Option<Duration> {
        Some(self.within)
    }

    fn updates(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, context: &'a StepContext<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let until = Instant::now() + self.within;
            let client = context.client;
            let Some(before) = self.object.get(client).await? else {
                return Err(format!("there is no {}", self.object));
            };
            if let Some(why) = progress::unable(self.object.kind.kind, &before) {
                return Err(format!("{}: {why}", self.object));
            }
            let patch = match &self.change {
                Change::Images(images) => images::patch(&before, images)
                    .map_err(|why| format!("{}: {why}", self.object))?,
                Change::Undo => history::previous(client, &self.object, &before).await?,
            };
            let (kind, name) = (&self.object.kind, &self.object.name);
            let changed = client
                .patch_value(kind, NAMESPACE, name, &patch, None)
                .await
                .map_err(|error| format!("roll out {}: {error}", self.object))?;
            self.wait(context, &Rolled { before, changed }, until).await
        })
    }
}

/// The object before its template changed, and as the change left it.
struct Rolled {
    before: Json,
    changed: Json,
}

impl Rollout {
    /// Waits until the new pods serve, and the old ones are gone.
    async fn wait(
        &self,
        context: &StepContext<'_>,
        rolled: &Rolled,
        until: Instant,
    ) -> Result<(), String> {
        let client = context.client;
        let stale = progress::exceeded_at(&rolled.before);
        let mut hopes = Hopes::default();
        loop {
            let seen = match self.object.get(client).await {
                Ok(None) => return Err(format!("{} is gone", self.object)),
                Ok(Some(object)) => {
                    match progress::of(self.object.kind.kind, &object, stale.as_deref()) {
                        Progress::Done => return Ok(()),
                        Progress::Waits(why) => why,
                        // While a fault acts it may be for that alone.
                        Progress::Stuck(why) if (context.faults_act)() => why,
                        Progress::Stuck(why) => return Err(format!("{}: {why}", self.object)),
                    }
                }
                // A server that is away may be back in time.
                Err(error) => error,
            };
            if !(context.faults_act)() {
                // Who cannot be asked now is asked again.
                let hopeless = self.hopeless(client, &rolled.changed).await;
                if let Some(lost) = hopes.look(Instant::now(), hopeless.unwrap_or_default()) {
                    let why = lost.words(client).await;
                    return Err(format!("{} cannot be rolled out: {why}", self.object));
                }
            }
            if Instant::now() + LOOK_AGAIN >= until {
                return Err(format!(
                    "{}: not rolled out within {} s; last seen: {seen}",
                    self.object,
                    self.within.as_secs_f64()
                ));
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The new pods that will not become ready. Where a node is away or takes no pods, one may yet fit.
    async fn hopeless(
        &self,
        client: &Client,
        changed: &Json,
    ) -> Result<Vec<Hopeless>, ClientError> {
        let selector = images::selector_text(&changed["spec"]["selector"]);
        let pods: Vec<Pod> = client
            .list(NAMESPACE, &ListParams::labels(selector))
            .await?
            .items;
        let nodes: Vec<Node> = client.list("", &ListParams::all()).await?.items;
        let all_there = nodes
            .iter()
            .all(|node| node_ready(node) && !takes_no_pods(node));
        let new = images::of_template(&changed["spec"]["template"]["spec"]);
        let is_new = |pod: &&Pod| images::of_pod(pod) == new;
        let new_pods = pods.iter().filter(is_new);
        Ok(new_pods
            .filter_map(|pod| Hopeless::of(pod, all_there))
            .collect())
    }
}

#[cfg(test)]
mod tests;

//! `drain = { node, within }`: a node takes no new pods, and those on it are evicted as their disruption budgets allow.
//!
//! As `kubectl drain` does it (k8s.io/kubectl/pkg/drain): pods of a DaemonSet and static pods are left alone, and a node with a pod
//! that nothing would replace is not drained at all. A pod's `emptyDir` goes with it.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{StepAction, StepContext, StepType, node};
use crate::kubernetes::client::{Client, ClientError, ListParams, ResourceKind};
use crate::model::names::NodeName;
use crate::model::reader::Value;
use crate::scenario::file::{Nodes, positive};

pub(super) const DRAIN: StepType = StepType { key: "drain", read };

/// Pause before a pod is asked for again that its budget holds, and between two looks at those that end.
const EVICT_AGAIN: Duration = Duration::from_secs(1);
/// So many of the pods that are left are told.
const TOLD_MAX: usize = 3;

fn read(value: &Value<'_, '_>, nodes: &Nodes) -> Option<Arc<dyn StepAction>> {
    let table = value.table()?;
    table.allow(&["node", "within"]);
    let node = node::read(&table, nodes);
    let within = table.require("within").and_then(|value| positive(&value));
    Some(Arc::new(Drain {
        node: node?,
        within: within?,
    }))
}

#[derive(Debug)]
struct Drain {
    node: NodeName,
    within: Duration,
}

impl StepAction for Drain {
    fn plan(&self) -> String {
        format!(
            "drain node `{}`, empty within {} s",
            self.node,
            self.within.as_secs_f64()
        )
    }

    fn within(&self) -> Option<Duration> {
        Some(self.within)
    }

    fn node(&self) -> Option<&NodeName> {
        Some(&self.node)
    }

    fn run<'a>(&'a self, context: &'a StepContext<'a>) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let mut seen = "the API has not answered".to_owned();
            let drained = timeout(self.within, self.drain(context, &mut seen)).await;
            drained.unwrap_or_else(|_| {
                Err(format!(
                    "node `{}` was not drained within {} s; last seen: {seen}",
                    self.node,
                    self.within.as_secs_f64()
                ))
            })
        })
    }
}

impl Drain {
    async fn drain(&self, context: &StepContext<'_>, seen: &mut String) -> Result<(), String> {
        let client = context.client;
        let failed = |error: ClientError| format!("drain node `{}`: {error}", self.node);
        let pods = self.pods(client).await.map_err(failed)?;
        if let Some(alone) = pods.iter().find(|pod| fate(pod) == Fate::Lost) {
            return Err(format!(
                "node `{}` is not drained: nothing would replace pod `{}`, which has no controller",
                self.node,
                title(alone)
            ));
        }
        node::cordon(client, &self.node).await?;
        loop {
            match self.pods(client).await {
                Ok(pods) => {
                    let left = self.evict(context, &pods).await?;
                    if left.is_empty() {
                        return Ok(());
                    }
                    *seen = told(&left);
                }
                // A server that is away may be back in time.
                Err(error) if error.is_temporary() => *seen = error.to_string(),
                Err(error) => return Err(failed(error)),
            }
            sleep(EVICT_AGAIN).await;
        }
    }

    /// The pods that are bound to the node, of every namespace.
    async fn pods(&self, client: &Client) -> Result<Vec<Pod>, ClientError> {
        let bound = ListParams::fields(format!("spec.nodeName={}", self.node));
        Ok(client.list::<Pod>("", &bound).await?.items)
    }

    /// Asks once for each pod that should go; those that are still there, each with why.
    async fn evict(&self, context: &StepContext<'_>, pods: &[Pod]) -> Result<Vec<String>, String> {
        let mut left = Vec::new();
        for pod in pods {
            let title = title(pod);
            match fate(pod) {
                Fate::Stays => {}
                Fate::Ends => left.push(format!("pod `{title}` is ending")),
                // One without a controller that came after the first look goes as the others do.
                Fate::Goes | Fate::Lost => match evict(context.client, pod).await {
                    Ok(()) => {
                        (context.tell)(format!("pod `{title}` is evicted"));
                        left.push(format!("pod `{title}` is ending"));
                    }
                    Err(error) => match reaction(&error) {
                        Reaction::Gone => {}
                        Reaction::Again => left.push(format!("pod `{title}`: {error}")),
                        Reaction::Hopeless => {
                            return Err(format!("evict pod `{title}`: {error}"));
                        }
                    },
                },
            }
        }
        Ok(left)
    }
}

/// What becomes of a pod of a node that is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// A DaemonSet would put it there again at once, or it is no API object at all.
    Stays,
    /// It is evicted.
    Goes,
    /// It is being deleted.
    Ends,
    /// Nothing would replace it.
    Lost,
}

fn fate(pod: &Pod) -> Fate {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let metadata = &pod.metadata;
    let mirrors = metadata.annotations.as_ref();
    if mirrors.is_some_and(|annotations| annotations.contains_key(MIRROR)) {
        return Fate::Stays;
    }
    let mut owners = metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true));
    if controller.is_some_and(|owner| owner.kind == "DaemonSet") {
        return Fate::Stays;
    }
    if metadata.deletion_timestamp.is_some() {
        return Fate::Ends;
    }
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    if controller.is_none() && !over {
        return Fate::Lost;
    }
    Fate::Goes
}

async fn evict(client: &Client, pod: &Pod) -> Result<(), ClientError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let path = ResourceKind::of::<Pod>().object_path(namespace, name, Some("eviction"));
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": { "name": name, "namespace": namespace },
        // A namesake that came meanwhile is another pod.
        "deleteOptions": { "preconditions": { "uid": pod.metadata.uid } },
    });
    client.raw(Method::POST, &path, Some(&eviction)).await?;
    Ok(())
}

/// What follows from a refused eviction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    /// There is no such pod any more.
    Gone,
    /// Its budget may allow it later, or the server be back.
    Again,
    /// No passing of time mends it: two budgets for one pod, a request that is forbidden.
    Hopeless,
}

fn reaction(error: &ClientError) -> Reaction {
    match error.code() {
        Some(404) => Reaction::Gone,
        Some(409 | 429 | 502 | 503 | 504) => Reaction::Again,
        Some(_) => Reaction::Hopeless,
        None if error.is_temporary() => Reaction::Again,
        None => Reaction::Hopeless,
    }
}

fn title(pod: &Pod) -> String {
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    format!("{}/{}", of(&metadata.namespace), of(&metadata.name))
}

/// The pods that are left, the first of them with why.
fn told(left: &[String]) -> String {
    let more = left.len().saturating_sub(TOLD_MAX);
    let rest = format!("{more} more");
    let mut words: Vec<&str> = left.iter().take(TOLD_MAX).map(String::as_str).collect();
    if more > 0 {
        words.push(&rest);
    }
    words.join("; ")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
    use serde_json::Value as Json;

    use super::*;

    fn pod(metadata: Json, phase: &str) -> Pod {
        serde_json::from_value(json!({ "metadata": metadata, "status": { "phase": phase } }))
            .unwrap()
    }

    fn owned(kind: &str) -> Json {
        json!({ "namespace": "a", "name": "web", "ownerReferences": [
            { "apiVersion": "v1", "kind": kind, "name": "x", "uid": "1", "controller": true }] })
    }

    #[test]
    fn what_a_daemon_set_put_there_stays_and_what_nothing_replaces_is_not_lost() {
        assert_eq!(fate(&pod(owned("ReplicaSet"), "Running")), Fate::Goes);
        assert_eq!(fate(&pod(owned("DaemonSet"), "Running")), Fate::Stays);
        let alone = json!({ "namespace": "a", "name": "web" });
        assert_eq!(fate(&pod(alone.clone(), "Running")), Fate::Lost);
        assert_eq!(fate(&pod(alone, "Succeeded")), Fate::Goes);
        let mut ends = owned("ReplicaSet");
        ends["deletionTimestamp"] = json!("2026-11-30T10:00:00Z");
        assert_eq!(fate(&pod(ends, "Running")), Fate::Ends);
        let mirror = json!({ "annotations": { "kubernetes.io/config.mirror": "x" } });
        assert_eq!(fate(&pod(mirror, "Running")), Fate::Stays);
    }

    #[test]
    fn a_budget_is_waited_for_and_what_time_does_not_mend_ends_the_step() {
        let refused = |code| {
            reaction(&ClientError::Status(Box::new(Status {
                code: Some(code),
                ..Status::default()
            })))
        };
        assert_eq!(refused(429), Reaction::Again);
        assert_eq!(refused(503), Reaction::Again);
        assert_eq!(refused(404), Reaction::Gone);
        assert_eq!(refused(403), Reaction::Hopeless);
        assert_eq!(refused(500), Reaction::Hopeless, "more than one budget");
        let silent = ClientError::TimedOut {
            request: "POST".to_owned(),
            after: Duration::from_secs(1),
        };
        assert_eq!(reaction(&silent), Reaction::Again);
    }

    #[test]
    fn of_many_pods_few_are_told() {
        let left: Vec<String> = (1..=5).map(|number| format!("pod {number}")).collect();
        assert_eq!(told(&left), "pod 1; pod 2; pod 3; 2 more");
        assert_eq!(told(&left[..1]), "pod 1");
    }
}

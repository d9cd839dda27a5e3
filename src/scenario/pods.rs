//! Steps that touch pods and objects through the Kubernetes API: delete a pod, run a command in pods, apply a manifest.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::deploy::NAMESPACE;
use super::events::{is_of, matches_labels};
use crate::kubernetes::client::{Client, ClientError, DeleteParams, ListParams};
use crate::kubernetes::manifest;

/// Pause between two looks whether a command's output is right.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A command for pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Pods of this ReplicationController.
    pub rc: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// In which of them.
    pub pods: Which,
    /// What the output has to contain; without it the command is run once, and its exit code does not matter.
    pub contains: Option<String>,
    /// Until then at the latest.
    pub within: Duration,
}

/// Which pods of a ReplicationController.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// One, by the seed.
    One,
    /// All.
    All,
}

/// Deletes one pod, chosen by the seed; without grace it is killed. Returns its name.
pub(super) async fn delete_one(
    client: &Client,
    rc: &str,
    grace: Duration,
    seed: u64,
) -> Result<String, String> {
    let pod = chosen(client, rc, Which::One, seed).await?.remove(0);
    let seconds = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
    let params = DeleteParams {
        grace_period_seconds: Some(seconds),
        ..DeleteParams::default()
    };
    client
        .delete::<Pod>(NAMESPACE, &pod, &params)
        .await
        .map_err(|error| format!("delete pod `{pod}`: {error}"))?;
    Ok(pod)
}

/// Runs the command until every chosen pod's output is right.
pub(super) async fn exec(client: &Client, step: &Exec, seed: u64) -> Result<(), String> {
    let until = Instant::now() + step.within;
    for pod in chosen(client, &step.rc, step.pods, seed).await? {
        loop {
            let output = run(client, &pod, &step.command).await;
            let Some(wanted) = &step.contains else {
                output?;
                break;
            };
            if output.as_ref().is_ok_and(|output| output.contains(wanted)) {
                break;
            }
            if Instant::now() >= until {
                let seen = output.unwrap_or_else(|error| error);
                let within = step.within.as_secs_f64();
                return Err(format!(
                    "pod `{pod}` did not say `{wanted}` within {within} s; last: `{}`",
                    seen.trim()
                ));
            }
            sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Applies a manifest file.
pub(super) async fn apply(client: &Client, file: &Path) -> Result<(), String> {
    let manifests = manifest::load(&[file.to_owned()]).map_err(|error| error.to_string())?;
    manifest::apply(client, NAMESPACE, &manifests)
        .await
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Names of pods of a ReplicationController, or of another workload of that name, that run and are not on their way out, in order.
async fn chosen(client: &Client, rc: &str, which: Which, seed: u64) -> Result<Vec<String>, String> {
    let failed = |error: ClientError| format!("look for the pods of `{rc}`: {error}");
    let controller: Option<ReplicationController> =
        client.get_optional(NAMESPACE, rc).await.map_err(failed)?;
    let selector = controller.and_then(|controller| controller.spec?.selector);
    let pods = client
        .list::<Pod>(NAMESPACE, &ListParams::all())
        .await
        .map_err(failed)?;
    let runs = |pod: &&Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let belongs = match &selector {
            Some(selector) => matches_labels(pod, selector),
            None => is_of(pod, rc),
        };
        belongs && pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
    };
    let mut names: Vec<String> = pods
        .items
        .iter()
        .filter(runs)
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    names.sort();
    if which == Which::One {
        let one = names
            .choose(&mut rand::rngs::StdRng::seed_from_u64(seed))
            .cloned();
        names = one.into_iter().collect();
    }
    if names.is_empty() {
        Err(format!("no pod of `{rc}` runs"))
    } else {
        Ok(names)
    }
}

/// Standard output of a command in a pod's first container.
async fn run(client: &Client, pod: &str, command: &[String]) -> Result<String, String> {
    let mut path = format!("/flightcage/v1/namespaces/{NAMESPACE}/pods/{pod}/exec");
    for (index, word) in command.iter().enumerate() {
        path.push_str(if index == 0 { "?command=" } else { "&command=" });
        path.extend(word.bytes().map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        }));
    }
    let failed = |why: String| format!("run `{}` in pod `{pod}`: {why}", command.join(" "));
    let answer = client
        .raw(Method::POST, &path, None)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let mut output = Vec::new();
    for line in answer
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let piece: Value =
            serde_json::from_slice(line).map_err(|error| failed(error.to_string()))?;
        if let Some(error) = piece["error"].as_str() {
            return Err(failed(error.to_owned()));
        }
        output.extend(
            piece["data"]
                .as_str()
                .and_then(|data| STANDARD.decode(data).ok())
                .unwrap_or_default(),
        );
    }
    Ok(String::from_utf8_lossy(&output).into_owned())
}

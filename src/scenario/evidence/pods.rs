//! What the pods' containers wrote during the run.

use std::time::SystemTime;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use tokio::time::timeout;

use super::texts::{FILE_BYTES_MAX, Texts};
use super::{ANSWER_WITHIN, Sources, since_start};
use crate::kubernetes::client::{ListParams, LogParams};

/// The logs of so many containers at most.
const CONTAINERS_MAX: usize = 100;

pub(super) async fn gather(sources: &Sources<'_>, texts: &mut Texts) {
    let everywhere = [String::new()];
    let namespaces = if sources.namespaces.is_empty() {
        &everywhere[..]
    } else {
        &sources.namespaces
    };
    let mut containers = Vec::new();
    for namespace in namespaces {
        let all = ListParams::all();
        let asked = sources.client.list::<Pod>(namespace, &all);
        match timeout(ANSWER_WITHIN, asked).await {
            Ok(Ok(listed)) => containers.extend(listed.items.iter().flat_map(containers_of)),
            Ok(Err(error)) => texts.missing(format!("pods' logs: {error}")),
            Err(_) => texts.missing("pods' logs: the API does not answer".to_owned()),
        }
    }
    if containers.len() > CONTAINERS_MAX {
        let left = containers.len() - CONTAINERS_MAX;
        texts.missing(format!("the logs of {left} more containers"));
        containers.truncate(CONTAINERS_MAX);
    }
    for container in containers {
        let path = container.path();
        match log(sources, &container).await {
            Ok(text) => texts.add(path, text),
            Err(why) => texts.missing(format!("`{path}`: {why}")),
        }
    }
}

struct Container {
    namespace: String,
    pod: String,
    name: String,
    previous: bool,
}

impl Container {
    fn path(&self) -> String {
        let Self {
            namespace,
            pod,
            name,
            previous,
        } = self;
        let before = if *previous { ".previous" } else { "" };
        format!("pods/{namespace}_{pod}_{name}{before}.log")
    }
}

/// Every container that was started, and the instance before if it was started again.
fn containers_of(pod: &Pod) -> Vec<Container> {
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_ref());
    let mut containers = Vec::new();
    for status in statuses.into_iter().flatten() {
        let state = status.state.as_ref();
        let started = state.is_some_and(|s| s.running.is_some() || s.terminated.is_some());
        let instances = [(started, false), (status.restart_count > 0, true)];
        for (_, previous) in instances.into_iter().filter(|(there, _)| *there) {
            containers.push(Container {
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                pod: pod.metadata.name.clone().unwrap_or_default(),
                name: status.name.clone(),
                previous,
            });
        }
    }
    containers
}

async fn log(sources: &Sources<'_>, container: &Container) -> Result<String, String> {
    let elapsed = sources.begun.elapsed().unwrap_or_default();
    let params = LogParams {
        container: Some(container.name.clone()),
        previous: container.previous,
        timestamps: true,
        since_seconds: Some(elapsed.as_secs() + 1),
        ..LogParams::default()
    };
    let read = async {
        let opened = sources
            .client
            .logs(&container.namespace, &container.pod, &params);
        let mut stream = opened.await.map_err(|error| error.to_string())?;
        let mut bytes: Vec<u8> = Vec::new();
        while let Some(piece) = stream.try_next().await.map_err(|error| error.to_string())? {
            bytes.extend_from_slice(&piece);
            // Of a long log the end is kept.
            if bytes.len() > 4 * FILE_BYTES_MAX {
                bytes.drain(..bytes.len() - 2 * FILE_BYTES_MAX);
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match timeout(ANSWER_WITHIN, read).await {
        Ok(text) => text.map(|text| aligned(&text, sources.begun)),
        Err(_) => Err("the node does not answer".to_owned()),
    }
}

/// Lines with the time from the start of the run in place of the time of day.
pub(super) fn aligned(text: &str, begun: SystemTime) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let timed = line.split_once(' ').and_then(|(time, rest)| {
            let at: jiff::Timestamp = time.parse().ok()?;
            Some((u64::try_from(at.as_microsecond()).ok()?, rest))
        });
        match timed {
            Some((at_us, rest)) => {
                out.push_str(&format!("{:>12}  {rest}\n", since_start(begun, at_us)));
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

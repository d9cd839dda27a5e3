//! Pods that will not become ready: waiting for them ends at once, and says why.
//!
//! What is taken as hopeless is what no passing of time mends: an image that does not exist, a container that ends again and again,
//! a pod that no node can hold while all nodes are there. Each has to be seen for a while, since an image may just be loaded, and a
//! node just join.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::time::{Instant, timeout};

use crate::kubernetes::client::{Client, LogParams};

/// A container that was started again so often is in a crash loop.
const RESTARTS_MIN: i32 = 4;
/// So much of its log is told.
const LINES: u64 = 5;
const LINE_CHARS_MAX: usize = 200;
const LOG_WITHIN: Duration = Duration::from_secs(5);

/// Why a pod will not become ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Its image is nowhere, or its name is none.
    Image,
    /// A container ends soon after each start.
    CrashLoop,
    /// No node can hold it.
    NoNode,
}

impl Kind {
    /// How long it has to be seen on end.
    fn seen_for(self) -> Duration {
        match self {
            Self::Image => Duration::from_secs(10),
            Self::CrashLoop => Duration::ZERO,
            Self::NoNode => Duration::from_secs(20),
        }
    }
}

/// A pod that will not become ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hopeless {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) kind: Kind,
    /// The container, where it is one's fault.
    pub(super) container: Option<String>,
    pub(super) why: String,
}

impl Hopeless {
    /// What is the matter with a pod, if time does not mend it.
    pub(super) fn of(pod: &Pod, all_nodes_ready: bool) -> Option<Self> {
        if pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let status = pod.status.as_ref()?;
        let found = |kind: Kind, container: Option<&str>, why: String| Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            pod: pod.metadata.name.clone().unwrap_or_default(),
            kind,
            container: container.map(str::to_owned),
            why,
        };
        let containers = status.container_statuses.iter().flatten();
        let mut containers = containers.chain(status.init_container_statuses.iter().flatten());
        let of_container = containers.find_map(|container| {
            let (kind, why) = container_problem(container)?;
            Some(found(kind, Some(&container.name), why))
        });
        let conditions = status.conditions.iter().flatten();
        let mut unscheduled = conditions.filter(|condition| {
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && condition.reason.as_deref() == Some("Unschedulable")
        });
        of_container.or_else(|| {
            let condition = unscheduled.next().filter(|_| all_nodes_ready)?;
            let why = condition.message.clone().unwrap_or_default();
            Some(found(Kind::NoNode, None, format!("no node fits: {why}")))
        })
    }

    /// In words, with the end of the container's log if it has one.
    pub(super) async fn words(&self, client: &Client) -> String {
        let mut words = format!("pod `{}`: {}", self.pod, self.why);
        if self.kind == Kind::CrashLoop
            && let Ok(Ok(log)) = timeout(LOG_WITHIN, self.log(client)).await
            && !log.is_empty()
        {
            words = format!("{words}; its last lines: {log}");
        }
        words
    }

    async fn log(&self, client: &Client) -> Result<String, crate::kubernetes::client::ClientError> {
        let params = LogParams {
            container: self.container.clone(),
            previous: true,
            tail_lines: Some(LINES),
            ..LogParams::default()
        };
        let mut stream = client.logs(&self.namespace, &self.pod, &params).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = stream.try_next().await? {
            bytes.extend_from_slice(&piece);
        }
        Ok(last_lines(&String::from_utf8_lossy(&bytes)))
    }
}

fn last_lines(log: &str) -> String {
    let cut = |line: &str| {
        line.trim_end()
            .chars()
            .take(LINE_CHARS_MAX)
            .collect::<String>()
    };
    log.lines().map(cut).collect::<Vec<_>>().join(" | ")
}

fn container_problem(container: &ContainerStatus) -> Option<(Kind, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let message = waiting.message.as_deref().unwrap_or_default();
    let missing = ["not found", "manifest unknown", "does not exist"];
    let is_missing = missing.iter().any(|words| message.contains(words));
    match reason {
        "InvalidImageName" | "ErrImageNeverPull" => {
            Some((Kind::Image, format!("{reason}: {message}")))
        }
        "ErrImagePull" | "ImagePullBackOff" if is_missing => {
            Some((Kind::Image, format!("{reason}: {message}")))
        }
        "CrashLoopBackOff" if container.restart_count >= RESTARTS_MIN => {
            let ended = container
                .last_state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            let code = ended.map_or_else(String::new, |ended| {
                format!(", last with exit code {}", ended.exit_code)
            });
            let why = format!(
                "container `{}` ended {} times{code}",
                container.name,
                container.restart_count + 1
            );
            Some((Kind::CrashLoop, why))
        }
        _ => None,
    }
}

/// Since when which pods were hopeless.
#[derive(Debug, Default)]
pub(super) struct Hopes(BTreeMap<(String, String, Kind), Instant>);

impl Hopes {
    /// Looks at those that are hopeless now; one that has been so for long enough.
    pub(super) fn look(&mut self, now: Instant, seen: Vec<Hopeless>) -> Option<Hopeless> {
        let key = |one: &Hopeless| (one.namespace.clone(), one.pod.clone(), one.kind);
        let keys: Vec<_> = seen.iter().map(key).collect();
        self.0.retain(|known, _| keys.contains(known));
        let since = |one: &Hopeless| *self.0.entry(key(one)).or_insert(now);
        let sinces: Vec<Instant> = seen.iter().map(since).collect();
        let mut lost = seen.into_iter().zip(sinces);
        lost.find(|(one, since)| now - *since >= one.kind.seen_for())
            .map(|(one, _)| one)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(
            json!({ "metadata": { "namespace": "default", "name": "web" }, "status": status }),
        )
        .unwrap()
    }

    fn waiting(reason: &str, message: &str, restarts: i32) -> Pod {
        pod(json!({ "containerStatuses": [{
            "name": "php", "image": "x", "imageID": "", "ready": false, "restartCount": restarts,
            "state": { "waiting": { "reason": reason, "message": message } },
            "lastState": { "terminated": { "exitCode": 3 } }
        }]}))
    }

    #[test]
    fn what_time_does_not_mend_is_hopeless_and_nothing_else() {
        let why = |pod: &Pod, ready: bool| Hopeless::of(pod, ready).map(|one| one.why);
        let missing =
            "image `x` was not found in the mirror, and no upstream registry is listed that has it";
        assert_eq!(
            why(&waiting("ErrImagePull", missing, 0), true),
            Some(format!("ErrImagePull: {missing}"))
        );
        assert!(why(&waiting("InvalidImageName", "", 0), true).is_some());
        assert_eq!(
            why(&waiting("ErrImagePull", "connection reset", 0), true),
            None
        );
        assert_eq!(
            why(&waiting("CrashLoopBackOff", "back-off", 4), true),
            Some("container `php` ended 5 times, last with exit code 3".to_owned())
        );
        assert_eq!(why(&waiting("CrashLoopBackOff", "back-off", 3), true), None);
        assert_eq!(why(&waiting("ContainerCreating", "", 9), true), None);
        let unscheduled = pod(json!({ "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes" }] }));
        assert_eq!(
            why(&unscheduled, true),
            Some("no node fits: 0/3 nodes".to_owned())
        );
        assert_eq!(why(&unscheduled, false), None, "a node may come back");
    }

    #[test]
    fn it_has_to_be_seen_for_a_while_on_end() {
        let image = Hopeless::of(&waiting("InvalidImageName", "", 0), true).unwrap();
        let loops = Hopeless::of(&waiting("CrashLoopBackOff", "", 4), true).unwrap();
        let mut hopes = Hopes::default();
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        assert_eq!(hopes.look(at(0), vec![image.clone()]), None);
        assert_eq!(hopes.look(at(9), vec![image.clone()]), None);
        assert_eq!(hopes.look(at(9), vec![]), None);
        assert_eq!(
            hopes.look(at(11), vec![image.clone()]),
            None,
            "it began anew"
        );
        assert_eq!(hopes.look(at(21), vec![image.clone()]), Some(image.clone()));
        assert_eq!(
            hopes.look(at(21), vec![image, loops.clone()]).unwrap().kind,
            Kind::Image
        );
        assert_eq!(
            Hopes::default().look(at(0), vec![loops.clone()]),
            Some(loops)
        );
    }

    #[test]
    fn of_a_log_little_is_told() {
        assert_eq!(last_lines("one\ntwo  \n"), "one | two");
        assert_eq!(last_lines(&"x".repeat(500)).len(), LINE_CHARS_MAX);
    }
}

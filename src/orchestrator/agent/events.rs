//! Events of this node's pods. Sending never waits: a full queue drops the event. Repeated ones are counted, not created again.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::sync::mpsc;

use super::status::time;
use crate::kubernetes::client::{Client, Patch};
use crate::orchestrator::limits::EVENT_NOTE_BYTES;

/// Events that wait to be sent, at most.
const QUEUE_LIMIT: usize = 256;
/// Different events that are counted at the same time, at most; beyond it counting starts over.
const KNOWN_LIMIT: usize = 1024;

/// Whether all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Severity {
    /// `Normal`.
    Normal,
    /// `Warning`.
    Warning,
}

/// One thing that happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Happening {
    namespace: String,
    pod: String,
    uid: String,
    container: Option<String>,
    severity: Severity,
    reason: &'static str,
    message: String,
}

/// Takes events from workers. Clones share one queue.
#[derive(Debug, Clone)]
pub(crate) struct Recorder(mpsc::Sender<Happening>);

impl Recorder {
    /// A recorder and the queue that [`send_all`] empties.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Happening>) {
        let (send, receive) = mpsc::channel(QUEUE_LIMIT);
        (Self(send), receive)
    }

    /// Records an event of a pod, or of one of its containers.
    pub(crate) fn record(
        &self,
        pod: &Pod,
        container: Option<&str>,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let metadata = &pod.metadata;
        let mut happening = Happening {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            pod: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            container: container.map(str::to_owned),
            severity,
            reason,
            message,
        };
        tracing::info!(pod = %happening.pod, container, reason, "{}", happening.message);
        happening.message = bounded(happening.message);
        if self.0.try_send(happening).is_err() {
            tracing::debug!(reason, "the queue of events is full, one is dropped");
        }
    }
}

/// The beginning of a message that is longer than an Event's may be.
fn bounded(mut message: String) -> String {
    if message.len() > EVENT_NOTE_BYTES {
        let end = message.floor_char_boundary(EVENT_NOTE_BYTES - '…'.len_utf8());
        message.truncate(end);
        message.push('…');
    }
    message
}

/// Sends events until every recorder is gone. An API that is away loses them.
pub(crate) async fn send_all(client: Client, node: String, mut queue: mpsc::Receiver<Happening>) {
    let mut known: HashMap<Happening, (String, i32)> = HashMap::new();
    while let Some(happening) = queue.recv().await {
        if let Err(error) = send(&client, &node, &happening, &mut known).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                reason = happening.reason,
                "an event could not be sent"
            );
        }
    }
}

async fn send(
    client: &Client,
    node: &str,
    happening: &Happening,
    known: &mut HashMap<Happening, (String, i32)>,
) -> Result<(), crate::kubernetes::client::ClientError> {
    let now = time(jiff::Timestamp::now());
    if let Some((name, count)) = known.get_mut(happening) {
        *count = count.saturating_add(1);
        let patch = Patch::Merge(json!({"count": *count, "lastTimestamp": now}));
        match client
            .patch::<Event>(&happening.namespace, name, &patch, None)
            .await
        {
            // It has expired: created again below.
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
    }
    let name = format!("{}.{}", happening.pod, uuid::Uuid::new_v4().simple());
    client
        .create(&happening.namespace, &event(happening, node, &name, &now))
        .await?;
    if known.len() >= KNOWN_LIMIT {
        known.clear();
    }
    known.insert(happening.clone(), (name, 1));
    Ok(())
}

fn event(
    happening: &Happening,
    node: &str,
    name: &str,
    now: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Time,
) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(happening.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(happening.pod.clone()),
            namespace: Some(happening.namespace.clone()),
            uid: Some(happening.uid.clone()),
            field_path: happening
                .container
                .as_ref()
                .map(|container| format!("spec.containers{{{container}}}")),
            ..ObjectReference::default()
        },
        type_: Some(match happening.severity {
            Severity::Normal => "Normal".into(),
            Severity::Warning => "Warning".into(),
        }),
        reason: Some(happening.reason.to_owned()),
        message: Some(happening.message.clone()),
        count: Some(1),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now.clone()),
        source: Some(EventSource {
            component: Some("kubelet".into()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

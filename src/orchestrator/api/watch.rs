//! A watch as a stream of JSON lines.
//!
//! It reads the store's event ring from where it stands whenever there is a new revision, so that a slow client costs no memory: one
//! that is too slow is told 410 and lists again. An object that enters or leaves the selector is ADDED or DELETED for this client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kinds::Kind;
use super::registry::Registry;
use super::selectors::Selector;
use super::status::Status;
use super::tables::Form;
use crate::orchestrator::store::{Event, Revision};

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);
/// How long a watch lasts when the client does not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(50);
/// Events taken from the ring at once.
const EVENTS_AT_ONCE: usize = 256;

/// What is watched, and how it is told.
pub struct Watch {
    /// Of which kind.
    pub kind: &'static Kind,
    /// In which namespace; `None` is all.
    pub namespace: Option<String>,
    /// Which objects.
    pub selector: Selector,
    /// Objects or Tables.
    pub form: Form,
    /// Strictly after this revision; `None` begins with the present objects.
    pub after: Option<Revision>,
    /// Whether the client takes BOOKMARK events.
    pub bookmarks: bool,
    /// Whether the end of the present objects is marked (`sendInitialEvents`).
    pub mark_initial_end: bool,
    /// When the watch ends.
    pub timeout_seconds: Option<u64>,
}

struct Running {
    watch: Watch,
    registry: Arc<Registry>,
    changes: tokio::sync::watch::Receiver<Revision>,
    position: Revision,
    ready: VecDeque<Bytes>,
    deadline: Instant,
    next_bookmark: Instant,
    over: bool,
    cancel: CancellationToken,
}

/// Starts the watch. The stream ends at its time-out, when the server stops, and after an ERROR event.
pub fn start(
    watch: Watch,
    registry: Arc<Registry>,
    cancel: CancellationToken,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    let changes = registry.subscribe();
    let now = Instant::now();
    let deadline = now
        + watch
            .timeout_seconds
            .map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let mut running = Running {
        position: watch.after.unwrap_or_default(),
        changes,
        ready: VecDeque::new(),
        deadline,
        next_bookmark: now + BOOKMARK_INTERVAL,
        over: false,
        cancel,
        registry,
        watch,
    };
    running.begin();
    futures::stream::unfold(running, |mut running| async move {
        let line = running.next().await?;
        Some((Ok(line), running))
    })
}

impl Running {
    fn begin(&mut self) {
        if self.watch.after.is_some() {
            return;
        }
        let (objects, revision) = self
            .registry
            .list(self.watch.kind, self.watch.namespace.as_deref());
        self.position = revision;
        for object in objects
            .iter()
            .filter(|object| self.watch.selector.matches(object))
        {
            let line = line(
                "ADDED",
                &self.watch.form.event_object(self.watch.kind, object),
            );
            self.ready.push_back(line);
        }
        if self.watch.mark_initial_end {
            self.bookmark(true);
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            // Seen before reading, so that a write in between wakes the wait below.
            self.changes.mark_unchanged();
            self.gather();
            if self.ready.is_empty() && !self.over && self.position >= *self.changes.borrow() {
                self.wait().await;
            }
        }
    }

    fn gather(&mut self) {
        let found = self.registry.events(
            self.watch.kind,
            self.watch.namespace.as_deref(),
            self.position,
            EVENTS_AT_ONCE,
        );
        match found {
            Ok((events, upto)) => {
                self.position = upto;
                for event in &events {
                    if let Some((kind, object)) = translate(&self.watch.selector, event) {
                        let line = line(
                            kind,
                            &self.watch.form.event_object(self.watch.kind, &object),
                        );
                        self.ready.push_back(line);
                    }
                }
            }
            Err(status) => {
                self.ready.push_back(line("ERROR", &status.to_value()));
                self.over = true;
            }
        }
    }

    async fn wait(&mut self) {
        let until = if self.watch.bookmarks {
            self.deadline.min(self.next_bookmark)
        } else {
            self.deadline
        };
        tokio::select! {
            changed = self.changes.changed() => self.over |= changed.is_err(),
            () = self.cancel.cancelled() => self.over = true,
            () = tokio::time::sleep_until(until) => {
                self.over |= Instant::now() >= self.deadline;
                if self.watch.bookmarks {
                    self.bookmark(false);
                    self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
                }
            }
        }
    }

    fn bookmark(&mut self, initial_end: bool) {
        let kind = self.watch.kind;
        let mut metadata =
            json!({"resourceVersion": self.position.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata});
        self.ready.push_back(line(
            "BOOKMARK",
            &self.watch.form.event_object(kind, &object),
        ));
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = format!("{{\"type\":\"{kind}\",\"object\":");
    text.push_str(&object.to_string());
    text.push_str("}\n");
    Bytes::from(text)
}

/// What an event is to somebody who sees only what the selector matches.
fn translate(selector: &Selector, event: &Event) -> Option<(&'static str, Arc<Value>)> {
    let before = event
        .previous
        .as_ref()
        .filter(|object| selector.matches(object));
    let after = event
        .value
        .as_ref()
        .filter(|object| selector.matches(object));
    match (before, after) {
        (None, None) => None,
        (None, Some(after)) => Some(("ADDED", after.clone())),
        (Some(_), Some(after)) => Some(("MODIFIED", after.clone())),
        (Some(before), None) => {
            let mut last = (**before).clone();
            if let Some(metadata) = last.get_mut("metadata") {
                metadata["resourceVersion"] = json!(event.revision.to_string());
            }
            Some(("DELETED", Arc::new(last)))
        }
    }
}

/// The 410 of a list that continues too late.
#[must_use]
pub fn expired_continue() -> Status {
    Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter.",
    )
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::orchestrator::api::kinds;
    use crate::orchestrator::api::patch::Patch;
    use crate::orchestrator::api::registry::DeleteOptions;
    use crate::orchestrator::api::registry::tests::registry;

    fn watch(after: Option<Revision>, labels: &str) -> Watch {
        Watch {
            kind: &kinds::CONFIG_MAP,
            namespace: Some("default".to_owned()),
            selector: Selector::parse(&kinds::CONFIG_MAP, Some(labels), None).expect("parses"),
            form: Form::Object,
            after,
            bookmarks: true,
            mark_initial_end: after.is_none(),
            timeout_seconds: None,
        }
    }

    async fn next(
        stream: &mut (impl Stream<Item = Result<Bytes, std::io::Error>> + Unpin),
    ) -> Value {
        let line = stream.next().await.expect("not ended").expect("no error");
        assert!(line.ends_with(b"\n"));
        serde_json::from_slice(&line).expect("JSON")
    }

    #[tokio::test]
    async fn objects_enter_and_leave_a_selector() {
        let registry = registry().await;
        let map = json!({"metadata": {"name": "a", "labels": {"x": "1"}}});
        registry
            .create(&kinds::CONFIG_MAP, Some("default"), map)
            .await
            .expect("created");
        let stream = start(
            watch(None, "x=1"),
            registry.clone(),
            CancellationToken::new(),
        );
        let mut stream = std::pin::pin!(stream);
        let added = next(&mut stream).await;
        assert_eq!(
            (&added["type"], &added["object"]["metadata"]["name"]),
            (&json!("ADDED"), &json!("a"))
        );
        let end = next(&mut stream).await;
        assert_eq!(end["type"], json!("BOOKMARK"));
        assert_eq!(
            end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
            json!("true")
        );
        for (patch, expected) in [
            (json!({"metadata": {"labels": {"x": "2"}}}), "DELETED"),
            (json!({"metadata": {"labels": {"x": "1"}}}), "ADDED"),
            (json!({"data": {"k": "v"}}), "MODIFIED"),
        ] {
            let stored = registry
                .patch(
                    &kinds::CONFIG_MAP,
                    Some("default"),
                    "a",
                    None,
                    Patch::Merge(patch),
                )
                .await
                .expect("patched");
            let event = next(&mut stream).await;
            assert_eq!(event["type"], json!(expected));
            assert_eq!(
                event["object"]["metadata"]["resourceVersion"],
                stored["metadata"]["resourceVersion"]
            );
        }
        registry
            .delete(
                &kinds::CONFIG_MAP,
                Some("default"),
                "a",
                DeleteOptions::default(),
            )
            .await
            .expect("deleted");
        let event = next(&mut stream).await;
        assert_eq!(event["type"], json!("DELETED"));
        assert_eq!(
            event["object"]["metadata"]["resourceVersion"],
            json!(registry.revision().to_string())
        );
    }

    #[tokio::test]
    async fn a_watch_resumes_strictly_after_its_revision_or_is_told_that_it_is_too_old() {
        let registry = registry().await;
        let before = registry.revision();
        for name in ["a", "b"] {
            let map = json!({"metadata": {"name": name}});
            registry
                .create(&kinds::CONFIG_MAP, Some("default"), map)
                .await
                .expect("created");
        }
        let first = registry
            .get(&kinds::CONFIG_MAP, Some("default"), "a")
            .expect("there");
        let revision = Revision(
            first["metadata"]["resourceVersion"]
                .as_str()
                .expect("text")
                .parse()
                .expect("number"),
        );
        let mut stream = std::pin::pin!(start(
            watch(Some(revision), ""),
            registry.clone(),
            CancellationToken::new()
        ));
        assert_eq!(
            next(&mut stream).await["object"]["metadata"]["name"],
            json!("b")
        );
        let old = Revision(before.0.min(1) - 1);
        let mut stream = std::pin::pin!(start(
            watch(Some(old), ""),
            registry.clone(),
            CancellationToken::new()
        ));
        let error = next(&mut stream).await;
        assert_eq!(
            (&error["type"], &error["object"]["code"]),
            (&json!("ERROR"), &json!(410))
        );
        assert!(
            stream.next().await.is_none(),
            "the watch ends after its error"
        );
    }
}

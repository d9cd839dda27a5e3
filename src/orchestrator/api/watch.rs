//! A watch as a stream of JSON lines.
//!
//! It reads the store's event ring from where it stands whenever there is a new revision, and renders each line only when it is sent: a
//! slow client holds one line, and what the store holds anyway (a version that was replaced meanwhile stays until it has read it). One
//! that is too slow is told 410 and lists again. An object that enters or leaves the selector is ADDED or DELETED for this client.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::kinds::Kind;
use super::limits::{DEFAULT_WATCH_TIME, WATCH_TIME};
use super::registry::Registry;
use super::selectors::Selector;
use super::status::Status;
use super::tables::Form;
use crate::orchestrator::store::{Event, Revision};

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);
/// The type of the event that ends a watch.
const ERROR: &str = "ERROR";
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

impl Watch {
    /// How long it lasts: a client's word is taken up to a bound.
    fn time(&self) -> Duration {
        self.timeout_seconds
            .map_or(DEFAULT_WATCH_TIME, Duration::from_secs)
            .min(WATCH_TIME)
    }
}

struct Running {
    watch: Watch,
    registry: Arc<Registry>,
    changes: tokio::sync::watch::Receiver<Revision>,
    position: Revision,
    /// What is to be sent, oldest first; not rendered yet.
    ready: VecDeque<(&'static str, Arc<Value>)>,
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
    let deadline = now + watch.time();
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
        let selected = objects
            .into_iter()
            .filter(|object| self.watch.selector.matches(object));
        self.ready.extend(selected.map(|object| ("ADDED", object)));
        if self.watch.mark_initial_end {
            self.bookmark(true);
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some((kind, object)) = self.ready.pop_front() {
                return Some(self.line(kind, &object));
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
                let selector = &self.watch.selector;
                self.ready
                    .extend(events.iter().filter_map(|event| translate(selector, event)));
            }
            Err(status) => {
                self.ready.push_back((ERROR, Arc::new(status.to_value())));
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
        self.ready.push_back(("BOOKMARK", Arc::new(object)));
    }

    fn line(&self, kind: &str, object: &Value) -> Bytes {
        // A Status is told as it is, whatever form the client wants objects in.
        let object = if kind == ERROR {
            Cow::Borrowed(object)
        } else {
            self.watch.form.event_object(self.watch.kind, object)
        };
        Bytes::from(format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n"))
    }
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
    async fn no_time_out_is_too_long_and_nothing_is_rendered_before_it_is_read() {
        let registry = registry().await;
        let map = json!({"metadata": {"name": "a"}, "data": {"k": "v".repeat(1000)}});
        registry
            .create(&kinds::CONFIG_MAP, Some("default"), map)
            .await
            .expect("created");
        for seconds in [u64::MAX, u64::from(u32::MAX), 1] {
            let watch = Watch {
                timeout_seconds: Some(seconds),
                ..watch(None, "")
            };
            assert!(watch.time() <= WATCH_TIME);
            let mut stream =
                std::pin::pin!(start(watch, registry.clone(), CancellationToken::new()));
            assert_eq!(next(&mut stream).await["type"], json!("ADDED"));
        }
        let stored = registry
            .get(&kinds::CONFIG_MAP, Some("default"), "a")
            .expect("there");
        let unread: Vec<_> = (0..10)
            .map(|_| start(watch(None, ""), registry.clone(), CancellationToken::new()))
            .collect();
        // The store's, this test's and one a watch: the object itself, not a text of it.
        assert!(Arc::strong_count(&stored) >= 12, "{}", unread.len());
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

//! The objects and the recent events in memory. Pure: no I/O, no clock.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use super::{Entry, Event, Page, Revision, StoreError, Window};
use crate::orchestrator::limits::{RING_BYTES, RING_EVENTS};

/// Index and event ring.
pub(super) struct Index {
    objects: BTreeMap<Arc<str>, Entry>,
    ring: VecDeque<Event>,
    /// What each event of the ring weighs, in the same order, and all together.
    weights: VecDeque<usize>,
    ring_bytes: usize,
    /// Watches may start from here: every event after it is in the ring.
    oldest: Revision,
    revision: Revision,
}

impl Index {
    pub(super) fn new(objects: BTreeMap<Arc<str>, Entry>, revision: Revision) -> Self {
        Self {
            objects,
            ring: VecDeque::new(),
            weights: VecDeque::new(),
            ring_bytes: 0,
            oldest: revision,
            revision,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.objects.get(key)
    }

    pub(super) fn objects(&self) -> &BTreeMap<Arc<str>, Entry> {
        &self.objects
    }

    /// `bytes` is what the event weighs.
    pub(super) fn apply(&mut self, event: Event, bytes: usize) {
        self.revision = event.revision;
        match &event.value {
            Some(value) => {
                let entry = Entry {
                    key: event.key.clone(),
                    value: value.clone(),
                    revision: event.revision,
                };
                self.objects.insert(event.key.clone(), entry);
            }
            None => {
                self.objects.remove(&event.key);
            }
        }
        self.ring.push_back(event);
        self.weights.push_back(bytes);
        self.ring_bytes += bytes;
        while self.ring.len() > RING_EVENTS || self.ring_bytes > RING_BYTES {
            match self.drop_oldest() {
                Some(dropped) => self.oldest = dropped,
                None => break,
            }
        }
    }

    fn drop_oldest(&mut self) -> Option<Revision> {
        let dropped = self.ring.pop_front()?;
        self.ring_bytes -= self.weights.pop_front().unwrap_or_default();
        Some(dropped.revision)
    }

    pub(super) fn compact(&mut self, upto: Revision) {
        while self
            .ring
            .front()
            .is_some_and(|event| event.revision <= upto)
        {
            self.drop_oldest();
        }
        self.oldest = self.oldest.max(upto.min(self.revision));
    }

    pub(super) fn range(&self, prefix: &str, window: Window<'_>) -> Result<Page, StoreError> {
        let undone = match window.at {
            Some(at) if at < self.revision => Some(self.undo(prefix, at)?),
            _ => None,
        };
        let start = match window.after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        let limit = window.limit.unwrap_or(usize::MAX);
        let (mut entries, mut remaining) = (Vec::new(), 0);
        let mut take = |entry: &Entry| {
            if entries.len() < limit {
                entries.push(entry.clone());
            } else {
                remaining += 1;
            }
        };
        match undone {
            None => self
                .objects
                .range::<str, _>((start, Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(prefix))
                .for_each(|(_, entry)| take(entry)),
            Some(past) => past
                .range::<str, _>((start, Bound::Unbounded))
                .for_each(|(_, entry)| take(entry)),
        }
        Ok(Page {
            entries,
            revision: window.at.unwrap_or(self.revision).min(self.revision),
            remaining,
        })
    }

    /// The prefix as it was at `at`: today's objects with the later events taken back.
    fn undo(&self, prefix: &str, at: Revision) -> Result<BTreeMap<Arc<str>, Entry>, StoreError> {
        if at < self.oldest {
            return Err(StoreError::Compacted {
                asked: at,
                oldest: self.oldest,
            });
        }
        let mut past: BTreeMap<Arc<str>, Entry> = self
            .objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        for event in self
            .ring
            .iter()
            .rev()
            .take_while(|event| event.revision > at)
        {
            if !event.key.starts_with(prefix) {
                continue;
            }
            match &event.previous {
                Some(value) => {
                    let entry = Entry {
                        key: event.key.clone(),
                        value: value.clone(),
                        revision: stamped(value),
                    };
                    past.insert(event.key.clone(), entry);
                }
                None => {
                    past.remove(&event.key);
                }
            }
        }
        Ok(past)
    }

    pub(super) fn events(
        &self,
        prefix: &str,
        after: Revision,
        limit: usize,
    ) -> Result<(Vec<Event>, Revision), StoreError> {
        if after < self.oldest {
            return Err(StoreError::Compacted {
                asked: after,
                oldest: self.oldest,
            });
        }
        let start = self.ring.partition_point(|event| event.revision <= after);
        let mut found = Vec::new();
        for event in self.ring.range(start..) {
            if !event.key.starts_with(prefix) {
                continue;
            }
            found.push(event.clone());
            if found.len() >= limit {
                let upto = event.revision;
                return Ok((found, upto));
            }
        }
        Ok((found, self.revision.max(after)))
    }
}

/// Sets `metadata.resourceVersion`.
pub(super) fn stamp(value: &mut Value, revision: Revision) {
    if let Some(object) = value.as_object_mut() {
        let metadata = object
            .entry("metadata")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert(
                "resourceVersion".to_owned(),
                Value::String(revision.to_string()),
            );
        }
    }
}

/// The revision an object carries.
pub(super) fn stamped(value: &Value) -> Revision {
    let text = value
        .pointer("/metadata/resourceVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    Revision(text.parse().unwrap_or_default())
}

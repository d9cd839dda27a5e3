//! The objects and the recent events in memory. Pure: no I/O, no clock.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use super::{Entry, Event, Page, Revision, StoreError, Window};

/// How many events are kept for watches that resume.
pub(super) const RING_EVENTS: usize = 2048;

/// Index and event ring.
pub(super) struct Index {
    objects: BTreeMap<Arc<str>, Entry>,
    ring: VecDeque<Event>,
    /// Watches may start from here: every event after it is in the ring.
    oldest: Revision,
    revision: Revision,
    capacity: usize,
}

impl Index {
    pub(super) fn new(
        objects: BTreeMap<Arc<str>, Entry>,
        revision: Revision,
        capacity: usize,
    ) -> Self {
        Self {
            objects,
            ring: VecDeque::new(),
            oldest: revision,
            revision,
            capacity,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.objects.get(key)
    }

    pub(super) fn apply(&mut self, event: Event) {
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
        while self.ring.len() > self.capacity {
            if let Some(dropped) = self.ring.pop_front() {
                self.oldest = dropped.revision;
            }
        }
    }

    pub(super) fn compact(&mut self, upto: Revision) {
        while self
            .ring
            .front()
            .is_some_and(|event| event.revision <= upto)
        {
            self.ring.pop_front();
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

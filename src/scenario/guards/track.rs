//! What a watch says about one entry, event by event: a pure function of what came, and when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value as Json;

use super::{GapReport, Guard, GuardReport, Rule, ViolationReport};
use crate::kubernetes::client::WatchEvent;
use crate::scenario::steps::Wanted;

/// So many violations that are over are remembered; later ones are counted.
const REMEMBERED_MAX: usize = 1000;
/// So many are reported one by one, and so many gaps.
const REPORTED_MAX: usize = 20;

/// Follows the objects of one entry.
#[derive(Debug)]
pub(super) struct Tracker {
    guard: Guard,
    objects: BTreeMap<String, Known>,
    /// What is wrong with there being objects, or none.
    whole: Option<Open>,
    /// Violations that are over.
    over: VecDeque<ViolationReport>,
    /// Violations that are not remembered.
    more: u64,
    gaps: Vec<GapReport>,
    /// Since when, and why, it is not known what happens.
    blind: Option<(u64, String)>,
    /// When the watch last spoke.
    heard_ms: u64,
    /// Whether it was up to date at the end.
    confirmed: bool,
    /// Objects since the baseline.
    seen: u64,
    from_ms: Option<u64>,
}

#[derive(Debug)]
struct Known {
    uid: String,
    revision: String,
    open: Option<Open>,
}

/// A violation that goes on.
#[derive(Debug, Clone)]
struct Open {
    at_ms: u64,
    object: String,
    seen: String,
}

impl Tracker {
    pub(super) fn new(guard: Guard) -> Self {
        Self {
            guard,
            objects: BTreeMap::new(),
            whole: None,
            over: VecDeque::new(),
            more: 0,
            gaps: Vec::new(),
            blind: Some((0, "the watch had not begun".to_owned())),
            heard_ms: 0,
            confirmed: false,
            seen: 0,
            from_ms: None,
        }
    }

    /// What is so at `from_ms`, which may be over, and later, counts.
    pub(super) fn begin(&mut self, from_ms: u64) {
        self.from_ms = Some(from_ms);
        self.seen = self.objects.len() as u64;
        self.over
            .retain(|violation| violation.until_ms.is_none_or(|until_ms| until_ms > from_ms));
    }

    /// All objects that there are: the watch begins anew.
    pub(super) fn listed(&mut self, items: &[Json], at_ms: u64) {
        if let Some((from_ms, why)) = self.blind.take()
            && self.may_have_missed(items)
        {
            self.gap(GapReport {
                from_ms,
                to_ms: at_ms,
                why,
            });
        }
        let names: BTreeSet<String> = items.iter().map(name).collect();
        let gone: Vec<String> = self
            .objects
            .keys()
            .filter(|known| !names.contains(known.as_str()))
            .cloned()
            .collect();
        for name in gone {
            self.remove(&name, at_ms);
        }
        for item in items {
            self.put(item, at_ms);
        }
        self.look_at_whole(at_ms);
        self.heard_ms = at_ms;
    }

    /// Takes an event, and returns the revision up to which everything is known.
    pub(super) fn take(&mut self, event: &WatchEvent<Json>, at_ms: u64) -> Option<String> {
        self.heard_ms = at_ms;
        let revision = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.put(object, at_ms);
                text(object, "/metadata/resourceVersion")
            }
            WatchEvent::Deleted(object) => {
                self.remove(&name(object), at_ms);
                text(object, "/metadata/resourceVersion")
            }
            WatchEvent::Bookmark { revision } => revision.clone(),
        };
        self.look_at_whole(at_ms);
        (!revision.is_empty()).then_some(revision)
    }

    /// The watch broke and cannot be resumed: until the objects are listed again, nothing is known.
    pub(super) fn lost(&mut self, why: &str) {
        let heard_ms = self.heard_ms;
        self.blind.get_or_insert_with(|| (heard_ms, why.to_owned()));
    }

    /// Whether these objects, just listed, are exactly those that the watch told of.
    pub(super) fn is_current(&self, items: &[Json]) -> bool {
        self.blind.is_none()
            && items.len() == self.objects.len()
            && items.iter().all(|item| self.is_same(item))
    }

    /// The watch is up to date at the end of the run.
    pub(super) fn confirm(&mut self) {
        self.confirmed = true;
    }

    /// What was found until `to_ms`.
    pub(super) fn finish(&mut self, to_ms: u64) -> GuardReport {
        let from_ms = self.from_ms.unwrap_or(to_ms);
        if !self.confirmed {
            self.lost("the watch was not confirmed at the end");
        }
        if let Some((since_ms, why)) = self.blind.take() {
            self.gap(GapReport {
                from_ms: since_ms,
                to_ms,
                why,
            });
        }
        let open = self
            .objects
            .values()
            .filter_map(|known| known.open.as_ref());
        let open = open.chain(self.whole.as_ref()).map(|open| ViolationReport {
            at_ms: open.at_ms,
            until_ms: None,
            object: open.object.clone(),
            seen: open.seen.clone(),
        });
        let mut violations: Vec<ViolationReport> = self.over.iter().cloned().chain(open).collect();
        for violation in &mut violations {
            violation.at_ms = violation.at_ms.max(from_ms);
        }
        violations.sort_by(|a, b| (a.at_ms, &a.object).cmp(&(b.at_ms, &b.object)));
        let violated = violations.len() as u64 + self.more;
        violations.truncate(REPORTED_MAX);
        let mut gaps = self.gaps.clone();
        gaps.retain(|gap| gap.to_ms > from_ms);
        for gap in &mut gaps {
            gap.from_ms = gap.from_ms.max(from_ms);
        }
        GuardReport {
            guard: self.guard.to_string(),
            from_ms,
            to_ms,
            seen: self.seen,
            violated,
            violations,
            gaps,
        }
    }

    /// Whether something may have happened unseen before these objects were listed. One with the same identity and revision was not
    /// touched; what came and went in between nobody knows.
    fn may_have_missed(&self, items: &[Json]) -> bool {
        let mut same = items.iter().filter(|item| self.is_same(item));
        match (&self.guard.wanted, self.guard.presence()) {
            (Wanted::Exists(_), Some(true)) => same.next().is_none(),
            _ if matches!(self.guard.meant, super::Meant::Name(_)) => same.next().is_none(),
            _ => true,
        }
    }

    fn is_same(&self, item: &Json) -> bool {
        self.objects.get(&name(item)).is_some_and(|known| {
            known.uid == text(item, "/metadata/uid")
                && known.revision == text(item, "/metadata/resourceVersion")
        })
    }

    fn gap(&mut self, gap: GapReport) {
        if self.gaps.len() < REPORTED_MAX {
            self.gaps.push(gap);
        } else if let Some(last) = self.gaps.last_mut() {
            last.to_ms = gap.to_ms;
        }
    }

    fn put(&mut self, object: &Json, at_ms: u64) {
        let name = name(object);
        let (uid, revision) = (
            text(object, "/metadata/uid"),
            text(object, "/metadata/resourceVersion"),
        );
        let problem = self.problem(object);
        let known = self.objects.remove(&name);
        let mut open = None;
        match known {
            // One of the same name that was made anew is another.
            Some(known) if known.uid == uid => open = known.open,
            Some(known) => {
                self.close(known.open, at_ms);
                self.seen += 1;
            }
            None => self.seen += 1,
        }
        let open = self.changed(open, problem, at_ms, &name);
        self.objects.insert(
            name,
            Known {
                uid,
                revision,
                open,
            },
        );
    }

    fn remove(&mut self, name: &str, at_ms: u64) {
        if let Some(known) = self.objects.remove(name) {
            self.close(known.open, at_ms);
        }
    }

    /// What is wrong with an object that is there.
    fn problem(&self, object: &Json) -> Option<String> {
        let wanted = &self.guard.wanted;
        if matches!(wanted, Wanted::Exists(_)) {
            return None;
        }
        let problem = match (self.guard.rule, wanted.holds(Some(object))) {
            (Rule::Never, Ok(())) => wanted.to_string(),
            (Rule::Always, Err(seen)) => seen,
            (Rule::Never, Err(_)) | (Rule::Always, Ok(())) => return None,
        };
        if self.guard.is_about_secrets() {
            return Some("a field of it is not as it should be".to_owned());
        }
        Some(problem)
    }

    /// Whether it is right that there are objects, or none.
    fn look_at_whole(&mut self, at_ms: u64) {
        let there = self.objects.keys().next();
        let problem = match (self.guard.presence(), there) {
            (Some(true), None) => Some("it is not there"),
            (Some(false), Some(_)) => Some("it is there"),
            _ => None,
        };
        let object = there.map_or_else(
            || self.guard.place(),
            |name| format!("{} `{name}`", self.guard.kind.kind),
        );
        let open = self.whole.take();
        let problem = problem.map(str::to_owned);
        self.whole = self.reopened(open, problem, at_ms, object);
    }

    fn changed(
        &mut self,
        open: Option<Open>,
        problem: Option<String>,
        at_ms: u64,
        name: &str,
    ) -> Option<Open> {
        let object = format!("{} `{name}`", self.guard.kind.kind);
        self.reopened(open, problem, at_ms, object)
    }

    /// What goes on of a violation now that `problem` is seen, or none.
    fn reopened(
        &mut self,
        open: Option<Open>,
        problem: Option<String>,
        at_ms: u64,
        object: String,
    ) -> Option<Open> {
        match (open, problem) {
            (Some(open), Some(_)) => Some(open),
            (None, Some(seen)) => Some(Open {
                at_ms,
                object,
                seen,
            }),
            (open, None) => {
                self.close(open, at_ms);
                None
            }
        }
    }

    fn close(&mut self, open: Option<Open>, at_ms: u64) {
        let Some(open) = open else { return };
        if self.over.len() >= REMEMBERED_MAX {
            if self.from_ms.is_some() {
                self.more += 1;
                return;
            }
            self.over.pop_front();
        }
        self.over.push_back(ViolationReport {
            at_ms: open.at_ms,
            until_ms: Some(at_ms),
            object: open.object,
            seen: open.seen,
        });
    }
}

fn name(object: &Json) -> String {
    text(object, "/metadata/name")
}

fn text(object: &Json, pointer: &str) -> String {
    let text = object.pointer(pointer).and_then(Json::as_str);
    text.unwrap_or_default().to_owned()
}

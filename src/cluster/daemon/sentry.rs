//! Watches what the machines write to the host: keeps their files within bounds, and notices trouble while it happens.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{MissedTickBehavior, interval};

use crate::machines::journal::{
    Entry, LineReader, Sighting, Trouble, rotate, trouble_in_entry, trouble_on_console,
};
use crate::machines::provider::Provider;
use crate::model::names::NodeName;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A file longer than this is begun anew; its contents stay as the older half.
const FILE_LIMIT_BYTES: u64 = 16 << 20;
/// Sightings that are kept; the oldest go first.
const KEPT: usize = 500;
/// Kernel and journal tell of the same trouble within this.
const SAME_WITHIN_MS: u64 = 10_000;

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Sightings(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    list: VecDeque<Sighting>,
    count: u64,
}

impl Sightings {
    /// Those with a larger number than `after`.
    pub(super) fn after(&self, after: u64) -> Vec<Sighting> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.list
            .iter()
            .filter(|sighting| sighting.number > after)
            .cloned()
            .collect()
    }

    /// Keeps one, unless the same was told a moment ago.
    fn add(&self, at_ms: u64, node: &NodeName, trouble: Trouble, line: String) -> bool {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |old: &&Sighting| {
            old.at_ms + SAME_WITHIN_MS > at_ms
                && old.node == *node
                && old.trouble == trouble
                && old.line == line
        };
        if kept.list.iter().rev().any(|old| known(&old)) {
            return false;
        }
        kept.count += 1;
        let sighting = Sighting {
            number: kept.count,
            at_ms,
            node: node.clone(),
            trouble,
            line,
        };
        kept.list.push_back(sighting);
        if kept.list.len() > KEPT {
            kept.list.pop_front();
        }
        true
    }
}

/// One machine's files.
struct Watched {
    node: NodeName,
    console: (PathBuf, LineReader),
    journal: Option<(PathBuf, LineReader)>,
    /// The newest entry of each sequence: an older one is a repetition.
    newest: BTreeMap<String, u64>,
}

impl Watched {
    fn new(provider: &dyn Provider, node: &NodeName) -> Self {
        let console = provider.console(node);
        let journal = provider.journal(node);
        // What an earlier daemon has seen is not told again.
        let open = |path: PathBuf| (path.clone(), LineReader::from_end(&path));
        Self {
            node: node.clone(),
            console: open(console),
            journal: journal.map(open),
            newest: BTreeMap::new(),
        }
    }

    /// What is new and means trouble. A file that cannot be read is looked at again next time.
    fn look(&mut self) -> Vec<(Trouble, String)> {
        let mut seen = Vec::new();
        for line in self.console.1.lines().unwrap_or_default() {
            seen.extend(trouble_on_console(&String::from_utf8_lossy(&line)));
        }
        let Some((_, journal)) = &mut self.journal else {
            return seen;
        };
        for entry in journal
            .lines()
            .unwrap_or_default()
            .iter()
            .filter_map(|line| Entry::parse(line))
        {
            if let Some((sequence, place)) = entry.place() {
                let newest = self.newest.entry(sequence.to_owned()).or_default();
                if place <= *newest {
                    continue;
                }
                *newest = place;
            }
            seen.extend(trouble_in_entry(&entry));
        }
        seen
    }

    fn bound(&self) {
        for path in [
            Some(&self.console.0),
            self.journal.as_ref().map(|(path, _)| path),
        ]
        .into_iter()
        .flatten()
        {
            if let Err(error) = rotate(path, FILE_LIMIT_BYTES) {
                tracing::warn!(node = %self.node, %error, "a machine's file grows beyond its limit");
            }
        }
    }
}

/// Watches the machines for as long as the daemon lives.
pub(super) async fn watch(
    provider: Arc<dyn Provider>,
    nodes: Vec<NodeName>,
    sightings: Arc<Sightings>,
) {
    let mut watched: Vec<Watched> = nodes
        .iter()
        .map(|node| Watched::new(provider.as_ref(), node))
        .collect();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sightings = Arc::clone(&sightings);
        // Files are read, and seldom copied: not on a thread that carries frames.
        let looked = tokio::task::spawn_blocking(move || {
            for machine in &mut watched {
                for (trouble, line) in machine.look() {
                    let now = SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .unwrap_or_default();
                    let at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                    if sightings.add(at_ms, &machine.node, trouble, line.clone()) {
                        tracing::warn!(node = %machine.node, %trouble, line, "seen in a machine");
                    }
                }
                machine.bound();
            }
            watched
        });
        match looked.await {
            Ok(machines) => watched = machines,
            Err(error) => {
                tracing::error!(%error, "watching the machines failed");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_trouble_from_console_and_journal_is_told_once() {
        let sightings = Sightings::default();
        let (w1, w2) = ("w1".parse().unwrap(), "w2".parse().unwrap());
        assert!(sightings.add(1_000, &w1, Trouble::OomKill, "Killed process 7".into()));
        assert!(!sightings.add(1_500, &w1, Trouble::OomKill, "Killed process 7".into()));
        assert!(sightings.add(1_500, &w2, Trouble::OomKill, "Killed process 7".into()));
        assert!(sightings.add(20_000, &w1, Trouble::OomKill, "Killed process 7".into()));
        let numbers: Vec<u64> = sightings
            .after(1)
            .iter()
            .map(|sighting| sighting.number)
            .collect();
        assert_eq!(numbers, [2, 3]);
        for number in 0..KEPT as u64 {
            sightings.add(number, &w1, Trouble::UnitFailed, number.to_string());
        }
        assert_eq!(sightings.after(0).len(), KEPT);
    }
}

//! `logs --node`: a machine's journal, from the file that it is written to as it grows. The machine need not run, nor the cluster.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::cluster::{interrupted, open_home};
use super::failure::Failure;
use super::machines::require_recorded_node;
use super::terminal::{Live, complain, say};
use crate::cluster::client::DaemonClient;
use crate::machines::journal::{Entry, LineReader, Sighting, older};
use crate::model::names::{ClusterName, NodeName};
use crate::model::units::parse_duration;
use crate::scenario::fault::Faults;

/// How often a followed journal, or the daemon's list of troubles, is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const SIGHTINGS_EVERY: Duration = Duration::from_secs(1);

/// What of a machine's journal is shown.
#[derive(Debug, Args)]
pub(super) struct JournalOptions {
    /// A machine's journal instead of a pod's log; the machine need not run.
    #[arg(
        long,
        value_name = "NODE",
        conflicts_with = "pod",
        required_unless_present = "pod"
    )]
    pub(super) node: Option<NodeName>,
    /// Of a machine: only what is younger than this, for instance `5m`.
    #[arg(long, value_name = "DURATION", requires = "node", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Of a machine: only what this unit wrote, or systemd about it.
    #[arg(long, value_name = "UNIT", requires = "node")]
    unit: Option<String>,
    /// Of a machine: only messages that this regular expression matches.
    #[arg(long, value_name = "RE", requires = "node")]
    grep: Option<regex::Regex>,
}

impl JournalOptions {
    pub(super) async fn run(
        &self,
        name: &ClusterName,
        node: &NodeName,
        follow: bool,
    ) -> Result<ExitCode, Failure> {
        let paths = open_home()?.cluster(name);
        require_recorded_node(&paths, node)?;
        let path = paths
            .root()
            .join("machines")
            .join(node.as_str())
            .join("journal.jsonl");
        if !path.exists() {
            return Err(Failure::new(format!(
                "node `{node}` of cluster `{name}` has left no journal at `{}`",
                path.display()
            ))
            .hint("`flightcage status` lists the nodes of a cluster that is up"));
        }
        let cut = |error: std::io::Error| {
            Failure::new(format!("read `{}`", path.display())).because(error)
        };
        let youngest = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let from_us = self
            .since
            .map_or(0, |since| youngest.saturating_sub(since).as_micros());
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        let mut show = |line: &[u8]| {
            let Some(entry) = Entry::parse(line) else {
                return;
            };
            if let Some((sequence, place)) = entry.place()
                && newest
                    .insert(sequence.to_owned(), place)
                    .is_some_and(|before| place <= before)
            {
                // The stream began anew and repeats itself.
                newest
                    .entry(sequence.to_owned())
                    .and_modify(|newest| *newest = (*newest).max(place));
                return;
            }
            if u128::from(entry.realtime_us()) >= from_us && self.wants(&entry) {
                say(&entry.to_string());
            }
        };
        read_all(&mut LineReader::from_start(&older(&path)), &mut show).map_err(cut)?;
        let mut reader = LineReader::from_start(&path);
        read_all(&mut reader, &mut show).map_err(cut)?;
        if follow {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            let mut ended = std::pin::pin!(interrupted());
            loop {
                tokio::select! {
                    _ = ticks.tick() => read_all(&mut reader, &mut show).map_err(cut)?,
                    () = &mut ended => break,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.unit.as_ref().is_none_or(|unit| entry.concerns(unit))
            && self
                .grep
                .as_ref()
                .is_none_or(|grep| grep.is_match(entry.message()))
    }
}

fn read_all(reader: &mut LineReader, show: &mut impl FnMut(&[u8])) -> std::io::Result<()> {
    loop {
        let lines = reader.lines()?;
        if lines.is_empty() {
            return Ok(());
        }
        for line in &lines {
            show(line);
        }
    }
}

/// A trouble in one line.
pub(super) fn in_words(sighting: &Sighting) -> String {
    format!("{}: {}: {}", sighting.node, sighting.trouble, sighting.line)
}

/// Tells of trouble in the machines of a cluster that is being brought up; never ends.
pub(super) async fn tell_sightings(daemon: &DaemonClient, live: &Arc<Live>) {
    let mut after = 0;
    loop {
        tokio::time::sleep(SIGHTINGS_EVERY).await;
        // A daemon that is not up yet is somebody else's to tell.
        for sighting in daemon.sightings(after).await.unwrap_or_default() {
            after = sighting.number;
            live.note(&format!("! {}", in_words(&sighting)));
        }
    }
}

/// The same while a scenario runs on a target.
pub(super) async fn tell_troubles(target: Arc<dyn Faults>, live: &Arc<Live>) {
    let begun = SystemTime::now();
    let mut after = 0;
    loop {
        tokio::time::sleep(SIGHTINGS_EVERY).await;
        for sighting in target
            .troubles(begun)
            .await
            .into_iter()
            .filter(|sighting| sighting.number > after)
            .collect::<Vec<_>>()
        {
            after = sighting.number;
            live.note(&format!("  ! {}", in_words(&sighting)));
        }
    }
}

/// The last few troubles, for `status`.
pub(super) fn print_recent(sightings: &[Sighting]) {
    const SHOWN: usize = 10;
    for sighting in sightings.iter().rev().take(SHOWN).rev() {
        let at = i64::try_from(sighting.at_ms)
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        say(&format!(
            "  ! {:.0} {}",
            at.unwrap_or_default(),
            in_words(sighting)
        ));
    }
    if sightings.len() > SHOWN {
        complain(&format!(
            "  ({} earlier ones in `status --json`)",
            sightings.len() - SHOWN
        ));
    }
}

//! What the machines of a cluster of ours wrote to the host during a run: consoles, and journals by what wrote them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::machines::journal::{Entry, LineReader, older};
use crate::model::names::NodeName;
use crate::scenario::evidence::{FILE_BYTES_MAX, since_start};
use crate::scenario::fault::MachineLog;

/// The orchestrator's own processes: what each decided has a file of its own.
const UNITS: [&str; 3] = ["flightcage-server", "flightcage-agent", "flightcage-proxy"];

/// Reads the logs of these machines below `machines`. A machine that left none has none.
pub(super) fn machine_logs(
    machines: &Path,
    nodes: &[NodeName],
    begun: SystemTime,
) -> Vec<MachineLog> {
    let mut logs = Vec::new();
    for node in nodes {
        let folder = machines.join(node.as_str());
        let mut add = |name: &str, text: String| {
            if !text.is_empty() {
                logs.push(MachineLog {
                    node: node.to_string(),
                    name: name.to_owned(),
                    text,
                });
            }
        };
        let console = end_of(&folder.join("console.log"), FILE_BYTES_MAX as u64);
        add("console", console);
        let mut journal = Journal::default();
        let path = folder.join("journal.jsonl");
        for path in [older(&path), path] {
            journal.read(&path, begun);
        }
        let Journal { all, units, .. } = journal;
        add("journal", all);
        UNITS
            .iter()
            .zip(units)
            .for_each(|(unit, text)| add(unit, text));
    }
    logs
}

/// The end of a file, so many bytes at most; nothing of one that cannot be read.
pub(super) fn end_of(path: &Path, bytes_max: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(bytes_max)))?;
        let mut end = Vec::new();
        file.take(bytes_max).read_to_end(&mut end)?;
        Ok(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[derive(Default)]
struct Journal {
    all: String,
    units: [String; UNITS.len()],
    /// The newest entry of each sequence: the stream may begin anew and repeat itself.
    newest: BTreeMap<String, u64>,
}

impl Journal {
    /// Adds what was written since the run began.
    fn read(&mut self, path: &Path, begun: SystemTime) {
        let begun_us = begun
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        let mut reader = LineReader::from_start(path);
        while let Ok(lines) = reader.lines() {
            if lines.is_empty() {
                return;
            }
            for entry in lines.iter().filter_map(|line| Entry::parse(line)) {
                let at_us = entry.realtime_us();
                if u128::from(at_us) < begun_us || !self.is_new(&entry) {
                    continue;
                }
                let line = format!("{:>12}  {}\n", since_start(begun, at_us), words(&entry));
                push(&mut self.all, &line);
                for (unit, text) in UNITS.iter().zip(&mut self.units) {
                    if entry.concerns(unit) {
                        push(text, &line);
                    }
                }
            }
        }
    }
}

impl Journal {
    fn is_new(&mut self, entry: &Entry) -> bool {
        let Some((sequence, place)) = entry.place() else {
            return true;
        };
        let newest = self.newest.entry(sequence.to_owned()).or_default();
        let new = place > *newest;
        *newest = place.max(*newest);
        new
    }
}

/// An entry without its time of day.
fn words(entry: &Entry) -> String {
    let whole = entry.to_string();
    whole
        .split_once(' ')
        .map_or(whole.clone(), |(_, rest)| rest.to_owned())
}

/// Adds a line; of what grows too long the beginning is dropped.
fn push(text: &mut String, line: &str) {
    if text.len() > 4 * FILE_BYTES_MAX {
        *text = crate::scenario::evidence::last_bytes(text, 2 * FILE_BYTES_MAX);
    }
    let _ = write!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_journal_is_cut_to_the_run_and_sorted_by_what_wrote_it() {
        let folder = tempfile::tempdir().unwrap();
        let machine = folder.path().join("w1");
        std::fs::create_dir(&machine).unwrap();
        std::fs::write(machine.join("console.log"), "booting\n").unwrap();
        let entry = |us: u64, place: u32, unit: &str, message: &str| {
            format!(
                "{{\"__CURSOR\":\"s=a;i={place}\",\"__REALTIME_TIMESTAMP\":\"{us}\",\"MESSAGE\":\"{message}\",\"SYSLOG_IDENTIFIER\":\"{unit}\",\"_SYSTEMD_UNIT\":\"{unit}.service\"}}\n"
            )
        };
        let journal = [
            entry(999_000_000, 1, "flightcage-agent", "before the run"),
            entry(1_001_500_000, 2, "flightcage-agent", "fenced"),
            entry(1_002_000_000, 3, "sshd", "login"),
            entry(1_001_500_000, 2, "flightcage-agent", "fenced, told again"),
        ];
        std::fs::write(machine.join("journal.jsonl"), journal.concat()).unwrap();
        let nodes = ["w1".parse().unwrap(), "w2".parse().unwrap()];
        let begun = UNIX_EPOCH + Duration::from_secs(1000);
        let logs: Vec<(String, String)> = machine_logs(folder.path(), &nodes, begun)
            .into_iter()
            .map(|log| (format!("{}/{}", log.node, log.name), log.text))
            .collect();
        let expected = [
            ("w1/console", "booting\n"),
            (
                "w1/journal",
                "    +1.500 s  flightcage-agent: fenced\n    +2.000 s  sshd: login\n",
            ),
            (
                "w1/flightcage-agent",
                "    +1.500 s  flightcage-agent: fenced\n",
            ),
        ];
        assert_eq!(
            logs,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }
}

//! What a machine writes to the host of its own accord: its journal, one JSON object a line (`journalctl -o json`), and its console.
//!
//! The lines travel over a virtio-serial port, not over the network, and lie in the machine's directory: they outlive the machine's power.
//! This module reads them, and recognises what means trouble. Fields and messages are systemd's and the kernel's:
//! systemd.journal-fields(7), `catalog/systemd.catalog.in`, `kernel/panic.c`, `mm/oom_kill.c`, `kernel/watchdog.c`, `kernel/hung_task.c`.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::names::NodeName;

/// The port's name in the guest; the box's unit `flightcage-journal` looks for it.
pub const PORT_NAME: &str = "org.flightcage.journal";
/// Longest line that is kept; longer ones are cut by their writer or lost.
pub const MAX_LINE_BYTES: usize = 64 << 10;
/// systemd's message "a unit has failed with a result".
const UNIT_FAILED: &str = "d9b373ed55a64feb8242e02dbe79a49c";

/// One entry of a journal. Absent fields are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Microseconds since 1970 by the machine's own clock.
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    realtime_us: String,
    #[serde(rename = "__CURSOR")]
    cursor: String,
    #[serde(rename = "MESSAGE")]
    message: Message,
    #[serde(rename = "MESSAGE_ID")]
    message_id: String,
    #[serde(rename = "_SYSTEMD_UNIT")]
    of_unit: String,
    #[serde(rename = "UNIT")]
    about_unit: String,
    #[serde(rename = "SYSLOG_IDENTIFIER")]
    identifier: String,
    #[serde(rename = "_PID")]
    pid: String,
    #[serde(rename = "_TRANSPORT")]
    transport: String,
}

/// A message is text, or the bytes of something that is not UTF-8, or `null` when it was too long.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Message(String);

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            serde_json::Value::Array(bytes) => {
                let bytes: Vec<u8> = bytes
                    .iter()
                    .filter_map(|byte| u8::try_from(byte.as_u64()?).ok())
                    .collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            _ => "(too long)".to_owned(),
        }))
    }
}

impl Entry {
    /// Reads a line; `None` for one that is no entry, such as one that was cut.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// Microseconds since 1970 by the machine's own clock.
    #[must_use]
    pub fn realtime_us(&self) -> u64 {
        self.realtime_us.parse().unwrap_or(0)
    }

    /// What was written.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message.0
    }

    /// Which sequence of entries it belongs to, and its place there: the stream begins anew when its unit does, and repeats itself.
    #[must_use]
    pub fn place(&self) -> Option<(&str, u64)> {
        let field = |key: &str| {
            self.cursor
                .split(';')
                .find_map(|field| field.strip_prefix(key))
        };
        Some((field("s=")?, u64::from_str_radix(field("i=")?, 16).ok()?))
    }

    /// Whether a unit wrote it, or systemd wrote it about the unit. `.service` may be left out.
    #[must_use]
    pub fn concerns(&self, unit: &str) -> bool {
        let full = if unit.contains('.') {
            unit.to_owned()
        } else {
            format!("{unit}.service")
        };
        self.of_unit == full || self.about_unit == full || self.identifier == unit
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = i64::try_from(self.realtime_us())
            .ok()
            .and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        let at = at.unwrap_or_default();
        write!(
            f,
            "{at:.3} {}",
            if self.identifier.is_empty() {
                "?"
            } else {
                &self.identifier
            }
        )?;
        if !self.pid.is_empty() {
            write!(f, "[{}]", self.pid)?;
        }
        write!(f, ": {}", self.message())
    }
}

/// What went wrong in a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// The kernel gave up.
    KernelPanic,
    /// The kernel found itself in a state that it should not be in, and went on.
    KernelOops,
    /// The kernel killed a process to get memory back.
    OomKill,
    /// A CPU did nothing else for too long.
    SoftLockup,
    /// A process could not be interrupted for too long.
    HungTask,
    /// A unit of systemd's failed.
    UnitFailed,
    /// The box could not boot.
    BootFailed,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelPanic => "kernel_panic",
            Self::KernelOops => "kernel_oops",
            Self::OomKill => "oom_kill",
            Self::SoftLockup => "soft_lockup",
            Self::HungTask => "hung_task",
            Self::UnitFailed => "unit_failed",
            Self::BootFailed => "boot_failed",
        })
    }
}

/// A trouble that was seen while it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// Its place in the daemon's list, from 1.
    pub number: u64,
    /// Milliseconds since 1970 by the host's clock, when it was seen.
    pub at_ms: u64,
    /// In which machine.
    pub node: NodeName,
    /// What.
    pub trouble: Trouble,
    /// The line that says so.
    pub line: String,
}

/// The kernel's words for its troubles.
const KERNEL_WORDS: [(&str, Trouble); 8] = [
    ("Kernel panic - not syncing", Trouble::KernelPanic),
    ("Out of memory: Killed process", Trouble::OomKill),
    (
        "Memory cgroup out of memory: Killed process",
        Trouble::OomKill,
    ),
    ("BUG: soft lockup", Trouble::SoftLockup),
    ("blocked for more than", Trouble::HungTask),
    ("self-detected stall on CPU", Trouble::SoftLockup),
    ("BUG: unable to handle", Trouble::KernelOops),
    ("Oops: ", Trouble::KernelOops),
];

/// The trouble that an entry of the journal tells of.
#[must_use]
pub fn trouble_in_entry(entry: &Entry) -> Option<(Trouble, String)> {
    let message = entry.message();
    if entry.transport == "kernel" {
        return kernel_trouble(message);
    }
    let failed = entry.message_id == UNIT_FAILED && entry.identifier == "systemd";
    // A unit that is stopped by force says so in the same words, but it was asked for.
    failed.then(|| (Trouble::UnitFailed, message.to_owned()))
}

/// The trouble that a line of the console tells of: kernel and initramfs only, since the journal says the rest better.
#[must_use]
pub fn trouble_on_console(line: &str) -> Option<(Trouble, String)> {
    let line = line.trim();
    if line.contains("flightcage-init: FATAL") {
        return Some((Trouble::BootFailed, line.to_owned()));
    }
    let message = match line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((time, message)) if time.trim().parse::<f64>().is_ok() => message,
        _ => line,
    };
    kernel_trouble(message)
}

fn kernel_trouble(message: &str) -> Option<(Trouble, String)> {
    let found = KERNEL_WORDS
        .iter()
        .find(|(words, _)| message.contains(words));
    found.map(|(_, trouble)| (*trouble, message.to_owned()))
}

/// A file that grows, read by whole lines from where the last look ended. One that has become shorter was begun anew.
#[derive(Debug)]
pub struct LineReader {
    path: PathBuf,
    at: u64,
    rest: Vec<u8>,
}

impl LineReader {
    /// Reads from the beginning.
    #[must_use]
    pub fn from_start(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            at: 0,
            rest: Vec::new(),
        }
    }

    /// Reads what is written from now on.
    #[must_use]
    pub fn from_end(path: &Path) -> Self {
        let at = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        Self {
            path: path.to_owned(),
            at,
            rest: Vec::new(),
        }
    }

    /// The lines that have been completed since the last look, at most 4 MiB of them. An absent file has none.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn lines(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut file = match std::fs::File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file?,
        };
        let length = file.metadata()?.len();
        if length < self.at {
            self.at = 0;
            self.rest.clear();
        }
        if length == self.at {
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.take(4 << 20).read_to_end(&mut self.rest)?;
        self.at += read as u64;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            if self.rest.len() > MAX_LINE_BYTES {
                self.rest.clear();
            }
            return Ok(Vec::new());
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        Ok(whole
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect())
    }
}

/// Where the older half of a file goes when it has grown too long.
#[must_use]
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Moves what a file holds to its older half, in place of what that held, once it is longer than `limit_bytes`. The writer keeps its
/// handle and must append. What it writes between the copy's end and the cut is lost: microseconds.
///
/// # Errors
/// When the files cannot be read or written.
pub fn rotate(path: &Path, limit_bytes: u64) -> io::Result<bool> {
    use std::os::unix::fs::OpenOptionsExt;
    let length = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        metadata => metadata?.len(),
    };
    if length <= limit_bytes {
        return Ok(false);
    }
    let mut from = std::fs::File::options().read(true).write(true).open(path)?;
    let mut to = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(older(path))?;
    io::copy(&mut from, &mut to)?;
    from.set_len(0)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn entry(fields: &str) -> Entry {
        Entry::parse(format!("{{{fields}}}").as_bytes()).unwrap()
    }

    #[test]
    fn entries_are_read_and_shown() {
        let entry = entry(
            r#""__CURSOR":"s=6f;i=1a2;b=77;m=3","__REALTIME_TIMESTAMP":"1700000000123456","MESSAGE":"hello","_SYSTEMD_UNIT":"flightcage-agent.service","SYSLOG_IDENTIFIER":"flightcage","_PID":"77","PRIORITY":"6""#,
        );
        assert_eq!(
            entry.to_string(),
            "2023-11-14T22:13:20.123Z flightcage[77]: hello"
        );
        assert_eq!(entry.place(), Some(("6f", 0x1a2)));
        assert!(
            entry.concerns("flightcage-agent")
                && entry.concerns("flightcage-agent.service")
                && !entry.concerns("agent")
        );
        assert_eq!(
            Entry::parse(br#"{"MESSAGE":[104,105,255]}"#)
                .unwrap()
                .message(),
            "hi\u{fffd}"
        );
        assert_eq!(Entry::parse(b"{\"MESSAGE\":\"cut of"), None);
    }

    #[test]
    fn trouble_is_recognised_by_its_own_words() {
        let kernel = |message: &str| {
            trouble_in_entry(&entry(&format!(
                r#""_TRANSPORT":"kernel","MESSAGE":"{message}""#
            )))
        };
        let kind = |found: Option<(Trouble, String)>| found.map(|(trouble, _)| trouble);
        let oom = "Memory cgroup out of memory: Killed process 912 (php) total-vm:90000kB, anon-rss:65000kB";
        assert_eq!(kind(kernel(oom)), Some(Trouble::OomKill));
        assert_eq!(
            kind(kernel(
                "watchdog: BUG: soft lockup - CPU#0 stuck for 27s! [nginx:77]"
            )),
            Some(Trouble::SoftLockup)
        );
        assert_eq!(
            kind(kernel(
                "INFO: task jbd2/vdb-8:71 blocked for more than 120 seconds."
            )),
            Some(Trouble::HungTask)
        );
        assert_eq!(
            kind(kernel(
                "virtio_blk virtio1: [vdb] 8388608 512-byte logical blocks"
            )),
            None
        );
        let said = r#""_TRANSPORT":"stdout","SYSLOG_IDENTIFIER":"php","MESSAGE":"Kernel panic - not syncing""#;
        assert_eq!(
            trouble_in_entry(&entry(said)),
            None,
            "a program may print what it likes"
        );
        let failed = format!(
            r#""_TRANSPORT":"journal","SYSLOG_IDENTIFIER":"systemd","MESSAGE_ID":"{UNIT_FAILED}","UNIT":"a.service","MESSAGE":"a.service: Failed with result 'exit-code'.""#
        );
        assert_eq!(
            kind(trouble_in_entry(&entry(&failed))),
            Some(Trouble::UnitFailed)
        );
        let console = trouble_on_console(
            "[   12.345678] Kernel panic - not syncing: sysrq triggered crash\r",
        );
        assert_eq!(
            console,
            Some((
                Trouble::KernelPanic,
                "Kernel panic - not syncing: sysrq triggered crash".to_owned()
            ))
        );
        assert_eq!(
            kind(trouble_on_console(
                "flightcage-init: FATAL: no disk after 10 s"
            )),
            Some(Trouble::BootFailed)
        );
        assert_eq!(
            trouble_on_console("[    1.0] systemd[1]: a.service: Failed with result 'exit-code'."),
            None
        );
    }

    #[test]
    fn lines_are_read_once_whole_and_across_a_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let mut reader = LineReader::from_start(&path);
        assert_eq!(reader.lines().unwrap(), Vec::<Vec<u8>>::new());
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(&path)
            .unwrap();
        file.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(reader.lines().unwrap(), [b"one", b"two"]);
        file.write_all(b"ee\n").unwrap();
        assert_eq!(reader.lines().unwrap(), [b"three"]);
        assert!(!rotate(&path, 100).unwrap());
        assert!(rotate(&path, 10).unwrap());
        assert_eq!(std::fs::read(older(&path)).unwrap(), b"one\ntwo\nthree\n");
        file.write_all(b"four\n").unwrap();
        assert_eq!(reader.lines().unwrap(), [b"four"]);
        assert_eq!(
            LineReader::from_end(&path).lines().unwrap(),
            Vec::<Vec<u8>>::new()
        );
    }
}

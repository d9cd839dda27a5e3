//! Watches a booting machine's console, a file: silence and last words.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::machines::provider::Acceleration;
use crate::shell;

/// Console text that is kept to be searched and quoted.
const KEPT_BYTES: usize = 16 << 10;
/// What a console says when a boot has failed; the second is our initramfs's word.
const LAST_WORDS: [&str; 3] = ["Kernel panic", "flightcage-init: FATAL", "emergency mode"];

/// How long a console may say nothing before its machine counts as hung. A KVM that opens may still hang its guests.
pub(super) fn patience(acceleration: Acceleration) -> Duration {
    match acceleration {
        Acceleration::Kvm => Duration::from_secs(15),
        Acceleration::Tcg => Duration::from_mins(1),
    }
}

/// One boot's console.
#[derive(Debug)]
pub(super) struct Console {
    path: PathBuf,
    read: u64,
    text: String,
    grown: Instant,
}

impl Console {
    /// Watches from byte `from` of the file, where this boot begins.
    pub(super) fn new(path: PathBuf, from: u64) -> Self {
        Self {
            path,
            read: from,
            text: String::new(),
            grown: Instant::now(),
        }
    }

    /// Reads what is new and tells why the boot has failed, if it has.
    pub(super) fn look(&mut self, patience: Duration) -> Option<String> {
        // A file that is not there yet is a console that has said nothing yet.
        let new = read_from(&self.path, self.read).unwrap_or_default();
        if !new.is_empty() {
            self.grown = Instant::now();
            self.read += new.len() as u64;
            self.add(&String::from_utf8_lossy(&new));
        }
        trouble(&self.text, self.grown.elapsed(), patience)
    }

    /// The last lines of this boot.
    pub(super) fn end(&self) -> String {
        if self.text.trim().is_empty() {
            "(it said nothing)".to_owned()
        } else {
            shell::tail(self.text.as_bytes())
        }
    }

    fn add(&mut self, new: &str) {
        self.text.push_str(new);
        if self.text.len() > KEPT_BYTES {
            let cut = self.text.ceil_char_boundary(self.text.len() - KEPT_BYTES);
            self.text.drain(..cut);
        }
    }
}

fn trouble(text: &str, silent: Duration, patience: Duration) -> Option<String> {
    if let Some(line) = text
        .lines()
        .find(|line| LAST_WORDS.iter().any(|words| line.contains(words)))
    {
        return Some(format!("its console says `{}`", line.trim()));
    }
    (silent >= patience).then(|| format!("its console stayed silent for {patience:?}"))
}

fn read_from(path: &Path, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    // A file that has become shorter was begun anew; see `machines::journal::rotate`.
    let offset = if file.metadata()?.len() < offset {
        0
    } else {
        offset
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(KEPT_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_last_words_are_trouble() {
        let patience = Duration::from_secs(15);
        let check = |text, silent, expected: Option<&str>| {
            assert_eq!(
                trouble(text, Duration::from_secs(silent), patience).as_deref(),
                expected,
                "{text}"
            );
        };
        check("[ 0.0] Linux\n", 14, None);
        check("", 15, Some("its console stayed silent for 15s"));
        check(
            "a\n[ 1.0] Kernel panic - not syncing\r\nb",
            0,
            Some("its console says `[ 1.0] Kernel panic - not syncing`"),
        );
        check(
            "flightcage-init: FATAL: no root\n",
            0,
            Some("its console says `flightcage-init: FATAL: no root`"),
        );
    }

    #[tokio::test]
    async fn only_this_boot_is_looked_at() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(file.path(), "Kernel panic\nnew boot\n").expect("it is ours");
        let mut console = Console::new(file.path().to_owned(), 13);
        assert_eq!(console.look(Duration::from_mins(1)), None);
        assert_eq!(console.end(), "new boot");
    }
}

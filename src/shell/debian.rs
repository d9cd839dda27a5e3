//! Runs `mmdebstrap`: Debian packages into a root file system, as root or (in a user namespace) as an ordinary user.
//!
//! The host's own Debian sources are used where it is the same suite, so that a mirror configured there serves here too.
//! A cancelled run takes its processes with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

/// What tells people how far a long piece of work is.
pub type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// Lines of a failed command that are kept for its error.
const KEPT_LINES: usize = 25;
/// Longest wait for another builder.
const LOCK_WAIT: Duration = Duration::from_mins(40);
/// What a root takes while it is made: the packages, their archives, and what is made of them.
const BUILD_BYTES: u64 = 3 << 29;
/// How the directory of an unfinished build begins.
pub const UNFINISHED: &str = "building-";
/// How often the lock is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(250);

/// Why a root could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// A program is not there, or cannot be run.
    #[error("run `{program}`: install it with `apt-get install {package}`")]
    Missing {
        /// The program.
        program: &'static str,
        /// The Debian package that holds it.
        package: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It ended with an error.
    #[error("`{command}` failed; the end of its output:\n{output}")]
    Failed {
        /// The command as one could paste it.
        command: String,
        /// Its last lines.
        output: String,
    },
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// What was done to it.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It would fill the disk and fail after minutes.
    #[error("{} MiB are free where {} is, the build needs {}: free some space, or set FLIGHTCAGE_HOME to a larger disk", free >> 20, path.display(), BUILD_BYTES >> 20)]
    Disk {
        /// Where it would be made.
        path: PathBuf,
        /// Free bytes.
        free: u64,
    },
    /// Another process holds the lock for too long.
    #[error("another process has been building in {} for more than 40 minutes: end it", .0.display())]
    Busy(PathBuf),
}

/// One run of `mmdebstrap`.
#[derive(Debug, Clone)]
pub struct Bootstrap<'a> {
    /// Debian's release name, such as `bookworm`.
    pub suite: &'a str,
    /// Packages beyond the essential ones.
    pub packages: Vec<String>,
    /// `--customize-hook`s in order. A special hook's host paths are relative to `directory`.
    pub hooks: Vec<String>,
    /// `tar` (into `target`) or `null` (the hooks take out what is wanted).
    pub format: &'static str,
    /// What is made, `/dev/null` for format `null`.
    pub target: &'a Path,
    /// An existing directory of our own, where it runs.
    pub directory: &'a Path,
}

impl Bootstrap<'_> {
    /// Runs it to its end. Each step that it tells of is handed on as progress.
    pub async fn run(&self, progress: Progress<'_>) -> Result<(), BootstrapError> {
        if let Some(free) = free_bytes(self.directory).filter(|free| *free < BUILD_BYTES) {
            return Err(BootstrapError::Disk {
                path: self.directory.to_owned(),
                free,
            });
        }
        let mut arguments = vec![
            "--variant=essential".to_owned(),
            format!("--format={}", self.format),
            // What it would clean up is gone already: our hooks remove apt and its configuration.
            "--skip=cleanup".to_owned(),
            "--aptopt=Apt::Install-Recommends \"false\"".to_owned(),
            "--aptopt=Acquire::Retries \"3\"".to_owned(),
            "--aptopt=Acquire::Languages \"none\"".to_owned(),
            "--dpkgopt=force-unsafe-io".to_owned(),
            "--dpkgopt=path-exclude=/usr/share/man/*".to_owned(),
            "--dpkgopt=path-exclude=/usr/share/locale/*".to_owned(),
            "--dpkgopt=path-exclude=/usr/share/doc/*".to_owned(),
        ];
        if !self.packages.is_empty() {
            arguments.push(format!("--include={}", self.packages.join(",")));
        }
        arguments.extend(
            self.hooks
                .iter()
                .map(|hook| format!("--customize-hook={hook}")),
        );
        arguments.push(self.suite.to_owned());
        arguments.push(self.target.display().to_string());
        arguments.extend(write_sources(self.suite, self.directory)?);

        let missing = |source| BootstrapError::Missing {
            program: "mmdebstrap",
            package: "mmdebstrap",
            source,
        };
        if !on_path("mmdebstrap") {
            return Err(missing(std::io::ErrorKind::NotFound.into()));
        }
        let mut command = Command::new("sh");
        command
            .args(["-c", OWNED, "mmdebstrap", "mmdebstrap"])
            .args(&arguments)
            .current_dir(self.directory);
        // The pipe's end, however we die, ends the group.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        // Fixed times make the same packages the same bytes.
        command
            .env("SOURCE_DATE_EPOCH", "0")
            .env("LC_ALL", "C.UTF-8")
            .process_group(0);
        if rustix::process::geteuid().is_root() {
            // The root is made where it is cleared with the rest. (An ordinary user's is made by another id, which cannot enter here.)
            command.env("TMPDIR", self.directory);
        }
        let mut child = command.spawn().map_err(missing)?;
        let group = GroupGuard(child.id());
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let mut kept: Vec<String> = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(step) = line.strip_prefix("I: ") {
                progress(step);
            }
            if kept.len() == KEPT_LINES {
                kept.remove(0);
            }
            kept.push(line);
        }
        let status = child.wait().await.map_err(missing)?;
        group.disarm();
        if status.success() {
            return Ok(());
        }
        let command = format!(
            "mmdebstrap {}",
            arguments
                .iter()
                .map(|argument| quote(argument))
                .collect::<Vec<_>>()
                .join(" ")
        );
        Err(BootstrapError::Failed {
            command,
            output: kept.join("\n"),
        })
    }
}

/// Runs `"$@"` and returns its status. When standard input ends first, the process group is asked to end, and killed a minute later.
/// (`mmdebstrap` ignores a signal that only its first process gets.)
const OWNED: &str = r#"
trap : TERM
exec 3<&0 </dev/null
"$@" 3<&- &
child=$!
{
    trap '' TERM
    cat <&3
    kill -0 $child || exit
    kill -TERM 0
    trap - TERM
    sleep 60
    kill -KILL 0
} >/dev/null 2>&1 &
exec 3<&-
while :; do
    wait $child
    status=$?
    kill -0 $child 2>/dev/null || break
done
trap '' TERM
kill -TERM 0
exit $status
"#;

fn free_bytes(path: &Path) -> Option<u64> {
    let state = rustix::fs::statvfs(path).ok()?;
    Some(state.f_bavail * state.f_frsize)
}

fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}

/// Ends the whole process group unless disarmed: `mmdebstrap` has children, and unmounts what it mounted when asked to end.
struct GroupGuard(Option<u32>);

impl GroupGuard {
    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        let group = self
            .0
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        }
    }
}

fn quote(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:@+".contains(c);
    if argument.chars().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

/// Exclusive use of a directory, until dropped. The kernel releases it when its holder dies.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: std::fs::File,
}

impl DirectoryLock {
    /// Makes the directory if need be and waits until no other process builds in it.
    pub async fn take(directory: &Path, progress: Progress<'_>) -> Result<Self, BootstrapError> {
        let started = tokio::time::Instant::now();
        loop {
            match Self::try_take(directory)? {
                Some(lock) => return Ok(lock),
                None if started.elapsed() > LOCK_WAIT => {
                    return Err(BootstrapError::Busy(directory.to_owned()));
                }
                None => progress("waiting for another process that builds"),
            }
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
    }

    /// Makes the directory if need be, and clears what a killed builder left in it; `None` while another process builds there.
    pub fn try_take(directory: &Path) -> Result<Option<Self>, BootstrapError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| BootstrapError::File {
                action,
                path,
                source,
            }
        };
        std::fs::create_dir_all(directory).map_err(failed("make directory", directory))?;
        let path = directory.join("lock");
        let file = std::fs::File::create(&path).map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => {
                clear_unfinished(directory);
                Ok(Some(Self { _file: file }))
            }
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(source)) => Err(BootstrapError::File {
                action: "lock",
                path,
                source,
            }),
        }
    }
}

/// Removes what a killed builder left. Call it with the lock held.
fn clear_unfinished(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let unfinished = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(UNFINISHED));
    for entry in unfinished {
        let path = entry.path();
        // Removing through a mount would remove what is mounted, the host's devices for instance.
        let removed = if unmount_below(&path) {
            std::fs::remove_dir_all(&path)
        } else {
            Err(std::io::ErrorKind::ResourceBusy.into())
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "what a killed build left cannot be removed");
        }
    }
}

/// Unmounts what is mounted below a directory; whether nothing is mounted there any more.
fn unmount_below(directory: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/self/mountinfo") else {
        return false;
    };
    let below: Vec<&str> = mount_points(&table)
        .filter(|point| Path::new(point).starts_with(directory))
        .collect();
    // The last mounted is on top.
    below
        .iter()
        .rev()
        .all(|point| rustix::mount::unmount(*point, rustix::mount::UnmountFlags::DETACH).is_ok())
}

/// The fifth field of each line (proc(5)); ours have no characters that would be escaped.
fn mount_points(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| line.split(' ').nth(4))
}

/// Writes the host's own sources of this suite into `directory` and returns their files' names, as arguments. None when the host is
/// another distribution or release: `mmdebstrap` then uses Debian's own mirror.
fn write_sources(suite: &str, directory: &Path) -> Result<Vec<String>, BootstrapError> {
    let mut candidates = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        candidates.extend(entries.flatten().map(|entry| entry.path()));
    }
    candidates.sort();
    let mut arguments = Vec::new();
    for (number, candidate) in candidates.iter().enumerate() {
        let extension = candidate
            .extension()
            .and_then(|extension| extension.to_str())
            .unwrap_or_default();
        let Ok(text) = std::fs::read_to_string(candidate) else {
            continue;
        };
        let kept = if extension == "sources" {
            deb822_sources(&text, suite)
        } else {
            one_line_sources(&text, suite)
        };
        if kept.is_empty() {
            continue;
        }
        let path = directory.join(format!("host-{number}.{extension}"));
        std::fs::write(&path, kept).map_err(|source| BootstrapError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
        arguments.push(path.display().to_string());
    }
    Ok(arguments)
}

fn is_of_suite(name: &str, suite: &str) -> bool {
    name.strip_prefix(suite)
        .is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"))
}

fn deb822_sources(text: &str, suite: &str) -> String {
    let stanza_fits = |stanza: &&str| {
        let field = |name: &str| {
            let lines = stanza.lines().filter(|line| !line.starts_with('#'));
            lines
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim())
        };
        field("Enabled") != Some("no")
            && field("Types").is_some_and(|types| types.split_whitespace().any(|one| one == "deb"))
            && field("Suites")
                .is_some_and(|suites| suites.split_whitespace().all(|one| is_of_suite(one, suite)))
            && field("Components")
                .is_some_and(|components| components.split_whitespace().any(|one| one == "main"))
    };
    let stanzas: Vec<&str> = text
        .split("\n\n")
        .map(str::trim)
        .filter(stanza_fits)
        .collect();
    if stanzas.is_empty() {
        String::new()
    } else {
        stanzas.join("\n\n") + "\n"
    }
}

fn one_line_sources(text: &str, suite: &str) -> String {
    let fits = |line: &&str| {
        let Some(rest) = line.trim().strip_prefix("deb ") else {
            return false;
        };
        let rest = rest.trim_start();
        let rest = if rest.starts_with('[') {
            rest.split_once(']').map_or("", |(_, rest)| rest)
        } else {
            rest
        };
        let mut words = rest.split_whitespace().skip(1);
        words.next().is_some_and(|name| is_of_suite(name, suite))
            && words.any(|component| component == "main")
    };
    text.lines()
        .filter(fits)
        .fold(String::new(), |kept, line| kept + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_suites_own_sources_are_kept() {
        let text = "Types: deb\n# was elsewhere\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: https://other.test\nSuites: nodistro\nComponents: main\n";
        let kept = deb822_sources(text, "bookworm");
        assert!(
            kept.contains("mirror.test") && !kept.contains("other.test"),
            "{kept}"
        );
        assert_eq!(deb822_sources(text, "trixie"), "");

        let text = "deb [signed-by=/k] http://mirror.test/debian bookworm main contrib\ndeb http://sdk.test/apt cloud-sdk-bookworm main\n#deb x bookworm main\n";
        assert_eq!(
            one_line_sources(text, "bookworm"),
            "deb [signed-by=/k] http://mirror.test/debian bookworm main contrib\n"
        );
    }

    #[test]
    fn a_killed_builders_directory_is_cleared_by_the_next() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("building-x/mmdebstrap.y/proc")).unwrap();
        std::fs::create_dir(directory.path().join("kept")).unwrap();
        clear_unfinished(directory.path());
        let left: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert_eq!(left, ["kept"]);
        assert_eq!(
            mount_points("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n")
                .collect::<Vec<_>>(),
            ["/mnt2"]
        );
    }

    fn owned(script: &str) -> (tokio::process::Child, tokio::process::ChildStdin) {
        let mut command = Command::new("sh");
        command
            .args(["-c", OWNED, "owned", "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn().unwrap();
        let pipe = child.stdin.take().unwrap();
        (child, pipe)
    }

    #[tokio::test]
    async fn an_owned_command_ends_with_its_owner_and_returns_its_status() {
        let (mut child, pipe) = owned("exit 7");
        assert_eq!(child.wait().await.unwrap().code(), Some(7));
        drop(pipe);

        let (mut child, pipe) =
            owned("trap 'echo asked; exit 3' TERM; echo begun; while :; do sleep 1; done");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("begun"));
        drop(pipe);
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some("asked"));
        assert_eq!(child.wait().await.unwrap().code(), Some(3));
        // The pipe's end: no process of the group holds it.
        assert_eq!(lines.next_line().await.unwrap(), None);
    }

    #[test]
    fn commands_can_be_pasted() {
        assert_eq!(quote("--include=a,b"), "--include=a,b");
        assert_eq!(quote("x 'y'"), r"'x '\''y'\'''");
    }
}

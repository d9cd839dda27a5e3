//! Commands on this host. A command dies with the future that waits for it.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;
use tokio::time::{Instant, timeout_at};

use super::{CommandError, Output, quote, tail};

/// Output kept of each stream of a command; what comes after is read and dropped.
const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// A longer line is handed on in pieces.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// A command to be run on this host.
#[derive(Debug, Clone)]
pub struct Command {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<std::path::PathBuf>,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

impl Command {
    /// `program` with a time limit of one minute.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            stdin: None,
            limit: Duration::from_mins(1),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments
            .push(argument.as_ref().to_string_lossy().into_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it in this directory.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<std::path::PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// What it reads from standard input; nothing otherwise.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// The time after which it is killed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command as one could paste it.
    #[must_use]
    pub fn pasteable(&self) -> String {
        let variables = self
            .environment
            .iter()
            .map(|(name, value)| format!("{name}={}", quote(value)));
        let words = std::iter::once(&self.program)
            .chain(&self.arguments)
            .map(|word| quote(word));
        variables.chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Runs it to its end; any exit status is an `Ok`.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub async fn output(&self) -> Result<Output, CommandError> {
        self.output_with_lines(|_| ()).await
    }

    /// Runs it to its end and refuses every exit status but 0.
    ///
    /// # Errors
    /// When it cannot be started, does not end in time or fails.
    pub async fn run(&self) -> Result<Output, CommandError> {
        self.output().await?.check(&self.pasteable())
    }

    /// Like [`Command::run`], and hands every line of both streams to `line` as it appears.
    ///
    /// # Errors
    /// When it cannot be started, does not end in time or fails.
    pub async fn run_with_lines(
        &self,
        line: impl FnMut(&str) + Send,
    ) -> Result<Output, CommandError> {
        self.output_with_lines(line).await?.check(&self.pasteable())
    }

    async fn output_with_lines(
        &self,
        mut line: impl FnMut(&str) + Send,
    ) -> Result<Output, CommandError> {
        let start = |source| CommandError::Start {
            command: self.pasteable(),
            source,
        };
        let mut child = self.spawn().map_err(start)?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let deadline = Instant::now() + self.limit;
        let result = timeout_at(
            deadline,
            converse(
                &mut child,
                self.stdin.as_deref(),
                &mut stdout,
                &mut stderr,
                &mut line,
            ),
        )
        .await;
        if let Ok(status) = result {
            return Ok(Output {
                status: exit_code(status.map_err(start)?),
                stdout,
                stderr,
            });
        }
        // The error is that it took too long; a child that is gone by now cannot be killed, and need not be.
        let _ = child.kill().await;
        let said = if stderr.is_empty() { stdout } else { stderr };
        Err(CommandError::TimedOut {
            command: self.pasteable(),
            limit: self.limit,
            tail: tail(&said),
        })
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        let stdin = if self.stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}

/// Feeds and reads a child until its streams are closed and it has ended.
async fn converse(
    child: &mut Child,
    stdin: Option<&[u8]>,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
    line: &mut (impl FnMut(&str) + Send),
) -> std::io::Result<ExitStatus> {
    let mut input = child.stdin.take();
    let feed = async {
        if let (Some(pipe), Some(bytes)) = (input.as_mut(), stdin) {
            // A command may end without having read everything: its exit status tells whether that was wrong.
            let _ = pipe.write_all(bytes).await;
        }
        drop(input);
    };
    let (out, err) = (
        child.stdout.take().expect("stdout is piped"),
        child.stderr.take().expect("stderr is piped"),
    );
    let line = std::sync::Mutex::new(line);
    let tell = |text: &str| (line.lock().expect("a line callback does not panic"))(text);
    let ((), out, err) = tokio::join!(
        feed,
        read_lines(out, stdout, &tell),
        read_lines(err, stderr, &tell)
    );
    out.and(err)?;
    child.wait().await
}

async fn read_lines(
    source: impl AsyncRead + Unpin,
    kept: &mut Vec<u8>,
    tell: impl Fn(&str),
) -> std::io::Result<()> {
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut source)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .await?
            == 0
        {
            return Ok(());
        }
        let room = MAX_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(&line[..line.len().min(room)]);
        tell(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
    }
}

/// The exit code as a shell reports it.
fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        Command::new("sh").args(["-c", script])
    }

    #[tokio::test]
    async fn output_and_status_are_kept() {
        let output = shell("cat; echo bad >&2; exit 3")
            .stdin("fed")
            .output()
            .await
            .expect("sh starts");
        assert_eq!(
            output,
            Output {
                status: 3,
                stdout: b"fed".to_vec(),
                stderr: b"bad\n".to_vec()
            }
        );
    }

    #[tokio::test]
    async fn a_large_input_and_output_do_not_block_each_other() {
        let bytes = vec![b'x'; 4 << 20];
        let output = Command::new("cat")
            .stdin(bytes.clone())
            .run()
            .await
            .expect("cat succeeds");
        assert_eq!(output.stdout, bytes);
    }

    #[tokio::test]
    async fn lines_are_told_as_they_come() {
        let mut lines = Vec::new();
        shell("printf 'one\\ntwo'; echo three >&2")
            .run_with_lines(|line| lines.push(line.to_owned()))
            .await
            .expect("it succeeds");
        lines.sort();
        assert_eq!(lines, ["one", "three", "two"]);
    }

    #[tokio::test]
    async fn errors_hold_the_command_and_what_it_said() {
        let error = shell("echo 'no disk' >&2; exit 1")
            .run()
            .await
            .expect_err("it fails");
        assert_eq!(
            error.to_string(),
            "`sh -c 'echo '\\''no disk'\\'' >&2; exit 1'` exited with status 1\nno disk"
        );
        let error = Command::new("/nonexistent/tool")
            .run()
            .await
            .expect_err("there is no such tool");
        assert!(matches!(error, CommandError::Start { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_command_that_does_not_end_is_killed() {
        let error = shell("echo started; exec sleep 1000")
            .limit(Duration::from_millis(300))
            .run()
            .await
            .expect_err("it hangs");
        assert!(
            error.to_string().contains("did not end within 300ms"),
            "{error}"
        );
    }
}

//! The hidden verbs `flightcage __pod …`: small single-threaded processes around a container.
//!
//! libcontainer deadlocks in a threaded process and namespaces are entered by single threads only, so the agent does neither
//! itself. `watch` lives as long as its container, as conmon does: it is the parent of the container's init, holds its output
//! and records its end, whether or not an agent is there. `run` and `exec` call libcontainer once, `network` makes a pod's
//! network namespace. `watch` never calls libcontainer, which keeps it small.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal, waitpid,
};

use super::attach::{self, Attached};
use super::log::{Lines, Writer};
use super::records::{self, Process, RunRecord, StateRecord};
use super::{cgroup, network};

/// First argument of every hidden verb here.
pub(crate) const VERB: &str = "__pod";
/// Exit code of `exec` when the command never ran or ran out of time; the reason is in the error file.
const EXEC_FAILED: u8 = 125;
/// Given to `exec` for a command that may run for ever.
pub(crate) const NO_LIMIT: &str = "0";
/// How long output of a dead container may still come: a child outside its PID namespace may hold the pipe.
const DRAIN: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// How long output is let come together, unless as much as this has come at once.
const GATHER: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
const GATHERED_BYTES: usize = 16 << 10;

/// Runs a hidden verb when the command line is one. Call it first in `main`, before any thread exists.
pub fn dispatch() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != VERB {
        return None;
    }
    let verb = arguments.next().unwrap_or_default();
    let rest: Vec<OsString> = arguments.collect();
    Some(match (verb.to_str(), rest.as_slice()) {
        (Some("watch"), [directory]) => watch_and_answer(Path::new(directory)),
        (Some("run"), [directory]) => run(Path::new(directory)),
        (Some("exec"), [directory, process, timeout_ms]) => {
            exec(Path::new(directory), Path::new(process), timeout_ms, None)
        }
        (Some("exec"), [directory, process, timeout_ms, console]) => exec(
            Path::new(directory),
            Path::new(process),
            timeout_ms,
            Some(Path::new(console)),
        ),
        (Some("network"), [request]) => network_namespace(request),
        _ => ExitCode::from(2),
    })
}

/// Answers on standard output: nothing once the container runs, else the reason; then closes it.
fn watch_and_answer(directory: &Path) -> ExitCode {
    match watch(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = std::io::stdout().write_all(reason.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn watch(directory: &Path) -> Result<(), String> {
    let _ = rustix::process::setsid();
    let record: RunRecord = records::read(&directory.join("run.json")).ok_or("read run.json")?;
    cgroup::join_helpers();
    let mut writer = Writer::open(&record.log)
        .map_err(|error| format!("open log `{}`: {error}", record.log.display()))?;
    let (output, output_end) = pipe()?;
    let (errors, errors_end) = pipe()?;
    let mut ends = Ends::open(&record, directory)?;
    let status = Command::new("/proc/self/exe")
        .args([VERB.as_ref(), "run".as_ref(), directory.as_os_str()])
        .stdin(ends.stdin.take().unwrap_or_else(Stdio::null))
        .stdout(output_end)
        .stderr(errors_end)
        .status()
        .map_err(|error| format!("start the container's helper: {error}"))?;
    if !status.success() {
        cgroup::kill(&record.cgroup);
        cgroup::remove(&record.cgroup);
        let reason = fs::read_to_string(directory.join("error")).unwrap_or_default();
        let how = status
            .signal()
            .map(|signal| format!("its helper died of signal {signal}"))
            .unwrap_or_default();
        return Err(format!("{reason}{how}"));
    }
    let pid_text = fs::read_to_string(directory.join("pid"))
        .map_err(|error| format!("read the pid file: {error}"))?;
    let pid = pid_text
        .trim()
        .parse::<i32>()
        .map_err(|error| format!("pid file `{pid_text}`: {error}"))?;
    let init = Pid::from_raw(pid).ok_or("the container's process number is 0")?;
    let handle = pidfd_open(init, PidfdFlags::empty())
        .map_err(|error| format!("open process {pid}: {error}"))?;
    let (sources, attached) = match ends.connect(&record, output, errors) {
        Ok(connected) => connected,
        Err(reason) => {
            cgroup::kill(&record.cgroup);
            let _ = waitpid(Some(init), WaitOptions::empty());
            cgroup::remove(&record.cgroup);
            return Err(reason);
        }
    };
    let started_at_ms = records::now_ms();
    let running = StateRecord::Running {
        helper: Process::find(i32::try_from(std::process::id()).unwrap_or(0))
            .ok_or("find own process")?,
        // Its own child: the number cannot be reused before it is reaped below.
        init: Process::find(pid).ok_or("find the container's process")?,
        started_at_ms,
    };
    records::write(&directory.join("state.json"), &running)
        .map_err(|error| format!("write state.json: {error}"))?;
    announce(&record);
    close_answer();

    pump(&handle, sources, &mut writer, attached);
    let status = waitpid(Some(init), WaitOptions::empty())
        .ok()
        .flatten()
        .map(|(_, status)| status);
    let exit_code = status.map_or(255, exit_code);
    let oom_killed = exit_code == 137 && cgroup::was_oom_killed(&record.cgroup);
    let exited = StateRecord::Exited {
        exit_code,
        oom_killed,
        started_at_ms,
        finished_at_ms: records::now_ms(),
    };
    if let Err(error) = records::write(&directory.join("state.json"), &exited) {
        // The agent finds a dead helper and a running state, and reports 255.
        return Err(format!("write state.json: {error}"));
    }
    cgroup::kill(&record.cgroup);
    let _ = fs::remove_dir_all(record.oci_root.join(&record.id));
    cgroup::remove(&record.cgroup);
    announce(&record);
    Ok(())
}

/// What a container's standard input and terminal are made of.
struct Ends {
    attached: Attached,
    /// Where libcontainer sends the terminal.
    console: Option<UnixListener>,
    /// The container's end of its input.
    stdin: Option<Stdio>,
}

impl Ends {
    /// Before the container is made.
    fn open(record: &RunRecord, directory: &Path) -> Result<Self, String> {
        let mut ends = Self {
            attached: Attached::default(),
            console: None,
            stdin: None,
        };
        if !(record.stdin || record.tty) {
            return Ok(ends);
        }
        ends.attached = Attached::listen(directory, record.stdin_once)
            .map_err(|error| format!("listen for who attaches: {error}"))?;
        if record.tty {
            let console = attach::listen(directory, attach::CONSOLE)
                .map_err(|error| format!("listen for the terminal: {error}"))?;
            ends.console = Some(console);
        } else {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|error| format!("make a pipe: {error}"))?;
            rustix::io::ioctl_fionbio(&write, true)
                .map_err(|error| format!("make a pipe non-blocking: {error}"))?;
            ends.attached.set_input(File::from(write));
            ends.stdin = Some(Stdio::from(read));
        }
        Ok(ends)
    }

    /// When it runs: where its output comes from, and who can attach to it.
    fn connect(
        mut self,
        record: &RunRecord,
        output: File,
        errors: File,
    ) -> Result<(Vec<Source>, Attached), String> {
        let Some(console) = &self.console else {
            let sources = vec![
                Source::new(output, "stdout", attach::STDOUT),
                Source::new(errors, "stderr", attach::STDERR),
            ];
            return Ok((sources, self.attached));
        };
        let terminal = attach::receive_terminal(console)
            .map_err(|error| format!("receive the container's terminal: {error}"))?;
        let terminal = File::from(terminal);
        let again = || {
            terminal
                .try_clone()
                .map_err(|error| format!("hold the container's terminal: {error}"))
        };
        if record.stdin {
            self.attached.set_input(again()?);
        }
        self.attached.set_terminal(again()?);
        let sources = vec![Source::new(terminal, "stdout", attach::STDOUT)];
        Ok((sources, self.attached))
    }
}

/// A stream of output.
struct Source {
    /// Gone once it has ended.
    file: Option<File>,
    lines: Lines,
    stream: u8,
}

impl Source {
    fn new(file: File, name: &'static str, stream: u8) -> Self {
        Self {
            file: Some(file),
            lines: Lines::new(name),
            stream,
        }
    }
}

fn pipe() -> Result<(File, Stdio), String> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|error| format!("make a pipe: {error}"))?;
    rustix::io::ioctl_fionbio(&read, true)
        .map_err(|error| format!("make a pipe non-blocking: {error}"))?;
    Ok((File::from(read), Stdio::from(write)))
}

fn close_answer() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}

fn announce(record: &RunRecord) {
    let _ = fs::write(record.events.join(&record.id), b"");
}

/// Copies output to the log, and to whoever is attached, until the process has ended and its output too.
fn pump(
    process: &rustix::fd::OwnedFd,
    mut sources: Vec<Source>,
    writer: &mut Writer,
    mut attached: Attached,
) {
    let mut buffer = [0u8; GATHERED_BYTES];
    let mut ended = false;
    let mut much = false;
    while !ended || sources.iter().any(|source| source.file.is_some()) {
        let mut waited: Vec<PollFd<'_>> = sources
            .iter()
            .filter_map(|source| source.file.as_ref())
            .map(|file| PollFd::new(file, PollFlags::IN))
            .collect();
        let of_output = waited.len();
        attached.watch(&mut waited);
        if !ended {
            waited.push(PollFd::new(process, PollFlags::IN));
        }
        match poll(&mut waited, ended.then_some(&DRAIN)) {
            Ok(0) => break,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
        ended |= !ended && waited.last().is_some_and(|last| !last.revents().is_empty());
        let hung_up = attached.hung_up(&waited[of_output..]);
        drop(waited);
        // Who is attached does not wait.
        if !ended && !much && !attached.is_open() {
            gather(process);
        }
        much = false;
        for source in &mut sources {
            let Some(file) = &mut source.file else {
                continue;
            };
            match file.read(&mut buffer) {
                Ok(0) => source.file = None,
                // A full disk loses log lines, never the container.
                Ok(count) => {
                    much |= count == buffer.len();
                    drop(source.lines.push(&buffer[..count], writer));
                    attached.tell(source.stream, &buffer[..count]);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                    ) => {}
                // A terminal that nobody has any more.
                Err(_) => source.file = None,
            }
        }
        attached.attend(&hung_up);
    }
    for source in &mut sources {
        let _ = source.lines.finish(writer);
    }
    attached.finish();
}

/// Lets output come together, so that a container that logs each request does not wake this process for each; no longer than the
/// process lives.
fn gather(process: &rustix::fd::OwnedFd) {
    // An error only shortens the wait.
    let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&GATHER));
}

fn exit_code(status: WaitStatus) -> i32 {
    status
        .exit_status()
        .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(127))
}

/// Creates and starts the container as a sibling of this process: a child of `watch`.
fn run(directory: &Path) -> ExitCode {
    cgroup::join_starting();
    let start = || -> Result<(), String> {
        let record: RunRecord =
            records::read(&directory.join("run.json")).ok_or("read run.json")?;
        let console = record.tty.then(|| directory.join(attach::CONSOLE));
        let state = record.oci_root.join(&record.id);
        let built = ContainerBuilder::new(record.id, SyscallType::default())
            .with_root_path(record.oci_root)
            .and_then(|builder| builder.with_pid_file(Some(directory.join("pid"))))
            .and_then(ContainerBuilder::validate_id)
            .map_err(|error| chain(&error))?
            .with_console_socket(console.as_deref())
            .as_init(directory)
            .with_systemd(false)
            .with_detach(true)
            .as_sibling(true)
            .build();
        if let Some(console) = &console {
            remove_links(&state, console);
        }
        let mut container = built.map_err(|error| chain(&error))?;
        container.start().map_err(|error| chain(&error))
    };
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = fs::write(directory.join("error"), reason);
            ExitCode::FAILURE
        }
    }
}

/// Runs a command in a running container and exits with its code. The process file is the OCI `process` object; its terminal goes to
/// whoever listens at `console`. When nobody reads this process' standard output any more, nobody wants the command: it is killed.
fn exec(
    directory: &Path,
    process: &Path,
    timeout_ms: &OsString,
    console: Option<&Path>,
) -> ExitCode {
    let attempt = || -> Result<i32, String> {
        let record: RunRecord =
            records::read(&directory.join("run.json")).ok_or("read run.json")?;
        let timeout_ms: i64 = timeout_ms
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or("parse the time-out")?;
        let state = record.oci_root.join(&record.id);
        let built = ContainerBuilder::new(record.id, SyscallType::default())
            .with_root_path(record.oci_root)
            .map(|builder| builder.with_console_socket(console))
            .map_err(|error| chain(&error))?
            .as_tenant()
            .with_process(Some(process))
            .with_detach(true)
            .build();
        if let Some(console) = console {
            remove_links(&state, console);
        }
        let pid = built.map_err(|error| chain(&error))?;
        let pid = Pid::from_raw(pid.as_raw()).ok_or("the command's process number is 0")?;
        let handle = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|error| format!("open the command's process: {error}"))?;
        let limit = (timeout_ms > 0).then_some(Timespec {
            tv_sec: timeout_ms / 1000,
            tv_nsec: timeout_ms % 1000 * 1_000_000,
        });
        let left = wait_or_left(&handle, limit.as_ref());
        if left.is_some() {
            let _ = pidfd_send_signal(&handle, Signal::KILL);
            // It leads a session; what it started in its own group ends with it.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let status = waitpid(Some(pid), WaitOptions::empty())
            .map_err(|error| format!("wait for the command: {error}"))?;
        match left {
            Some(Left::TimeOut) => Err(format!("the command was killed after {timeout_ms} ms")),
            Some(Left::Reader) | None => Ok(status.map_or(255, |(_, status)| exit_code(status))),
        }
    };
    match attempt() {
        Ok(code) => ExitCode::from(u8::try_from(code & 0xff).unwrap_or(255)),
        Err(reason) => {
            let _ = fs::write(error_file(process), reason);
            ExitCode::from(EXEC_FAILED)
        }
    }
}

/// Why a command is killed.
enum Left {
    /// It ran too long.
    TimeOut,
    /// Nobody reads its output.
    Reader,
}

/// `None` once the process has ended.
fn wait_or_left(process: &rustix::fd::OwnedFd, limit: Option<&Timespec>) -> Option<Left> {
    let stdout = rustix::stdio::stdout();
    loop {
        // A pipe whose reader is gone says so without being asked for anything.
        let mut waited = [
            PollFd::new(process, PollFlags::IN),
            PollFd::new(&stdout, PollFlags::empty()),
        ];
        match poll(&mut waited, limit) {
            Ok(0) => return Some(Left::TimeOut),
            Ok(_) if !waited[0].revents().is_empty() => return None,
            Ok(_) => return Some(Left::Reader),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return Some(Left::TimeOut),
        }
    }
}

/// libcontainer leaves its link to the terminal's socket behind.
fn remove_links(state: &Path, console: &Path) {
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        if fs::read_link(entry.path()).is_ok_and(|target| target == console) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Where `exec` leaves its reason for not running a command to its end.
pub(crate) fn error_file(process: &Path) -> PathBuf {
    process.with_extension("error")
}

fn network_namespace(request: &OsString) -> ExitCode {
    cgroup::join_starting();
    let made = request
        .to_str()
        .and_then(|text| serde_json::from_str::<network::NamespaceRequest>(text).ok())
        .ok_or_else(|| "parse the request".to_owned())
        .and_then(|request| network::make_namespace(&request));
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = std::io::stdout().write_all(reason.as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// An error with all its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

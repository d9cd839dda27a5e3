//! QEMU as a child process that dies with its owner, even when that is killed by SIGKILL.
//!
//! A machine's process starts as the hidden verb `__vm` of our own binary ([`exec_vm`]), which asks the kernel to be killed when its
//! parent dies, makes sure that the parent is still the one that started it, and becomes QEMU. The kernel means the *thread* that
//! forked: all are started by one thread, which lives as long as the provider.
//!
//! A process id from a file is never trusted: a process is ours if its arguments name the machine's directory.

use std::ffi::OsString;
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, umask,
};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::command_line::INPUT;
use super::directory;

/// The hidden verb that becomes QEMU.
pub const VM_VERB: &str = "__vm";
/// How long a killed process may take to be gone.
const DEATH_LIMIT: Duration = Duration::from_secs(10);
/// How long a signal may take to show in `/proc`.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Becomes the program in `arguments`, which are `PARENT PROGRAM ARGUMENT…` (what follows [`VM_VERB`]). Call it first thing in `main`,
/// before any thread exists. Returns only when it could not.
pub fn exec_vm(mut arguments: impl Iterator<Item = OsString>) -> io::Error {
    let parent = arguments
        .next()
        .and_then(|word| word.to_str()?.parse::<i32>().ok());
    let Some(program) = arguments.next() else {
        return io::Error::other(format!(
            "`{VM_VERB}` needs a parent's process id and a program"
        ));
    };
    let orphaned = || parent.is_none() || getppid().map(Pid::as_raw_pid) != parent;
    let gone = || io::Error::other("the process that wanted the machine is gone");
    if orphaned() {
        return gone();
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // A parent that died before the signal was set can no longer kill us: somebody else has adopted us by now.
    if orphaned() {
        return gone();
    }
    umask(Mode::RWXG | Mode::RWXO);
    let mut arguments: Vec<OsString> = arguments.collect();
    match keep_memory_apart(&mut arguments) {
        Ok(()) => std::process::Command::new(program).args(arguments).exec(),
        Err(error) => error,
    }
}

/// Moves a saved memory from standard input to a descriptor of its own. QEMU closes it once it is loaded, and the next descriptor that
/// it opens would be its standard input: if that is the pipe of the next save, the save's writer loses it.
fn keep_memory_apart(arguments: &mut [OsString]) -> io::Result<()> {
    let Some(memory) = arguments
        .iter_mut()
        .find(|argument| argument.as_os_str() == INPUT)
    else {
        return Ok(());
    };
    let apart = rustix::io::dup(rustix::stdio::stdin())?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    *memory = format!("fd:{}", apart.into_raw_fd()).into();
    Ok(())
}

/// How a process ended, once it has.
pub(super) type Exit = watch::Receiver<Option<ExitStatus>>;

/// What a process is started with.
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    /// Where what it says goes.
    pub(super) log: PathBuf,
    /// What it reads; nothing by default.
    pub(super) input: Option<std::fs::File>,
}

struct Order {
    launch: Launch,
    reply: oneshot::Sender<io::Result<(u32, Exit)>>,
}

/// The thread that starts all machines of a provider; they die when it ends.
#[derive(Debug)]
pub(super) struct Spawner {
    orders: mpsc::Sender<Order>,
}

impl Spawner {
    /// Starts the thread. `wrapper` is our own binary.
    pub(super) fn start(wrapper: PathBuf, runtime: Handle) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("machines".into())
            .spawn(move || {
                for Order { launch, reply } in queue {
                    let result = spawn(&wrapper, launch, &runtime);
                    // Whoever gave up waiting drops the exit's receiver; the child is still reaped.
                    let _ = reply.send(result);
                }
            })?;
        Ok(Self { orders })
    }

    /// Starts a process; returns its id and its end.
    pub(super) async fn spawn(&self, launch: Launch) -> io::Result<(u32, Exit)> {
        let (reply, answer) = oneshot::channel();
        let gone = |()| io::Error::other("the thread that starts machines has ended");
        self.orders
            .send(Order { launch, reply })
            .map_err(|_| gone(()))?;
        answer.await.map_err(|_| gone(()))?
    }
}

fn spawn(wrapper: &Path, launch: Launch, runtime: &Handle) -> io::Result<(u32, Exit)> {
    let log = directory::create(&launch.log)?;
    let _guard = runtime.enter();
    let mut command = tokio::process::Command::new(wrapper);
    command
        .arg(VM_VERB)
        .arg(std::process::id().to_string())
        .arg(&launch.program)
        .args(&launch.arguments);
    // Its own process group: Ctrl-C in a terminal is for us to handle.
    command
        .stdin(launch.input.map_or_else(Stdio::null, Stdio::from))
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let pid = child
        .id()
        .ok_or_else(|| io::Error::other("the process ended before it was looked at"))?;
    let (told, exit) = watch::channel(None);
    runtime.spawn(async move {
        if let Ok(status) = child.wait().await {
            told.send_replace(Some(status));
        }
    });
    Ok((pid, exit))
}

/// Whether the process exists, is not a zombie, and was started for the machine in `directory`.
pub(super) fn runs_in(pid: u32, directory: &Path) -> bool {
    let Ok(command_line) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    names_directory(&command_line, directory)
        && !matches!(state(&format!("/proc/{pid}/stat")), None | Some('Z' | 'X'))
}

/// Whether arguments, each ended by a zero byte, name a file in `directory`.
fn names_directory(command_line: &[u8], directory: &Path) -> bool {
    let prefix = format!("{}/", directory.display()).replace(',', ",,");
    command_line
        .split(|byte| *byte == 0)
        .any(|word| String::from_utf8_lossy(word).contains(&prefix))
}

/// Whether every thread of the process is stopped by a signal.
pub(super) fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut states = threads
        .flatten()
        .map(|thread| state(&format!("{}/stat", thread.path().display())))
        .peekable();
    states.peek().is_some() && states.all(|state| matches!(state, Some('T' | 't')))
}

/// The state letter in a `stat` file of `/proc` (proc(5)): it follows the name, which is in parentheses and may hold some.
fn state(stat: &str) -> Option<char> {
    let text = std::fs::read_to_string(stat).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Stops or continues a process and returns when all its threads show it.
pub(super) async fn set_stopped(pid: u32, stopped: bool) -> io::Result<()> {
    let signal = if stopped { Signal::STOP } else { Signal::CONT };
    pidfd_send_signal(pidfd_open(as_pid(pid)?, PidfdFlags::empty())?, signal)?;
    let wait = async {
        while is_stopped(pid) != stopped {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let late = |_| {
        io::Error::other(format!(
            "process {pid} does not show {signal:?} within {STOP_LIMIT:?}"
        ))
    };
    tokio::time::timeout(STOP_LIMIT, wait).await.map_err(late)
}

/// Kills a process and returns when it is gone; one that is gone already is fine.
pub(super) async fn kill(pid: u32) -> io::Result<()> {
    let kill = move || {
        let process = match pidfd_open(as_pid(pid)?, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            process => process?,
        };
        match pidfd_send_signal(&process, Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            sent => sent?,
        }
        // A pidfd is readable once its process has ended.
        let timeout = Timespec::try_from(DEATH_LIMIT).expect("10 s fit");
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout))? {
            0 => Err(io::Error::other(format!(
                "process {pid} still runs {DEATH_LIMIT:?} after SIGKILL"
            ))),
            _ => Ok(()),
        }
    };
    tokio::task::spawn_blocking(kill)
        .await
        .map_err(io::Error::other)?
}

/// Kills exactly the processes of machines under `state_dir` and returns their ids and machine directories' names.
pub(super) async fn sweep(state_dir: &Path) -> io::Result<Vec<(u32, String)>> {
    let found = find(state_dir)?;
    for (pid, _) in &found {
        kill(*pid).await?;
    }
    Ok(found)
}

/// The processes of machines under `state_dir`: their ids and machine directories' names.
pub(super) fn find(state_dir: &Path) -> io::Result<Vec<(u32, String)>> {
    let machines = directory::machines_directory(state_dir);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(command_line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let Some(node) = machine_of(&command_line, &machines) else {
            continue;
        };
        if runs_in(pid, &machines.join(&node)) {
            found.push((pid, node));
        }
    }
    Ok(found)
}

/// The machine under `machines` whose disk a QEMU's arguments, or those of a process about to become one, name.
fn machine_of(command_line: &[u8], machines: &Path) -> Option<String> {
    let words: Vec<String> = command_line
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let is_qemu = |word: &String| {
        Path::new(word)
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("qemu-system-"))
    };
    let becomes_qemu =
        words.get(1).is_some_and(|verb| verb == VM_VERB) && words.get(3).is_some_and(is_qemu);
    if !becomes_qemu && !is_qemu(words.first()?) {
        return None;
    }
    let prefix = format!("file={}/", machines.display()).replace(',', ",,");
    words.iter().find_map(|word| {
        let (node, file) = word.strip_prefix(&prefix)?.split_once('/')?;
        let is_disk = file
            .split(',')
            .next()
            .is_some_and(|name| directory::DISKS.contains(&name));
        is_disk.then(|| node.to_owned())
    })
}

pub(super) fn as_pid(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other(format!("{pid} is no process id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_qemu_processes_are_recognised() {
        let machines = Path::new("/state/a/machines");
        let check = |words: &[&str], expected: Option<&str>| {
            assert_eq!(
                machine_of(words.join("\0").as_bytes(), machines).as_deref(),
                expected,
                "{words:?}"
            );
        };
        let drive = "file=/state/a/machines/w1/disk.raw,format=raw";
        check(
            &["/usr/bin/qemu-system-x86_64", "-drive", drive],
            Some("w1"),
        );
        check(
            &[
                "/proc/self/exe",
                VM_VERB,
                "77",
                "qemu-system-x86_64",
                "-drive",
                drive,
            ],
            Some("w1"),
        );
        let layer = "file=/state/a/machines/w2/disk.qcow2,format=qcow2";
        check(&["qemu-system-x86_64", "-drive", layer], Some("w2"));
        check(
            &[
                "qemu-system-x86_64",
                "-drive",
                "file=/state/a/machines/w1/other.raw,format=raw",
            ],
            None,
        );
        check(
            &[
                "qemu-system-x86_64",
                "-drive",
                "file=/state/ab/machines/w1/disk.raw",
            ],
            None,
        );
        check(&["vim", "/state/a/machines/w1/disk.raw", drive], None);
        check(&[], None);
    }

    #[tokio::test]
    async fn a_process_is_stopped_continued_and_killed() {
        let mut child = tokio::process::Command::new("sleep")
            .arg("1000")
            .kill_on_drop(true)
            .spawn()
            .expect("sleep starts");
        let pid = child.id().expect("it runs");
        set_stopped(pid, true).await.expect("it stops");
        assert!(is_stopped(pid));
        set_stopped(pid, false).await.expect("it continues");
        assert!(!is_stopped(pid));
        set_stopped(pid, true).await.expect("it stops");
        kill(pid).await.expect("a stopped process can be killed");
        child.wait().await.expect("it has ended");
        kill(pid).await.expect("a process that is gone is fine");
    }

    #[test]
    fn a_machine_without_its_parent_is_not_started() {
        let error = exec_vm(["1", "/bin/true"].iter().map(OsString::from));
        assert_eq!(
            error.to_string(),
            "the process that wanted the machine is gone"
        );
    }
}

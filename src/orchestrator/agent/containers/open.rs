//! Runs a command in a container with its streams open, or connects to a pod's port, for as long as somebody holds the result.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::termios::Winsize;
use rustix::thread::LinkNameSpaceType;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixListener};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::runtime::{OpenCommand, RunningCommand, RuntimeError};
use super::files::write_private;
use super::helper::{self, NO_LIMIT, VERB};
use super::instance::Instance;
use super::{RealRuntime, START_LIMIT, UNKNOWN_EXIT, doing, failed, records};

/// A pod's loopback address answers at once, or not at all.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// A terminal that was sent is received at once.
const HANDOVER_LIMIT: Duration = Duration::from_secs(1);

/// The files through which a helper is told what to run; gone when dropped.
pub(super) struct Request {
    process: PathBuf,
}

impl Request {
    /// Of a command in a running instance, as its container's own process but for its arguments.
    pub(super) fn write(
        instance: &Instance,
        command: &[String],
        tty: bool,
    ) -> Result<Self, RuntimeError> {
        let config: serde_json::Value = records::read(&instance.directory.join("config.json"))
            .ok_or_else(|| {
                failed(format!(
                    "container `{}` lost its configuration",
                    instance.run.name
                ))
            })?;
        let mut process = config["process"].clone();
        process["args"] = serde_json::json!(command);
        process["terminal"] = serde_json::json!(tty);
        if tty && let Some(variables) = process["env"].as_array_mut() {
            // As containerd does; what the container itself says goes before it.
            variables.insert(0, serde_json::json!("TERM=xterm"));
        }
        let file = format!("exec-{}.json", uuid::Uuid::new_v4());
        let request = Self {
            process: instance.directory.join(file),
        };
        write_private(&request.process, &process)?;
        Ok(request)
    }

    fn console(&self) -> PathBuf {
        self.process.with_extension("console")
    }

    /// Why the command did not run, if the helper says so.
    pub(super) fn error(&self) -> Option<String> {
        fs::read_to_string(helper::error_file(&self.process)).ok()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let console = self.console();
        for file in [&self.process, &helper::error_file(&self.process), &console] {
            let _ = fs::remove_file(file);
        }
    }
}

impl RealRuntime {
    pub(super) async fn open_command(
        &self,
        pod_uid: &str,
        container: &str,
        wanted: OpenCommand,
    ) -> Result<RunningCommand, RuntimeError> {
        let instance = self.newest(pod_uid, container);
        let instance = instance.filter(|instance| instance.state.is_running());
        let instance =
            instance.ok_or_else(|| failed(format!("container not found (\"{container}\")")))?;
        let request = Request::write(&instance, &wanted.command, wanted.tty)?;
        if wanted.tty {
            self.open_terminal(&instance.directory, request, wanted.stdin)
                .await
        } else {
            self.open_pipes(&instance.directory, request, wanted.stdin)
        }
    }

    /// The helper that runs the command, for at most so many milliseconds; without a limit, until nobody reads the helper's output.
    pub(super) fn spawn_exec(
        &self,
        directory: &Path,
        request: &Request,
        limit: &str,
        stdin: Stdio,
        console: Option<&Path>,
    ) -> Result<Child, RuntimeError> {
        let mut command = Command::new(&self.helper);
        command
            .args([
                VERB.as_ref(),
                "exec".as_ref(),
                directory.as_os_str(),
                request.process.as_os_str(),
            ])
            .arg(limit);
        if let Some(console) = console {
            command.arg(console);
        }
        command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .spawn()
            .map_err(doing("start the command's helper"))
    }

    fn open_pipes(
        &self,
        directory: &Path,
        request: Request,
        stdin: bool,
    ) -> Result<RunningCommand, RuntimeError> {
        let input = if stdin { Stdio::piped() } else { Stdio::null() };
        let mut child = self.spawn_exec(directory, &request, NO_LIMIT, input, None)?;
        let lost = || failed("the command's helper has no output");
        let stdout = child.stdout.take().ok_or_else(lost)?;
        let stderr = child.stderr.take().ok_or_else(lost)?;
        let stdin = child.stdin.take();
        Ok(RunningCommand {
            stdin: stdin.map(|stdin| Box::new(stdin) as Box<dyn AsyncWrite + Send + Unpin>),
            stdout: Box::new(stdout),
            stderr: Some(Box::new(stderr)),
            resize: None,
            end: Box::pin(end(child, request)),
        })
    }

    async fn open_terminal(
        &self,
        directory: &Path,
        request: Request,
        stdin: bool,
    ) -> Result<RunningCommand, RuntimeError> {
        let console = request.console();
        // A socket's name is short: the directory is entered through its descriptor.
        let held = fs::File::open(directory).map_err(doing("open the container's directory"))?;
        let name = console.file_name().unwrap_or_default();
        let short = PathBuf::from(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&held)
        ))
        .join(name);
        let listener = UnixListener::bind(short).map_err(doing("listen for the terminal"))?;
        let mut child =
            self.spawn_exec(directory, &request, NO_LIMIT, Stdio::null(), Some(&console))?;
        let mut receiving = std::pin::pin!(timeout(START_LIMIT, receive_terminal(&listener)));
        let received = tokio::select! {
            biased;
            received = &mut receiving => received,
            _ = child.wait() => match request.error() {
                Some(reason) => return Ok(ended(reason)),
                // A short command may be over before its terminal was taken, which then lies in the socket.
                None => match timeout(HANDOVER_LIMIT, receiving).await {
                    Ok(received) => received,
                    Err(_) => return Ok(ended("its helper ended".to_owned())),
                },
            },
        };
        let master = received
            .map_err(|_| failed("the command did not open its terminal in time"))?
            .map_err(doing("receive the command's terminal"))?;
        let terminal = Terminal::new(master).map_err(doing("open the command's terminal"))?;
        let lifeline = child.stdout.take();
        let resized = terminal.clone();
        let writer =
            stdin.then(|| Box::new(terminal.clone()) as Box<dyn AsyncWrite + Send + Unpin>);
        Ok(RunningCommand {
            stdin: writer,
            stdout: Box::new(terminal),
            stderr: None,
            resize: Some(Box::new(move |columns, rows| resized.resize(columns, rows))),
            end: Box::pin(async move {
                let ended = end(child, request).await;
                drop(lifeline);
                ended
            }),
        })
    }

    /// Connects from within the pod's network namespace: a server on its loopback address is reached.
    pub(super) async fn dial_pod(
        &self,
        pod_uid: &str,
        port: u16,
    ) -> Result<TcpStream, RuntimeError> {
        let sandbox = self.sandbox(pod_uid);
        let sandbox = sandbox.ok_or_else(|| failed(format!("pod {pod_uid} has no sandbox")))?;
        let namespace = (!sandbox.host_network).then(|| self.layout.netns(pod_uid));
        dial_in(namespace, port)
            .await
            .map_err(doing(format!("connect to port {port} of the pod")))
    }
}

/// A command that was never run.
fn ended(reason: String) -> RunningCommand {
    RunningCommand {
        stdin: None,
        stdout: Box::new(tokio::io::empty()),
        stderr: None,
        resize: None,
        end: Box::pin(std::future::ready(Err(failed(reason)))),
    }
}

async fn end(mut child: Child, request: Request) -> Result<i32, RuntimeError> {
    let exit = child.wait().await;
    match request.error() {
        Some(reason) => Err(failed(reason)),
        None => Ok(exit
            .map_err(doing("wait for the command's helper"))?
            .code()
            .unwrap_or(UNKNOWN_EXIT)),
    }
}

/// Connects in a thread of its own, which ends with it: a thread that has entered a namespace serves nobody else.
async fn dial_in(namespace: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let (sender, connected) = oneshot::channel();
    let dial = move || -> io::Result<std::net::TcpStream> {
        if let Some(path) = namespace {
            let namespace = fs::File::open(path)?;
            let network = Some(LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), network)?;
        }
        let connect =
            |address: SocketAddr| std::net::TcpStream::connect_timeout(&address, DIAL_LIMIT);
        let first = connect((Ipv4Addr::LOCALHOST, port).into());
        // As `localhost` would be tried.
        first.or_else(|error| connect((Ipv6Addr::LOCALHOST, port).into()).map_err(|_| error))
    };
    std::thread::Builder::new()
        .name("dial".to_owned())
        .spawn(move || drop(sender.send(dial())))?;
    let connection = connected
        .await
        .map_err(|_| io::Error::other("the thread that connects died"))??;
    connection.set_nonblocking(true)?;
    connection.set_nodelay(true)?;
    TcpStream::from_std(connection)
}

/// The end of a pseudoterminal that libcontainer sends when the command has the other.
async fn receive_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    let (stream, _) = listener.accept().await?;
    stream
        .async_io(Interest::READABLE, || receive_descriptor(&stream))
        .await
}

/// The descriptor that comes with a message, which is there.
pub(super) fn receive_descriptor(stream: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other("no terminal came"))
}

/// The master of a pseudoterminal.
#[derive(Clone)]
struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&master, true)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for what might not own its descriptor; this does"
        )]
        let registered = AsyncFd::new(master)?;
        Ok(Self(Arc::new(registered)))
    }

    fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let _ = rustix::termios::tcsetwinsize(self.0.get_ref(), size);
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let unfilled = buffer.initialize_unfilled();
            let read = guard.try_io(|file| Ok(rustix::io::read(file.get_ref(), unfilled)?));
            match read {
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the other end any more.
                Ok(Err(error))
                    if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) =>
                {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(written) = guard.try_io(|file| Ok(rustix::io::write(file.get_ref(), bytes)?))
            {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_of_the_loopback_address_is_reached_and_a_closed_one_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (dialled, accepted) = tokio::join!(dial_in(None, port), listener.accept());
        let (mut near, (mut far, _)) = (dialled.unwrap(), accepted.unwrap());
        near.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        far.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        drop(listener);
        let refused = dial_in(None, port).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_terminal_is_read_written_resized_and_ends() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
        let slave = fs::File::options()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap())
            .unwrap();
        let mut terminal = Terminal::new(master).unwrap();
        terminal.resize(101, 33);
        let size = rustix::termios::tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (101, 33));
        terminal.write_all(b"hi\n").await.unwrap();
        // The terminal echoes.
        let mut echoed = [0; 4];
        terminal.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"hi\r\n");
        drop(slave);
        assert_eq!(terminal.read(&mut [0; 8]).await.unwrap(), 0);
    }
}

//! The agent's end of a client's stream: a connection of its own to the server, and a command, a log or a port behind it.
//!
//! Invariants: nothing is dialled before there is something to stream, so that a refusal is told on the tunnel; each direction holds one
//! piece, and whoever writes faster than the other side reads waits; when the connection breaks, or the task is dropped, the command
//! is killed and the port's connection closed.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::runtime::{ContainerState, LogQuery, OpenCommand, RunningCommand, Runtime};
use super::work::chain;
use crate::orchestrator::limits::{STREAM_LINGER_TIME, STREAM_PIECE_BYTES};
use crate::orchestrator::tunnel::{StreamEnd, TerminalSize, Wanted, channel};

/// When a command has ended, and its output has been silent for so long, what still holds it open is left alone.
const SILENCE: Duration = Duration::from_secs(1);

/// How long the server may take to read to the end, and to hang up.
const HANG_UP_WITHIN: Duration = STREAM_LINGER_TIME;

/// What a stream leads to, before anybody is connected to it.
pub(super) enum Opened {
    Command(RunningCommand),
    Attached(RunningCommand),
    Output(mpsc::Receiver<Vec<u8>>),
    Port(TcpStream),
}

/// Opens what is wanted.
pub(super) async fn open<R: Runtime>(runtime: &R, wanted: Wanted) -> Result<Opened, String> {
    match wanted {
        Wanted::Exec {
            pod_uid,
            container,
            command,
            stdin,
            tty,
        } => {
            require_running(runtime, &pod_uid, &container).await?;
            let command = OpenCommand {
                command,
                stdin,
                tty,
            };
            let running = runtime.open(&pod_uid, &container, command).await;
            running.map(Opened::Command).map_err(|error| chain(&error))
        }
        Wanted::Attach {
            pod_uid,
            container,
            stdin,
        } => {
            require_running(runtime, &pod_uid, &container).await?;
            let attached = runtime.attach(&pod_uid, &container, stdin).await;
            if let Some(attached) = attached.map_err(|error| chain(&error))? {
                return Ok(Opened::Attached(attached));
            }
            let from_now_on = LogQuery {
                follow: true,
                tail_lines: Some(0),
                since: None,
                limit_bytes: None,
                previous: false,
                timestamps: false,
            };
            let output = runtime.logs(&pod_uid, &container, from_now_on).await;
            output.map(Opened::Output).map_err(|error| chain(&error))
        }
        Wanted::Forward { pod_uid, port } => {
            let connection = runtime.dial(&pod_uid, port).await;
            connection.map(Opened::Port).map_err(|error| chain(&error))
        }
    }
}

/// The words of the kubelet (pkg/kubelet/kubelet_pods.go: `GetExec`, `GetAttach`).
async fn require_running<R: Runtime>(
    runtime: &R,
    pod_uid: &str,
    container: &str,
) -> Result<(), String> {
    let sandboxes = runtime.list().await.map_err(|error| chain(&error))?;
    let runs = sandboxes
        .iter()
        .filter(|sandbox| sandbox.pod_uid == pod_uid)
        .filter_map(|sandbox| sandbox.containers.get(container))
        .any(|container| matches!(container.state, ContainerState::Running { .. }));
    runs.then_some(())
        .ok_or_else(|| format!("container not found (\"{container}\")"))
}

/// Streams until one side has ended.
pub(super) async fn serve<S>(socket: WebSocketStream<S>, opened: Opened)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (sink, mut messages) = socket.split();
    let sink = Out(Mutex::new(sink));
    let end = match opened {
        Opened::Command(command) => serve_command(&sink, &mut messages, command).await,
        // How the container ended is in its pod's status.
        Opened::Attached(container) => {
            let end = serve_command(&sink, &mut messages, container).await;
            end.map(|end| StreamEnd {
                exit_code: None,
                ..end
            })
        }
        Opened::Output(output) => serve_output(&sink, &mut messages, output).await,
        Opened::Port(connection) => serve_port(&sink, &mut messages, connection).await,
    };
    if let Some(end) = end {
        let end = serde_json::to_vec(&end).expect("two optional values are JSON");
        let _ = sink.send(channel::END, &end).await;
        let _ = sink.0.lock().await.close().await;
        // Input that nobody has read would make the kernel reset the connection, and drop what is not sent yet: until the server,
        // which then has read the end, hangs up.
        let rest = async { while let Some(Ok(_)) = messages.next().await {} };
        drop(timeout(HANG_UP_WITHIN, rest).await);
    }
}

/// The connection to the server, for several writers.
struct Out<S>(Mutex<SplitSink<WebSocketStream<S>, Message>>);

impl<S: AsyncRead + AsyncWrite + Unpin> Out<S> {
    async fn send(&self, channel: u8, bytes: &[u8]) -> Result<(), ()> {
        let message = channel::message(channel, bytes);
        let mut sink = self.0.lock().await;
        sink.send(Message::Binary(message)).await.map_err(drop)
    }

    /// Copies to the end; from `ended` on no longer than something comes.
    async fn copy(
        &self,
        channel: u8,
        mut from: impl AsyncRead + Unpin,
        ended: &CancellationToken,
    ) -> Result<(), ()> {
        let mut buffer = vec![0; STREAM_PIECE_BYTES];
        loop {
            let silent = async {
                ended.cancelled().await;
                sleep(SILENCE).await;
            };
            let read = tokio::select! {
                biased;
                read = from.read(&mut buffer) => read,
                () = silent => return Ok(()),
            };
            match read {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => self.send(channel, &buffer[..count]).await?,
            }
        }
    }
}

/// What the client sends.
enum Said {
    Bytes(Bytes),
    Closed,
    Size(TerminalSize),
}

/// The next thing that the client says; `None` when it is gone.
async fn hear<S>(messages: &mut SplitStream<WebSocketStream<S>>) -> Option<Said>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let bytes = match messages.next().await?.ok()? {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return None,
            _ => continue,
        };
        match bytes.first() {
            Some(&channel::STDIN) => return Some(Said::Bytes(bytes.slice(1..))),
            Some(&channel::CLOSE) if bytes.get(1) == Some(&channel::STDIN) => {
                return Some(Said::Closed);
            }
            Some(&channel::RESIZE) => {
                if let Ok(size) = serde_json::from_slice(&bytes[1..]) {
                    return Some(Said::Size(size));
                }
            }
            _ => {}
        }
    }
}

/// `None` when the client is gone.
async fn serve_command<S>(
    out: &Out<S>,
    messages: &mut SplitStream<WebSocketStream<S>>,
    command: RunningCommand,
) -> Option<StreamEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let RunningCommand {
        mut stdin,
        stdout,
        stderr,
        resize,
        end,
    } = command;
    let ended = CancellationToken::new();
    let output = async {
        let errors = async {
            match stderr {
                Some(stderr) => out.copy(channel::STDERR, stderr, &ended).await,
                None => Ok(()),
            }
        };
        let end = async {
            let end = end.await;
            ended.cancel();
            end
        };
        let (stdout, stderr, end) =
            tokio::join!(out.copy(channel::STDOUT, stdout, &ended), errors, end);
        stdout.and(stderr).ok()?;
        Some(match end {
            Ok(code) => StreamEnd {
                exit_code: Some(code),
                error: None,
            },
            Err(error) => StreamEnd {
                exit_code: None,
                error: Some(chain(&error)),
            },
        })
    };
    let input = async {
        while let Some(said) = hear(messages).await {
            match said {
                Said::Bytes(bytes) => {
                    let written = match &mut stdin {
                        Some(stdin) => write(stdin, &bytes).await,
                        None => Ok(()),
                    };
                    // A command that reads no more ends by itself, or not: its client is not told.
                    if written.is_err() {
                        stdin = None;
                    }
                }
                Said::Closed => stdin = None,
                Said::Size(size) => {
                    if let Some(resize) = &resize {
                        resize(size.width, size.height);
                    }
                }
            }
        }
    };
    tokio::select! { end = output => end, () = input => None }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

async fn serve_output<S>(
    out: &Out<S>,
    messages: &mut SplitStream<WebSocketStream<S>>,
    mut output: mpsc::Receiver<Vec<u8>>,
) -> Option<StreamEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let output = async {
        while let Some(bytes) = output.recv().await {
            for piece in bytes.chunks(STREAM_PIECE_BYTES) {
                out.send(channel::STDOUT, piece).await.ok()?;
            }
        }
        Some(StreamEnd::default())
    };
    let gone = async { while hear(messages).await.is_some() {} };
    tokio::select! { end = output => end, () = gone => None }
}

async fn serve_port<S>(
    out: &Out<S>,
    messages: &mut SplitStream<WebSocketStream<S>>,
    connection: TcpStream,
) -> Option<StreamEnd>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_pod, mut to_pod) = connection.into_split();
    let (answered, asked) = (CancellationToken::new(), CancellationToken::new());
    let back = async {
        let mut buffer = vec![0; STREAM_PIECE_BYTES];
        loop {
            match from_pod.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => out.send(channel::STDOUT, &buffer[..count]).await.ok()?,
                Err(error) => {
                    return Some(StreamEnd {
                        error: Some(format!("read from the pod: {error}")),
                        exit_code: None,
                    });
                }
            }
        }
        out.send(channel::CLOSE, &[channel::STDOUT]).await.ok()?;
        answered.cancel();
        asked.cancelled().await;
        Some(StreamEnd::default())
    };
    let forth = async {
        while let Some(said) = hear(messages).await {
            let written = match said {
                Said::Bytes(bytes) => write(&mut to_pod, &bytes).await,
                Said::Closed => {
                    let closed = to_pod.shutdown().await;
                    asked.cancel();
                    closed
                }
                Said::Size(_) => Ok(()),
            };
            // The pod does not read any more: what it still says is handed on.
            if written.is_err() {
                asked.cancel();
                answered.cancelled().await;
                return Some(StreamEnd::default());
            }
        }
        None
    };
    tokio::select! { end = back => end, end = forth => end }
}

#[cfg(test)]
mod tests;

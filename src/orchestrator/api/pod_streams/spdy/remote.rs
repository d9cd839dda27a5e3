//! A command's streams as streams of SPDY: the client opens one for each, named by the header `streamType`.
//!
//! Source: `k8s.io/kubelet/pkg/cri/streaming/remotecommand` (which streams there are, version 4's error stream and half-closed input).

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::options::Options;
use super::super::remote::{Ends, Input, Output};
use super::session::{Session, Stream, Writer};
use crate::orchestrator::limits::{STREAM_CREATION_TIME, STREAM_LINGER_TIME};

/// Longest text of a terminal's size that is waited for.
const SIZE_BYTES: usize = 256;

/// Serves a client until all is said, or it is gone.
pub(in super::super) async fn serve<C>(connection: C, options: &Options, ends: Ends)
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, driver) = Session::new(connection);
    let mut driver = std::pin::pin!(driver);
    tokio::select! {
        () = &mut driver => return,
        () = converse(session, options, ends) => {}
    }
    let _ = timeout(STREAM_LINGER_TIME, driver).await;
}

/// The streams of a client, by what they are for.
#[derive(Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    fn are_complete(&self, options: &Options) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !options.stdin)
            && (self.stdout.is_some() || !options.stdout)
            && (self.stderr.is_some() || !options.stderr)
            && (self.resize.is_some() || !options.tty)
    }

    async fn of(session: &mut Session, options: &Options) -> Option<Self> {
        let mut streams = Self::default();
        while !streams.are_complete(options) {
            let stream = session.next().await?;
            let kind = stream.headers.get("streamtype").map(String::as_str);
            let place = match kind {
                Some("error") => &mut streams.error,
                Some("stdin") => &mut streams.stdin,
                Some("stdout") => &mut streams.stdout,
                Some("stderr") => &mut streams.stderr,
                Some("resize") => &mut streams.resize,
                // Nothing is said on it.
                _ => continue,
            };
            *place = Some(stream);
        }
        Some(streams)
    }
}

async fn converse(mut session: Session, options: &Options, ends: Ends) {
    let opening = timeout(STREAM_CREATION_TIME, Streams::of(&mut session, options));
    let Ok(Some(streams)) = opening.await else {
        return tracing::debug!("a client did not open the streams it asked for");
    };
    let Ends { inputs, outputs } = ends;
    let Streams {
        error,
        stdin,
        stdout,
        stderr,
        resize,
    } = streams;
    let (stdin, stdin_out) = halves(stdin);
    let (resize, resize_out) = halves(resize);
    let writers = Writers {
        error: halves(error).1,
        stdout: halves(stdout).1,
        stderr: halves(stderr).1,
        others: [stdin_out, resize_out],
    };
    let input = async {
        let input = read_input(stdin, inputs.clone());
        tokio::join!(input, read_sizes(resize, inputs.clone()));
        // The client may have nothing more to say, and still listen.
        std::future::pending::<()>().await;
    };
    tokio::select! { () = writers.tell(outputs) => {}, () = input => {} }
    session.go_away().await;
}

fn halves(stream: Option<Stream>) -> (Option<mpsc::Receiver<Bytes>>, Option<Writer>) {
    stream.map(|stream| (stream.inbox, stream.out)).unzip()
}

async fn read_input(stream: Option<mpsc::Receiver<Bytes>>, inputs: mpsc::Sender<Input>) {
    let Some(mut stream) = stream else { return };
    while let Some(bytes) = stream.recv().await {
        // When the command has ended, what still comes is passed over.
        let _ = inputs.send(Input::Stdin(bytes)).await;
    }
    let _ = inputs.send(Input::CloseStdin).await;
}

/// Sizes are JSON objects one after another, however they are cut into frames.
async fn read_sizes(stream: Option<mpsc::Receiver<Bytes>>, inputs: mpsc::Sender<Input>) {
    let Some(mut stream) = stream else { return };
    let mut text = Vec::new();
    while let Some(bytes) = stream.recv().await {
        text.extend_from_slice(&bytes);
        while let Some(end) = text.iter().position(|byte| *byte == b'}') {
            let one: Vec<u8> = text.drain(..=end).collect();
            if let Ok(size) = serde_json::from_slice(&one) {
                let _ = inputs.send(Input::Size(size)).await;
            }
        }
        if text.len() > SIZE_BYTES {
            text.clear();
        }
    }
}

struct Writers {
    error: Option<Writer>,
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    others: [Option<Writer>; 2],
}

impl Writers {
    /// Until the end has been told.
    async fn tell(self, mut outputs: mpsc::Receiver<Output>) {
        while let Some(output) = outputs.recv().await {
            match (output, &self.stdout, &self.stderr, &self.error) {
                (Output::Stdout(bytes), Some(stream), _, _)
                | (Output::Stderr(bytes), _, Some(stream), _) => {
                    let _ = stream.send(bytes).await;
                }
                (Output::End(status), _, _, Some(stream)) => {
                    let _ = stream.send(Bytes::from(status.to_string())).await;
                    break;
                }
                _ => {}
            }
        }
        let [stdin, resize] = self.others;
        for stream in [self.stdout, self.stderr, self.error, stdin, resize]
            .into_iter()
            .flatten()
        {
            stream.finish().await;
        }
    }
}

//! The agent's end of `attach`: a connection to the helper of a container that has a standard input or a terminal.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::super::runtime::{RunningCommand, RuntimeError};
use super::attach::{self, HEADER_BYTES, INPUT, OUTPUT, STDERR, STDOUT};
use super::{RealRuntime, doing, failed};
use crate::orchestrator::limits::STREAM_PIECE_BYTES;

/// A longer piece does not come from a helper.
const PIECE_BYTES_MAX: usize = 1 << 20;

impl RealRuntime {
    /// Attaches to a container. `None` for one that has neither a standard input nor a terminal: its log has all it says.
    pub(super) async fn attach_to(
        &self,
        pod_uid: &str,
        container: &str,
        stdin: bool,
    ) -> Result<Option<RunningCommand>, RuntimeError> {
        let instance = self.newest(pod_uid, container);
        let instance = instance.filter(|instance| instance.state.is_running());
        let instance =
            instance.ok_or_else(|| failed(format!("container not found (\"{container}\")")))?;
        let run = &instance.run;
        if !(run.stdin || run.tty) {
            return Ok(None);
        }
        let directory = instance.directory;
        let stream = {
            let (_held, path) = attach::short(&directory, attach::SOCKET)
                .map_err(doing("open the container's directory"))?;
            UnixStream::connect(path).await
        };
        let mut stream = stream.map_err(doing("attach to the container"))?;
        let writes = stdin && run.stdin;
        stream
            .write_all(&[if writes { INPUT } else { OUTPUT }])
            .await
            .map_err(doing("attach to the container"))?;
        let (from, to) = stream.into_split();
        let (stdout, out) = duplex(STREAM_PIECE_BYTES);
        let (stderr, errors) = if run.tty {
            (None, None)
        } else {
            let (stderr, errors) = duplex(STREAM_PIECE_BYTES);
            (Some(stderr), Some(errors))
        };
        let dealing = AbortOnDropHandle::new(tokio::spawn(deal(from, out, errors)));
        let (input, kept) = if writes {
            (Some(to), None)
        } else {
            (None, Some(to))
        };
        let resize = run.tty.then(|| {
            let resize = move |columns, rows| {
                if let Err(error) = attach::resize(&directory, columns, rows) {
                    tracing::debug!(%error, "set the size of a container's terminal");
                }
            };
            Box::new(resize) as Box<dyn Fn(u16, u16) + Send + Sync>
        });
        Ok(Some(RunningCommand {
            stdin: input.map(|input| Box::new(input) as Box<dyn AsyncWrite + Send + Unpin>),
            stdout: Box::new(stdout),
            stderr: stderr.map(|stderr| Box::new(stderr) as Box<dyn AsyncRead + Send + Unpin>),
            resize,
            end: Box::pin(async move {
                let dealt = dealing.await;
                drop(kept);
                match dealt {
                    Ok(Ok(())) => Ok(0),
                    Ok(Err(error)) => Err(failed(format!("read the container's output: {error}"))),
                    Err(error) => Err(failed(format!("read the container's output: {error}"))),
                }
            }),
        }))
    }
}

/// Deals the frames of a helper out to their streams, until it hangs up.
async fn deal(
    mut from: impl AsyncRead + Unpin,
    mut stdout: DuplexStream,
    mut stderr: Option<DuplexStream>,
) -> io::Result<()> {
    let mut piece = Vec::new();
    loop {
        let mut header = [0; HEADER_BYTES];
        match from.read_exact(&mut header).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let [stream, length @ ..] = header;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > PIECE_BYTES_MAX {
            return Err(io::Error::other(format!("a piece of {length} bytes")));
        }
        piece.resize(length, 0);
        from.read_exact(&mut piece).await?;
        match (stream, &mut stderr) {
            (STDOUT, _) => stdout.write_all(&piece).await?,
            (STDERR, Some(stderr)) => stderr.write_all(&piece).await?,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_dealt_out_to_their_streams() {
        let (mut stdout, out) = duplex(64);
        let (mut stderr, errors) = duplex(64);
        let frames = b"\x01\0\0\0\x02hi\x02\0\0\0\x03bad\x01\0\0\0\x01!";
        deal(&frames[..], out, Some(errors)).await.expect("right");
        let (mut said, mut complained) = (String::new(), String::new());
        stdout.read_to_string(&mut said).await.expect("text");
        stderr.read_to_string(&mut complained).await.expect("text");
        assert_eq!((said.as_str(), complained.as_str()), ("hi!", "bad"));
        let (_stdout, out) = duplex(64);
        let lie = deal(&b"\x01\xff\xff\xff\xff"[..], out, None).await;
        assert!(lie.is_err());
    }
}

//! A node's port: the socket that its NIC connects to.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::switch::Switch;

/// Longest frame taken from a NIC. A longer length is a broken stream and ends the connection.
const MAX_FRAME_BYTES: usize = 65_550;
/// Frames written with one system call.
const BATCH_FRAMES: usize = 64;
/// Pause after a failed accept.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Binds a socket file, in place of one that an earlier fabric left.
pub(super) async fn bind(path: &Path) -> io::Result<UnixListener> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Serves a port until cancelled: the newest connection is the machine's, older ones are dropped.
pub(super) async fn run(
    switch: Arc<Switch>,
    port: usize,
    listener: UnixListener,
    cancel: CancellationToken,
) {
    let mut connection: BoxFuture<'_, ()> = Box::pin(std::future::pending());
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            stream = accept(&listener, port) => connection = Box::pin(serve(&switch, port, stream)),
            () = &mut connection => {
                switch.detach(port);
                connection = Box::pin(std::future::pending());
            }
        }
    }
    drop(connection);
    switch.detach(port);
}

async fn accept(listener: &UnixListener, port: usize) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                // Out of file descriptors, most likely. The connection that stands is not touched.
                tracing::error!(port, %error, "accept on a fabric socket");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Carries frames both ways until the connection ends.
async fn serve(switch: &Switch, port: usize, stream: UnixStream) {
    let frames = switch.attach(port);
    let (from_nic, to_nic) = stream.into_split();
    let ended = tokio::select! {
        ended = receive(switch, port, from_nic) => ended,
        ended = send(frames, to_nic) => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(port, %error, "fabric connection ended");
    }
}

async fn receive(switch: &Switch, port: usize, from_nic: OwnedReadHalf) -> io::Result<()> {
    let codec = LengthDelimitedCodec::builder()
        .length_field_length(4)
        .max_frame_length(MAX_FRAME_BYTES)
        .new_codec();
    let mut frames = FramedRead::with_capacity(from_nic, codec, 64 << 10);
    while let Some(frame) = frames.next().await {
        switch.forward(port, &frame?.freeze());
    }
    Ok(())
}

async fn send(mut frames: mpsc::Receiver<Bytes>, mut to_nic: OwnedWriteHalf) -> io::Result<()> {
    let mut batch = Vec::with_capacity(BATCH_FRAMES);
    let mut out = BytesMut::new();
    while frames.recv_many(&mut batch, BATCH_FRAMES).await > 0 {
        for frame in batch.drain(..) {
            out.put_u32(u32::try_from(frame.len()).expect("frames are at most MAX_FRAME_BYTES"));
            out.put_slice(&frame);
        }
        to_nic.write_all_buf(&mut out).await?;
    }
    Ok(())
}

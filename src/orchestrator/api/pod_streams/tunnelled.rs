//! The bytes of a SPDY connection in the messages of a WebSocket, as newer clients send them through proxies (KEP-4006).

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::super::limits::STREAM_PIECE_BYTES;

/// A connection whose bytes are the socket's, and what carries them: it ends with either side.
pub(super) fn connection(socket: WebSocket) -> (DuplexStream, impl Future<Output = ()>) {
    let (near, far) = tokio::io::duplex(STREAM_PIECE_BYTES);
    let carrying = async move {
        let (sink, messages) = socket.split();
        let (read, write) = tokio::io::split(far);
        tokio::select! { () = to_client(read, sink) => {}, () = from_client(messages, write) => {} }
    };
    (near, carrying)
}

async fn to_client(mut from: impl AsyncRead + Unpin, mut sink: SplitSink<WebSocket, Message>) {
    let mut buffer = vec![0; STREAM_PIECE_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let message = Message::Binary(Bytes::copy_from_slice(&buffer[..count]));
        if sink.send(message).await.is_err() {
            return;
        }
    }
    let _ = sink.close().await;
}

async fn from_client(mut messages: SplitStream<WebSocket>, mut to: impl AsyncWrite + Unpin) {
    while let Some(Ok(message)) = messages.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            _ => continue,
        };
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

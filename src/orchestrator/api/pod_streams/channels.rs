//! A command's streams in the messages of a WebSocket: one byte of the channel, then bytes.
//!
//! Source: `k8s.io/apimachinery/pkg/util/remotecommand` (the protocols' names and numbers), KEP-4006 (version 5).

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, timeout};

use super::super::limits::{STREAM_LINGER_TIME, STREAM_PIECE_BYTES, STREAM_PING_TIME};
use super::remote::{Ends, Input, Output};
use crate::orchestrator::tunnel::channel;

/// Serves a client until all is said, or it is gone.
pub(super) async fn serve(socket: WebSocket, half_close: bool, ends: Ends) {
    let (sink, messages) = socket.split();
    let Ends { inputs, outputs } = ends;
    let mut hearing = std::pin::pin!(hear(messages, half_close, inputs));
    tokio::select! {
        () = tell(sink, outputs) => {}
        () = &mut hearing => return,
    }
    let _ = timeout(STREAM_LINGER_TIME, hearing).await;
}

/// Ends when the client is gone.
async fn hear(mut messages: SplitStream<WebSocket>, half_close: bool, inputs: mpsc::Sender<Input>) {
    while let Some(Ok(message)) = messages.next().await {
        let bytes = match message {
            // Python's client sends text as text.
            Message::Binary(_) | Message::Text(_) => message.into_data(),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        for input in read(&bytes, half_close) {
            // When the command has ended, what still comes is passed over.
            let _ = inputs.send(input).await;
        }
    }
}

/// What a message says. One that says nothing, or comes on a channel of the server's, is passed over.
fn read(bytes: &Bytes, half_close: bool) -> Vec<Input> {
    match bytes.first() {
        Some(&channel::STDIN) => {
            let mut rest = bytes.slice(1..);
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                pieces.push(Input::Stdin(
                    rest.split_to(rest.len().min(STREAM_PIECE_BYTES)),
                ));
            }
            pieces
        }
        Some(&channel::RESIZE) => serde_json::from_slice(&bytes[1..])
            .map(Input::Size)
            .into_iter()
            .collect(),
        Some(&channel::CLOSE) if half_close && bytes.get(1) == Some(&channel::STDIN) => {
            vec![Input::CloseStdin]
        }
        _ => Vec::new(),
    }
}

/// Ends when everything has been told, or nothing can be.
async fn tell(mut sink: SplitSink<WebSocket, Message>, mut outputs: mpsc::Receiver<Output>) {
    let mut pings = interval_at(Instant::now() + STREAM_PING_TIME, STREAM_PING_TIME);
    loop {
        let (message, last) = tokio::select! {
            output = outputs.recv() => match output {
                Some(Output::Stdout(bytes)) => (on(channel::STDOUT, &bytes), false),
                Some(Output::Stderr(bytes)) => (on(channel::STDERR, &bytes), false),
                Some(Output::End(status)) => (on(channel::END, status.to_string().as_bytes()), true),
                None => return,
            },
            _ = pings.tick() => (Message::Ping(Bytes::new()), false),
        };
        if sink.send(message).await.is_err() {
            return;
        }
        if last {
            let frame = CloseFrame {
                code: close_code::NORMAL,
                reason: "".into(),
            };
            let _ = sink.send(Message::Close(Some(frame))).await;
            return;
        }
    }
}

fn on(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary(channel::message(channel, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::tunnel::TerminalSize;

    fn heard(bytes: &'static [u8]) -> Vec<Input> {
        read(&Bytes::from_static(bytes), true)
    }

    #[test]
    fn messages_are_read() {
        assert_eq!(heard(b"\0hi"), [Input::Stdin(Bytes::from_static(b"hi"))]);
        let size = TerminalSize {
            width: 80,
            height: 24,
        };
        assert_eq!(
            heard(b"\x04{\"Width\":80,\"Height\":24}\n"),
            [Input::Size(size)]
        );
        assert_eq!(heard(b"\xff\0"), [Input::CloseStdin]);
        assert!(read(&Bytes::from_static(b"\xff\0"), false).is_empty());
        for nothing in [&b""[..], b"\0", b"\x01x", b"\xff", b"\xff\x01", b"\x04{}"] {
            assert!(heard(nothing).is_empty(), "{nothing:?}");
        }
    }

    #[test]
    fn whatever_a_client_sends_is_taken_in_pieces_or_passed_over() {
        let seeds: &[&[u8]] = &[
            b"\0some input",
            b"\x04{\"Width\":80,\"Height\":24}",
            b"\xff\0",
        ];
        crate::model::spoiled::spoiled(seeds, 3_000, |bytes| {
            let bytes = Bytes::copy_from_slice(bytes);
            let total: usize = read(&bytes, true)
                .iter()
                .map(|input| match input {
                    Input::Stdin(piece) => {
                        assert!((1..=STREAM_PIECE_BYTES).contains(&piece.len()));
                        piece.len()
                    }
                    _ => 0,
                })
                .sum();
            assert!(total < bytes.len().max(1));
        });
    }
}

//! The node's side of a stream: the agent is asked on its tunnel, and dials back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::super::limits::STREAM_DIAL_TIME;
use super::super::places::Place;
use super::super::status::Status;
use super::super::tunnels::{Answer, Piece, Tunnels};
use crate::orchestrator::tunnel::{StreamEnd, ToNode, Wanted, channel};

type Connection = (WebSocket, Arc<Place>);

/// The streams for which a node is to dial back, by their request's number.
#[derive(Default)]
pub(in crate::orchestrator::api) struct Dialled(
    Mutex<BTreeMap<u64, (String, oneshot::Sender<Connection>)>>,
);

impl Dialled {
    fn expect(&self, node: &str, request: u64) -> oneshot::Receiver<Connection> {
        let (sender, connection) = oneshot::channel();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(request, (node.to_owned(), sender));
        connection
    }

    /// Who waits for this stream of this node: a stream is dialled once, and by its own node.
    pub(in crate::orchestrator::api) fn take(
        &self,
        node: &str,
        request: u64,
    ) -> Option<oneshot::Sender<Connection>> {
        let mut dialled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = dialled
            .get(&request)
            .is_some_and(|(expected, _)| expected == node);
        own.then(|| dialled.remove(&request))
            .flatten()
            .map(|(_, sender)| sender)
    }
}

/// Forgets a stream that nobody waits for any more.
struct Expected<'a> {
    dialled: &'a Dialled,
    request: u64,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.dialled
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.request);
    }
}

/// A connection to what runs on the node; dropping it ends that.
pub(in crate::orchestrator::api) struct NodeStream {
    sink: SplitSink<WebSocket, Message>,
    messages: SplitStream<WebSocket>,
    /// Cancels the request when dropped, also while the node does not read.
    request: Answer,
    /// Whether the node has told on the tunnel that it is over: what it said before may still come.
    told: bool,
    place: Arc<Place>,
}

impl Tunnels {
    /// Has a node open a stream. What it refuses is a bad request, in its words.
    pub(in crate::orchestrator::api) async fn open(
        &self,
        node: &str,
        wanted: Wanted,
    ) -> Result<NodeStream, Status> {
        let mut expected = None;
        let mut request = self.ask(node, |request| {
            let connection = self.dialled.expect(node, request);
            let dialled = &self.dialled;
            expected = Some((Expected { dialled, request }, connection));
            ToNode::Stream { request, wanted }
        })?;
        let (_expected, mut connection) =
            expected.ok_or_else(|| Status::internal("the request was not sent"))?;
        let mut told = false;
        let dialled = async {
            loop {
                tokio::select! {
                    biased;
                    connection = &mut connection => {
                        return connection.map_err(|_| {
                            Status::unavailable(format!("node `{node}` broke the stream off"))
                        });
                    }
                    piece = request.next(), if !told => match piece {
                        Some(Piece::Done { error: Some(error), .. }) => {
                            return Err(Status::bad_request(error));
                        }
                        // It is over so soon that the connection is on its way yet.
                        Some(Piece::Done { .. }) => told = true,
                        Some(Piece::Output { .. }) => {}
                        None => {
                            return Err(Status::unavailable(format!(
                                "the tunnel of node `{node}` broke"
                            )));
                        }
                    },
                }
            }
        };
        let (socket, place) = timeout(STREAM_DIAL_TIME, dialled).await.map_err(|_| {
            Status::unavailable(format!(
                "node `{node}` did not open the stream within {} s",
                STREAM_DIAL_TIME.as_secs()
            ))
        })??;
        let (sink, messages) = socket.split();
        Ok(NodeStream {
            sink,
            messages,
            request,
            told,
            place,
        })
    }
}

/// What the node says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Stdout(Bytes),
    Stderr(Bytes),
    /// Nothing more comes on standard output.
    Closed,
    /// The last.
    End(StreamEnd),
}

/// To the node.
pub(super) struct ToPod(SplitSink<WebSocket, Message>);

/// From the node.
pub(super) struct FromPod {
    messages: SplitStream<WebSocket>,
    /// Says when the tunnel breaks; cancelled when dropped.
    request: Answer,
    told: bool,
    _place: Arc<Place>,
}

impl NodeStream {
    pub(super) fn split(self) -> (ToPod, FromPod) {
        let from = FromPod {
            messages: self.messages,
            request: self.request,
            told: self.told,
            _place: self.place,
        };
        (ToPod(self.sink), from)
    }
}

impl ToPod {
    /// `false` when the connection is gone.
    pub(super) async fn send(&mut self, channel: u8, bytes: &[u8]) -> bool {
        let message = channel::message(channel, bytes);
        self.0.send(Message::Binary(message)).await.is_ok()
    }

    /// Nothing more comes from the client.
    pub(super) async fn close(&mut self) -> bool {
        self.send(channel::CLOSE, &[channel::STDIN]).await
    }
}

impl FromPod {
    /// The next thing. When the connection breaks, or the tunnel, as a node's does that has lost its power, an end that says so.
    pub(super) async fn next(&mut self) -> Said {
        loop {
            let message = tokio::select! {
                biased;
                message = self.messages.next() => message,
                piece = self.request.next(), if !self.told => match piece {
                    Some(piece) => {
                        self.told = matches!(piece, Piece::Done { .. });
                        continue;
                    }
                    None => return broken("the node's tunnel broke before the end"),
                },
            };
            let bytes = match message {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Text(_))) => continue,
                Some(Ok(Message::Close(_)) | Err(_)) | None => {
                    return broken("the node's connection broke before the end");
                }
            };
            if let Some(said) = read(&bytes) {
                return said;
            }
        }
    }
}

fn broken(why: &str) -> Said {
    Said::End(StreamEnd {
        error: Some(why.to_owned()),
        exit_code: None,
    })
}

/// What a message says; one that says nothing is passed over.
fn read(bytes: &Bytes) -> Option<Said> {
    match *bytes.first()? {
        channel::STDOUT => Some(Said::Stdout(bytes.slice(1..))),
        channel::STDERR => Some(Said::Stderr(bytes.slice(1..))),
        channel::CLOSE if bytes.get(1) == Some(&channel::STDOUT) => Some(Said::Closed),
        channel::END => serde_json::from_slice(&bytes[1..]).ok().map(Said::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_taken_once_and_by_its_own_node() {
        let dialled = Dialled::default();
        let _waiting = dialled.expect("w1", 7);
        assert!(dialled.take("w2", 7).is_none());
        assert!(dialled.take("w1", 8).is_none());
        assert!(dialled.take("w1", 7).is_some());
        assert!(dialled.take("w1", 7).is_none());
        let _waiting = dialled.expect("w1", 9);
        drop(Expected {
            dialled: &dialled,
            request: 9,
        });
        assert!(dialled.take("w1", 9).is_none());
    }

    #[test]
    fn whatever_a_node_streams_is_taken_or_passed_over() {
        let seeds: &[&[u8]] = &[b"\x01out", b"\x02err", b"\xff\x01", b"\x03{\"exitCode\":3}"];
        crate::model::spoiled::spoiled(seeds, 2_000, |bytes| {
            let bytes = Bytes::copy_from_slice(bytes);
            if let Some(Said::Stdout(out) | Said::Stderr(out)) = read(&bytes) {
                assert_eq!(out.len() + 1, bytes.len());
            }
        });
        let end = read(&Bytes::from_static(b"\x03{\"exitCode\":3}"));
        let expected = StreamEnd {
            exit_code: Some(3),
            error: None,
        };
        assert_eq!(end, Some(Said::End(expected)));
    }
}

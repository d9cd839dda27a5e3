//! `portforward`: its request, and its oldest form, in which a WebSocket has two channels for each port.
//!
//! Channel 2i carries the bytes of port i, channel 2i+1 its errors; each begins with the port's number in two bytes, the low one first
//! (k8s.io/kubelet/pkg/cri/streaming/portforward/websocket.go).

use std::sync::Arc;

use axum::extract::ws::{Message, WebSocket};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::request::Parts;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, timeout};

use super::super::limits::{
    FORWARDED_PORTS, STREAM_LINGER_TIME, STREAM_PIECE_BYTES, STREAM_PIECES, STREAM_PING_TIME,
};
use super::super::logs;
use super::super::status::Status;
use super::forward::{self, Pod, Sink};
use super::switch::{Client, FORWARD_TUNNELLED, Switch};
use super::{Asked, Session, options, tunnelled};
use crate::orchestrator::tunnel::channel;

pub(super) async fn answer(
    session: Session,
    asked: &Asked,
    mut parts: Parts,
) -> Result<Response, Status> {
    let (node, uid) = logs::host(&session.server, Some(&asked.namespace), &asked.pod)?;
    let switch = Switch::to_forwarding(&mut parts).await?;
    let pod = Pod {
        server: session.server.clone(),
        node,
        uid,
        name: asked.pod.clone(),
    };
    let channels =
        matches!(switch, Switch::WebSocket(_, protocol) if protocol != FORWARD_TUNNELLED);
    let ports = if channels {
        options::ports(&parts.uri)?
    } else {
        Vec::new()
    };
    if ports.len() > FORWARDED_PORTS {
        return Err(Status::bad_request(format!(
            "{} ports are more than {FORWARDED_PORTS}",
            ports.len()
        )));
    }
    Ok(switch.run(session, move |client| serve(client, pod, ports)))
}

async fn serve(client: Client, pod: Pod, ports: Vec<u16>) {
    match client {
        Client::Spdy(connection) => forward::serve(connection, pod).await,
        Client::WebSocket(socket, FORWARD_TUNNELLED) => {
            let (connection, carrying) = tunnelled::connection(*socket);
            tokio::select! { () = carrying => {}, () = forward::serve(connection, pod) => {} }
        }
        Client::WebSocket(socket, _) => serve_channels(*socket, pod, &ports).await,
    }
}

type SharedSink = Arc<Mutex<SplitSink<WebSocket, Message>>>;

/// One channel of the client's.
struct Channel {
    number: u8,
    sink: SharedSink,
}

impl Sink for Channel {
    async fn send(&self, bytes: Bytes) -> bool {
        let message = channel::message(self.number, &bytes);
        let mut sink = self.sink.lock().await;
        sink.send(Message::Binary(message)).await.is_ok()
    }
}

/// Until all connections are over, or the client is gone.
async fn serve_channels(socket: WebSocket, pod: Pod, ports: &[u16]) {
    let (sink, messages) = socket.split();
    let sink: SharedSink = Arc::new(Mutex::new(sink));
    let pod = Arc::new(pod);
    let mut connections = JoinSet::new();
    let mut inboxes = Vec::new();
    for (number, &port) in (0u8..).step_by(2).zip(ports) {
        let (sender, inbox) = mpsc::channel(STREAM_PIECES);
        inboxes.push(sender);
        let channel = |number| Channel {
            number,
            sink: sink.clone(),
        };
        let (data, error) = (channel(number), channel(number + 1));
        let panics = pod.server.panics.clone();
        let one = forward_one(pod.clone(), port, inbox, (data, error));
        connections.spawn(async move { drop(panics.caught(one).await) });
    }
    let over = async {
        let mut pings = interval_at(Instant::now() + STREAM_PING_TIME, STREAM_PING_TIME);
        loop {
            tokio::select! {
                ended = connections.join_next() => if ended.is_none() { return },
                _ = pings.tick() => {
                    if sink.lock().await.send(Message::Ping(Bytes::new())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let mut hearing = std::pin::pin!(hear(messages, inboxes));
    tokio::select! { () = over => {}, () = &mut hearing => return }
    let _ = sink.lock().await.send(Message::Close(None)).await;
    let _ = timeout(STREAM_LINGER_TIME, hearing).await;
}

async fn forward_one(
    pod: Arc<Pod>,
    port: u16,
    mut inbox: mpsc::Receiver<Bytes>,
    (data, error): (Channel, Channel),
) {
    let first = Bytes::copy_from_slice(&port.to_le_bytes());
    if !(data.send(first.clone()).await && error.send(first).await) {
        return;
    }
    if let Err(why) = pod.forward(port, &mut inbox, &data).await {
        error.send(Bytes::from(why)).await;
    }
}

/// Ends when the client is gone.
async fn hear(mut messages: SplitStream<WebSocket>, inboxes: Vec<mpsc::Sender<Bytes>>) {
    while let Some(Ok(message)) = messages.next().await {
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Close(_) => return,
            _ => continue,
        };
        if bytes.is_empty() {
            continue;
        }
        let number = usize::from(bytes.split_to(1)[0]);
        let inbox = number.is_multiple_of(2).then(|| inboxes.get(number / 2));
        if let Some(inbox) = inbox.flatten() {
            while !bytes.is_empty() {
                let piece = bytes.split_to(bytes.len().min(STREAM_PIECE_BYTES));
                // A connection that is over takes nothing more.
                let _ = inbox.send(piece).await;
            }
        }
    }
}

//! The nodes' tunnels: beats come in, requests for logs and commands go out, many at once on one WebSocket.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::barrier::Barrier;
use super::heartbeats::Statement;
use super::pod_streams::Dialled;
use super::registry::Registry;
use super::status::Status;
use super::{authorize, kinds};
use crate::orchestrator::tunnel::{FromNode, NEVER_MS, ToNode};

/// A tunnel that has been silent for so long is closed; the agent dials again.
const SILENCE: Duration = Duration::from_secs(10);
/// Requests waiting to be sent on a tunnel.
const OUTBOUND: usize = 64;
/// Pieces of output waiting for a slow reader; a reader slower than that loses its request, never the tunnel.
const OUTPUT: usize = 512;
/// Longest UID of a pod: one is 36 bytes long.
const MOST_UID_BYTES: usize = 64;
/// Requests of a tunnel that run at once.
const REQUESTS: usize = 256;
/// Probes of a tunnel that run at once; the oldest is given up for another.
const PROBES: usize = 32;

/// A piece of a request's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of standard output (1) or standard error (2).
    Output {
        /// Which of them.
        stream: u8,
        /// The bytes.
        data: Bytes,
    },
    /// The end.
    Done {
        /// Why it failed.
        error: Option<String>,
        /// Exit code of a command.
        exit_code: Option<i32>,
    },
}

type Requests = Arc<Mutex<BTreeMap<u64, mpsc::Sender<Piece>>>>;
/// Probes under way on a tunnel: whom for, and since when.
type Probes = Arc<Mutex<BTreeMap<u64, (String, Instant)>>>;

struct Tunnel {
    id: u64,
    outbound: mpsc::Sender<ToNode>,
    requests: Requests,
    probes: Probes,
    replaced: CancellationToken,
}

/// The open tunnels.
pub struct Tunnels {
    nodes: Mutex<BTreeMap<String, Tunnel>>,
    numbers: AtomicU64,
    registry: Arc<Registry>,
    barrier: Arc<Barrier>,
    /// Streams that nodes are about to dial.
    pub(super) dialled: Dialled,
}

/// A running request. Dropping it cancels it on the node.
pub struct Answer {
    number: u64,
    pieces: mpsc::Receiver<Piece>,
    outbound: mpsc::Sender<ToNode>,
    requests: Requests,
    done: bool,
}

impl Answer {
    /// The next piece; `None` after [`Piece::Done`], and when the tunnel broke.
    pub async fn next(&mut self) -> Option<Piece> {
        let piece = self.pieces.recv().await;
        self.done |= matches!(piece, None | Some(Piece::Done { .. }));
        piece
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.number);
        if !self.done {
            // A full queue means a stuck tunnel, which its silence will close.
            let _ = self.outbound.try_send(ToNode::Cancel {
                request: self.number,
            });
        }
    }
}

impl Tunnels {
    /// None open yet.
    #[must_use]
    pub fn new(registry: Arc<Registry>, barrier: Arc<Barrier>) -> Self {
        Self {
            nodes: Mutex::default(),
            numbers: AtomicU64::new(1),
            registry,
            barrier,
            dialled: Dialled::default(),
        }
    }

    /// Sends a request to a node; `request` is given its number.
    pub fn ask(&self, node: &str, request: impl FnOnce(u64) -> ToNode) -> Result<Answer, Status> {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let tunnel = nodes.get(node).ok_or_else(|| {
            Status::unavailable(format!(
                "node `{node}` has no tunnel open: its agent does not reach the server"
            ))
        })?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, pieces) = mpsc::channel(OUTPUT);
        {
            let mut requests = tunnel
                .requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if requests.len() >= REQUESTS {
                return Err(Status::too_many_requests(format!(
                    "node `{node}` has {REQUESTS} requests running"
                )));
            }
            requests.insert(number, sender);
        }
        let answer = Answer {
            number,
            pieces,
            outbound: tunnel.outbound.clone(),
            requests: tunnel.requests.clone(),
            done: false,
        };
        tunnel
            .outbound
            .try_send(request(number))
            .map_err(|_| Status::unavailable(format!("the tunnel of node `{node}` is stuck")))?;
        Ok(answer)
    }

    /// Has `observer` look for the agent of `suspect`; what it finds goes to the heartbeats. Nothing is said if it cannot be asked.
    pub fn probe(&self, observer: &str, suspect: &str, address: std::net::SocketAddr) {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tunnel) = nodes.get(observer) else {
            return;
        };
        let request = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut probes = tunnel.probes.lock().unwrap_or_else(PoisonError::into_inner);
        if probes.len() >= PROBES {
            probes.pop_first();
        }
        if tunnel
            .outbound
            .try_send(ToNode::Probe { request, address })
            .is_ok()
        {
            probes.insert(request, (suspect.to_owned(), Instant::now()));
        }
    }

    /// Serves a node's tunnel until it closes, falls silent, or the node opens another.
    pub async fn serve(&self, node: &str, mut socket: WebSocket, cancel: CancellationToken) {
        let (outbound, mut to_send) = mpsc::channel(OUTBOUND);
        let requests = Requests::default();
        let replaced = CancellationToken::new();
        let id = self.numbers.fetch_add(1, Ordering::Relaxed);
        let probes = Probes::default();
        let mut drains = Drains {
            id,
            barrier: self.barrier.clone(),
            outbound: outbound.clone(),
            waiting: BTreeMap::new(),
        };
        let tunnel = Tunnel {
            id,
            outbound,
            requests: requests.clone(),
            probes: probes.clone(),
            replaced: replaced.clone(),
        };
        let old = self
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node.to_owned(), tunnel);
        if let Some(old) = old {
            old.replaced.cancel();
        }
        tracing::info!(node, "tunnel opened");
        // Whether it hears the server is its first beat's to say.
        self.registry
            .heartbeats
            .beat(node, Duration::ZERO, Duration::MAX);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                () = replaced.cancelled() => break,
                request = to_send.recv() => {
                    let Some(request) = request else { break };
                    let Ok(text) = serde_json::to_string(&request) else { break };
                    let sent = tokio::time::timeout(SILENCE, socket.send(Message::Text(text.into()))).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        break;
                    }
                }
                message = tokio::time::timeout(SILENCE, socket.recv()) => {
                    match message {
                        Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str(&text) {
                            Ok(FromNode::Drain { pod_uid, address }) => {
                                if may_drain(&self.registry, node, &pod_uid, address) {
                                    drains.begin(pod_uid, address);
                                } else {
                                    tracing::warn!(node, "a node drains a pod or an address that is not its own");
                                }
                            }
                            Ok(FromNode::DrainOver { pod_uid }) => drains.end(&pod_uid),
                            Ok(message) => self.received(node, &requests, &probes, message),
                            Err(error) => {
                                tracing::warn!(node, %error, "a message on the tunnel cannot be read");
                                break;
                            }
                        },
                        Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => break,
                        Ok(Some(Ok(_))) => {}
                    }
                }
            }
        }
        requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.get(node).is_some_and(|current| current.id == id) {
            nodes.remove(node);
            self.registry.heartbeats.disconnected(node);
            tracing::info!(node, "tunnel closed");
        }
    }

    fn received(&self, node: &str, requests: &Requests, probes: &Probes, message: FromNode) {
        let (number, piece) = match message {
            FromNode::Heartbeat {
                late_ms,
                contact_ms,
                ..
            } => {
                let contact = if contact_ms == NEVER_MS {
                    Duration::MAX
                } else {
                    Duration::from_millis(contact_ms)
                };
                return self.registry.heartbeats.beat(
                    node,
                    Duration::from_millis(late_ms),
                    contact,
                );
            }
            FromNode::Drain { .. } | FromNode::DrainOver { .. } => return,
            FromNode::Probed { request, answer } => {
                let probe = probes
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(&request);
                if let Some((suspect, asked)) = probe {
                    tracing::info!(
                        suspect,
                        observer = node,
                        ?answer,
                        "a node looked for another"
                    );
                    self.registry
                        .heartbeats
                        .testify(&suspect, node, Statement { asked, answer });
                }
                return;
            }
            FromNode::Output {
                request,
                stream,
                data,
            } => match STANDARD.decode(data) {
                Ok(data) => (
                    request,
                    Piece::Output {
                        stream,
                        data: Bytes::from(data),
                    },
                ),
                Err(_) => {
                    return tracing::warn!(node, request, "output on the tunnel is not base64");
                }
            },
            FromNode::Done {
                request,
                error,
                exit_code,
            } => (request, Piece::Done { error, exit_code }),
        };
        let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
        let over = matches!(piece, Piece::Done { .. });
        let lost = requests
            .get(&number)
            .is_some_and(|sender| sender.try_send(piece).is_err());
        if over || lost {
            requests.remove(&number);
        }
    }
}

/// A node drains its own pods, also those that are gone from the API already, at addresses of its own pod network.
fn may_drain(registry: &Registry, node: &str, pod_uid: &str, address: Option<Ipv4Addr>) -> bool {
    let (pods, _) = registry.list(&kinds::POD, None);
    let text = |pod: &Value, pointer: &str| {
        let text = pod.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let pod = pods
        .iter()
        .find(|pod| text(pod, "/metadata/uid") == pod_uid);
    pod_uid.len() <= MOST_UID_BYTES
        && pod.is_none_or(|pod| text(pod, "/spec/nodeName") == node)
        && address.is_none_or(|address| authorize::is_of_node(registry, node, &address.to_string()))
}

/// The drains that one tunnel asked for. They are over with it: an agent whose tunnel broke asks again.
struct Drains {
    /// The tunnel's number.
    id: u64,
    barrier: Arc<Barrier>,
    outbound: mpsc::Sender<ToNode>,
    waiting: BTreeMap<String, AbortOnDropHandle<()>>,
}

impl Drains {
    fn begin(&mut self, pod_uid: String, address: Option<Ipv4Addr>) {
        if self.waiting.len() >= REQUESTS {
            return tracing::warn!(pod_uid, "a node drains more pods at once than it can have");
        }
        self.barrier
            .change(|state| state.begin(&pod_uid, address, self.id));
        let (barrier, outbound, uid) =
            (self.barrier.clone(), self.outbound.clone(), pod_uid.clone());
        let waiting = tokio::spawn(async move {
            let tell = |reason: &str| {
                // For people only: a full queue may lose it.
                let _ = outbound.try_send(ToNode::DrainWaits {
                    pod_uid: uid.clone(),
                    reason: reason.to_owned(),
                });
            };
            let excluded = barrier.drained(&uid, tell).await;
            // A tunnel that is gone needs no answer.
            let _ = outbound
                .send(ToNode::Drained {
                    pod_uid: uid,
                    excluded,
                })
                .await;
        });
        self.waiting
            .insert(pod_uid, AbortOnDropHandle::new(waiting));
    }

    fn end(&mut self, pod_uid: &str) {
        if self.waiting.remove(pod_uid).is_some() {
            self.barrier.change(|state| state.end(pod_uid, self.id));
        }
    }
}

impl Drop for Drains {
    fn drop(&mut self) {
        for pod_uid in self.waiting.keys() {
            self.barrier.change(|state| state.end(pod_uid, self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::orchestrator::api::registry::tests::registry;

    #[tokio::test]
    async fn a_node_drains_only_what_is_its_own() {
        let registry = registry().await;
        for (node, network) in [("w1", "10.78.1.0/24"), ("w2", "10.78.2.0/24")] {
            let node = json!({"metadata": {"name": node}, "spec": {"podCIDR": network}});
            registry
                .create(&kinds::NODE, None, node)
                .await
                .expect("created");
        }
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "w2", "containers": [{"name": "c", "image": "i"}]}});
        let pod = registry
            .create(&kinds::POD, Some("default"), pod)
            .await
            .expect("created");
        let uid = pod["metadata"]["uid"].as_str().expect("a UID");
        let (of_w1, of_w2) = (Ipv4Addr::new(10, 78, 1, 8), Ipv4Addr::new(10, 78, 2, 8));
        let may = |uid: &str, address| may_drain(&registry, "w1", uid, address);
        assert!(may("gone", Some(of_w1)) && may("gone", None));
        assert!(!may("gone", Some(of_w2)), "nobody has it yet");
        assert!(!may(uid, Some(of_w1)) && !may(uid, None), "a pod of w2");
        assert!(!may(&"x".repeat(100_000), None));
        assert!(may_drain(&registry, "w2", uid, Some(of_w2)));
    }

    #[tokio::test]
    async fn whatever_a_node_or_a_balancer_says_is_taken_or_refused() {
        let registry = registry().await;
        let barrier = Arc::new(Barrier::default());
        let tunnels = Tunnels::new(registry.clone(), barrier.clone());
        let seeds: &[&[u8]] = &[
            br#"{"type": "heartbeat", "sequence": 1, "late_ms": 5, "contact_ms": 18446744073709551615}"#,
            br#"{"type": "probed", "request": 1, "answer": "serving"}"#,
            br#"{"type": "drain", "pod_uid": "u", "address": "10.78.1.8"}"#,
            br#"{"type": "drainOver", "pod_uid": "u"}"#,
            br#"{"type": "output", "request": 1, "stream": 1, "data": "dg=="}"#,
            br#"{"type": "done", "request": 1, "error": null, "exit_code": -1}"#,
            br#"{"applied": 7, "open": {"10.78.1.8:80": 3, "[::1]:1": 18446744073709551615}}"#,
        ];
        let (requests, probes) = (Requests::default(), Probes::default());
        crate::model::spoiled::spoiled(seeds, 3_000, |bytes| {
            let text = String::from_utf8_lossy(bytes);
            match serde_json::from_str(&text) {
                Ok(FromNode::Drain { pod_uid, address }) => {
                    assert!(!may_drain(&registry, "w1", &pod_uid, address) || address.is_none());
                }
                Ok(message) => tunnels.received("w1", &requests, &probes, message),
                Err(_) => {}
            }
            if let Ok(report) = serde_json::from_str(&text) {
                barrier.heard("system:kube-proxy:w1", report, Instant::now());
            }
            let beats = registry.heartbeats.snapshot();
            assert!(beats.keys().all(|node| node == "w1"));
        });
    }
}

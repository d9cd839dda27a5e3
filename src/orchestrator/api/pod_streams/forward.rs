//! One forwarded connection, from a client to a port of a pod; and the SPDY sessions that hold many of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::http::Server;
use super::super::limits::{SPDY_STREAMS, STREAM_LINGER_TIME};
use super::node::Said;
use super::spdy::session::{Session, Stream, Writer};
use crate::orchestrator::tunnel::{Wanted, channel};

/// The pod whose ports are forwarded.
pub(super) struct Pod {
    pub(super) server: Server,
    pub(super) node: String,
    pub(super) uid: String,
    pub(super) name: String,
}

/// Where a pod's bytes go.
pub(super) trait Sink {
    /// `false` when nobody takes them any more.
    fn send(&self, bytes: Bytes) -> impl Future<Output = bool> + Send;
}

impl Sink for Writer {
    async fn send(&self, bytes: Bytes) -> bool {
        Writer::send(self, bytes).await
    }
}

impl Pod {
    /// Forwards one connection to its end. The error is for the client, in the words of upstream's error streams.
    pub(super) async fn forward(
        &self,
        port: u16,
        inbox: &mut mpsc::Receiver<Bytes>,
        sink: &impl Sink,
    ) -> Result<(), String> {
        let wanted = Wanted::Forward {
            pod_uid: self.uid.clone(),
            port,
        };
        let told = |why: &str| {
            format!(
                "error forwarding port {port} to pod {}, uid {}: {why}",
                self.name, self.uid
            )
        };
        let node = self.server.tunnels.open(&self.node, wanted).await;
        let (mut to_pod, mut from_pod) = node.map_err(|status| told(&status.message))?.split();
        let forth = async {
            while let Some(bytes) = inbox.recv().await {
                if !to_pod.send(channel::STDIN, &bytes).await {
                    break;
                }
            }
            let _ = to_pod.close().await;
            std::future::pending::<()>().await;
        };
        let back = async {
            loop {
                match from_pod.next().await {
                    Said::Stdout(bytes) => {
                        if !sink.send(bytes).await {
                            return Ok(());
                        }
                    }
                    // As upstream: when the pod says no more, the connection is over.
                    Said::Closed => return Ok(()),
                    Said::Stderr(_) => {}
                    Said::End(end) => return end.error.map_or(Ok(()), Err),
                }
            }
        };
        let ended = tokio::select! { ended = back => ended, () = forth => Ok(()) };
        ended.map_err(|why| told(&why))
    }
}

/// The two streams of a connection: what is said on one of them, and what went wrong.
#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
}

/// Serves a client that opens two streams for each connection, named by the headers `streamType`, `port` and `requestID`
/// (k8s.io/kubelet/pkg/cri/streaming/portforward).
pub(super) async fn serve<C>(connection: C, pod: Pod)
where
    C: AsyncRead + AsyncWrite + Send + 'static,
{
    let (session, driver) = Session::new(connection);
    let mut driver = std::pin::pin!(driver);
    tokio::select! {
        () = &mut driver => return,
        () = forward_all(session, Arc::new(pod)) => {}
    }
    let _ = timeout(STREAM_LINGER_TIME, driver).await;
}

async fn forward_all(mut session: Session, pod: Arc<Pod>) {
    let mut pairs: BTreeMap<String, Pair> = BTreeMap::new();
    // Dropped with the session, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = session.next() => match stream {
                Some(stream) => stream,
                None => return,
            },
            Some(_) = connections.join_next() => continue,
        };
        let header = |name: &str| stream.headers.get(name).cloned().unwrap_or_default();
        let (kind, request) = (header("streamtype"), header("requestid"));
        let port = header("port").parse::<u16>().ok().filter(|port| *port > 0);
        let (Some(port), true) = (port, ["data", "error"].contains(&&*kind)) else {
            let why = "a stream needs `streamType` data or error, and a `port`";
            stream.out.send(Bytes::from_static(why.as_bytes())).await;
            stream.out.finish().await;
            continue;
        };
        let pair = pairs.entry(request.clone()).or_default();
        let place = if kind == "data" {
            &mut pair.data
        } else {
            &mut pair.error
        };
        *place = Some(stream);
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some(Pair {
                data: Some(data),
                error: Some(error),
            }) = pairs.remove(&request)
        {
            let panics = pod.server.panics.clone();
            let one = forward_one(pod.clone(), port, data, error);
            connections.spawn(async move { drop(panics.caught(one).await) });
        }
        // Halves of pairs whose other half does not come.
        while pairs.len() > SPDY_STREAMS / 2 {
            pairs.pop_first();
        }
    }
}

async fn forward_one(pod: Arc<Pod>, port: u16, mut data: Stream, error: Stream) {
    let reset = data.out.reset.clone();
    let ended = tokio::select! {
        ended = pod.forward(port, &mut data.inbox, &data.out) => ended,
        () = reset.cancelled() => Ok(()),
    };
    if let Err(why) = ended {
        let why = format!("an error occurred forwarding {port} -> {port}: {why}");
        error.out.send(Bytes::from(why)).await;
    }
    // The client waits for the ends of both.
    error.out.finish().await;
    data.out.finish().await;
}

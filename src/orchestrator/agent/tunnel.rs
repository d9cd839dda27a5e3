//! The agent's end of the tunnel: heartbeats, logs, exec. See [`crate::orchestrator::tunnel`] for what is said.
//!
//! Invariants: a heartbeat waits for nothing but the connection itself; a connection on which the server is silent is given up
//! and dialled anew, for ever, with a bounded pause.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::AbortOnDropHandle;

use super::contact::Contact;
use super::drain::Drains;
use super::kept::Keeper;
use super::peers::Peers;
use super::runtime::{LogQuery, Runtime};
use super::streams;
use super::work::chain;
use crate::orchestrator::config::{AgentConfig, IdentityFiles};
use crate::orchestrator::limits::STREAMS_OF_NODE;
use crate::orchestrator::tunnel::{FromNode, HEARTBEAT_INTERVAL_MS, ToNode, Wanted};
use crate::transport::dialler::{Dialler, Socket};

/// A server that is silent for so long is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(4);
/// A message that cannot be written for so long: the connection is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(4);
/// Answers that wait for the connection, at most.
const OUTPUT_LIMIT: usize = 32;
/// Requests at a time, at most.
const REQUEST_LIMIT: usize = 64;
/// Bytes of output in one message.
const CHUNK_BYTES: usize = 32 * 1024;
/// A command may run this long.
const EXEC_LIMIT: Duration = Duration::from_mins(10);

/// Why the tunnel cannot be dialled at all.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// A file of the identity is missing or wrong.
    #[error("read `{}`: {what}", path.display())]
    Identity {
        /// Which file.
        path: std::path::PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The server is not named by address.
    #[error("server `{0}` is not `https://ADDRESS:PORT`")]
    Server(String),
    /// TLS cannot be set up.
    #[error("set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Where the node's tunnel is dialled.
pub(crate) fn dialler(config: &AgentConfig) -> Result<Dialler, TunnelError> {
    let path = format!("/flightcage/v1/nodes/{}/tunnel", config.node);
    dialler_to(config, &path)
}

/// Where the node's streams are dialled, each below this.
pub(crate) fn stream_dialler(config: &AgentConfig) -> Result<Dialler, TunnelError> {
    let path = format!("/flightcage/v1/nodes/{}/streams", config.node);
    dialler_to(config, &path)
}

fn dialler_to(config: &AgentConfig, path: &str) -> Result<Dialler, TunnelError> {
    let dialler = Dialler::new(&config.server, path, client_config(&config.identity)?);
    dialler.ok_or_else(|| TunnelError::Server(config.server.clone()))
}

pub(crate) fn client_config(identity: &IdentityFiles) -> Result<rustls::ClientConfig, TunnelError> {
    fn pem<T: PemObject>(path: &Path) -> Result<Vec<T>, TunnelError> {
        let refuse = |what: String| TunnelError::Identity {
            path: path.to_owned(),
            what,
        };
        let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        let all: Result<Vec<T>, _> = T::pem_slice_iter(&bytes).collect();
        all.map_err(|error| refuse(error.to_string()))
    }
    let mut roots = rustls::RootCertStore::empty();
    for certificate in pem::<CertificateDer<'static>>(&identity.ca)? {
        roots.add(certificate)?;
    }
    let key =
        PrivateKeyDer::from_pem_file(&identity.key).map_err(|error| TunnelError::Identity {
            path: identity.key.clone(),
            what: error.to_string(),
        })?;
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_root_certificates(roots)
    .with_client_auth_cert(pem(&identity.certificate)?, key)?;
    Ok(config)
}

/// What the tunnel serves.
pub(crate) struct Served<R> {
    /// Containers.
    pub(crate) runtime: Arc<R>,
    /// Other nodes.
    pub(crate) peers: Arc<Peers>,
    /// What proves that the server hears this node.
    pub(crate) contact: Arc<Contact>,
    /// Where that is kept for the next agent.
    pub(super) keeper: Keeper,
    /// Pods that drain.
    pub(crate) drains: Drains,
    /// Dials the server for a stream.
    pub(crate) streams: Arc<Dialler>,
    /// Told each time the tunnel opens.
    pub(crate) opened: Arc<Notify>,
}

/// Keeps the tunnel open, for ever.
pub(crate) async fn keep<R: Runtime>(mut dialler: Dialler, served: Served<R>) {
    let server = dialler.address();
    loop {
        let socket = dialler.connect().await;
        tracing::info!(%server, "the tunnel is open");
        served.opened.notify_one();
        let why = serve(socket, &served).await;
        tracing::warn!(%server, why, "the tunnel broke, dialling again");
    }
}

/// Serves one connection; returns why it ended.
async fn serve<R: Runtime>(socket: Socket, served: &Served<R>) -> String {
    let (sink, stream) = socket.split();
    let (output, answers) = mpsc::channel(OUTPUT_LIMIT);
    tokio::select! {
        why = write(sink, answers, &served.contact, &served.drains) => why,
        why = read(stream, served, output) => why,
    }
}

async fn write(
    mut sink: SplitSink<Socket, Message>,
    mut answers: mpsc::Receiver<FromNode>,
    contact: &Contact,
    drains: &Drains,
) -> String {
    let mut beats = interval(Duration::from_millis(HEARTBEAT_INTERVAL_MS));
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sequence = 0;
    let mut drain_changes = drains.subscribe();
    drain_changes.mark_changed();
    let mut said = BTreeMap::new();
    loop {
        // A beat goes before answers, however many wait.
        let messages = tokio::select! {
            biased;
            due = beats.tick() => {
                sequence += 1;
                let now = Instant::now();
                let late = contact.late(now, due.elapsed());
                let late_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                vec![FromNode::Heartbeat { sequence, late_ms, contact_ms: contact.heard_ms_ago(now) }]
            }
            Ok(()) = drain_changes.changed() => drains.news(&mut said),
            Some(answer) = answers.recv() => vec![answer],
        };
        // Its answer proves that the server has heard this node, and renews the lease.
        let ping = matches!(messages[..], [FromNode::Heartbeat { .. }]);
        let sent = async {
            for message in messages {
                let text = serde_json::to_string(&message)
                    .expect("a message of numbers and strings is JSON");
                sink.feed(Message::text(text)).await?;
            }
            if ping {
                sink.feed(Message::Ping(contact.ping(Instant::now())))
                    .await?;
            }
            // In one piece: each piece wakes the server.
            sink.flush().await
        };
        match timeout(WRITE_LIMIT, sent).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("nothing could be written for {} s", WRITE_LIMIT.as_secs()),
        }
    }
}

async fn read<R: Runtime>(
    mut stream: SplitStream<Socket>,
    served: &Served<R>,
    output: mpsc::Sender<FromNode>,
) -> String {
    let mut requests: HashMap<u64, AbortOnDropHandle<()>> = HashMap::new();
    // Apart from the others: they last, and must not keep a probe or a log from being answered.
    let mut streams: HashMap<u64, AbortOnDropHandle<()>> = HashMap::new();
    loop {
        let message = match timeout(SILENCE_LIMIT, stream.next()).await {
            Err(_) => return format!("the server was silent for {} s", SILENCE_LIMIT.as_secs()),
            Ok(None) => return "the server closed it".to_owned(),
            Ok(Some(Err(error))) => return error.to_string(),
            Ok(Some(Ok(message))) => message,
        };
        if let Message::Pong(ping) = &message
            && let Some(kept) = served.contact.answered(ping)
        {
            served.keeper.keep(&kept);
        }
        let Message::Text(text) = message else {
            continue;
        };
        requests.retain(|_, task| !task.is_finished());
        streams.retain(|_, task| !task.is_finished());
        match serde_json::from_str::<ToNode>(&text) {
            Ok(ToNode::DrainWaits { pod_uid, reason }) => served.drains.waits(&pod_uid, reason),
            Ok(ToNode::Drained { pod_uid, excluded }) => served.drains.drained(&pod_uid, excluded),
            Ok(ToNode::Cancel { request }) => {
                drop(requests.remove(&request));
                drop(streams.remove(&request));
            }
            Ok(asked) => {
                let Some(request) = number(&asked) else {
                    continue;
                };
                let (running, limit, what) = match asked {
                    ToNode::Stream { .. } => (&mut streams, STREAMS_OF_NODE, "streams"),
                    _ => (&mut requests, REQUEST_LIMIT, "requests"),
                };
                if running.len() >= limit {
                    let error = Some(format!(
                        "the node serves {limit} {what} already, try again later"
                    ));
                    drop(output.try_send(FromNode::Done {
                        request,
                        error,
                        exit_code: None,
                    }));
                    continue;
                }
                let task = match asked {
                    ToNode::Stream { wanted, .. } => tokio::spawn(serve_stream(
                        request,
                        wanted,
                        served.runtime.clone(),
                        served.streams.clone(),
                        output.clone(),
                    )),
                    asked => tokio::spawn(answer(
                        asked,
                        served.runtime.clone(),
                        served.peers.clone(),
                        output.clone(),
                    )),
                };
                running.insert(request, AbortOnDropHandle::new(task));
            }
            Err(error) => {
                tracing::warn!(%error, "the server said what this agent does not understand")
            }
        }
    }
}

fn number(asked: &ToNode) -> Option<u64> {
    match asked {
        ToNode::Logs { request, .. }
        | ToNode::Exec { request, .. }
        | ToNode::Stream { request, .. }
        | ToNode::Probe { request, .. }
        | ToNode::Beat { request }
        | ToNode::Cancel { request } => Some(*request),
        ToNode::DrainWaits { .. } | ToNode::Drained { .. } => None,
    }
}

/// Answers one request; whatever happens, [`FromNode::Done`] comes last (of a probe, [`FromNode::Probed`]).
async fn answer<R: Runtime>(
    asked: ToNode,
    runtime: Arc<R>,
    peers: Arc<Peers>,
    output: mpsc::Sender<FromNode>,
) {
    let Some(request) = number(&asked) else {
        return;
    };
    let answered = match asked {
        ToNode::Logs {
            pod_uid,
            container,
            follow,
            tail_lines,
            since_seconds,
            since_time,
            limit_bytes,
            previous,
            timestamps,
            ..
        } => {
            let ago = since_seconds.map(|seconds| {
                jiff::Timestamp::now()
                    .checked_sub(Duration::from_secs(seconds))
                    .unwrap_or(jiff::Timestamp::MIN)
            });
            let query = LogQuery {
                follow,
                tail_lines,
                since: since_time.or(ago),
                limit_bytes,
                previous,
                timestamps,
            };
            logs(&*runtime, request, &pod_uid, &container, query, &output)
                .await
                .map(|()| None)
        }
        ToNode::Exec {
            pod_uid,
            container,
            command,
            ..
        } => exec(&*runtime, request, &pod_uid, &container, &command, &output)
            .await
            .map(Some),
        ToNode::Probe { address, .. } => {
            let answer = peers.look(address).await;
            drop(output.send(FromNode::Probed { request, answer }).await);
            return;
        }
        ToNode::Beat { .. } => Ok(None),
        ToNode::Cancel { .. }
        | ToNode::Stream { .. }
        | ToNode::DrainWaits { .. }
        | ToNode::Drained { .. } => return,
    };
    let (error, exit_code) = match answered {
        Ok(exit_code) => (None, exit_code),
        Err(error) => (Some(error), None),
    };
    drop(
        output
            .send(FromNode::Done {
                request,
                error,
                exit_code,
            })
            .await,
    );
}

/// Serves one stream on a connection of its own; whatever happens, [`FromNode::Done`] comes last.
async fn serve_stream<R: Runtime>(
    request: u64,
    wanted: Wanted,
    runtime: Arc<R>,
    dialler: Arc<Dialler>,
    output: mpsc::Sender<FromNode>,
) {
    let served = async {
        let opened = streams::open(&*runtime, wanted).await?;
        let socket = dialler.once(&request.to_string()).await;
        let socket = socket.map_err(|why| format!("dial the server for the stream: {why}"))?;
        streams::serve(socket, opened).await;
        Ok(())
    };
    let error = served.await.err();
    let done = FromNode::Done {
        request,
        error,
        exit_code: None,
    };
    drop(output.send(done).await);
}

async fn logs<R: Runtime>(
    runtime: &R,
    request: u64,
    pod_uid: &str,
    container: &str,
    query: LogQuery,
    output: &mpsc::Sender<FromNode>,
) -> Result<(), String> {
    let mut chunks = runtime
        .logs(pod_uid, container, query)
        .await
        .map_err(|error| chain(&error))?;
    while let Some(chunk) = chunks.recv().await {
        send(request, 1, &chunk, output).await?;
    }
    Ok(())
}

async fn exec<R: Runtime>(
    runtime: &R,
    request: u64,
    pod_uid: &str,
    container: &str,
    command: &[String],
    output: &mpsc::Sender<FromNode>,
) -> Result<i32, String> {
    let done = runtime
        .exec(pod_uid, container, command, EXEC_LIMIT)
        .await
        .map_err(|error| chain(&error))?;
    send(request, 1, &done.stdout, output).await?;
    send(request, 2, &done.stderr, output).await?;
    Ok(done.exit_code)
}

async fn send(
    request: u64,
    stream: u8,
    bytes: &[u8],
    output: &mpsc::Sender<FromNode>,
) -> Result<(), String> {
    for chunk in bytes.chunks(CHUNK_BYTES) {
        let message = FromNode::Output {
            request,
            stream,
            data: STANDARD.encode(chunk),
        };
        output
            .send(message)
            .await
            .map_err(|_| "the tunnel is closed".to_owned())?;
    }
    Ok(())
}

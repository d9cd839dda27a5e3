//! What an agent and the server say to each other on the agent's long-lived WebSocket.
//!
//! The agent dials `wss://…/flightcage/v1/nodes/{name}/tunnel` with its node certificate; the server never dials a node. Each
//! message is one JSON text frame. Requests carry a number chosen by the server; every request is ended by exactly one
//! [`FromNode::Done`] (a probe by [`FromNode::Probed`]), after which the number is free.
//!
//! What clients stream to and from pods does not pass through it: asked by [`ToNode::Stream`], the agent dials a WebSocket of its own,
//! `wss://…/flightcage/v1/nodes/{name}/streams/{request}`. So a stream whose reader is slow fills the buffers of its own connection, and
//! delays no heartbeat and no other stream. Each of its messages is one byte of [`channel`], then bytes.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// How often an agent beats. Beats live in the server's memory only.
pub const HEARTBEAT_INTERVAL_MS: u64 = 150;
/// Where agents answer each other (the kubelet's port), on their node's address.
pub const PEER_PORT: u16 = 10250;

/// What a node whose agent the server has never answered says of how long ago that was.
pub const NEVER_MS: u64 = u64::MAX;

/// What a node found when it asked another whether it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PeerAnswer {
    /// Its agent answered: it lives, and its pods may be serving.
    Serving,
    /// Its agent answered: it lives, and keeps service traffic away from its pods, since its lease has lapsed.
    Fenced,
    /// The machine refused: it lives, its agent does not run.
    Refused,
    /// Nothing came back in time.
    Silent,
    /// The one that asked was itself late: its finding counts for nothing.
    Late,
}

impl PeerAnswer {
    /// The other was found.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Serving | Self::Refused)
    }

    /// The other may be replaced, as far as the one that asked can tell.
    #[must_use]
    pub fn is_missing(self) -> bool {
        matches!(self, Self::Silent | Self::Fenced)
    }
}

/// Agent to server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum FromNode {
    /// The node lives. `sequence` grows by one a beat.
    Heartbeat {
        /// Number of the beat since the tunnel was opened.
        sequence: u64,
        /// By how much later than it was due a beat of the last seconds was sent at worst, by the node's own clock: what its processor was
        /// kept from it.
        #[serde(default)]
        late_ms: u64,
        /// How long ago the server is known to have heard the node, that is, when the last ping was sent that it answered; [`NEVER_MS`]. A
        /// node whose beats come through may hear nothing itself.
        #[serde(default)]
        contact_ms: u64,
    },
    /// What came of [`ToNode::Probe`]; ends that request.
    Probed {
        /// Which request.
        request: u64,
        /// The finding.
        answer: PeerAnswer,
    },
    /// A pod is to stop: say [`ToNode::Drained`] when no balancer uses it any more. Said again after the tunnel broke.
    Drain {
        /// UID of the pod.
        pod_uid: String,
        /// Its address, unless it is the node's own.
        address: Option<Ipv4Addr>,
    },
    /// The pod has stopped, or was stopped without waiting any longer.
    DrainOver {
        /// UID of the pod.
        pod_uid: String,
    },
    /// Output of a request, base64 (standard alphabet).
    Output {
        /// Which request.
        request: u64,
        /// 1: standard output, 2: standard error.
        stream: u8,
        /// The bytes in base64.
        data: String,
    },
    /// The request is over.
    Done {
        /// Which request.
        request: u64,
        /// Why it failed, if it did.
        error: Option<String>,
        /// Exit code of an exec.
        exit_code: Option<i32>,
    },
}

/// What a client's stream leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Wanted {
    /// A new command in a container.
    Exec {
        /// UID of the pod.
        pod_uid: String,
        /// Container name.
        container: String,
        /// Program and arguments.
        command: Vec<String>,
        /// Whether it has a standard input.
        stdin: bool,
        /// Whether it has a terminal.
        tty: bool,
    },
    /// What a container writes from now on, and its standard input.
    Attach {
        /// UID of the pod.
        pod_uid: String,
        /// Container name.
        container: String,
        /// Whether its standard input is wanted.
        #[serde(default)]
        stdin: bool,
    },
    /// A TCP port in the pod's network namespace, by its loopback address.
    Forward {
        /// UID of the pod.
        pod_uid: String,
        /// The port.
        port: u16,
    },
}

/// First bytes of a stream's messages, those of Kubernetes' `v5.channel.k8s.io`. A forwarded connection has the first two.
pub mod channel {
    /// To the node: standard input, or bytes for the port.
    pub const STDIN: u8 = 0;
    /// From the node: standard output, or bytes of the port.
    pub const STDOUT: u8 = 1;
    /// From the node: standard error.
    pub const STDERR: u8 = 2;
    /// From the node, and the last: JSON of a [`StreamEnd`](super::StreamEnd).
    pub const END: u8 = 3;
    /// To the node: JSON of a [`TerminalSize`](super::TerminalSize).
    pub const RESIZE: u8 = 4;
    /// Followed by the byte of the channel on which nothing more comes.
    pub const CLOSE: u8 = 255;

    /// A message of a channel.
    #[must_use]
    pub fn message(channel: u8, bytes: &[u8]) -> bytes::Bytes {
        bytes::Bytes::from([&[channel], bytes].concat())
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamEnd {
    /// Why it failed.
    pub error: Option<String>,
    /// Exit code of a command.
    pub exit_code: Option<i32>,
}

/// A terminal's size, as Kubernetes' clients write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Server to agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum ToNode {
    /// Send a container's log as `Output` on stream 1.
    Logs {
        /// Number of this request.
        request: u64,
        /// UID of the pod.
        pod_uid: String,
        /// Container name.
        container: String,
        /// Keep sending as more is written.
        follow: bool,
        /// Only the last so many lines.
        tail_lines: Option<u64>,
        /// Only lines that are no older than so many seconds, by the node's clock.
        #[serde(default)]
        since_seconds: Option<u64>,
        /// Only lines from this time on.
        #[serde(default)]
        since_time: Option<jiff::Timestamp>,
        /// No more than so many bytes.
        #[serde(default)]
        limit_bytes: Option<u64>,
        /// The instance before the current one.
        previous: bool,
        /// Put the RFC 3339 time before each line.
        timestamps: bool,
    },
    /// Run a command in a container.
    Exec {
        /// Number of this request.
        request: u64,
        /// UID of the pod.
        pod_uid: String,
        /// Container name.
        container: String,
        /// Program and arguments.
        command: Vec<String>,
    },
    /// Dial a connection of its own for this. It ends with that connection, with [`ToNode::Cancel`], and with the tunnel.
    Stream {
        /// Number of this request.
        request: u64,
        /// What is at the stream's other end.
        wanted: Wanted,
    },
    /// Ask another node's agent whether it lives (an indirect probe, as in SWIM). Ended by [`FromNode::Probed`].
    Probe {
        /// Number of this request.
        request: u64,
        /// Where the other agent answers.
        address: std::net::SocketAddr,
    },
    /// What the drain of a pod waits for, for people.
    DrainWaits {
        /// UID of the pod.
        pod_uid: String,
        /// Such as `w2 has 1 open connection to it`.
        reason: String,
    },
    /// No balancer uses the pod any more.
    Drained {
        /// UID of the pod.
        pod_uid: String,
        /// Balancers that were not waited for, because they are silent.
        excluded: Vec<String>,
    },
    /// Say at once that the node lives: an answer that cannot be older than the question.
    Beat {
        /// Number of this request.
        request: u64,
    },
    /// Nobody waits for this request any more.
    Cancel {
        /// Which request.
        request: u64,
    },
}

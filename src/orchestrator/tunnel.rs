//! What an agent and the server say to each other on the agent's long-lived WebSocket.
//!
//! The agent dials `wss://…/flightcage/v1/nodes/{name}/tunnel` with its node certificate; the server never dials a node. Each
//! message is one JSON text frame. Requests carry a number chosen by the server; every request is ended by exactly one
//! [`FromNode::Done`] (a probe by [`FromNode::Probed`]), after which the number is free.

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

//! What an agent and the server say to each other on the agent's long-lived WebSocket.
//!
//! The agent dials `wss://…/flightcage/v1/nodes/{name}/tunnel` with its node certificate; the server never dials a node. Each
//! message is one JSON text frame. Requests carry a number chosen by the server; every request is ended by exactly one
//! [`FromNode::Done`], after which the number is free.

use serde::{Deserialize, Serialize};

/// How often an agent beats. Beats live in the server's memory only.
pub const HEARTBEAT_INTERVAL_MS: u64 = 300;

/// Agent to server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum FromNode {
    /// The node lives. `sequence` grows by one a beat.
    Heartbeat {
        /// Number of the beat since the tunnel was opened.
        sequence: u64,
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
    /// Nobody waits for this request any more.
    Cancel {
        /// Which request.
        request: u64,
    },
}

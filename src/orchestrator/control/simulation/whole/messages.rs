//! What is said on connections to the server, and what is to happen when.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::balancers::Rules;
use super::network::{Host, Purpose};
use super::script::Step;
use crate::balancer::report::{Orders, Report};
use crate::orchestrator::agent::peers::Found;
use crate::orchestrator::control::world::{Action, Key};
use crate::orchestrator::tunnel::{FromNode, ToNode};

/// A message on a connection.
#[derive(Debug, Clone)]
pub(super) enum Message {
    FromNode(FromNode),
    ToNode(ToNode),
    Ping(Bytes),
    Pong(Bytes),
    Report(Report),
    Orders(Orders),
    /// A node's pods by UID.
    Pods(Arc<BTreeMap<String, Arc<Pod>>>),
    /// Services, and Endpoints of that revision.
    Endpoints(Arc<Rules>),
    /// Nothing has changed.
    Alive,
    /// The other end was closed.
    End,
}

/// A request to the API.
#[derive(Debug, Clone)]
pub(super) enum Request {
    PatchStatus {
        uid: String,
        key: Key,
        status: Box<PodStatus>,
    },
    Delete {
        uid: String,
        key: Key,
    },
    ListOwn,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Done,
    Gone,
    Listed(Vec<String>),
    Failed,
}

/// What a task of a pod's worker came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    SetUp,
    Pulled,
    Started(u32),
    Removed,
}

/// What a container does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Listens,
    Exits,
}

/// Something that happens at a time. `life` is that of the process it happens to: it is void once that has ended.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Pump {
        stream: u64,
        end: usize,
    },
    Reset {
        stream: u64,
        end: usize,
    },
    Dial {
        host: Host,
        purpose: Purpose,
        life: u64,
    },
    Beat {
        host: Host,
        stream: u64,
    },
    Fence {
        host: Host,
        life: u64,
    },
    Worker {
        host: Host,
        life: u64,
        uid: String,
    },
    Worked {
        host: Host,
        life: u64,
        uid: String,
        work: Work,
    },
    Container {
        host: Host,
        boot: u64,
        uid: String,
        instance: u32,
        deed: Deed,
    },
    AskLeaves(u64),
    AskArrives(u64),
    AskEnds {
        ask: u64,
        found: Found,
    },
    CallLeaves(u64),
    CallArrives(u64),
    CallReturns {
        call: u64,
        reply: Reply,
    },
    CallEnds {
        call: u64,
        reply: Reply,
    },
    Report {
        balancer: usize,
        life: u64,
        stream: u64,
        regular: bool,
    },
    Client {
        balancer: usize,
        life: u64,
    },
    Rules {
        balancer: usize,
        life: u64,
    },
    Detect {
        life: u64,
    },
    Reconcile {
        life: u64,
    },
    Write {
        life: u64,
        actions: Vec<Action>,
    },
    Barrier {
        life: u64,
    },
    TunnelOver {
        life: u64,
        stream: u64,
    },
    Script(Step),
}

//! Talking to a cluster's daemon: control requests, and raw connections into the cluster.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::daemon::{
    CaptureRequest, DialReply, DialRequest, DialTarget, LinkChange, LinkEffect, LinkHeal,
    LinkState, MEMORY_REFUSED, RestoreOrder, Status,
};
use super::home::ClusterPaths;
use crate::balancer::EndpointView;
use crate::machines::journal::Sighting;
use crate::machines::provider::{
    DiskEffect, DiskFault, Machine, MachineRequest, PowerAction, Problem, Restored,
    StandstillChange,
};
use crate::model::names::NodeName;
use crate::shell::ssh::SshTarget;
use crate::transport::BoxStream;

/// Longest that a control request may take which is not known to wait for something.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest that asking for the machines' states may take: those that exist already are asked themselves.
const STATUS_TIMEOUT: Duration = Duration::from_mins(1);
/// Longest that a machine may take to boot; the daemon gives up earlier when nothing moves, and Vagrant after half an hour: it may have to
/// fetch a box, and boots emulated machines in minutes.
const BOOT_TIMEOUT: Duration = Duration::from_mins(35);
/// Longest that changing a machine's power may take; machines that exist already are waited for while they boot.
const POWER_TIMEOUT: Duration = Duration::from_mins(6);
/// Longest that asking every machine whether it is able may take: they may be far away, or slow.
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(90);
/// Longest that changing links may take: machines with a network of their own do it themselves, and are asked over SSH before and after.
const LINKS_TIMEOUT: Duration = Duration::from_mins(2);
/// Longest that saving or restoring may take; the daemon gives up earlier.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_mins(5);
/// Longest that a standstill may take to begin or to end; the daemon gives up on a clock after half a minute.
const STANDSTILL_TIMEOUT: Duration = Duration::from_mins(2);
/// Longest answer line on the dial socket.
const MAX_REPLY: u64 = 64;

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DaemonClientError {
    /// No daemon answers.
    #[error("cluster `{name}` is not up")]
    NotUp {
        /// The cluster.
        name: String,
    },
    /// The daemon answered with an error.
    #[error("{0}")]
    Refused(String),
    /// What was saved of a machine is of no use.
    #[error("{0}")]
    MemoryRefused(String),
    /// The connection broke, or the answer was not understood.
    #[error("ask the daemon of cluster `{name}`")]
    Broken {
        /// The cluster.
        name: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
}

/// A client of one cluster's daemon.
#[derive(Debug, Clone)]
pub struct DaemonClient {
    paths: ClusterPaths,
    http: reqwest::Client,
}

impl DaemonClient {
    /// A client of the daemon of `paths`, which need not run yet.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(paths: ClusterPaths) -> Result<Self, DaemonClientError> {
        let name = paths.name().to_string();
        let http = reqwest::Client::builder()
            .unix_socket(paths.control_socket())
            .tls_certs_only([])
            .no_proxy()
            .retry(reqwest::retry::never())
            .build()
            .map_err(|source| DaemonClientError::Broken { name, source })?;
        Ok(Self { paths, http })
    }

    /// The cluster's paths.
    pub fn paths(&self) -> &ClusterPaths {
        &self.paths
    }

    /// What the daemon knows.
    pub async fn status(&self) -> Result<Status, DaemonClientError> {
        self.send(self.http.get(url("status")), STATUS_TIMEOUT)
            .await
    }

    /// What stands in the way of the cluster's machines.
    pub async fn preflight(&self) -> Result<Vec<Problem>, DaemonClientError> {
        self.send(self.http.get(url("preflight")), PREFLIGHT_TIMEOUT)
            .await
    }

    /// Makes and starts a machine.
    pub async fn create(&self, request: &MachineRequest) -> Result<Machine, DaemonClientError> {
        self.post("machines", request, REQUEST_TIMEOUT).await
    }

    /// Waits until a machine accepts SSH connections.
    pub async fn wait_for_boot(&self, node: &NodeName) -> Result<SocketAddr, DaemonClientError> {
        self.post(&format!("machines/{node}/boot"), &(), BOOT_TIMEOUT)
            .await
    }

    /// How a machine is logged in to now.
    pub async fn login(&self, node: &NodeName) -> Result<SshTarget, DaemonClientError> {
        self.send(
            self.http.get(url(&format!("machines/{node}/login"))),
            REQUEST_TIMEOUT,
        )
        .await
    }

    /// Tells that our binary is on a machine now.
    pub async fn installed(&self, node: &NodeName) -> Result<(), DaemonClientError> {
        self.post(&format!("machines/{node}/installed"), &(), REQUEST_TIMEOUT)
            .await
    }

    /// Saves all machines, memory and disks, below a folder.
    pub async fn save(&self, into: &Path) -> Result<Restored, DaemonClientError> {
        self.post("save", &json!({ "into": into }), SNAPSHOT_TIMEOUT)
            .await
    }

    /// Makes the machines from what was saved.
    pub async fn restore(&self, order: &RestoreOrder) -> Result<Restored, DaemonClientError> {
        self.post("restore", order, SNAPSHOT_TIMEOUT).await
    }

    /// Lets all machines stand still.
    pub async fn pause(&self) -> Result<StandstillChange, DaemonClientError> {
        self.post("pause", &(), STANDSTILL_TIMEOUT).await
    }

    /// Lets all machines go on, their clocks right.
    pub async fn resume(&self) -> Result<StandstillChange, DaemonClientError> {
        self.post("resume", &(), STANDSTILL_TIMEOUT).await
    }

    /// Changes a machine's power.
    pub async fn power(
        &self,
        node: &NodeName,
        action: PowerAction,
    ) -> Result<(), DaemonClientError> {
        self.post(
            &format!("machines/{node}/power"),
            &json!({ "action": action }),
            POWER_TIMEOUT,
        )
        .await
    }

    /// Makes a machine's disk fail, or work.
    pub async fn disk(
        &self,
        node: &NodeName,
        fault: Option<DiskFault>,
    ) -> Result<DiskEffect, DaemonClientError> {
        self.post(&format!("machines/{node}/disk"), &fault, REQUEST_TIMEOUT)
            .await
    }

    /// Troubles seen in the machines, those with a larger number than `after`.
    pub async fn sightings(&self, after: u64) -> Result<Vec<Sighting>, DaemonClientError> {
        self.send(
            self.http.get(url(&format!("sightings?after={after}"))),
            REQUEST_TIMEOUT,
        )
        .await
    }

    /// Sets a rule and returns what it does, as measured.
    pub async fn change_links(
        &self,
        change: &LinkChange,
    ) -> Result<Vec<LinkEffect>, DaemonClientError> {
        self.post("links", change, LINKS_TIMEOUT).await
    }

    /// Removes rules.
    pub async fn heal_links(&self, heal: &LinkHeal) -> Result<(), DaemonClientError> {
        self.post("links/heal", heal, LINKS_TIMEOUT).await
    }

    /// Every directed link, with what acts on it and what has passed it.
    pub async fn links(&self) -> Result<Vec<LinkState>, DaemonClientError> {
        self.send(self.http.get(url("links")), REQUEST_TIMEOUT)
            .await
    }

    /// What the host's load balancer knows of the Services' endpoints.
    pub async fn balancer(&self) -> Result<Vec<EndpointView>, DaemonClientError> {
        self.send(self.http.get(url("balancer")), REQUEST_TIMEOUT)
            .await
    }

    /// Begins a capture: pcapng, until its time is over or the response is dropped.
    pub async fn capture(
        &self,
        request: &CaptureRequest,
    ) -> Result<reqwest::Response, DaemonClientError> {
        let broken = |source| DaemonClientError::Broken {
            name: self.paths.name().to_string(),
            source,
        };
        let response = self
            .http
            .get(url(&format!("capture?{}", query(request))))
            .send()
            .await
            .map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(DaemonClientError::Refused(
            response.text().await.unwrap_or_default(),
        ))
    }

    /// Tells the daemon that its owner's end is no longer its own.
    pub async fn disown(&self) -> Result<(), DaemonClientError> {
        self.post("disown", &(), REQUEST_TIMEOUT).await
    }

    /// Asks the daemon to end its machines and itself, and to remove the cluster's directories if `remove`.
    pub async fn down(&self, remove: bool) -> Result<(), DaemonClientError> {
        self.post("down", &json!({ "remove": remove }), REQUEST_TIMEOUT)
            .await
    }

    /// Opens a connection into the cluster.
    ///
    /// # Errors
    /// With the kind that says what the cluster's side did: refused, timed out.
    pub async fn dial(&self, to: DialTarget) -> io::Result<BoxStream> {
        let mut stream = UnixStream::connect(self.paths.dial_socket()).await?;
        let mut line = serde_json::to_vec(&DialRequest { to })?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        // The reply is one short line and the peer speaks first only after it in no protocol we use: buffered bytes are kept.
        let mut stream = BufReader::new(stream);
        let mut reply = String::new();
        tokio::io::AsyncReadExt::take(&mut stream, MAX_REPLY)
            .read_line(&mut reply)
            .await?;
        match serde_json::from_str(&reply) {
            Ok(DialReply::Connected) => Ok(Box::new(stream)),
            Ok(reply) => Err(io::Error::from(reply.error_kind())),
            Err(_) => Err(io::Error::from(io::ErrorKind::ConnectionReset)),
        }
    }

    async fn post<Q: Serialize + ?Sized, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &Q,
        timeout: Duration,
    ) -> Result<A, DaemonClientError> {
        self.send(self.http.post(url(path)).json(body), timeout)
            .await
    }

    async fn send<A: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
        timeout: Duration,
    ) -> Result<A, DaemonClientError> {
        let name = || self.paths.name().to_string();
        let response = request.timeout(timeout).send().await.map_err(|source| {
            if source.is_connect() {
                DaemonClientError::NotUp { name: name() }
            } else {
                DaemonClientError::Broken {
                    name: name(),
                    source,
                }
            }
        })?;
        let status = response.status();
        if status.is_success() {
            return response
                .json()
                .await
                .map_err(|source| DaemonClientError::Broken {
                    name: name(),
                    source,
                });
        }
        let said = response.text().await.unwrap_or_default();
        Err(if status == MEMORY_REFUSED {
            DaemonClientError::MemoryRefused(said)
        } else {
            DaemonClientError::Refused(said)
        })
    }
}

/// A capture as a query: names and numbers need no escapes.
fn query(request: &CaptureRequest) -> String {
    let mut parts = Vec::new();
    for (key, port) in [
        ("port", &request.port),
        ("from", &request.from),
        ("to", &request.to),
    ] {
        parts.extend(port.as_ref().map(|port| format!("{key}={port}")));
    }
    parts.extend(request.for_ms.map(|ms| format!("for_ms={ms}")));
    parts.join("&")
}

/// The host part is not used: requests go to the Unix socket.
fn url(path: &str) -> String {
    format!("http://daemon/{path}")
}

//! A scenario as its file says it, with every word understood: plain data.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::expectations::Expectation;
pub use super::faults::Capability;
pub use super::injection::Fault;
pub use super::load::automatic::Automatic;
pub use super::load::good::{Asked, Good};
pub use super::load::schedule::{Arrival, Stage};
use super::matrix::{Cell, Matrix};
pub use super::nodes_meant::NodesMeant;
pub use super::pod_target::{Count, PodsMeant};
pub use super::pods::{Exec, Which};
pub use super::random::{Choice, Draw};
use super::steps::StepAction;
use crate::kubernetes::manifest::NotApplied;
use crate::model::cluster::ClusterSpec;
use crate::model::diagnostic::Diagnostic;
use crate::model::link::Links;
use crate::model::names::NodeName;

/// A whole scenario.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The file's stem, `[a-z0-9-]+`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// What the target must be able to do.
    pub needs: Vec<Capability>,
    /// The runs it asks for; one if it does not say.
    pub matrix: Option<Matrix>,
    /// The cluster it asks for, if it says.
    pub cluster: Option<ClusterSpec>,
    /// What is deployed first.
    pub deploy: Deploy,
    /// The loads, by name.
    pub loads: BTreeMap<String, Load>,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What must hold at the end, in the order of the file.
    pub expectations: Vec<Row>,
    /// The file's text as it is run: kept beside the report.
    pub text: String,
    /// What `lint` warns of.
    pub warnings: Vec<Diagnostic>,
    /// What the manifests set without effect on the target.
    pub not_applied: Vec<NotApplied>,
    /// What nothing is expected of: `lint` warns of it, and a run is INVALID.
    pub cannot_fail: Vec<Diagnostic>,
    /// What is right for a cluster that is not ours alone: a run on one of ours is INVALID.
    pub foreign_only: Vec<Diagnostic>,
}

impl Scenario {
    /// Its runs; `seed` is that of the only one, or decides which ones a sample is made of.
    #[must_use]
    pub fn cells(&self, seed: u64) -> Vec<Cell> {
        self.matrix
            .as_ref()
            .map_or_else(|| vec![Cell::only(seed)], |matrix| matrix.cells(seed))
    }
}

/// `[deploy]`: manifests, and how long they may take to be ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deploy {
    /// Manifest files in the order in which they are applied, already resolved against the scenario's folder.
    pub files: Vec<PathBuf>,
    /// A TLS Secret that is generated for this run and created before the files.
    pub tls_secret: Option<TlsSecret>,
    /// Bounds readiness: every ReplicationController has its replicas ready and every Service used by a load has an endpoint.
    pub wait: Duration,
}

/// A Secret with a fresh self-signed P-256 certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSecret {
    /// The Secret's name.
    pub name: String,
    /// Its key that holds the certificate as PEM.
    pub crt: String,
    /// Its key that holds the private key as PEM.
    pub key: String,
    /// The certificate's DNS name.
    pub host: String,
}

/// `[load.NAME]`: open-loop HTTP load.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// What is asked for.
    pub url: Url,
    /// Requests a second of each stream; the most that may be asked for while an automatic one is not found, and the least of all
    /// stages, so that whatever is reckoned by it is never finer than what was asked.
    pub rate: f64,
    /// Rates one after another, if there are several.
    pub stages: Vec<Stage>,
    /// How requests follow each other.
    pub arrival: Arrival,
    /// How the rate is found before the baseline, if the file leaves it to the host.
    pub automatic: Option<Automatic>,
    /// The streams, each with a schedule of its own.
    pub streams: Vec<StreamKind>,
    /// What is spoken.
    pub http: HttpVersion,
    /// What is dialled for the URL, of a cluster that is not ours.
    pub via: Option<SocketAddr>,
    /// Total, from the intended send time.
    pub deadline: Duration,
    /// What is asked beside the URL.
    pub asked: Asked,
    /// Which answer is good.
    pub good: Good,
    /// The header that carries the version, if versions are counted.
    pub version_header: Option<String>,
    /// The header that names the pod that answered.
    pub endpoint_header: Option<String>,
    /// What must be reached before anything is broken.
    pub baseline: Baseline,
}

impl Load {
    /// Its rates one after another.
    #[must_use]
    pub fn rates(&self) -> Vec<Stage> {
        if self.stages.is_empty() {
            let lasts = Duration::ZERO;
            return vec![Stage {
                rate: self.rate,
                lasts,
            }];
        }
        self.stages.clone()
    }

    /// The highest of its rates.
    #[must_use]
    pub fn highest_rate(&self) -> f64 {
        let rates = self.stages.iter().map(|stage| stage.rate);
        rates.fold(self.rate, f64::max)
    }
}

/// What a load speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    One,
    /// HTTP/2: agreed on by ALPN over TLS, else with prior knowledge.
    Two,
}

/// How a stream connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamKind {
    /// A new TCP connection and a full TLS handshake a request (session resumption is off).
    New,
    /// An idle connection is taken, else a new one opened; one that failed is closed.
    Reused,
}

impl StreamKind {
    /// Its name in files and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Reused => "reused",
        }
    }
}

/// A URL whose host is a Service's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The Service's name.
    pub host: String,
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's port.
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Url {
    /// The Service as `namespace/name`, as [`super::fault::DialService`] wants it.
    #[must_use]
    pub fn service(&self) -> String {
        format!("{}/{}", self.namespace, self.host)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let usual = if self.tls { 443 } else { 80 };
        write!(f, "{scheme}://{}", self.host)?;
        if self.namespace != "default" {
            write!(f, ".{}", self.namespace)?;
        }
        if self.port != usual {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}

/// What the load must look like for `window` on end, before the first step.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// How long.
    pub window: Duration,
    /// At least this share of good answers, 0 to 1.
    pub good: f64,
    /// The 99th percentile of latency is at most this.
    pub p99: Option<Duration>,
    /// How long it may take until a window is like that.
    pub within: Duration,
}

/// One `[[step]]`.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its id.
    pub id: String,
    /// When it starts, if not when the step before has ended.
    pub when: Option<When>,
    /// What it does.
    pub action: Action,
    /// What its fault is drawn from, if the seed decides.
    pub drawn: Option<Draw>,
}

/// `when = { step = "…", … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    /// An earlier step's id.
    pub step: String,
    /// What of it is waited for.
    pub progress: Progress,
}

/// How far another step must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So long after its start; a fault starts at its measured onset.
    Plus(Duration),
    /// It has replaced so many pods.
    Replaced(u32),
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Action {
    /// Breaks something for a time; the step ends when it is healed.
    Fault {
        /// What breaks.
        fault: Fault,
        /// Where.
        target: Target,
        /// For how long; zero: once.
        duration: Duration,
    },
    /// Waits for progress.
    Wait {
        /// For what.
        condition: Condition,
        /// At most so long.
        within: Duration,
    },
    /// Replaces a ReplicationController by another, by kubectl's old algorithm.
    RollingUpdate {
        /// The old one's name.
        from: String,
        /// Manifest of the new one.
        to: PathBuf,
        /// Pause between the pods.
        update_period: Duration,
        /// How long it may take altogether.
        within: Duration,
        /// How it has to end.
        ends: UpdateEnd,
    },
    /// Takes back a rolling update that stopped.
    Rollback {
        /// The ReplicationController that was to be replaced.
        old: String,
        /// The one that was to replace it.
        new: String,
        /// How long it may take.
        within: Duration,
    },
    /// Deletes one pod of a ReplicationController.
    DeletePod {
        /// The ReplicationController.
        rc: String,
        /// Its time to stop; none kills it.
        grace: Duration,
    },
    /// Runs a command in pods.
    Exec(Exec),
    /// Applies a manifest.
    Apply(PathBuf),
    /// Asks until the answer is right.
    Http {
        /// What is asked for.
        url: Url,
        /// The right status.
        status: u16,
        /// At most so long.
        within: Duration,
    },
    /// Starts the later steps of these ids, and ends when all of them have ended.
    Parallel(Vec<String>),
    /// Whatever [`super::steps::STEPS`] lists.
    Other(Arc<dyn StepAction>),
}

/// How a rolling update has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateEnd {
    /// Everything is replaced.
    Done,
    /// It stops without progress, the old pods still there.
    Stopped,
}

/// Where a fault strikes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The machine of this name.
    Node(NodeName),
    /// The worker that runs most of the pods behind this Service, or of this ReplicationController; ties are decided by the seed.
    NodeRunningMostOf(String),
    /// Links.
    Links(Links),
    /// So many of these machines; the seed decides which.
    Nodes {
        /// Of which.
        meant: NodesMeant,
        /// How many.
        count: Count,
    },
    /// So many of these pods that run; the seed decides which.
    Pods {
        /// Of which.
        meant: PodsMeant,
        /// How many.
        count: Count,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "{name}"),
            Self::NodeRunningMostOf(name) => write!(f, "the node running most of `{name}`"),
            Self::Links(links) => links.fmt(f),
            Self::Nodes { meant, count } => write!(f, "{count} {meant}"),
            Self::Pods { meant, count } => write!(f, "{count} {meant}"),
        }
    }
}

/// What a `wait` step waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// A ReplicationController has at least so many ready replicas.
    ReplicasReady {
        /// Its name.
        rc: String,
        /// How many.
        count: u32,
        /// Only pods on other nodes than this fault step's target count.
        avoiding: Option<String>,
    },
    /// So many Nodes, exactly, are Ready.
    NodesReady(u32),
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReplicasReady {
                rc,
                count,
                avoiding: None,
            } => write!(f, "{count} ready replicas of `{rc}`"),
            Self::ReplicasReady {
                rc,
                count,
                avoiding: Some(step),
            } => {
                write!(
                    f,
                    "{count} ready replicas of `{rc}` away from where `{step}` struck"
                )
            }
            Self::NodesReady(count) => write!(f, "{count} ready nodes"),
        }
    }
}

/// One entry of `[expect]`, which becomes one row of the report.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its key as written, for instance `web.new.longest_outage`.
    pub name: String,
    /// Its value as written.
    pub expected: String,
    /// The load that it is about.
    pub load: Option<String>,
    /// What is checked.
    pub check: Arc<dyn Expectation>,
}

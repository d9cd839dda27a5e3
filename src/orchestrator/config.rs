//! Configuration of the three roles of an orchestrator node, written by `cluster::install` as TOML under `/etc/flightcage`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::image_policy::ImagePolicy;

/// PEM files of one identity. The key file has mode 0600.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityFiles {
    /// The cluster's certificate authority.
    pub ca: PathBuf,
    /// This role's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `flightcage server --config /etc/flightcage/server.toml`: the control plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Where the API is served.
    pub listen: SocketAddr,
    /// The address at which nodes and pods reach it: the endpoint of Service `default/kubernetes`.
    #[serde(default = "first_node")]
    pub address: Ipv4Addr,
    /// The store lives here.
    pub data_dir: PathBuf,
    /// Server certificate; clients must present one of the same authority.
    pub identity: IdentityFiles,
    /// File of 32 random bytes that encrypts Secrets at rest.
    pub secrets_key: PathBuf,
    /// With more than so many per cent of the workers silent, nothing is evicted (the zone brake, `control::Brake`).
    #[serde(default = "eviction_brake_percent")]
    pub eviction_brake_percent: u8,
    /// Labels with Kubernetes' own prefixes that a node may set though NodeRestriction forbids it, by node: those of the cluster's file,
    /// and the role of the node that runs this server.
    #[serde(default)]
    pub granted_labels: BTreeMap<String, BTreeSet<String>>,
    /// Whether objects are taken that ask for protection which nobody here enforces (`api::honoured`).
    #[serde(default)]
    pub accept_unenforced: bool,
    /// Whether a client without a certificate may show the token of a ServiceAccount instead, and pods get one.
    #[serde(default)]
    pub tokens: bool,
    /// Which images may run (`api::images`).
    #[serde(default, skip_serializing_if = "ImagePolicy::is_empty")]
    pub images: ImagePolicy,
}

/// Half of the workers: the larger part of a parted network is never replaced.
#[must_use]
pub fn eviction_brake_percent() -> u8 {
    50
}

fn first_node() -> Ipv4Addr {
    crate::model::addresses::node_address(0)
}

/// `flightcage agent --config /etc/flightcage/agent.toml`: the node agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// This node's name.
    pub node: String,
    /// This node's address on the fabric.
    pub address: Ipv4Addr,
    /// The API server's URL, by address, for instance `https://10.77.0.11:6443`.
    pub server: String,
    /// The registry mirror's URL, for instance `https://10.77.0.1:5000`.
    pub registry: String,
    /// Certificate `system:node:<name>` of `system:nodes`.
    pub identity: IdentityFiles,
    /// This node's pod network, for instance `10.78.1.0/24`.
    pub pod_network: String,
    /// The other nodes' pod networks and the node address each is behind.
    pub routes: BTreeMap<String, Ipv4Addr>,
    /// Images, containers and logs live here, on a file system that overlayfs accepts.
    pub data_dir: PathBuf,
    /// Labels of the Node object.
    pub labels: BTreeMap<String, String>,
    /// Taints of the Node object, `key=value:Effect`.
    pub taints: Vec<String>,
}

/// `flightcage proxy --config /etc/flightcage/proxy.toml`: service proxy and cluster DNS of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// This node's name.
    pub node: String,
    /// The API server's URL.
    pub server: String,
    /// Certificate `system:kube-proxy:<node>` of `system:kube-proxies`.
    pub identity: IdentityFiles,
}

//! An API server in the test's own process, with certificates as a cluster has them.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod node;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use flightcage::orchestrator::api;
use flightcage::orchestrator::config::{IdentityFiles, ServerConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

pub(crate) fn authority() -> Authority {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "test");
    let pem = params.self_signed(&key).expect("signed").pem();
    Authority {
        issuer: Issuer::new(params, key),
        pem,
    }
}

impl Authority {
    pub(crate) fn issue(&self, user: &str, group: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, group);
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        (
            params.signed_by(&key, &self.issuer).expect("signed").pem(),
            key.serialize_pem(),
        )
    }

    pub(crate) fn client(&self, identity: Option<(String, String)>) -> reqwest::Client {
        let roots = reqwest::Certificate::from_pem_bundle(self.pem.as_bytes()).expect("PEM");
        let mut builder = reqwest::Client::builder().no_proxy().tls_certs_only(roots);
        if let Some((certificate, key)) = identity {
            let pem = format!("{certificate}\n{key}");
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).expect("PEM"));
        }
        builder.build().expect("a client")
    }
}

pub(crate) struct Running {
    pub(crate) url: String,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), api::ServerError>>,
}

impl Running {
    pub(crate) async fn start(directory: &Path) -> Self {
        Self::start_as(directory, |config| config).await
    }

    /// One that takes tokens in place of certificates.
    pub(crate) async fn taking_tokens(directory: &Path) -> Self {
        let taking = |config: ServerConfig| ServerConfig {
            tokens: true,
            ..config
        };
        Self::start_as(directory, taking).await
    }

    async fn start_as(
        directory: &Path,
        changed: impl FnOnce(ServerConfig) -> ServerConfig,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let listen = listener.local_addr().expect("an address");
        let config = ServerConfig {
            listen,
            address: std::net::Ipv4Addr::LOCALHOST,
            data_dir: directory.join("data"),
            identity: IdentityFiles {
                ca: directory.join("ca.pem"),
                certificate: directory.join("server.pem"),
                key: directory.join("server.key"),
            },
            secrets_key: directory.join("secrets.key"),
            eviction_brake_percent: 55,
            accept_unenforced: false,
            tokens: false,
            images: flightcage::model::image_policy::ImagePolicy::default(),
            granted_labels: std::collections::BTreeMap::new(),
        };
        let cancel = CancellationToken::new();
        let task = tokio::spawn(api::serve(changed(config), listener, cancel.clone()));
        Self {
            url: format!("https://{listen}"),
            cancel,
            task,
        }
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.expect("no panic").expect("no error");
    }
}

/// What the server reads at its start.
pub(crate) fn install(authority: &Authority, directory: &Path) {
    let (certificate, key) = authority.issue("kube-apiserver", "kubernetes");
    let files = [
        ("ca.pem", authority.pem.clone()),
        ("server.pem", certificate),
        ("server.key", key),
        ("secrets.key", "k".repeat(32)),
    ];
    for (name, text) in files {
        std::fs::write(directory.join(name), text).expect("written");
    }
}

/// Writes `kubeconfig`, with which a client is an administrator.
pub(crate) fn kubeconfig(authority: &Authority, directory: &Path, url: &str) {
    let (admin, admin_key) = authority.issue("admin", "system:masters");
    std::fs::write(directory.join("admin.pem"), admin).expect("written");
    std::fs::write(directory.join("admin.key"), admin_key).expect("written");
    let at = |name: &str| directory.join(name).display().to_string();
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": url, "certificate-authority": at("ca.pem")}}],
        "users": [{"name": "it", "user": {"client-certificate": at("admin.pem"), "client-key": at("admin.key")}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    std::fs::write(directory.join("kubeconfig"), kubeconfig.to_string()).expect("written");
}

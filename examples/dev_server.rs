//! A control plane on loopback, for work on the parts that talk to it: `cargo run --example dev_server -- DIR [ADDRESS [NODE…]]`.
//!
//! DIR gets `ca.pem`, certificate and key of `server`, `admin`, and for each node (default: w1 w2) `node-NAME` and `proxy-NAME`, and a
//! `kubeconfig` with the admin's. They stay when the server is started again; so does the store.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use flightcage::orchestrator::api;
use flightcage::orchestrator::config::{IdentityFiles, ServerConfig, eviction_brake_percent};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType,
};

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| "a TLS provider is installed already")?;
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(
        arguments
            .next()
            .ok_or("usage: dev_server DIR [ADDRESS [NODE…]]")?,
    );
    let listen: SocketAddr = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:16443".to_owned())
        .parse()?;
    let mut nodes: Vec<String> = arguments.collect();
    if nodes.is_empty() {
        nodes = vec!["w1".to_owned(), "w2".to_owned()];
    }
    std::fs::create_dir_all(&directory)?;
    if !directory.join("ca.pem").exists() {
        certificates(&directory, listen, &nodes)?;
    }
    let identity = IdentityFiles {
        ca: directory.join("ca.pem"),
        certificate: directory.join("server.pem"),
        key: directory.join("server.key"),
    };
    api::run(ServerConfig {
        listen,
        address: Ipv4Addr::LOCALHOST,
        data_dir: directory.join("data"),
        identity,
        secrets_key: directory.join("secrets.key"),
        eviction_brake_percent: eviction_brake_percent(),
        granted_labels: BTreeMap::new(),
        accept_unenforced: false,
        tokens: false,
        images: flightcage::model::image_policy::ImagePolicy::default(),
    })
    .await?;
    Ok(())
}

fn certificates(directory: &Path, listen: SocketAddr, nodes: &[String]) -> Result<(), Failure> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "flightcage-dev");
    let authority = params.self_signed(&key)?;
    let issuer = Issuer::new(params, key);
    let mut identities = BTreeMap::from([
        (
            "server".to_owned(),
            ("kube-apiserver".to_owned(), "kubernetes"),
        ),
        ("admin".to_owned(), ("admin".to_owned(), "system:masters")),
    ]);
    for node in nodes {
        identities.insert(
            format!("node-{node}"),
            (format!("system:node:{node}"), "system:nodes"),
        );
        identities.insert(
            format!("proxy-{node}"),
            (format!("system:kube-proxy:{node}"), "system:kube-proxies"),
        );
    }
    for (file, (user, group)) in &identities {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params
            .distinguished_name
            .push(DnType::OrganizationName, *group);
        if file == "server" {
            params.subject_alt_names = vec![
                SanType::IpAddress(listen.ip()),
                SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            ];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        } else {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        let certificate = params.signed_by(&key, &issuer)?;
        std::fs::write(directory.join(format!("{file}.pem")), certificate.pem())?;
        write_secret(
            &directory.join(format!("{file}.key")),
            key.serialize_pem().as_bytes(),
        )?;
    }
    write_secret(
        &directory.join("secrets.key"),
        &[
            uuid::Uuid::new_v4().into_bytes(),
            uuid::Uuid::new_v4().into_bytes(),
        ]
        .concat(),
    )?;
    write_secret(
        &directory.join("kubeconfig"),
        kubeconfig(&std::path::absolute(directory)?, listen).as_bytes(),
    )?;
    // Last, since its presence says that all is there.
    std::fs::write(directory.join("ca.pem"), authority.pem())?;
    Ok(())
}

fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    Ok(())
}

fn kubeconfig(directory: &Path, listen: SocketAddr) -> String {
    let directory = directory.display();
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: dev
  cluster: {{server: \"https://{listen}\", certificate-authority: \"{directory}/ca.pem\"}}
users:
- name: admin
  user: {{client-certificate: \"{directory}/admin.pem\", client-key: \"{directory}/admin.key\"}}
contexts:
- name: dev
  context: {{cluster: dev, user: admin}}
current-context: dev
"
    )
}

//! A cluster's certificate authority and the identities it signs. Keys are P-256: cheap under TCG (design.md, "Defaults").
//!
//! | file | subject | for |
//! |---|---|---|
//! | `server` | `kube-apiserver` | the API server |
//! | `registry` | `flightcage-registry` | the registry mirror |
//! | `admin` | `flightcage-admin`, `system:masters` | kubeconfig |
//! | `daemon` | `system:flightcage:load-balancer`, `system:flightcage:load-balancers` | the host's load balancer |
//! | `node-<n>` | `system:node:<n>`, `system:nodes` | the agent of node n: a client of the API server, and answers other agents |
//! | `proxy-<n>` | `system:kube-proxy:<n>`, `system:kube-proxies` | the service proxy of node n |

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::home::write_private;
use crate::kubernetes::client::ClientConfig;
use crate::model::addresses;
use crate::model::cluster::ClusterSpec;

/// Machines' clocks may run a little behind the host's.
const BACKDATE: Duration = Duration::from_hours(24);
/// A cluster does not outlive its certificates.
const LIFETIME: Duration = Duration::from_hours(3650 * 24);

/// Why certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A certificate could not be made.
    #[error("make the certificate `{name}`")]
    Make {
        /// Which one.
        name: String,
        /// The cause.
        #[source]
        source: rcgen::Error,
    },
    /// A file could not be read or written.
    #[error("write or read `{path}`")]
    File {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Makes every identity that `spec` needs and does not have yet. Existing ones are kept: an identity never changes.
///
/// # Errors
/// When a certificate cannot be made or a file cannot be written.
pub fn ensure(directory: &Path, spec: &ClusterSpec) -> Result<(), PkiError> {
    let authority = Authority::ensure(directory)?;
    let api_addresses = [
        spec.address(0),
        Ipv4Addr::LOCALHOST,
        addresses::KUBERNETES_SERVICE,
    ];
    let api_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
    ];
    authority.server("server", "kube-apiserver", &api_addresses, &api_names)?;
    authority.server(
        "registry",
        "flightcage-registry",
        &[addresses::GATEWAY, Ipv4Addr::LOCALHOST],
        &[],
    )?;
    authority.client("admin", "flightcage-admin", "system:masters")?;
    authority.client(
        "daemon",
        "system:flightcage:load-balancer",
        "system:flightcage:load-balancers",
    )?;
    for (index, machine) in spec.machines.iter().enumerate() {
        let node = &machine.name;
        authority.node(
            &format!("node-{node}"),
            &format!("system:node:{node}"),
            spec.address(index),
        )?;
        authority.client(
            &format!("proxy-{node}"),
            &format!("system:kube-proxy:{node}"),
            "system:kube-proxies",
        )?;
    }
    let secrets_key = directory.join("secrets.key");
    if !secrets_key.exists() {
        let key: [u8; 32] = rand::random();
        write(&secrets_key, &key)?;
    }
    Ok(())
}

/// A file of the PKI directory: `ca.crt`, `admin.key`, ….
///
/// # Errors
/// When it cannot be read.
pub fn read(directory: &Path, file: &str) -> Result<String, PkiError> {
    let path = directory.join(file);
    fs::read_to_string(&path).map_err(|source| PkiError::File { path, source })
}

/// How `identity` reaches the API server at `server`.
///
/// # Errors
/// When the identity's files cannot be read.
pub fn client_config(
    directory: &Path,
    identity: &str,
    server: String,
) -> Result<ClientConfig, PkiError> {
    Ok(ClientConfig {
        server,
        ca_pem: read(directory, "ca.crt")?,
        certificate_pem: read(directory, &format!("{identity}.crt"))?,
        key_pem: read(directory, &format!("{identity}.key"))?,
        token: None,
        namespace: "default".into(),
    })
}

struct Authority<'a> {
    directory: &'a Path,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn ensure(directory: &'a Path) -> Result<Self, PkiError> {
        let fail = |source| PkiError::Make {
            name: "ca".into(),
            source,
        };
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !certificate.exists() {
            let pair = KeyPair::generate().map_err(fail)?;
            let mut params = parameters("flightcage", None);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let signed = params.self_signed(&pair).map_err(fail)?;
            write(&key, pair.serialize_pem().as_bytes())?;
            write(&certificate, signed.pem().as_bytes())?;
        }
        let pair = KeyPair::from_pem(&read(directory, "ca.key")?).map_err(fail)?;
        let issuer = Issuer::from_ca_cert_pem(&read(directory, "ca.crt")?, pair).map_err(fail)?;
        Ok(Self { directory, issuer })
    }

    fn server(
        &self,
        file: &str,
        common_name: &str,
        addresses: &[Ipv4Addr],
        names: &[&str],
    ) -> Result<(), PkiError> {
        let mut params = parameters(common_name, None);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = addresses
            .iter()
            .map(|&address| SanType::IpAddress(IpAddr::V4(address)))
            .collect();
        for name in names {
            let name = (*name)
                .try_into()
                .expect("the API server's names are ASCII");
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        self.sign(file, params)
    }

    fn client(&self, file: &str, common_name: &str, organisation: &str) -> Result<(), PkiError> {
        let mut params = parameters(common_name, Some(organisation));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(file, params)
    }

    /// An agent is a client of the API server and answers other agents.
    fn node(&self, file: &str, common_name: &str, address: Ipv4Addr) -> Result<(), PkiError> {
        let mut params = parameters(common_name, Some("system:nodes"));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(address))];
        self.sign(file, params)
    }

    fn sign(&self, file: &str, mut params: CertificateParams) -> Result<(), PkiError> {
        let fail = |source| PkiError::Make {
            name: file.to_owned(),
            source,
        };
        let (certificate, key) = (
            self.directory.join(format!("{file}.crt")),
            self.directory.join(format!("{file}.key")),
        );
        if certificate.exists() {
            return Ok(());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let pair = KeyPair::generate().map_err(fail)?;
        let signed = params.signed_by(&pair, &self.issuer).map_err(fail)?;
        write(&key, pair.serialize_pem().as_bytes())?;
        write(&certificate, signed.pem().as_bytes())
    }
}

fn parameters(common_name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        subject.push(DnType::OrganizationName, organisation);
    }
    params.distinguished_name = subject;
    let now = std::time::SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LIFETIME).into();
    params
}

fn write(path: &Path, contents: &[u8]) -> Result<(), PkiError> {
    write_private(path, contents).map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })
}

/// TLS of a server that demands a client certificate of this cluster's authority.
///
/// # Errors
/// When the identity's files cannot be read or are not a key pair.
pub fn server_tls(directory: &Path, identity: &str) -> Result<Arc<rustls::ServerConfig>, PkiError> {
    let unusable = |what: String| PkiError::File {
        path: directory.join(identity),
        source: io::Error::other(what),
    };
    let certificates = |file: &str| -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let pem = read(directory, file)?;
        CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(error.to_string()))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates("ca.crt")? {
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    let key =
        PrivateKeyDer::from_pem_slice(read(directory, &format!("{identity}.key"))?.as_bytes())
            .map_err(|error| unusable(error.to_string()))?;
    let clients = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots))
        .build()
        .map_err(|error| unusable(error.to_string()))?;
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&format!("{identity}.crt"))?, key)
        .map_err(|error| unusable(error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
